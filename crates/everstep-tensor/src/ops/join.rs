//! Tensors joined, cut into parts and repeated.

use std::sync::Arc;

use everstep_device::expr::{Expr, Program};
use everstep_device::{DType, Generator, Shape};

use super::reference::{Array, Domain};
use super::table::{Case, Cases, EXACT, Entry, Gradient, NUMBERS};
use crate::op::{Inferred, Op, Saved, apply};
use crate::{Error, Result, Tensor};

/// The inputs one behind the other along `axis`.
#[derive(Debug)]
struct Cat {
    axis: usize,
}

impl Op for Cat {
    fn name(&self) -> &'static str {
        "cat"
    }

    fn infer(&self, inputs: &[&Tensor]) -> Result<Inferred> {
        let (first, mut total) = (inputs[0], 0usize);
        for input in inputs {
            if input.dtype() != first.dtype() || !NUMBERS.contains(&input.dtype()) {
                return Err(Error::DTypes { op: self.name(), found: inputs.iter().map(|x| x.dtype()).collect() });
            }
            let rest = |tensor: &Tensor| tensor.shape().with(self.axis, 0);
            if input.rank() != first.rank() || rest(input) != rest(first) {
                let rule = "but along the axis, all must have the same sizes";
                return Err(Error::Shapes { op: self.name(), left: *first.shape(), right: *input.shape(), rule });
            }
            total = total.saturating_add(input.shape()[self.axis]);
        }
        Ok(Inferred::one(Shape::new(&first.shape().with(self.axis, total))?, first.dtype()))
    }

    fn record(&self, inputs: &[&Tensor], outputs: &[Tensor]) -> Result<()> {
        let (mut start, dtype) = (0, inputs[0].dtype());
        let program = Arc::new(Program::new(&[dtype], &[Expr::input(0, dtype)]));
        for input in inputs {
            let end = start + input.shape()[self.axis];
            let target = outputs[0].view(outputs[0].layout().slice(self.axis, start, end, 1)?);
            target.write_pointwise(self.name(), program.clone(), &[input], vec![])?;
            start = end;
        }
        Ok(())
    }

    fn vjp(&self, saved: &Saved<'_>, gradient: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let mut start = 0;
        let part = |(index, input): (usize, &Tensor)| {
            let from = start;
            start += input.shape()[self.axis];
            saved.wants(index).then(|| gradient.slice(self.axis as isize, from..start)).transpose()
        };
        saved.inputs.iter().enumerate().map(part).collect()
    }
}

impl Tensor {
    /// `tensors` one behind the other along `axis`; their other sizes are equal.
    ///
    /// # Errors
    /// [`Error::NoInputs`] of none, [`Error::Axis`], [`Error::Shapes`], [`Error::DTypes`], [`Error::Devices`].
    ///
    /// ```
    /// # use everstep_tensor::{Device, Tensor};
    /// let (x, y) = (Tensor::ones(&[2, 1], &Device::cpu())?, Tensor::zeros(&[2, 2], &Device::cpu())?);
    /// assert_eq!(Tensor::cat(&[&x, &y], 1)?.to_vec::<f32>()?, [1.0, 0.0, 0.0, 1.0, 0.0, 0.0]);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn cat(tensors: &[&Tensor], axis: isize) -> Result<Tensor> {
        let first = tensors.first().ok_or(Error::NoInputs { op: "cat" })?;
        apply(Cat { axis: first.axis("cat", axis)? }, tensors)
    }

    /// `tensors`, of one shape, one behind the other along a new dimension before `axis`.
    ///
    /// # Errors
    /// As [`Tensor::cat`].
    ///
    /// ```
    /// # use everstep_tensor::{Device, Tensor};
    /// let (x, y) = (Tensor::ones(&[2], &Device::cpu())?, Tensor::zeros(&[2], &Device::cpu())?);
    /// assert_eq!(Tensor::stack(&[&x, &y], -1)?.to_vec::<f32>()?, [1.0, 0.0, 1.0, 0.0]);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn stack(tensors: &[&Tensor], axis: isize) -> Result<Tensor> {
        let thicker = tensors.iter().map(|tensor| tensor.unsqueeze(axis)).collect::<Result<Vec<_>>>()?;
        Self::cat(&thicker.iter().collect::<Vec<_>>(), axis)
    }

    /// Views of the parts of these sizes along `axis`, one behind the other.
    ///
    /// # Errors
    /// [`Error::Axis`]; [`Error::Argument`] where the sizes do not add up to the dimension's.
    ///
    /// ```
    /// # use everstep_tensor::{Device, Tensor};
    /// let x = Tensor::from_slice(&[1.0f32, 2.0, 3.0], &[3], &Device::cpu())?;
    /// assert_eq!(x.split(&[1, 2], 0)?[1].to_vec::<f32>()?, [2.0, 3.0]);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn split(&self, sizes: &[usize], axis: isize) -> Result<Vec<Tensor>> {
        let size = self.shape()[self.axis("split", axis)?];
        let total = sizes.iter().fold(0usize, |total, &size| total.saturating_add(size));
        if total != size {
            let (name, value) = ("the sum of the sizes", total as f64);
            return Err(Error::Argument { op: "split", name, value, range: "the dimension's size alone" });
        }
        let mut start = 0;
        let part = |&size: &usize| {
            start += size;
            self.slice(axis, start - size..start)
        };
        sizes.iter().map(part).collect()
    }

    /// Views of `count` parts along `axis`, of equal size but for the last; as in PyTorch fewer, where so many of that
    /// size are enough: 5 elements in 4 chunks are 2, 2 and 1.
    ///
    /// # Errors
    /// [`Error::Axis`]; [`Error::Argument`] where `count` is 0.
    ///
    /// ```
    /// # use everstep_tensor::{Device, Tensor};
    /// let parts = Tensor::ones(&[5, 2], &Device::cpu())?.chunk(2, 0)?;
    /// assert_eq!((parts[0].shape()[0], parts[1].shape()[0]), (3, 2));
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn chunk(&self, count: usize, axis: isize) -> Result<Vec<Tensor>> {
        let size = self.shape()[self.axis("chunk", axis)?];
        if count == 0 {
            return Err(Error::Argument { op: "chunk", name: "count", value: 0.0, range: "1 and above" });
        }
        let part = size.div_ceil(count);
        let parts = if part == 0 { count } else { size.div_ceil(part) };
        let sizes: Vec<_> = (0..parts).map(|number| part.min(size - number * part)).collect();
        self.split(&sizes, axis)
    }

    /// This tensor `repeats` times along each dimension; more repeats than dimensions put new ones in front.
    ///
    /// # Errors
    /// [`Error::Argument`] where there are fewer repeats than dimensions; [`everstep_device::Error::Rank`],
    /// [`everstep_device::Error::Overflow`].
    ///
    /// ```
    /// # use everstep_tensor::{Device, Tensor};
    /// let x = Tensor::from_slice(&[1.0f32, 2.0], &[2], &Device::cpu())?;
    /// assert_eq!(x.repeat(&[2, 2])?.to_vec::<f32>()?, [1.0, 2.0, 1.0, 2.0, 1.0, 2.0, 1.0, 2.0]);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn repeat(&self, repeats: &[usize]) -> Result<Tensor> {
        let Some(lead) = repeats.len().checked_sub(self.rank()) else {
            let (name, value) = ("number of repeats", repeats.len() as f64);
            return Err(Error::Argument { op: "repeat", name, value, range: "one per dimension, or more" });
        };
        let mut result = self.reshape(&[&vec![1; lead], &self.shape()[..]].concat())?;
        for (axis, &times) in repeats.iter().enumerate().filter(|&(_, &times)| times != 1) {
            let shape = *result.shape();
            let (outer, run) = (shape[..axis].iter().product(), shape[axis..].iter().product());
            let stretched = result.reshape(&[outer, 1, run])?.broadcast_to(&[outer, times, run])?;
            let grown = Shape::new(&shape.with(axis, shape[axis].saturating_mul(times)))?;
            result = stretched.reshape_to(grown)?;
        }
        Ok(result)
    }
}

const MOVED: Entry =
    Entry { name: "", dtypes: NUMBERS, gradient: Gradient::Any, tolerance: EXACT, cases: Cases::Listed(|_| vec![]) };

/// f32 and u32 inputs of these shapes.
fn inputs(shapes: &[&[usize]], generator: &mut Generator) -> Vec<Vec<Array>> {
    let floats = shapes.iter().map(|shape| Array::draw(shape, Domain::between(-3.0, 3.0), generator)).collect();
    let integers = shapes.iter().map(|shape| Array::integers(shape, DType::U32, 0, 1 << 31, generator)).collect();
    vec![floats, integers]
}

fn positive(axis: isize, rank: usize) -> usize {
    axis.rem_euclid(rank as isize) as usize
}

/// The arrays one behind the other.
fn joined(arrays: &[Array], axis: usize) -> Array {
    let mut shape = arrays[0].shape.clone();
    shape[axis] = arrays.iter().map(|array| array.shape[axis]).sum();
    let value = |index: &[usize]| {
        let mut index = index.to_vec();
        for array in arrays {
            match index[axis].checked_sub(array.shape[axis]) {
                Some(rest) => index[axis] = rest,
                None => return array.at(&index),
            }
        }
        f64::NAN
    };
    Array::from_fn(&shape, value).with_dtype(arrays[0].dtype)
}

/// The part `start..end` of an array.
fn part(x: &Array, axis: usize, start: usize, end: usize) -> Array {
    let mut shape = x.shape.clone();
    shape[axis] = end - start;
    let value = |index: &[usize]| {
        let mut index = index.to_vec();
        index[axis] += start;
        x.at(&index)
    };
    Array::from_fn(&shape, value).with_dtype(x.dtype)
}

pub(super) const CAT: Entry = Entry {
    name: "cat",
    cases: Cases::Listed(|generator| {
        let shapes: [(&[&[usize]], isize); 7] = [
            (&[&[2, 3], &[2, 1]], 1),
            (&[&[2, 3], &[4, 3], &[1, 3]], -2),
            (&[&[5]], 0),
            (&[&[3], &[0], &[2]], 0),
            (&[&[0, 2], &[0, 1]], 1),
            (&[&[0], &[0]], 0),
            (&[&[1, 2, 1, 2, 1, 2], &[1, 2, 1, 3, 1, 2]], 3),
        ];
        let mut cases = Vec::new();
        for (shapes, axis) in shapes {
            for inputs in inputs(shapes, generator) {
                let at = positive(axis, shapes[0].len());
                let apply = move |x: &[Tensor]| Tensor::cat(&x.iter().collect::<Vec<_>>(), axis);
                let label = format!("{} {shapes:?} axis {axis}", inputs[0].dtype);
                cases.push(Case::new(label, inputs, apply, move |x| joined(x, at)));
            }
        }
        cases
    }),
    ..MOVED
};

pub(super) const STACK: Entry = Entry {
    name: "stack",
    cases: Cases::Listed(|generator| {
        let shapes: [(&[usize], usize, isize); 5] =
            [(&[2, 3], 2, 1), (&[4], 3, -1), (&[], 2, 0), (&[0, 2], 2, 0), (&[1, 2, 1, 3, 2], 2, -3)];
        let mut cases = Vec::new();
        for (shape, count, axis) in shapes {
            for inputs in inputs(&vec![shape; count], generator) {
                let at = positive(axis, shape.len() + 1);
                let apply = move |x: &[Tensor]| Tensor::stack(&x.iter().collect::<Vec<_>>(), axis);
                let label = format!("{} {count} of {shape:?} axis {axis}", inputs[0].dtype);
                cases.push(Case::new(label, inputs, apply, move |x| {
                    let mut thick = x[0].shape.clone();
                    thick.insert(at, 1);
                    joined(&x.iter().map(|x| x.reshaped(&thick)).collect::<Vec<_>>(), at)
                }));
            }
        }
        cases
    }),
    ..MOVED
};

pub(super) const SPLIT: Entry = Entry {
    name: "split",
    cases: Cases::Listed(|generator| {
        // (shape, sizes, axis, the part looked at)
        type Cut = (&'static [usize], &'static [usize], isize, usize);
        let cuts: [Cut; 4] =
            [(&[2, 5], &[1, 3, 1], 1, 1), (&[4], &[4], 0, 0), (&[3, 2], &[0, 3], -2, 0), (&[0, 2], &[1, 1], 1, 1)];
        let mut cases = Vec::new();
        for (shape, sizes, axis, number) in cuts {
            for inputs in inputs(&[shape], generator) {
                let (at, start) = (positive(axis, shape.len()), sizes[..number].iter().sum::<usize>());
                let apply = move |x: &[Tensor]| Ok(x[0].split(sizes, axis)?.swap_remove(number));
                let label = format!("{} {shape:?} by {sizes:?} axis {axis}", inputs[0].dtype);
                let expected = move |x: &[Array]| part(&x[0], at, start, start + sizes[number]);
                cases.push(Case::new(label, inputs, apply, expected));
            }
        }
        cases
    }),
    ..MOVED
};

pub(super) const CHUNK: Entry = Entry {
    name: "chunk",
    cases: Cases::Listed(|generator| {
        // (shape, count, axis, the part looked at, its range)
        type Cut = (&'static [usize], usize, isize, usize, (usize, usize));
        let cuts: [Cut; 5] = [
            (&[2, 6], 3, 1, 2, (4, 6)),
            (&[5], 4, 0, 2, (4, 5)),
            (&[5, 2], 2, -2, 0, (0, 3)),
            (&[2], 5, 0, 1, (1, 2)),
            (&[0, 2], 2, 0, 1, (0, 0)),
        ];
        let mut cases = Vec::new();
        for (shape, count, axis, number, (start, end)) in cuts {
            for inputs in inputs(&[shape], generator) {
                let apply = move |x: &[Tensor]| Ok(x[0].chunk(count, axis)?.swap_remove(number));
                let label = format!("{} {shape:?} in {count} axis {axis}", inputs[0].dtype);
                let at = positive(axis, shape.len());
                cases.push(Case::new(label, inputs, apply, move |x| part(&x[0], at, start, end)));
            }
        }
        cases
    }),
    ..MOVED
};

pub(super) const REPEAT: Entry = Entry {
    name: "repeat",
    cases: Cases::Listed(|generator| {
        let shapes: [(&[usize], &[usize]); 7] = [
            (&[2, 3], &[2, 2]),
            (&[3], &[2, 4]),
            (&[2, 3], &[1, 1]),
            (&[], &[3]),
            (&[2], &[0]),
            (&[0, 2], &[2, 2]),
            (&[1, 2, 1, 2], &[2, 1, 1, 3, 1, 2]),
        ];
        let mut cases = Vec::new();
        for (shape, repeats) in shapes {
            for inputs in inputs(&[shape], generator) {
                let label = format!("{} {shape:?} {repeats:?} times", inputs[0].dtype);
                cases.push(Case::new(
                    label,
                    inputs,
                    |x| x[0].repeat(repeats),
                    move |x| {
                        let lead = repeats.len() - x[0].shape.len();
                        let size = |axis: usize| axis.checked_sub(lead).map_or(1, |axis| x[0].shape[axis]);
                        let sizes: Vec<usize> = (0..repeats.len()).map(size).collect();
                        let shape: Vec<usize> = sizes.iter().zip(repeats).map(|(size, times)| size * times).collect();
                        let wrapped = |index: &[usize]| {
                            let index: Vec<usize> = index.iter().zip(&sizes).map(|(at, size)| at % size).collect();
                            x[0].at(&index[lead..])
                        };
                        Array::from_fn(&shape, wrapped).with_dtype(x[0].dtype)
                    },
                ));
            }
        }
        cases
    }),
    ..MOVED
};
