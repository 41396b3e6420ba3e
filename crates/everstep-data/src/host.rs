//! Values, tensors and batches in the host's memory.

use std::ops::Range;

use crate::{Cursor, ElementType, Error, FieldMut, Result};

/// Values of one of the element types.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// 32-bit floating point.
    F32(Vec<f32>),
    /// 32-bit unsigned integers.
    U32(Vec<u32>),
}

impl Values {
    /// `length` zeros, or [`Error::OutOfMemory`].
    pub(crate) fn zeros(element: ElementType, length: usize) -> Result<Self> {
        Ok(match element {
            ElementType::F32 => Self::F32(zeros(length)?),
            ElementType::U32 => Self::U32(zeros(length)?),
        })
    }

    /// The number of values.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::U32(values) => values.len(),
        }
    }

    /// Whether there are no values.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The element type.
    pub fn element(&self) -> ElementType {
        match self {
            Self::F32(_) => ElementType::F32,
            Self::U32(_) => ElementType::U32,
        }
    }

    /// The values' bytes.
    pub(crate) fn to_le_bytes(&self) -> Vec<u8> {
        match self {
            Self::F32(values) => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            Self::U32(values) => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        }
    }

    /// The values, where they are f32.
    pub fn as_f32(&self) -> Option<&[f32]> {
        match self {
            Self::F32(values) => Some(values),
            Self::U32(_) => None,
        }
    }

    /// The values, where they are u32.
    pub fn as_u32(&self) -> Option<&[u32]> {
        match self {
            Self::F32(_) => None,
            Self::U32(values) => Some(values),
        }
    }

    /// Copies the values of `range` into a field of the same type and length.
    pub(crate) fn copy_to(&self, range: Range<usize>, field: FieldMut<'_>) -> Result<()> {
        match self {
            Self::F32(values) => field.f32(range.len())?.copy_from_slice(&values[range]),
            Self::U32(values) => field.u32(range.len())?.copy_from_slice(&values[range]),
        }
        Ok(())
    }

    pub(crate) fn field_mut(&mut self, range: Range<usize>) -> FieldMut<'_> {
        match self {
            Self::F32(values) => FieldMut::F32(&mut values[range]),
            Self::U32(values) => FieldMut::U32(&mut values[range]),
        }
    }
}

impl From<Vec<f32>> for Values {
    fn from(values: Vec<f32>) -> Self {
        Self::F32(values)
    }
}

impl From<Vec<u32>> for Values {
    fn from(values: Vec<u32>) -> Self {
        Self::U32(values)
    }
}

/// `length` zeros, or [`Error::OutOfMemory`].
pub(crate) fn zeros<T: Clone + Default>(length: usize) -> Result<Vec<T>> {
    let mut values = Vec::new();
    values
        .try_reserve_exact(length)
        .map_err(|_| Error::OutOfMemory { what: "a batch", bytes: length.checked_mul(size_of::<T>()) })?;
    values.resize(length, T::default());
    Ok(values)
}

/// A shape and the values that fill it, in C order. The first dimension counts samples.
#[derive(Clone, Debug, PartialEq)]
pub struct HostTensor {
    shape: Vec<usize>,
    values: Values,
}

impl HostTensor {
    /// A tensor of `shape`, filled with `values`.
    ///
    /// # Errors
    /// [`Error::Shape`] where their number does not fit.
    pub fn new(values: impl Into<Values>, shape: &[usize]) -> Result<Self> {
        let values = values.into();
        let length = shape.iter().try_fold(1usize, |length, &dimension| length.checked_mul(dimension));
        if length != Some(values.len()) {
            return Err(Error::Shape { shape: shape.to_vec(), length: values.len() });
        }
        Ok(Self { shape: shape.to_vec(), values })
    }

    /// The shape.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The values in C order.
    pub fn values(&self) -> &Values {
        &self.values
    }

    /// The values, where they are f32.
    pub fn as_f32(&self) -> Option<&[f32]> {
        self.values.as_f32()
    }

    /// The values, where they are u32.
    pub fn as_u32(&self) -> Option<&[u32]> {
        self.values.as_u32()
    }

    /// The values and the shape.
    pub fn into_parts(self) -> (Values, Vec<usize>) {
        (self.values, self.shape)
    }
}

/// A batch in the host's memory.
#[derive(Clone, Debug, PartialEq)]
pub struct HostBatch {
    /// The inputs, `[B, ...]`.
    pub x: HostTensor,
    /// The targets, `[B, ...]`.
    pub y: HostTensor,
    /// The samples' indices in the base dataset, in the batch's order.
    pub ids: Vec<u64>,
    /// The cursor that gives this batch.
    pub before: Cursor,
    /// The cursor of what comes after this batch.
    pub after: Cursor,
}

impl HostBatch {
    /// The number of samples, B.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether the batch has no samples; a loader gives no such batch.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}
