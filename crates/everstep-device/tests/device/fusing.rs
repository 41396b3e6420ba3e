//! Chains of pointwise commands as one: which are joined, and that nothing else changes.

use everstep_device::{ALIGNMENT, Buffer, DType, Device, Generator};

use crate::{add, addition, copy, new, run, slice, upload_words, words};

/// Commands that ran, and those that became part of another one.
fn counted(record: impl FnOnce(&Device) -> Vec<Buffer>) -> (u64, u64) {
    let device = Device::null();
    device.flush().unwrap();
    let before = device.counters();
    let _held = record(&device);
    device.flush().unwrap();
    let now = device.counters();
    (now.commands - before.commands, now.fused - before.fused)
}

fn start(device: &Device) -> Buffer {
    upload_words(device, &[1.0f32; 64])
}

#[test]
fn a_chain_is_one_command() {
    let chain = counted(|device| {
        let a = start(device);
        let sum = add(&add(&add(&a, &a), &a), &a);
        vec![a, sum]
    });
    assert_eq!(chain, (2, 2), "an upload and a kernel");
}

/// What is wanted of a chain changes its outputs, never its commands.
#[test]
fn a_wanted_intermediate_is_one_more_output() {
    let held = counted(|device| {
        let a = start(device);
        let first = add(&a, &a);
        let second = add(&first, &a);
        vec![a, second.clone(), first, add(&second, &second)]
    });
    assert_eq!(held, (2, 2));
}

#[test]
fn what_needs_a_value_before_the_chain_ends_parts_it() {
    let parted = counted(|device| {
        let a = start(device);
        let first = add(&a, &a);
        // It reads what the chain has made, so that must be there.
        let copied = new(device, 256);
        copy(device, slice(&first), slice(&copied));
        let second = add(&add(&first, &copied), &a);
        vec![a, second]
    });
    assert_eq!(parted, (4, 1), "an upload, a kernel, a copy, a chain of two");
    let changed = counted(|device| {
        let a = start(device);
        let first = add(&a, &a);
        // It changes what the chain has read: the first command must not come later.
        copy(device, slice(&start(device)), slice(&a));
        vec![add(&first, &a), a]
    });
    assert_eq!(changed.1, 0);
}

#[test]
fn a_fence_parts_a_chain() {
    let fenced = counted(|device| {
        let a = start(device);
        let first = add(&a, &a);
        device.fence();
        vec![add(&first, &a), a]
    });
    assert_eq!(fenced, (3, 0));
}

/// Eight storage bindings are all that a GPU promises, and a group of a chain's commands may want all of its values.
#[test]
fn chains_end_where_bindings_do() {
    let long = counted(|device| {
        let inputs: Vec<_> = (0..12).map(|_| start(device)).collect();
        let sum = inputs[1..].iter().fold(inputs[0].clone(), |sum, input| add(&sum, input));
        [inputs, vec![sum]].concat()
    });
    // Three additions have four inputs and three outputs, and a fourth would make nine.
    assert_eq!(long, (12 + 4, 7));
}

/// A slot of an arena that a chain reads and another command of it would write stays apart: a GPU binds a buffer once.
#[test]
fn no_buffer_is_read_and_written_by_one_chain() {
    let apart = counted(|device| {
        let arena = upload_words(device, &[1.0f32; 2 * ALIGNMENT / 4]);
        let [first, second] = [0, 1].map(|at| arena.part(at * ALIGNMENT, ALIGNMENT).unwrap().slice());
        let sum = new(device, ALIGNMENT);
        run(device, addition(DType::F32, ALIGNMENT / 4), &[first, first], &[slice(&sum)]);
        run(device, addition(DType::F32, ALIGNMENT / 4), &[slice(&sum), slice(&sum)], &[second]);
        vec![arena]
    });
    assert_eq!(apart, (3, 0));
}

/// Random sequences of additions, copies and overwritten buffers: the same bits joined and one by one. Sums of a few small whole
/// numbers are exact, so a GPU's compiler changes nothing either.
#[test]
fn random_sequences_give_the_same_bits() {
    // Of their own: other tests' commands would count, too.
    let gpu = everstep_testing::gpu().map(|_| Device::isolated_gpu("").unwrap());
    for device in std::iter::once(Device::isolated_cpu()).chain(gpu) {
        let mut joined = 0;
        for seed in 0..if device.info().software { 40 } else { 300 } {
            let found = [true, false].map(|fuse| {
                device.set_fuse(fuse);
                let before = device.counters().fused;
                let found = random_sequence(&device, seed);
                joined += device.counters().fused - before;
                found
            });
            assert_eq!(found[0], found[1], "{device}, seed {seed}");
        }
        assert!(joined > 100, "{joined}");
    }
}

fn random_sequence(device: &Device, seed: u64) -> Vec<Vec<f32>> {
    let mut generator = Generator::new(seed);
    let mut below = |count: usize| generator.below(count as u32) as usize;
    let numbers = |from: usize| (0..67).map(|at| ((from * 31 + at * 7) % 5) as f32 - 2.0).collect::<Vec<_>>();
    let mut buffers: Vec<Buffer> = (0..4).map(|index| upload_words(device, &numbers(index))).collect();
    for _ in 0..25 {
        let [a, b, c] = [0; 3].map(|_| below(buffers.len()));
        match below(8) {
            0 if a != b => copy(device, slice(&buffers[a]), slice(&buffers[b])),
            1 => {
                run(device, addition(DType::F32, 67), &[slice(&buffers[a]), slice(&buffers[b])], &[slice(&buffers[c])])
            }
            // The program lets go of one.
            2 if buffers.len() > 4 => drop(buffers.remove(a)),
            _ => buffers.push(add(&buffers[a], &buffers[b])),
        }
    }
    buffers.iter().map(words).collect()
}
