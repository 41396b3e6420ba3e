//! What the examples share: classifiers of digits, progress on a terminal or in plain lines, a hash of a model's parameters.
#![expect(clippy::print_stdout, reason = "examples talk to their user")]

pub mod classifier;
mod durability;

use std::io::IsTerminal;

use everstep::prelude::*;
use indicatif::{ProgressBar, ProgressStyle};

pub use durability::Durability;

/// What a command line can ask for about faults.
#[derive(Clone, Copy, clap::ValueEnum)]
pub enum PolicyName {
    /// Run again, find the cause, leave out, rewind, lower the learning rate.
    Recover,
    /// Stop at the first one.
    Strict,
    /// Tell, and change nothing.
    Observe,
    /// Refuse what is not finite, and go on.
    Off,
}

impl PolicyName {
    /// The policy.
    pub fn policy(self) -> Policy {
        match self {
            Self::Recover => Policy::default(),
            Self::Strict => Policy::strict(),
            Self::Observe => Policy::observe(),
            Self::Off => Policy::off(),
        }
    }
}

/// What a command line can ask for about precision.
#[derive(Clone, Copy, clap::ValueEnum)]
pub enum PrecisionName {
    /// Everything in f32.
    F32,
    /// Products on f16, with a loss scale.
    F16,
    /// Products on bf16.
    Bf16,
}

impl PrecisionName {
    /// The optimizer in this precision.
    ///
    /// # Errors
    /// Those of [`Optimizer::mixed_precision`].
    pub fn apply(self, optimizer: Optimizer) -> everstep::Result<Optimizer> {
        Ok(match self {
            Self::F32 => optimizer,
            Self::F16 => optimizer.mixed_precision(MixedPrecision::f16())?,
            Self::Bf16 => optimizer.mixed_precision(MixedPrecision::bf16())?,
        })
    }
}

/// Shows how an epoch goes: a bar on a terminal, one line per epoch elsewhere.
pub struct Progress {
    bar: Option<ProgressBar>,
    epochs: usize,
    epoch: usize,
    loss: Mean,
}

impl Progress {
    /// For `epochs` epochs, of which so many are over.
    pub fn new(epochs: usize, over: usize) -> Self {
        Self { bar: None, epochs, epoch: over, loss: Mean::new() }
    }

    /// An epoch of `batches` batches begins, or goes on behind `done` of them.
    pub fn begin(&mut self, batches: usize, done: usize) {
        self.epoch += 1;
        self.loss = Mean::new();
        if std::io::stderr().is_terminal() {
            let style = ProgressStyle::with_template("{prefix} {bar:30} {pos}/{len} {msg} {elapsed}");
            let bar = ProgressBar::new(batches as u64).with_prefix(format!("epoch {}/{}", self.epoch, self.epochs));
            let bar = bar.with_position(done as u64);
            self.bar = Some(bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())));
        }
    }

    /// Takes in what became of the steps so far.
    pub fn records(&mut self, records: &[Record]) {
        for record in records {
            if record.verdict == Verdict::Commit {
                self.loss.add(f64::from(record.loss), 1);
            }
        }
        if let Some(bar) = &self.bar {
            bar.set_message(format!("loss {:.4}", self.loss()));
            bar.inc(records.len() as u64);
        }
    }

    /// Tells what has happened to the run.
    pub fn events(&self, events: &[Event]) {
        for event in events {
            match &self.bar {
                // A checkpoint that went well is no news.
                _ if matches!(event, Event::Saved { .. }) => {}
                Some(bar) => bar.println(event.to_string()),
                None => println!("{event}"),
            }
        }
    }

    /// The epoch ends.
    pub fn end(&mut self) {
        match self.bar.take() {
            Some(bar) => bar.finish(),
            None => println!("epoch {}/{}: loss {:.4}", self.epoch, self.epochs, self.loss()),
        }
    }

    /// The mean loss of the epoch's committed steps; NaN before the first.
    pub fn loss(&self) -> f64 {
        self.loss.value().unwrap_or(f64::NAN)
    }
}

/// A hash (FNV-1a, 64 bits) of every bit of a model's parameters: equal runs end with equal hashes.
///
/// # Errors
/// Those of reading back.
pub fn params_hash(model: &impl Module) -> everstep::Result<String> {
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    for parameter in model.parameters() {
        for byte in parameter.tensor().to_vec::<f32>()?.iter().flat_map(|value| value.to_le_bytes()) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    Ok(format!("{hash:016x}"))
}
