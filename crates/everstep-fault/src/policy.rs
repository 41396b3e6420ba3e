//! What is done about faults, and how much of it.

use everstep_tensor::Detection;
use serde::{Deserialize, Serialize};

use crate::{SlowFaults, WatchdogConfig};

/// How a guard answers to faults. A field that is absent in serialised form takes the default's value.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// What a refused step is answered with.
    pub answer: Answer,
    /// What counts as a fault beside what is not finite, which always does.
    pub detection: Detection,
    /// What counts as a slow fault, seen by the host in the series of committed steps.
    pub slow: SlowFaults,
    /// Steps that the host may be ahead of the records it has seen, 0 to 16.
    pub in_flight: usize,
    /// Whether a step is recorded once per shape of its batch and then run again as it is, without the program's forward pass
    /// being called: the same bits at less cost. It asks of the forward pass to depend on its batch and the model alone. A
    /// step that reads a result back, or keeps one of its tensors, is never captured.
    pub capture: bool,
    /// The fewest steps between snapshots; 0 for none but that of the start.
    pub interval: u64,
    /// The largest share of the steps' time that taking snapshots may cost, more than 0: they are taken less often where they
    /// would cost more. Which ones there are then depends on the machine's speed; what a run computes does not, unless it goes
    /// on from one of them with a lower learning rate. `None` for no limit.
    pub snapshot_cost: Option<f64>,
    /// Snapshots kept, at least 1, each of the size of parameters and optimizer states together.
    pub snapshots: usize,
    /// The most bytes that snapshots may have on the device: fewer are kept where they would have more, but one. `None` for no
    /// limit.
    pub snapshot_bytes: Option<usize>,
    /// Whether the newest trusted snapshot of a GPU is copied into the host's memory, in the background: it outlives the
    /// device. The CPU engine's snapshots lie there anyway.
    pub mirror: bool,
    /// Times in a run that a device which was lost is opened again.
    pub device_losses: u32,
    /// How long a device that was lost is waited for, in milliseconds.
    pub device_wait_ms: u64,
    /// Whether the CPU engine takes over where it does not come back. Results then differ in their last bits.
    pub cpu_fallback: bool,
    /// What is taken for a step, or a wait for a batch, that never ends; `None` for nothing. A GPU that does not answer is given
    /// up and opened again; of anything else it is told.
    pub watchdog: Option<WatchdogConfig>,
    /// Committed steps after a snapshot until it is trusted, and after an incident until it is over.
    pub probation: u64,
    /// Searches for the cause in an incident. Without them, what comes again is taken for the data's fault.
    pub examinations: u32,
    /// Times in an incident that single samples are left out.
    pub quarantines: u32,
    /// Batches left out in an incident that were faulty on their state alone, before a rewind is tried.
    pub skips_before_rewind: u32,
    /// Batches left out in an incident altogether.
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
    /// The ladder: replay, examination, leaving out samples or batches, rewind, a lower learning rate.
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
            capture: true,
            interval: 50,
            snapshot_cost: Some(0.01),
            snapshots: 4,
            snapshot_bytes: None,
            mirror: true,
            device_losses: 8,
            device_wait_ms: 60_000,
            cpu_fallback: true,
            watchdog: Some(WatchdogConfig::default()),
            probation: 10,
            slow: SlowFaults::default(),
            examinations: 4,
            quarantines: 8,
            skips_before_rewind: 2,
            skips: 32,
            rewinds: 3,
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

    /// Detects and tells everything, and changes nothing: what is not finite is refused, as without any policy, and what stands
    /// out is committed.
    #[must_use]
    pub fn observe() -> Self {
        let detection = Detection { advise_only: true, ..Detection::spikes() };
        Self { answer: Answer::Ignore, detection, interval: 0, snapshots: 0, ..Self::default() }
    }

    /// Only what the gate does by itself: a step that is not finite is refused, alone. Nothing is compared, nothing is copied.
    #[must_use]
    pub fn off() -> Self {
        let detection = Detection { check_state: false, ..Detection::default() };
        let slow = SlowFaults::off();
        Self { answer: Answer::Ignore, detection, slow, interval: 0, snapshots: 0, watchdog: None, ..Self::default() }
    }

    /// What is wrong with it: the field, and what it must be.
    pub(crate) fn problem(&self) -> Option<(&'static str, &'static str)> {
        let recovers = self.answer == Answer::Recover;
        let rules = [
            (recovers && self.snapshots == 0, "snapshots", "at least 1 for a policy that recovers"),
            (!(self.lower_by > 0.0 && self.lower_by < 1.0), "lower_by", "more than 0 and less than 1"),
            (self.snapshot_cost.is_some_and(|cost| cost.is_nan() || cost <= 0.0), "snapshot_cost", "more than 0"),
            (self.probation == 0, "probation", "at least 1"),
        ];
        rules.into_iter().find(|rule| rule.0).map(|(_, field, rule)| (field, rule))
    }
}
