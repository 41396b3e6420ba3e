//! The decision about a fault: a pure function of what has happened.

use std::fmt;

use everstep_tensor::{Record, fault};
use serde::{Deserialize, Serialize};

use crate::{Answer, Cause, Policy, Slow};

/// What has been done about an incident, or in a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Steps run again from the state before them.
    pub replays: u32,
    /// Searches for the cause: trials of batches and states.
    pub examinations: u32,
    /// Times that single samples were left out.
    pub quarantines: u32,
    /// Batches left out.
    pub skips: u32,
    /// Snapshots restored to run on from.
    pub rewinds: u32,
    /// Limits set to the learning rate.
    pub limits: u32,
    /// Times the learning rate was lowered.
    pub lowerings: u32,
}

impl Tally {
    /// How much altogether.
    pub fn actions(&self) -> u64 {
        let Self { replays, examinations, quarantines, skips, rewinds, limits, lowerings } = *self;
        [replays, examinations, quarantines, skips, rewinds, limits, lowerings].into_iter().map(u64::from).sum()
    }

    /// Counts an action.
    pub fn count(&mut self, action: Action) {
        match action {
            Action::Replay => self.replays += 1,
            Action::Examine => self.examinations += 1,
            Action::Quarantine => self.quarantines += 1,
            Action::Skip => self.skips += 1,
            Action::Rewind { .. } => self.rewinds += 1,
            Action::LimitRate => self.limits += 1,
            Action::LowerRate => self.lowerings += 1,
            Action::Ignore | Action::Stop(_) => {}
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { replays, examinations, quarantines, skips, rewinds, limits, lowerings } = *self;
        let parts = [
            (replays, "replay"),
            (examinations, "examination"),
            (quarantines, "quarantine"),
            (skips, "batch left out"),
            (rewinds, "rewind"),
            (limits, "limit of the learning rate"),
            (lowerings, "lowering of the learning rate"),
        ];
        let told = parts.iter().filter(|(count, _)| *count > 0).map(|(count, name)| format!("{count} x {name}"));
        let told = told.collect::<Vec<_>>();
        f.write_str(if told.is_empty() { "nothing".to_owned() } else { told.join(", ") }.as_str())
    }
}

/// All that a decision depends on.
#[derive(Clone, Copy, Debug)]
pub struct History {
    /// The record of the step in question.
    pub record: Record,
    /// For a step that was committed, the slow fault that it made out.
    pub slow: Option<Slow>,
    /// What the fault is thought to be, once it was examined.
    pub suspect: Option<Cause>,
    /// Whether single samples were found that the fault follows.
    pub isolated: bool,
    /// What this incident has taken so far.
    pub incident: Tally,
    /// What the run has taken so far, this incident included.
    pub run: Tally,
}

/// What to do about a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Go on: the device has done what there was to do.
    Ignore,
    /// Run the step again from the state before it, with a look at every op.
    Replay,
    /// Find out what it is: the batch on another state, another batch on this one, halves of the batch.
    Examine,
    /// Leave out the samples that were found, now and whenever they come.
    Quarantine,
    /// Leave the batch out.
    Skip,
    /// Go back to the newest snapshot, or with `generations` to so many before it, and take back the batches that this
    /// incident left out.
    Rewind {
        /// Snapshots to pass over.
        generations: u32,
    },
    /// No learning rate above the largest one so far.
    LimitRate,
    /// Go far back, with a lower learning rate and the optimizer's states begun anew.
    LowerRate,
    /// Give up.
    Stop(Budget),
}

/// Which budget ended a recovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Budget {
    /// The policy stops at the first fault.
    Strict,
    /// The ladder has no further rung.
    Ladder,
    /// The run's actions are used up.
    Actions,
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Strict => "it stops at the first fault",
            Self::Ladder => "its budgets for one incident are used up",
            Self::Actions => "its actions for the run are used up",
        })
    }
}

/// The ladder. A replay first: a device's passing fault is gone. What comes again is examined, and answered by its cause:
/// samples or batches are left out, a state goes back to a snapshot, a learning rate that has jumped is limited. Where that does
/// not help, further rewinds, a lower learning rate, and the end. Each answer is counted, each has a budget, and no count ever
/// falls within an incident, so every incident ends.
pub fn decide(history: &History, policy: &Policy) -> Action {
    let History { record, slow, suspect, isolated, incident, run } = *history;
    match policy.answer {
        Answer::Ignore => return Action::Ignore,
        Answer::Stop => return Action::Stop(Budget::Strict),
        Answer::Recover if run.actions() >= policy.actions => return Action::Stop(Budget::Actions),
        Answer::Recover => {}
    }
    if slow.is_some() {
        return lower(incident, policy);
    }
    if incident.replays == 0 {
        return Action::Replay;
    }
    // Certain without a trial: the device has compared its memory, or the rates.
    let suspect = match suspect {
        _ if record.faults & fault::STATE != 0 => Some(Cause::State),
        _ if record.faults & fault::RATE != 0 => Some(Cause::LearningRate),
        other => other,
    };
    match suspect {
        None if incident.examinations < policy.examinations => Action::Examine,
        Some(Cause::LearningRate) if incident.limits == 0 => Action::LimitRate,
        Some(Cause::LearningRate) => Action::Stop(Budget::Ladder),
        Some(Cause::Data) if isolated && incident.quarantines < policy.quarantines => Action::Quarantine,
        None | Some(Cause::Data) if incident.skips < policy.skips => Action::Skip,
        None | Some(Cause::Data) => Action::Stop(Budget::Ladder),
        Some(Cause::DataAndState) if incident.skips < policy.skips_before_rewind => Action::Skip,
        // A machine that computes wrongly does so after any rewind: one, for a fault that was long in passing.
        Some(Cause::Computation) if incident.rewinds == 0 && policy.rewinds > 0 => Action::Rewind { generations: 0 },
        Some(Cause::Computation) => Action::Stop(Budget::Ladder),
        _ if incident.rewinds < policy.rewinds => Action::Rewind { generations: incident.rewinds },
        _ => lower(incident, policy),
    }
}

fn lower(incident: Tally, policy: &Policy) -> Action {
    if incident.lowerings < policy.lowerings { Action::LowerRate } else { Action::Stop(Budget::Ladder) }
}
