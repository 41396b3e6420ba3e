//! The error of a program that uses several of Everstep's crates.

/// Result of a program.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Any of Everstep's errors: `?` turns each crate's into it. It prints as its message under `{:?}` too, because that is how
/// a `main` that returns it prints it.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Of a device.
    #[error(transparent)]
    Device(#[from] everstep_device::Error),
    /// Of a tensor.
    #[error(transparent)]
    Tensor(#[from] everstep_tensor::Error),
    /// Of a layer.
    #[error(transparent)]
    Nn(#[from] everstep_nn::Error),
    /// Of an optimizer.
    #[error(transparent)]
    Optim(#[from] everstep_optim::Error),
    /// Of a guarded run.
    #[error(transparent)]
    Fault(#[from] everstep_fault::Error),
    /// Of data.
    #[error(transparent)]
    Data(#[from] everstep_data::Error),
    /// Of metrics.
    #[error(transparent)]
    Train(#[from] everstep_train::Error),
}

impl std::fmt::Debug for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}
