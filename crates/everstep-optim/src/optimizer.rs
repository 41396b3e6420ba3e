//! What all optimizers share: the arena, the gate, the schedule; a rule is what differs.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use everstep_device::{Buffer, Command, Device, Kernel, Work};
use everstep_nn::Module;
use everstep_tensor::{Arena, Record, StepGate, StepOptions, Tensor, Verdict};

use crate::Result;

/// An update rule: what a step does to a range of the arena.
pub trait Rule: fmt::Debug + Send + Sync + 'static {
    /// Its name.
    fn name(&self) -> &'static str;

    /// Checks the settings.
    ///
    /// # Errors
    /// [`crate::Error::Setting`].
    fn check(&self) -> Result<()>;

    /// The learning rate to begin with.
    fn learning_rate(&self) -> f64;

    /// How many state buffers of the arena's size it keeps.
    fn states(&self) -> usize;

    /// What the kernel needs to know of the step after `committed` committed ones: computed here in f64, read on the
    /// device by the committed counter.
    fn row(&self, learning_rate: f64, committed: u64) -> [f32; 4];

    /// The kernel over the elements `start..start + count` of `group`. Inputs: gradients, control block; outputs: values,
    /// then the states.
    fn kernel(&self, start: usize, count: usize, group: usize) -> Arc<dyn Kernel>;

    /// An optimizer of all parameters of `model`, which move into its arena.
    ///
    /// # Errors
    /// [`crate::Error::Setting`]; those of [`Arena::new`].
    fn build(self, model: &impl Module) -> Result<Optimizer>
    where
        Self: Sized,
    {
        Optimizer::new(self, model)
    }
}

/// The learning rate as a function of the number of committed steps.
type Schedule = Box<dyn Fn(u64) -> f64 + Send + Sync>;

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
    rule: Box<dyn Rule>,
    gate: StepGate,
    options: StepOptions,
    schedule: Schedule,
    schedule_changed: bool,
    delivered: VecDeque<Record>,
}

impl Optimizer {
    /// An optimizer of all parameters of `model`.
    ///
    /// # Errors
    /// As [`Rule::build`].
    pub fn new(rule: impl Rule, model: &impl Module) -> Result<Self> {
        rule.check()?;
        let arena = Arena::new(&[model.parameters()])?;
        let states = (0..rule.states()).map(|_| arena.state()).collect::<Result<_, _>>()?;
        let options = StepOptions::default();
        let gate = StepGate::new(arena.device(), arena.groups().len(), options)?;
        model.random_streams().iter().for_each(|stream| gate.adopt(stream));
        let rate = rule.learning_rate();
        Ok(Self {
            arena,
            states,
            rule: Box::new(rule),
            gate,
            options,
            schedule: Box::new(move |_| rate),
            schedule_changed: true,
            delivered: VecDeque::new(),
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

    /// How steps are judged and how far the host may run ahead.
    ///
    /// # Errors
    /// [`everstep_tensor::Error::Argument`] where an option is out of range.
    pub fn with_options(mut self, options: StepOptions) -> Result<Self> {
        self.gate.set_options(options)?;
        self.options = options;
        Ok(self)
    }

    /// The learning rate as a function of the number of committed steps: a refused step does not advance it. A step
    /// whose rate is not finite is refused.
    #[must_use]
    pub fn schedule(mut self, schedule: impl Fn(u64) -> f64 + Send + Sync + 'static) -> Self {
        self.schedule = Box::new(schedule);
        self.schedule_changed = true;
        self
    }

    /// One learning rate from the next step on.
    pub fn set_learning_rate(&mut self, learning_rate: f64) {
        self.schedule = Box::new(move |_| learning_rate);
        self.schedule_changed = true;
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
        self.arena.finish_gradients()?;
        let (rule, schedule) = (&self.rule, &self.schedule);
        self.gate.supply(self.schedule_changed, |committed, _| rule.row(schedule(committed), committed))?;
        self.schedule_changed = false;
        self.gate.judge(&self.arena, loss)?;
        self.update()?;
        self.arena.mark_changed();
        let mut records = Vec::new();
        let outcome = self.gate.deliver(&mut records);
        self.keep(records);
        Ok(outcome?)
    }

    /// The update kernel over what learns, in windows that a kernel can bind.
    fn update(&self) -> Result<()> {
        for (group, range) in self.arena.trainable() {
            for (start, count) in self.arena.windows(range) {
                let part = |buffer: &Buffer| self.arena.window(buffer, start, count).map(|region| region.slice());
                let mut outputs = vec![part(self.arena.values())?];
                for state in &self.states {
                    outputs.push(part(state)?);
                }
                self.arena.device().record(Command {
                    op: self.rule.name(),
                    work: Work::Kernel(self.rule.kernel(0, count, group)),
                    inputs: vec![part(self.arena.gradients())?, self.gate.control_slice()],
                    outputs,
                })?;
            }
        }
        Ok(())
    }

    fn keep(&mut self, records: Vec<Record>) {
        for record in &records {
            if record.verdict != Verdict::Commit {
                tracing::warn!(attempt = record.attempt, faults = record.faults, loss = record.loss, "step refused");
            }
        }
        self.delivered.extend(records);
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
        self.keep(records);
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

    /// The gate.
    pub fn gate(&self) -> &StepGate {
        &self.gate
    }

    /// The device.
    pub fn device(&self) -> &Device {
        self.arena.device()
    }
}

impl fmt::Debug for Optimizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Optimizer({:?}, {} elements, {} steps)", self.rule, self.arena.elements(), self.gate.attempts())
    }
}
