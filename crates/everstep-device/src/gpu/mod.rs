//! GPUs through wgpu: Vulkan, Metal and DX12. The only place that says `wgpu`.

mod adapters;
mod cache;
mod cooperative;
mod driver;
mod executor;
mod kept;
mod pipelines;
mod presence;
mod read;
mod timestamps;

pub(crate) use adapters::{Identity, adapters, open, open_isolated};
pub(crate) use driver::Driver;
pub(crate) use executor::GpuExecutor;
pub(crate) use presence::may_exist;
pub(crate) use read::PendingRead;
