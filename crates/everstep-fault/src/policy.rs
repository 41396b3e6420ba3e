//! What is done about faults, and how much of it.

use everstep_tensor::Detection;
use serde::{Deserialize, Serialize};

/// How a guard answers to faults. A field that is absent in serialised form takes the default's value.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// What a refused step is answered with.
    pub answer: Answer,
    /// What counts as a fault beside what is not finite, which always does.
    pub detection: Detection,
    /// Steps that the host may be ahead of the records it has seen, 0 to 16.
    pub in_flight: usize,
    /// Steps between snapshots; 0 for none but that of the start.
    pub interval: u64,
    /// Snapshots kept, at least 1, each of the size of parameters and optimizer states together.
    pub snapshots: usize,
    /// Committed steps after a snapshot until it is trusted, and after an incident until it is over.
    pub probation: u64,
    /// Batches left out in an incident before a rewind is tried.
    pub skips_before_rewind: u32,
    /// Batches left out in an incident altogether: after a rewind has not helped, it is the data.
    pub skips: u32,
    /// Rewinds of an incident, each to an older snapshot than the one before.
    pub rewinds: u32,
    /// Times that an incident lowers the learning rate.
    pub lowerings: u32,
    /// What a lowering multiplies the learning rate by, more than 0 and less than 1.
    pub lower_by: f64,
    /// Steps in which a lowered learning rate rises to its full height, its optimizer's states having begun anew.
    pub warm_up: u64,
    /// Actions in a run altogether: whatever happens, recovery ends.
    pub actions: u64,
}

/// What a refused step is answered with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// The ladder: replay, skip, rewind, a lower learning rate.
    #[default]
    Recover,
    /// An error at the first fault, with the state before it in place.
    Stop,
    /// Nothing: the step alone is refused, and training goes on.
    Ignore,
}

impl Default for Policy {
    /// Recovers from everything it can, and keeps four snapshots.
    fn default() -> Self {
        Self {
            answer: Answer::Recover,
            detection: Detection::spikes(),
            in_flight: 4,
            interval: 50,
            snapshots: 4,
            probation: 10,
            skips_before_rewind: 2,
            skips: 32,
            rewinds: 2,
            lowerings: 4,
            lower_by: 0.1,
            warm_up: 20,
            actions: 1000,
        }
    }
}

impl Policy {
    /// Stops with an error at the first fault.
    #[must_use]
    pub fn strict() -> Self {
        Self { answer: Answer::Stop, interval: 0, snapshots: 1, ..Self::default() }
    }

    /// Only what the gate does by itself: a step that is not finite is refused, alone. Nothing is compared, nothing is copied.
    #[must_use]
    pub fn off() -> Self {
        let detection = Detection { check_state: false, ..Detection::default() };
        Self { answer: Answer::Ignore, detection, interval: 0, snapshots: 0, ..Self::default() }
    }

    /// What is wrong with it: the field, and what it must be.
    pub(crate) fn problem(&self) -> Option<(&'static str, &'static str)> {
        let recovers = self.answer == Answer::Recover;
        let rules = [
            (recovers && self.snapshots == 0, "snapshots", "at least 1 for a policy that recovers"),
            (!(self.lower_by > 0.0 && self.lower_by < 1.0), "lower_by", "more than 0 and less than 1"),
            (self.probation == 0, "probation", "at least 1"),
        ];
        rules.into_iter().find(|rule| rule.0).map(|(_, field, rule)| (field, rule))
    }
}
