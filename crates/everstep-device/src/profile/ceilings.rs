//! What a device can do at best, measured as a program would have it: by a copy and by a product.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cpu::Matmul;
use crate::functions::Activation;
use crate::{Buffer, Command, Device, DeviceKind, Layout, Result, Shape, Work};

/// Bytes copied: beyond what caches hold.
const COPIED: usize = 128 << 20;
/// Rows and columns of the matrices.
const SIDE: usize = 1024;
/// How long each of the two is measured, about.
const BUDGET: Duration = Duration::from_millis(60);
/// Runs that are timed together at most.
const MOST_RUNS: u32 = 256;

/// The ceilings of a device.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Ceilings {
    /// Bytes read and written per second by a copy of a large buffer.
    pub(crate) bytes_per_s: f64,
    /// Operations per second of a product of two matrices of 1,024 rows and columns.
    pub(crate) operations_per_s: f64,
}

impl Ceilings {
    /// Measures; `None` where the device does no work, or has no memory for it.
    pub(super) fn measure(device: &Device) -> Option<Self> {
        if device.info().kind == DeviceKind::Null {
            return None;
        }
        let found = copy_time(device).and_then(|copy| Ok((copy, matmul_time(device)?)));
        let found = found.and_then(|found| device.trim().map(|()| found));
        let (copy, matmul) = found.inspect_err(|error| tracing::warn!(%error, "no ceilings for the profile")).ok()?;
        let operations = 2.0 * (SIDE as f64).powi(3);
        Some(Self { bytes_per_s: 2.0 * COPIED as f64 / copy, operations_per_s: operations / matmul })
    }
}

fn filled(device: &Device, bytes: usize) -> Result<Buffer> {
    let buffer = device.windowed_buffer("profile", bytes)?;
    let half = 0.5f32.to_ne_bytes();
    let data: Arc<[u8]> = half.iter().copied().cycle().take(bytes).collect();
    let outputs = vec![buffer.region().slice()];
    device.record(Command { op: "profile", work: Work::Upload(data), inputs: vec![], outputs })?;
    Ok(buffer)
}

fn copy_time(device: &Device) -> Result<f64> {
    let (from, to) = (filled(device, COPIED)?, device.windowed_buffer("profile", COPIED)?);
    let (inputs, outputs) = (vec![from.region().slice()], vec![to.region().slice()]);
    seconds(device, &Command { op: "profile", work: Work::Copy, inputs, outputs })
}

fn matmul_time(device: &Device) -> Result<f64> {
    let layout = Layout::contiguous(Shape::new(&[SIDE, SIDE])?);
    let (a, b) = (filled(device, SIDE * SIDE * 4)?, filled(device, SIDE * SIDE * 4)?);
    let c = device.buffer("profile", SIDE * SIDE * 4)?;
    let kernel = Matmul { a: layout, b: layout, bias: None, activation: Activation::None };
    let slice = |buffer: &Buffer| buffer.region().slice();
    // Without a bias anything is bound in its place.
    let inputs = vec![slice(&a), slice(&b), slice(&a)];
    let work = Work::Kernel(Arc::new(kernel));
    seconds(device, &Command { op: "profile", work, inputs, outputs: vec![slice(&c)] })
}

/// Seconds per run of `command`: the best of three batches that fill a part of the budget each.
fn seconds(device: &Device, command: &Command) -> Result<f64> {
    let batch = |runs: u32| {
        let start = Instant::now();
        for _ in 0..runs {
            device.record(command.clone())?;
            // Each by itself, or all but the last would be left out as overwritten.
            device.flush()?;
        }
        device.synchronize()?;
        Ok(start.elapsed().as_secs_f64() / f64::from(runs))
    };
    // Memory is touched and pipelines are built by the first.
    batch(1)?;
    let once: f64 = batch(1)?;
    let runs = (BUDGET.as_secs_f64() / 3.0 / once.max(1e-9)).clamp(1.0, f64::from(MOST_RUNS)) as u32;
    (0..3).try_fold(once, |best, _| Ok(best.min(batch(runs)?)))
}
