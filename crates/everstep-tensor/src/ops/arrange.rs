//! Elements in the opposite order, and triangles of matrices.

use std::sync::{Arc, OnceLock};

use everstep_device::expr::Expr;
use everstep_device::{DType, Generator, functions};

use super::gather::{self, Pick};
use super::pointwise::{Formula, Pointwise};
use super::reference::{Array, Domain};
use super::table::{Case, Cases, EXACT, Entry, FLOAT, Gradient, NUMBERS};
use crate::op::{Inferred, Op, Saved, apply};
use crate::{Error, Result, Tensor};

/// The elements along a dimension in the order of a second input, last to first. It is its own gradient.
#[derive(Debug)]
struct Flip(Pick);

impl Op for Flip {
    fn name(&self) -> &'static str {
        "flip"
    }

    fn infer(&self, inputs: &[&Tensor]) -> Result<Inferred> {
        if !NUMBERS.contains(&inputs[0].dtype()) {
            return Err(Error::DTypes { op: self.name(), found: vec![inputs[0].dtype()] });
        }
        self.0.infer(inputs)
    }

    fn record(&self, inputs: &[&Tensor], outputs: &[Tensor]) -> Result<()> {
        self.0.record(inputs, outputs)
    }

    fn vjp(&self, saved: &Saved<'_>, gradient: &Tensor) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(apply(Flip(self.0), &[gradient, &saved.inputs[1]])?), None])
    }
}

impl Tensor {
    /// The elements in the opposite order along each of `axes`.
    ///
    /// # Errors
    /// [`Error::Axis`], [`Error::AxisTwice`], [`Error::DTypes`].
    ///
    /// ```
    /// # use everstep_tensor::{Device, Tensor};
    /// let x = Tensor::from_slice(&[1.0f32, 2.0, 3.0], &[3], &Device::cpu())?;
    /// assert_eq!(x.flip(&[0])?.to_vec::<f32>()?, [3.0, 2.0, 1.0]);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn flip(&self, axes: &[isize]) -> Result<Tensor> {
        let mut positive = axes.iter().map(|&axis| self.axis("flip", axis)).collect::<Result<Vec<_>>>()?;
        positive.sort_unstable();
        if let Some(pair) = positive.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(Error::AxisTwice { op: "flip", axis: pair[0] as isize });
        }
        positive.into_iter().try_fold(self.clone(), |tensor, axis| {
            let size = tensor.shape()[axis];
            let Ok(count) = u32::try_from(size) else {
                let rule = "32 bits must be able to count a dimension";
                return Err(Error::Shape { op: "flip", shape: *tensor.shape(), rule });
            };
            let order = Tensor::from_vec((0..count).rev().collect::<Vec<u32>>(), &[size], tensor.device())?;
            apply(Flip(gather::rows_of(&tensor, axis)), &[&tensor, &order])
        })
    }

    /// The matrices [.., R, C] with 0 above `diagonal`: 0 is the main one, 1 the next above it.
    ///
    /// # Errors
    /// [`Error::Shape`] below rank 2, [`Error::DTypes`] where the dtype is not f32.
    ///
    /// ```
    /// # use everstep_tensor::{Device, Tensor};
    /// assert_eq!(Tensor::ones(&[2, 2], &Device::cpu())?.tril(0)?.to_vec::<f32>()?, [1.0, 0.0, 1.0, 1.0]);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn tril(&self, diagonal: isize) -> Result<Tensor> {
        self.triangle("tril", diagonal, false)
    }

    /// The matrices [.., R, C] with 0 below `diagonal`: 0 is the main one, 1 the next above it.
    ///
    /// # Errors
    /// As [`Tensor::tril`].
    ///
    /// ```
    /// # use everstep_tensor::{Device, Tensor};
    /// assert_eq!(Tensor::ones(&[2, 2], &Device::cpu())?.triu(1)?.to_vec::<f32>()?, [0.0, 1.0, 0.0, 0.0]);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn triu(&self, diagonal: isize) -> Result<Tensor> {
        self.triangle("triu", diagonal, true)
    }

    /// Kept where the first operand of a difference is the larger, row or column; the other operand is the other.
    fn triangle(&self, op: &'static str, diagonal: isize, upper: bool) -> Result<Tensor> {
        static FORMULA: OnceLock<Arc<Formula>> = OnceLock::new();
        let &[.., rows, columns] = &self.shape()[..] else {
            return Err(Error::Shape { op, shape: *self.shape(), rule: "matrices have two dimensions" });
        };
        if self.dtype() != DType::F32 {
            return Err(Error::DTypes { op, found: vec![self.dtype()] });
        }
        let formula = FORMULA.get_or_init(|| {
            let [larger, smaller, x] = [0, 1, 2].map(|input| Expr::input(input, DType::F32));
            Formula::new("triangle", &[DType::F32; 3], Expr::call(&functions::RELU_GATE, &[larger - smaller, x]))
        });
        // Halves lie between whole numbers: nothing is compared with its equal. Beyond the matrix all diagonals are alike.
        let edge = diagonal.clamp(-(rows.min(1 << 24) as isize) - 1, columns.min(1 << 24) as isize + 1) as f32;
        let count = |size: usize, first: f32| (0..size).map(|at| at as f32 + first).collect::<Vec<f32>>();
        let down = |first| Tensor::from_vec(count(rows, first), &[rows, 1], self.device());
        let across = |first| Tensor::from_vec(count(columns, first), &[1, columns], self.device());
        let (larger, smaller) =
            if upper { (across(0.5 - edge)?, down(0.0)?) } else { (down(0.5 + edge)?, across(0.0)?) };
        apply(Pointwise { formula: formula.clone(), scalars: vec![] }, &[&larger, &smaller, self])
    }
}

pub(super) const FLIP: Entry = Entry {
    name: "flip",
    dtypes: NUMBERS,
    gradient: Gradient::Any,
    tolerance: EXACT,
    cases: Cases::Listed(|generator| {
        let shapes: [(&[usize], &[isize]); 7] = [
            (&[3, 5], &[1]),
            (&[3, 4], &[0, -1]),
            (&[5], &[0]),
            (&[2, 3], &[]),
            (&[], &[]),
            (&[0, 3], &[0, 1]),
            (&[1, 2, 1, 3, 2, 2], &[3, 5]),
        ];
        let mut cases = Vec::new();
        for (number, (shape, axes)) in shapes.into_iter().enumerate() {
            let at: Vec<usize> = axes.iter().map(|axis| axis.rem_euclid(shape.len() as isize) as usize).collect();
            let input = match number % 3 {
                2 => Array::integers(shape, DType::U32, 0, 1 << 31, generator),
                _ => Array::draw(shape, Domain::between(-3.0, 3.0), generator),
            };
            cases.push(Case::new(
                format!("{shape:?} axes {axes:?}"),
                vec![input],
                |x| x[0].flip(axes),
                move |x| {
                    let value = |index: &[usize]| {
                        let mut index = index.to_vec();
                        at.iter().for_each(|&axis| index[axis] = x[0].shape[axis] - 1 - index[axis]);
                        x[0].at(&index)
                    };
                    Array::from_fn(&x[0].shape, value).with_dtype(x[0].dtype)
                },
            ));
        }
        cases
    }),
};

pub(super) const TRIL: Entry = Entry {
    name: "tril",
    dtypes: FLOAT,
    gradient: Gradient::Any,
    tolerance: EXACT,
    cases: Cases::Listed(|generator| triangles(generator, Tensor::tril, |row, column, edge| column - row <= edge)),
};

pub(super) const TRIU: Entry = Entry {
    name: "triu",
    cases: Cases::Listed(|generator| triangles(generator, Tensor::triu, |row, column, edge| column - row >= edge)),
    ..TRIL
};

fn triangles(
    generator: &mut Generator,
    apply: fn(&Tensor, isize) -> Result<Tensor>,
    keep: fn(isize, isize, isize) -> bool,
) -> Vec<Case> {
    let shapes: [(&[usize], isize); 8] = [
        (&[4, 4], 0),
        (&[3, 5], 1),
        (&[5, 3], -1),
        (&[2, 3, 3], -2),
        (&[3, 3], 70),
        (&[3, 3], isize::MIN),
        (&[0, 3], 0),
        (&[1, 2, 1, 1, 2, 3], 0),
    ];
    let case = |(shape, diagonal): (&'static [usize], isize)| {
        let input = Array::draw(shape, Domain::between(-3.0, 3.0), generator);
        Case::new(
            format!("{shape:?} diagonal {diagonal}"),
            vec![input],
            move |x| apply(&x[0], diagonal),
            move |x| {
                Array::from_fn(&x[0].shape, |index| {
                    let [.., row, column] = index else { return f64::NAN };
                    if keep(*row as isize, *column as isize, diagonal) { x[0].at(index) } else { 0.0 }
                })
            },
        )
    };
    shapes.into_iter().map(case).collect()
}
