//! Checkpoints: what comes back, whatever fails on the way.
#![allow(clippy::unwrap_used)] // The helpers beside the tests are tests too.

mod damage;
mod faults;
mod helpers;
mod lock;
mod mutations;
mod numbers;
mod retention;
mod round_trip;
mod space;
