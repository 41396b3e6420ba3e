//! Changing the element type.

use everstep_device::{DType, Generator, functions};

use super::pointwise::call;
use super::reference::{Array, Domain};
use super::table::{Case, Cases, EXACT, Entry, Gradient, NUMBERS};
use crate::{Error, Result, Tensor};

impl Tensor {
    /// The elements as another dtype. Floats become integers by rounding towards zero, saturating; NaN becomes 0. No
    /// gradient flows to or from integers.
    ///
    /// # Errors
    /// [`Error::DTypes`] for a pair of dtypes without a cast.
    pub fn cast(&self, dtype: DType) -> Result<Tensor> {
        if dtype == self.dtype() {
            return Ok(self.clone());
        }
        match dtype {
            DType::F32 => call(&functions::CAST_F32, &[self]),
            DType::U32 => call(&functions::CAST_U32, &[self]),
            DType::I32 => call(&functions::CAST_I32, &[self]),
            other => Err(Error::DTypes { op: "cast", found: vec![self.dtype(), other] }),
        }
    }
}

pub(super) const CAST: Entry = Entry {
    name: "cast",
    dtypes: NUMBERS,
    gradient: Gradient::No("integers have no gradient"),
    tolerance: EXACT,
    cases: Cases::Listed(cases),
};

fn cases(generator: &mut Generator) -> Vec<Case> {
    let mut inputs = Vec::new();
    for shape in [&[3, 5][..], &[], &[0], &[2, 1, 2, 1, 3, 1]] {
        inputs.push(Array::draw(shape, Domain::between(-9.0, 9.0), generator));
        inputs.push(Array::integers(shape, DType::U32, 0, 1 << 30, generator));
        inputs.push(Array::integers(shape, DType::I32, -1000, 2000, generator));
    }
    // The largest numbers, what does not fit, and f32's rounding of integers.
    inputs.push(Array::new(&[6], vec![4_294_967_040.0, 4_294_967_296.0, 1e30, -1e30, 2_147_483_648.0, -0.9]));
    inputs.push(Array::new(&[3], vec![4_294_967_295.0, 2_147_483_649.0, 16_777_217.0]).with_dtype(DType::U32));
    inputs.push(Array::new(&[3], vec![-2_147_483_648.0, 2_147_483_647.0, -16_777_219.0]).with_dtype(DType::I32));
    let mut cases = Vec::new();
    for input in inputs {
        for target in [DType::F32, DType::U32, DType::I32].into_iter().filter(|&target| target != input.dtype) {
            let label = format!("{} {:?} to {target}", input.dtype, input.shape);
            let apply = move |x: &[Tensor]| x[0].cast(target);
            cases.push(Case::new(label, vec![input.clone()], apply, move |x| reference(&x[0], target)));
        }
    }
    cases
}

/// Rust's `as`: floats round towards zero and saturate, integers wrap.
fn reference(x: &Array, target: DType) -> Array {
    match (x.dtype, target) {
        (_, DType::F32) => x.map(|value| f64::from(value as f32)).with_dtype(target),
        (DType::F32, DType::U32) => x.map(|value| f64::from(value as u32)).with_dtype(target),
        (DType::F32, _) => x.map(|value| f64::from(value as i32)).with_dtype(target),
        _ => x.clone().wrapped(target),
    }
}
