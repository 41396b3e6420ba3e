//! What can go wrong with tensors.

use everstep_device::{DType, Shape};

/// Result of a tensor call.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of a tensor operation: what happened, where, and what to do about it.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The device refused.
    #[error(transparent)]
    Device(#[from] everstep_device::Error),
    /// A part of a state and a snapshot that do not go together.
    #[error("snapshot: part `{part}` {problem}; restore it into what it was taken of")]
    State {
        /// Names, from the outside in, with dots between them.
        part: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Shapes that do not go together.
    #[error("`{op}`: shapes {left} and {right} do not match: {rule}")]
    Shapes {
        /// The op.
        op: &'static str,
        /// The first shape.
        left: Shape,
        /// The second shape.
        right: Shape,
        /// What would match.
        rule: &'static str,
    },
    /// One shape that the op cannot take.
    #[error("`{op}`: shape {shape} cannot be used: {rule}")]
    Shape {
        /// The op.
        op: &'static str,
        /// The shape.
        shape: Shape,
        /// What could be used.
        rule: &'static str,
    },
    /// A dtype that the op cannot take.
    #[error("`{op}` has no implementation for {found:?}; `cast` the inputs first")]
    DTypes {
        /// The op.
        op: &'static str,
        /// Dtypes of the inputs.
        found: Vec<DType>,
    },
    /// A read-back as another type than the tensor's.
    #[error("a tensor of {found} was read as {wanted}; `cast` it first")]
    ReadAs {
        /// The tensor's dtype.
        found: DType,
        /// The type asked for.
        wanted: DType,
    },
    /// Tensors of two devices in one op.
    #[error("`{op}`: inputs live on different devices, {left} and {right}; move one with `to_device`")]
    Devices {
        /// The op.
        op: &'static str,
        /// Device of the first input.
        left: String,
        /// Device of another input.
        right: String,
    },
    /// A dimension that the shape does not have.
    #[error("`{op}`: axis {axis} does not exist in shape {shape}")]
    Axis {
        /// The op.
        op: &'static str,
        /// The axis asked for.
        axis: isize,
        /// The shape.
        shape: Shape,
    },
    /// The same dimension named twice.
    #[error("`{op}`: axis {axis} is named twice")]
    AxisTwice {
        /// The op.
        op: &'static str,
        /// The axis.
        axis: isize,
    },
    /// An extreme of no elements.
    #[error("`{op}` of no elements has no value: shape {shape}")]
    Empty {
        /// The op.
        op: &'static str,
        /// The shape.
        shape: Shape,
    },
    /// A backward pass from a tensor that is not one number.
    #[error(
        "`backward` begins at a scalar, this tensor has shape {shape}; reduce it first, with `mean_all` for instance"
    )]
    NotScalar {
        /// The tensor's shape.
        shape: Shape,
    },
    /// A backward pass from a tensor without history.
    #[error("no gradient can be computed: no parameter led to this tensor, or it was made under `no_grad` or detached")]
    NoTape,
    /// A second backward pass over a tape that the first one freed.
    #[error(
        "the tape behind `{op}` was already walked and freed; run the forward pass again, or ask `gradients` to retain it"
    )]
    TapeFreed {
        /// The op whose record is gone.
        op: &'static str,
    },
    /// A tape that holds a parameter from before an optimizer step.
    #[error(
        "`{op}` used a parameter that an optimizer step has changed since; run the forward pass again after each step"
    )]
    StaleParameter {
        /// The op that used it.
        op: &'static str,
    },
    /// A part of the forward pass that did something else when the backward pass ran it again.
    #[error(
        "`recompute`: {problem} when it ran again; it may depend on its input, parameters, random streams and running buffers alone"
    )]
    Recomputed {
        /// What was different.
        problem: &'static str,
    },
    /// A gradient through an op that has none.
    #[error("`{op}` has no gradient of this order; `detach` its inputs, or compute without it")]
    NotDifferentiable {
        /// The op.
        op: &'static str,
    },
    /// An op of a program's own that was applied to nothing.
    #[error("`{op}` was applied to no tensor; its device and result follow from its inputs")]
    NoInputs {
        /// The op.
        op: &'static str,
    },
    /// An op of a program's own that makes nothing.
    #[error("`{op}` infers no output; the first one is its result")]
    NoOutputs {
        /// The op.
        op: &'static str,
    },
    /// An op of a program's own with the wrong number of gradients.
    #[error("`{op}` gives {found} gradients for {expected} inputs; give `None` where none flows")]
    Gradients {
        /// The op.
        op: &'static str,
        /// Gradients given.
        found: usize,
        /// Inputs.
        expected: usize,
    },
    /// A gradient wanted of a tensor that cannot have one.
    #[error("only floating-point tensors have gradients, this one is {dtype}")]
    NotFloat {
        /// The tensor's dtype.
        dtype: DType,
    },
    /// A parameter or running buffer that another arena owns.
    #[error("parameter or buffer {shape} already belongs to an optimizer; drop that one first")]
    ParameterInUse {
        /// Its shape.
        shape: Shape,
    },
    /// An arena of nothing.
    #[error("there is no parameter to optimize")]
    NoParameters,
    /// A probability outside its range.
    #[error("`{op}`: {name} is {value}, it must lie in {range}")]
    Argument {
        /// The op.
        op: &'static str,
        /// The argument.
        name: &'static str,
        /// Its value.
        value: f64,
        /// What it must lie in.
        range: &'static str,
    },
}
