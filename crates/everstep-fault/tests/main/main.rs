//! Runs that meet faults, against the run without the fault.
#![allow(clippy::unwrap_used)] // The helpers beside the tests are tests too.

#[path = "../../examples/campaigns/attribution.rs"]
mod attribution;
mod campaigns;
mod captured;
mod chaos;
#[path = "../../examples/campaigns/confusion.rs"]
mod confusion;
mod decide;
mod false_alarms;
mod guard;
#[path = "../../examples/campaigns/injections.rs"]
mod injections;
#[path = "../../examples/campaigns/net.rs"]
mod net;
mod post_mortem;
mod read_backs;
mod ring;
mod slow_faults;
mod trend;
