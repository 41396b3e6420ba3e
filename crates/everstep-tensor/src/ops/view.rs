//! Views: the same elements under another layout. Nothing runs, except where `reshape` must copy.

use std::sync::Arc;

use everstep_device::Shape;
use everstep_device::expr::{Expr, Program};

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
    pub fn permute(&self, axes: &[isize]) -> Result<Tensor> {
        let axes = axes.iter().map(|&axis| self.axis("permute", axis)).collect::<Result<Vec<_>>>()?;
        apply(Permute(axes), &[self])
    }

    /// Two dimensions exchanged, as a view.
    ///
    /// # Errors
    /// [`Error::Axis`].
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
    pub fn t(&self) -> Result<Tensor> {
        self.transpose(-2, -1)
    }

    /// Every `step`-th element from `start` before `end` along `axis`, as a view.
    ///
    /// # Errors
    /// [`Error::Axis`], [`everstep_device::Error::Slice`].
    pub fn slice_step(&self, axis: isize, start: usize, end: usize, step: usize) -> Result<Tensor> {
        slice(self, self.axis("slice", axis)?, start, end, step)
    }

    /// Stretched to `shape` without a copy.
    ///
    /// # Errors
    /// [`Error::Shapes`] where a dimension is neither equal nor 1.
    pub fn broadcast_to(&self, shape: &[usize]) -> Result<Tensor> {
        let shape = Shape::new(shape)?;
        if shape == *self.shape() { Ok(self.clone()) } else { apply(Broadcast(shape), &[self]) }
    }

    /// A dimension of size 1 inserted before `axis`; `rank` appends it.
    ///
    /// # Errors
    /// [`Error::Axis`].
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
