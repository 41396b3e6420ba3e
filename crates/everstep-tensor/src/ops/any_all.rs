//! Whether any or all elements are other than zero.

use everstep_device::{DType, Generator};

use super::reduce::{indicator_of, squeezed};
use super::reference::Array;
use super::table::{Case, Cases, EXACT, Entry, Gradient};
use crate::{Result, Tensor};

impl Tensor {
    /// Whether any element over `axes` is true, or other than 0, a NaN too; false of no elements. Negative axes count from
    /// the back, and stay with size 1 where `keepdim`. The result is bool.
    ///
    /// # Errors
    /// [`crate::Error::Axis`], [`crate::Error::AxisTwice`].
    ///
    /// ```
    /// # use everstep_tensor::{Device, Tensor};
    /// let x = Tensor::from_slice(&[0.0f32, 2.0, 0.0, 0.0], &[2, 2], &Device::cpu())?;
    /// assert_eq!(x.any(&[1], false)?.to_vec::<bool>()?, [true, false]);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn any(&self, axes: &[isize], keepdim: bool) -> Result<Tensor> {
        self.detach().cast(DType::Bool)?.cast(DType::F32)?.sum(axes, keepdim)?.cast(DType::Bool)
    }

    /// Whether all elements over `axes` are true, or other than 0, a NaN too; true of no elements. As [`Tensor::any`].
    ///
    /// # Errors
    /// [`crate::Error::Axis`], [`crate::Error::AxisTwice`].
    ///
    /// ```
    /// # use everstep_tensor::{Device, Tensor};
    /// let x = Tensor::from_slice(&[1.0f32, 2.0, 0.0, 1.0], &[2, 2], &Device::cpu())?;
    /// assert_eq!(x.all(&[1], false)?.to_vec::<bool>()?, [true, false]);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn all(&self, axes: &[isize], keepdim: bool) -> Result<Tensor> {
        let zeros = indicator_of(&self.detach().cast(DType::Bool)?.cast(DType::F32)?, 0.0)?;
        indicator_of(&zeros.sum(axes, keepdim)?, 0.0)?.cast(DType::Bool)
    }
}

pub(super) const ANY: Entry = Entry {
    name: "any",
    dtypes: &[DType::F32, DType::F16, DType::BF16, DType::I32, DType::U32, DType::Bool],
    gradient: Gradient::No("it is constant wherever it is continuous"),
    tolerance: EXACT,
    cases: Cases::Listed(|generator| cases(generator, Tensor::any, |values| values.iter().any(|&x| x != 0.0))),
};

pub(super) const ALL: Entry = Entry {
    name: "all",
    cases: Cases::Listed(|generator| cases(generator, Tensor::all, |values| values.iter().all(|&x| x != 0.0))),
    ..ANY
};

fn cases(
    generator: &mut Generator,
    apply: fn(&Tensor, &[isize], bool) -> Result<Tensor>,
    reference: fn(&[f64]) -> bool,
) -> Vec<Case> {
    let shapes: [(&[usize], &[isize], bool); 7] = [
        (&[4, 2], &[1], false),
        (&[3, 2, 4], &[0, 2], true),
        (&[2], &[0], false),
        (&[3], &[], false),
        (&[2, 0], &[1], false),
        (&[2, 1, 3, 1, 2, 2], &[2, -1], false),
        (&[3, 300], &[-1], true),
    ];
    let mut cases = Vec::new();
    for (number, (shape, axes, keepdim)) in shapes.into_iter().enumerate() {
        let dtype = [DType::F32, DType::U32, DType::Bool][number % 3];
        let input = Array::integers(shape, dtype, 0, 2, generator);
        let positive: Vec<usize> = axes.iter().map(|axis| axis.rem_euclid(shape.len() as isize) as usize).collect();
        let label = format!("{dtype} {shape:?} axes {axes:?} keepdim {keepdim}");
        cases.push(Case::new(
            label,
            vec![input],
            move |x| apply(&x[0], axes, keepdim),
            move |x| {
                let found = x[0].reduced(&positive, |values| f64::from(u8::from(reference(values))));
                squeezed(found, &positive, keepdim).with_dtype(DType::Bool)
            },
        ));
    }
    cases
}
