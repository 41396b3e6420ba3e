//! The fault layer: a run that meets a fault goes on by itself, and says what happened.
//!
//! A [`Guard`] owns the optimizer and pulls the batches. The device refuses a faulty step and every later one, so that the
//! state before it stays in place; when the host learns of it, [`decide`], a pure function, says what to do, and the guard
//! does it: run the step again, leave its batch out, go back to a snapshot, lower the learning rate, or stop with a report.

mod attempt;
mod batches;
mod captures;
pub mod chaos;
pub mod checkpoint;
mod curve;
mod decide;
mod diagnosis;
mod durable;
mod error;
mod event;
mod examine;
mod guard;
mod html;
mod incident;
mod layout;
mod log;
mod mirror;
mod outlive;
mod pace;
mod page;
mod policy;
mod postmortem;
mod recover;
mod resume;
mod ring;
mod shutdown;
mod state;
mod supervise;
mod transfer;
mod trend;
mod usual;
mod watch;
mod watchdog;

pub use batches::{Batches, Place};
pub use decide::{Action, Budget, History, Tally, decide};
pub use diagnosis::{Cause, Diagnosis, Origin};
pub use durable::{Checkpointing, Resumed};
pub use error::{Error, Result};
pub use event::{Event, Report};
pub use guard::Guard;
pub use log::Point;
pub use policy::{Answer, Policy};
pub use postmortem::{ParameterSummary, PostMortem, Recorded, Told};
pub use ring::Ring;
pub use shutdown::{EXIT_AT_ONCE, EXIT_STOPPED, Shutdown, run};
pub use supervise::{EXIT_GAVE_UP, Supervision, restarts, supervise};
pub use transfer::load_weights;
pub use trend::{Slow, SlowFaults, Trend};
pub use watchdog::{Phase, Stall, WatchdogConfig};
