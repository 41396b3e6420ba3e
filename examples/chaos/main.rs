//! Trains a classifier while faults are made, and tells what the guard does about them.
//!
//! ```text
//! cargo run --release --example chaos                                       # every fault, on the embedded digits
//! cargo run --release --example chaos -- --data DIR --fault weight_nan      # MNIST's IDX files, one fault
//! cargo run --release --example chaos -- --fault poisoned_sample --post-mortem FOLDER
//! ```
#![expect(clippy::print_stdout, reason = "an example talks to its user")]

mod plans;

use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use everstep::fault::chaos::Plan;
use everstep::fault::{Diagnosis, Error};
use everstep::prelude::*;
use everstep_examples::PolicyName;
use everstep_examples::classifier::{Classifier, Kind, evaluate, image_size, load};
use serde_json::json;

/// Trains a classifier while faults are made, and tells what the guard does about them.
#[derive(Parser)]
struct Args {
    /// Folder with MNIST's four IDX files; the embedded digits without it.
    #[arg(long)]
    data: Option<PathBuf>,
    /// A fault by its name, or all of them.
    #[arg(long, default_value = "all", value_parser = names())]
    fault: String,
    /// A plan of faults of your own, a JSON file, in the place of a named one.
    #[arg(long)]
    plan: Option<PathBuf>,
    /// What is done about them.
    #[arg(long, value_enum, default_value = "recover")]
    policy: PolicyName,
    /// Of the initial parameters, the order of the images, and the faults.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// `auto`, `cpu`, `gpu`, or `gpu:<index or part of the adapter's name>`.
    #[arg(long, default_value = "auto")]
    device: String,
    /// How often all training images are seen.
    #[arg(long, default_value_t = 5)]
    epochs: usize,
    /// Images per step.
    #[arg(long, default_value_t = 128)]
    batch: usize,
    /// Folder for the post-mortem of each run.
    #[arg(long)]
    post_mortem: Option<PathBuf>,
    /// One line of JSON for each fault.
    #[arg(long)]
    json: bool,
}

fn names() -> clap::builder::PossibleValuesParser {
    plans::ALL.into_iter().chain(plans::MORE).chain(["all", "none"]).collect::<Vec<_>>().into()
}

/// What became of a run.
struct Outcome {
    accuracy: f64,
    events: Vec<Event>,
    diagnoses: Vec<Diagnosis>,
    gave_up: bool,
}

/// Trains and tests a classifier under `plan`.
fn run(args: &Args, device: &Device, name: &str, plan: Option<Plan>) -> everstep::Result<Outcome> {
    let (train, test) = load(args.data.as_deref())?;
    let model = Classifier::new(Kind::Mlp, image_size(&train), &mut Generator::new(args.seed), device)?;
    let test_batch = test.len().min(500);
    let mut test = Loader::new(test, LoaderConfig::new(test_batch), device)?;
    let mut data = Loader::new(train, LoaderConfig::new(args.batch).shuffle(args.seed).prefetch(2), device)?;
    let mut guard = Guard::new(&model, Adam::new(1e-3), args.policy.policy())?;
    if let Some(plan) = plan {
        guard = guard.with_chaos(plan)?;
    }
    let mut events = Vec::new();
    let mut tell = |new: Vec<Event>| {
        for event in new {
            if !args.json {
                println!("  {event}");
            }
            events.push(event);
        }
    };
    let mut gave_up = false;
    'run: for _ in 0..args.epochs {
        loop {
            match guard.step(&mut data, |batch| model.loss(batch)) {
                Ok(Some(report)) => tell(report.events),
                Ok(None) => break,
                Err(everstep::Error::Fault(Error::GaveUp { .. })) => {
                    gave_up = true;
                    break 'run;
                }
                Err(error) => return Err(error),
            }
        }
        tell(guard.take_events());
    }
    tell(guard.take_events());
    if let Some(folder) = &args.post_mortem {
        let mut report = guard.post_mortem()?;
        report.replay = command(args, name);
        report.write(folder.join(name))?;
    }
    let accuracy = evaluate(&model, &mut test)?.accuracy();
    let diagnoses = guard.diagnoses().iter().cloned().chain(guard.open_incident()).collect();
    Ok(Outcome { accuracy, events, diagnoses, gave_up })
}

/// The command that makes the same run again.
fn command(args: &Args, name: &str) -> String {
    let mut words = vec!["cargo run --release --example chaos --".to_owned()];
    words.extend(args.data.as_ref().map(|data| format!("--data {}", data.display())));
    match &args.plan {
        Some(plan) => words.push(format!("--plan {}", plan.display())),
        None => words.push(format!("--fault {name}")),
    }
    let Args { seed, device, epochs, batch, policy, .. } = args;
    let policy = policy.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned());
    words.push(format!("--policy {policy} --seed {seed} --device {device} --epochs {epochs} --batch {batch}"));
    words.join(" ")
}

/// What the guard did, in the order in which it did it.
fn actions(events: &[Event]) -> Vec<&'static str> {
    let action = |event: &Event| match event {
        Event::Replayed { .. } => Some("replay"),
        Event::Examined { .. } => Some("examine"),
        Event::Quarantined { .. } => Some("quarantine"),
        Event::Skipped { .. } => Some("skip"),
        Event::Rewound { .. } => Some("rewind"),
        Event::LearningRateLimited { .. } => Some("limit_rate"),
        Event::LearningRateLowered { .. } => Some("lower_rate"),
        Event::Rejected { committed: false, .. } => Some("reject"),
        Event::GaveUp { .. } => Some("give_up"),
        _ => None,
    };
    events.iter().filter_map(action).collect()
}

/// Says how a run ended beside the clean one.
fn report(args: &Args, name: &str, step: u64, clean: f64, outcome: &Outcome) -> bool {
    let survived = !outcome.gave_up && outcome.accuracy >= clean - 0.01;
    let detected = outcome.events.iter().find_map(|event| match event {
        Event::Detected { place, .. } | Event::DetectedSlow { place, .. } => Some(place.step.saturating_sub(step)),
        _ => None,
    });
    let lost: u64 = outcome.diagnoses.iter().map(|diagnosis| diagnosis.lost_steps).sum();
    if args.json {
        let line = json!({
            "fault": name,
            "device": args.device,
            "seed": args.seed,
            "clean_accuracy": clean,
            "accuracy": outcome.accuracy,
            "survived": survived,
            "detected_after_steps": detected,
            "actions": actions(&outcome.events),
            "diagnosis": outcome.diagnoses.iter().map(|diagnosis| diagnosis.cause).collect::<Vec<_>>(),
            "lost_steps": lost,
        });
        println!("{line}");
    } else {
        let end = if survived { "survived" } else { "NOT survived" };
        println!("{name}: {end}: accuracy {:.4}, clean {clean:.4}; {lost} steps lost\n", outcome.accuracy);
    }
    survived
}

fn main() -> everstep::Result<()> {
    let args = Args::parse();
    let device = Device::from_name(&args.device)?;
    if !args.json {
        println!("device {device}\nthe clean run");
    }
    let clean = run(&args, &device, "none", None)?;
    report(&args, "none", 0, clean.accuracy, &clean);
    if let Some(path) = &args.plan {
        let plan = Plan::from_path(path)?;
        let step = plan.faults.iter().map(|fault| fault.step).min().unwrap_or(0);
        report(&args, "plan", step, clean.accuracy, &run(&args, &device, "plan", Some(plan))?);
        return Ok(());
    }
    let names = match &args.fault[..] {
        "all" => plans::ALL.to_vec(),
        "none" => Vec::new(),
        name => vec![name],
    };
    let mut survived = 0;
    for name in &names {
        // The matrix between the two hidden layers.
        let Some(plan) = plans::plan(name, "0.layers.1.weight", args.seed) else { continue };
        if !args.json {
            println!("{name}");
        }
        let step = plan.faults[0].step;
        let outcome = run(&args, &device, name, Some(plan))?;
        survived += usize::from(report(&args, name, step, clean.accuracy, &outcome));
    }
    if !args.json {
        println!("{survived} of {} survived", names.len());
    }
    Ok(())
}
