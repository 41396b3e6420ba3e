//! A longer program over several kernels: the same bits on any number of threads, and nothing built twice.

use std::sync::Arc;

use everstep_device::cpu::{Matmul, Pointwise, Reduce, Reduction, Softmax, SoftmaxParams};
use everstep_device::expr::{Expr, Program};
use everstep_device::functions::{self, Activation};
use everstep_device::{Buffer, DType, Device, Generator, Layout};

use crate::{alone, is_alone, new, run, shape, slice, undisturbed, upload_words, words};

const ROWS: usize = 300;
const INNER: usize = 257;
const COLUMNS: usize = 130;

fn random(device: &Device, count: usize, seed: u64) -> Buffer {
    let mut generator = Generator::new(seed);
    upload_words(device, &(0..count).map(|_| generator.normal()).collect::<Vec<f32>>())
}

/// tanh(x) of f32 elements.
fn tanh(x: &Buffer) -> Buffer {
    let layout = Layout::contiguous(shape(&[x.bytes() / 4]));
    let formula = Expr::apply(&functions::TANH, vec![Expr::input(0, DType::F32)]).unwrap();
    let program = Arc::new(Program::new(&[DType::F32], &[formula]));
    let kernel =
        Pointwise { program, shape: *layout.shape(), inputs: vec![layout], outputs: vec![layout], scalars: vec![] };
    let y = new(x.device(), x.bytes());
    run(x.device(), kernel, &[slice(x)], &[slice(&y)]);
    y
}

fn reduce(x: &Buffer, input: Layout, outputs: usize, reduction: Reduction) -> Buffer {
    let y = new(x.device(), outputs * 4);
    let reduced = input.shape().rank() - usize::from(outputs > 1);
    run(x.device(), Reduce { input, reduced, reduction, scale: 1.0 }, &[slice(x)], &[slice(&y)]);
    y
}

/// A forward pass and an update of the weight in place: the loss.
fn step(x: &Buffer, weight: &Buffer, bias: &Buffer) -> Buffer {
    let device = x.device();
    let product = new(device, ROWS * COLUMNS * 4);
    let kernel = Matmul {
        a: Layout::contiguous(shape(&[ROWS, INNER])),
        b: Layout::contiguous(shape(&[INNER, COLUMNS])),
        bias: Some((0, 1)),
        activation: Activation::Relu,
    };
    run(device, kernel, &[slice(x), slice(weight), slice(bias)], &[slice(&product)]);
    let hidden = tanh(&product);
    let probability = new(device, hidden.bytes());
    let kernel = Softmax(SoftmaxParams { rows: ROWS as u32, columns: COLUMNS as u32 });
    run(device, kernel, &[slice(&hidden)], &[slice(&probability)]);
    let layout = Layout::contiguous(shape(&[ROWS, COLUMNS]));
    let columns = reduce(&probability, layout.permute(&[1, 0]).unwrap(), COLUMNS, Reduction::Sum);
    let largest = reduce(&columns, Layout::contiguous(shape(&[COLUMNS])), 1, Reduction::Max);
    // weight += tanh(weight): one buffer read and written by one command.
    let slope = tanh(weight);
    let update = crate::addition(DType::F32, INNER * COLUMNS);
    run(device, update, &[slice(weight), slice(&slope)], &[slice(weight)]);
    largest
}

fn operands(device: &Device) -> [Buffer; 3] {
    [random(device, ROWS * INNER, 1), random(device, INNER * COLUMNS, 2), random(device, COLUMNS, 3)]
}

/// FNV-1a over the bits of the losses of three steps and the weight after them.
fn digest() -> u64 {
    let device = Device::isolated_cpu();
    let [x, weight, bias] = operands(&device);
    let mut all: Vec<u32> = (0..3).flat_map(|_| words::<u32>(&step(&x, &weight, &bias))).collect();
    all.extend(words::<u32>(&weight));
    let sum = random(&device, 300_000, 4);
    all.extend(words::<u32>(&reduce(&sum, Layout::contiguous(shape(&[300_000])), 1, Reduction::Sum)));
    all.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &word| (hash ^ u64::from(word)).wrapping_mul(0x0100_0000_01b3))
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let with = |threads: &str| {
        let environment = [("RAYON_NUM_THREADS", threads)];
        let text = alone("programs::the_number_of_threads_changes_no_bit", &environment, || {
            let device = Device::cpu();
            assert!(device.to_string().contains(&format!("({threads} threads")), "{device}");
            println!("digest {:x}", digest());
        });
        text.lines().find(|line| line.starts_with("digest")).map(str::to_owned)
    };
    let digests = ["1", "2", "3", "8"].map(with);
    if !is_alone() {
        assert!(digests[0].is_some() && digests.iter().all(|digest| *digest == digests[0]), "{digests:?}");
        assert_eq!(digests[0], Some(format!("digest {:x}", digest())), "on this process's threads");
    }
}

#[test]
fn a_step_done_again_builds_nothing_and_needs_no_more_memory() {
    alone("programs::a_step_done_again_builds_nothing_and_needs_no_more_memory", &[], || {
        for device in undisturbed() {
            let [x, weight, bias] = operands(&device);
            let mut held = Vec::new();
            let mut round = || {
                // The loss of the step before is still held, as a program's would be.
                held.push(step(&x, &weight, &bias));
                held.drain(..held.len().saturating_sub(2));
                assert!(words::<f32>(&held[0])[0].is_finite());
                let counters = device.counters();
                (counters.pipelines, counters.bind_groups, counters.memory_bytes)
            };
            let settled = (0..5).map(|_| round()).last().unwrap();
            for again in 0..20 {
                assert_eq!(round(), settled, "{device}, round {again}: pipelines, bind groups, bytes");
            }
        }
    });
}
