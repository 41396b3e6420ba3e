//! Adam and AdamW over a range of the arena, gated by the verdict.

use rayon::prelude::*;

use super::sgd::{CHUNK, Penalty, Step};
use super::simd::{LINE, fetch, simd};
use super::tally::{self, Lanes, TURNS, Tally};
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

/// Elements that the four arrays are fetched ahead: the update waits for memory and for nothing else.
const AHEAD: usize = 512;

/// The factors of one update.
#[derive(Clone, Copy)]
struct Rule {
    p: AdamParams,
    step: Step,
    penalty: Penalty,
    decay: f32,
}

impl Rule {
    #[inline(always)]
    fn new(p: AdamParams, step: Step) -> Self {
        let coupled = if p.decoupled == 0 { p.weight_decay } else { 0.0 };
        let decay = if p.decoupled == 0 { 0.0 } else { step.row[0] * p.weight_decay };
        Self { p, step, penalty: Penalty { limit: p.clip_value, l1: p.l1, l2: coupled }, decay }
    }

    /// Element `lane` of a block of [`TURNS`], or of what is left behind the last one.
    #[inline(always)]
    fn one(&self, lane: usize, gradient: f32, [value, first, second]: [&mut f32; 3], tallies: &mut [Lanes; 3]) {
        let Self { p, step, penalty, decay } = *self;
        let before = *value;
        let g = step.gradient(gradient, before, penalty);
        let m = p.beta1 * *first + p.rest1 * g;
        let v = p.beta2 * *second + p.rest2 * (g * g);
        tallies[1].store(lane, first, m);
        tallies[2].store(lane, second, v);
        let update = step.row[1] * (m / (v.sqrt() * step.row[2] + p.epsilon));
        tallies[0].store(lane, value, before - decay * before - update);
    }
}

simd! {
    fn update(rule: Rule, gradient: &[f32], value: &mut [f32], first: &mut [f32], second: &mut [f32]) -> [Tally; 3] {
        let mut tallies = [Lanes::default(); 3];
        let (gradients, gradient) = gradient.as_chunks::<TURNS>();
        let (values, value) = value.as_chunks_mut::<TURNS>();
        let (firsts, first) = first.as_chunks_mut::<TURNS>();
        let (seconds, second) = second.as_chunks_mut::<TURNS>();
        for (((gradient, value), first), second) in gradients.iter().zip(values).zip(firsts).zip(seconds) {
            for array in [gradient.as_ptr(), value.as_ptr(), first.as_ptr(), second.as_ptr()] {
                fetch(array.wrapping_add(AHEAD), TURNS / LINE);
            }
            for lane in 0..TURNS {
                rule.one(lane, gradient[lane], [&mut value[lane], &mut first[lane], &mut second[lane]], &mut tallies);
            }
        }
        let rest = gradient.iter().zip(value).zip(first).zip(second).enumerate();
        for (lane, (((gradient, value), first), second)) in rest.take(TURNS) {
            rule.one(lane, *gradient, [value, first, second], &mut tallies);
        }
        tallies.map(|lanes| lanes.sum())
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
        let rule = Rule::new(p, step);
        let parts = state
            .zip(gradient.par_chunks(CHUNK))
            .map(|((value, (first, second)), gradient)| update(rule, gradient, value, first, second));
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
