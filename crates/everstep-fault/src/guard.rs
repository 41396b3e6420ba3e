//! Steps that go on whatever happens.

use std::collections::VecDeque;

use everstep_data::{Batch, Cursor, Loader};
use everstep_nn::Module;
use everstep_optim::{Optimizer, Rule};
use everstep_tensor::{Record, State, StepOptions, Tensor, Verdict};

use crate::{Action, Answer, Cause, Error, Event, History, Policy, Report, Result, Ring, Tally, decide};

/// Where batches come from: pulled by the guard, so that it can pull one again.
pub trait Batches: State {
    /// A batch.
    type Batch;

    /// The next batch, or `None` once at the end of an epoch, after which the next epoch begins.
    ///
    /// # Errors
    /// What reading it says; another call tries the same batch again.
    fn next_batch(&mut self) -> Result<Option<Self::Batch>>;

    /// The place of the next batch.
    fn cursor(&self) -> Cursor;

    /// Goes to a place that [`Batches::cursor`] gave.
    ///
    /// # Errors
    /// For a place that there is not.
    fn seek(&mut self, cursor: Cursor) -> Result<()>;
}

impl Batches for Loader {
    type Batch = Batch;

    fn next_batch(&mut self) -> Result<Option<Batch>> {
        Ok(Loader::next_batch(self)?)
    }

    fn cursor(&self) -> Cursor {
        Loader::cursor(self)
    }

    fn seek(&mut self, cursor: Cursor) -> Result<()> {
        Ok(Loader::seek(self, cursor)?)
    }
}

/// Runs the steps of a training run under a policy.
///
/// ```
/// # use everstep_data::{InMemoryDataset, HostTensor, Loader, LoaderConfig};
/// # use everstep_fault::{Guard, Policy};
/// # use everstep_nn::Linear;
/// # use everstep_optim::Sgd;
/// # use everstep_tensor::{Device, Generator};
/// # let device = Device::cpu();
/// # let dataset = everstep_data::digits()?;
/// let model = Linear::new(64, 10, &mut Generator::new(0), &device)?;
/// let mut loader = Loader::new(dataset, LoaderConfig::new(32).shuffle(0), &device)?;
/// let mut guard = Guard::new(&model, Sgd::new(0.1), Policy::default())?;
/// while let Some(report) = guard.step(&mut loader, |batch| {
///     Ok::<_, Box<dyn std::error::Error>>(model.forward(&batch.x)?.cross_entropy(&batch.y)?)
/// })? {
///     assert!(report.events.is_empty());
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Guard {
    optimizer: Optimizer,
    policy: Policy,
    ring: Ring,
    // Batches of steps whose records are not in yet, by their attempts.
    under_way: VecDeque<(u64, Cursor)>,
    // Batches that are left out, whenever they come.
    skipped: Vec<Cursor>,
    incident: Option<Incident>,
    run: Tally,
    // Product of all lowerings.
    factor: f64,
    last_snapshot: u64,
    // Epochs whose end was told.
    ended: u64,
    // Records that nobody has looked at.
    inbox: VecDeque<Record>,
    // Those of the next report.
    records: Vec<Record>,
    events: Vec<Event>,
}

/// Something that went wrong, until it is over.
struct Incident {
    tally: Tally,
    last: Action,
    // Batches left out since it began, or since the last rewind.
    skipped: Vec<Cursor>,
    // The furthest refused batch: beyond it, healthy steps count.
    at: Cursor,
    // Healthy steps since the last action.
    healthy: u64,
}

/// The order in which batches come.
fn order(cursor: Cursor) -> (u64, u64) {
    (cursor.epoch, cursor.position)
}

impl Guard {
    /// A guard of `model`, whose parameters move into the arena of an optimizer by `rule`.
    ///
    /// # Errors
    /// Those of [`Rule::build`]; [`Error::Setting`].
    pub fn new(model: &impl Module, rule: impl Rule, policy: Policy) -> Result<Self> {
        Self::with_optimizer(rule.build(model)?, policy)
    }

    /// A guard of an optimizer that is there: with a schedule, parameter groups, clipping. Its options of the step become
    /// the policy's, but for the clipping.
    ///
    /// # Errors
    /// [`Error::Setting`]; those of [`Optimizer::with_options`].
    pub fn with_optimizer(optimizer: Optimizer, policy: Policy) -> Result<Self> {
        if let Some((field, rule)) = policy.problem() {
            return Err(Error::Setting { field, rule });
        }
        let on_fault = if policy.answer == Answer::Ignore { Verdict::Reject } else { Verdict::Hold };
        let max_norm = optimizer.options().max_norm;
        let options = StepOptions { max_norm, on_fault, in_flight: policy.in_flight, detection: policy.detection };
        Ok(Self {
            optimizer: optimizer.with_options(options)?,
            policy,
            ring: Ring::new(policy.snapshots),
            under_way: VecDeque::new(),
            skipped: Vec::new(),
            incident: None,
            run: Tally::default(),
            factor: 1.0,
            last_snapshot: 0,
            ended: 0,
            inbox: VecDeque::new(),
            records: Vec::new(),
            events: Vec::new(),
        })
    }

    /// Pulls a batch, and runs and judges a step on the loss that `forward` makes of it. `None` at the end of an epoch, once
    /// every step of it is known to be healthy. What a report tells is about earlier steps, too: records come late.
    ///
    /// `forward` may be called again for a batch, and in the order of another time: it depends on its batch, the model, and
    /// nothing else that changes.
    ///
    /// # Errors
    /// Those of `forward` and of the batches: the state is as it was, and another call tries the batch again.
    /// [`Error::GaveUp`].
    pub fn step<B: Batches, E: From<Error>>(
        &mut self,
        batches: &mut B,
        forward: impl FnOnce(&B::Batch) -> Result<Tensor, E>,
    ) -> Result<Option<Report>, E> {
        if self.optimizer.gate().attempts() == 0 && self.ring.kept().is_empty() {
            self.save(batches)?;
        }
        let Some((at, batch)) = self.pull(batches)? else { return Ok(None) };
        let outcome = self.attempt(&batch, forward);
        if let Err(error) = outcome {
            batches.seek(at)?;
            return Err(error);
        }
        self.under_way.push_back((self.optimizer.gate().attempts(), at));
        self.take_in(batches)?;
        let due = self.optimizer.gate().attempts() >= self.last_snapshot + self.policy.interval;
        if self.policy.interval > 0 && due && self.incident.is_none() {
            self.save(batches)?;
        }
        let (records, events) = (std::mem::take(&mut self.records), std::mem::take(&mut self.events));
        Ok(Some(Report { at, records, events }))
    }

    /// The next batch that is not left out.
    fn pull<B: Batches>(&mut self, batches: &mut B) -> Result<Option<(Cursor, B::Batch)>> {
        loop {
            let at = batches.cursor();
            match batches.next_batch()? {
                Some(batch) if !self.skipped.contains(&at) => return Ok(Some((at, batch))),
                Some(_) => {}
                None => {
                    let next = batches.cursor();
                    self.collect()?;
                    self.take_in(batches)?;
                    // Nothing has taken the batches back: the epoch is over. A rewind may come to its end again, but a program
                    // that counts epochs is told once.
                    if batches.cursor() == next && next.epoch > self.ended {
                        self.ended = next.epoch;
                        return Ok(None);
                    }
                }
            }
        }
    }

    fn attempt<T, E: From<Error>>(
        &mut self,
        batch: &T,
        forward: impl FnOnce(&T) -> Result<Tensor, E>,
    ) -> Result<(), E> {
        let loss = forward(batch).inspect_err(|_| self.optimizer.zero_grad())?;
        loss.backward().map_err(Error::from).inspect_err(|_| self.optimizer.zero_grad())?;
        match self.optimizer.step(&loss) {
            // An earlier step met bad data: its record says so, and it was refused.
            Err(error) if is_data(&error) => Ok(()),
            outcome => Ok(outcome.map_err(Error::from)?),
        }
    }

    /// Waits for the records of all steps so far.
    fn collect(&mut self) -> Result<()> {
        while self.optimizer.gate().is_behind() {
            match self.optimizer.finish() {
                Ok(records) => self.inbox.extend(records),
                Err(error) if is_data(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Looks at the records that have come, in order, and answers to the refused steps among them.
    fn take_in<B: Batches>(&mut self, batches: &mut B) -> Result<()> {
        self.inbox.extend(self.optimizer.take_records());
        while let Some(record) = self.inbox.pop_front() {
            self.records.push(record);
            let known = self.under_way.front().filter(|step| step.0 == u64::from(record.attempt));
            // Of a step before a restore.
            let Some(&(attempt, at)) = known else { continue };
            self.under_way.pop_front();
            match record.faults {
                0 => self.healthy(attempt, at),
                _ => self.answer(record, attempt, at, batches)?,
            }
        }
        Ok(())
    }

    fn healthy(&mut self, attempt: u64, at: Cursor) {
        let Some(incident) = &mut self.incident else {
            self.ring.trust(attempt, self.policy.probation);
            return;
        };
        incident.healthy += u64::from(order(at) >= order(incident.at));
        let replayed = incident.last == Action::Replay && at == incident.at;
        if replayed || incident.healthy >= self.policy.probation {
            let (cause, tally) = (cause(incident.tally, incident.last), incident.tally);
            tracing::info!(?cause, ?tally, "recovered");
            self.events.push(Event::Recovered { cause, tally });
            self.incident = None;
        }
    }

    /// Does what the policy says about a refused step.
    fn answer<B: Batches>(&mut self, record: Record, attempt: u64, at: Cursor, batches: &mut B) -> Result<()> {
        self.events.push(Event::Detected { record, at });
        let tally = self.incident.as_ref().map_or_else(Tally::default, |incident| incident.tally);
        let action = decide(&History { record, incident: tally, run: self.run }, &self.policy);
        tracing::warn!(attempt, faults = record.faults, loss = record.loss, ?action, "step refused");
        if action == Action::Ignore {
            return Ok(());
        }
        // The steps behind it were held: their records say nothing, and belong to no step under way.
        self.collect()?;
        self.under_way.clear();
        self.ring.forget_from(attempt);
        let incident =
            self.incident.get_or_insert(Incident { tally, last: action, skipped: Vec::new(), at, healthy: 0 });
        incident.tally.count(action);
        (incident.last, incident.healthy) = (action, 0);
        incident.at = if order(at) > order(incident.at) { at } else { incident.at };
        self.run.count(action);
        self.act(action, record, at, batches)
    }

    fn act<B: Batches>(&mut self, action: Action, record: Record, at: Cursor, batches: &mut B) -> Result<()> {
        match action {
            Action::Ignore => {}
            Action::Replay => {
                self.events.push(Event::Replayed { at });
                self.before(record, at, batches)?;
            }
            Action::Skip => {
                self.events.push(Event::Skipped { at });
                self.skipped.push(at);
                self.incident.iter_mut().for_each(|incident| incident.skipped.push(at));
                self.before(record, at, batches)?;
            }
            Action::Rewind { generations } => self.rewind(generations as usize, batches)?,
            Action::LowerRate => {
                self.rewind(usize::MAX, batches)?;
                self.factor *= self.policy.lower_by;
                self.optimizer.begin_anew(self.factor, self.policy.warm_up)?;
                self.events.push(Event::LearningRateLowered { factor: self.factor });
            }
            Action::Stop(budget) => {
                self.events.push(Event::GaveUp { budget });
                self.before(record, at, batches)?;
                let tally = self.incident.take().map_or_else(Tally::default, |incident| incident.tally);
                return Err(Error::GaveUp { at, record: Box::new(record), budget, tally });
            }
        }
        Ok(())
    }

    /// Goes to the state before a refused step: it is in place, unless the update has partly been written. Then the newest
    /// snapshot is, and the steps from there on run again.
    fn before<B: Batches>(&mut self, record: Record, at: Cursor, batches: &mut B) -> Result<()> {
        if record.tentative {
            return self.restore(0, batches);
        }
        self.optimizer.release()?;
        batches.seek(at)
    }

    /// Goes back to a snapshot, and takes back the batches that the incident has left out.
    fn rewind<B: Batches>(&mut self, generations: usize, batches: &mut B) -> Result<()> {
        if let Some(incident) = &mut self.incident {
            let back = std::mem::take(&mut incident.skipped);
            self.skipped.retain(|cursor| !back.contains(cursor));
        }
        self.restore(generations, batches)
    }

    fn restore<B: Batches>(&mut self, generations: usize, batches: &mut B) -> Result<()> {
        match self.ring.restore(generations, &mut (&mut self.optimizer, &mut *batches))? {
            Some(attempt) => {
                self.events.push(Event::Rewound { attempt, to: batches.cursor() });
                self.last_snapshot = self.optimizer.gate().attempts();
            }
            // Without snapshots the state is what it is.
            None => self.optimizer.release()?,
        }
        Ok(())
    }

    fn save<B: Batches>(&mut self, batches: &mut B) -> Result<()> {
        let attempt = self.optimizer.gate().attempts();
        self.ring.save(attempt, &mut (&mut self.optimizer, batches))?;
        self.last_snapshot = attempt;
        Ok(())
    }

    /// Waits for the records of all steps so far, as [`Guard::take_records`] then tells them, and answers to a refused step among them, which takes its batch back: the
    /// next call of [`Guard::step`] runs it. For the end of a run that does not end with an epoch.
    ///
    /// # Errors
    /// As [`Guard::step`].
    pub fn finish<B: Batches>(&mut self, batches: &mut B) -> Result<()> {
        self.collect()?;
        self.take_in(batches)
    }

    /// Records that no report has told yet, oldest first: after the end of an epoch, those of its last steps.
    pub fn take_records(&mut self) -> Vec<Record> {
        std::mem::take(&mut self.records)
    }

    /// What has happened and no report has told yet: after the end of an epoch, or an error.
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// The optimizer.
    pub fn optimizer(&self) -> &Optimizer {
        &self.optimizer
    }

    /// The snapshots.
    pub fn ring(&self) -> &Ring {
        &self.ring
    }

    /// What the run has taken so far.
    pub fn tally(&self) -> Tally {
        self.run
    }

    /// The batches left out so far, in the order in which they were.
    pub fn skipped(&self) -> &[Cursor] {
        &self.skipped
    }
}

/// What it was, as what helped tells.
fn cause(tally: Tally, last: Action) -> Cause {
    match last {
        _ if tally.lowerings > 0 => Cause::LearningRate,
        Action::Skip => Cause::Data,
        Action::Rewind { .. } => Cause::State,
        _ => Cause::Passing,
    }
}

fn is_data(error: &everstep_optim::Error) -> bool {
    use everstep_optim::Error as Optim;
    matches!(error, Optim::Tensor(everstep_tensor::Error::Device(everstep_device::Error::OutOfRange { .. })))
}

impl std::fmt::Debug for Guard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Guard({:?}, {:?})", self.optimizer, self.run)
    }
}
