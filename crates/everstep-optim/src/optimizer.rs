//! What all optimizers share: the arena, the gate, the schedule; a rule is what differs.

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;

use everstep_device::{Buffer, Command, Device, Work};
use everstep_nn::Module;
use everstep_tensor::{
    Arena, LossScale, Parameter, Precision, Record, State, StepGate, StepOptions, Tensor, Verdict, Visit,
};

use crate::error::check;
use crate::rates::{Adjustments, Anew, Rates, Settings};
use crate::{Error, LearningRate, Plateau, ReduceOnPlateau, Result, Rule, Span};

/// Updates the parameters of a model, one judged step at a time.
///
/// ```
/// # use everstep_nn::{Linear, Module};
/// # use everstep_optim::{Rule, Sgd};
/// # use everstep_tensor::{Device, Generator, Tensor};
/// # let device = Device::cpu();
/// let model = Linear::new(1, 1, &mut Generator::new(0), &device)?;
/// let mut optimizer = Sgd::new(0.1).momentum(0.9).build(&model)?;
/// let x = Tensor::from_slice(&[0.0f32, 1.0, 2.0, 3.0], &[4, 1], &device)?;
/// let y = Tensor::from_slice(&[1.0f32, 3.0, 5.0, 7.0], &[4, 1], &device)?;
/// for _ in 0..200 {
///     let error = model.forward(&x)?.sub(&y)?;
///     let loss = error.mul(&error)?.mean_all()?;
///     loss.backward()?;
///     optimizer.step(&loss)?;
/// }
/// assert!((model.weight.tensor().item::<f32>()? - 2.0).abs() < 1e-3);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Optimizer {
    arena: Arena,
    states: Vec<Buffer>,
    // One per group.
    rules: Vec<Box<dyn Rule>>,
    gate: StepGate,
    options: StepOptions,
    rates: Rates,
    plateau: Option<Plateau>,
    schedule_changed: bool,
    // What the last step updated, and the parameters' version after it: others say that the state was changed on purpose.
    updated: Option<Updated>,
    clip_value: f32,
    pub(crate) precision: Precision,
    delivered: VecDeque<Record>,
    // Memory for records that come in: empty between calls.
    arrived: Vec<Record>,
}

/// What a step has updated.
struct Updated {
    // Ranges of elements, each with its group.
    trainable: Vec<(usize, Range<usize>)>,
    // Of the arena after it.
    version: u64,
}

impl Optimizer {
    /// An optimizer of all parameters of `model`.
    ///
    /// # Errors
    /// As [`Rule::build`].
    pub fn new(rule: impl Rule, model: &impl Module) -> Result<Self> {
        Self::from_groups(vec![Box::new(rule)], &[model.parameters()], model)
    }

    /// An optimizer of `members`, parameters of `model`, each group by its own rule.
    pub(crate) fn from_groups(
        rules: Vec<Box<dyn Rule>>,
        members: &[Vec<Parameter>],
        model: &impl Module,
    ) -> Result<Self> {
        rules.iter().try_for_each(|rule| rule.check())?;
        let buffers: Vec<_> = model.named_buffers().into_iter().map(|(_, buffer)| buffer).collect();
        let arena = Arena::with_buffers(members, &buffers)?;
        let states = rules.iter().map(|rule| rule.states()).max().unwrap_or(0);
        let states = (0..states).map(|_| arena.state()).collect::<Result<_, _>>()?;
        let options = StepOptions::default();
        let gate = StepGate::new(arena.device(), arena.groups().len(), options)?;
        model.random_streams().iter().for_each(|stream| gate.adopt(stream));
        Ok(Self {
            arena,
            states,
            rules,
            gate,
            options,
            rates: Rates::default(),
            plateau: None,
            schedule_changed: true,
            updated: None,
            clip_value: f32::MAX,
            precision: Precision::F32,
            delivered: VecDeque::with_capacity(everstep_device::control::WINDOW),
            arrived: Vec::with_capacity(everstep_device::control::WINDOW),
        })
    }

    /// Scales gradients so that their norm over all parameters is at most `max_norm`.
    ///
    /// # Errors
    /// [`everstep_tensor::Error::Argument`] where it is not positive.
    pub fn clip_norm(self, max_norm: f32) -> Result<Self> {
        let options = StepOptions { max_norm: Some(max_norm), ..self.options };
        self.with_options(options)
    }

    /// Limits each element of the gradients to at most `max_value` in magnitude, after their norm was clipped and before
    /// penalties are added (PyTorch's `clip_grad_value_` after `clip_grad_norm_`). A NaN or an infinity is seen before,
    /// and its step refused: it is never limited away.
    ///
    /// # Errors
    /// [`crate::Error::Setting`] where it is not a positive number of f32.
    pub fn clip_value(mut self, max_value: f32) -> Result<Self> {
        let valid = max_value > 0.0 && max_value.is_finite();
        check("Optimizer", "clip_value", max_value.into(), valid, "finite and more than 0")?;
        self.clip_value = max_value;
        Ok(self)
    }

    /// Multiplies the loss in [`Optimizer::backward`], for gradients of half precision.
    ///
    /// # Errors
    /// [`everstep_tensor::Error::Argument`].
    pub fn loss_scale(self, scale: LossScale) -> Result<Self> {
        let options = StepOptions { loss_scale: Some(scale), ..self.options };
        self.with_options(options)
    }

    /// The backward pass of `loss`, multiplied by the loss scale where there is one: what [`Optimizer::step`] then takes apart
    /// again. Without one it is [`Tensor::backward`].
    ///
    /// # Errors
    /// As [`Tensor::backward`].
    pub fn backward(&self, loss: &Tensor) -> Result<()> {
        match self.gate.loss_scale() {
            None => loss.backward()?,
            Some(scale) => loss.mul(&scale.reshape(&loss.shape()[..])?)?.backward()?,
        }
        Ok(())
    }

    /// How steps are judged and how far the host may run ahead.
    ///
    /// # Errors
    /// [`everstep_tensor::Error::Argument`] where an option is out of range.
    pub fn with_options(mut self, options: StepOptions) -> Result<Self> {
        self.gate.set_options(options)?;
        self.options = options;
        Ok(self)
    }

    /// The learning rate as a function of the number of committed steps: a [`crate::Schedule`], which scales each group's
    /// own rate, or a closure, which gives all groups one rate. A refused step does not advance it. A step whose rate is
    /// not finite is refused.
    #[must_use]
    pub fn schedule(mut self, schedule: impl LearningRate) -> Self {
        (self.rates.schedule, self.rates.constant) = (Box::new(schedule), None);
        self.schedule_changed = true;
        self
    }

    /// One learning rate for all groups from the next step on.
    pub fn set_learning_rate(&mut self, learning_rate: f64) {
        self.rates.constant = Some(learning_rate);
        self.schedule_changed = true;
    }

    /// Lowers the learning rate, whatever its schedule, when a metric given to [`Optimizer::observe`] no longer improves.
    ///
    /// # Errors
    /// [`crate::Error::Setting`].
    pub fn reduce_on_plateau(mut self, config: ReduceOnPlateau) -> Result<Self> {
        self.plateau = Some(config.start()?);
        Ok(self)
    }

    /// Takes in the metric's value at committed step `step`: a record's loss with its `committed`, or a validation loss
    /// after [`Optimizer::finish`] with the gate's `committed`. Returns the factor on the rate from committed step
    /// `step` + delay on.
    ///
    /// ```
    /// # use everstep_nn::{Linear, Module};
    /// # use everstep_optim::{ReduceOnPlateau, Rule, Sgd};
    /// # use everstep_tensor::{Device, Generator, Tensor};
    /// # let device = Device::cpu();
    /// let model = Linear::new(2, 1, &mut Generator::new(0), &device)?;
    /// let plateau = ReduceOnPlateau::new().factor(0.5).patience(3);
    /// let mut optimizer = Sgd::new(0.1).build(&model)?.reduce_on_plateau(plateau)?;
    /// for _ in 0..40 {
    ///     let loss = model.forward(&Tensor::ones(&[4, 2], &device)?)?.mean_all()?.mul_scalar(0.0)?;
    ///     loss.backward()?;
    ///     optimizer.step(&loss)?;
    ///     for record in optimizer.take_records() {
    ///         optimizer.observe(record.committed.into(), record.loss.into())?;
    ///     }
    /// }
    /// assert!(optimizer.learning_rate(0, 60) < 0.1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`crate::Error::NoPlateau`]; [`crate::Error::Late`] where that step may have been recorded already, which cannot
    /// be with a delay of `in_flight` steps or more and values given as they come: nothing is changed.
    pub fn observe(&mut self, step: u64, metric: f64) -> Result<f64> {
        let next = self.gate.latest();
        let plateau = self.plateau.as_mut().ok_or(Error::NoPlateau)?;
        let effect = step.saturating_add(plateau.config().delay);
        if effect < next {
            return Err(Error::Late { step, effect, next });
        }
        let before = plateau.scale();
        let scale = plateau.observe(metric);
        if scale != before {
            // Given out of order, a later value's effect still comes no earlier than an earlier one's.
            let from = self.rates.reductions.last().map_or(effect, |last| effect.max(last.0));
            self.rates.reductions.push((from, scale));
            self.schedule_changed = true;
        }
        Ok(scale)
    }

    /// The learning rate of `group` for the step that follows `committed` committed ones; 0 for a group that is not there.
    pub fn learning_rate(&self, group: usize, committed: u64) -> f64 {
        self.rules.get(group).map_or(0.0, |rule| self.rates.of(&**rule, committed))
    }

    /// From the next step on no learning rate is above `limit`, whatever the schedule says; `None` lifts an earlier limit.
    ///
    /// # Errors
    /// [`crate::Error::Setting`] where the limit is not a positive number.
    pub fn limit_rate(&mut self, limit: Option<f64>) -> Result<()> {
        if let Some(limit) = limit {
            check("Optimizer", "rate limit", limit, limit > 0.0 && limit.is_finite(), "finite and more than 0")?;
        }
        self.schedule_changed |= self.rates.limit != limit;
        self.rates.limit = limit;
        Ok(())
    }

    /// Multiplies every learning rate by `factor` from the next step on, as a faulty schedule would: for planned faults. 1 ends
    /// it.
    pub fn disturb_rate(&mut self, factor: f64) {
        self.schedule_changed |= self.rates.disturbance != factor;
        self.rates.disturbance = factor;
    }

    /// Refuses every step from the next one on, until [`Optimizer::release`] or a restore: their records tell what would have
    /// become of them.
    ///
    /// # Errors
    /// Those of the recording.
    pub fn hold(&mut self) -> Result<()> {
        Ok(self.gate.hold()?)
    }

    /// Zeroes the rule's states (momentum, moments), and from the next step on multiplies every learning rate by `factor`, to
    /// which it rises over `warm_up` steps. It takes the place of an earlier factor, and a restored snapshot keeps it.
    ///
    /// # Errors
    /// [`crate::Error::Setting`] where the factor is not a positive number; those of the recording.
    pub fn begin_anew(&mut self, factor: f64, warm_up: u64) -> Result<()> {
        check("Optimizer", "factor", factor, factor > 0.0 && factor.is_finite(), "finite and more than 0")?;
        self.states.iter().try_for_each(|state| self.arena.zero_state(state))?;
        self.gate.expect_changes()?;
        self.rates.anew = Some(Anew { factor, from: self.gate.latest(), warm_up });
        self.schedule_changed = true;
        Ok(())
    }

    /// Forgets the gradients that backward passes have collected since the last step. A step does so by itself.
    pub fn zero_grad(&self) {
        self.arena.parameters().iter().for_each(Parameter::zero_grad);
    }

    /// Ends a step whose gradients [`Tensor::backward`] has collected: judges it by its gradients and `loss`, and updates
    /// the parameters unless it is refused. The host does not wait for it. Gradients begin anew.
    ///
    /// A parameter that no gradient reached takes part with a gradient of zero: momentum moves it on and weight decay
    /// shrinks it (PyTorch leaves it out). A frozen one keeps its values and its state.
    ///
    /// # Errors
    /// [`everstep_tensor::Error::NotScalar`]; [`everstep_device::Error::OutOfRange`], some steps late, for a step that met
    /// a label or index outside its range: it was refused, and training may go on.
    pub fn step(&mut self, loss: &Tensor) -> Result<()> {
        self.gate.check(loss)?;
        self.prepare()?;
        self.record(loss)?;
        self.deliver()
    }

    /// Records what the next step needs and is not the same in each.
    pub(crate) fn prepare(&mut self) -> Result<()> {
        self.supply()?;
        let Self { arena, gate, updated, .. } = self;
        let Some(last) = updated else { return Ok(()) };
        if last.version != arena.version() || !arena.is_trainable(&last.trainable) {
            gate.expect_changes()?;
            (last.version, last.trainable) = (arena.version(), arena.trainable());
        }
        Ok(())
    }

    /// Records the judgement of a step and its update.
    pub(crate) fn record(&mut self, loss: &Tensor) -> Result<()> {
        self.arena.finish_gradients()?;
        let trainable = self.arena.trainable();
        self.gate.judge(&self.arena, loss)?;
        self.update(&trainable)?;
        self.gate.seal()?;
        self.gate.settle(&self.arena)?;
        self.arena.mark_changed();
        self.updated = Some(Updated { trainable, version: self.arena.version() });
        Ok(())
    }

    /// A step has run again that was captured: what it has left behind.
    pub(crate) fn replayed(&mut self, record: &Tensor) {
        self.gate.replayed(record);
        self.arena.mark_changed();
        if let Some(last) = &mut self.updated {
            last.version = self.arena.version();
        }
    }

    /// Ends a step that [`Optimizer::end_step`] has recorded or [`Optimizer::replay`] has run: the records that are due come in.
    ///
    /// # Errors
    /// As [`Optimizer::step`].
    pub fn deliver(&mut self) -> Result<()> {
        let mut records = std::mem::take(&mut self.arrived);
        let outcome = self.gate.deliver(&mut records);
        self.keep(&mut records);
        self.arrived = records;
        Ok(outcome?)
    }

    /// Gives the gate the schedule rows of the steps to come.
    fn supply(&mut self) -> Result<()> {
        let Self { gate, rules, rates, schedule_changed, .. } = self;
        rates.trim(gate.committed());
        let row = |committed: u64, group: usize| rules[group].row(rates.of(&*rules[group], committed), committed);
        gate.supply(*schedule_changed, row)?;
        self.schedule_changed = false;
        Ok(())
    }

    /// The update kernel over what learns, in windows that a kernel can bind.
    fn update(&self, trainable: &[(usize, Range<usize>)]) -> Result<()> {
        for (group, range) in trainable {
            let rule = &self.rules[*group];
            for (start, count) in self.arena.windows(range.clone()) {
                let part = |buffer: &Buffer| self.arena.window(buffer, start, count).map(|region| region.slice());
                let mut outputs = vec![part(self.arena.values())?];
                for state in self.states.iter().take(rule.states()) {
                    outputs.push(part(state)?);
                }
                outputs.push(self.gate.sums_slice());
                self.arena.device().record(Command {
                    op: rule.name(),
                    work: Work::Kernel(
                        rule.kernel(&Span { clip_value: self.clip_value, ..Span::new(0, count, *group) }),
                    ),
                    inputs: vec![part(self.arena.gradients())?, self.gate.control_slice()],
                    outputs,
                })?;
            }
        }
        Ok(())
    }

    /// Waits for the records of all steps so far and keeps them, of steps with bad data too: their status says so.
    fn collect_records(&mut self) {
        let mut records = Vec::new();
        // Each call that fails has taken the record that it failed about.
        while self.gate.drain(&mut records).is_err() && self.gate.is_behind() {}
        self.keep(&mut records);
    }

    fn keep(&mut self, records: &mut Vec<Record>) {
        for record in records.iter() {
            if record.verdict != Verdict::Commit {
                tracing::warn!(attempt = record.attempt, faults = record.faults, loss = record.loss, "step refused");
            }
        }
        self.delivered.extend(records.drain(..));
        // A program that never takes its records does not collect them for ever.
        while self.delivered.len() > 4096 {
            self.delivered.pop_front();
        }
    }

    /// The records delivered since the last call, oldest first: what became of each step.
    pub fn take_records(&mut self) -> Vec<Record> {
        self.delivered.drain(..).collect()
    }

    /// Waits for the records of all steps so far, and returns those not yet taken.
    ///
    /// # Errors
    /// As [`Optimizer::step`], once for each such step: the records so far can be taken, the next call goes on.
    pub fn finish(&mut self) -> Result<Vec<Record>> {
        let mut records = Vec::new();
        let outcome = self.gate.drain(&mut records);
        self.keep(&mut records);
        outcome?;
        Ok(self.take_records())
    }

    /// Lets steps commit again after a HOLD.
    ///
    /// # Errors
    /// Those of the recording.
    pub fn release(&mut self) -> Result<()> {
        Ok(self.gate.release()?)
    }

    /// The arena.
    pub fn arena(&self) -> &Arena {
        &self.arena
    }

    /// The buffers of the rule's state, each of the arena's size.
    pub fn states(&self) -> &[Buffer] {
        &self.states
    }

    /// How steps are judged.
    pub fn options(&self) -> StepOptions {
        self.options
    }

    /// The rule of each group.
    pub fn rules(&self) -> &[Box<dyn Rule>] {
        &self.rules
    }

    /// The largest magnitude of a gradient's element, `f32::MAX` where there is no limit.
    pub fn clip_limit(&self) -> f32 {
        self.clip_value
    }

    /// The schedule's rate of the first group after 0, 1, 2, 5, 10, .. 500,000 committed steps, whatever was done to it: two
    /// schedules that differ most likely differ here.
    pub fn schedule_samples(&self) -> Vec<f64> {
        let steps = std::iter::once(0).chain((0..6).flat_map(|power| [1, 2, 5].map(|digit| digit * 10u64.pow(power))));
        let base = self.rules.first().map_or(0.0, |rule| rule.learning_rate());
        steps.map(|step| self.rates.schedule.rate(step, base)).collect()
    }

    /// What the program has set while the run goes on: part of a checkpoint.
    pub fn settings(&mut self) -> Settings<'_> {
        Settings { rates: &mut self.rates, plateau: &mut self.plateau, changed: &mut self.schedule_changed }
    }

    /// What was done to the learning rate because of faults: kept by a restore, and part of a checkpoint.
    pub fn adjustments(&mut self) -> Adjustments<'_> {
        Adjustments { rates: &mut self.rates, changed: &mut self.schedule_changed }
    }

    /// The gate.
    pub fn gate(&self) -> &StepGate {
        &self.gate
    }

    /// The device.
    pub fn device(&self) -> &Device {
        self.arena.device()
    }
}

/// The arena, the rule's states, the gate, what a plateau has seen and done, and which parameters learn. The learning rate's
/// schedule is not part of it: it is a function of the committed steps. A restore takes the records that are under way as
/// they come, waits for them, and clears a HOLD; gradients begin anew.
impl State for Optimizer {
    fn visit(&mut self, visit: &mut Visit<'_>) -> everstep_tensor::Result<()> {
        if visit.is_restore() {
            self.collect_records();
        }
        visit.within("arena", &mut self.arena)?;
        for (number, state) in self.states.iter().enumerate() {
            visit.buffer(&format!("state{number}"), state)?;
        }
        visit.within("gate", &mut self.gate)?;
        visit.value("plateau", &mut self.plateau)?;
        visit.value("reductions", &mut self.rates.reductions)?;
        let mut trainable = self.updated.as_ref().map(|last| last.trainable.clone());
        visit.value("trainable", &mut trainable)?;
        if visit.is_restore() {
            let version = self.arena.version();
            self.updated = trainable.map(|trainable| Updated { trainable, version });
            self.schedule_changed = true;
        }
        Ok(())
    }
}

impl fmt::Debug for Optimizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Optimizer({:?}, {} elements, {} steps)", self.rules, self.arena.elements(), self.gate.attempts())
    }
}
