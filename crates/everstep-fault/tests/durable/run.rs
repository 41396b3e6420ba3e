//! A run that can be left at any step and taken up again.

use std::collections::BTreeMap;

use everstep_data::{Cursor, Loader, LoaderConfig};
use everstep_device::Buffer;
use everstep_fault::chaos::Plan;
use everstep_fault::checkpoint::Storage;
use everstep_fault::{Checkpointing, Error, Event, Guard, Policy};
use everstep_nn::{BatchNorm1d, Dropout, Linear, Module};
use everstep_optim::{AdamW, Rule, Schedule};
use everstep_tensor::{Device, Generator, State, Tensor, Visit};

/// Batches of the run.
pub(crate) const STEPS: u64 = 40;
const BATCH: u64 = 64;

#[derive(Module)]
#[module(crate = everstep_nn)]
pub(crate) struct Model {
    pub(crate) hidden: Linear,
    pub(crate) norm: BatchNorm1d,
    dropout: Dropout,
    pub(crate) output: Linear,
}

impl Model {
    pub(crate) fn new(width: usize, seed: u64, device: &Device) -> Self {
        let mut generator = Generator::new(seed);
        let hidden = Linear::new(64, width, &mut generator, device).unwrap();
        let (norm, dropout) = (BatchNorm1d::new(width, device).unwrap(), Dropout::new(0.2, &mut generator).unwrap());
        Self { hidden, norm, dropout, output: Linear::new(width, 10, &mut generator, device).unwrap() }
    }

    pub(crate) fn loss(&self, x: &Tensor, y: &Tensor) -> Result<Tensor, Error> {
        let hidden = self.hidden.forward(x)?;
        // A batch norm takes no single sample, and a guard that looks for a bad one tries them.
        let hidden = if x.shape()[0] > 1 { self.norm.forward(&hidden)? } else { hidden }.relu()?;
        Ok(self.output.forward(&self.dropout.forward(&hidden)?)?.cross_entropy(y)?)
    }
}

/// What the program itself counts.
#[derive(Default)]
pub(crate) struct Counted {
    pub(crate) samples: u64,
}

impl State for Counted {
    fn visit(&mut self, visit: &mut Visit<'_>) -> everstep_tensor::Result<()> {
        visit.value("samples", &mut self.samples)
    }
}

pub(crate) type Data = (Loader, Counted);

pub(crate) struct Run {
    pub(crate) model: Model,
    pub(crate) guard: Guard,
    pub(crate) data: Data,
    pub(crate) events: Vec<Event>,
    /// The bits of each committed step's loss, by the count of those before it; of one that ran again, the last.
    pub(crate) losses: BTreeMap<u32, u32>,
}

/// Snapshots close together, whatever the machine's speed.
pub(crate) fn policy() -> Policy {
    Policy { interval: 5, snapshot_cost: None, probation: 3, watchdog: None, ..Policy::default() }
}

/// Only what is asked for is saved.
pub(crate) fn on_demand() -> Checkpointing {
    Checkpointing { interval: u64::MAX, ..Checkpointing::default() }
}

pub(crate) fn data(device: &Device) -> Data {
    let config = LoaderConfig::new(BATCH as usize).shuffle(7).prefetch(0);
    (Loader::new(everstep_data::digits().unwrap(), config, device).unwrap(), Counted::default())
}

/// A guard as the tests want it, without checkpoints.
pub(crate) fn guard(model: &Model, policy: Policy, plan: &Plan) -> Guard {
    let rule = AdamW::new(3e-3).build(model).unwrap().clip_norm(1.0).unwrap();
    let guard = Guard::with_optimizer(model, rule.schedule(Schedule::cosine(STEPS, 0.1)), policy).unwrap();
    if plan.faults.is_empty() { guard } else { guard.with_chaos(plan.clone()).unwrap() }
}

impl Run {
    pub(crate) fn new(
        storage: impl Storage + 'static,
        config: Checkpointing,
        plan: &Plan,
        device: &Device,
    ) -> Result<Self, Error> {
        let (model, mut data) = (Model::new(16, 1, device), data(device));
        let guard = guard(&model, policy(), plan).with_checkpoints(storage, config, &mut data)?;
        Ok(Self { model, guard, data, events: Vec::new(), losses: BTreeMap::new() })
    }

    /// One call of the guard.
    pub(crate) fn step(&mut self) -> Result<(), Error> {
        let Self { model, guard, data, events, losses } = self;
        let report = guard.step(data, |batch| model.loss(&batch.x, &batch.y))?;
        let (records, told) = match report {
            Some(report) => {
                data.1.samples += BATCH;
                (report.records, report.events)
            }
            None => (guard.take_records(), guard.take_events()),
        };
        losses.extend(records.iter().filter(|r| r.faults == 0).map(|r| (r.committed, r.loss.to_bits())));
        events.extend(told);
        Ok(())
    }

    /// Steps until so many batches have been pulled, and their records are in.
    pub(crate) fn until(&mut self, steps: u64) -> Result<(), Error> {
        loop {
            while self.pulled() < steps {
                self.step()?;
            }
            let is_done = self.guard.finish(&mut self.data)?;
            self.events.extend(self.guard.take_events());
            let records = self.guard.take_records();
            let healthy = records.iter().filter(|record| record.faults == 0);
            self.losses.extend(healthy.map(|record| (record.committed, record.loss.to_bits())));
            if is_done {
                return Ok(());
            }
        }
    }

    pub(crate) fn pulled(&self) -> u64 {
        let Cursor { epoch, position, .. } = self.data.0.cursor();
        epoch * self.data.0.epoch_batches() as u64 + position.div_ceil(BATCH)
    }

    /// Every bit of the parameters, the running buffers and the optimizer's states.
    pub(crate) fn bits(&self) -> Vec<Vec<u32>> {
        let optimizer = self.guard.optimizer();
        let buffers = optimizer.states().iter().chain([optimizer.arena().values()]);
        let running = self.model.named_buffers().into_iter().map(|(_, buffer)| floats(&buffer.tensor()));
        buffers.map(words).chain(running).collect()
    }
}

fn floats(tensor: &Tensor) -> Vec<u32> {
    tensor.to_vec::<f32>().unwrap().iter().map(|value| value.to_bits()).collect()
}

fn words(buffer: &Buffer) -> Vec<u32> {
    let parts = buffer.device().read(&[buffer.region().slice()]).unwrap().wait().unwrap();
    bytemuck::pod_collect_to_vec(&parts[0])
}
