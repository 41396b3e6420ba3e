//! What a value is: tensors, the ops on them, the autograd tape, counter-based random numbers, and the state arena in
//! which everything that training changes lies.

mod arena;
mod autocast;
mod autograd;
mod buffer;
mod create;
mod detection;
mod display;
mod error;
mod mirror;
mod op;
pub mod ops;
mod parameter;
mod probe;
mod raw;
mod recompute;
mod state;
mod step;
mod structure;
mod tensor;
mod window;

pub use arena::Arena;
pub use autocast::{Autocast, Precision, autocast};
pub use autograd::{GradientOptions, gradients, is_recording, no_grad};
pub use buffer::RunningBuffer;
pub use detection::Detection;
pub use error::{Error, Result};
pub use everstep_device::control::{self, Record, Verdict, fault};
pub use everstep_device::functions::Activation;
pub use everstep_device::{DType, Device, Element, Generator, Shape, bf16, f16};
pub use mirror::{Download, HostSnapshot};
pub use op::{Inferred, Op, Saved, apply, record_kernel};
pub use ops::attention::AttentionOptions;
pub use ops::cross_entropy_with::{CrossEntropyOptions, RowReduction};
pub use parameter::{Draw, Parameter, RandomStream};
pub use probe::{Phase, Probe, Seen, with_probe};
pub use recompute::recompute;
pub use state::{Snapshot, State, Visit, buffer_sizes};
pub use step::{LossScale, StepGate, StepOptions};
pub use structure::{structure_changed, structure_version};
pub use tensor::{Tensor, TensorRead};
pub use window::{ConvOptions, Pair, PoolOptions};
