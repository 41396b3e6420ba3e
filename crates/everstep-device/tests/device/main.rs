//! Devices from the outside: choosing them, recordings, memory, transfers, kernels, threads.
//!
//! Tests run at once and share one CPU device and one GPU. What disturbs a device (an error on it) or counts what it
//! did runs on an isolated CPU device, or in a process of its own: [`alone`].
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests")]

mod captures;
mod convolutions;
mod fusing;
mod halves;
mod kernels;
mod loss;
mod memory;
mod profile;
mod programs;
mod recording;
mod selection;
mod split;
mod threads;
mod transfers;
mod variants;

use std::process::Command as Process;
use std::sync::Arc;

use everstep_device::cpu::Pointwise;
use everstep_device::expr::{Expr, Program};
use everstep_device::{Buffer, Command, DType, Device, Kernel, Layout, Result, Shape, Slice, Work};

/// Says which case the process is to run, alone.
const CASE: &str = "EVERSTEP_TEST_CASE";

/// Runs `body` in a process of its own, with these environment variables; gives what it printed. `test` is the full name
/// of the calling test, in which this process calls `alone` again and gets to `body`.
#[track_caller]
fn alone(test: &str, environment: &[(&str, &str)], body: impl FnOnce()) -> String {
    let case = format!("{test} {environment:?}");
    if let Ok(wanted) = std::env::var(CASE) {
        if wanted == case {
            body();
            println!("done: {case}");
        }
        return String::new();
    }
    let mut process = Process::new(std::env::current_exe().unwrap());
    process.args([test, "--exact", "--nocapture"]).env(CASE, &case).envs(environment.iter().copied());
    let output = process.output().unwrap();
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && text.contains(&format!("done: {case}")), "{case}\n{text}\n{errors}");
    text.into_owned()
}

/// Whether [`alone`] is what runs this process: a test that starts several of them has nothing more to check.
fn is_alone() -> bool {
    std::env::var_os(CASE).is_some()
}

/// A CPU device of its own and, in a process of its own, the GPU.
fn undisturbed() -> Vec<Device> {
    std::iter::once(Device::isolated_cpu()).chain(everstep_testing::gpu()).collect()
}

fn shape(dims: &[usize]) -> Shape {
    Shape::new(dims).unwrap()
}

fn new(device: &Device, bytes: usize) -> Buffer {
    device.buffer("test", bytes).unwrap()
}

fn upload_to(device: &Device, bytes: &[u8], output: Slice) {
    let work = Work::Upload(Arc::from(bytes));
    device.record(Command { op: "upload", work, inputs: vec![], outputs: vec![output] }).unwrap();
}

fn upload(device: &Device, bytes: &[u8]) -> Buffer {
    let buffer = new(device, bytes.len());
    upload_to(device, bytes, buffer.region().slice());
    buffer
}

fn upload_words<T: bytemuck::Pod>(device: &Device, words: &[T]) -> Buffer {
    upload(device, bytemuck::cast_slice(words))
}

fn copy(device: &Device, input: Slice, output: Slice) {
    device.record(Command { op: "copy", work: Work::Copy, inputs: vec![input], outputs: vec![output] }).unwrap();
}

fn run(device: &Device, kernel: impl Kernel, inputs: &[Slice], outputs: &[Slice]) {
    let work = Work::Kernel(Arc::new(kernel));
    let (inputs, outputs) = (inputs.to_vec(), outputs.to_vec());
    device.record(Command { op: "test", work, inputs, outputs }).unwrap();
}

fn slice(buffer: &Buffer) -> Slice {
    buffer.region().slice()
}

fn bytes(device: &Device, slice: Slice) -> Result<Vec<u8>> {
    Ok(device.read(&[slice])?.wait()?.remove(0))
}

fn words<T: bytemuck::Pod>(buffer: &Buffer) -> Vec<T> {
    bytemuck::allocation::pod_collect_to_vec(&bytes(buffer.device(), slice(buffer)).unwrap())
}

/// The sum of two operands of `count` elements.
fn addition(dtype: DType, count: usize) -> Pointwise {
    let layout = Layout::contiguous(shape(&[count]));
    let args = vec![Expr::input(0, dtype), Expr::input(1, dtype)];
    let sum = Expr::apply(&everstep_device::functions::ADD, args).unwrap();
    Pointwise {
        program: Arc::new(Program::new(&[dtype; 2], &[sum])),
        shape: shape(&[count]),
        inputs: vec![layout; 2],
        outputs: vec![layout],
        scalars: vec![],
    }
}

/// Records a + b of f32 elements.
fn add(a: &Buffer, b: &Buffer) -> Buffer {
    let sum = new(a.device(), a.bytes());
    run(a.device(), addition(DType::F32, a.bytes() / 4), &[slice(a), slice(b)], &[slice(&sum)]);
    sum
}
