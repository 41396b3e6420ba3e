//! Arrays of f64 on the host: the inputs of the op table's cases, and what its references compute with.
//!
//! Written for clarity alone. A reference shares no code with what it judges.

use everstep_device::{DType, Device, Generator, bf16, f16};

use crate::{Error, Result, Tensor};

/// An array of numbers, row-major. The numbers of an input are exact in its dtype.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    /// The sizes of its dimensions.
    pub shape: Vec<usize>,
    /// The dtype of a tensor of these numbers.
    pub dtype: DType,
    /// The numbers.
    pub values: Vec<f64>,
}

/// Where the numbers of an input are drawn from.
#[derive(Clone, Copy, Debug)]
pub struct Domain {
    low: f32,
    high: f32,
    signed: bool,
}

impl Domain {
    /// Uniform between two numbers.
    pub const fn between(low: f32, high: f32) -> Self {
        Self { low, high, signed: false }
    }

    /// A magnitude between two numbers, with either sign: for functions with a kink or a pole at zero.
    pub const fn away(low: f32, high: f32) -> Self {
        Self { low, high, signed: true }
    }

    /// One number.
    pub fn draw(&self, generator: &mut Generator) -> f32 {
        let magnitude = self.low + (self.high - self.low) * generator.uniform();
        if self.signed && generator.below(2) == 0 { -magnitude } else { magnitude }
    }
}

/// Every index of `shape` in row-major order.
pub fn indices(shape: &[usize]) -> impl Iterator<Item = Vec<usize>> + use<'_> {
    (0..shape.iter().product()).map(move |mut linear| {
        let mut index = vec![0; shape.len()];
        for axis in (0..shape.len()).rev() {
            index[axis] = linear % shape[axis];
            linear /= shape[axis];
        }
        index
    })
}

/// The shape that arrays of these shapes broadcast to: aligned at the last dimension, 1 stretches.
pub fn broadcast<'a>(shapes: impl IntoIterator<Item = &'a [usize]>) -> Vec<usize> {
    shapes.into_iter().fold(Vec::new(), |joint, shape| {
        let rank = joint.len().max(shape.len());
        let size = |shape: &[usize], axis: usize| (axis + shape.len()).checked_sub(rank).map_or(1, |at| shape[at]);
        (0..rank).map(|axis| if size(&joint, axis) == 1 { size(shape, axis) } else { size(&joint, axis) }).collect()
    })
}

impl Array {
    /// f32 numbers.
    pub fn new(shape: &[usize], values: Vec<f64>) -> Self {
        Self { shape: shape.to_vec(), dtype: DType::F32, values }
    }

    /// The value of `value` at every index.
    pub fn from_fn(shape: &[usize], mut value: impl FnMut(&[usize]) -> f64) -> Self {
        Self::new(shape, indices(shape).map(|index| value(&index)).collect())
    }

    /// Numbers drawn from `domain`.
    pub fn draw(shape: &[usize], domain: Domain, generator: &mut Generator) -> Self {
        Self::from_fn(shape, |_| f64::from(domain.draw(generator)))
    }

    /// Integers from `low` up to, not including, `low + count`.
    pub fn integers(shape: &[usize], dtype: DType, low: i64, count: u32, generator: &mut Generator) -> Self {
        Self::from_fn(shape, |_| (low + i64::from(generator.below(count))) as f64).with_dtype(dtype)
    }

    /// The same numbers as another dtype.
    #[must_use]
    pub fn with_dtype(mut self, dtype: DType) -> Self {
        self.dtype = dtype;
        self
    }

    /// Integers as a 32-bit machine keeps them: modulo 2^32.
    #[must_use]
    pub fn wrapped(self, dtype: DType) -> Self {
        let wrap = |value: f64| match dtype {
            DType::U32 => f64::from(value as i64 as u32),
            _ => f64::from(value as i64 as i32),
        };
        self.map(wrap).with_dtype(dtype)
    }

    /// The number of elements.
    pub fn count(&self) -> usize {
        self.values.len()
    }

    /// The element at an index of a shape that this array broadcasts to.
    pub fn at(&self, index: &[usize]) -> f64 {
        let lead = index.len() - self.shape.len();
        let step = |at, (&size, &index): (&usize, &usize)| at * size + if size == 1 { 0 } else { index };
        self.values[self.shape.iter().zip(&index[lead..]).fold(0, step)]
    }

    /// `function` of every element.
    #[must_use]
    pub fn map(&self, function: impl FnMut(f64) -> f64) -> Self {
        let values = self.values.iter().copied().map(function).collect();
        Self { values, ..self.clone() }
    }

    /// `function` of the elements of `arrays` at each place, broadcast to one another; an f32 array.
    pub fn zip(arrays: &[&Array], function: impl Fn(&[f64]) -> f64) -> Self {
        let shape = broadcast(arrays.iter().map(|array| &array.shape[..]));
        Self::from_fn(&shape, |index| function(&arrays.iter().map(|array| array.at(index)).collect::<Vec<_>>()))
    }

    /// The same numbers in the same order under another shape.
    #[must_use]
    pub fn reshaped(&self, shape: &[usize]) -> Self {
        Self { shape: shape.to_vec(), ..self.clone() }
    }

    /// Dimension `i` of the result is dimension `axes[i]` of this array.
    #[must_use]
    pub fn permuted(&self, axes: &[usize]) -> Self {
        let shape: Vec<usize> = axes.iter().map(|&axis| self.shape[axis]).collect();
        let mut source = vec![0; axes.len()];
        let value = |index: &[usize]| {
            axes.iter().zip(index).for_each(|(&axis, &at)| source[axis] = at);
            self.at(&source)
        };
        Self::from_fn(&shape, value).with_dtype(self.dtype)
    }

    /// Stretched to a shape that it broadcasts to.
    #[must_use]
    pub fn stretched(&self, shape: &[usize]) -> Self {
        Self::from_fn(shape, |index| self.at(index)).with_dtype(self.dtype)
    }

    /// `function` of the elements over `axes`, which stay with size 1; an f32 array.
    #[must_use]
    pub fn reduced(&self, axes: &[usize], function: impl Fn(&[f64]) -> f64) -> Self {
        let mut shape = self.shape.clone();
        axes.iter().for_each(|&axis| shape[axis] = 1);
        let mut groups = vec![Vec::new(); shape.iter().product()];
        for (index, value) in indices(&self.shape).zip(&self.values) {
            let step = |at, (&size, &index): (&usize, &usize)| at * size + if size == 1 { 0 } else { index };
            groups[shape.iter().zip(&index).fold(0, step)].push(*value);
        }
        Self::new(&shape, groups.iter().map(|group| function(group)).collect())
    }

    /// A tensor of the numbers.
    ///
    /// # Errors
    /// [`Error::DTypes`] for a dtype that host data cannot have.
    pub fn tensor(&self, device: &Device) -> Result<Tensor> {
        let values = self.values.iter();
        match self.dtype {
            DType::F32 => Tensor::from_vec(values.map(|&value| value as f32).collect(), &self.shape, device),
            DType::U32 => Tensor::from_vec(values.map(|&value| value as u32).collect(), &self.shape, device),
            DType::I32 => Tensor::from_vec(values.map(|&value| value as i32).collect(), &self.shape, device),
            DType::F16 => Tensor::from_vec(values.map(|&value| f16::from_f64(value)).collect(), &self.shape, device),
            DType::BF16 => Tensor::from_vec(values.map(|&value| bf16::from_f64(value)).collect(), &self.shape, device),
            DType::Bool => Tensor::from_vec(values.map(|&value| value != 0.0).collect(), &self.shape, device),
            other => Err(Error::DTypes { op: "tensor", found: vec![other] }),
        }
    }
}

/// The sum.
pub fn sum(values: &[f64]) -> f64 {
    values.iter().sum()
}

/// The largest; NaN where any is.
pub fn largest(values: &[f64]) -> f64 {
    let larger = |best: f64, &value: &f64| if best.is_nan() || best >= value { best } else { value };
    values.iter().fold(f64::NEG_INFINITY, larger)
}
