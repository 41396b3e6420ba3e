//! Functions at their edges: powers, remainders, roundings, angles, and gradients where branches meet.

use everstep_tensor::{Device, GradientOptions, Result, Tensor, gradients};
use everstep_testing::assert_close;

use crate::common::devices;

const SPECIAL: [f32; 18] = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    2.0,
    -2.0,
    3.0,
    -3.0,
    0.5,
    -2.5,
    1e30,
    -1e30,
    16_777_217.0,
    33_554_435.0,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::NAN,
    1e-30,
];

fn tensor(values: &[f32], device: &Device) -> Tensor {
    Tensor::from_slice(values, &[values.len()], device).unwrap()
}

fn pairs() -> (Vec<f32>, Vec<f32>) {
    SPECIAL.iter().flat_map(|&a| SPECIAL.map(|b| (a, b))).unzip()
}

#[test]
fn powers_and_remainders_of_special_numbers_are_those_of_f64() {
    let (mut a, mut b) = pairs();
    let bases = [0.001, 0.3, 0.9999, 1.0001, 1.7, 12.0, 3e5, 1e-41];
    a.extend(bases.iter().flat_map(|&base: &f32| [base; 6]));
    b.extend(bases.iter().flat_map(|_| [-9.3, 0.1, 7.0, 12.7, -0.001, 2.0]));
    for device in devices().iter() {
        let (x, y) = (tensor(&a, device), tensor(&b, device));
        let wide = |function: fn(f64, f64) -> f64| -> Vec<f64> {
            // Beyond f32 it is infinite, and what a GPU may flush is zero on both sides of the tolerance.
            a.iter().zip(&b).map(|(&a, &b)| f64::from(function(a.into(), b.into()) as f32)).collect()
        };
        // A GPU may flush a denormal argument: then its power is that of zero.
        let denormal = |at: usize| a[at] == 1e-41 && device.info().kind == everstep_device::DeviceKind::Gpu;
        let kept: Vec<usize> = (0..a.len()).filter(|&at| !denormal(at)).collect();
        let chosen = |values: Vec<f64>| -> Vec<f64> { kept.iter().map(|&at| values[at]).collect() };
        let found = |tensor: Result<Tensor>| -> Vec<f32> {
            let values = tensor.unwrap().to_vec::<f32>().unwrap();
            kept.iter().map(|&at| values[at]).collect()
        };
        assert_close("pow", &found(x.pow(&y)), &chosen(wide(f64::powf)), 1e-6, 1.2e-38);
        let rem = |a: f64, b: f64| {
            let left = a % b;
            if left != 0.0 && (left < 0.0) != (b < 0.0) { left + b } else { left }
        };
        assert_close("rem", &found(x.rem(&y)), &chosen(wide(rem)), 0.0, 1.2e-38);
    }
}

#[test]
fn remainders_of_integers_have_the_sign_of_the_divisor() {
    let (a, b) = ([7, -7, 7, -7, 6, 5, i32::MIN, i32::MIN, -1], [3, 3, -3, -3, -3, 0, -1, 3, i32::MAX]);
    for device in devices().iter() {
        let tensors = [a, b].map(|values| Tensor::from_slice(&values, &[9], device).unwrap());
        let found = tensors[0].rem(&tensors[1]).unwrap().to_vec::<i32>().unwrap();
        assert_eq!(found, [1, 2, -2, -1, 0, 0, 0, 1, i32::MAX - 1], "{device}");
        let unsigned = Tensor::from_slice(&[7u32, u32::MAX, 5], &[3], device).unwrap();
        assert_eq!(unsigned.rem_scalar(4.0).unwrap().to_vec::<u32>().unwrap(), [3, 3, 1], "{device}");
        assert_eq!(unsigned.rem_scalar(0.0).unwrap().to_vec::<u32>().unwrap(), [0, 0, 0], "{device}");
        assert_eq!(unsigned.gt_scalar(6.0).unwrap().to_vec::<bool>().unwrap(), [true, true, false], "{device}");
    }
}

/// To the nearest integer, the even one of two; large numbers are their own.
#[test]
fn roundings_are_those_of_rust() {
    let values = [0.5, -0.5, 1.5, 2.5, -2.5, 8_388_607.5, 8_388_609.0, 4e18, -4e18, -0.2, f32::INFINITY];
    for device in devices().iter() {
        let x = tensor(&values, device);
        let expect = |found: Result<Tensor>, function: fn(f32) -> f32| {
            let expected: Vec<f32> = values.iter().map(|&value| function(value)).collect();
            assert_eq!(found.unwrap().to_vec::<f32>().unwrap(), expected, "{device}");
        };
        expect(x.round(), f32::round_ties_even);
        expect(x.floor(), f32::floor);
        expect(x.ceil(), f32::ceil);
    }
}

/// From the smallest angles to the largest, near multiples of a quarter turn too.
#[test]
fn angles_of_any_size_have_a_sine() {
    let quarters = (0..4000u32).map(|quarter| (f64::from(quarter) * std::f64::consts::FRAC_PI_2) as f32);
    let sizes = (0..3000u32).map(|at| 1.37 * 2f32.powf(at as f32 * 0.08 - 112.0));
    let values: Vec<f32> = quarters.chain(sizes).flat_map(|x| [x, -x]).filter(|x| x.is_finite()).collect();
    let expected = |function: fn(f64) -> f64| values.iter().map(|&x| function(x.into())).collect::<Vec<_>>();
    for device in devices().iter() {
        let x = tensor(&values, device);
        assert_close("sin", &x.sin().unwrap().to_vec::<f32>().unwrap(), &expected(f64::sin), 6e-7, 1e-11);
        assert_close("cos", &x.cos().unwrap().to_vec::<f32>().unwrap(), &expected(f64::cos), 6e-7, 1e-11);
    }
}

/// What cancels near zero does not.
#[test]
fn logarithms_and_powers_near_zero_are_exact() {
    let values: Vec<f32> = (0..600).map(|at| 10f32.powf(at as f32 * 0.075 - 37.0)).collect();
    let signed: Vec<f32> = values.iter().flat_map(|&x| [x, -x]).collect();
    for device in devices().iter() {
        let x = tensor(&signed, device);
        let expected = |function: fn(f64) -> f64| -> Vec<f64> {
            signed.iter().map(|&x| f64::from(function(x.into()) as f32)).collect()
        };
        assert_close("log1p", &x.log1p().unwrap().to_vec::<f32>().unwrap(), &expected(f64::ln_1p), 6e-7, 1.2e-38);
        assert_close("expm1", &x.expm1().unwrap().to_vec::<f32>().unwrap(), &expected(f64::exp_m1), 6e-7, 1.2e-38);
    }
}

/// The gradients of the sum of `apply`, first and second order, of inputs that are leaves.
fn slopes(apply: impl Fn(&[Tensor]) -> Result<Tensor>, inputs: &[&[f32]], device: &Device) -> Vec<Vec<f32>> {
    let leaves: Vec<Tensor> = inputs.iter().map(|values| tensor(values, device).requires_grad().unwrap()).collect();
    let wanted: Vec<&Tensor> = leaves.iter().collect();
    let loss = apply(&leaves).unwrap().sum_all().unwrap();
    let found = gradients(&loss, &wanted, GradientOptions::default()).unwrap();
    found.into_iter().map(|found| found.map_or(vec![], |found| found.to_vec::<f32>().unwrap())).collect()
}

/// PyTorch's gradients where a formula of limits would give NaN.
#[test]
fn gradients_at_the_edges_are_those_of_pytorch() {
    for device in devices().iter() {
        let pow = slopes(|x| x[0].pow(&x[1]), &[&[0.0, 0.0, 0.0, -2.0, 3.0], &[0.0, 1.0, 3.0, 2.0, 0.0]], device);
        assert_eq!(pow[0], [0.0, 1.0, 0.0, -4.0, 0.0], "{device}");
        assert_eq!(pow[1][..3], [0.0; 3], "{device}");
        assert!(pow[1][3].is_nan() && (pow[1][4] - 3f32.ln()).abs() < 1e-6, "{:?} on {device}", pow[1]);
        let square = slopes(|x| x[0].pow_scalar(2.0), &[&[0.0, -3.0]], device);
        assert_eq!(square[0], [0.0, -6.0], "{device}");
        let clamp = slopes(|x| x[0].clamp(Some(-1.0), Some(1.0)), &[&[-2.0, -1.0, 0.5, 1.0, 2.0]], device);
        assert_eq!(clamp[0], [0.0, 0.0, 1.0, 0.0, 0.0], "{device}");
        let abs = slopes(|x| x[0].abs(), &[&[-2.0, 0.0, 2.0]], device);
        assert_eq!(abs[0], [-1.0, 0.0, 1.0], "{device}");
        let elu = slopes(|x| x[0].elu(2.0), &[&[-1000.0, 0.0, 1000.0]], device);
        assert_eq!(elu[0], [0.0, 2.0, 1.0], "{device}");
        // What was not chosen sends nothing back, not even infinity times zero.
        let chosen = slopes(|x| x[0].gt_scalar(0.0)?.where_cond(&x[0].log()?, &x[0]), &[&[0.0, 2.0]], device);
        assert!(chosen[0][0].is_nan() || chosen[0][0] == 1.0, "{chosen:?}");
        assert_eq!(chosen[0][1], 0.5, "{device}");
    }
}

#[test]
fn truth_values_are_elements() {
    for device in devices().iter() {
        let x = Tensor::from_vec(vec![true, false, true, true], &[2, 2], device).unwrap();
        assert_eq!(x.t().unwrap().to_vec::<bool>().unwrap(), [true, true, false, true], "{device}");
        let numbers = x.cast(everstep_tensor::DType::F32).unwrap();
        assert_eq!(numbers.to_vec::<f32>().unwrap(), [1.0, 0.0, 1.0, 1.0], "{device}");
        assert_eq!(x.eq(&x.t().unwrap()).unwrap().to_vec::<bool>().unwrap(), [true, false, false, true], "{device}");
        assert_eq!(x.to_device(&Device::isolated_cpu()).unwrap().to_vec::<bool>().unwrap(), [true, false, true, true]);
        assert!(x.to_string().contains("true") && x.to_string().contains("bool"), "{x}");
    }
}
