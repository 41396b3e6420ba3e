//! Times the workloads of `everstep_benches::workloads`, one line each: `cargo run --release -p everstep-benches --bin
//! workloads -- --device cpu --json [names]`.

#![expect(clippy::print_stdout, reason = "the lines are what it is for")]

use clap::{CommandFactory, Parser};
use everstep::prelude::*;
use everstep_benches::measure::{PeakGrowth, Runs, median};
use everstep_benches::workloads;
use serde_json::json;

/// Times Everstep's workloads. Compare with another engine only in one run on one machine.
#[derive(Parser)]
struct Args {
    /// Names of workloads; all where none is given.
    names: Vec<String>,
    /// The device: auto, cpu, gpu, gpu:0, gpu:NAME.
    #[arg(long, default_value = "auto")]
    device: String,
    /// The sizes for a GPU.
    #[arg(long)]
    large: bool,
    /// One line of JSON each.
    #[arg(long)]
    json: bool,
}

fn main() -> everstep::Result<()> {
    let args = Args::parse();
    let device = Device::from_name(&args.device)?;
    let list = workloads::all(args.large);
    if let Some(name) = args.names.iter().find(|name| list.iter().all(|workload| workload.name != **name)) {
        let known: Vec<_> = list.iter().map(|workload| &workload.name[..]).collect();
        let message = format!("no workload {name}; there are {}", known.join(", "));
        Args::command().error(clap::error::ErrorKind::InvalidValue, message).exit();
    }
    if !args.json {
        println!("{device}");
    }
    for workload in list.iter().filter(|workload| args.names.is_empty() || args.names.contains(&workload.name)) {
        let memory = PeakGrowth::start();
        let mut work = workload.prepare(&device)?;
        let ms = median(Runs::default(), &mut work)?.as_secs_f64() * 1e3;
        let peak = memory.mib().map(|mib| (mib * 10.0).round() / 10.0);
        let (unit, amount) = workload.amount;
        if args.json {
            let ms = (ms * 1e4).round() / 1e4;
            let mut line = json!({
                "peer": concat!("everstep ", env!("CARGO_PKG_VERSION")),
                "device": args.device,
                "workload": workload.name,
                "ms": ms,
                "peak_mib": peak,
            });
            line[unit] = json!(amount);
            println!("{line}");
        } else {
            let peak = peak.map_or_else(String::new, |mib| format!("{mib:>8.1} MiB"));
            println!("{:20} {ms:>10.3} ms {peak} {:>12.1} {unit}/s", workload.name, amount / ms * 1e3);
        }
        drop(work);
        device.trim()?;
    }
    Ok(())
}
