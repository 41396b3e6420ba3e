//! What executes: element types and layouts, recordings of work as data, the passes over them, and the executors of
//! Everstep: the native CPU engine, any GPU through wgpu, and a null one for tests.
//!
//! An op appends [`Command`]s to its [`Device`]'s open recording. At a flush (a read-back, a step's end, or a count)
//! the recording is planned and an executor runs it. Nothing above this crate knows which.

mod buffer;
pub mod capture;
pub mod control;
mod counters;
pub mod cpu;
mod device;
mod dtype;
mod error;
mod executor;
pub mod expr;
pub mod functions;
#[cfg(feature = "gpu")]
mod gpu;
mod gpu_tiles;
pub mod layout;
mod life;
mod loss;
mod null;
pub mod params;
pub mod passes;
pub mod philox;
pub mod profile;
mod readback;
mod recording;
mod select;
pub mod status;
mod wgsl;

pub use buffer::{ALIGNMENT, Buffer, BufferId, Region, Slice};
pub use counters::Counters;
pub use device::{Device, DeviceInfo, DeviceKind};
pub use dtype::{DType, Element};
pub use error::{Error, Result};
pub use half::{bf16, f16};
pub use layout::{Layout, MAX_RANK, Shape};
pub use philox::Generator;
pub use readback::Readback;
pub use recording::{Args, Command, Cooperative, Dispatch, GpuTraits, Kernel, Recording, Shader, Work};
pub use select::AdapterInfo;
