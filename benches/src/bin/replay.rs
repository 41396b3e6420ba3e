//! What a captured step costs the host: `cargo run --release -p everstep-benches --bin replay -- --device gpu [names]`.
//!
//! Each captured step is run again from an idle device. Timed is the call that binds, encodes and submits it, on the CPU engine
//! the work itself; counted are the process's heap allocations in that call and in the delivery of its record, whoever makes
//! them: Everstep, `gemm`, rayon or wgpu. What a driver takes from C's allocator is not seen.

#![expect(clippy::print_stdout, reason = "the lines are what it is for")]

use std::time::Instant;

use clap::Parser;
use everstep::prelude::*;
use everstep_benches::allocations::{self, Counting};
use everstep_benches::workloads::{self, Training};

/// What captured steps cost the host.
#[derive(Parser)]
struct Args {
    /// Names of train steps; all where none is given.
    names: Vec<String>,
    /// The device: auto, cpu, gpu, gpu:0, gpu:NAME.
    #[arg(long, default_value = "auto")]
    device: String,
    /// How often each is run.
    #[arg(long, default_value_t = 50)]
    runs: usize,
    /// Lists who makes the allocations of one more run, function by function.
    #[arg(long)]
    owners: bool,
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn main() -> everstep::Result<()> {
    let args = Args::parse();
    let device = Device::from_name(&args.device)?;
    println!("{device}");
    for workload in workloads::all(false).iter().filter(|w| args.names.is_empty() || args.names.contains(&w.name)) {
        if let Some(training) = workload.training(&device)? {
            measure(&workload.name, training, &args)?;
        }
    }
    Ok(())
}

fn measure(name: &str, mut training: Training, args: &Args) -> everstep::Result<()> {
    let runs = args.runs;
    let Some(step) = training.capture()? else {
        println!("{name}: it cannot be captured");
        return Ok(());
    };
    let device = training.optimizer.device().clone();
    let (mut times, mut allocations, mut commands) = (Vec::new(), Vec::new(), 0);
    for _ in 0..runs {
        let (counters, before, begin) = (device.counters(), allocations::count(), Instant::now());
        let is_there = training.optimizer.replay(&step, &[])?;
        times.push(begin.elapsed().as_secs_f64() * 1e6);
        training.optimizer.deliver()?;
        allocations.push(allocations::count() - before);
        commands = device.counters().commands - counters.commands;
        training.optimizer.finish()?;
        if !is_there {
            println!("{name}: the captured step is gone");
            return Ok(());
        }
    }
    times.sort_by(f64::total_cmp);
    allocations.sort_unstable();
    let (time, allocated) = (times[runs / 2], allocations[runs / 2]);
    println!(
        "{name:20} {commands:>4} commands, {time:>10.1} us, {:>8.2} us a command, {allocated} allocations",
        time / commands.max(1) as f64
    );
    if args.owners {
        let (outcome, sites) = allocations::by_owner(|| {
            training.optimizer.replay(&step, &[])?;
            training.optimizer.deliver()
        });
        outcome?;
        for ((owner, function), count) in sites {
            println!("{count:>10} {owner}: {function}");
        }
    }
    Ok(())
}
