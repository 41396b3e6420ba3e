//! What a captured step costs the host: `cargo run --release -p everstep-benches --bin replay -- --device gpu [names]`.
//!
//! Each captured step is run again from an idle device. Timed is the call that binds, encodes and submits it, on the CPU engine
//! the work itself; counted are the process's heap allocations in that call and in the delivery of its record, whoever makes
//! them: Everstep, `gemm`, rayon, wgpu or the driver.

#![expect(clippy::print_stdout, reason = "the lines are what it is for")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use clap::Parser;
use everstep::optim::KeptStep;
use everstep::prelude::*;
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
}

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: the system's allocator does the work.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn main() -> everstep::Result<()> {
    let args = Args::parse();
    let device = Device::from_name(&args.device)?;
    println!("{device}");
    for workload in workloads::all(false).iter().filter(|w| args.names.is_empty() || args.names.contains(&w.name)) {
        if let Some(training) = workload.training(&device)? {
            measure(&workload.name, training, args.runs)?;
        }
    }
    Ok(())
}

fn measure(name: &str, mut training: Training, runs: usize) -> everstep::Result<()> {
    let (mut captured, mut trace) = (None, None);
    for _ in 0..4 {
        let start = training.optimizer.begin_step()?;
        let loss = (training.loss)()?;
        loss.backward()?;
        match training.optimizer.end_step(start, &loss, &[], trace.as_ref())? {
            KeptStep::Captured(step) => captured = Some(step),
            KeptStep::Trace(new) => trace = Some(new),
            KeptStep::Refused(reason) => println!("{name}: {reason}"),
        }
        training.optimizer.deliver()?;
        training.optimizer.finish()?;
    }
    let Some(step) = captured else { return Ok(()) };
    let device = training.optimizer.device().clone();
    let (mut times, mut allocations, mut commands) = (Vec::new(), Vec::new(), 0);
    for _ in 0..runs {
        let (counters, before, begin) = (device.counters(), ALLOCATIONS.load(Relaxed), Instant::now());
        let is_there = training.optimizer.replay(&step, &[])?;
        times.push(begin.elapsed().as_secs_f64() * 1e6);
        training.optimizer.deliver()?;
        allocations.push(ALLOCATIONS.load(Relaxed) - before);
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
    Ok(())
}
