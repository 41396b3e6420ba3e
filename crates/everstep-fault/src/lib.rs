//! The fault layer: a run that meets a fault goes on by itself, and says what happened.
//!
//! A [`Guard`] owns the optimizer and pulls the batches. The device refuses a faulty step and every later one, so that the
//! state before it stays in place; when the host learns of it, [`decide`], a pure function, says what to do, and the guard
//! does it: run the step again, leave its batch out, go back to a snapshot, lower the learning rate, or stop with a report.

mod decide;
mod error;
mod event;
mod guard;
mod policy;
mod ring;

pub use decide::{Action, Budget, History, Tally, decide};
pub use error::{Error, Result};
pub use event::{Cause, Event, Report};
pub use guard::{Batches, Guard};
pub use policy::{Answer, Policy};
pub use ring::Ring;
