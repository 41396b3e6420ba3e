//! Adam and AdamW over a range of the arena, gated by the verdict.

use rayon::prelude::*;

use super::sgd::{CHUNK, Penalty, Step};
use super::simd::simd;
use super::tally::{self, Tally};
use crate::gpu_tiles;
use crate::params::params;
use crate::{Args, Dispatch, GpuTraits, Kernel, Shader};

params! {
    /// The uniform of `adam.wgsl`.
    pub struct AdamParams {
        start: u32, count: u32, group: u32, decoupled: u32,
        beta1: f32, beta2: f32, rest1: f32, rest2: f32,
        epsilon: f32, weight_decay: f32, l1: f32, clip_value: f32,
    }
}

/// Adam (Kingma and Ba, 2015): m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g^2;
/// p -= row\[1\] m / (sqrt(v) row\[2\] + epsilon).
///
/// `rest1` and `rest2` are 1 - b1 and 1 - b2, computed in f64: in f32 1 - 0.999 is off by 1e-5 of itself.
/// The group's schedule row is (learning rate, learning rate / (1 - b1^t), 1 / sqrt(1 - b2^t)). Weight decay is added to
/// the gradient (as is the L1 penalty's l1 sign(p)), or, where `decoupled` (AdamW; Loshchilov and Hutter, 2019), p -= learning rate * weight_decay * p first.
/// Inputs: gradients, control block. Outputs: parameters, m, v, the sums of the step. Touches the elements `start..start + count`; nothing
/// where the verdict is not COMMIT.
#[derive(Clone, Debug)]
pub struct Adam(pub AdamParams);

simd! {
    fn update(p: AdamParams, step: Step, gradient: &[f32], value: &mut [f32], first: &mut [f32], second: &mut [f32]) -> [Tally; 3] {
        let count = value.len();
        let (gradient, first, second) = (&gradient[..count], &mut first[..count], &mut second[..count]);
        let coupled = if p.decoupled == 0 { p.weight_decay } else { 0.0 };
        let penalty = Penalty { limit: p.clip_value, l1: p.l1, l2: coupled };
        let decay = if p.decoupled == 0 { 0.0 } else { step.row[0] * p.weight_decay };
        let [mut values, mut firsts, mut seconds] = [Tally::default(); 3];
        for index in 0..count {
            let before = value[index];
            let g = step.gradient(gradient[index], before, penalty);
            let m = p.beta1 * first[index] + p.rest1 * g;
            let v = p.beta2 * second[index] + p.rest2 * (g * g);
            firsts.store(index, &mut first[index], m);
            seconds.store(index, &mut second[index], v);
            let update = step.row[1] * (m / (v.sqrt() * step.row[2] + p.epsilon));
            values.store(index, &mut value[index], before - decay * before - update);
        }
        [values, firsts, seconds]
    }
}

impl Kernel for Adam {
    fn name(&self) -> &'static str {
        "adam"
    }

    fn updates(&self, _: usize) -> bool {
        true
    }

    fn run(&self, args: &mut Args<'_>) {
        let p = self.0;
        let range = p.start as usize..(p.start + p.count) as usize;
        let gradient = &args.input::<f32>(0)[range.clone()];
        let Some(step) = Step::read(args.inputs[1], p.group) else { return };
        let [value, first, second, sums] = &mut args.outputs[..] else { return };
        let value: &mut [f32] = &mut bytemuck::cast_slice_mut(value)[range.clone()];
        let first: &mut [f32] = &mut bytemuck::cast_slice_mut(first)[range.clone()];
        let second: &mut [f32] = &mut bytemuck::cast_slice_mut(second)[range];
        let moments = first.par_chunks_mut(CHUNK).zip(second.par_chunks_mut(CHUNK));
        let state = value.par_chunks_mut(CHUNK).zip(moments);
        let parts = state
            .zip(gradient.par_chunks(CHUNK))
            .map(|((value, (first, second)), gradient)| update(p, step, gradient, value, first, second));
        tally::publish(parts.reduce(Default::default, tally::add), sums);
    }

    fn dispatch(&self, gpu: &GpuTraits) -> Option<Dispatch> {
        let quads = self.0.start.is_multiple_of(4) && self.0.count.is_multiple_of(4);
        let (name, stride) = if quads { ("adam_quads", 4) } else { ("adam", 1) };
        let (times, groups) = gpu_tiles::updates(gpu, self.0.count as usize, stride);
        let shader = Shader::File { name, constants: vec![("TIMES", times)] };
        let workgroups = gpu.grid(groups);
        (self.0.count > 0).then(|| Dispatch { shader, params: self.0.words(), workgroups })
    }
}
