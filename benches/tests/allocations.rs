//! A captured step allocates nothing of its own: all that it needs is there since it was captured.
//!
//! Counted apart and printed, with `--nocapture`: what `gemm`, rayon, wgpu and the driver allocate in it. The optimizer's
//! schedule is in none of the steps that are counted: every [`everstep::device::control::WINDOW`] steps the next rows go to the
//! device in a recording of their own.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

use std::collections::BTreeMap;

use everstep::prelude::*;
use everstep_benches::allocations::{self, Counting, Site};
use everstep_benches::workloads;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Steps that are counted, of which the first half is compared with the second.
const STEPS: usize = 12;

/// What others allocate need not be the same in each step: queues grow by blocks of which some steps need a new one. What grows
/// with every step would show as more than this in half of them.
const SLACK: usize = STEPS / 2;

fn others(sites: &[BTreeMap<Site, usize>]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for ((owner, _), count) in sites.iter().flatten() {
        *counts.entry(owner.as_str()).or_insert(0) += count;
    }
    counts
}

fn captured_steps_allocate_nothing(device: &Device, names: &[&str]) {
    for workload in workloads::all(false).iter().filter(|workload| names.contains(&workload.name.as_str())) {
        let mut training = workload.training(device).unwrap().unwrap();
        let step = training.capture().unwrap().unwrap();
        let mut steps = Vec::new();
        for _ in 0..=STEPS {
            let (found, sites) = allocations::by_owner(|| {
                let is_there = training.optimizer.replay(&step, &[]).unwrap();
                training.optimizer.deliver().unwrap();
                is_there
            });
            assert!(found, "the captured step is gone");
            training.optimizer.finish().unwrap();
            steps.push(sites);
        }
        // The first may still prepare for those that follow.
        let steps = &steps[1..];
        println!("{} on {device}: in {STEPS} steps {:?}", workload.name, others(steps));
        for sites in steps {
            assert_eq!(allocations::ours(sites), 0, "{} on {device}: {sites:#?}", workload.name);
        }
        let count = |steps: &[BTreeMap<Site, usize>]| others(steps).values().sum::<usize>();
        let (first, second) = steps.split_at(STEPS / 2);
        assert!(count(second) <= count(first) + SLACK, "{} on {device} grows: {:?}", workload.name, others(second));
    }
}

// One test: the counts are of the whole process.
#[test]
fn a_captured_step_allocates_nothing_of_ours() {
    captured_steps_allocate_nothing(&Device::cpu(), &["seed_net_step", "mlp_step", "cnn_step", "gpt_step"]);
    if let Some(gpu) = everstep_testing::gpu() {
        captured_steps_allocate_nothing(&gpu, &["seed_net_step", "mlp_step", "gpt_step"]);
    }
}
