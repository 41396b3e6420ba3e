//! The run that is treated so: a small classifier with everything that a checkpoint has to keep.

use everstep_data::{Loader, LoaderConfig};
use everstep_fault::checkpoint::Storage;
use everstep_fault::{Checkpointing, Event, Guard, Policy, Result};
use everstep_nn::{BatchNorm1d, Dropout, Linear, Module};
use everstep_optim::{AdamW, Rule, Schedule};
use everstep_tensor::{Device, Generator, Tensor};

/// Running statistics, random numbers, a frozen layer.
#[derive(Module)]
#[module(crate = everstep_nn)]
struct Net {
    frozen: Linear,
    norm: BatchNorm1d,
    dropout: Dropout,
    output: Linear,
}

impl Net {
    fn new(device: &Device) -> Result<Self> {
        let mut generator = Generator::new(0);
        let frozen = Linear::new(64, 24, &mut generator, device)?;
        frozen.weight.set_trainable(false);
        let (norm, dropout) = (BatchNorm1d::new(24, device)?, Dropout::new(0.1, &mut generator)?);
        Ok(Self { frozen, norm, dropout, output: Linear::new(24, 10, &mut generator, device)? })
    }

    fn loss(&self, x: &Tensor, y: &Tensor) -> Result<Tensor> {
        let hidden = self.norm.forward(&self.frozen.forward(x)?)?;
        let hidden = self.dropout.forward(&hidden.relu()?)?;
        Ok(self.output.forward(&hidden)?.cross_entropy(y)?)
    }
}

/// How a run saves.
#[derive(Clone, Copy)]
pub(crate) enum Saves {
    /// By itself, as often as it can.
    Often,
    /// When it is told to: each time that so many steps are done.
    Every(u64),
}

/// How a run ended.
pub(crate) struct Ended {
    /// Of every bit of the parameters.
    pub(crate) hash: String,
    pub(crate) events: Vec<Event>,
}

/// Trains until so many batches have been pulled, from the newest checkpoint in `storage` on.
///
/// # Errors
/// Those of opening the storage, and of the steps.
pub(crate) fn train(storage: impl Storage + 'static, steps: u64, saves: Saves) -> Result<Ended> {
    let device = Device::isolated_cpu();
    let model = Net::new(&device)?;
    let data = everstep_data::digits()?;
    let mut data = Loader::new(data, LoaderConfig::new(32).shuffle(7).prefetch(0), &device)?;
    let rule = AdamW::new(3e-3).build(&model)?.clip_norm(1.0)?.schedule(Schedule::cosine(1000, 0.1));
    // Many snapshots, so that there is much to lose.
    let policy = Policy { interval: 8, probation: 4, snapshot_cost: None, watchdog: None, ..Policy::default() };
    let interval = if matches!(saves, Saves::Often) { 0 } else { u64::MAX };
    let config = Checkpointing { interval, write_share: 1.0, ..Checkpointing::default() };
    let mut guard = Guard::with_optimizer(&model, rule, policy)?.with_checkpoints(storage, config, &mut data)?;
    let mut events = guard.take_events();
    loop {
        if pulled(&data) >= steps {
            let is_done = guard.finish(&mut data)?;
            events.extend(guard.take_events());
            if is_done {
                break;
            }
        }
        if let Some(report) = guard.step(&mut data, |batch| model.loss(&batch.x, &batch.y))? {
            events.extend(report.events);
        }
        // One that fails is told, and the run goes on.
        if matches!(saves, Saves::Every(every) if pulled(&data).is_multiple_of(every)) {
            let _ = guard.save_checkpoint(&mut data);
        }
        events.extend(guard.take_events());
    }
    let mut hash = blake3::Hasher::new();
    for parameter in model.parameters() {
        parameter.tensor().to_vec::<f32>()?.iter().for_each(|value| {
            hash.update(&value.to_le_bytes());
        });
    }
    Ok(Ended { hash: hash.finalize().to_hex()[..16].to_owned(), events })
}

/// Batches pulled.
fn pulled(data: &Loader) -> u64 {
    let cursor = data.cursor();
    cursor.epoch * data.epoch_batches() as u64 + cursor.position.div_ceil(32)
}
