//! Trains a classifier of handwritten digits and says how good it is.
//!
//! ```text
//! cargo run --release --example mnist                                  # the embedded 8x8 digits, nothing to download
//! cargo run --release --example mnist -- --model cnn
//! cargo run --release --example mnist -- --data DIR --model seed       # MNIST's IDX files, plain or gzipped
//! ```

mod cli;

use everstep::prelude::*;
use everstep_examples::Progress;
use everstep_examples::classifier::{Classifier, evaluate};

/// Trains for some epochs; the mean loss of the last one.
fn train(model: &Classifier, guard: &mut Guard, data: &mut Loader, epochs: usize) -> everstep::Result<f64> {
    let mut progress = Progress::new(epochs);
    for _ in 0..epochs {
        progress.begin(data.epoch_batches());
        while let Some(report) = guard.step(data, |batch| model.loss(batch))? {
            progress.records(&report.records);
            progress.events(&report.events);
        }
        progress.records(&guard.take_records());
        progress.events(&guard.take_events());
        progress.end();
    }
    Ok(progress.loss())
}

fn main() -> everstep::Result<()> {
    let run = cli::start()?;
    let model = Classifier::new(run.model, run.size, &mut Generator::new(run.seed), &run.device)?;
    let mut guard = Guard::new(&model, Adam::new(run.learning_rate), run.policy)?;
    let mut data = Loader::new(run.train, LoaderConfig::new(run.batch).shuffle(run.seed).prefetch(2), &run.device)?;
    let mut test = Loader::new(run.test, LoaderConfig::new(run.test_batch), &run.device)?;

    let loss = train(&model, &mut guard, &mut data, run.epochs)?;
    run.report.finish(&model, guard.optimizer(), loss, &evaluate(&model, &mut test)?)
}
