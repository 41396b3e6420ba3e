//! Padding with a constant.

use std::sync::Arc;

use everstep_device::expr::{Expr, Program};
use everstep_device::{DType, Generator, Layout, Shape};

use super::reference::{Array, Domain};
use super::table::{Case, Cases, EXACT, Entry, FLOAT, Gradient};
use crate::op::{Inferred, Op, Saved, apply};
use crate::{Error, Result, Tensor};

/// A larger shape full of `value`, with the input at `starts`.
#[derive(Debug)]
struct Pad {
    shape: Shape,
    starts: Vec<usize>,
    value: f32,
}

impl Pad {
    /// Where the input lies in the result's layout.
    fn inside(&self, layout: &Layout, input: &Shape) -> Result<Layout> {
        let cut =
            |layout: Layout, axis: usize| layout.slice(axis, self.starts[axis], self.starts[axis] + input[axis], 1);
        Ok((0..input.rank()).try_fold(*layout, cut)?)
    }
}

impl Op for Pad {
    fn name(&self) -> &'static str {
        "pad"
    }

    fn infer(&self, inputs: &[&Tensor]) -> Result<Inferred> {
        if inputs[0].dtype() != DType::F32 {
            return Err(Error::DTypes { op: self.name(), found: vec![inputs[0].dtype()] });
        }
        Ok(Inferred::one(self.shape, DType::F32))
    }

    fn record(&self, inputs: &[&Tensor], outputs: &[Tensor]) -> Result<()> {
        outputs[0].fill(self.value)?;
        let target = outputs[0].view(self.inside(outputs[0].layout(), inputs[0].shape())?);
        let program = Arc::new(Program::new(&[DType::F32], &[Expr::input(0, DType::F32)]));
        target.write_pointwise(self.name(), program, inputs, vec![])
    }

    fn vjp(&self, saved: &Saved<'_>, gradient: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let shape = saved.inputs[0].shape();
        let cut = |gradient: Tensor, axis: usize| {
            gradient.slice(axis as isize, self.starts[axis]..self.starts[axis] + shape[axis])
        };
        Ok(vec![Some((0..shape.rank()).try_fold(gradient.clone(), cut)?)])
    }
}

impl Tensor {
    /// This tensor with copies of `value` before and after it: `padding` is (before, after) of each dimension, the first
    /// dimension first. (PyTorch's `functional.pad` counts dimensions from the last.)
    ///
    /// # Errors
    /// [`Error::Argument`] where `padding` has not one pair per dimension, [`Error::DTypes`] where the dtype is not f32,
    /// [`everstep_device::Error::Overflow`] where the result would be too large.
    ///
    /// ```
    /// # use everstep_tensor::{Device, Tensor};
    /// let x = Tensor::ones(&[1, 2], &Device::cpu())?.pad(&[(0, 1), (1, 0)], 7.0)?;
    /// assert_eq!(x.to_vec::<f32>()?, [7.0, 1.0, 1.0, 7.0, 7.0, 7.0]);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn pad(&self, padding: &[(usize, usize)], value: f32) -> Result<Tensor> {
        if padding.len() != self.rank() {
            let (name, value) = ("pairs of padding", padding.len() as f64);
            return Err(Error::Argument { op: "pad", name, value, range: "one per dimension" });
        }
        if padding.iter().all(|&pair| pair == (0, 0)) {
            return Ok(self.clone());
        }
        let grown =
            |(&size, &(before, after)): (&usize, &(usize, usize))| size.saturating_add(before).saturating_add(after);
        let shape = Shape::new(&self.shape().iter().zip(padding).map(grown).collect::<Vec<_>>())?;
        apply(Pad { shape, starts: padding.iter().map(|&(before, _)| before).collect(), value }, &[self])
    }
}

pub(super) const PAD: Entry =
    Entry { name: "pad", dtypes: FLOAT, gradient: Gradient::Any, tolerance: EXACT, cases: Cases::Listed(cases) };

fn cases(generator: &mut Generator) -> Vec<Case> {
    type Padded = (&'static [usize], &'static [(usize, usize)]);
    let shapes: [Padded; 7] = [
        (&[3, 5], &[(1, 2), (0, 3)]),
        (&[4], &[(2, 1)]),
        (&[2, 3, 2], &[(0, 0), (1, 0), (0, 2)]),
        (&[2, 3], &[(0, 0), (0, 0)]),
        (&[], &[]),
        (&[0, 2], &[(1, 1), (0, 1)]),
        (&[1, 2, 1, 2, 1, 3], &[(0, 1), (0, 0), (1, 0), (0, 0), (0, 0), (1, 1)]),
    ];
    let case = |(shape, padding): Padded| {
        let input = Array::draw(shape, Domain::between(-3.0, 3.0), generator);
        let expected = move |x: &[Array]| {
            let sizes = x[0].shape.iter().zip(padding).map(|(size, (before, after))| size + before + after);
            Array::from_fn(&sizes.collect::<Vec<_>>(), |index| {
                let place = index.iter().zip(padding).map(|(&at, &(before, _))| at.checked_sub(before));
                match place.collect::<Option<Vec<_>>>() {
                    Some(place) if place.iter().zip(&x[0].shape).all(|(at, size)| at < size) => x[0].at(&place),
                    _ => 0.5,
                }
            })
        };
        Case::new(format!("{shape:?} by {padding:?}"), vec![input], |x| x[0].pad(padding, 0.5), expected)
    };
    shapes.into_iter().map(case).collect()
}
