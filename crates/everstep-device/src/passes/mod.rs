//! Pure functions over a recording, run at each flush before an executor sees it.

mod coverage;
mod elide;
mod fuse;
mod plan;

pub use elide::elide;
pub use fuse::fuse;
pub use plan::{Allocator, MemoryId, Place, Plan, PlannedCommand, size_class};
