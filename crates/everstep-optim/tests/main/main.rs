//! A step is a transaction: what every optimizer keeps to, on the CPU and on a GPU.
#![allow(clippy::unwrap_used)] // The helpers beside the tests are tests too.

mod buffers;
mod common;
mod detection;
mod determinism;
mod device_loss;
mod errors;
mod groups;
mod hold;
mod loss_scale;
mod parameters;
mod plateau;
mod recompute;
mod records;
mod refusal;
mod schedule;
mod settings;
mod snapshots;
