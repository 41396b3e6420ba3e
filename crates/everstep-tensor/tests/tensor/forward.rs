//! Every op against its reference in f64, in every layout, on every device, and twice.

use everstep_tensor::ops::reference::Array;
use everstep_tensor::ops::table::{Case, Entry};
use everstep_tensor::{Device, Tensor, ops};

use crate::common::{
    Held, STORAGES, Storage, agrees, assert_none, bits, cases, devices, expected, held_inputs, is_gpu, numbers, tensors,
};

/// Every function of the table of pointwise functions is an op, except those that only gradients use; and the table
/// names no op twice.
#[test]
fn every_function_has_an_entry() {
    let mut names: Vec<_> = ops::ALL.iter().map(|entry| entry.name).collect();
    let inner = ["relu_gate", "max_share", "cast_f32", "cast_u32", "cast_i32", "cast_f16", "cast_bf16", "cast_bool"];
    for function in everstep_device::functions::ALL.iter().filter(|function| !inner.contains(&function.name)) {
        assert!(names.contains(&function.name), "{} is not in ops::ALL", function.name);
    }
    names.sort_unstable();
    assert!(names.is_sorted_by(|a, b| a < b), "an op is named twice: {names:?}");
}

/// The layouts that a case is run in: all on the CPU; on a GPU, where each pattern of access is a shader to compile,
/// those that differ and only for the first cases of an op.
fn storages(device: &Device, number: usize) -> &'static [Storage] {
    if is_gpu(device) && number > 3 { &STORAGES[..1] } else { &STORAGES }
}

/// Calls `check` for every case in every layout on every device; `number` counts the cases of an op.
fn each(mut check: impl FnMut(&Entry, &Case, &[Held], &Device) -> Result<(), String>) {
    let mut failures = Vec::new();
    let (mut last, mut number) = ("", 0);
    let devices = devices();
    for (entry, case) in cases() {
        number = if entry.name == last { number + 1 } else { 0 };
        last = entry.name;
        for device in devices.iter() {
            for &storage in storages(device, number) {
                let Some(held) = held_inputs(&case, storage) else { continue };
                if let Err(reason) = check(entry, &case, &held, device) {
                    let kind = device.info().kind;
                    failures.push(format!("{} {} {storage:?} on {kind:?}: {reason}", entry.name, case.label));
                }
            }
        }
    }
    assert_none(&failures);
}

#[test]
fn every_op_is_its_reference_in_every_layout() {
    each(|entry, case, held, device| {
        let found = (case.apply)(&tensors(held, device)).map_err(|error| error.to_string())?;
        agrees(entry, &found, &expected(case, held), 1.0)
    });
}

/// One recording with other work in it, one alone, and on the CPU another device that runs each command by itself.
#[test]
fn the_same_inputs_give_the_same_bits() {
    each(|_, case, held, device| {
        let inputs = tensors(held, device);
        let [first, second] = [(); 2].map(|()| (case.apply)(&inputs));
        let first = bits(&first.map_err(|error| error.to_string())?).unwrap();
        let mut found = vec![("again", bits(&second.unwrap()).unwrap())];
        if !is_gpu(device) {
            let apart = Device::isolated_cpu();
            let inputs = tensors(held, &apart);
            inputs.iter().for_each(|input| drop(bits(input).unwrap()));
            found.push(("flushed", bits(&(case.apply)(&inputs).unwrap()).unwrap()));
        }
        let other = found.into_iter().find(|(_, found)| *found != first);
        other.map_or(Ok(()), |(how, found)| Err(format!("{how}: {found:x?}, first {first:x?}")))
    });
}

/// Both are within the tolerance of the exact result, so they are within twice that of each other.
#[test]
fn the_gpu_is_near_the_cpu() {
    let devices = devices();
    let Some(gpu) = devices.get(1) else { return };
    let mut failures = Vec::new();
    for (entry, case) in cases() {
        let run = |device: &Device| {
            let tensors: Vec<Tensor> = case.inputs.iter().map(|input| input.tensor(device).unwrap()).collect();
            (case.apply)(&tensors).unwrap()
        };
        let cpu = run(&Device::cpu());
        let expected = Array::new(cpu.shape(), numbers(&cpu).unwrap()).with_dtype(cpu.dtype());
        if let Err(reason) = agrees(entry, &run(gpu), &expected, 2.0) {
            failures.push(format!("{} {}: {reason}", entry.name, case.label));
        }
    }
    assert_none(&failures);
}
