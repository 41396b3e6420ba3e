//! Softmax and negative log-likelihood of a class per row, fused, and its gradient.

use rayon::prelude::*;

use super::math;
use super::scratch;
use super::softmax::scale;
use crate::params::params;
use crate::status::{self, Code};
use crate::{Args, Dispatch, GpuTraits, Kernel, Shader};

params! {
    /// The uniform of `cross_entropy.wgsl`.
    pub struct CrossEntropyParams { rows: u32, classes: u32, label_offset: u32, label_stride: u32, code: u32 }
}

params! {
    /// The uniform of `cross_entropy_backward.wgsl`.
    pub struct CrossEntropyBackwardParams {
        rows: u32, classes: u32, label_offset: u32, label_stride: u32, gradient_offset: u32, gradient_stride: u32,
    }
}

/// Rows a thread takes at a time.
const ROWS: usize = 64;

/// Per row: loss = log sum e^x - `x[label]`, and what of it the gradient uses again.
///
/// Inputs: logits `[rows, classes]` contiguous, labels u32 `[rows]`. Outputs: loss `[rows]`; per row the largest logit and
/// sum e^(x - largest) `[rows, 2]`, apart because their log-sum-exp is rounded to the size of the logits; the device's
/// status, which learns of a label outside 0..classes. Such a row is NaN, so no gate lets its step pass.
#[derive(Clone, Debug)]
pub struct CrossEntropy(pub CrossEntropyParams);

impl Kernel for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross_entropy"
    }

    fn run(&self, args: &mut Args<'_>) {
        let (rows, classes) = (self.0.rows as usize, self.0.classes as usize);
        let (logits, labels) = (args.input::<f32>(0), args.input::<u32>(1));
        let label = |row: usize| labels[self.0.label_offset as usize + row * self.0.label_stride as usize];
        let [loss, sums, report] = &mut args.outputs[..] else { return };
        let loss: &mut [f32] = &mut bytemuck::cast_slice_mut(loss)[..rows];
        let sums: &mut [f32] = &mut bytemuck::cast_slice_mut(sums)[..2 * rows];
        if let Some(worst) = (0..rows).map(label).filter(|&label| label >= self.0.classes).max() {
            status::report(report, Code::CrossEntropy, worst, self.0.classes);
        }
        let outputs = loss.par_iter_mut().zip(sums.par_chunks_exact_mut(2)).with_min_len(ROWS);
        outputs.zip(logits.par_chunks(classes.max(1))).enumerate().for_each_init(
            || scratch::take(classes),
            |scratch, (row, ((loss, sums), logits))| {
                let largest = math::max(logits);
                let total = math::exp_sum(logits, largest, scratch);
                (*loss, sums[0], sums[1]) = match logits.get(label(row) as usize) {
                    Some(logit) => (math::log_f32(total) + (largest - logit), largest, total),
                    None => (f32::NAN, f32::NAN, f32::NAN),
                };
            },
        );
    }

    fn dispatch(&self, gpu: &GpuTraits) -> Option<Dispatch> {
        let params = CrossEntropyParams { code: Code::CrossEntropy as u32, ..self.0 };
        let shader = Shader::File { name: "cross_entropy", constants: vec![] };
        let workgroups = gpu.grid((self.0.rows as usize).div_ceil(64));
        (self.0.rows > 0).then(|| Dispatch { shader, params: params.words(), workgroups })
    }
}

/// d logits = (softmax(logits) - one-hot(label)) times the row's gradient.
///
/// Inputs: logits `[rows, classes]` contiguous, labels u32 `[rows]`, the largest logit and the sum of [`CrossEntropy`]
/// `[rows, 2]`, gradient `[rows]` (stride 0 where all rows have the same). Output: `[rows, classes]`.
#[derive(Clone, Debug)]
pub struct CrossEntropyBackward(pub CrossEntropyBackwardParams);

impl Kernel for CrossEntropyBackward {
    fn name(&self) -> &'static str {
        "cross_entropy_backward"
    }

    fn run(&self, args: &mut Args<'_>) {
        let p = self.0;
        let (rows, classes) = (p.rows as usize, p.classes as usize);
        let (logits, labels) = (args.input::<f32>(0), args.input::<u32>(1));
        let (sums, gradient) = (args.input::<f32>(2), args.input::<f32>(3));
        let out = &mut args.output::<f32>(0)[..rows * classes];
        let rows = out.par_chunks_mut(classes.max(1)).with_min_len(ROWS).zip(logits.par_chunks(classes.max(1)));
        rows.enumerate().for_each(|(row, (out, logits))| {
            let label = labels[p.label_offset as usize + row * p.label_stride as usize] as usize;
            math::exp_sum(logits, sums[2 * row], out);
            scale(out, 1.0 / sums[2 * row + 1]);
            out[label.min(classes - 1)] -= 1.0;
            scale(out, gradient[p.gradient_offset as usize + row * p.gradient_stride as usize]);
        });
    }

    fn dispatch(&self, gpu: &GpuTraits) -> Option<Dispatch> {
        let shader = Shader::File { name: "cross_entropy_backward", constants: vec![] };
        let elements = self.0.rows as usize * self.0.classes as usize;
        let workgroups = gpu.grid(elements.div_ceil(256));
        (elements > 0).then(|| Dispatch { shader, params: self.0.words(), workgroups })
    }
}
