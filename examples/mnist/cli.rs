//! The command line of `mnist`, its data, and its report.
#![expect(clippy::print_stdout, reason = "an example talks to its user")]

use std::path::PathBuf;
use std::time::Instant;

use clap::Parser;
use everstep::prelude::*;
use everstep_examples::classifier::{Kind, image_size, load};
use everstep_examples::{Durability, PolicyName, PrecisionName, params_hash};

/// Trains a classifier of handwritten digits.
#[derive(Parser)]
pub(crate) struct Args {
    /// Folder with MNIST's four IDX files; the embedded digits without it.
    #[arg(long)]
    data: Option<PathBuf>,
    /// The classifier.
    #[arg(long, value_enum, default_value = "mlp")]
    model: Kind,
    /// `auto`, `cpu`, `gpu`, or `gpu:<index or part of the adapter's name>`.
    #[arg(long, default_value = "auto")]
    device: String,
    /// How often all training images are seen.
    #[arg(long, default_value_t = 30)]
    epochs: usize,
    /// Images per step.
    #[arg(long, default_value_t = 32)]
    batch: usize,
    /// Of the initial parameters and of the order of the images.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Adam's step size.
    #[arg(long, default_value_t = 1e-3)]
    learning_rate: f64,
    /// What products are computed from while it trains.
    #[arg(long, value_enum, default_value = "f32")]
    precision: PrecisionName,
    /// What is done about faulty steps.
    #[arg(long, value_enum, default_value = "recover")]
    policy: PolicyName,
    #[command(flatten)]
    pub(crate) durability: Durability,
    /// Ends with one line of JSON.
    #[arg(long)]
    json: bool,
    /// Says how long after its start the program has done the first step.
    #[arg(long)]
    first_step: bool,
}

/// What was asked for.
pub(crate) struct Run {
    pub(crate) device: Device,
    pub(crate) train: Box<dyn Dataset>,
    pub(crate) test: Box<dyn Dataset>,
    pub(crate) test_batch: usize,
    pub(crate) model: Kind,
    pub(crate) size: [usize; 2],
    pub(crate) batch: usize,
    pub(crate) epochs: usize,
    pub(crate) seed: u64,
    pub(crate) learning_rate: f64,
    pub(crate) precision: PrecisionName,
    pub(crate) policy: Policy,
    pub(crate) durability: Durability,
    pub(crate) report: Report,
    pub(crate) first_step: FirstStep,
}

/// When the first step was done, where that was asked for.
pub(crate) struct FirstStep {
    since: Option<Instant>,
    device: Device,
}

impl FirstStep {
    /// After each step; the first one is waited for and told.
    pub(crate) fn done(&mut self) -> everstep::Result<()> {
        if let Some(start) = self.since.take() {
            self.device.synchronize()?;
            println!("first step after {:.1} ms", start.elapsed().as_secs_f64() * 1e3);
        }
        Ok(())
    }
}

/// What is told at the end.
pub(crate) struct Report {
    device: Device,
    start: Instant,
    json: bool,
}

/// Reads the data, and says which device was chosen.
pub(crate) fn start(args: Args) -> everstep::Result<Run> {
    let begin = Instant::now();
    let device = Device::from_name(&args.device)?;
    println!("device {device}");
    let (train, test) = load(args.data.as_deref())?;
    let size = image_size(&train);
    Ok(Run {
        test_batch: test.len().min(500),
        train,
        test,
        model: args.model,
        size,
        batch: args.batch,
        epochs: args.epochs,
        seed: args.seed,
        learning_rate: args.learning_rate,
        precision: args.precision,
        policy: args.policy.policy(),
        durability: args.durability,
        first_step: FirstStep { since: args.first_step.then_some(begin), device: device.clone() },
        report: Report { device: device.clone(), start: Instant::now(), json: args.json },
        device,
    })
}

impl Report {
    /// Prints parameters, confusion matrix and accuracy, then the line of JSON where it was asked for.
    pub(crate) fn finish(
        &self,
        model: &impl Module,
        optimizer: &Optimizer,
        train_loss: f64,
        confusion: &ConfusionMatrix,
    ) -> everstep::Result<()> {
        let (seconds, accuracy) = (self.start.elapsed().as_secs_f64(), confusion.accuracy());
        println!("{}\n\n{confusion}\ntest accuracy {accuracy:.4} after {seconds:.1} s", model.summary());
        if self.json {
            let result = serde_json::json!({
                "device": self.device.to_string(),
                "test_accuracy": accuracy,
                "train_loss": train_loss,
                "seconds": seconds,
                "steps": optimizer.gate().committed(),
                "params_hash": params_hash(model)?,
            });
            println!("{result}");
        }
        Ok(())
    }
}
