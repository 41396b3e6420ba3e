//! Steps that go on whatever happens.

use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;
use std::time::Instant;

use everstep_data::Cursor;
use everstep_device::DeviceKind;
use everstep_nn::Module;
use everstep_optim::{Optimizer, Rule};
use everstep_tensor::{Record, Snapshot, StepOptions, Tensor, Verdict};

use crate::attempt::is_data;
use crate::captures::Captures;
use crate::chaos::{Chaos, Plan};
use crate::durable::Durable;
use crate::layout::Names;
use crate::log::Log;
use crate::mirror::Mirror;
use crate::pace::{self, Pace};
use crate::recover::{Case, Incident};
use crate::state::{Memory, Progress, Seen, Whole};
use crate::supervise::heartbeat;
use crate::watchdog::{Phase, Watchdog};
use crate::{
    Answer, Batches, Diagnosis, Error, Event, Origin, Place, Policy, Report, Result, Resumed, Ring, Shutdown, Tally,
    Trend,
};

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
    pub(crate) optimizer: Optimizer,
    pub(crate) names: Names,
    pub(crate) policy: Policy,
    pub(crate) ring: Ring,
    pub(crate) progress: Progress,
    pub(crate) seen: Seen,
    pub(crate) memory: Memory,
    // Steps whose records are not in yet.
    pub(crate) under_way: VecDeque<UnderWay>,
    pub(crate) incident: Option<Incident>,
    // What is to be examined when a batch can be run.
    pub(crate) case: Option<Case>,
    // The step that is looked at op by op when it runs again, and what that has shown.
    pub(crate) replaying: Option<Place>,
    pub(crate) found: Vec<Origin>,
    pub(crate) captures: Captures,
    // Whether the next step may be a captured one.
    pub(crate) may_capture: bool,
    pub(crate) last_snapshot: u64,
    // Records that nobody has looked at.
    pub(crate) inbox: VecDeque<Record>,
    // Those of the next report.
    pub(crate) records: Vec<Record>,
    pub(crate) events: Vec<Event>,
    pub(crate) diagnoses: Vec<Diagnosis>,
    pub(crate) chaos: Option<Chaos>,
    pub(crate) log: Log,
    pub(crate) mirror: Mirror,
    pub(crate) durable: Option<Durable>,
    pub(crate) resumed: Option<Resumed>,
    // Whether the state at the start is that of a trusted checkpoint.
    pub(crate) trusts_start: bool,
    pub(crate) shutdown: Shutdown,
    // Times that the device was lost.
    pub(crate) losses: u32,
    pub(crate) watchdog: Option<Watchdog>,
    started: bool,
    // Whether the program has had the optimizer in its hands since an epoch ended.
    pub(crate) touched: bool,
    // What learned when the epoch ended behind which the next step comes.
    pub(crate) between_epochs: Option<Vec<(usize, Range<usize>)>>,
    // What the program had set when an epoch was over that runs again, and which epoch then began.
    pub(crate) set_later: Option<(u64, Snapshot)>,
    pace: Pace,
}

/// A step whose record is not in yet.
pub(crate) struct UnderWay {
    pub(crate) attempt: u64,
    pub(crate) place: Place,
    // Its largest learning rate.
    pub(crate) rate: f64,
}

/// What came of asking for a batch.
enum Pulled<T> {
    Batch(Place, T),
    // The epoch is over, and every step of it is known to be healthy.
    End,
    // The epoch was over, and a refused step has taken its batch back.
    Back,
}

impl Guard {
    /// A guard of `model`, whose parameters move into the arena of an optimizer by `rule`.
    ///
    /// # Errors
    /// Those of [`Rule::build`]; [`Error::Setting`].
    pub fn new(model: &impl Module, rule: impl Rule, policy: Policy) -> Result<Self> {
        Self::with_optimizer(model, rule.build(model)?, policy)
    }

    /// A guard of an optimizer of `model` that is there: with a schedule, parameter groups, clipping. Its options of the step
    /// become the policy's, but for the clipping and the loss scale.
    ///
    /// # Errors
    /// [`Error::Setting`]; those of [`Optimizer::with_options`].
    pub fn with_optimizer(model: &impl Module, optimizer: Optimizer, policy: Policy) -> Result<Self> {
        if let Some((field, rule)) = policy.problem() {
            return Err(Error::Setting { field, rule });
        }
        policy.slow.check()?;
        let on_fault = if policy.answer == Answer::Ignore { Verdict::Reject } else { Verdict::Hold };
        let Policy { in_flight, detection, .. } = policy;
        let options = StepOptions { on_fault, in_flight, detection, ..optimizer.options() };
        Ok(Self {
            optimizer: optimizer.with_options(options)?,
            names: Names::of(model),
            policy,
            // A slow fault is seen up to three windows late.
            ring: Ring::new(policy.snapshots).reaching(3 * u64::from(policy.slow.window)),
            progress: Progress::default(),
            seen: Seen::new(Trend::new(policy.slow)),
            memory: Memory::default(),
            under_way: VecDeque::new(),
            incident: None,
            case: None,
            replaying: None,
            found: Vec::new(),
            captures: Captures::default(),
            may_capture: false,
            last_snapshot: 0,
            inbox: VecDeque::new(),
            records: Vec::new(),
            events: Vec::new(),
            diagnoses: Vec::new(),
            chaos: None,
            log: Log::default(),
            mirror: Mirror::default(),
            durable: None,
            resumed: None,
            trusts_start: false,
            shutdown: Shutdown::default(),
            losses: 0,
            watchdog: None,
            started: false,
            touched: false,
            between_epochs: None,
            set_later: None,
            pace: Pace::default(),
        })
    }

    /// Makes the faults of `plan` as the run goes. Every report says so.
    ///
    /// # Errors
    /// [`Error::Plan`] for a fault that cannot be; where its place is not there, the step says so when it is due.
    pub fn with_chaos(mut self, plan: Plan) -> Result<Self> {
        self.chaos = Some(Chaos::new(plan)?);
        Ok(self)
    }

    /// Pulls a batch, and runs and judges a step on the loss that `forward` makes of it. `None` at the end of an epoch, once
    /// every step of it is known to be healthy. What a report tells is about earlier steps, too: records come late.
    ///
    /// `forward` may be called again for a batch, in the order of another time, and for a part of it: it depends on its batch,
    /// the model, and nothing else that changes. It may also not be called: once it has done the same work twice for batches of
    /// one shape, that is run again as it was recorded, unless [`Policy::capture`] is off. So it decides nothing by what the host
    /// knows of a batch, such as its ids; what it does by the tensors' values, it does in ops. Calls that check whether it still
    /// does the same come at the beginning of an epoch and every 512 steps.
    ///
    /// # Errors
    /// Those of `forward` and of the batches: the state is as it was, and another call tries the batch again.
    /// [`Error::GaveUp`]; [`Error::Stopped`] after [`Guard::stop_on`]; that of a lost device where there is no copy of the state
    /// elsewhere, or its budget is used up.
    pub fn step<B: Batches, E: From<Error>>(
        &mut self,
        batches: &mut B,
        mut forward: impl FnMut(&B::Batch) -> Result<Tensor, E>,
    ) -> Result<Option<Report>, E> {
        let outcome = loop {
            match self.step_once(batches, &mut forward) {
                Err(error) if !self.outlive(batches)? => break Err(error),
                Err(_) => {}
                outcome => break outcome,
            }
        };
        self.enter(Phase::Outside);
        outcome
    }

    /// A step on the device as it is.
    fn step_once<B: Batches, E: From<Error>>(
        &mut self,
        batches: &mut B,
        forward: &mut impl FnMut(&B::Batch) -> Result<Tensor, E>,
    ) -> Result<Option<Report>, E> {
        self.stop_if_asked(batches)?;
        if !self.started {
            self.begin(batches)?;
        } else if self.was_changed_between_epochs() {
            // What a program does between epochs is not done again.
            self.save_for_good(batches)?;
            self.between_epochs = None;
        } else if self.is_snapshot_due() {
            // Not at the end of the step before: what the program has counted since then belongs to it.
            self.save(batches)?;
        }
        let (place, mut batch) = loop {
            if let Some(case) = self.case.take() {
                heartbeat::rest();
                self.examine(case, batches, forward)?;
            }
            match self.pull(batches)? {
                Pulled::Batch(place, batch) => break (place, batch),
                Pulled::End => {
                    heartbeat::rest();
                    (self.touched, self.between_epochs) = (false, Some(self.optimizer.arena().trainable()));
                    return Ok(None);
                }
                Pulled::Back => {}
            }
        };
        heartbeat::beat(place.step);
        let looks = self.replaying.take_if(|replaying| replaying.step == place.step).is_some();
        if looks {
            // Each op is read back: that takes as long as it takes.
            self.enter(Phase::Outside);
        }
        self.may_capture = self.policy.capture;
        let outcome = self.attempt::<B, E>(place, &mut batch, forward, looks);
        self.may_capture = false;
        match outcome {
            Ok(found) if looks => self.found = found,
            Ok(_) => {}
            Err(error) => {
                self.seek(place, batches)?;
                return Err(error);
            }
        }
        self.take_in(batches)?;
        self.pace.step_ended();
        self.turn_copies(batches)?;
        let (records, events) = (self.take_records(), self.take_events());
        Ok(Some(Report { place, records, events, chaos: self.chaos.is_some() }))
    }

    /// Whether the program has changed the optimizer, or what learns, since an epoch ended.
    fn was_changed_between_epochs(&mut self) -> bool {
        let trainable = || self.optimizer.arena().trainable();
        let changed = self.between_epochs.as_ref().is_some_and(|before| self.touched || *before != trainable());
        if !changed {
            self.between_epochs = None;
        }
        changed
    }

    /// What comes before the first step of this process.
    fn begin<B: Batches>(&mut self, batches: &mut B) -> Result<()> {
        self.save_first(batches)?;
        if self.trusts_start {
            self.ring.trust(self.optimizer.gate().attempts(), 0);
        }
        self.keep_copy()?;
        self.watchdog = self.policy.watchdog.and_then(|config| self.watch_over(config));
        self.started = true;
        Ok(())
    }

    /// Whether the host keeps a copy of its own: the CPU engine's snapshots lie there.
    pub(crate) fn has_mirror(&self) -> bool {
        self.policy.mirror && self.optimizer.device().info().kind == DeviceKind::Gpu
    }

    /// The next batch that is not left out, without the samples that are.
    fn pull<B: Batches>(&mut self, batches: &mut B) -> Result<Pulled<B::Batch>> {
        loop {
            let place = Place { step: self.progress.pulled + 1, cursor: batches.cursor() };
            self.enter(Phase::Loading);
            let batch = batches.next_batch()?;
            self.enter(Phase::Computing);
            match batch {
                Some(batch) => {
                    self.progress.pulled += 1;
                    if !self.memory.skipped.contains(&place.cursor)
                        && let Some(batch) = self.without_quarantined::<B>(batch)?
                    {
                        return Ok(Pulled::Batch(place, batch));
                    }
                }
                None => {
                    let next = batches.cursor();
                    self.collect()?;
                    self.take_in(batches)?;
                    if batches.cursor() != next || self.case.is_some() {
                        return Ok(Pulled::Back);
                    }
                    // A rewind may come to the end of an epoch again, but a program that counts epochs is told once.
                    if next.epoch > self.memory.ended {
                        self.memory.ended = next.epoch;
                        return Ok(Pulled::End);
                    }
                    self.set_again(next.epoch, batches)?;
                }
            }
        }
    }

    /// A batch without the samples that are left out; `None` where none are left.
    pub(crate) fn without_quarantined<B: Batches>(&self, batch: B::Batch) -> Result<Option<B::Batch>> {
        if self.memory.quarantined.is_empty() {
            return Ok(Some(batch));
        }
        let samples = B::samples(&batch);
        let stays = |row: &usize| !self.memory.quarantined.contains(&samples[*row]);
        let rows: Vec<_> = (0..samples.len()).filter(stays).collect();
        if rows.len() == samples.len() {
            return Ok(Some(batch));
        }
        if rows.is_empty() { Ok(None) } else { B::part(&batch, &rows) }
    }

    /// Waits for the records of all steps so far.
    pub(crate) fn collect(&mut self) -> Result<()> {
        while self.optimizer.gate().is_behind() {
            match self.optimizer.finish() {
                Ok(records) => self.inbox.extend(records),
                Err(error) if is_data(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.inbox.extend(self.optimizer.take_records());
        Ok(())
    }

    /// Looks at the records that have come, in order, and answers to the faulty steps among them.
    pub(crate) fn take_in<B: Batches>(&mut self, batches: &mut B) -> Result<()> {
        self.inbox.extend(self.optimizer.take_records());
        while let Some(record) = self.inbox.pop_front() {
            self.records.push(record);
            let known = self.under_way.front().is_some_and(|step| step.attempt == u64::from(record.attempt));
            // Others are of a step before a restore.
            let Some(step) = known.then(|| self.under_way.pop_front()).flatten() else { continue };
            self.log.take(&record, step.place);
            match record.faults {
                0 => {
                    self.seen.highest_rate = self.seen.highest_rate.max(step.rate);
                    (self.seen.loss, self.seen.norm) = (Some(record.loss), Some(record.norm));
                    self.healthy(record, &step, batches)?;
                }
                // A loss scale that was too large: the device has lowered it, and goes on.
                _ if record.verdict == Verdict::Reject && self.policy.answer != Answer::Ignore => {
                    self.events.push(Event::Rejected { place: step.place, committed: false });
                }
                _ => self.refused(record, &step, batches)?,
            }
            // A copy made while this record was under way.
            self.ring.amend(step.attempt, "seen", &mut self.seen)?;
        }
        Ok(())
    }

    /// The next batch is that of `place`.
    pub(crate) fn seek<B: Batches>(&mut self, place: Place, batches: &mut B) -> Result<()> {
        self.progress.pulled = place.step - 1;
        batches.seek(place.cursor)
    }

    pub(crate) fn save<B: Batches>(&mut self, batches: &mut B) -> Result<()> {
        let attempt = self.optimizer.gate().attempts();
        self.note_place(batches);
        let Self { optimizer, progress, seen, memory, ring, .. } = self;
        ring.save(attempt, &mut Whole { optimizer, progress, seen, batches, memory: Some(memory) })?;
        self.last_snapshot = attempt;
        Ok(())
    }

    /// What a copy says of the step that comes next.
    pub(crate) fn note_place<B: Batches>(&mut self, batches: &B) {
        self.progress.next = Some(Place { step: self.progress.pulled + 1, cursor: batches.cursor() });
    }

    /// A snapshot of a state that is known to be as healthy as a trusted one.
    pub(crate) fn save_trusted<B: Batches>(&mut self, batches: &mut B) -> Result<()> {
        self.save(batches)?;
        self.ring.trust(self.optimizer.gate().attempts(), 0);
        Ok(())
    }

    /// The same, of which the host has a copy before anything else happens: what came before it is another run by now.
    pub(crate) fn save_for_good<B: Batches>(&mut self, batches: &mut B) -> Result<()> {
        self.save_trusted(batches)?;
        self.durable.iter_mut().for_each(Durable::forget_copy);
        self.keep_copy()
    }

    /// Copies the newest snapshot into the host's memory, and waits for it. A host without room for it is told.
    fn keep_copy(&mut self) -> Result<()> {
        let outcome = if self.has_mirror() { self.mirror.keep(&self.ring) } else { Ok(()) };
        match outcome {
            Err(error) if self.optimizer.device().lost().is_none() => {
                self.events.push(Event::SaveFailed { problem: error.to_string() });
                Ok(())
            }
            outcome => Ok(outcome?),
        }
    }

    fn is_snapshot_due(&self) -> bool {
        let Policy { interval, snapshot_cost, .. } = self.policy;
        let affordable = snapshot_cost.map_or(0, |share| self.pace.interval(share));
        let due = self.last_snapshot + interval.max(affordable);
        interval > 0 && self.incident.is_none() && self.optimizer.gate().attempts() >= due
    }

    /// The snapshot of the start, and what one costs.
    fn save_first<B: Batches>(&mut self, batches: &mut B) -> Result<()> {
        self.save(batches)?;
        // One alone would stay that of the start.
        let least = if self.durable.is_some() || self.has_mirror() { 2 } else { 1 };
        self.ring.limit(self.policy.snapshots, self.policy.snapshot_bytes, least);
        if self.policy.interval == 0 || self.ring.kept().is_empty() {
            return Ok(());
        }
        if self.optimizer.device().info().kind == DeviceKind::Gpu {
            self.pace.snapshot_takes(pace::on_gpu(self.ring.bytes()));
            return Ok(());
        }
        // Once more: the CPU engine copies in the call, and this time the memory is there.
        self.ring.forget_from(0);
        let start = Instant::now();
        self.save(batches)?;
        self.pace.snapshot_takes(start.elapsed());
        Ok(())
    }

    /// Records that no report has told yet, oldest first: after the end of an epoch, those of its last steps.
    pub fn take_records(&mut self) -> Vec<Record> {
        std::mem::take(&mut self.records)
    }

    /// What has happened and no report has told yet: after the end of an epoch, or an error.
    pub fn take_events(&mut self) -> Vec<Event> {
        self.log.tell(self.optimizer.gate().attempts(), &self.events);
        std::mem::take(&mut self.events)
    }

    /// The optimizer.
    pub fn optimizer(&self) -> &Optimizer {
        &self.optimizer
    }

    /// The optimizer, for what is changed on purpose: a learning rate, a plateau's metric. Its steps are the guard's.
    pub fn optimizer_mut(&mut self) -> &mut Optimizer {
        self.touched = true;
        self.captures.check_all();
        &mut self.optimizer
    }

    /// The snapshots.
    pub fn ring(&self) -> &Ring {
        &self.ring
    }

    /// What the run has taken so far.
    pub fn tally(&self) -> Tally {
        self.memory.run
    }

    /// The batches left out so far, in the order in which they were.
    pub fn skipped(&self) -> &[Cursor] {
        &self.memory.skipped
    }

    /// The ids of the samples that are left out.
    pub fn quarantined(&self) -> &BTreeSet<u64> {
        &self.memory.quarantined
    }

    /// What is known of each incident that is over, oldest first.
    pub fn diagnoses(&self) -> &[Diagnosis] {
        &self.diagnoses
    }

    /// How the run is guarded.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }
}

impl std::fmt::Debug for Guard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Guard({:?}, {:?})", self.optimizer, self.memory.run)
    }
}
