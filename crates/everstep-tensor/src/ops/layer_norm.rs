//! Layer norm and root-mean-square norm.

use std::sync::Arc;

use everstep_device::cpu::{
    LayerNorm as Kernel, LayerNormBackward as BackwardKernel, LayerNormBackwardWeight as WeightKernel, LayerNormParams,
    WEIGHT_ROWS,
};
use everstep_device::{Command, DType, Generator, Shape, Work};

use super::reference::{Array, Domain, sum};
use super::table::{Case, Cases, Entry, FLOAT, Gradient, Tolerance};
use crate::op::{Inferred, Op, Saved, apply};
use crate::{Autocast, Error, Result, Tensor};

/// Over rows: x [rows, columns], then weight and bias [columns] where there are any. Keeps mean and 1 / deviation.
#[derive(Clone, Copy, Debug)]
struct LayerNorm {
    name: &'static str,
    epsilon: f32,
    centred: bool,
}

/// The gradient of x, from x, weight (x where there is none), statistics, gradient.
#[derive(Debug)]
struct LayerNormBackward {
    norm: LayerNorm,
    weight: bool,
}

/// The partial gradients [blocks, 2, columns] of weight and bias, from x, statistics, gradient.
#[derive(Debug)]
struct LayerNormBackwardWeight(LayerNorm);

impl LayerNorm {
    fn params(&self, x: &Tensor) -> LayerNormParams {
        LayerNormParams { rows: x.shape()[0] as u32, columns: x.shape()[1] as u32, epsilon: self.epsilon }
    }
}

fn record(op: &'static str, work: Work, inputs: &[&Tensor], outputs: &[Tensor]) -> Result<()> {
    let inputs = inputs.iter().map(|input| input.slice_of_buffer()).collect();
    let device = outputs[0].device();
    Ok(device.record(Command { op, work, inputs, outputs: outputs.iter().map(Tensor::slice_of_buffer).collect() })?)
}

impl Op for LayerNorm {
    fn name(&self) -> &'static str {
        self.name
    }

    fn autocast(&self) -> Autocast {
        Autocast::Single
    }

    fn infer(&self, inputs: &[&Tensor]) -> Result<Inferred> {
        if inputs.iter().any(|input| input.dtype() != DType::F32) {
            return Err(Error::DTypes { op: self.name, found: inputs.iter().map(|input| input.dtype()).collect() });
        }
        let x = inputs[0].shape();
        Ok(Inferred::New(vec![(*x, DType::F32), (Shape::new(&[x[0], 2])?, DType::F32)]))
    }

    fn record(&self, inputs: &[&Tensor], outputs: &[Tensor]) -> Result<()> {
        let dense = inputs.iter().map(|input| input.dense()).collect::<Result<Vec<_>>>()?;
        let (weight, bias) = (dense.len() > 1, dense.len() > 2);
        let kernel = Kernel { params: self.params(&dense[0]), centred: self.centred, weight, bias };
        let operands = [&dense[0], dense.get(1).unwrap_or(&dense[0]), dense.get(2).unwrap_or(&dense[0])];
        record(self.name, Work::Kernel(Arc::new(kernel)), &operands, outputs)
    }

    fn vjp(&self, saved: &Saved<'_>, gradient: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let (x, statistics, gradient) = (&saved.inputs[0], &saved.outputs[1], gradient.dense()?);
        let mut parts = vec![None; saved.inputs.len()];
        if saved.wants(0) {
            let op = LayerNormBackward { norm: *self, weight: saved.inputs.len() > 1 };
            parts[0] = Some(apply(op, &[x, saved.inputs.get(1).unwrap_or(x), statistics, &gradient])?);
        }
        if (1..saved.inputs.len()).any(|index| saved.wants(index)) {
            let both = apply(LayerNormBackwardWeight(*self), &[x, statistics, &gradient])?.sum(&[0], false)?;
            for (index, part) in parts.iter_mut().enumerate().skip(1) {
                *part = Some(both.slice(0, index - 1..index)?.squeeze(0)?);
            }
        }
        Ok(parts)
    }
}

impl Op for LayerNormBackward {
    fn name(&self) -> &'static str {
        "layer_norm_backward"
    }

    fn infer(&self, inputs: &[&Tensor]) -> Result<Inferred> {
        Ok(Inferred::one(*inputs[0].shape(), DType::F32))
    }

    fn record(&self, inputs: &[&Tensor], outputs: &[Tensor]) -> Result<()> {
        let dense = inputs.iter().map(|input| input.dense()).collect::<Result<Vec<_>>>()?;
        let params = self.norm.params(&dense[0]);
        let kernel = BackwardKernel { params, centred: self.norm.centred, weight: self.weight };
        record(self.name(), Work::Kernel(Arc::new(kernel)), &dense.iter().collect::<Vec<_>>(), outputs)
    }

    fn vjp(&self, _: &Saved<'_>, _: &Tensor) -> Result<Vec<Option<Tensor>>> {
        Err(Error::NotDifferentiable { op: self.name() })
    }
}

impl Op for LayerNormBackwardWeight {
    fn name(&self) -> &'static str {
        "layer_norm_backward"
    }

    fn infer(&self, inputs: &[&Tensor]) -> Result<Inferred> {
        let (rows, columns) = (inputs[0].shape()[0], inputs[0].shape()[1]);
        Ok(Inferred::one(Shape::new(&[rows.div_ceil(WEIGHT_ROWS), 2, columns])?, DType::F32))
    }

    fn record(&self, inputs: &[&Tensor], outputs: &[Tensor]) -> Result<()> {
        let dense = inputs.iter().map(|input| input.dense()).collect::<Result<Vec<_>>>()?;
        let kernel = WeightKernel(self.0.params(&dense[0]));
        record(self.name(), Work::Kernel(Arc::new(kernel)), &dense.iter().collect::<Vec<_>>(), outputs)
    }

    fn vjp(&self, _: &Saved<'_>, _: &Tensor) -> Result<Vec<Option<Tensor>>> {
        Err(Error::NotDifferentiable { op: self.name() })
    }
}

impl Tensor {
    /// (x - mean) / sqrt(variance + epsilon) * weight + bias over the trailing dimensions `shape` (Ba, Kiros and Hinton,
    /// 2016), with the biased variance, as PyTorch has it. `weight` and `bias` are of that shape.
    ///
    /// # Errors
    /// [`Error::Shapes`] where `shape` is not that of the trailing dimensions, or weight or bias have another;
    /// [`Error::Argument`] for a bias without a weight or an epsilon that is not positive; [`Error::DTypes`].
    ///
    /// ```
    /// # use everstep_tensor::{Device, Tensor};
    /// let x = Tensor::from_slice(&[1.0f32, 3.0, 10.0, 30.0], &[2, 2], &Device::cpu())?;
    /// let y = x.layer_norm(&[2], None, None, 1e-5)?.to_vec::<f32>()?;
    /// assert!(y.iter().zip([-1.0, 1.0, -1.0, 1.0]).all(|(y, exact)| (y - exact).abs() < 1e-4));
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn layer_norm(
        &self,
        shape: &[usize],
        weight: Option<&Tensor>,
        bias: Option<&Tensor>,
        epsilon: f32,
    ) -> Result<Tensor> {
        self.normalise(LayerNorm { name: "layer_norm", epsilon, centred: true }, shape, weight, bias)
    }

    /// x / sqrt(mean x^2 + epsilon) * weight over the trailing dimensions `shape` (Zhang and Sennrich, 2019).
    ///
    /// # Errors
    /// As [`Tensor::layer_norm`].
    ///
    /// ```
    /// # use everstep_tensor::{Device, Tensor};
    /// let x = Tensor::from_slice(&[3.0f32, -3.0], &[2], &Device::cpu())?;
    /// let y = x.rms_norm(&[2], None, 1e-5)?.to_vec::<f32>()?;
    /// assert!((y[0] - 1.0).abs() < 1e-4 && (y[1] + 1.0).abs() < 1e-4);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn rms_norm(&self, shape: &[usize], weight: Option<&Tensor>, epsilon: f32) -> Result<Tensor> {
        self.normalise(LayerNorm { name: "rms_norm", epsilon, centred: false }, shape, weight, None)
    }

    /// Layer norm over `groups` groups of channels and all that follows (Wu and He, 2018): x [B, C, ..], then per channel
    /// times `weight` `[C]` plus `bias` `[C]`.
    ///
    /// # Errors
    /// [`Error::Shape`] where the groups do not divide the channels; [`Error::Shapes`] where weight or bias are not `[C]`; those of
    /// [`Tensor::layer_norm`].
    ///
    /// ```
    /// # use everstep_tensor::{Device, Tensor};
    /// let x = Tensor::from_slice(&[1.0f32, 3.0, 10.0, 30.0], &[1, 4, 1], &Device::cpu())?;
    /// let y = x.group_norm(2, None, None, 1e-5)?.to_vec::<f32>()?;
    /// assert!(y.iter().zip([-1.0, 1.0, -1.0, 1.0]).all(|(y, exact)| (y - exact).abs() < 1e-4));
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn group_norm(
        &self,
        groups: usize,
        weight: Option<&Tensor>,
        bias: Option<&Tensor>,
        epsilon: f32,
    ) -> Result<Tensor> {
        let op = "group_norm";
        if self.rank() < 2 || groups == 0 || !self.shape()[1].is_multiple_of(groups) {
            let rule = "x is [B, C, ..], and the groups divide C";
            return Err(Error::Shape { op, shape: *self.shape(), rule });
        }
        let channels = self.shape()[1];
        if let Some(part) = [weight, bias].into_iter().flatten().find(|part| **part.shape() != [channels]) {
            let rule = "weight and bias are [C]";
            return Err(Error::Shapes { op, left: *part.shape(), right: *self.shape(), rule });
        }
        let batch = self.shape()[0];
        let width = self.shape()[1..].iter().product::<usize>() / groups;
        let rows = self.reshape(&[batch, groups, width])?;
        let mut y = rows.layer_norm(&[width], None, None, epsilon)?.reshape_to(*self.shape())?;
        let per_channel = [&[channels][..], &vec![1; self.rank() - 2]].concat();
        if let Some(weight) = weight {
            y = y.mul(&weight.reshape(&per_channel)?)?;
        }
        match bias {
            Some(bias) => y.add(&bias.reshape(&per_channel)?),
            None => Ok(y),
        }
    }

    fn normalise(
        &self,
        norm: LayerNorm,
        shape: &[usize],
        weight: Option<&Tensor>,
        bias: Option<&Tensor>,
    ) -> Result<Tensor> {
        let op = norm.name;
        let rule = "the trailing dimensions are normalised, and weight and bias have their shape";
        let trailing = Shape::new(shape)?;
        let wrong = |left: &Shape| Error::Shapes { op, left: *left, right: trailing, rule };
        if shape.is_empty() || !self.shape().ends_with(shape) {
            return Err(wrong(self.shape()));
        }
        if let Some(part) = [weight, bias].into_iter().flatten().find(|part| **part.shape() != *shape) {
            return Err(wrong(part.shape()));
        }
        if norm.epsilon <= 0.0 || !norm.epsilon.is_finite() {
            return Err(Error::Argument { op, name: "epsilon", value: f64::from(norm.epsilon), range: "more than 0" });
        }
        if weight.is_none() && bias.is_some() {
            return Err(Error::Argument { op, name: "bias", value: 1.0, range: "none without a weight" });
        }
        let columns = trailing.count();
        if columns == 0 {
            return self.copy();
        }
        let x = self.reshape(&[self.count() / columns, columns])?;
        let affine = [weight, bias].into_iter().flatten().map(|part| part.reshape(&[columns]));
        let affine = affine.collect::<Result<Vec<_>>>()?;
        let inputs: Vec<&Tensor> = std::iter::once(&x).chain(&affine).collect();
        apply(norm, &inputs)?.reshape_to(*self.shape())
    }
}

const NORMALISED: Tolerance = Tolerance {
    relative: 3e-6,
    absolute: 3e-6,
    why: "results of about 1 from sums of up to some hundreds of terms, each rounded, over a root",
};
const FIRST: Gradient = Gradient::First("layer_norm_backward is a kernel of its own, without a gradient yet");

pub(super) const LAYER_NORM: Entry = Entry {
    name: "layer_norm",
    dtypes: FLOAT,
    gradient: FIRST,
    tolerance: NORMALISED,
    cases: Cases::Listed(|generator| cases(generator, true)),
};

pub(super) const RMS_NORM: Entry =
    Entry { name: "rms_norm", cases: Cases::Listed(|generator| cases(generator, false)), ..LAYER_NORM };

pub(super) const GROUP_NORM: Entry = Entry { name: "group_norm", cases: Cases::Listed(group_cases), ..LAYER_NORM };

fn group_cases(generator: &mut Generator) -> Vec<Case> {
    let shapes: [(&[usize], usize, bool); 6] = [
        (&[2, 4, 3], 2, true),
        (&[2, 3, 2, 2], 1, true),
        (&[3, 4], 2, false),
        (&[0, 4, 2], 2, true),
        (&[1, 6, 2, 1, 3], 3, true),
        (&[2, 4, 5, 7], 4, false),
    ];
    let case = |(shape, groups, affine): (&[usize], usize, bool)| {
        let mut inputs = vec![Array::draw(shape, Domain::between(-3.0, 3.0), generator)];
        let both = if affine { 2 } else { 0 };
        inputs.extend((0..both).map(|_| Array::draw(&shape[1..2], Domain::between(0.5, 2.0), generator)));
        let apply = move |x: &[Tensor]| x[0].group_norm(groups, x.get(1), x.get(2), 1e-2);
        Case::new(format!("{shape:?} in {groups} groups"), inputs, apply, move |x| {
            let shape = &x[0].shape;
            let width = shape[1..].iter().product::<usize>() / groups;
            let rows = x[0].reshaped(&[shape[0], groups, width]);
            let normal = reference(&[rows], 1, true).reshaped(shape);
            let per_channel: Vec<usize> = (1..shape.len()).map(|axis| if axis == 1 { shape[1] } else { 1 }).collect();
            let parts: Vec<Array> = x[1..].iter().map(|part| part.reshaped(&per_channel)).collect();
            match &parts[..] {
                [weight, bias] => Array::zip(&[&normal, weight, bias], |x| x[0] * x[1] + x[2]),
                _ => normal,
            }
        })
    };
    shapes.into_iter().map(case).collect()
}

fn cases(generator: &mut Generator, centred: bool) -> Vec<Case> {
    let shapes: [(&[usize], usize, usize); 9] = [
        (&[5, 7], 1, 2),
        (&[5, 7], 1, 1),
        (&[5, 7], 1, 0),
        (&[2, 3, 4], 2, 2),
        (&[6], 1, 2),
        (&[0, 3], 1, 2),
        (&[2, 1, 3, 1, 2, 5], 1, 2),
        (&[70, 130], 1, 2),
        (&[3, 1030], 1, 2),
    ];
    let case = |(shape, trailing, affine): (&[usize], usize, usize)| {
        let last = shape[shape.len() - trailing..].to_vec();
        let affine = if centred { affine } else { affine.min(1) };
        let mut inputs = vec![Array::draw(shape, Domain::between(-3.0, 3.0), generator)];
        inputs.extend((0..affine).map(|_| Array::draw(&last, Domain::between(0.5, 2.0), generator)));
        let label = format!("{shape:?} over {last:?}, {affine} of weight and bias");
        let shape = last.clone();
        let apply = move |x: &[Tensor]| match centred {
            true => x[0].layer_norm(&shape, x.get(1), x.get(2), 1e-2),
            false => x[0].rms_norm(&shape, x.get(1), 1e-2),
        };
        Case::new(label, inputs, apply, move |x| reference(x, trailing, centred))
    };
    shapes.into_iter().map(case).collect()
}

/// By the formula, mean and variance over the trailing dimensions.
fn reference(x: &[Array], trailing: usize, centred: bool) -> Array {
    let rank = x[0].shape.len();
    let axes: Vec<usize> = (rank - trailing..rank).collect();
    let average = |values: &[f64]| sum(values) / values.len() as f64;
    let mean = x[0].reduced(&axes, |values| if centred { average(values) } else { 0.0 });
    let difference = Array::zip(&[&x[0], &mean], |x| x[0] - x[1]);
    let variance = difference
        .reduced(&axes, |values| sum(&values.iter().map(|v| v * v).collect::<Vec<_>>()) / values.len() as f64);
    let normal = Array::zip(&[&difference, &variance], |x| x[0] / (x[1] + f64::from(1e-2f32)).sqrt());
    let weighted = x.get(1).map_or(normal.clone(), |weight| Array::zip(&[&normal, weight], |x| x[0] * x[1]));
    x.get(2).map_or(weighted.clone(), |bias| Array::zip(&[&weighted, bias], |x| x[0] + x[1]))
}
