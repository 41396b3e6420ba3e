//! Uniforms: a Rust struct and its WGSL twin, whose fields a test compares by name and position.

/// A field of a uniform: its name and its byte offset.
pub type Field = (&'static str, usize);

/// Declares the Rust side of a shader's `Params`: plain words, `words()` to upload, `FIELDS` to compare.
macro_rules! params {
    ($(#[$doc:meta])* pub struct $name:ident { $($field:ident: $type:ty),+ $(,)? }) => {
        $(#[$doc])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Default, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
        #[expect(missing_docs, reason = "named and documented in the shader")]
        pub struct $name { $(pub $field: $type),+ }

        impl $name {
            /// Names and byte offsets of the fields.
            pub const FIELDS: &'static [$crate::params::Field] =
                &[$((stringify!($field), std::mem::offset_of!($name, $field))),+];

            /// The words of the uniform.
            pub fn words(&self) -> Vec<u32> {
                bytemuck::cast_slice(std::slice::from_ref(self)).to_vec()
            }
        }
    };
}

pub(crate) use params;
