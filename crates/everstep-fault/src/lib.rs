//! The fault layer: a run that meets a fault goes on by itself, and says what happened.
//!
//! A [`Guard`] owns the optimizer and pulls the batches. The device refuses a faulty step and every later one, so that the
//! state before it stays in place; when the host learns of it, [`decide`], a pure function, says what to do, and the guard
//! does it: run the step again, leave its batch out, go back to a snapshot, lower the learning rate, or stop with a report.

mod batches;
pub mod chaos;
mod curve;
mod decide;
mod diagnosis;
mod error;
mod event;
mod examine;
mod guard;
mod html;
mod incident;
mod log;
mod mirror;
mod pace;
mod page;
mod policy;
mod postmortem;
mod recover;
mod ring;
mod trend;
mod watch;

pub use batches::{Batches, Place};
pub use decide::{Action, Budget, History, Tally, decide};
pub use diagnosis::{Cause, Diagnosis, Origin};
pub use error::{Error, Result};
pub use event::{Event, Report};
pub use guard::Guard;
pub use log::Point;
pub use policy::{Answer, Policy};
pub use postmortem::{ParameterSummary, PostMortem, Recorded, Told};
pub use ring::Ring;
pub use trend::{Slow, SlowFaults, Trend};
