//! Running sums.

use everstep_device::cpu::{Cumsum as Kernel, CumsumParams};
use everstep_device::{DType, Generator};

use super::reference::{Array, Domain};
use super::table::{Case, Cases, Entry, FLOAT, Gradient, Tolerance};
use crate::op::{Inferred, Op, Saved, apply, record_kernel};
use crate::{Autocast, Error, Result, Tensor};

/// From the first element on, or (its gradient) from the last.
#[derive(Debug)]
struct Cumsum {
    axis: usize,
    backwards: bool,
}

impl Op for Cumsum {
    fn name(&self) -> &'static str {
        "cumsum"
    }

    fn autocast(&self) -> Autocast {
        Autocast::Single
    }

    fn infer(&self, inputs: &[&Tensor]) -> Result<Inferred> {
        if inputs[0].dtype() != DType::F32 {
            return Err(Error::DTypes { op: self.name(), found: vec![inputs[0].dtype()] });
        }
        Ok(Inferred::one(*inputs[0].shape(), DType::F32))
    }

    fn record(&self, inputs: &[&Tensor], outputs: &[Tensor]) -> Result<()> {
        let shape = inputs[0].shape();
        let params = CumsumParams {
            outer: shape[..self.axis].iter().product::<usize>() as u32,
            count: shape[self.axis] as u32,
            inner: shape[self.axis + 1..].iter().product::<usize>() as u32,
            backwards: u32::from(self.backwards),
        };
        record_kernel(Kernel(params), inputs, outputs)
    }

    fn vjp(&self, _: &Saved<'_>, gradient: &Tensor) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(apply(Cumsum { axis: self.axis, backwards: !self.backwards }, &[gradient])?)])
    }
}

impl Tensor {
    /// Running sums along `axis`: element k is the sum of the elements up to and including k, added in their order.
    ///
    /// # Errors
    /// [`Error::Axis`], [`Error::DTypes`] where the dtype is not f32.
    ///
    /// ```
    /// # use everstep_tensor::{Device, Tensor};
    /// let x = Tensor::from_slice(&[1.0f32, 2.0, 3.0], &[3], &Device::cpu())?;
    /// assert_eq!(x.cumsum(0)?.to_vec::<f32>()?, [1.0, 3.0, 6.0]);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn cumsum(&self, axis: isize) -> Result<Tensor> {
        apply(Cumsum { axis: self.axis("cumsum", axis)?, backwards: false }, &[self])
    }
}

pub(super) const CUMSUM: Entry = Entry {
    name: "cumsum",
    dtypes: FLOAT,
    gradient: Gradient::Any,
    tolerance: Tolerance { relative: 2e-6, absolute: 3e-6, why: "dozens of additions of terms that cancel" },
    cases: Cases::Listed(cases),
};

fn cases(generator: &mut Generator) -> Vec<Case> {
    let shapes: [(&[usize], isize); 8] = [
        (&[3, 5], 1),
        (&[3, 5], 0),
        (&[2, 3, 4], -2),
        (&[7], 0),
        (&[2, 0, 3], 1),
        (&[0], 0),
        (&[1, 2, 1, 3, 2, 2], 3),
        (&[20, 70], 0),
    ];
    let case = |(shape, axis): (&'static [usize], isize)| {
        let input = Array::draw(shape, Domain::between(-3.0, 3.0), generator);
        let along = axis.rem_euclid(shape.len() as isize) as usize;
        Case::new(
            format!("{shape:?} axis {axis}"),
            vec![input],
            move |x| x[0].cumsum(axis),
            move |x| {
                Array::from_fn(&x[0].shape, |index| {
                    let earlier = |place: usize| {
                        let mut index = index.to_vec();
                        index[along] = place;
                        x[0].at(&index)
                    };
                    (0..=index[along]).map(earlier).sum()
                })
            },
        )
    };
    shapes.into_iter().map(case).collect()
}
