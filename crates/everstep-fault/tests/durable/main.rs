//! Runs that outlive their process, and go on with the bits of the run that nothing happened to.
#![allow(clippy::unwrap_used)] // The helpers beside the tests are tests too.

#[path = "../../examples/crash_storm/aborting.rs"]
mod aborting;
mod changed;
#[path = "../../examples/crash_storm/flips.rs"]
mod flips;
#[path = "../../examples/crash_storm/kills.rs"]
mod kills;
mod mixed;
#[path = "../../examples/crash_storm/net.rs"]
mod net;
mod resume;
mod run;
mod saving;
#[path = "../../examples/crash_storm/storage_faults.rs"]
mod storage_faults;
mod storm;
mod transfer;

/// How many: as in the example.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent(usize);

impl Extent {
    pub(crate) fn step(self) -> usize {
        self.0
    }
}
