//! One step: forward, backward, judgement and update, recorded anew or run as it was captured.

use std::cell::RefCell;
use std::rc::Rc;

use everstep_tensor::{Tensor, with_probe};

use crate::chaos::Due;
use crate::guard::UnderWay;
use crate::watch::Watch;
use crate::{Batches, Error, Event, Guard, Origin, Place, Result};

impl Guard {
    /// One step, with the planned faults that are due; where it `looks`, what came up in it that is not finite.
    pub(crate) fn attempt<B: Batches, E: From<Error>>(
        &mut self,
        place: Place,
        batch: &mut B::Batch,
        forward: &mut impl FnMut(&B::Batch) -> Result<Tensor, E>,
        looks: bool,
    ) -> Result<Vec<Origin>, E> {
        let mut due = self.chaos.as_mut().map_or_else(Due::default, |chaos| chaos.due(place, B::samples(batch)));
        self.events.extend(due.take_news().into_iter().map(|fault| Event::Injected { fault, place }));
        if self.chaos.is_some() {
            due.before::<B>(batch, &mut self.optimizer, &self.names.parameters)?;
        }
        if !looks && due.is_empty() && self.may_capture && self.captures.look::<B>(batch) {
            self.step_captured::<B, E>(place, batch, forward)?;
            return Ok(Vec::new());
        }
        // As a captured step, which is a recording of its own.
        self.optimizer.device().fence();
        let watch = (looks || due.wants_ops()).then(|| self.watch::<B>(batch, due.clone(), looks));
        let both = || self.forward_and_backward::<B, E>(batch, forward);
        let loss: Result<Tensor, E> = match &watch {
            Some(watch) => with_probe(watch, both),
            None => both(),
        };
        let loss = loss.inspect_err(|_| self.optimizer.zero_grad())?;
        due.gradients(&self.names.parameters)?;
        let mut found = Vec::new();
        if let Some(watch) = &watch {
            let mut watch = watch.borrow_mut();
            watch.look_at_gradients().map_err(Error::from)?;
            found = std::mem::take(&mut watch.found);
        }
        let rate = self.rate_to_come();
        let outcome = self.optimizer.step(&loss);
        self.step_is_under_way(place, rate, outcome)?;
        Ok(found)
    }

    fn forward_and_backward<B: Batches, E: From<Error>>(
        &self,
        batch: &B::Batch,
        mut forward: impl FnMut(&B::Batch) -> Result<Tensor, E>,
    ) -> Result<Tensor, E> {
        let loss = self.optimizer.autocast(|| forward(batch))?;
        self.optimizer.backward(&loss).map_err(Error::from)?;
        Ok(loss)
    }

    /// Runs the captured step of the batch that [`Captures::look`] has seen, or one that may be captured.
    fn step_captured<B: Batches, E: From<Error>>(
        &mut self,
        place: Place,
        batch: &B::Batch,
        forward: &mut impl FnMut(&B::Batch) -> Result<Tensor, E>,
    ) -> Result<(), E> {
        let rate = self.rate_to_come();
        let epoch = place.cursor.epoch;
        if let Some((step, inputs)) = self.captures.due(epoch) {
            if self.optimizer.replay(step, inputs).map_err(Error::from)? {
                let outcome = self.optimizer.deliver();
                return Ok(self.step_is_under_way(place, rate, outcome)?);
            }
            self.captures.forget();
        }
        let start = self.optimizer.begin_step().map_err(Error::from)?;
        let loss = self.forward_and_backward::<B, E>(batch, forward).inspect_err(|_| self.optimizer.zero_grad())?;
        let kept = self.optimizer.end_step(start, &loss, self.captures.inputs(), self.captures.earlier());
        self.captures.learn(kept.map_err(Error::from)?, epoch);
        let outcome = self.optimizer.deliver();
        Ok(self.step_is_under_way(place, rate, outcome)?)
    }

    fn watch<B: Batches>(&self, batch: &mut B::Batch, due: Due, looks: bool) -> Rc<RefCell<Watch>> {
        let samples = B::samples(batch).to_vec();
        let mut tensors = Vec::new();
        B::tensors(batch, &mut |name, tensor| tensors.push((name, tensor.clone())));
        let names = self.names.parameters.clone();
        Rc::new(RefCell::new(Watch { due, looks, names, batch: tensors, samples, ..Watch::default() }))
    }

    /// The largest learning rate of the next step.
    fn rate_to_come(&self) -> f64 {
        let groups = 0..self.optimizer.arena().groups().len();
        let next = self.optimizer.gate().latest();
        groups.map(|group| self.optimizer.learning_rate(group, next)).fold(0.0, f64::max)
    }

    fn step_is_under_way(&mut self, place: Place, rate: f64, outcome: everstep_optim::Result<()>) -> Result<()> {
        match outcome {
            // An earlier step met bad data: its record says so, and it was refused.
            Err(error) if is_data(&error) => {}
            outcome => outcome?,
        }
        self.under_way.push_back(UnderWay { attempt: self.optimizer.gate().attempts(), place, rate });
        Ok(())
    }
}

/// Whether it says that a step met data outside its range.
pub(crate) fn is_data(error: &everstep_optim::Error) -> bool {
    use everstep_optim::Error as Optim;
    matches!(error, Optim::Tensor(everstep_tensor::Error::Device(everstep_device::Error::OutOfRange { .. })))
}
