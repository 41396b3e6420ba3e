//! NaN and infinities: put into every position of every input, they come out where the reference says, and nowhere
//! else. What a NaN is, is asked of the bits.

use everstep_tensor::ops::table::{Case, Entry};
use everstep_tensor::{Device, Tensor};

use crate::common::{agrees, assert_none, cases, devices};

const SPECIAL: [f64; 3] = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY];

/// Cases of each op that are checked: the first few small ones.
fn small_cases() -> Vec<(&'static Entry, Case)> {
    let (mut last, mut number) = ("", 0);
    let mut chosen = Vec::new();
    for (entry, case) in cases() {
        let count: usize = case.inputs.iter().map(|input| input.count()).sum();
        number = if entry.name == last { number } else { 0 };
        last = entry.name;
        if case.inputs[0].dtype.is_float() && (2..=40).contains(&count) && number < 4 {
            number += 1;
            chosen.push((entry, case));
        }
    }
    chosen
}

#[test]
fn nan_and_infinity_come_out_where_the_reference_says() {
    let mut failures = Vec::new();
    let devices = devices();
    for (entry, mut case) in small_cases() {
        for input in (0..case.inputs.len()).filter(|&input| case.inputs[input].dtype.is_float()).collect::<Vec<_>>() {
            for element in 0..case.inputs[input].count() {
                let before = case.inputs[input].values[element];
                for value in SPECIAL {
                    case.inputs[input].values[element] = value;
                    for device in devices.iter() {
                        if let Err(reason) = run(entry, &case, device) {
                            let (name, label, kind) = (entry.name, &case.label, device.info().kind);
                            failures
                                .push(format!("{name} {label} on {kind:?}: {value} at {input} {element}: {reason}"));
                        }
                    }
                }
                case.inputs[input].values[element] = before;
            }
        }
    }
    assert_none(&failures);
}

fn run(entry: &Entry, case: &Case, device: &Device) -> Result<(), String> {
    let inputs: Vec<Tensor> = case.inputs.iter().map(|input| input.tensor(device).unwrap()).collect();
    let found = (case.apply)(&inputs).map_err(|error| error.to_string())?;
    agrees(entry, &found, &(case.reference)(&case.inputs), 1.0)
}

/// A NaN of any sign and payload is one, to a GPU too, whose compiler may assume that there is none.
#[test]
fn every_nan_is_seen() {
    let patterns = [0x7fc0_0000u32, 0xffc0_0000, 0x7f80_0001, 0xff80_0001, 0x7fff_ffff, 0xffff_ffff];
    for device in devices().iter() {
        for bits in patterns {
            let values = [1.0, f32::from_bits(bits), -2.0];
            let x = Tensor::from_slice(&values, &[3], device).unwrap();
            let two = Tensor::full(&[3], 2.0, device).unwrap();
            let nan_at_1 = [x.relu(), x.maximum(&two), two.maximum(&x), x.minimum(&two), two.minimum(&x)];
            for (number, found) in nan_at_1.into_iter().chain(functions_of(&x, &two)).enumerate() {
                let found = found.as_ref().unwrap().to_vec::<f32>().unwrap();
                let nan: Vec<bool> = found[..2].iter().map(|value| value.is_nan()).collect();
                assert_eq!(nan, [false, true], "{number}: {bits:x} on {device}");
            }
            let all = [x.max_all(), x.sum_all(), x.mean_all(), x.softmax(0).unwrap().max_all()];
            for found in all {
                assert!(found.unwrap().item::<f32>().unwrap().is_nan(), "{bits:x} on {device}");
            }
            assert_eq!(x.argmax(0, false).unwrap().item::<u32>().unwrap(), 1, "{bits:x} on {device}");
            comparisons_see(&x, &two);
        }
    }
}

/// What each function that turns NaN into NaN makes of (1, NaN, -2).
fn functions_of(x: &Tensor, two: &Tensor) -> Vec<everstep_tensor::Result<Tensor>> {
    let all = x.eq(x).unwrap().logical_or(&x.ne(x).unwrap()).unwrap();
    let positive = [x.abs(), x.sign(), x.floor(), x.ceil(), x.round(), x.recip(), x.rsqrt(), x.log1p(), x.expm1()];
    let curves = [x.sin(), x.cos(), x.silu(), x.softplus(), x.elu(0.5), x.elu(0.0), x.leaky_relu(0.1)];
    let bounds = [x.clamp(None, Some(3.0)), x.clamp(Some(0.0), None), x.clamp(Some(-1.0), Some(1.0))];
    let pairs = [x.pow(two), two.pow(x), x.rem(two), two.rem(x), x.pow_scalar(-1.0), x.rem_scalar(3.0)];
    let moved = [all.where_cond(x, two), all.logical_not().unwrap().where_cond(two, x), x.copy(), x.mul_scalar(0.0)];
    let halves = [everstep_tensor::DType::F16, everstep_tensor::DType::BF16]
        .map(|half| x.cast(half).and_then(|x| x.cast(everstep_tensor::DType::F32)));
    positive.into_iter().chain(curves).chain(bounds).chain(pairs).chain(moved).chain(halves).collect()
}

/// Comparisons of (1, NaN, -2) with itself and with 2: NaN differs from everything, and nothing else holds of it.
fn comparisons_see(x: &Tensor, two: &Tensor) {
    let found = [x.eq(x), x.ne(x), x.le(x), x.ge(x), x.lt(two), two.gt(x), x.lt(x), x.gt(two), x.eq_scalar(1.0)];
    let expected = [[1, 0, 1], [0, 1, 0], [1, 0, 1], [1, 0, 1], [1, 0, 1], [1, 0, 1], [0; 3], [0; 3], [1, 0, 0]];
    for (number, (found, expected)) in found.into_iter().zip(expected).enumerate() {
        let expected = expected.map(|value| value == 1);
        assert_eq!(found.unwrap().to_vec::<bool>().unwrap(), expected, "comparison {number} on {}", x.device());
    }
}

/// A NaN deep inside a long reduction or product is not lost by blocks, lanes or tiles.
#[test]
fn one_nan_in_many_is_seen() {
    for device in devices().iter() {
        for at in [0, 63, 1023, 4096, 20_000, 69_999] {
            let mut values = vec![1.0f32; 70_000];
            values[at] = f32::NAN;
            let x = Tensor::from_slice(&values, &[70_000], device).unwrap();
            for found in [x.sum_all(), x.max_all()] {
                assert!(found.unwrap().item::<f32>().unwrap().is_nan(), "{at} on {device}");
            }
            let rows = x.reshape(&[700, 100]).unwrap();
            let product = rows.t().unwrap().matmul(&rows).unwrap().to_vec::<f32>().unwrap();
            let column = at % 100;
            let wrong = (0..10_000).find(|&i| product[i].is_nan() != (i / 100 == column || i % 100 == column));
            assert_eq!(wrong, None, "{at} on {device}");
        }
    }
}
