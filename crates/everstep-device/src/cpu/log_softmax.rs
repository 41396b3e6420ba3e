//! The logarithm of softmax over the last dimension, and its gradient.

use rayon::prelude::*;

use super::math;
use super::simd::simd;
use super::softmax::{SoftmaxParams, row_dispatch};
use crate::{Args, Dispatch, GpuTraits, Kernel};

/// Rows a thread takes at a time.
const ROWS: usize = 16;

simd! {
    /// y = (x - largest) - total
    fn shifted(x: &[f32], largest: f32, total: f32, y: &mut [f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = (*x - largest) - total;
        }
    }
}

simd! {
    /// dx = g - e^y total
    fn difference(y: &[f32], gradient: &[f32], total: f32, dx: &mut [f32]) {
        for ((dx, y), g) in dx.iter_mut().zip(y).zip(gradient) {
            *dx = *g - math::exp_f32(*y) * total;
        }
    }
}

/// y = x - max x - log sum e^(x - max x) per row. Input x, output y: `[rows, columns]`, contiguous.
#[derive(Clone, Debug)]
pub struct LogSoftmax(pub SoftmaxParams);

impl Kernel for LogSoftmax {
    fn name(&self) -> &'static str {
        "log_softmax"
    }

    fn run(&self, args: &mut Args<'_>) {
        let (rows, columns) = (self.0.rows as usize, self.0.columns as usize);
        let x = args.input::<f32>(0);
        let y = &mut args.output::<f32>(0)[..rows * columns];
        let columns = columns.max(1);
        y.par_chunks_mut(columns).with_min_len(ROWS).zip(x.par_chunks(columns)).for_each(|(y, x)| {
            let largest = math::max(x);
            let total = math::exp_sum(x, largest, y);
            shifted(x, largest, math::log_f32(total), y);
        });
    }

    fn dispatch(&self, gpu: &GpuTraits) -> Option<Dispatch> {
        row_dispatch("log_softmax", &self.0, gpu)
    }
}

/// dx = g - e^y sum g per row. Inputs y and g, output dx: `[rows, columns]`, contiguous.
#[derive(Clone, Debug)]
pub struct LogSoftmaxBackward(pub SoftmaxParams);

impl Kernel for LogSoftmaxBackward {
    fn name(&self) -> &'static str {
        "log_softmax_backward"
    }

    fn run(&self, args: &mut Args<'_>) {
        let (rows, columns) = (self.0.rows as usize, self.0.columns as usize);
        let (y, gradient) = (args.input::<f32>(0), args.input::<f32>(1));
        let dx = &mut args.output::<f32>(0)[..rows * columns];
        let columns = columns.max(1);
        let parts = y.par_chunks(columns).zip(gradient.par_chunks(columns));
        dx.par_chunks_mut(columns).with_min_len(ROWS).zip(parts).for_each(|(dx, (y, gradient))| {
            difference(y, gradient, math::sum(gradient), dx);
        });
    }

    fn dispatch(&self, gpu: &GpuTraits) -> Option<Dispatch> {
        row_dispatch("log_softmax_backward", &self.0, gpu)
    }
}
