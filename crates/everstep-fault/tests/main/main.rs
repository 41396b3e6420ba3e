//! Runs that meet faults, against the run without the fault.
#![allow(clippy::unwrap_used)] // The helpers beside the tests are tests too.

mod decide;
mod guard;
mod ring;
