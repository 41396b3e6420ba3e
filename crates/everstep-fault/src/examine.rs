//! Finding out what a fault is: the batch on another state, another batch on this one, parts of the batch.
//!
//! Trials run while the device holds every step: each is judged, and none is committed.

use everstep_tensor::{Snapshot, Tensor, control, fault};

use crate::recover::Case;
use crate::state::Whole;
use crate::{Batches, Cause, Error, Event, Guard, Origin, Phase, Place, Result};

/// Samples that a search may find; more are no longer single samples.
const MOST_SAMPLES: usize = 4;

/// What a trial has shown.
struct Trial {
    is_faulty: bool,
    found: Vec<Origin>,
}

impl Guard {
    /// Looks for the cause of a fault that came again, and acts on it. The state before the step is in place and held.
    pub(crate) fn examine<B: Batches, E: From<Error>>(
        &mut self,
        case: Case,
        batches: &mut B,
        forward: &mut impl FnMut(&B::Batch) -> Result<Tensor, E>,
    ) -> Result<(), E> {
        let outcome = self.find_out(case, batches, forward);
        self.optimizer.zero_grad();
        if outcome.is_err() {
            // Another call tries again.
            self.seek(case.place, batches)?;
            self.case = Some(case);
            return outcome;
        }
        Ok(self.decide_again(case, batches)?)
    }

    fn find_out<B: Batches, E: From<Error>>(
        &mut self,
        case: Case,
        batches: &mut B,
        forward: &mut impl FnMut(&B::Batch) -> Result<Tensor, E>,
    ) -> Result<(), E> {
        let place = case.place;
        let other = match self.seen.last_healthy.filter(|other| other.step != place.step) {
            Some(other) => Some(other),
            None => self.next_place(place, batches)?,
        };
        let other = other.map(|other| self.trial(other, None, true, batches, forward)).transpose()?;
        let on_other_state = self.trial_on_other_state(case, batches, forward)?;
        let with_other_batch = other.as_ref().map(|other| other.is_faulty);
        let cause = match (with_other_batch, on_other_state) {
            (Some(true), Some(true)) => Cause::Computation,
            (Some(true), _) => Cause::State,
            (_, Some(false)) => Cause::DataAndState,
            _ => Cause::Data,
        };
        let samples = match cause {
            Cause::Data => self.isolate(place, batches, forward)?,
            _ => Vec::new(),
        };
        self.events.push(Event::Examined { place, cause, samples: samples.clone() });
        // What a healthy step shows too is meant so: the infinities of a mask.
        let usual = other.filter(|other| !other.is_faulty).map(|other| other.found).unwrap_or_default();
        let is_usual =
            |origin: &Origin| usual.iter().any(|usual| (usual.number, usual.op) == (origin.number, origin.op));
        let origin = std::mem::take(&mut self.found).into_iter().find(|origin| !is_usual(origin));
        if let Some(incident) = &mut self.incident {
            incident.suspect = Some(cause);
            incident.isolated = samples;
            incident.origin = incident.origin.take().or(origin);
            (incident.on_other_state, incident.with_other_batch) = (on_other_state, with_other_batch);
        }
        Ok(())
    }

    /// The batch behind `place` in its epoch.
    fn next_place<B: Batches>(&mut self, place: Place, batches: &mut B) -> Result<Option<Place>> {
        self.seek(place, batches)?;
        batches.next_batch()?;
        let next = Place { step: place.step + 1, cursor: batches.cursor() };
        let there = batches.next_batch()?.is_some();
        Ok(there.then_some(next))
    }

    /// One step that is judged and not committed, on all rows of the batch of `place` or some.
    fn trial<B: Batches, E: From<Error>>(
        &mut self,
        place: Place,
        rows: Option<&[usize]>,
        looks: bool,
        batches: &mut B,
        forward: &mut impl FnMut(&B::Batch) -> Result<Tensor, E>,
    ) -> Result<Trial, E> {
        batches.seek(place.cursor)?;
        let clean = Trial { is_faulty: false, found: Vec::new() };
        let Some(batch) = batches.next_batch()? else { return Ok(clean) };
        let batch = match rows {
            Some(rows) => B::part(&batch, rows)?,
            // What is left out of steps would spoil a trial as well.
            None => self.without_quarantined::<B>(batch)?,
        };
        let Some(mut batch) = batch else { return Ok(clean) };
        // A look at every op takes as long as it takes.
        self.enter(if looks { Phase::Outside } else { Phase::Computing });
        self.optimizer.hold().map_err(Error::from)?;
        let found = self.attempt::<B, E>(place, &mut batch, forward, looks)?;
        self.collect()?;
        self.under_way.clear();
        let record = self.inbox.drain(..).next_back();
        let faults = record.map_or(0, |record| record.faults & !fault::HELD);
        Ok(Trial { is_faulty: faults != 0, found })
    }

    /// Whether the batch is faulty on the state of a snapshot; `None` where there is none that can tell. The present state is in
    /// place again afterwards.
    fn trial_on_other_state<B: Batches, E: From<Error>>(
        &mut self,
        case: Case,
        batches: &mut B,
        forward: &mut impl FnMut(&B::Batch) -> Result<Tensor, E>,
    ) -> Result<Option<bool>, E> {
        let certain = fault::GRADIENT | fault::LOSS | fault::NORM | fault::DATA | fault::BUFFER;
        let is_certain = case.record.faults & certain != 0;
        // The oldest, which is the farthest from what may be wrong; what only stands out does so beside statistics.
        let warm = if is_certain { 0 } else { 2 * u64::from(self.policy.detection.warm_up) };
        let kept = self.ring.kept();
        let Some(newest) = kept.len().checked_sub(1) else { return Ok(None) };
        let Some(index) = kept.iter().position(|(attempt, _)| *attempt >= warm) else { return Ok(None) };
        let mut present = Snapshot::default();
        let Self { optimizer, progress, seen, ring, .. } = self;
        let mut whole = Whole { optimizer, progress, seen, batches, memory: None };
        present.save(&mut whole).map_err(Error::from)?;
        ring.look_back(newest - index, &mut whole).map_err(Error::from)?;
        let control = self.optimizer.gate().read_control().map_err(Error::from)?;
        let can_tell = is_certain
            || control.get(control::SAMPLES).is_some_and(|samples| *samples >= self.policy.detection.warm_up);
        let outcome = match can_tell {
            true => self.trial(case.place, None, false, batches, forward).map(|trial| Some(trial.is_faulty)),
            false => Ok(None),
        };
        self.optimizer.zero_grad();
        let Self { optimizer, progress, seen, .. } = self;
        let mut whole = Whole { optimizer, progress, seen, batches, memory: None };
        present.restore(&mut whole).map_err(Error::from)?;
        self.optimizer.hold().map_err(Error::from)?;
        outcome
    }

    /// The ids of the samples that the fault follows, by halving; none where it follows no single ones.
    fn isolate<B: Batches, E: From<Error>>(
        &mut self,
        place: Place,
        batches: &mut B,
        forward: &mut impl FnMut(&B::Batch) -> Result<Tensor, E>,
    ) -> Result<Vec<u64>, E> {
        batches.seek(place.cursor)?;
        let Some(batch) = batches.next_batch()? else { return Ok(Vec::new()) };
        let samples = B::samples(&batch).to_vec();
        // What was left out before is not looked for again.
        let rows: Vec<_> = (0..samples.len()).filter(|&row| !self.memory.quarantined.contains(&samples[row])).collect();
        if rows.len() < 2 || B::part(&batch, &rows[..1])?.is_none() {
            return Ok(Vec::new());
        }
        drop(batch);
        let (mut faulty, mut parts) = (Vec::new(), vec![rows.clone()]);
        while let Some(part) = parts.pop() {
            let halves = part.split_at(part.len() / 2);
            for half in [halves.0, halves.1] {
                match self.part_is_faulty(place, half, batches, forward)? {
                    None => return Ok(Vec::new()),
                    Some(false) => continue,
                    Some(true) => {}
                }
                if half.len() == 1 { faulty.push(half[0]) } else { parts.push(half.to_vec()) }
            }
            // Each part that waits has at least one.
            if faulty.len() + parts.len() > MOST_SAMPLES {
                return Ok(Vec::new());
            }
        }
        let rest: Vec<_> = rows.into_iter().filter(|row| !faulty.contains(row)).collect();
        let explains = !faulty.is_empty() && !rest.is_empty();
        if !explains || self.part_is_faulty(place, &rest, batches, forward)? != Some(false) {
            return Ok(Vec::new());
        }
        faulty.sort_unstable();
        Ok(faulty.into_iter().map(|row| samples[row]).collect())
    }

    /// Whether rows of the batch of `place` are faulty by themselves; `None` where the model does not take so few, as batch norm
    /// does not take a single one.
    fn part_is_faulty<B: Batches, E: From<Error>>(
        &mut self,
        place: Place,
        rows: &[usize],
        batches: &mut B,
        forward: &mut impl FnMut(&B::Batch) -> Result<Tensor, E>,
    ) -> Result<Option<bool>, E> {
        match self.trial(place, Some(rows), false, batches, forward) {
            Ok(trial) => Ok(Some(trial.is_faulty)),
            Err(error) if self.optimizer.device().lost().is_some() => Err(error),
            Err(_) => {
                self.optimizer.zero_grad();
                Ok(None)
            }
        }
    }
}
