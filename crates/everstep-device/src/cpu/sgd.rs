//! Stochastic gradient descent over a range of the arena, gated by the verdict.

use rayon::prelude::*;

use super::simd::simd;
use super::tally::{self, Tally};
use crate::control::{self, Verdict};
use crate::gpu_tiles;
use crate::params::params;
use crate::{Args, Dispatch, GpuTraits, Kernel, Shader};

params! {
    /// The uniform of `sgd.wgsl`.
    pub struct SgdParams {
        start: u32, count: u32, group: u32, momentum: f32, weight_decay: f32, nesterov: u32,
        l1: f32, clip_value: f32,
    }
}

/// PyTorch's SGD: g += weight_decay p + l1 sign(p); b = momentum b + row\[1\] g; p -= row\[0\] (nesterov: g + momentum b, else b).
///
/// The group's schedule row is (learning rate, 1 - dampening). Inputs: gradients, control block. Outputs: parameters,
/// momentum buffer, the sums of the step ([`control::SUMS`]). Touches the elements `start..start + count`; nothing where
/// the verdict is not COMMIT.
#[derive(Clone, Debug)]
pub struct Sgd(pub SgdParams);

/// Elements a thread takes at a time.
pub(super) const CHUNK: usize = 16 * 1024;

/// What is done to a gradient before an update.
#[derive(Clone, Copy)]
pub(super) struct Penalty {
    /// Its largest magnitude.
    pub(super) limit: f32,
    /// Factor of sign(p).
    pub(super) l1: f32,
    /// Factor of p.
    pub(super) l2: f32,
}

/// Factors of one step, read from the control block.
#[derive(Clone, Copy)]
pub(super) struct Step {
    pub(super) clip: f32,
    pub(super) row: [f32; control::ROW_WORDS],
}

impl Step {
    /// `None` where the step is refused.
    pub(super) fn read(control: &[u32], group: u32) -> Option<Self> {
        let at = control::CURRENT + group as usize * control::ROW_WORDS;
        let row = std::array::from_fn(|index| f32::from_bits(control[at + index]));
        let commit = control[control::VERDICT] == Verdict::Commit as u32;
        commit.then(|| Self { clip: f32::from_bits(control[control::CLIP]), row })
    }

    /// The gradient that an update works with: scaled by the clipping of the norm, then limited by value, then with the
    /// gradients of the penalties. Only finite gradients come here; the twin is `shared/penalty.wgsl`.
    #[inline(always)]
    pub(super) fn gradient(self, gradient: f32, before: f32, penalty: Penalty) -> f32 {
        let Penalty { limit, l1, l2 } = penalty;
        let scaled = gradient * self.clip;
        let limited = if scaled < -limit { -limit } else { scaled };
        let limited = if limited > limit { limit } else { limited };
        let below = if before < 0.0 { -1.0 } else { 0.0 };
        let sign = if before > 0.0 { 1.0 } else { below };
        limited + l1 * sign + l2 * before
    }
}

simd! {
    fn update(p: SgdParams, step: Step, gradient: &[f32], value: &mut [f32], buffer: &mut [f32]) -> [Tally; 2] {
        let count = value.len();
        let (gradient, buffer) = (&gradient[..count], &mut buffer[..count]);
        let penalty = Penalty { limit: p.clip_value, l1: p.l1, l2: p.weight_decay };
        let [mut values, mut buffers] = [Tally::default(); 2];
        for index in 0..count {
            let before = value[index];
            let g = step.gradient(gradient[index], before, penalty);
            let moving = p.momentum * buffer[index] + step.row[1] * g;
            buffers.store(index, &mut buffer[index], moving);
            let direction = if p.nesterov != 0 { g + p.momentum * moving } else { moving };
            values.store(index, &mut value[index], before - step.row[0] * direction);
        }
        [values, buffers]
    }
}

impl Kernel for Sgd {
    fn name(&self) -> &'static str {
        "sgd"
    }

    fn updates(&self, _: usize) -> bool {
        true
    }

    fn run(&self, args: &mut Args<'_>) {
        let p = self.0;
        let range = p.start as usize..(p.start + p.count) as usize;
        let gradient = &args.input::<f32>(0)[range.clone()];
        let Some(step) = Step::read(args.inputs[1], p.group) else { return };
        let [value, buffer, sums] = &mut args.outputs[..] else { return };
        let value: &mut [f32] = &mut bytemuck::cast_slice_mut(value)[range.clone()];
        let buffer: &mut [f32] = &mut bytemuck::cast_slice_mut(buffer)[range];
        let state = value.par_chunks_mut(CHUNK).zip(buffer.par_chunks_mut(CHUNK));
        let parts = state.zip(gradient.par_chunks(CHUNK)).map(|((value, buffer), g)| update(p, step, g, value, buffer));
        tally::publish(parts.reduce(Default::default, tally::add), sums);
    }

    fn dispatch(&self, gpu: &GpuTraits) -> Option<Dispatch> {
        let (times, groups) = gpu_tiles::updates(gpu, self.0.count as usize, 1);
        let shader = Shader::File { name: "sgd", constants: vec![("TIMES", times)] };
        let workgroups = gpu.grid(groups);
        (self.0.count > 0).then(|| Dispatch { shader, params: self.0.words(), workgroups })
    }
}
