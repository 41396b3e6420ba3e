//! GPUs through wgpu: Vulkan, Metal and DX12. The only place that says `wgpu`.

mod adapters;
mod executor;
mod pipelines;
mod read;

pub(crate) use adapters::{adapters, open};
pub(crate) use executor::GpuExecutor;
pub(crate) use read::PendingRead;
