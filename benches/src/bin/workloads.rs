//! Times the workloads of `everstep_benches::workloads`, one line each: `cargo run --release -p everstep-benches --bin
//! workloads -- --device cpu --json [names]`. With `--guard-overhead`, measures what protection costs instead: see
//! `everstep_benches::overhead`.

#![expect(clippy::print_stdout, reason = "the lines are what it is for")]

use std::time::{Duration, Instant};

use clap::{CommandFactory, Parser};
use everstep::prelude::*;
use everstep_benches::measure::{PeakGrowth, Runs, median};
use everstep_benches::overhead;
use everstep_benches::workloads::{self, Workload};
use serde_json::json;

/// Times Everstep's workloads. Compare with another engine only in one run on one machine.
#[derive(Parser)]
struct Args {
    /// Names of workloads; all where none is given, and with `--guard-overhead` the larger train steps.
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
    /// Measures what a guard under the default policy costs, on train steps.
    #[arg(long)]
    guard_overhead: bool,
    /// Prints how long the first run of one workload takes from the start of the process on, device and model included.
    #[arg(long, conflicts_with = "guard_overhead")]
    first_step: bool,
    /// Seconds for each workload, after which `--guard-overhead` no longer narrows its interval.
    #[arg(long, default_value_t = 300, requires = "guard_overhead")]
    budget_s: u64,
}

fn main() -> overhead::Result<()> {
    let begin = Instant::now();
    let mut args = Args::parse();
    let device = Device::from_name(&args.device)?;
    let mut list = workloads::all(args.large);
    if args.guard_overhead {
        list.retain(|workload| overhead::LIMITS.iter().any(|(name, _)| *name == workload.name));
        if args.names.is_empty() {
            args.names = overhead::USUAL.map(String::from).into();
        }
    }
    if let Some(name) = args.names.iter().find(|name| list.iter().all(|workload| workload.name != **name)) {
        let known: Vec<_> = list.iter().map(|workload| &workload.name[..]).collect();
        let message = format!("no workload {name}; there are {}", known.join(", "));
        Args::command().error(clap::error::ErrorKind::InvalidValue, message).exit();
    }
    if args.first_step && args.names.len() != 1 {
        let message = "--first-step is of one workload: name it";
        Args::command().error(clap::error::ErrorKind::WrongNumberOfValues, message).exit();
    }
    if !args.json {
        println!("{device}");
    }
    for workload in list.iter().filter(|workload| args.names.is_empty() || args.names.contains(&workload.name)) {
        if args.first_step {
            workload.prepare(&device)?()?;
            println!("{:20} first run {:.0} ms after the start", workload.name, begin.elapsed().as_secs_f64() * 1e3);
        } else if args.guard_overhead {
            print_overhead(&args, workload, &device)?
        } else {
            print_time(&args, workload, &device)?
        }
        device.trim()?;
    }
    Ok(())
}

/// The number with so many digits behind the point.
fn rounded(value: f64, digits: i32) -> f64 {
    (value * 10f64.powi(digits)).round() / 10f64.powi(digits)
}

fn print_time(args: &Args, workload: &Workload, device: &Device) -> everstep::Result<()> {
    let memory = PeakGrowth::start();
    let mut work = workload.prepare(device)?;
    let ms = median(Runs::default(), &mut work)?.as_secs_f64() * 1e3;
    let peak = memory.mib().map(|mib| rounded(mib, 1));
    let (unit, amount) = workload.amount;
    if args.json {
        let mut line = json!({
            "peer": concat!("everstep ", env!("CARGO_PKG_VERSION")),
            "device": args.device,
            "workload": workload.name,
            "ms": rounded(ms, 4),
            "peak_mib": peak,
        });
        line[unit] = json!(amount);
        println!("{line}");
    } else {
        let peak = peak.map_or_else(String::new, |mib| format!("{mib:>8.1} MiB"));
        println!("{:20} {ms:>10.3} ms {peak} {:>12.1} {unit}/s", workload.name, amount / ms * 1e3);
    }
    Ok(())
}

fn print_overhead(args: &Args, workload: &Workload, device: &Device) -> overhead::Result<()> {
    let found = overhead::measure(workload, device, Duration::from_secs(args.budget_s))?;
    let ([low, high], [without, with]) = (found.interval, found.medians);
    if args.json {
        let line = json!({
            "workload": workload.name,
            "device": device.to_string(),
            "overhead": rounded(found.overhead, 5),
            "ci_low": rounded(low, 5),
            "ci_high": rounded(high, 5),
            "overhead_without_snapshot": rounded(without, 5),
            "overhead_with_snapshot": rounded(with, 5),
            "plain_median": rounded(found.plain_median, 5),
            "blocks": found.blocks,
            "step_ms": rounded(found.step_ms, 4),
            "snapshot_bytes": found.snapshot_bytes,
            "snapshots": found.snapshots,
            "restore_steps": rounded(found.restore_steps, 3),
        });
        println!("{line}");
        return Ok(());
    }
    let percent = |part: f64| format!("{:+.2} %", part * 1e2);
    println!(
        "{:20} {} ({} to {}) of {:.3} ms a step; blocks without a snapshot {}, with one {}; {} blocks, {} snapshots, {:.1} MiB; \
         a restore takes {:.2} steps",
        workload.name,
        percent(found.overhead),
        percent(low),
        percent(high),
        found.step_ms,
        percent(without),
        percent(with),
        found.blocks,
        found.snapshots,
        found.snapshot_bytes as f64 / f64::from(1 << 20),
        found.restore_steps,
    );
    Ok(())
}
