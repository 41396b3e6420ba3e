//! RMSprop over a range of the arena, gated by the verdict.

use rayon::prelude::*;

use super::sgd::{CHUNK, Penalty, Step};
use super::simd::simd;
use super::tally::{self, Tally};
use crate::gpu_tiles;
use crate::params::params;
use crate::{Args, Dispatch, GpuTraits, Kernel, Shader};

params! {
    /// The uniform of `rmsprop.wgsl`.
    pub struct RmspropParams {
        start: u32, count: u32, group: u32, centered: u32,
        alpha: f32, rest: f32, epsilon: f32, momentum: f32,
        weight_decay: f32, l1: f32, clip_value: f32,
    }
}

/// RMSprop (Hinton, 2012), as PyTorch's: s = alpha s + (1 - alpha) g^2; d = g / (sqrt(s) + epsilon); p -= row\[0\] d.
///
/// Where `centered`, s - a^2 takes the place of s, with the running mean a of the gradient (Graves, 2013); rounding below
/// zero counts as zero. With momentum b = momentum b + d takes the place of d. `rest` is 1 - alpha, computed in f64.
/// Inputs: gradients, control block. Outputs: parameters, s, a, b, the sums of the step; a and b are touched only where they are used. Touches
/// the elements `start..start + count`; nothing where the verdict is not COMMIT.
#[derive(Clone, Debug)]
pub struct Rmsprop(pub RmspropParams);

/// One loop per combination of what is used, so that none of them loads and stores a state for nothing.
#[inline(always)]
fn loop_of<const CENTERED: bool, const MOMENTUM: bool>(
    p: RmspropParams,
    step: Step,
    gradient: &[f32],
    state: [&mut [f32]; 4],
) -> [Tally; 4] {
    let penalty = Penalty { limit: p.clip_value, l1: p.l1, l2: p.weight_decay };
    let [value, square, average, buffer] = state;
    let count = value.len();
    let (gradient, square) = (&gradient[..count], &mut square[..count]);
    let (average, buffer) = (&mut average[..count], &mut buffer[..count]);
    let [mut values, mut squares, mut averages, mut buffers] = [Tally::default(); 4];
    for index in 0..count {
        let before = value[index];
        let g = step.gradient(gradient[index], before, penalty);
        let squared = p.alpha * square[index] + p.rest * (g * g);
        squares.store(index, &mut square[index], squared);
        let variance = if CENTERED {
            let mean = p.alpha * average[index] + p.rest * g;
            averages.store(index, &mut average[index], mean);
            let difference = squared - mean * mean;
            if difference < 0.0 { 0.0 } else { difference }
        } else {
            squared
        };
        let mut direction = g / (variance.sqrt() + p.epsilon);
        if MOMENTUM {
            direction += p.momentum * buffer[index];
            buffers.store(index, &mut buffer[index], direction);
        }
        values.store(index, &mut value[index], before - step.row[0] * direction);
    }
    [values, squares, averages, buffers]
}

simd! {
    fn update(p: RmspropParams, step: Step, gradient: &[f32], state: [&mut [f32]; 4]) -> [Tally; 4] {
        match (p.centered != 0, p.momentum > 0.0) {
            (false, false) => loop_of::<false, false>(p, step, gradient, state),
            (false, true) => loop_of::<false, true>(p, step, gradient, state),
            (true, false) => loop_of::<true, false>(p, step, gradient, state),
            (true, true) => loop_of::<true, true>(p, step, gradient, state),
        }
    }
}

impl Kernel for Rmsprop {
    fn name(&self) -> &'static str {
        "rmsprop"
    }

    fn updates(&self, _: usize) -> bool {
        true
    }

    fn run(&self, args: &mut Args<'_>) {
        let p = self.0;
        let range = p.start as usize..(p.start + p.count) as usize;
        let gradient = &args.input::<f32>(0)[range.clone()];
        let Some(step) = Step::read(args.inputs[1], p.group) else { return };
        let [value, square, average, buffer, sums] = &mut args.outputs[..] else { return };
        let value: &mut [f32] = &mut bytemuck::cast_slice_mut(value)[range.clone()];
        let square: &mut [f32] = &mut bytemuck::cast_slice_mut(square)[range.clone()];
        let average: &mut [f32] = &mut bytemuck::cast_slice_mut(average)[range.clone()];
        let buffer: &mut [f32] = &mut bytemuck::cast_slice_mut(buffer)[range];
        let first = value.par_chunks_mut(CHUNK).zip(square.par_chunks_mut(CHUNK));
        let second = average.par_chunks_mut(CHUNK).zip(buffer.par_chunks_mut(CHUNK));
        let state = first.zip(second).zip(gradient.par_chunks(CHUNK));
        let parts = state.map(|(((value, square), (average, buffer)), gradient)| {
            update(p, step, gradient, [value, square, average, buffer])
        });
        tally::publish(parts.reduce(Default::default, tally::add), sums);
    }

    fn dispatch(&self, gpu: &GpuTraits) -> Option<Dispatch> {
        let (times, groups) = gpu_tiles::updates(gpu, self.0.count as usize, 1);
        let shader = Shader::File { name: "rmsprop", constants: vec![("TIMES", times)] };
        let workgroups = gpu.grid(groups);
        (self.0.count > 0).then(|| Dispatch { shader, params: self.0.words(), workgroups })
    }
}
