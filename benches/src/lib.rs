//! What the benches share: the workloads, their models, and how time and memory are taken.

pub mod allocations;
pub mod measure;
pub mod models;
pub mod overhead;
pub mod roofline;
pub mod workloads;
