//! Dropout: the mask is a pure function of (seed, stream, step, element), so the gradient makes it again.

use rayon::prelude::*;

use crate::params::params;
use crate::philox::{Generator, unit_interval};
use crate::{Args, Dispatch, GpuTraits, Kernel, Shader};

params! {
    /// The uniform of `dropout.wgsl`.
    pub struct DropoutParams {
        count: u32, probability: f32, scale: f32, step_offset: u32,
        seed_low: u32, seed_high: u32, stream: u32, call: u32,
    }
}

/// y = x `scale` where the element's uniform number is at least `probability`, else 0.
///
/// Inputs: x contiguous, and words of which the one at `step_offset` is the step. `call` tells apart several uses of
/// one stream within a step. Output: y.
#[derive(Clone, Debug)]
pub struct Dropout(pub DropoutParams);

/// Elements a thread takes at a time, a multiple of the 4 words of a Philox block.
const CHUNK: usize = 4096;

impl Kernel for Dropout {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn run(&self, args: &mut Args<'_>) {
        let p = self.0;
        let (x, steps) = (args.input::<f32>(0), args.input::<u32>(1));
        let seed = u64::from(p.seed_low) | u64::from(p.seed_high) << 32;
        let step = u64::from(steps[p.step_offset as usize]) | u64::from(p.call) << 32;
        let generator = Generator::with_stream(seed, p.stream).at_step(step);
        let y = &mut args.output::<f32>(0)[..p.count as usize];
        y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).enumerate().for_each(|(chunk, (y, x))| {
            for (block, (y, x)) in y.chunks_mut(4).zip(x.chunks(4)).enumerate() {
                let words = generator.block((chunk * CHUNK / 4 + block) as u32);
                for ((y, x), word) in y.iter_mut().zip(x).zip(words) {
                    *y = if unit_interval(word) >= p.probability { x * p.scale } else { 0.0 };
                }
            }
        });
    }

    fn dispatch(&self, gpu: &GpuTraits) -> Option<Dispatch> {
        let shader = Shader::File { name: "dropout", constants: vec![] };
        let workgroups = gpu.grid((self.0.count as usize).div_ceil(4 * 64));
        (self.0.count > 0).then(|| Dispatch { shader, params: self.0.words(), workgroups })
    }
}
