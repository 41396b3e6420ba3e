//! Kills a training process again and again, and starts it again with the same command, until it is done; makes each operation of
//! its storage fail; flips each byte of its checkpoints. However it was treated, it has to end with the same bits.
//!
//! ```text
//! cargo run --release -p everstep-fault --example crash_storm -- --kills 1000 --seed 0 --json
//! cargo run --release -p everstep-fault --example crash_storm -- --kills 0 --storage-faults all --json
//! cargo run --release -p everstep-fault --example crash_storm -- --kills 0 --flip all --json
//! ```
#![expect(clippy::print_stdout, reason = "an example talks to its user")]

mod aborting;
mod flips;
mod kills;
mod net;
mod storage_faults;

use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, ValueEnum};
use everstep_fault::Result;
use serde_json::{Value, json};

/// Storms of crashes.
#[derive(Parser)]
struct Args {
    /// How often a training process is killed.
    #[arg(long, default_value_t = 1000)]
    kills: u64,
    /// Of the moments.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Makes each operation of the storage fail, in each way: all of them, or every tenth.
    #[arg(long, value_enum)]
    storage_faults: Option<Extent>,
    /// Flips each byte of a checkpoint, and cuts its files at each length: all of them, or every tenth.
    #[arg(long, value_enum)]
    flip: Option<Extent>,
    /// One line of JSON.
    #[arg(long)]
    json: bool,
}

/// How many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Extent {
    /// Every one.
    All,
    /// Every tenth.
    Some,
}

impl Extent {
    pub(crate) fn step(self) -> usize {
        match self {
            Self::All => 1,
            Self::Some => 10,
        }
    }
}

fn main() -> Result<ExitCode> {
    if let Some(line) = kills::child()? {
        println!("{line}");
        return Ok(ExitCode::SUCCESS);
    }
    let (args, start) = (Args::parse(), Instant::now());
    let mut result = json!({ "seed": args.seed, "kills": 0 });
    let mut is_right = true;
    if args.kills > 0 {
        let storm = kills::storm(args.kills, args.seed, &[])?;
        is_right &= storm.is_right();
        let (Value::Object(all), Value::Object(storm)) = (&mut result, json!(storm)) else {
            return Ok(ExitCode::FAILURE);
        };
        all.extend(storm);
    }
    if let Some(extent) = args.storage_faults {
        let summary = storage_faults::storage_faults(extent)?;
        is_right &= summary.is_right();
        result["storage_faults"] = json!(summary);
    }
    if let Some(extent) = args.flip {
        let summary = flips::flips(extent)?;
        is_right &= summary.is_right();
        result["flip"] = json!(summary);
    }
    for count in ["lost_runs", "differing_hashes"] {
        let of = |part: &Value| part[count].as_u64().unwrap_or(0);
        result[count] = (of(&result) + of(&result["storage_faults"]) + of(&result["flip"])).into();
    }
    result["seconds"] = start.elapsed().as_secs_f64().into();
    match args.json {
        true => println!("{result}"),
        false => println!("{result:#}"),
    }
    Ok(if is_right { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
