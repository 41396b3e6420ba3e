//! Products with few tiles and a long K on GPUs: K is cut into parts, which are a batch of products, and a second kernel adds
//! them up.

use rayon::prelude::*;

use super::matmul::{Matmul, activate};
use crate::functions::Activation;
use crate::gpu_tiles;
use crate::params::params;
use crate::{Args, Dispatch, GpuTraits, Kernel, Layout, Shader, Shape};

/// A product in parts, in the order in which its kernels run.
#[derive(Clone, Debug)]
pub struct MatmulSplit {
    /// Writes `[count, elements]`: a product for each of the first parts of K, all of one length.
    pub parts: Matmul,
    /// Writes `[elements]`: the product of what is left of K, where something is.
    pub rest: Option<Matmul>,
    /// Adds them up, with bias and activation.
    pub sum: MatmulSum,
}

params! {
    /// The uniform of `matmul_sum.wgsl`.
    pub struct MatmulSumParams {
        elements: u32, columns: u32, count: u32, bias_offset: u32, bias_stride: u32,
    }
}

/// c = activation(the sum of the parts + bias). Inputs: parts `[count, elements]`, rest `[elements]` and bias `[columns]`
/// (anything where there is none); output: c `[elements]`.
#[derive(Clone, Debug)]
pub struct MatmulSum {
    /// Parts of one buffer, at least one.
    pub count: usize,
    /// Whether there is a part more in the second input.
    pub rest: bool,
    /// Elements of C.
    pub elements: usize,
    /// Columns of C.
    pub columns: usize,
    /// Position of the bias's first element and the distance between its elements.
    pub bias: Option<(usize, usize)>,
    /// Applied last.
    pub activation: Activation,
}

/// `count` pieces of `length` of an axis, from `start` on, as one more dimension in front of all others; `None` where there are
/// too many already.
fn pieces(layout: &Layout, axis: usize, start: usize, (count, length): (usize, usize)) -> Option<Layout> {
    let cut = layout.slice(axis, start, start + count * length, 1).ok()?;
    let mut dims = cut.shape().to_vec();
    dims[axis] = length;
    dims.insert(axis, count);
    let cut = cut.reshape(&Shape::new(&dims).ok()?)?;
    let others = (0..dims.len()).filter(|&other| other != axis);
    cut.permute(&std::iter::once(axis).chain(others).collect::<Vec<_>>()).ok()
}

impl Matmul {
    /// The same product in parts, where a GPU would otherwise have too little to do; how many follows from the sizes alone.
    pub fn split(&self, gpu: &GpuTraits) -> Option<MatmulSplit> {
        let (m, n, k) = self.sizes();
        let rank = self.a.shape().rank();
        let batches: usize = self.a.shape()[..rank - 2].iter().product();
        let (count, length) = gpu_tiles::split(gpu, (m, n, k), batches)?;
        let product = |start: usize, size: (usize, usize)| {
            let (a, b) = (pieces(&self.a, rank - 1, start, size)?, pieces(&self.b, rank - 2, start, size)?);
            Some(Matmul { a, b, bias: None, activation: Activation::None })
        };
        let left = k - count * length;
        let rest = if left > 0 { Some(product(count * length, (1, left))?) } else { None };
        let sum = MatmulSum {
            count,
            rest: rest.is_some(),
            elements: m * n * batches,
            columns: n,
            bias: self.bias,
            activation: self.activation,
        };
        Some(MatmulSplit { parts: product(0, (count, length))?, rest, sum })
    }
}

impl Kernel for MatmulSum {
    fn name(&self) -> &'static str {
        "matmul_sum"
    }

    fn check(&self, inputs: &[usize], outputs: &[usize]) -> Result<(), &'static str> {
        let (&[parts, rest, bias], &[c]) = (inputs, outputs) else {
            return Err("matmul_sum has three inputs and one output");
        };
        let bias_end = self.bias.map_or(0, |(offset, stride)| offset + self.columns.saturating_sub(1) * stride + 1);
        let rest_end = if self.rest { self.elements } else { 0 };
        let sound = self.count > 0 && (self.elements == 0 || self.columns > 0);
        let inside = self.count * self.elements <= parts && rest_end <= rest && bias_end <= bias && self.elements <= c;
        if sound && inside { Ok(()) } else { Err("an operand of matmul_sum leaves its slice") }
    }

    fn run(&self, args: &mut Args<'_>) {
        let (parts, rest, bias) = (args.input::<f32>(0), args.input::<f32>(1), args.input::<f32>(2));
        let c = &mut args.output::<f32>(0)[..self.elements];
        c.par_chunks_mut(self.columns.max(1)).enumerate().for_each(|(row, c)| {
            let start = row * self.columns;
            for (column, c) in c.iter_mut().enumerate() {
                let part = |number: usize| parts[number * self.elements + start + column];
                let mut sum = (1..self.count).fold(part(0), |sum, number| sum + part(number));
                if self.rest {
                    sum += rest[start + column];
                }
                *c = self.bias.map_or(sum, |(offset, stride)| sum + bias[offset + column * stride]);
            }
            activate(self.activation, c);
        });
    }

    fn dispatch(&self, gpu: &GpuTraits) -> Option<Dispatch> {
        let (bias_offset, bias_stride) = self.bias.unwrap_or((0, 0));
        let params = MatmulSumParams {
            elements: self.elements as u32,
            columns: self.columns as u32,
            count: self.count as u32,
            bias_offset: bias_offset as u32,
            bias_stride: bias_stride as u32,
        };
        let flags = [("REST", self.rest), ("BIAS", self.bias.is_some())];
        let mut constants: Vec<_> = flags.into_iter().map(|(name, set)| (name, u32::from(set))).collect();
        constants.push(("ACTIVATION", self.activation as u32));
        let shader = Shader::File { name: "matmul_sum", constants };
        let workgroups = gpu.grid(self.elements.div_ceil(64));
        (self.elements > 0).then(|| Dispatch { shader, params: params.words(), workgroups })
    }
}
