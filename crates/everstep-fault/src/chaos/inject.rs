//! Making the faults of a plan.

use std::time::Duration;

use everstep_optim::Optimizer;
use everstep_tensor::{Generator, Parameter, Phase, Seen, Tensor};

use super::{Damage, Elements, Fault, Key, Plan, Target};
use crate::{Batches, Error, Place, Result};

/// A plan under way.
#[derive(Debug)]
pub(crate) struct Chaos {
    plan: Plan,
    // Faults that have been made: one that is made once is not made again.
    fired: Vec<bool>,
    // The furthest step so far.
    reached: u64,
}

/// The faults of one attempt.
#[derive(Clone, Debug, Default)]
pub(crate) struct Due {
    // Each with its number in the plan.
    faults: Vec<(usize, Fault)>,
    seed: u64,
    // Those that are made for the first time, in words.
    news: Vec<String>,
    // Ops seen that each fault's target could mean.
    seen: Vec<u64>,
}

impl Chaos {
    pub(crate) fn new(plan: Plan) -> Result<Self> {
        plan.check()?;
        Ok(Self { fired: vec![false; plan.faults.len()], plan, reached: 0 })
    }

    /// The faults of an attempt at `place` with `samples` in its batch.
    pub(crate) fn due(&mut self, place: Place, samples: &[u64]) -> Due {
        self.reached = self.reached.max(place.step);
        let mut due = Due { seed: self.plan.seed ^ place.step << 20, ..Due::default() };
        for (number, fault) in self.plan.faults.iter().enumerate() {
            let now = match fault.key {
                Key::Once => place.step == fault.step && !self.fired[number],
                Key::Step { steps } => (fault.step..fault.step.saturating_add(steps)).contains(&place.step),
                Key::Batch => place.step == fault.step,
                Key::Sample { id } => self.reached >= fault.step && samples.contains(&id),
                Key::From => self.reached >= fault.step,
            };
            if now {
                if !std::mem::replace(&mut self.fired[number], true) {
                    due.news.push(fault.to_string());
                }
                due.faults.push((number, fault.clone()));
            }
        }
        due.seen = vec![0; due.faults.len()];
        due
    }
}

impl Due {
    /// Whether ops must be looked at.
    /// Whether nothing is due.
    pub(crate) fn is_empty(&self) -> bool {
        self.faults.is_empty()
    }

    pub(crate) fn wants_ops(&self) -> bool {
        let is_op = |target: &Target| matches!(target, Target::Activation { .. } | Target::Backward { .. });
        self.faults.iter().any(|(_, fault)| is_op(&fault.target))
    }

    /// Those that are made for the first time, in words.
    pub(crate) fn take_news(&mut self) -> Vec<String> {
        std::mem::take(&mut self.news)
    }

    /// What happens before the step: to the batch, the memory, the learning rate and the time.
    pub(crate) fn before<B: Batches>(
        &self,
        batch: &mut B::Batch,
        optimizer: &mut Optimizer,
        names: &[(String, Parameter)],
    ) -> Result<()> {
        let mut rate = 1.0;
        let samples = B::samples(batch).to_vec();
        for (number, fault) in &self.faults {
            let failed = |problem: &str| fault.failed(*number, problem);
            match (&fault.target, fault.damage) {
                (Target::LearningRate, Damage::Scale { factor }) => rate *= f64::from(factor),
                (Target::Time, Damage::Delay { delay_ms }) => std::thread::sleep(Duration::from_millis(delay_ms)),
                (Target::Labels { classes }, _) => {
                    let change = |y: &mut Tensor| {
                        *y = random_classes(y, *classes, self.seed)?;
                        Ok(())
                    };
                    change_tensor::<B>(batch, "y", change).ok_or_else(|| failed("the batch has no tensor y"))??;
                }
                (Target::Batch { tensor }, _) => {
                    let row = sample_row(fault, &samples);
                    let change = |x: &mut Tensor| {
                        // Another holder of the same memory keeps what it has.
                        *x = x.copy()?;
                        Ok(x.tamper(|elements| fault.damage_row(elements, row, samples.len()))?)
                    };
                    change_tensor::<B>(batch, tensor, change)
                        .ok_or_else(|| failed("the batch has no such tensor"))??;
                }
                (Target::Weight { parameter }, _) => {
                    let parameter = find(names, parameter).ok_or_else(|| fault.no_parameter(*number, names))?;
                    parameter.tensor().detach().tamper(|elements| fault.damage(elements))?;
                }
                (Target::State { number: state, parameter }, _) => {
                    let parameter = find(names, parameter).ok_or_else(|| fault.no_parameter(*number, names))?;
                    let state = optimizer.states().get(*state).ok_or_else(|| failed("there is no such state"))?;
                    let part = optimizer.arena().part_of(state, parameter)?;
                    part.ok_or_else(|| failed("the optimizer has no such parameter"))?
                        .tamper(|elements| fault.damage(elements))?;
                }
                _ => {}
            }
        }
        optimizer.disturb_rate(rate);
        Ok(())
    }

    /// What happens to an op's results.
    pub(crate) fn op(&mut self, seen: &Seen<'_>) -> everstep_tensor::Result<()> {
        let Some(output) = seen.outputs.first().filter(|output| output.dtype().is_float()) else { return Ok(()) };
        for ((_, fault), count) in self.faults.iter().zip(&mut self.seen) {
            let (meant, nth) = match (&fault.target, seen.phase) {
                (Target::Activation { op, nth }, Phase::Forward) => {
                    (op.as_deref().is_none_or(|op| op == seen.op), *nth)
                }
                (Target::Backward { of, nth }, Phase::Backward { of: found, .. }) => {
                    (of.as_deref().is_none_or(|of| of == found), *nth)
                }
                _ => continue,
            };
            if meant && std::mem::replace(count, *count + 1) == nth {
                output.tamper(|elements| fault.damage(elements))?;
            }
        }
        Ok(())
    }

    /// What happens to gradients that are whole.
    pub(crate) fn gradients(&self, names: &[(String, Parameter)]) -> Result<()> {
        for (number, fault) in &self.faults {
            let Target::Gradient { parameter } = &fault.target else { continue };
            let parameter = find(names, parameter).ok_or_else(|| fault.no_parameter(*number, names))?;
            let gradient = parameter.grad().ok_or_else(|| fault.failed(*number, "no gradient reaches it"))?;
            gradient.tamper(|elements| fault.damage(elements))?;
        }
        Ok(())
    }
}

fn find<'a>(names: &'a [(String, Parameter)], name: &str) -> Option<&'a Parameter> {
    names.iter().find(|(known, _)| known == name).map(|(_, parameter)| parameter)
}

/// Changes the batch's tensor of that name; `None` where it has none.
fn change_tensor<B: Batches>(
    batch: &mut B::Batch,
    name: &str,
    mut change: impl FnMut(&mut Tensor) -> Result<()>,
) -> Option<Result<()>> {
    let mut outcome = None;
    B::tensors(batch, &mut |known, tensor| {
        if known == name && outcome.is_none() {
            outcome = Some(change(tensor));
        }
    });
    outcome
}

/// For a fault that follows a sample, its row.
fn sample_row(fault: &Fault, samples: &[u64]) -> Option<usize> {
    let Key::Sample { id } = fault.key else { return None };
    samples.iter().position(|sample| *sample == id)
}

fn random_classes(like: &Tensor, classes: u32, seed: u64) -> Result<Tensor> {
    let mut generator = Generator::new(seed);
    let class = |_| (generator.uniform() * classes as f32) as u32 % classes;
    Ok(Tensor::from_vec((0..like.count()).map(class).collect(), &like.shape()[..], like.device())?)
}

impl Fault {
    fn failed(&self, number: usize, problem: &str) -> Error {
        Error::Plan { number, fault: self.to_string(), problem: problem.into() }
    }

    fn no_parameter(&self, number: usize, names: &[(String, Parameter)]) -> Error {
        let known: Vec<_> = names.iter().map(|(name, _)| &name[..]).collect();
        self.failed(number, &format!("there is no such parameter; there are {}", known.join(", ")))
    }

    /// Changes what it means of `elements`.
    fn damage(&self, elements: &mut [f32]) {
        let Some(last) = elements.len().checked_sub(1) else { return };
        let magnitude = |value: f32| value.to_bits() & 0x7fff_ffff;
        let range = match self.elements {
            Elements::All => 0..=last,
            Elements::Number(number) => {
                let index = (number % elements.len() as u64) as usize;
                index..=index
            }
            Elements::Largest => {
                let index = (0..=last).rev().max_by_key(|&index| magnitude(elements[index])).unwrap_or_default();
                index..=index
            }
        };
        for element in &mut elements[range] {
            *element = match self.damage {
                Damage::Nan => f32::NAN,
                Damage::Infinity => f32::INFINITY,
                Damage::Set { value } => value,
                Damage::Scale { factor } => *element * factor,
                Damage::Flip { bit } => f32::from_bits(element.to_bits() ^ 1 << bit),
                Damage::Random | Damage::Delay { .. } => *element,
            };
        }
    }

    /// Changes row `row` of `rows`, or everything.
    fn damage_row(&self, elements: &mut [f32], row: Option<usize>, rows: usize) {
        match row {
            Some(row) if rows > 0 => {
                let width = elements.len() / rows;
                self.damage(&mut elements[row * width..(row + 1) * width]);
            }
            _ => self.damage(elements),
        }
    }
}
