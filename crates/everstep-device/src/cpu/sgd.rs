//! Stochastic gradient descent over a range of the arena, gated by the verdict.

use rayon::prelude::*;

use super::simd::simd;
use crate::control::{self, Verdict};
use crate::params::params;
use crate::{Args, Dispatch, GpuTraits, Kernel, Shader};

params! {
    /// The uniform of `sgd.wgsl`.
    pub struct SgdParams { start: u32, count: u32, group: u32, momentum: f32, weight_decay: f32, nesterov: u32 }
}

/// PyTorch's SGD: g += weight_decay p; b = momentum b + row\[1\] g; p -= row\[0\] (nesterov: g + momentum b, else b).
///
/// The group's schedule row is (learning rate, 1 - dampening). Inputs: gradients, control block. Outputs: parameters,
/// momentum buffer. Touches the elements `start..start + count`; nothing where the verdict is not COMMIT.
#[derive(Clone, Debug)]
pub struct Sgd(pub SgdParams);

/// Elements a thread takes at a time.
pub(super) const CHUNK: usize = 16 * 1024;

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
}

simd! {
    fn update(p: SgdParams, step: Step, gradient: &[f32], value: &mut [f32], buffer: &mut [f32]) {
        let count = value.len();
        let (gradient, buffer) = (&gradient[..count], &mut buffer[..count]);
        for index in 0..count {
            let g = gradient[index] * step.clip + p.weight_decay * value[index];
            let moving = p.momentum * buffer[index] + step.row[1] * g;
            buffer[index] = moving;
            let direction = if p.nesterov != 0 { g + p.momentum * moving } else { moving };
            value[index] -= step.row[0] * direction;
        }
    }
}

impl Kernel for Sgd {
    fn name(&self) -> &'static str {
        "sgd"
    }

    fn run(&self, args: &mut Args<'_>) {
        let p = self.0;
        let range = p.start as usize..(p.start + p.count) as usize;
        let gradient = &args.input::<f32>(0)[range.clone()];
        let Some(step) = Step::read(args.inputs[1], p.group) else { return };
        let [value, buffer] = &mut args.outputs[..] else { return };
        let value: &mut [f32] = &mut bytemuck::cast_slice_mut(value)[range.clone()];
        let buffer: &mut [f32] = &mut bytemuck::cast_slice_mut(buffer)[range];
        let state = value.par_chunks_mut(CHUNK).zip(buffer.par_chunks_mut(CHUNK));
        state.zip(gradient.par_chunks(CHUNK)).for_each(|((value, buffer), g)| update(p, step, g, value, buffer));
    }

    fn dispatch(&self, gpu: &GpuTraits) -> Option<Dispatch> {
        let shader = Shader::File { name: "sgd", constants: vec![] };
        let workgroups = gpu.grid((self.0.count as usize).div_ceil(256));
        (self.0.count > 0).then(|| Dispatch { shader, params: self.0.words(), workgroups })
    }
}
