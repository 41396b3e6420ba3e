//! Changing the element type.

use everstep_device::{DType, Generator, functions};

use super::pointwise::call;
use super::reference::{Array, Domain};
use super::table::{Case, Cases, EVERY, EXACT, Entry, Gradient};
use crate::{Error, Result, Tensor};

impl Tensor {
    /// The elements as another dtype. Floats become integers by rounding towards zero, saturating; NaN becomes 0. A
    /// number becomes the nearest f16 or bf16, the even one of two, and infinity where it is too large for one. To bool,
    /// what is not 0 is true, NaN too; from bool, true is 1. The gradient between floats is cast back; none flows to or
    /// from others.
    ///
    /// # Errors
    /// [`Error::DTypes`] for a pair of dtypes without a cast.
    ///
    /// ```
    /// # use everstep_tensor::{DType, Device, Tensor, bf16};
    /// let x = Tensor::from_vec::<f32>(vec![1.5, -2.7], &[2], &Device::cpu())?;
    /// assert_eq!(x.cast(DType::I32)?.to_vec::<i32>()?, [1, -2]);
    /// assert_eq!(x.cast(DType::BF16)?.to_vec::<bf16>()?, [bf16::from_f32(1.5), bf16::from_f32(-2.7)]);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn cast(&self, dtype: DType) -> Result<Tensor> {
        if dtype == self.dtype() {
            return Ok(self.clone());
        }
        // A half is a way to store an f32: every other cast goes by way of that.
        if (self.dtype().is_half() || dtype.is_half()) && ![self.dtype(), dtype].contains(&DType::F32) {
            return self.cast(DType::F32)?.cast(dtype);
        }
        match dtype {
            DType::F32 => call(&functions::CAST_F32, &[self]),
            DType::F16 => call(&functions::CAST_F16, &[self]),
            DType::BF16 => call(&functions::CAST_BF16, &[self]),
            DType::U32 => call(&functions::CAST_U32, &[self]),
            DType::I32 => call(&functions::CAST_I32, &[self]),
            DType::Bool => call(&functions::CAST_BOOL, &[self]),
            other => Err(Error::DTypes { op: "cast", found: vec![self.dtype(), other] }),
        }
    }
}

pub(super) const CAST: Entry =
    Entry { name: "cast", dtypes: EVERY, gradient: Gradient::Any, tolerance: EXACT, cases: Cases::Listed(cases) };

fn cases(generator: &mut Generator) -> Vec<Case> {
    let mut inputs = Vec::new();
    for shape in [&[3, 5][..], &[], &[0], &[2, 1, 2, 1, 3, 1]] {
        inputs.push(Array::draw(shape, Domain::between(-9.0, 9.0), generator));
        inputs.push(Array::integers(shape, DType::U32, 0, 1 << 30, generator));
        inputs.push(Array::integers(shape, DType::I32, -1000, 2000, generator));
    }
    for dtype in [DType::F16, DType::BF16, DType::Bool] {
        // Small enough to be exact as either half.
        let low = if dtype == DType::Bool { 0 } else { -8 };
        let count = if dtype == DType::Bool { 2 } else { 17 };
        inputs.push(Array::integers(&[3, 5], dtype, low, count, generator));
    }
    // The largest numbers, what does not fit, and f32's rounding of integers.
    inputs.push(Array::new(&[6], vec![4_294_967_040.0, 4_294_967_296.0, 1e30, -1e30, 2_147_483_648.0, -0.9]));
    inputs.push(Array::new(&[3], vec![4_294_967_295.0, 2_147_483_649.0, 16_777_217.0]).with_dtype(DType::U32));
    inputs.push(Array::new(&[3], vec![-2_147_483_648.0, 2_147_483_647.0, -16_777_219.0]).with_dtype(DType::I32));
    let mut cases = Vec::new();
    for input in inputs {
        for &target in EVERY.iter().filter(|&&target| target != input.dtype) {
            let label = format!("{} {:?} to {target}", input.dtype, input.shape);
            let apply = move |x: &[Tensor]| x[0].cast(target);
            let case = Case::new(label, vec![input.clone()], apply, move |x| reference(&x[0], target));
            // Rounding is no smooth function: gradients of casts have a test of their own.
            cases.push(case.with_orders(0));
        }
    }
    cases
}

/// Rust's `as`: floats round towards zero and saturate, integers wrap. To a half by way of f32.
fn reference(x: &Array, target: DType) -> Array {
    let single = |value: f64| f64::from(value as f32);
    let to_integer = x.dtype.is_float();
    let value = |value: f64| match target {
        DType::F32 => single(value),
        DType::F16 => nearest_half(single(value), 10, -14, 15),
        DType::BF16 => nearest_half(single(value), 7, -126, 127),
        DType::Bool => f64::from(u8::from(value != 0.0)),
        DType::U32 if to_integer => f64::from(value as u32),
        DType::I32 if to_integer => f64::from(value as i32),
        _ => value,
    };
    let result = x.map(value).with_dtype(target);
    let wraps = !to_integer && matches!(target, DType::U32 | DType::I32);
    if wraps { result.wrapped(target) } else { result }
}

/// The nearest number of so many fraction bits, the even one of two, with exponents from `least` to `largest`.
pub(super) fn nearest_half(value: f64, fraction: i32, least: i32, largest: i32) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let place = 2f64.powi((value.abs().log2().floor() as i32).max(least) - fraction);
    let rounded = (value / place).round_ties_even() * place;
    if rounded.abs() < 2f64.powi(largest + 1) { rounded } else { value.signum() * f64::INFINITY }
}
