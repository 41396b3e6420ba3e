//! Scaled dot-product attention.

use std::sync::Arc;

use everstep_device::cpu::{Attention as Kernel, AttentionBackward as BackwardKernel, WIDEST_HEAD};
use everstep_device::{Command, DType, DeviceKind, Generator, Layout, Shape, Work};

use super::reference::{Array, Domain};
use super::table::{Case, Cases, Entry, FLOAT, Gradient, Tolerance};
use crate::op::{Inferred, Op, Saved, apply, common_float, record_in_f32};
use crate::{Autocast, Error, Result, Tensor};

/// Which keys a query sees, and how scores are scaled.
#[derive(Clone, Debug, Default)]
pub struct AttentionOptions {
    /// Query i sees the keys up to i alone.
    pub causal: bool,
    /// Added to the scores, broadcast to [.., T, S]: 0 for what is seen, negative infinity for what is not.
    pub mask: Option<Tensor>,
    /// Factor on the scores; 1 / sqrt(D) where none is given.
    pub scale: Option<f32>,
}

impl AttentionOptions {
    /// Every query sees every key.
    ///
    /// ```
    /// # use everstep_tensor::{AttentionOptions, Device, Tensor};
    /// let q = Tensor::zeros(&[2, 1], &Device::cpu())?;
    /// let v = Tensor::from_slice(&[1.0f32, 3.0], &[2, 1], &Device::cpu())?;
    /// let y = q.scaled_dot_product_attention(&q, &v, &AttentionOptions::new())?;
    /// assert_eq!(y.to_vec::<f32>()?, [2.0, 2.0]);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn new() -> Self {
        Self::default()
    }

    /// Query i sees the keys up to i alone.
    ///
    /// ```
    /// # use everstep_tensor::{AttentionOptions, Device, Tensor};
    /// let q = Tensor::zeros(&[2, 1], &Device::cpu())?;
    /// let v = Tensor::from_slice(&[1.0f32, 3.0], &[2, 1], &Device::cpu())?;
    /// let y = q.scaled_dot_product_attention(&q, &v, &AttentionOptions::new().causal())?;
    /// assert_eq!(y.to_vec::<f32>()?, [1.0, 2.0]);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    #[must_use]
    pub fn causal(self) -> Self {
        Self { causal: true, ..self }
    }

    /// Adds `mask` to the scores.
    ///
    /// ```
    /// # use everstep_tensor::{AttentionOptions, Device, Tensor};
    /// let q = Tensor::zeros(&[2, 1], &Device::cpu())?;
    /// let v = Tensor::from_slice(&[1.0f32, 3.0], &[2, 1], &Device::cpu())?;
    /// let mask = Tensor::from_slice(&[f32::NEG_INFINITY, 0.0], &[1, 2], &Device::cpu())?;
    /// let y = q.scaled_dot_product_attention(&q, &v, &AttentionOptions::new().mask(&mask))?;
    /// assert_eq!(y.to_vec::<f32>()?, [3.0, 3.0]);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    #[must_use]
    pub fn mask(self, mask: &Tensor) -> Self {
        Self { mask: Some(mask.clone()), ..self }
    }

    /// Scales the scores by `scale` in place of 1 / sqrt(D).
    ///
    /// ```
    /// # use everstep_tensor::{AttentionOptions, Device, Tensor};
    /// let q = Tensor::ones(&[1, 1], &Device::cpu())?;
    /// let v = Tensor::from_slice(&[1.0f32, 3.0], &[2, 1], &Device::cpu())?;
    /// let k = Tensor::from_slice(&[-1.0f32, 1.0], &[2, 1], &Device::cpu())?;
    /// let y = q.scaled_dot_product_attention(&k, &v, &AttentionOptions::new().scale(100.0))?;
    /// assert_eq!(y.to_vec::<f32>()?, [3.0]);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    #[must_use]
    pub fn scale(self, scale: f32) -> Self {
        Self { scale: Some(scale), ..self }
    }
}

/// Where q, k and v come from.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Source {
    /// Three inputs [.., T, D], [.., S, D], [.., S, E]; the result is [.., T, E].
    Apart,
    /// One input [B, T, 3, H, D]; the result is [B, T, H, D].
    Packed,
}

#[derive(Clone, Copy, Debug)]
struct Attention {
    source: Source,
    scale: f32,
    causal: bool,
}

/// From what forward read, its result, its sums and the gradient: those of q, k and v in one tensor, which for packed ones
/// is laid out as they are, else one after the other.
#[derive(Debug)]
struct AttentionBackward {
    forward: Attention,
    inputs: usize,
}

const RULE: &str = "q is [.., T, D], k [.., S, D], v [.., S, E], with equal leading dimensions, at most four";

/// [B, T, 3, H, D] as the three of [B, H, T, D].
fn unpacked(layout: &Layout) -> Result<[Layout; 3]> {
    let part = |index: usize| -> Result<Layout> {
        let part = layout.slice(2, index, index + 1, 1)?.permute(&[0, 3, 1, 4, 2])?;
        matrices(&part, 4)
    };
    Ok([part(0)?, part(1)?, part(2)?])
}

/// The same without its last dimensions beyond `rank`, which have size 1.
fn matrices(layout: &Layout, rank: usize) -> Result<Layout> {
    let shape = Shape::new(&layout.shape()[..rank])?;
    let wrong = Error::Shape { op: "attention", shape, rule: RULE };
    layout.reshape(&shape).ok_or(wrong)
}

impl Attention {
    /// The layouts of q, k, v among the inputs.
    fn operands(&self, inputs: &[&Tensor]) -> Result<[Layout; 3]> {
        match self.source {
            Source::Apart => Ok([*inputs[0].layout(), *inputs[1].layout(), *inputs[2].layout()]),
            Source::Packed => unpacked(inputs[0].layout()),
        }
    }

    /// The dtype of the result.
    fn dtype(&self, inputs: &[&Tensor]) -> DType {
        let operands = if self.source == Source::Packed { 1 } else { 3 };
        common_float(inputs[..operands].iter().map(|input| input.dtype()))
    }

    fn mask<'a>(&self, inputs: &[&'a Tensor]) -> Option<&'a Tensor> {
        inputs.get(if self.source == Source::Packed { 1 } else { 3 }).copied()
    }

    /// The result's layout as matrices [.., T, E] within its buffer.
    fn result(&self, y: &Layout) -> Result<Layout> {
        match self.source {
            Source::Apart => Ok(*y),
            Source::Packed => Ok(y.permute(&[0, 2, 1, 3])?),
        }
    }

    fn kernel(&self, inputs: &[&Tensor], y: &Layout) -> Result<Kernel> {
        let [q, k, v] = self.operands(inputs)?;
        let scores = q.shape().with(q.shape().rank() - 1, k.shape()[k.shape().rank() - 2]);
        let wrong = |mask: &Tensor| Error::Shapes {
            op: "attention",
            left: *mask.shape(),
            right: scores,
            rule: "the mask broadcasts to [.., T, S]",
        };
        let mask =
            self.mask(inputs).map(|mask| mask.layout().broadcast_to(&scores).ok_or_else(|| wrong(mask))).transpose()?;
        Ok(Kernel { q, k, v, mask, y: self.result(y)?, scale: self.scale, causal: self.causal })
    }

    /// The tensors that hold q, k, v, and the mask or q again.
    fn sources<'a>(&self, inputs: &[&'a Tensor]) -> [&'a Tensor; 4] {
        let mask = self.mask(inputs).unwrap_or(inputs[0]);
        match self.source {
            Source::Apart => [inputs[0], inputs[1], inputs[2], mask],
            Source::Packed => [inputs[0], inputs[0], inputs[0], mask],
        }
    }
}

impl Op for Attention {
    fn name(&self) -> &'static str {
        "scaled_dot_product_attention"
    }

    fn takes_halves(&self) -> bool {
        true
    }

    fn autocast(&self) -> Autocast {
        Autocast::Halves
    }

    fn infer(&self, inputs: &[&Tensor]) -> Result<Inferred> {
        if inputs.iter().any(|input| !input.dtype().is_float()) {
            return Err(Error::DTypes { op: self.name(), found: inputs.iter().map(|input| input.dtype()).collect() });
        }
        let [q, k, v] = self.operands(inputs)?;
        let rank = q.shape().rank();
        let wrong = Error::Shapes { op: self.name(), left: *q.shape(), right: *k.shape(), rule: RULE };
        if !(2..=6).contains(&rank) || k.shape().rank() != rank || v.shape().rank() != rank {
            return Err(wrong);
        }
        let (q, k, v) = (q.shape(), k.shape(), v.shape());
        let batches = q[..rank - 2] == k[..rank - 2] && q[..rank - 2] == v[..rank - 2];
        if !batches || q[rank - 1] != k[rank - 1] || k[rank - 2] != v[rank - 2] {
            return Err(wrong);
        }
        let on_gpu = inputs[0].device().info().kind == DeviceKind::Gpu;
        if on_gpu && q[rank - 1].max(v[rank - 1]) > WIDEST_HEAD {
            return Err(Error::Shape { op: self.name(), shape: *q, rule: "heads on a GPU are at most 256 wide" });
        }
        let sums = Shape::new(&[q[..rank - 1].iter().product()])?;
        let y = match self.source {
            Source::Apart => q.with(rank - 1, v[rank - 1]),
            Source::Packed => Shape::new(&[q[0], q[2], q[1], q[3]])?,
        };
        self.kernel(inputs, &Layout::contiguous(y))?;
        Ok(Inferred::New(vec![(y, self.dtype(inputs)), (sums, DType::F32)]))
    }

    fn record(&self, inputs: &[&Tensor], outputs: &[Tensor]) -> Result<()> {
        record_in_f32(self.name(), inputs, outputs, |inputs, outputs| {
            let kernel = self.kernel(inputs, outputs[0].layout())?;
            Ok(outputs[0].device().record(Command {
                op: self.name(),
                work: Work::Kernel(Arc::new(kernel)),
                inputs: self.sources(inputs).map(|tensor| tensor.slice_of_buffer()).to_vec(),
                outputs: outputs.iter().map(Tensor::slice_of_buffer).collect(),
            })?)
        })
    }

    fn vjp(&self, saved: &Saved<'_>, gradient: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let count = saved.inputs.len();
        let mut inputs: Vec<&Tensor> = saved.inputs.iter().collect();
        inputs.extend([&saved.outputs[0], &saved.outputs[1], gradient]);
        let all = apply(AttentionBackward { forward: *self, inputs: count }, &inputs)?;
        let mut parts = vec![None; count];
        if self.source == Source::Packed {
            parts[0] = Some(all);
            return Ok(parts);
        }
        let mut start = 0;
        for (part, input) in parts.iter_mut().zip(saved.inputs).take(3) {
            let end = start + input.count();
            *part = Some(all.slice(0, start..end)?.reshape_to(*input.shape())?);
            start = end;
        }
        Ok(parts)
    }
}

impl AttentionBackward {
    /// Where the gradients of q, k and v lie in the output.
    fn targets(&self, operands: &[Layout; 3], output: &Tensor) -> Result<[Layout; 3]> {
        if self.forward.source == Source::Packed {
            return unpacked(output.layout());
        }
        let mut start = 0;
        let mut next = |operand: &Layout| -> Result<Layout> {
            let end = start + operand.shape().count();
            let part = output.layout().slice(0, start, end, 1)?;
            start = end;
            let wrong = Error::Shape { op: "attention_backward", shape: *operand.shape(), rule: RULE };
            part.reshape(operand.shape()).ok_or(wrong)
        };
        Ok([next(&operands[0])?, next(&operands[1])?, next(&operands[2])?])
    }
}

impl Op for AttentionBackward {
    fn name(&self) -> &'static str {
        "attention_backward"
    }

    fn takes_halves(&self) -> bool {
        true
    }

    fn infer(&self, inputs: &[&Tensor]) -> Result<Inferred> {
        let shape = match self.forward.source {
            Source::Packed => *inputs[0].shape(),
            Source::Apart => Shape::new(&[inputs[..3].iter().map(|input| input.count()).sum()])?,
        };
        Ok(Inferred::one(shape, self.forward.dtype(&inputs[..self.inputs])))
    }

    fn record(&self, inputs: &[&Tensor], outputs: &[Tensor]) -> Result<()> {
        record_in_f32(self.name(), inputs, outputs, |inputs, outputs| self.record_single(inputs, outputs))
    }

    fn vjp(&self, _: &Saved<'_>, _: &Tensor) -> Result<Vec<Option<Tensor>>> {
        Err(Error::NotDifferentiable { op: self.name() })
    }
}

impl AttentionBackward {
    fn record_single(&self, inputs: &[&Tensor], outputs: &[Tensor]) -> Result<()> {
        let (inputs, rest) = inputs.split_at(self.inputs);
        let (y, sums, g) = (rest[0], rest[1], rest[2]);
        let forward = self.forward.kernel(inputs, y.layout())?;
        let [dq, dk, dv] = self.targets(&[forward.q, forward.k, forward.v], &outputs[0])?;
        let kernel = BackwardKernel { g: self.forward.result(g.layout())?, forward, dq, dk, dv };
        let mut slices = self.forward.sources(inputs).map(|tensor| tensor.slice_of_buffer()).to_vec();
        slices.extend([y, sums, g].map(|tensor| tensor.slice_of_buffer()));
        Ok(y.device().record(Command {
            op: self.name(),
            work: Work::Kernel(Arc::new(kernel)),
            inputs: slices,
            outputs: vec![outputs[0].slice_of_buffer()],
        })?)
    }
}

impl Tensor {
    /// softmax(q k^T scale + mask) v (Vaswani et al., 2017), of queries [.., T, D] (this tensor), keys [.., S, D] and values
    /// [.., S, E]: [.., T, E]. The matrix of scores is never in memory as a whole. A query that sees no key gives 0. No
    /// gradient flows to the mask.
    ///
    /// # Errors
    /// [`Error::Shapes`], [`Error::DTypes`]; [`Error::Shape`] for heads wider than 256 on a GPU; gradients of gradients are
    /// [`Error::NotDifferentiable`].
    ///
    /// ```
    /// # use everstep_tensor::{AttentionOptions, Device, Tensor};
    /// let device = Device::cpu();
    /// let q = Tensor::zeros(&[1, 2, 4], &device)?;
    /// let v = Tensor::from_slice(&[1.0f32, 3.0], &[1, 2, 1], &device)?;
    /// let all = q.scaled_dot_product_attention(&q, &v, &AttentionOptions::new())?;
    /// assert_eq!(all.to_vec::<f32>()?, [2.0, 2.0]);
    /// let causal = q.scaled_dot_product_attention(&q, &v, &AttentionOptions::new().causal())?;
    /// assert_eq!(causal.to_vec::<f32>()?, [1.0, 2.0]);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn scaled_dot_product_attention(
        &self,
        keys: &Tensor,
        values: &Tensor,
        options: &AttentionOptions,
    ) -> Result<Tensor> {
        let width = self.shape().last().copied().unwrap_or(1);
        let op = Attention { source: Source::Apart, scale: scale(options, width), causal: options.causal };
        let (inputs, mask) = ([self, keys, values], detached_mask(options, self.rank())?);
        apply(op, &inputs.into_iter().chain(&mask).collect::<Vec<_>>())
    }

    /// Self-attention of heads whose queries, keys and values lie packed: [B, T, 3, H, D] (this tensor, as a projection to
    /// 3 H D columns gives it) to [B, T, H, D]. As [`Tensor::scaled_dot_product_attention`], without a copy on the way there
    /// and back.
    ///
    /// # Errors
    /// As [`Tensor::scaled_dot_product_attention`].
    ///
    /// ```
    /// # use everstep_tensor::{AttentionOptions, Device, Tensor};
    /// let packed = Tensor::ones(&[1, 5, 3, 2, 4], &Device::cpu())?;
    /// let y = packed.self_attention(&AttentionOptions::new().causal())?;
    /// assert_eq!(y.shape()[..], [1, 5, 2, 4]);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn self_attention(&self, options: &AttentionOptions) -> Result<Tensor> {
        if self.rank() != 5 || self.shape()[2] != 3 {
            let rule = "packed queries, keys and values are [B, T, 3, H, D]";
            return Err(Error::Shape { op: "self_attention", shape: *self.shape(), rule });
        }
        let op = Attention { source: Source::Packed, scale: scale(options, self.shape()[4]), causal: options.causal };
        let mask = detached_mask(options, 4)?;
        apply(op, &std::iter::once(self).chain(&mask).collect::<Vec<_>>())
    }
}

fn scale(options: &AttentionOptions, width: usize) -> f32 {
    options.scale.unwrap_or_else(|| 1.0 / (width.max(1) as f32).sqrt())
}

/// The mask with `rank` dimensions and no history.
fn detached_mask(options: &AttentionOptions, rank: usize) -> Result<Option<Tensor>> {
    let Some(mask) = &options.mask else { return Ok(None) };
    let lead = vec![1; rank.saturating_sub(mask.rank())];
    mask.detach().reshape(&[&lead, &mask.shape()[..]].concat()).map(Some)
}

pub(super) const ATTENTION: Entry = Entry {
    name: "scaled_dot_product_attention",
    dtypes: FLOAT,
    gradient: Gradient::First("attention_backward is a kernel of its own, without a gradient yet"),
    tolerance: Tolerance {
        relative: 3e-6,
        absolute: 3e-6,
        why: "averages of values up to 3 by weights that are powers of scores up to some ten, each rounded",
    },
    cases: Cases::Listed(cases),
};

pub(super) const SELF_ATTENTION: Entry =
    Entry { name: "self_attention", cases: Cases::Listed(packed_cases), ..ATTENTION };

/// Leading dimensions, T, S, D, E.
type Sizes<'a> = (&'a [usize], usize, usize, usize, usize);

fn cases(generator: &mut Generator) -> Vec<Case> {
    let sizes: [(Sizes<'_>, bool, bool); 10] = [
        ((&[2], 3, 4, 5, 2), false, false),
        ((&[], 4, 4, 3, 3), true, false),
        ((&[2, 1], 3, 5, 2, 2), true, true),
        ((&[1, 2, 1, 1], 2, 3, 2, 1), false, true),
        ((&[2], 1, 1, 1, 1), false, false),
        ((&[0], 2, 3, 2, 2), false, false),
        ((&[2], 0, 3, 2, 2), false, false),
        ((&[1], 5, 2, 3, 2), true, false),
        ((&[1], 70, 130, 9, 67), false, true),
        ((&[2], 130, 130, 5, 4), true, false),
    ];
    let mut case = |(lead, t, s, d, e): Sizes<'_>, causal: bool, masked: bool| {
        let mut draw = |tail: &[usize]| Array::draw(&[lead, tail].concat(), Domain::between(-2.0, 2.0), generator);
        let inputs = vec![draw(&[t, d]), draw(&[s, d]), draw(&[s, e])];
        let mask = masked.then(|| {
            let values = (0..t * s).map(|at| if at % 3 == 1 { f64::NEG_INFINITY } else { 0.25 * (at % 5) as f64 });
            Array::new(&[t, s], values.collect())
        });
        let label = format!("{lead:?} T {t} S {s} D {d} E {e} causal {causal} masked {masked}");
        let own = mask.clone();
        let apply = move |x: &[Tensor]| {
            let mask = own.as_ref().map(|mask| mask.tensor(x[0].device())).transpose()?;
            x[0].scaled_dot_product_attention(&x[1], &x[2], &AttentionOptions { causal, mask, scale: None })
        };
        Case::new(label, inputs, apply, move |x| reference([&x[0], &x[1], &x[2]], mask.as_ref(), causal))
    };
    sizes.into_iter().map(|(sizes, causal, masked)| case(sizes, causal, masked)).collect()
}

fn packed_cases(generator: &mut Generator) -> Vec<Case> {
    let shapes = [([1, 3, 3, 2, 2], true), ([2, 2, 3, 1, 3], false), ([0, 2, 3, 2, 2], true), ([2, 66, 3, 2, 5], true)];
    let case = |(shape, causal): ([usize; 5], bool)| {
        let input = Array::draw(&shape, Domain::between(-2.0, 2.0), generator);
        let apply = move |x: &[Tensor]| x[0].self_attention(&AttentionOptions { causal, ..Default::default() });
        Case::new(format!("{shape:?} causal {causal}"), vec![input], apply, move |x| {
            let [b, t, _, h, d] = shape;
            let part = |which: usize| Array::from_fn(&[b, h, t, d], |i| x[0].at(&[i[0], i[2], which, i[1], i[3]]));
            reference([&part(0), &part(1), &part(2)], None, causal).permuted(&[0, 2, 1, 3])
        })
    };
    shapes.into_iter().map(case).collect()
}

/// By the formula, one query after the other.
fn reference([q, k, v]: [&Array; 3], mask: Option<&Array>, causal: bool) -> Array {
    let rank = q.shape.len();
    let (lead, t, s, d, e) =
        (&q.shape[..rank - 2], q.shape[rank - 2], k.shape[rank - 2], q.shape[rank - 1], v.shape[rank - 1]);
    let scale = f64::from(1.0 / (d.max(1) as f32).sqrt());
    Array::from_fn(&[lead, &[t, e]].concat(), |index| {
        let (batch, query, column) = (&index[..rank - 2], index[rank - 2], index[rank - 1]);
        let at = |array: &Array, row: usize, column: usize| array.at(&[batch, &[row, column]].concat());
        // The keys it does not see are not there: not even a NaN in them shows.
        let visible = if causal { s.min(query + 1) } else { s };
        let score = |key: usize| {
            let product: f64 = (0..d).map(|c| at(q, query, c) * at(k, key, c)).sum();
            product * scale + mask.map_or(0.0, |mask| mask.at(&[query, key]))
        };
        let scores: Vec<f64> = (0..visible).map(score).collect();
        let larger = |best: f64, &score: &f64| if best.is_nan() || best >= score { best } else { score };
        let largest = scores.iter().fold(f64::NEG_INFINITY, larger);
        if largest == f64::NEG_INFINITY {
            return 0.0;
        }
        let powers: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
        let total: f64 = powers.iter().sum();
        powers.iter().enumerate().map(|(key, power)| power / total * at(v, key, column)).sum()
    })
}
