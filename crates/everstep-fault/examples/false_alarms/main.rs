//! Trains healthy models under a guard, which should say nothing: whatever it says is a false alarm.
//!
//! ```text
//! cargo run --release -p everstep-fault --example false_alarms -- --steps 10000 --seed 0 --json
//! ```
//! It ends with 1 where there was any.
#![expect(clippy::print_stdout, reason = "examples talk to their user")]

mod models;

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use everstep_fault::{Error, Event};
use everstep_tensor::{Device, Record, Verdict};
use models::{Kind, Result, Training};
use serde::Serialize;

/// Trains healthy models under a guard and counts what it says.
#[derive(Parser)]
pub(crate) struct Args {
    /// Committed steps of each model.
    #[arg(long, default_value_t = 10_000)]
    steps: u64,
    /// Seed of parameters, batches and dropout.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// What the usual learning rates are multiplied by.
    #[arg(long, default_value_t = 1.0)]
    rate: f64,
    /// Samples per step, 32, 16 and 8 unless given.
    #[arg(long)]
    batch: Option<usize>,
    /// The models.
    #[arg(long, value_delimiter = ',', default_value = "mlp,cnn,gpt")]
    models: Vec<Kind>,
    /// The device: auto, cpu, gpu, gpu:0, gpu:NAME.
    #[arg(long, default_value = "cpu")]
    device: String,
    /// One line of JSON per model.
    #[arg(long)]
    json: bool,
}

/// What became of a model.
#[derive(Serialize)]
struct Outcome {
    model: String,
    seed: u64,
    rate: f64,
    steps: u64,
    false_alarms: usize,
    max_loss_score: f32,
    max_norm_score: f32,
    last_loss: f32,
    seconds: f64,
    // The first false alarms in words.
    alarms: Vec<String>,
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    let device = Device::from_name(&args.device)?;
    let mut alarms = 0;
    for &kind in &args.models {
        let outcome = run(kind, &args, &device)?;
        alarms += outcome.false_alarms;
        if args.json {
            println!("{}", serde_json::to_string(&outcome)?);
            continue;
        }
        let Outcome { model, steps, false_alarms, max_loss_score, max_norm_score, last_loss, seconds, .. } = &outcome;
        println!(
            "{model}: {steps} steps in {seconds:.1} s to a loss of {last_loss:.2e}, {false_alarms} false alarms; \
             largest scores {max_loss_score:.2} of a loss, {max_norm_score:.2} of a norm"
        );
        outcome.alarms.iter().for_each(|alarm| println!("  {alarm}"));
    }
    Ok(ExitCode::from(u8::from(alarms > 0)))
}

fn run(kind: Kind, args: &Args, device: &Device) -> Result<Outcome> {
    let Training { mut guard, mut loader, forward } = kind.training(args, device)?;
    let mut outcome = Outcome::new(kind, args);
    let start = Instant::now();
    while outcome.steps < args.steps {
        let (records, events) = match guard.step(&mut loader, &forward) {
            Ok(Some(report)) => (report.records, report.events),
            Ok(None) => (guard.take_records(), guard.take_events()),
            // What it says before is in the events.
            Err(error) if matches!(error.downcast_ref(), Some(Error::GaveUp { .. })) => {
                outcome.take(&guard.take_records(), &guard.take_events());
                break;
            }
            Err(error) => return Err(error),
        };
        outcome.take(&records, &events);
    }
    outcome.seconds = start.elapsed().as_secs_f64();
    Ok(outcome)
}

/// Alarms that are told in words.
const TOLD: usize = 10;

impl Outcome {
    fn new(kind: Kind, args: &Args) -> Self {
        Self {
            model: format!("{kind:?}").to_lowercase(),
            seed: args.seed,
            rate: args.rate,
            steps: 0,
            false_alarms: 0,
            max_loss_score: 0.0,
            max_norm_score: 0.0,
            last_loss: 0.0,
            seconds: 0.0,
            alarms: Vec::new(),
        }
    }

    fn take(&mut self, records: &[Record], events: &[Event]) {
        for record in records.iter().filter(|record| record.verdict == Verdict::Commit) {
            self.steps += 1;
            self.max_loss_score = self.max_loss_score.max(record.loss_score);
            self.max_norm_score = self.max_norm_score.max(record.norm_score);
            self.last_loss = record.loss;
        }
        for event in events {
            self.alarm(match event {
                Event::Detected { record: Record { loss_score, norm_score, .. }, .. } => {
                    format!("{event}, scores {loss_score:.2} of the loss and {norm_score:.2} of the norm")
                }
                _ => event.to_string(),
            });
        }
    }

    fn alarm(&mut self, what: String) {
        let Self { false_alarms, alarms, steps, .. } = self;
        *false_alarms += 1;
        if alarms.len() < TOLD {
            alarms.push(format!("after step {steps}: {what}"));
        }
    }
}
