//! Softmax over the last dimension, and its gradient.

use rayon::prelude::*;

use super::math;
use super::simd::simd;
use crate::gpu_tiles;
use crate::params::params;
use crate::{Args, Dispatch, GpuTraits, Kernel, Shader};

params! {
    /// The uniform of `softmax.wgsl` and `softmax_backward.wgsl`.
    pub struct SoftmaxParams { rows: u32, columns: u32 }
}

/// Rows a thread takes at a time.
const ROWS: usize = 16;

simd! {
    /// y *= factor
    pub(super) fn scale(values: &mut [f32], factor: f32) {
        for value in values {
            *value *= factor;
        }
    }
}

simd! {
    /// d = y (g - shift)
    fn weighted_difference(y: &[f32], gradient: &[f32], shift: f32, destination: &mut [f32]) {
        for ((d, y), g) in destination.iter_mut().zip(y).zip(gradient) {
            *d = *y * (*g - shift);
        }
    }
}

/// y = e^(x - max x) / sum e^(x - max x) per row. Input x, output y: [rows, columns], contiguous.
#[derive(Clone, Debug)]
pub struct Softmax(pub SoftmaxParams);

impl Kernel for Softmax {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn run(&self, args: &mut Args<'_>) {
        let (rows, columns) = (self.0.rows as usize, self.0.columns as usize);
        let x = args.input::<f32>(0);
        let y = &mut args.output::<f32>(0)[..rows * columns];
        y.par_chunks_mut(columns.max(1)).with_min_len(ROWS).zip(x.par_chunks(columns.max(1))).for_each(|(y, x)| {
            let total = math::exp_sum(x, math::max(x), y);
            scale(y, 1.0 / total);
        });
    }

    fn dispatch(&self, gpu: &GpuTraits) -> Option<Dispatch> {
        row_dispatch("softmax", &self.0, gpu)
    }
}

/// dx = y (g - sum g y) per row. Inputs y and g, output dx: [rows, columns], contiguous.
#[derive(Clone, Debug)]
pub struct SoftmaxBackward(pub SoftmaxParams);

impl Kernel for SoftmaxBackward {
    fn name(&self) -> &'static str {
        "softmax_backward"
    }

    fn run(&self, args: &mut Args<'_>) {
        let (rows, columns) = (self.0.rows as usize, self.0.columns as usize);
        let (y, gradient) = (args.input::<f32>(0), args.input::<f32>(1));
        let out = &mut args.output::<f32>(0)[..rows * columns];
        let columns = columns.max(1);
        let parts = y.par_chunks(columns).zip(gradient.par_chunks(columns));
        out.par_chunks_mut(columns).with_min_len(ROWS).zip(parts).for_each(|(out, (y, gradient))| {
            weighted_difference(y, gradient, math::dot(y, gradient), out);
        });
    }

    fn dispatch(&self, gpu: &GpuTraits) -> Option<Dispatch> {
        row_dispatch("softmax_backward", &self.0, gpu)
    }
}

/// One or more threads per row.
pub(super) fn row_dispatch(name: &'static str, params: &SoftmaxParams, gpu: &GpuTraits) -> Option<Dispatch> {
    let (threads, groups) = gpu_tiles::rows(gpu, params.rows as usize, params.columns as usize);
    let shader = Shader::File { name, constants: vec![("LANES", threads)] };
    let workgroups = gpu.grid(groups);
    (params.rows > 0 && params.columns > 0).then(|| Dispatch { shader, params: params.words(), workgroups })
}
