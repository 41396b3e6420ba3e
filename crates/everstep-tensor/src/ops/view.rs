//! Views: the same elements under another layout. Nothing runs, except where `reshape` must copy.

use std::sync::Arc;

use everstep_device::expr::{Expr, Program};
use everstep_device::{DType, Generator, Shape};

use super::reference::{Array, Domain, indices};
use super::table::{Case, Cases, EXACT, Entry, Gradient, NUMBERS};
use crate::op::{Inferred, Op, Saved, apply};
use crate::{Error, Result, Tensor};

/// Another shape over the same row-major order.
#[derive(Debug)]
struct Reshape(Shape);

impl Op for Reshape {
    fn name(&self) -> &'static str {
        "reshape"
    }

    fn infer(&self, inputs: &[&Tensor]) -> Result<Inferred> {
        let wrong = Error::Shapes {
            op: "reshape",
            left: *inputs[0].shape(),
            right: self.0,
            rule: "both must have the same number of elements",
        };
        inputs[0].layout().reshape(&self.0).map(Inferred::View).ok_or(wrong)
    }

    fn record(&self, _: &[&Tensor], _: &[Tensor]) -> Result<()> {
        Ok(())
    }

    fn vjp(&self, saved: &Saved<'_>, gradient: &Tensor) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(gradient.reshape_to(*saved.inputs[0].shape())?)])
    }
}

/// The dimensions in another order.
#[derive(Debug)]
struct Permute(Vec<usize>);

impl Op for Permute {
    fn name(&self) -> &'static str {
        "permute"
    }

    fn infer(&self, inputs: &[&Tensor]) -> Result<Inferred> {
        Ok(Inferred::View(inputs[0].layout().permute(&self.0)?))
    }

    fn record(&self, _: &[&Tensor], _: &[Tensor]) -> Result<()> {
        Ok(())
    }

    fn vjp(&self, _: &Saved<'_>, gradient: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let mut inverse = vec![0; self.0.len()];
        self.0.iter().enumerate().for_each(|(to, &from)| inverse[from] = to);
        Ok(vec![Some(apply(Permute(inverse), &[gradient])?)])
    }
}

/// Every `step`-th element from `start` before `end` along one axis.
#[derive(Debug)]
struct Cut {
    axis: usize,
    start: usize,
    end: usize,
    step: usize,
}

impl Op for Cut {
    fn name(&self) -> &'static str {
        "slice"
    }

    fn infer(&self, inputs: &[&Tensor]) -> Result<Inferred> {
        Ok(Inferred::View(inputs[0].layout().slice(self.axis, self.start, self.end, self.step)?))
    }

    fn record(&self, _: &[&Tensor], _: &[Tensor]) -> Result<()> {
        Ok(())
    }

    fn vjp(&self, saved: &Saved<'_>, gradient: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let Cut { axis, start, end, step } = *self;
        let place = Place { shape: *saved.inputs[0].shape(), cut: Cut { axis, start, end, step } };
        Ok(vec![Some(apply(place, &[gradient])?)])
    }
}

pub(crate) fn slice(tensor: &Tensor, axis: usize, start: usize, end: usize, step: usize) -> Result<Tensor> {
    apply(Cut { axis, start, end, step }, &[tensor])
}

/// Zeros of a shape with the input placed where a cut would take it: the gradient of a slice.
#[derive(Debug)]
struct Place {
    shape: Shape,
    cut: Cut,
}

impl Op for Place {
    fn name(&self) -> &'static str {
        "slice_backward"
    }

    fn infer(&self, inputs: &[&Tensor]) -> Result<Inferred> {
        Ok(Inferred::one(self.shape, inputs[0].dtype()))
    }

    fn record(&self, inputs: &[&Tensor], outputs: &[Tensor]) -> Result<()> {
        let Cut { axis, start, end, step } = self.cut;
        outputs[0].fill(0.0)?;
        let target = outputs[0].view(outputs[0].layout().slice(axis, start, end, step)?);
        let dtype = inputs[0].dtype();
        let program = Arc::new(Program::new(&[dtype], &[Expr::input(0, dtype)]));
        target.write_pointwise(self.name(), program, inputs, vec![])
    }

    fn vjp(&self, _: &Saved<'_>, gradient: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let Cut { axis, start, end, step } = self.cut;
        Ok(vec![Some(slice(gradient, axis, start, end, step)?)])
    }
}

/// Stretched to a larger shape with strides of 0.
#[derive(Debug)]
struct Broadcast(Shape);

impl Op for Broadcast {
    fn name(&self) -> &'static str {
        "broadcast_to"
    }

    fn infer(&self, inputs: &[&Tensor]) -> Result<Inferred> {
        let rule = "counted from the last, each dimension must be equal or 1";
        let wrong = Error::Shapes { op: self.name(), left: *inputs[0].shape(), right: self.0, rule };
        inputs[0].layout().broadcast_to(&self.0).map(Inferred::View).ok_or(wrong)
    }

    fn record(&self, _: &[&Tensor], _: &[Tensor]) -> Result<()> {
        Ok(())
    }

    fn vjp(&self, saved: &Saved<'_>, gradient: &Tensor) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(gradient.sum_to(saved.inputs[0].shape())?)])
    }
}

impl Tensor {
    /// The same elements in row-major order under another shape. A view where strides allow it, else a copy.
    ///
    /// # Errors
    /// [`Error::Shapes`] where the counts differ.
    ///
    /// ```
    /// # use everstep_tensor::{Device, Tensor};
    /// let x = Tensor::from_slice(&[1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0], &[2, 3], &Device::cpu())?;
    /// assert_eq!(x.reshape(&[3, 2])?.slice(0, 1..2)?.to_vec::<f32>()?, [3.0, 4.0]);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn reshape(&self, shape: &[usize]) -> Result<Tensor> {
        self.reshape_to(Shape::new(shape)?)
    }

    pub(crate) fn reshape_to(&self, shape: Shape) -> Result<Tensor> {
        let copy_first = self.count() == shape.count() && self.layout().reshape(&shape).is_none();
        let source = if copy_first { self.contiguous()? } else { self.clone() };
        apply(Reshape(shape), &[&source])
    }

    /// All dimensions from `axis` on merged into one.
    ///
    /// # Errors
    /// [`Error::Axis`].
    ///
    /// ```
    /// # use everstep_tensor::{Device, Tensor};
    /// let x = Tensor::arange(0.0f32, 12.0, 1.0, &Device::cpu())?.reshape(&[2, 3, 2])?.flatten_from(1)?;
    /// assert_eq!(x.shape(), &[2, 6]);
    /// assert_eq!(x.slice(0, 1..)?.to_vec::<f32>()?, [6.0, 7.0, 8.0, 9.0, 10.0, 11.0]);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn flatten_from(&self, axis: isize) -> Result<Tensor> {
        let axis = self.axis("flatten_from", axis)?;
        let mut shape = self.shape()[..axis].to_vec();
        shape.push(self.shape()[axis..].iter().product());
        self.reshape(&shape)
    }

    /// The dimensions in another order, as a view: dimension `i` of the result is `axes[i]` of this tensor.
    ///
    /// # Errors
    /// [`everstep_device::Error::Permutation`], [`Error::Axis`].
    ///
    /// ```
    /// # use everstep_tensor::{Device, Tensor};
    /// let x = Tensor::from_slice(&[1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0], &[2, 3], &Device::cpu())?;
    /// let y = x.reshape(&[1, 2, 3])?.permute(&[2, 0, 1])?;
    /// assert_eq!(y.shape(), &[3, 1, 2]);
    /// assert_eq!(y.to_vec::<f32>()?, [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn permute(&self, axes: &[isize]) -> Result<Tensor> {
        let axes = axes.iter().map(|&axis| self.axis("permute", axis)).collect::<Result<Vec<_>>>()?;
        apply(Permute(axes), &[self])
    }

    /// Two dimensions exchanged, as a view.
    ///
    /// # Errors
    /// [`Error::Axis`].
    ///
    /// ```
    /// # use everstep_tensor::{Device, Tensor};
    /// let x = Tensor::from_slice(&[1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0], &[2, 3], &Device::cpu())?;
    /// assert_eq!(x.transpose(0, 1)?.to_vec::<f32>()?, [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn transpose(&self, first: isize, second: isize) -> Result<Tensor> {
        let (first, second) = (self.axis("transpose", first)?, self.axis("transpose", second)?);
        let mut axes: Vec<_> = (0..self.rank()).collect();
        axes.swap(first, second);
        apply(Permute(axes), &[self])
    }

    /// The last two dimensions exchanged, as a view.
    ///
    /// # Errors
    /// [`Error::Axis`] below rank 2.
    ///
    /// ```
    /// # use everstep_tensor::{Device, Tensor};
    /// let x = Tensor::from_slice(&[1.0f32, 2.0, 3.0, 4.0], &[2, 2], &Device::cpu())?;
    /// assert_eq!(x.t()?.to_vec::<f32>()?, [1.0, 3.0, 2.0, 4.0]);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn t(&self) -> Result<Tensor> {
        self.transpose(-2, -1)
    }

    /// Every `step`-th element from `start` before `end` along `axis`, as a view.
    ///
    /// # Errors
    /// [`Error::Axis`], [`everstep_device::Error::Slice`].
    ///
    /// ```
    /// # use everstep_tensor::{Device, Tensor};
    /// let x = Tensor::from_slice(&[0.0f32, 1.0, 2.0, 3.0, 4.0], &[5], &Device::cpu())?;
    /// assert_eq!(x.slice_step(0, 1, 5, 2)?.to_vec::<f32>()?, [1.0, 3.0]);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn slice_step(&self, axis: isize, start: usize, end: usize, step: usize) -> Result<Tensor> {
        slice(self, self.axis("slice", axis)?, start, end, step)
    }

    /// Stretched to `shape` without a copy.
    ///
    /// # Errors
    /// [`Error::Shapes`] where a dimension is neither equal nor 1.
    ///
    /// ```
    /// # use everstep_tensor::{Device, Tensor};
    /// let x = Tensor::from_slice(&[1.0f32, 2.0], &[2, 1], &Device::cpu())?;
    /// assert_eq!(x.broadcast_to(&[2, 3])?.to_vec::<f32>()?, [1.0, 1.0, 1.0, 2.0, 2.0, 2.0]);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn broadcast_to(&self, shape: &[usize]) -> Result<Tensor> {
        let shape = Shape::new(shape)?;
        if shape == *self.shape() { Ok(self.clone()) } else { apply(Broadcast(shape), &[self]) }
    }

    /// A dimension of size 1 inserted before `axis`; `rank` appends it.
    ///
    /// # Errors
    /// [`Error::Axis`].
    ///
    /// ```
    /// # use everstep_tensor::{Device, Tensor};
    /// let x = Tensor::from_slice(&[1.0f32, 2.0], &[2], &Device::cpu())?;
    /// assert_eq!(x.unsqueeze(0)?.shape(), &[1, 2]);
    /// assert_eq!(x.unsqueeze(-1)?.shape(), &[2, 1]);
    /// assert_eq!(x.unsqueeze(-1)?.to_vec::<f32>()?, [1.0, 2.0]);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn unsqueeze(&self, axis: isize) -> Result<Tensor> {
        let rank = self.rank() as isize;
        let at = if axis < 0 { axis + rank + 1 } else { axis };
        if !(0..=rank).contains(&at) {
            return Err(Error::Axis { op: "unsqueeze", axis, shape: *self.shape() });
        }
        let mut shape = self.shape().to_vec();
        shape.insert(at as usize, 1);
        self.reshape(&shape)
    }

    /// The dimension `axis`, of size 1, removed.
    ///
    /// # Errors
    /// [`Error::Axis`]; [`Error::Shape`] where its size is not 1.
    ///
    /// ```
    /// # use everstep_tensor::{Device, Tensor};
    /// let x = Tensor::from_slice(&[1.0f32, 2.0], &[2, 1], &Device::cpu())?;
    /// let y = x.squeeze(1)?;
    /// assert_eq!((y.rank(), y.to_vec::<f32>()?), (1, vec![1.0, 2.0]));
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn squeeze(&self, axis: isize) -> Result<Tensor> {
        let axis = self.axis("squeeze", axis)?;
        if self.shape()[axis] != 1 {
            return Err(Error::Shape { op: "squeeze", shape: *self.shape(), rule: "the dimension's size must be 1" });
        }
        let mut shape = self.shape().to_vec();
        shape.remove(axis);
        self.reshape(&shape)
    }

    /// Summed over the dimensions that broadcasting stretched, to `shape`.
    pub(crate) fn sum_to(&self, shape: &Shape) -> Result<Tensor> {
        if self.shape() == shape {
            return Ok(self.clone());
        }
        let lead = self.rank() - shape.rank();
        let stretched = |&axis: &usize| axis < lead || (shape[axis - lead] == 1 && self.shape()[axis] != 1);
        let axes: Vec<isize> = (0..self.rank()).filter(stretched).map(|axis| axis as isize).collect();
        self.sum(&axes, true)?.reshape_to(*shape)
    }
}

/// The entry of an op that moves elements.
const fn entry(name: &'static str, cases: fn(&mut Generator) -> Vec<Case>) -> Entry {
    let cases = Cases::Listed(cases);
    Entry { name, dtypes: NUMBERS, gradient: Gradient::Any, tolerance: EXACT, cases }
}

pub(super) const RESHAPE: Entry = entry("reshape", |generator| {
    let shapes: [(&[usize], &[usize]); 9] = [
        (&[2, 3, 4], &[6, 4]),
        (&[6, 4], &[3, 2, 2, 2]),
        (&[3, 4], &[12]),
        (&[], &[1, 1]),
        (&[1, 1, 1], &[]),
        (&[0, 3], &[3, 0, 2]),
        (&[2, 3], &[2, 3]),
        (&[2, 2, 2, 2, 2, 2], &[8, 8]),
        (&[4, 1, 6], &[2, 1, 2, 6]),
    ];
    let case = |(from, to): (&'static [usize], &'static [usize])| {
        moved(generator, from, format!("to {to:?}"), |x| x.reshape(to), |x| x.reshaped(to))
    };
    shapes.into_iter().flat_map(case).collect()
});

pub(super) const FLATTEN_FROM: Entry = entry("flatten_from", |generator| {
    let shapes: [(&[usize], isize); 6] =
        [(&[2, 3, 4], 1), (&[2, 3, 4], -3), (&[5], 0), (&[0, 2, 3], 1), (&[2, 0], 0), (&[1, 2, 1, 2, 1, 3], 2)];
    let case = |(shape, axis): (&'static [usize], isize)| {
        let at = axis.rem_euclid(shape.len() as isize) as usize;
        let flat = [&shape[..at], &[shape[at..].iter().product()]].concat();
        moved(generator, shape, format!("axis {axis}"), move |x| x.flatten_from(axis), move |x| x.reshaped(&flat))
    };
    shapes.into_iter().flat_map(case).collect()
});

pub(super) const PERMUTE: Entry = entry("permute", |generator| {
    let shapes: [(&[usize], &[isize]); 7] = [
        (&[2, 3, 4], &[2, 0, 1]),
        (&[2, 3, 4], &[-1, 1, 0]),
        (&[3], &[0]),
        (&[], &[]),
        (&[0, 3], &[1, 0]),
        (&[1, 2, 1, 3, 2, 1], &[5, 3, 1, 0, 2, 4]),
        (&[2, 3], &[0, 1]),
    ];
    let case = |(shape, axes): (&'static [usize], &'static [isize])| {
        let order: Vec<usize> = axes.iter().map(|axis| axis.rem_euclid(shape.len() as isize) as usize).collect();
        moved(generator, shape, format!("axes {axes:?}"), |x| x.permute(axes), move |x| x.permuted(&order))
    };
    shapes.into_iter().flat_map(case).collect()
});

/// The order of dimensions with two exchanged.
fn exchanged(rank: usize, first: isize, second: isize) -> Vec<usize> {
    let at = |axis: isize| axis.rem_euclid(rank as isize) as usize;
    let mut order: Vec<usize> = (0..rank).collect();
    order.swap(at(first), at(second));
    order
}

pub(super) const TRANSPOSE: Entry = entry("transpose", |generator| {
    let shapes: [(&[usize], isize, isize); 5] =
        [(&[2, 3, 4], 0, -1), (&[3, 5], 1, 0), (&[3], 0, -1), (&[2, 0, 3], 1, 2), (&[1, 2, 3, 1, 2, 2], 1, 4)];
    let case = |(shape, first, second): (&'static [usize], isize, isize)| {
        let order = exchanged(shape.len(), first, second);
        moved(
            generator,
            shape,
            format!("{first} {second}"),
            move |x| x.transpose(first, second),
            move |x| x.permuted(&order),
        )
    };
    shapes.into_iter().flat_map(case).collect()
});

pub(super) const T: Entry = entry("t", |generator| {
    let shapes: [&[usize]; 4] = [&[3, 5], &[2, 3, 4], &[0, 3], &[2, 1, 1, 2, 3, 2]];
    let case = |shape: &'static [usize]| {
        let order = exchanged(shape.len(), -2, -1);
        moved(generator, shape, String::new(), Tensor::t, move |x| x.permuted(&order))
    };
    shapes.into_iter().flat_map(case).collect()
});

/// (shape, axis, first, end, step)
type Cutting = (&'static [usize], isize, usize, usize, usize);

fn cut(generator: &mut Generator, cuts: &[Cutting], apply: fn(&Tensor, &Cutting) -> Result<Tensor>) -> Vec<Case> {
    let mut cases = Vec::new();
    for &cutting in cuts {
        let (shape, axis, start, end, step) = cutting;
        let at = axis.rem_euclid(shape.len() as isize) as usize;
        let reference = move |x: &Array| {
            let inside = |index: &[usize]| (start..end).step_by(step).any(|place| place == index[at]);
            let kept = indices(&x.shape).zip(&x.values).filter(|(index, _)| inside(index)).map(|(_, value)| *value);
            let mut result = Array { values: kept.collect(), ..x.clone() };
            result.shape[at] = (start..end).step_by(step).count();
            result
        };
        let label = format!("axis {axis} {start}..{end} step {step}");
        cases.extend(moved(generator, shape, label, move |x| apply(x, &cutting), reference));
    }
    cases
}

pub(super) const SLICE: Entry = entry("slice", |generator| {
    let cuts: [Cutting; 8] = [
        (&[3, 5], 1, 1, 4, 1),
        (&[3, 5], 0, 2, 3, 1),
        (&[3, 5], -1, 5, 5, 1),
        (&[3, 5], 0, 0, 3, 1),
        (&[7], 0, 3, 7, 1),
        (&[0, 3], 0, 0, 0, 1),
        (&[0, 3], 1, 1, 2, 1),
        (&[1, 2, 1, 3, 2, 4], 3, 1, 3, 1),
    ];
    cut(generator, &cuts, |x, &(_, axis, start, end, _)| x.slice(axis, start..end))
});

pub(super) const SLICE_STEP: Entry = entry("slice_step", |generator| {
    let cuts: [Cutting; 6] = [
        (&[3, 5], 1, 0, 5, 2),
        (&[3, 5], 1, 1, 5, 3),
        (&[7], -1, 2, 7, 4),
        (&[7], 0, 2, 7, usize::MAX),
        (&[4, 0], 0, 1, 4, 2),
        (&[1, 2, 1, 3, 2, 4], 5, 1, 4, 2),
    ];
    cut(generator, &cuts, |x, &(_, axis, start, end, step)| x.slice_step(axis, start, end, step))
});

pub(super) const BROADCAST_TO: Entry = entry("broadcast_to", |generator| {
    let shapes: [(&[usize], &[usize]); 8] = [
        (&[3, 1], &[3, 4]),
        (&[4], &[2, 3, 4]),
        (&[], &[2, 2]),
        (&[1], &[0]),
        (&[0, 1], &[2, 0, 3]),
        (&[2, 3], &[2, 3]),
        (&[1, 1, 2], &[2, 1, 3, 1, 2, 2]),
        (&[3, 1, 2], &[3, 2, 2]),
    ];
    let case = |(from, to): (&'static [usize], &'static [usize])| {
        moved(generator, from, format!("to {to:?}"), |x| x.broadcast_to(to), |x| x.stretched(to))
    };
    shapes.into_iter().flat_map(case).collect()
});

pub(super) const UNSQUEEZE: Entry = entry("unsqueeze", |generator| {
    let shapes: [(&[usize], isize, &[usize]); 6] = [
        (&[3, 5], 0, &[1, 3, 5]),
        (&[3, 5], 2, &[3, 5, 1]),
        (&[3, 5], -2, &[3, 1, 5]),
        (&[], 0, &[1]),
        (&[0], -1, &[0, 1]),
        (&[2, 1, 3, 1, 2], 1, &[2, 1, 1, 3, 1, 2]),
    ];
    let case = |(shape, axis, to): (&'static [usize], isize, &'static [usize])| {
        moved(generator, shape, format!("axis {axis}"), move |x| x.unsqueeze(axis), |x| x.reshaped(to))
    };
    shapes.into_iter().flat_map(case).collect()
});

pub(super) const SQUEEZE: Entry = entry("squeeze", |generator| {
    let shapes: [(&[usize], isize, &[usize]); 5] = [
        (&[3, 1, 5], 1, &[3, 5]),
        (&[3, 5, 1], -1, &[3, 5]),
        (&[1], 0, &[]),
        (&[0, 1], 1, &[0]),
        (&[2, 1, 3, 1, 2, 1], 3, &[2, 1, 3, 2, 1]),
    ];
    let case = |(shape, axis, to): (&'static [usize], isize, &'static [usize])| {
        moved(generator, shape, format!("axis {axis}"), move |x| x.squeeze(axis), |x| x.reshaped(to))
    };
    shapes.into_iter().flat_map(case).collect()
});

/// A case of f32 and one of u32.
fn moved(
    generator: &mut Generator,
    shape: &[usize],
    label: String,
    apply: impl Fn(&Tensor) -> Result<Tensor> + Clone + 'static,
    reference: impl Fn(&Array) -> Array + Clone + 'static,
) -> Vec<Case> {
    let floats = Array::draw(shape, Domain::between(-3.0, 3.0), generator);
    let integers = Array::integers(shape, DType::U32, 0, 1 << 31, generator);
    let case = |input: Array| {
        let (apply, reference) = (apply.clone(), reference.clone());
        let label = format!("{} {shape:?} {label}", input.dtype);
        Case::new(label, vec![input], move |x| apply(&x[0]), move |x| reference(&x[0]))
    };
    vec![case(floats), case(integers)]
}
