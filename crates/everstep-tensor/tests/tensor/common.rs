//! What the generated tests share: the cases of the table, and tensors of their inputs in every layout.

use std::ops::Deref;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use everstep_device::DeviceKind;
use everstep_tensor::ops::reference::Array;
use everstep_tensor::ops::table::{Case, Entry};
use everstep_tensor::{DType, Device, Generator, Result, Tensor, bf16, f16, ops};
use everstep_testing::close;

/// The devices of the tests, while no test has them to itself.
///
/// A device tells of data errors at its next read-back, whoever reads: a test that makes one must be alone with it.
pub(crate) struct Shared {
    devices: Vec<Device>,
    _guard: RwLockReadGuard<'static, ()>,
}

static ALONE: RwLock<()> = RwLock::new(());

impl Deref for Shared {
    type Target = [Device];
    fn deref(&self) -> &[Device] {
        &self.devices
    }
}

/// The CPU engine, and a GPU where there is one.
pub(crate) fn devices() -> Shared {
    let _guard = ALONE.read().unwrap_or_else(PoisonError::into_inner);
    Shared { devices: everstep_testing::devices(), _guard }
}

/// Calls `test` with a GPU, if there is one, that no other test uses meanwhile.
pub(crate) fn alone_with_gpu(test: impl FnOnce(&Device)) {
    let _guard = ALONE.write().unwrap_or_else(PoisonError::into_inner);
    if let Some(gpu) = everstep_testing::gpu() {
        test(&gpu);
    }
}

/// How an input's elements lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Storage {
    /// One after the other.
    Plain,
    /// In the opposite order of dimensions.
    Transposed,
    /// Every second one from an offset on, with others between them that no op may look at.
    Sliced,
    /// Repeated by a stride of 0. The elements are changed to fit.
    Repeated,
}

pub(crate) const STORAGES: [Storage; 4] = [Storage::Plain, Storage::Transposed, Storage::Sliced, Storage::Repeated];

/// The table's cases. While an op is being written, `EVERSTEP_OPS=conv1d,conv2d` runs those of it alone.
pub(crate) fn cases() -> Vec<(&'static Entry, Case)> {
    let only = std::env::var("EVERSTEP_OPS").ok();
    let wanted = |entry: &&Entry| only.as_ref().is_none_or(|only| only.split(',').any(|name| name == entry.name));
    let cases = |entry: &'static Entry| {
        // Seeded by its name: an op's cases are the same whatever else is in the table.
        let seed = entry.name.bytes().fold(2026, |seed: u64, byte| seed.wrapping_mul(31).wrapping_add(u64::from(byte)));
        entry.cases(&mut Generator::new(seed)).into_iter().map(move |case| (entry, case))
    };
    ops::ALL.iter().filter(wanted).flat_map(cases).collect()
}

/// Fails with everything that went wrong, not with the first.
pub(crate) fn assert_none(failures: &[String]) {
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

pub(crate) fn is_gpu(device: &Device) -> bool {
    device.info().kind == DeviceKind::Gpu
}

/// An input as a layout holds it, and that layout: the plain one where the shape has no such layout.
pub(crate) type Held = (Array, Storage);

/// The inputs of a case in a layout; `None` where all of them would be plain again.
pub(crate) fn held_inputs(case: &Case, storage: Storage) -> Option<Vec<Held>> {
    let held: Vec<Held> = case.inputs.iter().map(|input| hold(input, storage)).collect();
    (storage == Storage::Plain || held.iter().any(|(_, layout)| *layout != Storage::Plain)).then_some(held)
}

fn hold(array: &Array, storage: Storage) -> Held {
    match storage {
        Storage::Transposed if array.shape.len() < 2 => (array.clone(), Storage::Plain),
        Storage::Repeated => {
            let Some(axis) = array.shape.iter().position(|&size| size > 1) else {
                return (array.clone(), Storage::Plain);
            };
            let first = |index: &[usize]| {
                let mut index = index.to_vec();
                index[axis] = 0;
                array.at(&index)
            };
            (Array::from_fn(&array.shape, first).with_dtype(array.dtype), storage)
        }
        _ => (array.clone(), storage),
    }
}

/// Tensors of what [`held_inputs`] gave.
pub(crate) fn tensors(held: &[Held], device: &Device) -> Vec<Tensor> {
    held.iter().map(|(array, storage)| stored(array, *storage, device).unwrap()).collect()
}

/// What a case should give for such inputs.
pub(crate) fn expected(case: &Case, held: &[Held]) -> Array {
    (case.reference)(&held.iter().map(|(array, _)| array.clone()).collect::<Vec<_>>())
}

fn stored(array: &Array, storage: Storage, device: &Device) -> Result<Tensor> {
    match storage {
        Storage::Plain => array.tensor(device),
        Storage::Transposed => {
            let backwards: Vec<usize> = (0..array.shape.len()).rev().collect();
            let axes: Vec<isize> = backwards.iter().map(|&axis| axis as isize).collect();
            array.permuted(&backwards).tensor(device)?.permute(&axes)
        }
        Storage::Sliced => sliced(array, device),
        Storage::Repeated => {
            let axis = array.shape.iter().position(|&size| size > 1).unwrap();
            let mut shape = array.shape.clone();
            shape[axis] = 1;
            let first = Array::from_fn(&shape, |index| array.at(index)).with_dtype(array.dtype);
            first.tensor(device)?.broadcast_to(&array.shape)
        }
    }
}

fn sliced(array: &Array, device: &Device) -> Result<Tensor> {
    // Whoever reads it, spoils its result.
    let junk = if array.dtype.is_float() { f64::NAN } else { f64::from(i32::MAX) };
    let Some((&last, lead)) = array.shape.split_last() else {
        let around = Array::new(&[3], vec![junk, array.values[0], junk]).with_dtype(array.dtype);
        return around.tensor(device)?.slice(0, 1..2)?.reshape(&[]);
    };
    let mut shape = [lead, &[2 * last + 1]].concat();
    let first = usize::from(!lead.is_empty());
    shape[0] += first;
    let value = |index: &[usize]| {
        let mut inner = index.to_vec();
        let at = index.len() - 1;
        inner[at] = index[at] / 2;
        match inner[0].checked_sub(first) {
            Some(row) if index[at] % 2 == 1 => inner[0] = row,
            _ => return junk,
        }
        array.at(&inner)
    };
    let around = Array::from_fn(&shape, value).with_dtype(array.dtype).tensor(device)?;
    let rows = if first == 1 { around.slice(0, 1..)? } else { around };
    rows.slice_step(-1, 1, 2 * last + 1, 2)
}

/// The elements as numbers.
pub(crate) fn numbers(tensor: &Tensor) -> Result<Vec<f64>> {
    Ok(match tensor.dtype() {
        DType::U32 => tensor.to_vec::<u32>()?.into_iter().map(f64::from).collect(),
        DType::I32 => tensor.to_vec::<i32>()?.into_iter().map(f64::from).collect(),
        DType::F16 => tensor.to_vec::<f16>()?.into_iter().map(f64::from).collect(),
        DType::BF16 => tensor.to_vec::<bf16>()?.into_iter().map(f64::from).collect(),
        DType::Bool => tensor.to_vec::<bool>()?.into_iter().map(|value| f64::from(u8::from(value))).collect(),
        _ => tensor.to_vec::<f32>()?.into_iter().map(f64::from).collect(),
    })
}

/// The elements' bits.
pub(crate) fn bits(tensor: &Tensor) -> Result<Vec<u32>> {
    match tensor.dtype() {
        DType::U32 => tensor.to_vec::<u32>(),
        DType::I32 => Ok(tensor.to_vec::<i32>()?.into_iter().map(|value| value as u32).collect()),
        DType::F16 => Ok(tensor.to_vec::<f16>()?.into_iter().map(|value| u32::from(value.to_bits())).collect()),
        DType::BF16 => Ok(tensor.to_vec::<bf16>()?.into_iter().map(|value| u32::from(value.to_bits())).collect()),
        DType::Bool => Ok(tensor.to_vec::<bool>()?.into_iter().map(u32::from).collect()),
        _ => Ok(tensor.to_vec::<f32>()?.into_iter().map(f32::to_bits).collect()),
    }
}

/// Whether a tensor is what the reference says, `times` the entry's tolerance. What f32 cannot hold is infinite, and a
/// GPU may take what is below the smallest normal number for 0.
pub(crate) fn agrees(entry: &Entry, found: &Tensor, expected: &Array, times: f64) -> std::result::Result<(), String> {
    if **found.shape() != expected.shape[..] || found.dtype() != expected.dtype {
        let (shape, dtype) = (found.shape(), found.dtype());
        return Err(format!("is {dtype}{shape}, expected {}{:?}", expected.dtype, expected.shape));
    }
    let values = numbers(found).map_err(|error| error.to_string())?;
    if !found.dtype().is_float() {
        return (values == expected.values).then_some(()).ok_or(format!("{values:?}, expected {:?}", expected.values));
    }
    let rounded: Vec<f64> = expected.values.iter().map(|&value| held(value)).collect();
    let found: Vec<f32> = values.into_iter().map(|value| value as f32).collect();
    let absolute = entry.tolerance.absolute * times + f64::from(f32::MIN_POSITIVE);
    close(&found, &rounded, entry.tolerance.relative * times, absolute)
}

/// A number as f32 can hold it: infinite beyond the largest.
fn held(value: f64) -> f64 {
    if value.abs() < f64::from(f32::MAX) * (1.0 + 1e-7) { value } else { value * f64::INFINITY }
}
