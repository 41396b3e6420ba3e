//! What can go wrong when layers are made.

/// Result of making a layer.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of a layer.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A tensor operation failed.
    #[error(transparent)]
    Tensor(#[from] everstep_tensor::Error),
    /// A setting that makes no layer.
    #[error("{layer}: `{field}` is {value}, it must be {rule}")]
    Setting {
        /// The layer.
        layer: &'static str,
        /// The setting.
        field: &'static str,
        /// Its value.
        value: String,
        /// What it must be.
        rule: &'static str,
    },
}
