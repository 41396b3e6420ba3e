//! The command line of `mnist`, its data, and its report.
#![expect(clippy::print_stdout, reason = "an example talks to its user")]

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Parser;
use everstep::prelude::*;
use everstep_examples::params_hash;

use crate::model::Kind;

/// Trains a classifier of handwritten digits.
#[derive(Parser)]
struct Args {
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
    /// What is done about faulty steps.
    #[arg(long, value_enum, default_value = "recover")]
    policy: Answer,
    /// Ends with one line of JSON.
    #[arg(long)]
    json: bool,
}

/// What the command line can ask for about faults.
#[derive(Clone, Copy, clap::ValueEnum)]
enum Answer {
    /// Replay, leave out, rewind, lower the learning rate.
    Recover,
    /// Stop at the first one.
    Strict,
    /// Refuse what is not finite, and go on.
    Off,
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
    pub(crate) policy: Policy,
    pub(crate) report: Report,
}

/// What is told at the end.
pub(crate) struct Report {
    device: Device,
    start: Instant,
    json: bool,
}

/// Reads the command line and the data, and says which device was chosen.
pub(crate) fn start() -> everstep::Result<Run> {
    let args = Args::parse();
    let device = Device::from_name(&args.device)?;
    println!("device {device}");
    let (train, test) = load(args.data.as_deref())?;
    let size = match train.spec().x.shape[..] {
        [_, height, width] => [height, width],
        ref other => [1, other.iter().product()],
    };
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
        policy: match args.policy {
            Answer::Recover => Policy::default(),
            Answer::Strict => Policy::strict(),
            Answer::Off => Policy::off(),
        },
        report: Report { device: device.clone(), start: Instant::now(), json: args.json },
        device,
    })
}

type Split = (Box<dyn Dataset>, Box<dyn Dataset>);

/// Training and test images: MNIST from a folder, or the embedded digits, split by a fixed seed.
fn load(folder: Option<&Path>) -> everstep::Result<Split> {
    Ok(match folder {
        Some(folder) => {
            let (train, test) = mnist(folder)?;
            (Box::new(train.with_channel()), Box::new(test.with_channel()))
        }
        None => {
            let (train, test) = digits()?.with_channel().split_stratified(0.8, 0)?;
            (Box::new(train), Box::new(test))
        }
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
