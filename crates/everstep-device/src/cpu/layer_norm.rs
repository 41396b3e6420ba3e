//! Normalisation of rows: layer norm, and without the mean root-mean-square norm; and their gradients.

use rayon::prelude::*;

use super::math;
use super::scratch;
use super::simd::simd;
use crate::gpu_tiles;
use crate::params::params;
use crate::{Args, Dispatch, GpuTraits, Kernel, Shader};

params! {
    /// The uniform of the `layer_norm` shaders.
    pub struct LayerNormParams { rows: u32, columns: u32, epsilon: f32 }
}

/// Rows a thread takes at a time.
const ROWS: usize = 16;
/// Rows whose part of the weight's gradient is one partial sum.
pub const WEIGHT_ROWS: usize = 64;

simd! {
    fn subtract(x: &[f32], shift: f32, destination: &mut [f32]) {
        for (d, x) in destination.iter_mut().zip(x) {
            *d = *x - shift;
        }
    }
}

simd! {
    /// y = y factor weight + bias
    fn affine(y: &mut [f32], factor: f32, weight: &[f32], bias: &[f32]) {
        for ((y, w), b) in y.iter_mut().zip(weight).zip(bias) {
            *y = *y * factor * *w + *b;
        }
    }
}

simd! {
    fn scale_by(y: &mut [f32], factor: f32, weight: &[f32]) {
        for (y, w) in y.iter_mut().zip(weight) {
            *y = *y * factor * *w;
        }
    }
}

simd! {
    /// out = a b
    fn product(a: &[f32], b: &[f32], out: &mut [f32]) {
        for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
            *out = *a * *b;
        }
    }
}

simd! {
    /// out = rstd (out - mean - normal slope)
    fn join(out: &mut [f32], normal: &[f32], rstd: f32, mean: f32, slope: f32) {
        for (out, normal) in out.iter_mut().zip(normal) {
            *out = rstd * (*out - mean - *normal * slope);
        }
    }
}

simd! {
    /// Adds one row to the gradients of weight and bias.
    fn accumulate(x: &[f32], gradient: &[f32], mean: f32, rstd: f32, weight: &mut [f32], bias: &mut [f32]) {
        for (((w, b), x), g) in weight.iter_mut().zip(bias).zip(x).zip(gradient) {
            *w += (*x - mean) * rstd * *g;
            *b += *g;
        }
    }
}

/// y = (x - mean) / sqrt(variance + epsilon) weight + bias per row (Ba, Kiros and Hinton, 2016); where not `centred`, y = x /
/// sqrt(mean x^2 + epsilon) weight (Zhang and Sennrich, 2019).
///
/// Inputs: x `[rows, columns]`, weight and bias `[columns]` (x again where there is none), contiguous. Outputs: y like x; mean
/// and 1 / sqrt(..) of each row `[rows, 2]`.
#[derive(Clone, Debug)]
pub struct LayerNorm {
    /// Sizes.
    pub params: LayerNormParams,
    /// Whether the mean is taken off.
    pub centred: bool,
    /// Whether there is a weight.
    pub weight: bool,
    /// Whether there is a bias.
    pub bias: bool,
}

impl LayerNorm {
    fn constants(&self) -> Vec<(&'static str, u32)> {
        let flags = [("CENTRED", self.centred), ("WEIGHT", self.weight), ("BIAS", self.bias)];
        flags.map(|(name, flag)| (name, u32::from(flag))).to_vec()
    }

    /// One row; (mean, 1 / deviation).
    fn row(&self, x: &[f32], weight: &[f32], bias: &[f32], y: &mut [f32]) -> (f32, f32) {
        let count = x.len() as f32;
        let mean = if self.centred { math::sum(x) / count } else { 0.0 };
        subtract(x, mean, y);
        let rstd = 1.0 / (math::sum_squares(y) / count + self.params.epsilon).sqrt();
        match (self.weight, self.bias) {
            (false, false) => super::softmax::scale(y, rstd),
            (true, false) => scale_by(y, rstd, weight),
            _ => affine(y, rstd, weight, bias),
        }
        (mean, rstd)
    }
}

impl Kernel for LayerNorm {
    fn name(&self) -> &'static str {
        "layer_norm"
    }

    fn check(&self, inputs: &[usize], outputs: &[usize]) -> Result<(), &'static str> {
        let (rows, columns) = (self.params.rows as usize, self.params.columns as usize);
        let (&[x, weight, bias], &[y, statistics]) = (inputs, outputs) else {
            return Err("layer_norm has three inputs and two outputs");
        };
        let affine = columns <= weight && columns <= bias;
        let inside = rows * columns <= x && rows * columns <= y && 2 * rows <= statistics && (affine || rows == 0);
        if inside { Ok(()) } else { Err("an operand of layer_norm leaves its slice") }
    }

    fn run(&self, args: &mut Args<'_>) {
        let (rows, columns) = (self.params.rows as usize, self.params.columns as usize);
        let x = &args.input::<f32>(0)[..rows * columns];
        let ones = scratch::filled(std::iter::repeat_n(1.0f32, if self.weight { 0 } else { columns }));
        let weight = if self.weight { &args.input::<f32>(1)[..columns] } else { &ones };
        let zeros = scratch::zeroed(if self.bias { 0 } else { columns });
        let bias = if self.bias { &args.input::<f32>(2)[..columns] } else { &zeros };
        let [y, statistics] = &mut args.outputs[..] else { return };
        let y: &mut [f32] = &mut bytemuck::cast_slice_mut(y)[..rows * columns];
        let statistics: &mut [f32] = &mut bytemuck::cast_slice_mut(statistics)[..2 * rows];
        let columns = columns.max(1);
        let outputs = y.par_chunks_mut(columns).with_min_len(ROWS).zip(statistics.par_chunks_exact_mut(2));
        outputs.zip(x.par_chunks(columns)).for_each(|((y, statistics), x)| {
            (statistics[0], statistics[1]) = self.row(x, weight, bias, y);
        });
    }

    fn dispatch(&self, gpu: &GpuTraits) -> Option<Dispatch> {
        let p = self.params;
        let (threads, groups) = gpu_tiles::rows(gpu, p.rows as usize, p.columns as usize);
        let mut constants = self.constants();
        constants.push(("LANES", threads));
        let shader = Shader::File { name: "layer_norm", constants };
        let workgroups = gpu.grid(groups);
        (p.rows > 0 && p.columns > 0).then(|| Dispatch { shader, params: p.words(), workgroups })
    }
}

/// dx = rstd (g w - mean(g w) - n mean(g w n)) per row, with n = (x - mean) rstd; the first mean only where `centred`.
///
/// Inputs: x, weight, the statistics of [`LayerNorm`], gradient; output like x.
#[derive(Clone, Debug)]
pub struct LayerNormBackward {
    /// Sizes.
    pub params: LayerNormParams,
    /// Whether the mean was taken off.
    pub centred: bool,
    /// Whether there is a weight.
    pub weight: bool,
}

impl Kernel for LayerNormBackward {
    fn name(&self) -> &'static str {
        "layer_norm_backward"
    }

    fn check(&self, inputs: &[usize], outputs: &[usize]) -> Result<(), &'static str> {
        let (rows, columns) = (self.params.rows as usize, self.params.columns as usize);
        let (&[x, weight, statistics, gradient], &[dx]) = (inputs, outputs) else {
            return Err("layer_norm_backward has four inputs and one output");
        };
        let whole = [x, gradient, dx].iter().all(|&words| rows * columns <= words);
        let inside = whole && 2 * rows <= statistics && (columns <= weight || rows == 0);
        if inside { Ok(()) } else { Err("an operand of layer_norm_backward leaves its slice") }
    }

    fn run(&self, args: &mut Args<'_>) {
        let (rows, columns) = (self.params.rows as usize, self.params.columns as usize);
        let (x, gradient) = (&args.input::<f32>(0)[..rows * columns], &args.input::<f32>(3)[..rows * columns]);
        let (weight, statistics) = (args.input::<f32>(1), args.input::<f32>(2));
        let dx = &mut args.output::<f32>(0)[..rows * columns];
        let columns = columns.max(1);
        let inputs = x.par_chunks(columns).zip(gradient.par_chunks(columns)).zip(statistics.par_chunks_exact(2));
        dx.par_chunks_mut(columns).with_min_len(ROWS).zip(inputs).for_each_init(
            || scratch::take(columns),
            |normal, (dx, ((x, gradient), statistics))| {
                let (mean, rstd) = (statistics[0], statistics[1]);
                subtract(x, mean, normal);
                super::softmax::scale(normal, rstd);
                match self.weight {
                    true => product(gradient, &weight[..columns], dx),
                    false => dx.copy_from_slice(gradient),
                }
                let average = if self.centred { math::sum(dx) / columns as f32 } else { 0.0 };
                let slope = math::dot(dx, normal) / columns as f32;
                join(dx, normal, rstd, average, slope);
            },
        );
    }

    fn dispatch(&self, gpu: &GpuTraits) -> Option<Dispatch> {
        let p = self.params;
        let (threads, groups) = gpu_tiles::rows(gpu, p.rows as usize, p.columns as usize);
        let centred = ("CENTRED", u32::from(self.centred));
        let constants = vec![("LANES", threads), centred, ("WEIGHT", u32::from(self.weight))];
        let shader = Shader::File { name: "layer_norm_backward", constants };
        let workgroups = gpu.grid(groups);
        (p.rows > 0 && p.columns > 0).then(|| Dispatch { shader, params: p.words(), workgroups })
    }
}

/// The gradients of weight and bias, g n and g summed over blocks of [`WEIGHT_ROWS`] rows.
///
/// Inputs: x, the statistics of [`LayerNorm`], gradient; output `[blocks, 2, columns]`.
#[derive(Clone, Debug)]
pub struct LayerNormBackwardWeight(pub LayerNormParams);

impl Kernel for LayerNormBackwardWeight {
    fn name(&self) -> &'static str {
        "layer_norm_backward_weight"
    }

    fn check(&self, inputs: &[usize], outputs: &[usize]) -> Result<(), &'static str> {
        let (rows, columns) = (self.0.rows as usize, self.0.columns as usize);
        let (&[x, statistics, gradient], &[partials]) = (inputs, outputs) else {
            return Err("layer_norm_backward_weight has three inputs and one output");
        };
        let whole = rows * columns <= x && rows * columns <= gradient && 2 * rows <= statistics;
        let inside = whole && rows.div_ceil(WEIGHT_ROWS) * 2 * columns <= partials;
        if inside { Ok(()) } else { Err("an operand of layer_norm_backward_weight leaves its slice") }
    }

    fn run(&self, args: &mut Args<'_>) {
        let (rows, columns) = (self.0.rows as usize, self.0.columns as usize);
        let (x, statistics, gradient) = (args.input::<f32>(0), args.input::<f32>(1), args.input::<f32>(2));
        let blocks = rows.div_ceil(WEIGHT_ROWS);
        let partials = &mut args.output::<f32>(0)[..blocks * 2 * columns];
        partials.par_chunks_mut(2 * columns.max(1)).enumerate().for_each(|(block, partial)| {
            partial.fill(0.0);
            let (weight, bias) = partial.split_at_mut(columns);
            for row in block * WEIGHT_ROWS..((block + 1) * WEIGHT_ROWS).min(rows) {
                let at = row * columns..(row + 1) * columns;
                let (mean, rstd) = (statistics[2 * row], statistics[2 * row + 1]);
                accumulate(&x[at.clone()], &gradient[at], mean, rstd, weight, bias);
            }
        });
    }

    fn dispatch(&self, gpu: &GpuTraits) -> Option<Dispatch> {
        let shader = Shader::File { name: "layer_norm_backward_weight", constants: vec![] };
        let elements = (self.0.rows as usize).div_ceil(WEIGHT_ROWS) * self.0.columns as usize;
        let workgroups = gpu.grid(elements.div_ceil(64));
        (elements > 0).then(|| Dispatch { shader, params: self.0.words(), workgroups })
    }
}
