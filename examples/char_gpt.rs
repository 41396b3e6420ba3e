//! Trains a small transformer to write text, character by character.
//!
//! ```text
//! cargo run --release --example char_gpt                       # learns the style of this project's own documents
//! cargo run --release --example char_gpt -- --text FILE        # of any text
//! cargo run --release --example char_gpt -- --checkpoint DIR   # killed and started again, it goes on where it was
//! ```
#![expect(clippy::print_stdout, reason = "examples talk to their user")]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use everstep::nn::transformer::{Gpt, GptConfig};
use everstep::prelude::*;
use everstep_examples::{Durability, PolicyName, PrecisionName, params_hash};

/// Trains a small transformer to write text like that of a file.
#[derive(Parser)]
struct Args {
    /// The text; without it, this project's own documents.
    #[arg(long)]
    text: Option<PathBuf>,
    /// The device: auto, cpu, gpu, gpu:0, gpu:NAME.
    #[arg(long, default_value = "auto")]
    device: String,
    /// Training steps.
    #[arg(long, default_value_t = 2000)]
    steps: usize,
    /// Texts per step.
    #[arg(long, default_value_t = 12)]
    batch: usize,
    /// Characters that the model sees at most.
    #[arg(long, default_value_t = 64)]
    context: usize,
    /// Seed of the parameters, the batches and the sample.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Characters of the sample at the end.
    #[arg(long, default_value_t = 400)]
    sample: usize,
    /// What products are computed from while it trains.
    #[arg(long, value_enum, default_value = "f32")]
    precision: PrecisionName,
    /// What is done about faulty steps.
    #[arg(long, value_enum, default_value = "recover")]
    policy: PolicyName,
    #[command(flatten)]
    durability: Durability,
    /// Ends with one line of JSON.
    #[arg(long)]
    json: bool,
}

const DOCUMENTS: &str = concat!(
    include_str!("../README.md"),
    include_str!("../docs/ARCHITECTURE.md"),
    include_str!("../docs/ADD_AN_OP.md"),
    include_str!("../CHANGELOG.md"),
);

fn main() -> ExitCode {
    let args = Args::parse();
    args.durability.clone().run(|| run(args))
}

fn run(args: Args) -> everstep::Result<()> {
    let (device, start) = (Device::from_name(&args.device)?, Instant::now());
    let data = match &args.text {
        Some(path) => CharDataset::from_path(path, args.context)?,
        None => CharDataset::new(DOCUMENTS, args.context)?,
    };
    let vocabulary = data.vocabulary().clone();
    println!("device {device}, {} characters of {} kinds", data.tokens().len(), vocabulary.len());
    let (train, test) = data.split(0.9)?;
    let test = test.with_stride(args.context)?;

    let mut generator = Generator::new(args.seed);
    let model = GptConfig::new(vocabulary.len(), 128, 4, 4, args.context).init(&mut generator, &device)?;
    let rule = AdamW::new(1e-3).betas(0.9, 0.99).weight_decay(0.1);
    let optimizer = args.precision.apply(rule.build(&model)?.clip_norm(1.0)?)?;
    let guard = Guard::with_optimizer(&model, optimizer, args.policy.policy())?;
    let mut train = Loader::new(train, LoaderConfig::new(args.batch).shuffle(args.seed).prefetch(2), &device)?;
    let mut test = Loader::new(test, LoaderConfig::new(64), &device)?;

    let mut guard = args.durability.guard(guard, &mut train)?;
    learn(&model, &mut guard, &mut train, args.steps as u64)?;
    let val_loss = validate(&model, &mut test)?;
    println!("{}\n\nvalidation loss {val_loss:.4} after {:.1} s\n", model.summary(), start.elapsed().as_secs_f64());
    println!("{}", sample(&model, &vocabulary, &args, &device)?);
    if args.json {
        let result = serde_json::json!({
            "device": device.to_string(),
            "val_loss": val_loss,
            "steps": guard.optimizer().gate().committed(),
            "seconds": start.elapsed().as_secs_f64(),
            "params_hash": params_hash(&model)?,
        });
        println!("{result}");
    }
    Ok(())
}

/// Trains until so many steps are committed.
fn learn(model: &Gpt, guard: &mut Guard, train: &mut Loader, steps: u64) -> everstep::Result<()> {
    let mut mean = Mean::new();
    let mut told = guard.optimizer().gate().committed() / 200;
    while guard.optimizer().gate().committed() < steps {
        let report =
            guard.step(train, |batch| Ok::<_, everstep::Error>(model.forward(&batch.x)?.cross_entropy(&batch.y)?))?;
        // The steps that are still under way may be the last ones.
        if guard.optimizer().gate().latest() >= steps {
            guard.finish(train)?;
        }
        let (records, events) = match report {
            Some(report) => (report.records, report.events),
            None => (guard.take_records(), guard.take_events()),
        };
        // A checkpoint that went well is no news.
        let news = events.iter().filter(|event| !matches!(event, Event::Saved { .. }));
        news.for_each(|event| println!("{event}"));
        records.iter().for_each(|record| mean.add(f64::from(record.loss), 1));
        if guard.optimizer().gate().committed() / 200 > told {
            told += 1;
            println!("step {}: loss {:.4}", told * 200, mean.value().unwrap_or(f64::NAN));
            mean = Mean::new();
        }
    }
    Ok(())
}

/// The mean loss per character of a text that the model has not seen.
fn validate(model: &Gpt, test: &mut Loader) -> everstep::Result<f64> {
    let mut mean = Mean::new();
    for batch in test.epoch() {
        let batch = batch?;
        let loss = no_grad(|| model.forward(&batch.x)?.cross_entropy(&batch.y))?;
        mean.add(f64::from(loss.item::<f32>()?), batch.y.count());
    }
    Ok(mean.value().unwrap_or(f64::NAN))
}

/// Text that the model writes: each character drawn by the probabilities that it gives.
fn sample(model: &Gpt, vocabulary: &Vocabulary, args: &Args, device: &Device) -> everstep::Result<String> {
    let mut generator = Generator::new(args.seed).fork();
    let mut tokens = vec![vocabulary.token('\n').unwrap_or(0)];
    for _ in 0..args.sample {
        let seen = &tokens[tokens.len().saturating_sub(args.context)..];
        let input = Tensor::from_slice(seen, &[1, seen.len()], device)?;
        let logits = no_grad(|| model.forward(&input))?.slice(1, seen.len() - 1..)?;
        let probabilities = logits.softmax(-1)?.to_vec::<f32>()?;
        let mut rest = generator.uniform();
        let drawn = probabilities.iter().position(|probability| {
            rest -= probability;
            rest < 0.0
        });
        tokens.push(drawn.unwrap_or(probabilities.len() - 1) as u32);
    }
    Ok(vocabulary.decode(&tokens)?)
}
