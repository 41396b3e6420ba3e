//! Element types.

use std::fmt;
use std::sync::Arc;

use half::{bf16, f16};

/// The type of a tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum DType {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16: storage only, arithmetic is f32.
    F16,
    /// The upper half of an f32: storage only, arithmetic is f32.
    BF16,
    /// 32-bit signed integer.
    I32,
    /// 32-bit unsigned integer.
    U32,
    /// True or false, one 32-bit word each (WGSL has no smaller addressable type).
    Bool,
}

impl DType {
    /// Bytes of one element in memory.
    pub const fn size(self) -> usize {
        match self {
            Self::F16 | Self::BF16 => 2,
            Self::F32 | Self::I32 | Self::U32 | Self::Bool => 4,
        }
    }

    /// Whether gradients flow through this type.
    pub const fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F16 | Self::BF16)
    }

    /// Whether it is half a word: a storage type, which lies packed in memory and is computed with as f32.
    pub const fn is_half(self) -> bool {
        matches!(self, Self::F16 | Self::BF16)
    }

    /// The name used in messages: `f32`, `bool`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
            Self::I32 => "i32",
            Self::U32 => "u32",
            Self::Bool => "bool",
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A Rust type that is the element of a tensor.
pub trait Element: Copy + fmt::Debug + fmt::Display + Default + PartialEq + Send + Sync + 'static {
    /// The dtype of tensors of this element.
    const DTYPE: DType;

    /// The elements as they lie in device memory, filled up with zeros to whole 32-bit words.
    fn encode(elements: &[Self]) -> Arc<[u8]>;

    /// The elements that lie in device memory as `bytes`.
    fn decode(bytes: &[u8]) -> Vec<Self>;
}

/// Numbers that lie in device memory as they do on the host.
macro_rules! plain_elements {
    ($($type:ty => $dtype:ident;)+) => {
        $(impl Element for $type {
            const DTYPE: DType = DType::$dtype;

            fn encode(elements: &[Self]) -> Arc<[u8]> {
                Arc::from(bytemuck::cast_slice::<Self, u8>(elements))
            }

            fn decode(bytes: &[u8]) -> Vec<Self> {
                bytemuck::allocation::pod_collect_to_vec(bytes)
            }
        })+
    };
}

plain_elements! {
    f32 => F32;
    u32 => U32;
    i32 => I32;
}

/// Halves: two to a word, the first in its lower half.
macro_rules! half_elements {
    ($($type:ty => $dtype:ident;)+) => {
        $(impl Element for $type {
            const DTYPE: DType = DType::$dtype;

            fn encode(elements: &[Self]) -> Arc<[u8]> {
                let bits = |element: &Self| element.to_bits().to_ne_bytes();
                elements.iter().flat_map(bits).chain((0..elements.len() % 2).flat_map(|_| [0; 2])).collect()
            }

            fn decode(bytes: &[u8]) -> Vec<Self> {
                bytes.chunks_exact(2).map(|pair| Self::from_bits(u16::from_ne_bytes([pair[0], pair[1]]))).collect()
            }
        })+
    };
}

half_elements! {
    f16 => F16;
    bf16 => BF16;
}

impl Element for bool {
    const DTYPE: DType = DType::Bool;

    fn encode(elements: &[Self]) -> Arc<[u8]> {
        elements.iter().flat_map(|&element| u32::from(element).to_ne_bytes()).collect()
    }

    fn decode(bytes: &[u8]) -> Vec<Self> {
        bytes.chunks_exact(4).map(|word| word.iter().any(|&byte| byte != 0)).collect()
    }
}
