//! What can go wrong on a device.

use crate::{DType, Shape};

/// Result of a device call.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of a device: what happened, where, and what to do about it.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// More dimensions than a tensor can have.
    #[error("a tensor of rank {rank}: the largest rank is {maximum}; merge dimensions with `reshape`")]
    Rank {
        /// The rank asked for.
        rank: usize,
        /// The largest rank.
        maximum: usize,
    },
    /// The element count does not fit an address.
    #[error("shape {dims:?} has more elements than can be addressed")]
    Overflow {
        /// The dimensions asked for.
        dims: Vec<usize>,
    },
    /// Axes that are no permutation.
    #[error("axes {axes:?} are no permutation of the dimensions of shape {shape}: name each of them once")]
    Permutation {
        /// The axes asked for.
        axes: Vec<usize>,
        /// The shape to permute.
        shape: Shape,
    },
    /// A slice outside its dimension.
    #[error("slice {start}..{end} step {step} of axis {axis} does not lie within shape {shape}")]
    Slice {
        /// The dimension sliced.
        axis: usize,
        /// First index.
        start: usize,
        /// One past the last index.
        end: usize,
        /// Distance between indices.
        step: usize,
        /// The shape sliced.
        shape: Shape,
    },
    /// A buffer larger than the device can hold.
    #[error(
        "`{op}` needs a buffer of {bytes} bytes, but {limit_name} of this device is {limit} bytes; use smaller batches or tensors"
    )]
    TooLarge {
        /// The op that asked.
        op: &'static str,
        /// Bytes asked for.
        bytes: usize,
        /// The limit's name.
        limit_name: &'static str,
        /// The limit in bytes.
        limit: usize,
    },
    /// The device has no memory left.
    #[error(
        "out of memory on {device}: {bytes} more bytes with {resident} in use; use smaller batches or free tensors"
    )]
    OutOfMemory {
        /// The device.
        device: String,
        /// Bytes asked for.
        bytes: usize,
        /// Bytes in use by this device's buffers.
        resident: usize,
    },
    /// An operation ran on values that no earlier operation produced, because its recording failed.
    #[error("`{op}` reads a tensor whose computation failed earlier; the first error says why")]
    Unwritten {
        /// The op that read.
        op: &'static str,
    },
    /// An element of the data was outside what the op accepts; found on the device.
    #[error("`{op}` was given {value}, which must be below {bound}; the result is not valid, check the data")]
    OutOfRange {
        /// The op that saw it.
        op: &'static str,
        /// The largest offending value seen.
        value: u32,
        /// Values must be below this.
        bound: u32,
    },
    /// No device of that name.
    #[error(
        "no device `{name}`: {reason}. Use `auto`, `cpu`, `gpu`, or `gpu:<index or part of the adapter's name>`. {found}"
    )]
    NoDevice {
        /// The name asked for.
        name: String,
        /// Why there is none.
        reason: String,
        /// What was found, and what to install where nothing was.
        found: String,
    },
    /// The device stopped working (removed, reset, or destroyed).
    #[error("device {device} was lost: {reason}")]
    DeviceLost {
        /// The device.
        device: String,
        /// What the driver said.
        reason: String,
    },
    /// The driver refused work that this crate built.
    #[error("device {device} refused `{op}`: {reason}; this is a defect of Everstep or of the driver")]
    Driver {
        /// The device.
        device: String,
        /// What was being done.
        op: String,
        /// What the driver said.
        reason: String,
    },
    /// A command that no executor could run.
    #[error("`{op}` recorded a command that cannot run: {reason}")]
    Command {
        /// The op that recorded it.
        op: &'static str,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Host data of the wrong length.
    #[error("{found} elements of {dtype} for shape {shape}, which has {expected}")]
    DataLength {
        /// The element type.
        dtype: DType,
        /// The shape.
        shape: Shape,
        /// Elements the shape has.
        expected: usize,
        /// Elements given.
        found: usize,
    },
}
