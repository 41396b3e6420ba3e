//! Draws the roofline of a profile.
//!
//! ```text
//! EVERSTEP_PROFILE=profile.json cargo run --release --example mnist
//! cargo run --release -p everstep-benches --bin roofline -- profile.json.table.json > roofline.svg
//! ```
#![expect(clippy::print_stdout, reason = "what it is for")]

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

/// Draws the roofline of a profile's table as SVG, to standard output.
#[derive(Parser)]
struct Args {
    /// The file that EVERSTEP_PROFILE=FILE leaves as FILE.table.json.
    table: PathBuf,
    /// Which of its devices, counted from 0.
    #[arg(long, default_value_t = 0)]
    device: usize,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let refuse = |reason: String| {
        let error = Args::command().error(clap::error::ErrorKind::InvalidValue, reason);
        // What standard error does not take is lost, the exit code is not.
        let _ = error.print();
        ExitCode::FAILURE
    };
    let name = args.table.display();
    let text = match std::fs::read_to_string(&args.table) {
        Ok(text) => text,
        Err(error) => return refuse(format!("{name}: {error}")),
    };
    let table = match serde_json::from_str(&text) {
        Ok(table) => table,
        Err(error) => return refuse(format!("{name} is no JSON: {error}")),
    };
    match everstep_benches::roofline::svg(&table, args.device) {
        Some(svg) => {
            print!("{svg}");
            ExitCode::SUCCESS
        }
        None => refuse(format!("{name} is no table of a profile, or has no device {} with ceilings", args.device)),
    }
}
