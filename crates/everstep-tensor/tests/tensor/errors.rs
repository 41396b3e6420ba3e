//! Every misuse is a typed error that names the op, and none a panic.

use std::sync::OnceLock;

use everstep_device::Error as DeviceError;
use everstep_tensor::ops::table::{Case, Entry};
use everstep_tensor::{Activation, DType, Device, Error, Generator, Parameter, RandomStream, Result, Tensor};

use crate::common::{alone_with_gpu, assert_none, cases, devices};

/// The one null device of these tests.
fn null() -> Device {
    static NULL: OnceLock<Device> = OnceLock::new();
    NULL.get_or_init(Device::null).clone()
}

fn zeros(shape: &[usize]) -> Tensor {
    Tensor::zeros(shape, &null()).unwrap()
}

fn integers(shape: &[usize]) -> Tensor {
    Tensor::from_vec(vec![0u32; shape.iter().product()], shape, &null()).unwrap()
}

/// Asserts that each call's error has the variant.
macro_rules! each_is {
    ($pattern:pat, $($call:expr),+ $(,)?) => {
        $(match $call {
            Err($pattern) => {}
            other => panic!("{}: {other:?}", stringify!($call)),
        })+
    };
}

/// The first case of each op.
fn first_cases() -> Vec<(&'static Entry, Case)> {
    let mut all = cases();
    all.dedup_by_key(|(entry, _)| entry.name);
    all
}

#[test]
fn dtypes_that_an_op_does_not_take_are_refused() {
    let mut failures = Vec::new();
    for (entry, case) in first_cases() {
        for dtype in [DType::F32, DType::U32, DType::I32] {
            let mut inputs: Vec<Tensor> = case.inputs.iter().map(|input| input.tensor(&null()).unwrap()).collect();
            inputs[0] = case.inputs[0].clone().with_dtype(dtype).tensor(&null()).unwrap();
            let outcome = (case.apply)(&inputs);
            // Of two inputs both must have the dtype, but where the second holds indices.
            let apart = inputs.len() == 1 || case.inputs[1].dtype != case.inputs[0].dtype;
            let taken = entry.dtypes.contains(&dtype) && (apart || dtype == case.inputs[0].dtype);
            let right = match &outcome {
                Ok(_) => taken,
                Err(Error::DTypes { op, found }) => !taken && found.contains(&dtype) && !op.is_empty(),
                Err(_) => false,
            };
            if !right {
                failures.push(format!("{} of {dtype}: {outcome:?}", entry.name));
            }
        }
    }
    assert_none(&failures);
}

#[test]
fn tensors_of_two_devices_are_refused() {
    let mut failures = Vec::new();
    let (here, there) = (Device::cpu(), Device::isolated_cpu());
    for (entry, case) in first_cases().into_iter().filter(|(_, case)| case.inputs.len() > 1) {
        for other in 0..case.inputs.len() {
            let device = |input: usize| if input == other { &there } else { &here };
            let inputs = case.inputs.iter().enumerate().map(|(at, input)| input.tensor(device(at)).unwrap());
            let outcome = (case.apply)(&inputs.collect::<Vec<_>>());
            if !matches!(outcome, Err(Error::Devices { .. })) {
                failures.push(format!("{} with input {other} elsewhere: {outcome:?}", entry.name));
            }
        }
    }
    assert_none(&failures);
    let draw = RandomStream::new(&mut Generator::new(1)).draw(&there).unwrap();
    each_is!(Error::Devices { op: "dropout", .. }, Tensor::zeros(&[2], &here).unwrap().dropout(0.5, &draw));
}

#[test]
fn shapes_that_do_not_go_together_are_refused() {
    let (a, b) = (zeros(&[2, 3]), zeros(&[2, 4]));
    type Binary = fn(&Tensor, &Tensor) -> Result<Tensor>;
    let binary: [Binary; 7] =
        [Tensor::add, Tensor::sub, Tensor::mul, Tensor::div, Tensor::maximum, Tensor::minimum, Tensor::eq];
    for op in binary {
        each_is!(Error::Shapes { .. }, op(&a, &b), op(&a, &zeros(&[0])), op(&zeros(&[2]), &zeros(&[3, 1, 4])));
    }
}

#[test]
fn products_of_shapes_that_do_not_go_together_are_refused() {
    let (a, b) = (zeros(&[2, 3]), zeros(&[2, 4]));
    each_is!(
        Error::Shapes { op: "matmul", .. },
        a.matmul(&b),
        a.matmul(&zeros(&[])),
        zeros(&[]).matmul(&a),
        zeros(&[2, 3, 4]).matmul(&zeros(&[3, 4, 5])),
        zeros(&[4]).matmul(&zeros(&[3])),
        zeros(&[5, 2, 4]).matmul(&zeros(&[3])),
        zeros(&[3, 0]).matmul(&zeros(&[1, 4])),
    );
    let none = Activation::None;
    each_is!(
        Error::Shapes { .. },
        a.linear(&b, None, none),
        a.linear(&zeros(&[3]), None, none),
        zeros(&[]).linear(&zeros(&[1, 1]), None, none),
        a.linear(&zeros(&[4, 3]), Some(&zeros(&[3])), none),
        a.linear(&zeros(&[4, 3]), Some(&zeros(&[1])), none),
        a.linear(&zeros(&[4, 3]), Some(&zeros(&[1, 4])), none),
        a.linear(&zeros(&[4, 3]), Some(&zeros(&[])), none),
    );
    // The message names the shapes as they were given.
    let wrong = Error::to_string(&zeros(&[2, 3, 4]).matmul(&zeros(&[5, 6])).unwrap_err());
    assert!(wrong.contains("[2, 3, 4]") && wrong.contains("[5, 6]"), "{wrong}");
}

#[test]
fn shapes_that_an_op_does_not_take_are_refused() {
    let a = zeros(&[2, 3]);
    each_is!(
        Error::Shapes { op: "cross_entropy", .. },
        a.cross_entropy(&integers(&[3])),
        a.cross_entropy(&integers(&[2, 1])),
        a.cross_entropy_rows(&integers(&[])),
        zeros(&[]).cross_entropy(&integers(&[])),
    );
    each_is!(
        Error::Shapes { op: "reshape", .. },
        a.reshape(&[5]),
        a.reshape(&[]),
        a.reshape(&[0]),
        a.reshape(&[2, 3, 2])
    );
    each_is!(
        Error::Shapes { op: "broadcast_to", .. },
        a.broadcast_to(&[2, 4]),
        a.broadcast_to(&[3]),
        a.broadcast_to(&[]),
        zeros(&[0]).broadcast_to(&[1]),
        zeros(&[2]).broadcast_to(&[0]),
    );
    each_is!(Error::Shape { op: "squeeze", .. }, a.squeeze(0), zeros(&[0]).squeeze(0));
    each_is!(Error::Shape { op: "item", .. }, a.item::<f32>(), zeros(&[0]).item::<f32>());
}

#[test]
fn axes_that_do_not_exist_are_refused() {
    let x = zeros(&[2, 3]);
    for axis in [2, -3, 7, isize::MAX, isize::MIN] {
        each_is!(
            Error::Axis { .. },
            x.sum(&[axis], false),
            x.mean(&[0, axis], true),
            x.max(&[axis], false),
            x.argmax(axis, false),
            x.softmax(axis),
            x.permute(&[0, axis]),
            x.transpose(axis, 0),
            x.transpose(0, axis),
            x.slice(axis, ..),
            x.slice_step(axis, 0, 1, 1),
            x.squeeze(axis),
            x.flatten_from(axis),
        );
    }
    each_is!(Error::Axis { .. }, x.unsqueeze(3), x.unsqueeze(-4), x.unsqueeze(isize::MIN), x.unsqueeze(isize::MAX));
    let scalar = zeros(&[]);
    each_is!(
        Error::Axis { .. },
        scalar.sum(&[0], false),
        scalar.argmax(-1, true),
        scalar.softmax(-1),
        scalar.t(),
        zeros(&[3]).t(),
        scalar.flatten_from(0),
        scalar.squeeze(0),
    );
    each_is!(Error::AxisTwice { .. }, x.sum(&[0, 0], false), x.mean(&[1, -1], true), x.max(&[-2, 0], false));
    each_is!(Error::Device(DeviceError::Permutation { .. }), x.permute(&[0, 0]), x.permute(&[0]), x.permute(&[]));
    each_is!(
        Error::Device(DeviceError::Slice { .. }),
        x.slice(0, 1..3),
        x.slice(1, 4..),
        x.slice(0, ..=usize::MAX),
        x.slice(0, usize::MAX..),
        x.slice_step(0, 2, 1, 1),
        x.slice_step(0, 0, 2, 0),
        x.slice_step(0, usize::MAX, usize::MAX, 1),
    );
}

#[test]
fn too_many_dimensions_and_too_many_elements_are_refused() {
    let six = zeros(&[1; 6]);
    each_is!(
        Error::Device(DeviceError::Rank { rank: 7, .. }),
        six.unsqueeze(0),
        six.reshape(&[1; 7]),
        six.broadcast_to(&[1; 7]),
        Tensor::zeros(&[1; 7], &null()),
        Tensor::from_slice(&[1.0f32], &[1; 7], &null()),
    );
    let one = zeros(&[1]);
    each_is!(
        Error::Device(DeviceError::Overflow { .. }),
        one.broadcast_to(&[usize::MAX, 2]),
        one.reshape(&[usize::MAX, 0, 2]),
        Tensor::zeros(&[1 << 62], &null()),
        Tensor::rand(&[usize::MAX, 5], 0.0, 1.0, &mut Generator::new(1), &null()),
    );
    let (tall, wide) = (one.broadcast_to(&[1 << 40, 1]).unwrap(), one.broadcast_to(&[1, 1 << 40]).unwrap());
    each_is!(Error::Device(DeviceError::Overflow { .. }), tall.add(&wide), tall.matmul(&wide), wide.mul(&tall));
    let huge = Tensor::zeros(&[1], &Device::cpu()).unwrap().broadcast_to(&[1 << 45]).unwrap();
    each_is!(
        Error::Device(DeviceError::TooLarge { .. }),
        huge.exp(),
        huge.add_scalar(1.0),
        huge.copy(),
        huge.softmax(0),
        huge.reshape(&[1 << 20, 1 << 25])
            .and_then(|x| x.matmul(&Tensor::zeros(&[1], &Device::cpu())?.broadcast_to(&[1 << 25, 1 << 24])?)),
        Tensor::zeros(&[1 << 45], &Device::cpu()),
        Tensor::rand(&[1 << 45], 0.0, 1.0, &mut Generator::new(1), &Device::cpu()),
        Tensor::randn(&[1 << 45], &mut Generator::new(1), &Device::cpu()),
        huge.to_vec::<f32>(),
    );
}

/// Shaders count elements in 32 bits.
#[test]
fn more_elements_than_a_shader_can_count_are_refused() {
    let devices = devices();
    let Some(gpu) = devices.get(1) else { return };
    let one = Tensor::ones(&[1, 1], gpu).unwrap();
    let many = one.broadcast_to(&[1 << 17, 1 << 16]).unwrap();
    each_is!(
        Error::Device(DeviceError::TooLarge { .. }),
        many.sum_all(),
        many.max_all(),
        many.mean(&[0], false),
        many.argmax(0, false),
        many.exp(),
        one.broadcast_to(&[2, 1 << 33]).and_then(|x| x.matmul(&one.broadcast_to(&[1 << 33, 2])?)),
    );
    assert_eq!(one.sum_all().unwrap().item::<f32>().unwrap(), 1.0);
}

#[test]
fn values_out_of_their_range_are_refused() {
    let empty = zeros(&[2, 0]);
    each_is!(
        Error::Empty { .. },
        empty.max_all(),
        empty.max(&[1], true),
        empty.argmax(1, false),
        empty.cross_entropy(&integers(&[2])),
        zeros(&[0]).max_all(),
    );
    let draw = RandomStream::new(&mut Generator::new(1)).draw(&null()).unwrap();
    for probability in [1.0, -0.1, f32::NAN, f32::INFINITY] {
        each_is!(Error::Argument { op: "dropout", name: "probability", .. }, zeros(&[2]).dropout(probability, &draw));
    }
    each_is!(
        Error::Device(DeviceError::DataLength { expected: 6, found: 5, .. }),
        Tensor::from_slice(&[0.0f32; 5], &[2, 3], &null()),
    );
    each_is!(Error::ReadAs { .. }, zeros(&[2]).to_vec::<u32>(), integers(&[1]).item::<f32>());
    each_is!(Error::NotFloat { dtype: DType::U32 }, integers(&[2]).requires_grad(), Parameter::new(&integers(&[])));
    each_is!(Error::DTypes { .. }, integers(&[2]).add(&zeros(&[2])), integers(&[2]).div_scalar(2.0));
    each_is!(
        Error::Argument { name: "other", .. },
        integers(&[2]).add_scalar(0.5),
        integers(&[2]).eq_scalar(-1.0),
        integers(&[2]).lt_scalar(f32::NAN),
        integers(&[2]).cast(DType::I32).and_then(|x| x.rem_scalar(2147483648.0)),
    );
}

#[test]
fn a_label_out_of_range_is_told_with_the_next_read_and_then_forgotten() {
    let check = |device: &Device| {
        let logits = Tensor::zeros(&[3, 4], device).unwrap();
        let labels = Tensor::from_slice(&[0u32, 9, 4], &[3], device).unwrap();
        let loss = logits.cross_entropy(&labels).unwrap();
        let wrong = DeviceError::OutOfRange { op: "cross_entropy", value: 9, bound: 4 };
        assert_eq!(loss.item::<f32>(), Err(Error::Device(wrong)), "{device}");
        assert_eq!(logits.to_vec::<f32>(), Ok(vec![0.0; 12]), "{device}");
    };
    check(&Device::isolated_cpu());
    alone_with_gpu(check);
}

#[test]
fn a_parameter_takes_only_what_it_can_hold() {
    let parameter = Parameter::new(&zeros(&[2, 3])).unwrap();
    each_is!(Error::Shapes { op: "set", .. }, parameter.set(&zeros(&[3, 2])), parameter.set(&zeros(&[])));
    each_is!(Error::DTypes { op: "set", .. }, parameter.set(&integers(&[2, 3])));
    let elsewhere = Tensor::zeros(&[2, 3], &Device::cpu()).unwrap();
    each_is!(Error::Devices { op: "set", .. }, parameter.set(&elsewhere));
}
