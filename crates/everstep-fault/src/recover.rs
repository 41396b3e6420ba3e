//! What a guard does about a fault: it asks [`decide`] and does it.

use everstep_data::Cursor;
use everstep_tensor::{Record, fault};

use crate::guard::UnderWay;
use crate::state::Whole;
use crate::{
    Action, Batches, Cause, Diagnosis, Error, Event, Guard, History, Origin, Place, Result, Slow, Tally, decide,
};

/// Something that went wrong, until it is over.
pub(crate) struct Incident {
    pub(crate) tally: Tally,
    last: Action,
    // The step that was first in question.
    place: Place,
    record: Record,
    // Attempts and commits before it.
    attempts: u64,
    committed: u64,
    // Batches left out since it began, or since the last rewind.
    pub(crate) skipped: Vec<Cursor>,
    // The furthest faulty step: beyond it, healthy ones count.
    furthest: Place,
    // Healthy steps since the last action.
    healthy: u64,
    // What the step in question is thought to be; and what the last one was found to be.
    pub(crate) suspect: Option<Cause>,
    found: Option<Cause>,
    pub(crate) origin: Option<Origin>,
    // Samples that are to be left out, and those that are.
    pub(crate) isolated: Vec<u64>,
    samples: Vec<u64>,
    pub(crate) on_other_state: Option<bool>,
    pub(crate) with_other_batch: Option<bool>,
}

impl Incident {
    fn new(record: Record, place: Place, slow: Option<Slow>) -> Self {
        Self {
            tally: Tally::default(),
            last: Action::Ignore,
            place,
            record,
            attempts: u64::from(record.attempt).saturating_sub(1),
            committed: u64::from(record.committed),
            skipped: Vec::new(),
            furthest: place,
            healthy: 0,
            suspect: slow.map(Cause::Slow),
            found: None,
            origin: None,
            isolated: Vec::new(),
            samples: Vec::new(),
            on_other_state: None,
            with_other_batch: None,
        }
    }

    /// What it was: as the device or the trials have said, else as what helped tells.
    fn cause(&self) -> Cause {
        let compared = [(fault::RATE, Cause::LearningRate), (fault::STATE, Cause::State)];
        let compared = compared.into_iter().find(|(bit, _)| self.record.faults & bit != 0).map(|(_, cause)| cause);
        let passing = self.tally.actions() == 1 && self.last == Action::Replay;
        match (self.suspect.or(self.found), compared) {
            // A rate that was back when the step ran again was no schedule's.
            (None, Some(Cause::State)) => Cause::State,
            (None, _) if passing => Cause::Passing,
            (Some(cause), _) | (None, Some(cause)) => cause,
            (None, None) if self.tally.lowerings > 0 => Cause::LearningRate,
            (None, None) if self.tally.rewinds > 0 => Cause::State,
            (None, None) => Cause::Data,
        }
    }
}

/// A fault to be examined.
#[derive(Clone, Copy)]
pub(crate) struct Case {
    pub(crate) record: Record,
    pub(crate) place: Place,
}

impl Guard {
    /// Takes in a step that was committed and is not in question.
    pub(crate) fn healthy<B: Batches>(&mut self, record: Record, step: &UnderWay, batches: &mut B) -> Result<()> {
        self.seen.last_healthy = Some(step.place);
        match &mut self.incident {
            None => self.ring.trust(step.attempt, self.policy.probation),
            Some(incident) => {
                incident.healthy += u64::from(step.place.step >= incident.furthest.step);
                let replayed = incident.last == Action::Replay && step.place == incident.furthest;
                if replayed || incident.healthy >= self.policy.probation {
                    self.recovered(record, step.attempt);
                }
            }
        }
        match self.seen.trend.take(record.loss, record.norm) {
            Some(slow) => self.slow(slow, record, step.place, batches),
            None => Ok(()),
        }
    }

    fn recovered(&mut self, record: Record, attempt: u64) {
        let Some(incident) = self.incident.take() else { return };
        let diagnosis = self.describe(&incident, attempt, record.committed.into(), true);
        self.diagnoses.push(diagnosis.clone());
        tracing::info!(%diagnosis, "recovered");
        self.events.push(Event::Recovered { diagnosis: Box::new(diagnosis) });
    }

    /// What is known of an incident by `attempt`, with so many steps `committed`.
    fn describe(&self, incident: &Incident, attempt: u64, committed: u64, recovered: bool) -> Diagnosis {
        let attempts = attempt.saturating_sub(incident.attempts);
        Diagnosis {
            cause: incident.cause(),
            place: incident.place,
            attempt: incident.record.attempt.into(),
            reasons: incident.record.reasons(),
            record: incident.record,
            origin: incident.origin.clone(),
            on_other_state: incident.on_other_state,
            with_other_batch: incident.with_other_batch,
            samples: incident.samples.clone(),
            tally: incident.tally,
            lost_steps: (attempts + incident.committed).saturating_sub(committed),
            recovered,
            chaos: self.chaos.is_some(),
        }
    }

    /// What is known of the incident that is not over yet, if there is one: its healthy probation has not passed.
    pub fn open_incident(&self) -> Option<Diagnosis> {
        let gate = self.optimizer.gate();
        self.incident.as_ref().map(|incident| self.describe(incident, gate.attempts(), gate.committed(), false))
    }

    /// Answers to a slow fault that a committed step has made out.
    fn slow<B: Batches>(&mut self, slow: Slow, record: Record, place: Place, batches: &mut B) -> Result<()> {
        self.events.push(Event::DetectedSlow { slow, place });
        self.respond(record, place, Some(slow), batches)
    }

    /// Answers to a step that the device found faulty.
    pub(crate) fn refused<B: Batches>(&mut self, record: Record, step: &UnderWay, batches: &mut B) -> Result<()> {
        self.events.push(Event::Detected { record, place: step.place });
        self.respond(record, step.place, None, batches)
    }

    /// Does what the policy says.
    fn respond<B: Batches>(&mut self, record: Record, place: Place, slow: Option<Slow>, batches: &mut B) -> Result<()> {
        let action = self.decide(record, slow);
        tracing::warn!(%place, faults = record.faults, loss = record.loss, ?slow, ?action, "fault");
        if action == Action::Ignore {
            let committed = record.verdict == everstep_tensor::Verdict::Commit;
            self.events.push(Event::Rejected { place, committed });
            // An update that was not finite has held what comes after it.
            return if record.tentative { Ok(self.optimizer.release()?) } else { Ok(()) };
        }
        // The steps behind it were held, or are void: their records say nothing, and belong to no step under way.
        self.collect()?;
        self.records.extend(self.inbox.drain(..));
        self.under_way.clear();
        self.ring.forget_from(record.attempt.into());
        if self.incident.is_none() {
            self.incident = Some(Incident::new(record, place, slow));
        }
        self.act(action, Case { record, place }, batches)
    }

    fn decide(&self, record: Record, slow: Option<Slow>) -> Action {
        let incident = self.incident.as_ref();
        let history = History {
            record,
            slow,
            suspect: incident.and_then(|incident| incident.suspect),
            isolated: incident.is_some_and(|incident| !incident.isolated.is_empty()),
            incident: incident.map_or_else(Tally::default, |incident| incident.tally),
            run: self.memory.run,
        };
        decide(&history, &self.policy)
    }

    /// Asks again, once a case was examined.
    pub(crate) fn decide_again<B: Batches>(&mut self, case: Case, batches: &mut B) -> Result<()> {
        let action = self.decide(case.record, None);
        tracing::warn!(place = %case.place, ?action, "examined");
        self.act(action, case, batches)
    }

    fn act<B: Batches>(&mut self, action: Action, case: Case, batches: &mut B) -> Result<()> {
        let Case { record, place } = case;
        self.memory.run.count(action);
        if let Some(incident) = &mut self.incident {
            incident.tally.count(action);
            (incident.last, incident.healthy) = (action, 0);
            incident.furthest = if place.step > incident.furthest.step { place } else { incident.furthest };
        }
        match action {
            Action::Ignore => Ok(()),
            Action::Replay => {
                self.events.push(Event::Replayed { place });
                self.replaying = Some(place);
                self.before(record, place, batches)
            }
            Action::Examine => {
                self.case = Some(case);
                self.before_held(record, place, batches)
            }
            Action::Quarantine => {
                self.examine_the_next();
                let samples = self.incident.as_mut().map(|incident| std::mem::take(&mut incident.isolated));
                let samples = samples.unwrap_or_default();
                self.memory.quarantined.extend(&samples);
                if let Some(incident) = &mut self.incident {
                    incident.samples.extend(&samples);
                }
                self.events.push(Event::Quarantined { samples });
                self.before(record, place, batches)
            }
            Action::Skip => {
                self.examine_the_next();
                self.events.push(Event::Skipped { place });
                self.memory.skipped.push(place.cursor);
                self.incident.iter_mut().for_each(|incident| incident.skipped.push(place.cursor));
                self.before(record, place, batches)
            }
            Action::Rewind { generations } => self.rewind(generations as usize, batches),
            Action::LimitRate => {
                self.optimizer.limit_rate(Some(self.seen.highest_rate))?;
                self.events.push(Event::LearningRateLimited { limit: self.seen.highest_rate });
                self.before(record, place, batches)
            }
            Action::LowerRate => {
                let far = self.ring.far_back(self.optimizer.gate().attempts());
                self.rewind(far, batches)?;
                self.memory.factor *= self.policy.lower_by;
                self.optimizer.begin_anew(self.memory.factor, self.policy.warm_up)?;
                self.seen.trend.answered();
                // What comes before it is another run by now.
                self.save_for_good(batches)?;
                self.events.push(Event::LearningRateLowered { factor: self.memory.factor });
                Ok(())
            }
            Action::Stop(budget) => self.give_up(budget, case, batches),
        }
    }

    /// What this batch was found to be says nothing of the next one that is refused.
    fn examine_the_next(&mut self) {
        if let Some(incident) = &mut self.incident {
            incident.found = incident.suspect.take().or(incident.found);
        }
    }

    fn give_up<B: Batches>(&mut self, budget: crate::Budget, case: Case, batches: &mut B) -> Result<()> {
        let Case { record, place } = case;
        let suspect = self.incident.as_ref().and_then(|incident| incident.suspect);
        // A state that is not trusted is not what the program is left with.
        match suspect {
            Some(Cause::State | Cause::Computation) => self.go_back(0, batches)?,
            _ => self.before(record, place, batches)?,
        }
        let tally = self.incident.as_ref().map_or_else(Tally::default, |incident| incident.tally);
        let attempt = self.optimizer.gate().attempts();
        if let Some(incident) = self.incident.take() {
            let diagnosis = self.describe(&incident, attempt, record.committed.into(), false);
            self.diagnoses.push(diagnosis.clone());
            self.events.push(Event::GaveUp { budget, diagnosis: Box::new(diagnosis) });
        }
        Err(Error::GaveUp { place, record: Box::new(record), budget, tally })
    }

    /// Goes to the state before a refused step: it is in place, unless the update has partly been written. Then the newest
    /// snapshot is, and the steps from there on run again.
    fn before<B: Batches>(&mut self, record: Record, place: Place, batches: &mut B) -> Result<()> {
        if record.tentative {
            return self.go_back(0, batches);
        }
        self.optimizer.release()?;
        if record.faults != 0 { self.seek(place, batches) } else { Ok(()) }
    }

    /// As `before`, and what runs from there on is not committed.
    fn before_held<B: Batches>(&mut self, record: Record, place: Place, batches: &mut B) -> Result<()> {
        if record.tentative {
            self.go_back(0, batches)?;
            return Ok(self.optimizer.hold()?);
        }
        self.seek(place, batches)
    }

    /// Goes back to a snapshot, and takes back the batches that the incident has left out.
    fn rewind<B: Batches>(&mut self, generations: usize, batches: &mut B) -> Result<()> {
        if let Some(incident) = &mut self.incident {
            let back = std::mem::take(&mut incident.skipped);
            self.memory.skipped.retain(|cursor| !back.contains(cursor));
        }
        self.go_back(generations, batches)
    }

    fn go_back<B: Batches>(&mut self, generations: usize, batches: &mut B) -> Result<()> {
        let Self { optimizer, progress, seen, ring, .. } = self;
        match ring.restore(generations, &mut Whole { optimizer, progress, seen, batches, memory: None })? {
            Some(attempt) => {
                let to = Place { step: self.progress.pulled + 1, cursor: batches.cursor() };
                self.events.push(Event::Rewound { attempt, to });
                self.last_snapshot = self.optimizer.gate().attempts();
            }
            // Without snapshots the state is what it is.
            None => self.optimizer.release()?,
        }
        Ok(())
    }
}
