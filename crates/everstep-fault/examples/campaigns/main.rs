//! Campaigns of planned faults, each from one command and one seed.
//!
//! ```text
//! cargo run --release -p everstep-fault --example campaigns -- injections --runs 10000 --seed 0 --json
//! cargo run --release -p everstep-fault --example campaigns -- attribution --json
//! cargo run --release -p everstep-fault --example campaigns -- confusion --runs 200 --seed 0 --json
//! ```
#![expect(clippy::print_stdout, reason = "an example talks to its user")]

mod attribution;
mod confusion;
mod injections;
mod net;

use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, ValueEnum};
use everstep_fault::Result;
use everstep_tensor::Device;
use serde_json::Value;

/// Campaigns of planned faults.
#[derive(Parser)]
struct Args {
    /// Which.
    #[arg(value_enum)]
    campaign: Campaign,
    /// Runs: of random faults, or of each kind of fault.
    #[arg(long, default_value_t = 200)]
    runs: u64,
    /// The number of the first random fault: one that was told of runs again with `--first N --runs 1` and its seed.
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// Of everything that is random.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// The device: cpu, gpu, gpu:0, gpu:NAME.
    #[arg(long, default_value = "cpu")]
    device: String,
    /// One line of JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Campaign {
    /// Random faults, one to a run, against the run without the fault.
    Injections,
    /// Every op in turn made to give a NaN, forward and backward.
    Attribution,
    /// What faults of each kind are taken for.
    Confusion,
}

/// The result, and whether it is what it should be.
fn campaign(args: &Args) -> Result<(Value, bool)> {
    let device = Device::from_name(&args.device).map_err(everstep_tensor::Error::from)?;
    Ok(match args.campaign {
        Campaign::Injections => {
            let summary = injections::injections(args.first..args.first + args.runs, args.seed, &device)?;
            (serde_json::to_value(&summary).unwrap_or_default(), summary.escapes == 0)
        }
        Campaign::Attribution => {
            let sweep = attribution::attribution(1, &device)?;
            (serde_json::to_value(&sweep).unwrap_or_default(), sweep.failures.is_empty())
        }
        Campaign::Confusion => {
            let matrix = confusion::confusion(args.runs, args.seed, &device)?;
            (serde_json::to_value(&matrix).unwrap_or_default(), matrix.accuracy >= 0.95)
        }
    })
}

fn main() -> Result<ExitCode> {
    let (args, start) = (Args::parse(), Instant::now());
    let (mut result, is_right) = campaign(&args)?;
    result["seconds"] = start.elapsed().as_secs_f64().into();
    result["device"] = args.device.clone().into();
    match args.json {
        true => println!("{result}"),
        false => println!("{result:#}"),
    }
    Ok(if is_right { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
