//! The tests of tensors: most of them generated from the table of ops, `ops::ALL`.
#![allow(clippy::unwrap_used, reason = "helpers of tests, which clippy does not count as tests")]

mod autocast;
mod common;
mod display;
mod errors;
mod forward;
mod fuzz;
mod gradients;
mod graph_rules;
mod graphs;
mod halves;
mod indexing;
mod page;
mod pointwise;
mod recompute;
mod special;
mod split;
mod tape;
mod windows;
