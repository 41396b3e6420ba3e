//! A captured step allocates nothing of its own: all that it needs is there since it was captured.
//!
//! Counted apart and printed, with `--nocapture`: what `gemm`, rayon and wgpu allocate in it. What a driver takes from C's allocator is
//! not seen. The optimizer's
//! schedule is in none of the steps that are counted: every [`everstep::device::control::WINDOW`] steps the next rows go to the
//! device in a recording of their own.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

use std::collections::BTreeMap;

use everstep::prelude::*;
use everstep_benches::allocations::{self, Counting, Site};
use everstep_benches::workloads;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Steps that are counted, twice, for the counts to be compared.
const STEPS: usize = 6;

/// What others allocate need not be the same in each step: queues grow by blocks of which some steps need a new one. What grows
/// with every step would show as more than this.
const SLACK: usize = STEPS - 1;

fn others(sites: &BTreeMap<Site, usize>) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for ((owner, _), count) in sites {
        *counts.entry(owner.as_str()).or_insert(0) += count;
    }
    counts
}

fn captured_steps_allocate_nothing(device: &Device, names: &[&str]) {
    for workload in workloads::all(false).iter().filter(|workload| names.contains(&workload.name.as_str())) {
        let mut training = workload.training(device).unwrap().unwrap();
        let step = training.capture().unwrap().unwrap();
        let mut steps = |count: usize| {
            let (is_there, sites) = allocations::by_owner(|| {
                (0..count).all(|_| {
                    let is_there = training.optimizer.replay(&step, &[]).unwrap();
                    training.optimizer.deliver().unwrap();
                    is_there
                })
            });
            assert!(is_there, "the captured step is gone");
            training.optimizer.finish().unwrap();
            sites
        };
        // The first may still prepare for those that follow.
        steps(1);
        let halves = [steps(STEPS), steps(STEPS)];
        println!("{} on {device}: in {STEPS} steps {:?}", workload.name, others(&halves[1]));
        for sites in &halves {
            assert_eq!(allocations::ours(sites), 0, "{} on {device}: {sites:#?}", workload.name);
            // Whose nobody knows might be ours.
            assert!(!others(sites).contains_key("unknown"), "{} on {device}: {sites:#?}", workload.name);
        }
        let [first, second] = halves.each_ref().map(|sites| others(sites).values().sum::<usize>());
        assert!(second <= first + SLACK, "{} on {device} grows: {:?}", workload.name, others(&halves[1]));
    }
}

// One test: the counts are of the whole process.
#[test]
fn a_captured_step_allocates_nothing_of_ours() {
    // SAFETY: nothing else of this process looks at its environment yet. Without it wgpu keeps stacks of its own where it is built
    // for debugging, and to allocate while a stack is kept is to keep a stack while a stack is kept, which waits for ever.
    unsafe { std::env::set_var("RUST_LIB_BACKTRACE", "0") };
    let (_, sites) = allocations::by_owner(|| Device::cpu().begin_capture().map(|_| Device::cpu()).unwrap());
    assert!(allocations::ours(&sites) > 0, "a device allocates: {sites:?}");
    for device in everstep_testing::devices() {
        captured_steps_allocate_nothing(&device, &["seed_net_step", "mlp_step", "cnn_step", "gpt_step"]);
    }
}
