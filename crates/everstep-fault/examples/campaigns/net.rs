//! The model that the campaigns train, its data, and runs of it with and without a guard.

use everstep_data::{Batch, Cursor, Loader, LoaderConfig};
use everstep_device::Buffer;
use everstep_fault::chaos::Plan;
use everstep_fault::{Batches, Error, Event, Guard, Policy, Result};
use everstep_nn::{Linear, Module};
use everstep_optim::{AdamW, Rule};
use everstep_tensor::{Activation, Device, Generator, Tensor};

/// Samples of a batch.
pub(crate) const BATCH: usize = 64;
/// Steps of a run: one epoch and some of the next.
pub(crate) const STEPS: u64 = 36;

/// Two layers on 8 x 8 digits.
#[derive(Module)]
#[module(crate = everstep_nn)]
pub(crate) struct Net {
    hidden: Linear,
    output: Linear,
}

/// The names of its parameters.
pub(crate) const PARAMETERS: [&str; 4] = ["hidden.weight", "hidden.bias", "output.weight", "output.bias"];

impl Net {
    fn new(seed: u64, device: &Device) -> Result<Self> {
        let mut generator = Generator::new(seed);
        let hidden = Linear::new(64, 16, &mut generator, device)?;
        Ok(Self { hidden, output: Linear::new(16, 10, &mut generator, device)? })
    }

    fn loss(&self, batch: &Batch) -> Result<Tensor> {
        let hidden = self.hidden.forward_with(&batch.x, Activation::Relu)?;
        Ok(self.output.forward(&hidden)?.cross_entropy(&batch.y)?)
    }
}

/// Batches of the digits in a seeded order.
pub(crate) fn loader(seed: u64, device: &Device) -> Result<Loader> {
    Ok(Loader::new(everstep_data::digits()?, LoaderConfig::new(BATCH).shuffle(seed).prefetch(0), device)?)
}

/// What became of a guarded run.
pub(crate) struct Run {
    /// The guard at its end.
    pub(crate) guard: Guard,
    /// What it told.
    pub(crate) events: Vec<Event>,
    /// The error that ended it.
    pub(crate) gave_up: Option<Error>,
    /// Whether every parameter and state is finite at its end.
    pub(crate) was_finite: bool,
}

/// The policy of the campaigns: the default with snapshots that suit short runs.
pub(crate) fn policy() -> Policy {
    Policy { interval: 5, snapshot_cost: None, probation: 5, ..Policy::default() }
}

/// A guarded run of some steps under `plan`.
///
/// # Errors
/// Any but that the guard gave up.
pub(crate) fn run(seed: u64, plan: Plan, policy: Policy, device: &Device) -> Result<Run> {
    let (model, mut batches) = (Net::new(seed, device)?, loader(seed, device)?);
    let mut guard = Guard::new(&model, AdamW::new(3e-3), policy)?.with_chaos(plan)?;
    let (mut events, mut gave_up) = (Vec::new(), None);
    // Twice, because what the last steps' records say may take batches back.
    'run: for _ in 0..2 {
        while next_step(&batches) <= STEPS {
            match guard.step(&mut batches, |batch| model.loss(batch)) {
                Ok(report) => events.extend(report.into_iter().flat_map(|report| report.events)),
                Err(error @ Error::GaveUp { .. }) => {
                    gave_up = Some(error);
                    break 'run;
                }
                Err(error) => return Err(error),
            }
            events.extend(guard.take_events());
        }
        if let Err(error) = guard.finish(&mut batches) {
            gave_up = Some(error);
            break;
        }
        events.extend(guard.take_events());
    }
    events.extend(guard.take_events());
    let was_finite = state(guard.optimizer())?.iter().flatten().all(|&word| f32::from_bits(word).is_finite());
    Ok(Run { guard, events, gave_up, was_finite })
}

/// The number of the batch that comes next.
fn next_step(batches: &Loader) -> u64 {
    let Cursor { epoch, position, .. } = Batches::cursor(batches);
    let whole = batches.epoch_batches() as u64;
    epoch * whole + position.div_ceil(BATCH as u64) + 1
}

/// The bits of a run without a guard, a fault, the batches that `skipped` names and the samples that are `quarantined`.
///
/// # Errors
/// Those of the steps.
pub(crate) fn oracle(seed: u64, skipped: &[Cursor], quarantined: &[u64], device: &Device) -> Result<Vec<Vec<u32>>> {
    let (model, mut batches) = (Net::new(seed, device)?, loader(seed, device)?);
    let mut optimizer = AdamW::new(3e-3).build(&model)?;
    while next_step(&batches) <= STEPS {
        let Some(batch) = Loader::next_batch(&mut batches)? else { continue };
        if skipped.contains(&batch.before) {
            continue;
        }
        let rows: Vec<_> = (0..batch.len()).filter(|&row| !quarantined.contains(&batch.ids[row])).collect();
        let part = if rows.len() < batch.len() { <Loader as Batches>::part(&batch, &rows)? } else { None };
        let loss = model.loss(part.as_ref().unwrap_or(&batch))?;
        loss.backward()?;
        optimizer.step(&loss)?;
    }
    optimizer.finish()?;
    state(&optimizer)
}

/// Every bit of the parameters and the optimizer's states.
///
/// # Errors
/// Those of reading.
pub(crate) fn state(optimizer: &everstep_optim::Optimizer) -> Result<Vec<Vec<u32>>> {
    let words = |buffer: &Buffer| {
        let parts = buffer.device().read_unchecked(&[buffer.region().slice()]).and_then(|read| read.wait());
        let parts = parts.map_err(everstep_tensor::Error::from)?;
        Ok(bytemuck::allocation::pod_collect_to_vec(&parts[0]))
    };
    optimizer.states().iter().chain([optimizer.arena().values()]).map(words).collect()
}
