//! What can go wrong with an optimizer.

/// Result of an optimizer's call.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of an optimizer.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A tensor operation failed.
    #[error(transparent)]
    Tensor(#[from] everstep_tensor::Error),
    /// A setting with which no step can be made.
    #[error("{optimizer}: `{field}` is {value}, it must be {rule}")]
    Setting {
        /// The optimizer.
        optimizer: &'static str,
        /// The setting.
        field: &'static str,
        /// Its value.
        value: f64,
        /// What it must be.
        rule: &'static str,
    },
}

impl From<everstep_device::Error> for Error {
    fn from(error: everstep_device::Error) -> Self {
        Self::Tensor(error.into())
    }
}

/// Refuses a setting outside its range.
pub(crate) fn check(
    optimizer: &'static str,
    field: &'static str,
    value: f64,
    valid: bool,
    rule: &'static str,
) -> Result<()> {
    if valid { Ok(()) } else { Err(Error::Setting { optimizer, field, value, rule }) }
}
