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
    /// A pattern over parameter names is none, or matches nothing.
    #[error(transparent)]
    Nn(#[from] everstep_nn::Error),
    /// A parameter group that would have no parameters.
    #[error("every parameter that `{pattern}` matches belongs to an earlier group; name the narrower pattern first")]
    EmptyGroup {
        /// The group's pattern.
        pattern: String,
    },
    /// A metric that came too late for its reduction to begin at its fixed step.
    #[error(
        "the metric of committed step {step} takes effect at step {effect}, but step {next} may be next: observe it \
         earlier, or give the reduction a longer delay"
    )]
    Late {
        /// The committed step that the metric is about.
        step: u64,
        /// Where a reduction would have begun.
        effect: u64,
        /// The step that may be next.
        next: u64,
    },
    /// A metric for an optimizer that watches none.
    #[error("no metric is watched: call `reduce_on_plateau` when the optimizer is made")]
    NoPlateau,
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
