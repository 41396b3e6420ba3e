//! f16 and bf16: how they lie in memory, exact conversions, and ops that compute with them as f32.

use everstep_tensor::ops::reference::{Array, Domain};
use everstep_tensor::{DType, Device, Error, Generator, GradientOptions, Parameter, Tensor, bf16, f16, gradients};
use everstep_testing::assert_close;

use crate::common::devices;

const HALVES: [DType; 2] = [DType::F16, DType::BF16];

/// A tensor of the halves with these bits.
fn of_bits(bits: &[u16], dtype: DType, shape: &[usize], device: &Device) -> Tensor {
    match dtype {
        DType::F16 => Tensor::from_vec(bits.iter().map(|&bits| f16::from_bits(bits)).collect(), shape, device),
        _ => Tensor::from_vec(bits.iter().map(|&bits| bf16::from_bits(bits)).collect(), shape, device),
    }
    .unwrap()
}

fn bits_of(tensor: &Tensor) -> Vec<u16> {
    match tensor.dtype() {
        DType::F16 => tensor.to_vec::<f16>().unwrap().into_iter().map(f16::to_bits).collect(),
        _ => tensor.to_vec::<bf16>().unwrap().into_iter().map(bf16::to_bits).collect(),
    }
}

fn widened(bits: u16, dtype: DType) -> f32 {
    if dtype == DType::F16 { f16::from_bits(bits).to_f32() } else { bf16::from_bits(bits).to_f32() }
}

fn rounded(value: f32, dtype: DType) -> u16 {
    if dtype == DType::F16 { f16::from_f32(value).to_bits() } else { bf16::from_f32(value).to_bits() }
}

/// Equal bits, or NaN both.
fn same(a: u16, b: u16, dtype: DType) -> bool {
    a == b || (widened(a, dtype).is_nan() && widened(b, dtype).is_nan())
}

#[test]
fn every_half_goes_to_f32_and_back() {
    let all: Vec<u16> = (0..=u16::MAX).collect();
    for device in devices().iter() {
        for dtype in HALVES {
            let x = of_bits(&all, dtype, &[1 << 16], device);
            assert!(bits_of(&x) == all && bits_of(&x.copy().unwrap()) == all, "{dtype} on {device}");
            let wide = x.cast(DType::F32).unwrap();
            for (&bits, found) in all.iter().zip(wide.to_vec::<f32>().unwrap()) {
                let expected = widened(bits, dtype);
                // A GPU may flush what is too small for a normal f32.
                let flushed = expected.is_subnormal() && found == 0.0;
                let equal = found.to_bits() == expected.to_bits() || (found.is_nan() && expected.is_nan());
                assert!(equal || flushed, "{bits:x} of {dtype} is {found:e}, not {expected:e}, on {device}");
            }
            let back = bits_of(&wide.cast(dtype).unwrap());
            let wrong = all.iter().zip(&back).find(|&(&a, &b)| !same(a, b, dtype) && !widened(a, dtype).is_subnormal());
            assert_eq!(wrong, None, "{dtype} on {device}");
        }
    }
}

/// Ties, overflow, denormals and NaN, and bit patterns from all over.
fn numbers() -> Vec<f32> {
    let mut values = vec![65_504.0, 65_519.996, 65_520.0, 65_536.0, 1e30, f32::MAX, f32::INFINITY, 3.4e38, 3.39e38];
    values.extend([5.960_464_5e-8, 2.980_232_2e-8, 2.980_232_6e-8, 8.940_697e-8, 6.1e-5, 6.097_555e-5, 1e-10, 0.0]);
    values.extend([f32::NAN, f32::from_bits(0x7f80_0001), f32::from_bits(0x7f80_8000), f32::from_bits(0x7fff_ffff)]);
    // Halfway between two halves, and a place beside it.
    let places = (0..3000u32).flat_map(|at| {
        let between = f32::from_bits(0x3300_0000 + at * 0x0004_5000 + 0x1000);
        let wide = f32::from_bits(at.wrapping_mul(0x0015_8000) & 0x7fff_0000 | 0x8000);
        [between, between.next_up(), between.next_down(), wide, f32::from_bits(wide.to_bits() + 1)]
    });
    values.extend(places);
    let mut generator = Generator::new(3);
    values.extend((0..20_000).map(|_| f32::from_bits(generator.below(u32::MAX))));
    values.extend((0..20_000).map(|_| generator.normal() * 2f32.powi(generator.below(30) as i32 - 20)));
    values.iter().flat_map(|&value| [value, -value]).collect()
}

#[test]
fn f32_is_rounded_to_the_nearest_half() {
    let values = numbers();
    for device in devices().iter() {
        let x = Tensor::from_slice(&values, &[values.len()], device).unwrap();
        for dtype in HALVES {
            for (value, found) in values.iter().zip(bits_of(&x.cast(dtype).unwrap())) {
                let expected = rounded(*value, dtype);
                let flushed = value.is_subnormal() && widened(found, dtype) == 0.0;
                assert!(same(found, expected, dtype) || flushed, "{value:e} is {found:x} of {dtype}, not {expected:x}");
            }
        }
    }
}

/// Odd counts, offsets and strides: views of halves and their copies.
#[test]
fn views_of_halves_are_what_they_say() {
    for device in devices().iter() {
        for dtype in HALVES {
            for count in [0usize, 1, 2, 3, 7, 255, 513, 5001] {
                let bits: Vec<u16> = (0..count as u16).collect();
                let x = of_bits(&bits, dtype, &[count], device);
                assert_eq!(bits_of(&x.copy().unwrap()), bits, "{count}");
                for start in [1, 2, 3].into_iter().filter(|&start| start < count) {
                    let part = x.slice(0, start..).unwrap();
                    assert_eq!(bits_of(&part), &bits[start..], "{count} from {start}");
                    let wide = part.cast(DType::F32).unwrap().cast(dtype).unwrap();
                    // Small numbers of bits are denormals, which a GPU may flush: compared as what they became.
                    assert_eq!(bits_of(&wide).len(), count - start);
                    let stepped = x.slice_step(0, start, count, 2).unwrap();
                    assert_eq!(bits_of(&stepped), bits[start..].iter().step_by(2).copied().collect::<Vec<_>>());
                }
            }
            let bits: Vec<u16> = (0x3c00..0x3c00 + 15).collect();
            let x = of_bits(&bits, dtype, &[3, 5], device);
            let transposed: Vec<u16> = (0..15).map(|at| bits[at % 3 * 5 + at / 3]).collect();
            assert_eq!(bits_of(&x.t().unwrap()), transposed, "{device}");
            assert_eq!(bits_of(&x.t().unwrap().contiguous().unwrap().reshape(&[15]).unwrap()), transposed);
            assert_eq!(bits_of(&x.slice(0, 1..2).unwrap().broadcast_to(&[3, 5]).unwrap())[10..], bits[5..10]);
            assert_eq!(x.to_device(&Device::isolated_cpu()).unwrap().dtype(), dtype);
            assert_eq!(bits_of(&x.to_device(&Device::isolated_cpu()).unwrap()), bits);
            assert!(x.to_string().contains(dtype.name()), "{x}");
            assert_eq!(bits_of(&Tensor::full(&[3], 1.0, device).unwrap().cast(dtype).unwrap()).len(), 3);
        }
    }
}

/// Halves of numbers drawn from `domain`, and the numbers that they are.
fn draw(shape: &[usize], dtype: DType, generator: &mut Generator) -> Array {
    let values = Array::draw(shape, Domain::between(-2.0, 2.0), generator);
    values.map(|value| f64::from(widened(rounded(value as f32, dtype), dtype))).with_dtype(dtype)
}

/// Half a unit in the last place of a half, relative to it.
fn unit(dtype: DType) -> f64 {
    if dtype == DType::F16 { 2f64.powi(-11) } else { 2f64.powi(-8) }
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.detach().cast(DType::F32).unwrap().to_vec().unwrap()
}

#[test]
fn ops_on_halves_round_once_at_the_end() {
    let mut generator = Generator::new(8);
    for device in devices().iter() {
        for dtype in HALVES {
            let (x, y) = (draw(&[5, 7], dtype, &mut generator), draw(&[7], dtype, &mut generator));
            let (a, b) = (x.tensor(device).unwrap(), y.tensor(device).unwrap());
            let (relative, absolute) = (unit(dtype) * 1.001, 1e-6);
            let check = |name: &str, found: Tensor, expected: Vec<f64>| {
                assert_eq!(found.dtype(), dtype, "{name}");
                assert_close(name, &values(&found), &expected, relative, absolute);
            };
            check("add", a.add(&b).unwrap(), Array::zip(&[&x, &y], |x| x[0] + x[1]).values);
            check("mul", a.mul(&b).unwrap(), Array::zip(&[&x, &y], |x| x[0] * x[1]).values);
            check("tanh", a.tanh().unwrap(), x.map(f64::tanh).values);
            check("scalar", a.mul_scalar(0.3).unwrap(), x.map(|value| value * f64::from(0.3f32)).values);
            let sum = x.reduced(&[1], |row| row.iter().sum());
            check("sum", a.sum(&[1], false).unwrap(), sum.values);
            let product = |row: usize, column: usize| -> f64 {
                (0..7).map(|k| x.values[row * 7 + k] * x.values[column * 7 + k]).sum()
            };
            let expected = (0..25).map(|at| product(at / 5, at % 5)).collect();
            check("matmul", a.matmul(&a.t().unwrap()).unwrap(), expected);
            check(
                "where",
                a.gt(&b).unwrap().where_cond(&a, &b).unwrap(),
                Array::zip(&[&x, &y], |x| x[0].max(x[1])).values,
            );
            assert_eq!(a.softmax(-1).unwrap().dtype(), dtype);
            assert_eq!(a.gt_scalar(0.0).unwrap().dtype(), DType::Bool);
            assert_eq!(a.argmax(-1, false).unwrap().dtype(), DType::U32);
        }
        let [half, brain] = HALVES.map(|dtype| Tensor::ones(&[3], device).unwrap().cast(dtype).unwrap());
        let single = Tensor::ones(&[3], device).unwrap();
        for mixed in [half.add(&brain), half.mul(&single), single.maximum(&brain)] {
            assert_eq!(mixed.unwrap().dtype(), DType::F32, "{device}");
        }
    }
}

/// f32 accumulates: 4,096 ones in bf16, whose sums of ones stop at 256.
#[test]
fn sums_of_halves_are_those_of_f32() {
    for device in devices().iter() {
        let ones = Tensor::ones(&[4096], device).unwrap().cast(DType::BF16).unwrap();
        assert_eq!(ones.sum_all().unwrap().item::<bf16>().unwrap().to_f32(), 4096.0);
        let column = ones.reshape(&[4096, 1]).unwrap();
        assert_eq!(column.t().unwrap().matmul(&column).unwrap().item::<bf16>().unwrap().to_f32(), 4096.0);
    }
}

#[test]
fn gradients_through_a_product_of_halves() {
    let mut generator = Generator::new(9);
    for device in devices().iter() {
        for dtype in HALVES {
            let (x, w) = (draw(&[4, 6], dtype, &mut generator), draw(&[6, 3], dtype, &mut generator));
            let leaf = |array: &Array| array.tensor(device).unwrap().requires_grad().unwrap();
            let (a, b) = (leaf(&x), leaf(&w));
            let loss = a.matmul(&b).unwrap().cast(DType::F32).unwrap().sum_all().unwrap();
            let found = gradients(&loss, &[&a, &b], GradientOptions::default()).unwrap();
            let sums = [
                Array::from_fn(&[4, 6], |index| (0..3).map(|j| w.at(&[index[1], j])).sum()),
                Array::from_fn(&[6, 3], |index| (0..4).map(|i| x.at(&[i, index[0]])).sum()),
            ];
            for (found, expected) in found.into_iter().zip(sums) {
                let found = found.unwrap();
                assert_eq!(found.dtype(), dtype);
                assert_close("gradient", &values(&found), &expected.values, unit(dtype) * 1.001, 1e-6);
            }
            // A slice and a repeat of a leaf, used twice: gradients of halves are added.
            let used = a.slice(0, 1..3).unwrap().mul(&a.slice(0, 1..2).unwrap()).unwrap();
            used.cast(DType::F32).unwrap().sum_all().unwrap().backward().unwrap();
            let gradient = a.grad().unwrap();
            assert_eq!((gradient.dtype(), gradient.shape()), (dtype, a.shape()));
            let row = |row: usize, column: usize| x.at(&[row, column]);
            let expected = Array::from_fn(&[4, 6], |index| match index[0] {
                1 => 3.0 * row(1, index[1]) - row(1, index[1]) + row(2, index[1]),
                2 => row(1, index[1]),
                _ => 0.0,
            });
            // Each part was rounded, and their sum again.
            assert_close("used twice", &values(&gradient), &expected.values, 3.0 * unit(dtype), 6.0 * unit(dtype));
        }
    }
}

#[test]
fn a_loss_of_halves_can_be_walked_back_and_a_parameter_of_halves_keeps_its_dtype() {
    let device = Device::cpu();
    let value = Tensor::ones(&[3], &device).unwrap().cast(DType::F16).unwrap();
    let parameter = Parameter::new(&value).unwrap();
    let loss = parameter.tensor().mul_scalar(3.0).unwrap().sum_all().unwrap();
    assert_eq!(loss.dtype(), DType::F16);
    loss.backward().unwrap();
    assert_eq!(parameter.grad().unwrap().to_vec::<f16>().unwrap(), [f16::from_f32(3.0); 3]);
    assert!(matches!(value.to_vec::<f32>(), Err(Error::ReadAs { .. })));
    assert!(matches!(value.cast(DType::Bool).unwrap().add(&value), Err(Error::DTypes { .. })));
    // A cast's gradient is a cast: of any order.
    let x = Tensor::from_vec::<f32>(vec![1.5, -2.0], &[2], &device).unwrap().requires_grad().unwrap();
    let cube = x.cast(DType::BF16).unwrap().cast(DType::F32).unwrap();
    let cube = cube.mul(&cube).unwrap().mul(&cube).unwrap().sum_all().unwrap();
    let options = GradientOptions { create_graph: true, ..Default::default() };
    let first = gradients(&cube, &[&x], options).unwrap()[0].clone().unwrap();
    assert_eq!(first.to_vec::<f32>().unwrap(), [6.75, 12.0]);
    let second = gradients(&first.sum_all().unwrap(), &[&x], GradientOptions::default()).unwrap();
    assert_eq!(second[0].as_ref().unwrap().to_vec::<f32>().unwrap(), [9.0, -12.0]);
}
