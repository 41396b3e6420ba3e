//! Trains a classifier of handwritten digits and says how good it is.
//!
//! ```text
//! cargo run --release --example mnist                                  # the embedded 8x8 digits, nothing to download
//! cargo run --release --example mnist -- --model cnn
//! cargo run --release --example mnist -- --data DIR --model seed       # MNIST's IDX files, plain or gzipped
//! cargo run --release --example mnist -- --checkpoint DIR              # killed and started again, it goes on where it was
//! ```

mod cli;

use std::process::ExitCode;

use clap::Parser;
use cli::FirstStep;
use everstep::prelude::*;
use everstep_examples::Progress;
use everstep_examples::classifier::{Classifier, evaluate};

/// Trains for some epochs, or for what is left of them; the mean loss of the last one.
fn train(
    model: &Classifier,
    guard: &mut Guard,
    data: &mut Loader,
    epochs: usize,
    mut first_step: FirstStep,
) -> everstep::Result<f64> {
    let over = data.cursor().epoch as usize;
    let mut progress = Progress::new(epochs, over);
    loop {
        while data.cursor().epoch < epochs as u64 {
            progress.begin(data.epoch_batches(), data.cursor().position as usize / data.config().batch_size);
            progress.events(&guard.take_events());
            while let Some(report) = guard.step(data, |batch| model.loss(batch))? {
                first_step.done()?;
                progress.records(&report.records);
                progress.events(&report.events);
            }
            progress.records(&guard.take_records());
            progress.events(&guard.take_events());
            progress.end();
        }
        let is_done = guard.finish(data)?;
        progress.events(&guard.take_events());
        if is_done {
            return Ok(progress.loss());
        }
    }
}

fn run(args: cli::Args) -> everstep::Result<()> {
    let run = cli::start(args)?;
    let model = Classifier::new(run.model, run.size, &mut Generator::new(run.seed), &run.device)?;
    let optimizer = run.precision.apply(Adam::new(run.learning_rate).build(&model)?)?;
    let guard = Guard::with_optimizer(&model, optimizer, run.policy)?;
    let mut data = Loader::new(run.train, LoaderConfig::new(run.batch).shuffle(run.seed).prefetch(2), &run.device)?;
    let mut test = Loader::new(run.test, LoaderConfig::new(run.test_batch), &run.device)?;

    let mut guard = run.durability.guard(guard, &mut data)?;
    let loss = train(&model, &mut guard, &mut data, run.epochs, run.first_step)?;
    run.report.finish(&model, guard.optimizer(), loss, &evaluate(&model, &mut test)?)
}

fn main() -> ExitCode {
    let args = cli::Args::parse();
    args.durability.clone().run(|| run(args))
}
