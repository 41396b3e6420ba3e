//! The judgement of a step: gradients are read once (`health`), then one verdict is written (`gate`).

use rayon::prelude::*;

use super::simd::simd;
use crate::control::{self, Verdict, fault, is_non_finite};
use crate::params::params;
use crate::{Args, Dispatch, GpuTraits, Kernel, Shader};

/// Gradients per partial result: the same on every executor, so that the sums associate alike.
pub const HEALTH_BLOCK: usize = 16 * 1024;

params! {
    /// The uniform of `health.wgsl`.
    pub struct HealthParams { count: u32 }
}

/// Per block of gradients: sum of squares, largest magnitude, count of non-finite values.
///
/// Input: gradients. Output: 4 words per [`HEALTH_BLOCK`] elements.
#[derive(Clone, Debug)]
pub struct Health(pub HealthParams);

/// Takes one gradient into a lane's results.
#[inline(always)]
fn look(value: f32, sum: &mut f32, largest: &mut u32, bad: &mut u32) {
    *sum += value * value;
    // Magnitudes of finite floats order like their bits.
    let magnitude = value.to_bits() & 0x7fff_ffff;
    let finite = magnitude < 0x7f80_0000;
    *largest = (*largest).max(if finite { magnitude } else { 0 });
    *bad += u32::from(!finite);
}

simd! {
    /// Adds to 16 lanes of sums of squares; returns (largest finite magnitude as bits, non-finite count).
    fn inspect(values: &[f32], sums: &mut [f32; 16]) -> (u32, u32) {
        let mut largest = [0u32; 16];
        let mut bad = [0u32; 16];
        // Whole chunks apart from the rest: a loop of known length is one vector instruction per line.
        let (whole, rest) = values.as_chunks::<16>();
        for chunk in whole {
            for lane in 0..16 {
                look(chunk[lane], &mut sums[lane], &mut largest[lane], &mut bad[lane]);
            }
        }
        for (lane, &value) in rest.iter().enumerate() {
            look(value, &mut sums[lane], &mut largest[lane], &mut bad[lane]);
        }
        (largest.into_iter().max().unwrap_or(0), bad.iter().sum())
    }
}

impl Kernel for Health {
    fn name(&self) -> &'static str {
        "health"
    }

    fn run(&self, args: &mut Args<'_>) {
        let gradients = &args.input::<f32>(0)[..self.0.count as usize];
        let blocks = args.output::<u32>(0).par_chunks_exact_mut(4);
        blocks.zip(gradients.par_chunks(HEALTH_BLOCK)).for_each(|(partial, gradients)| {
            let mut sums = [0.0f32; 16];
            let (largest, bad) = inspect(gradients, &mut sums);
            let mut width = 8;
            while width > 0 {
                (0..width).for_each(|lane| sums[lane] += sums[lane + width]);
                width /= 2;
            }
            partial.copy_from_slice(&[sums[0].to_bits(), largest, bad, 0]);
        });
    }

    fn dispatch(&self, gpu: &GpuTraits) -> Option<Dispatch> {
        let threads = if gpu.software { 32 } else { 256 };
        let shader = Shader::File { name: "health", constants: vec![("LANES", threads)] };
        let workgroups = gpu.grid((self.0.count as usize).div_ceil(HEALTH_BLOCK));
        (self.0.count > 0).then(|| Dispatch { shader, params: self.0.words(), workgroups })
    }
}

params! {
    /// The uniform of `gate.wgsl`.
    pub struct GateParams {
        blocks: u32, loss_offset: u32, groups: u32, on_fault: u32, max_norm: f32, buffer_blocks: u32,
        loss_limit: f32, score: f32, log_ratio: f32, rate_ratio: f32, warm_up: u32, advisory: u32,
        scale_interval: u32, scale_growth: f32, scale_backoff: f32, scale_most: f32,
    }
}

/// Judges the step: counts the attempt, writes the verdict, the clipping factor, the groups' current schedule rows and a
/// record; counts a committed step. `on_fault` is the [`Verdict`] of a faulty step, `max_norm` 0 for no clipping.
///
/// Faulty is a loss above `loss_limit`, a learning rate that is more than `rate_ratio` times the largest one before; and, once
/// `warm_up` steps are in the statistics, a loss whose score is above `score`, and a norm whose logarithm is more than
/// `log_ratio` above its mean and whose score is above `score`. `f32::MAX` turns each off, `log_ratio` the test of the norm.
/// With a `scale_interval` the gradients are those of a loss that was multiplied by the control block's loss scale: their norm
/// and clipping are of what they are without it, and the scale grows after so many committed steps. A gradient that is not
/// finite, and nothing else at fault, is then its overflow: the step alone is refused, and the scale falls, until it is 1.
///
/// The faults among the bits of `advisory` are told in the record and refuse nothing.
///
/// Inputs: the blocks of [`Health`], those of gradients and behind them those of pending buffers; the loss. Outputs: the
/// control block, the device's status, which it clears, the step's record.
#[derive(Clone, Debug)]
pub struct Gate(pub GateParams);

/// How far above the statistics the step lies.
struct Scores {
    loss: f32,
    norm: f32,
    // Of the norm's logarithm over its mean.
    excess: f32,
}

impl Scores {
    /// Zeros before the statistics have their first steps.
    fn read(control: &[u32], loss: f32, norm: f32, warm_up: u32) -> Self {
        if control[control::SAMPLES] < warm_up {
            return Self { loss: 0.0, norm: 0.0, excess: 0.0 };
        }
        let word = |at: usize| f32::from_bits(control[at]);
        let unit = control::loss_unit(word(control::LOSS_MEAN + 1), word(control::LOSS_LEVEL));
        let excess = control::log_norm(norm) - word(control::NORM_MEAN);
        let norm = excess / control::norm_unit(word(control::NORM_MEAN + 1));
        Self { loss: (loss - word(control::LOSS_MEAN)) / unit, norm, excess }
    }
}

impl Gate {
    /// Whether the largest learning rate of the step's schedule rows is far above those before.
    fn rate_is_high(&self, control: &[u32]) -> bool {
        let highest = f32::from_bits(control[control::RATE]);
        // There is nothing to compare with before a step has learned.
        if self.0.rate_ratio == f32::MAX || highest == 0.0 {
            return false;
        }
        let row = control[control::COMMITTED].wrapping_sub(control[control::START]);
        let from = control::schedule_start(self.0.groups as usize);
        let words = self.0.groups as usize * control::ROW_WORDS;
        let rows = control.get(from + row as usize * words..).filter(|_| row < control[control::ROWS]);
        let rows = rows.unwrap_or_default().iter().take(words).step_by(control::ROW_WORDS);
        rows.map(|&rate| f32::from_bits(rate)).fold(0.0, f32::max) > self.0.rate_ratio * highest
    }

    /// What the statistics and the limits say of a loss and a norm.
    fn spikes(&self, loss: f32, scores: &Scores) -> u32 {
        let p = self.0;
        let norm_score = p.score == f32::MAX || scores.norm > p.score;
        let mut faults = if loss > p.loss_limit { fault::LOSS_LIMIT } else { 0 };
        faults |= if scores.loss > p.score { fault::LOSS_SPIKE } else { 0 };
        faults | if scores.excess > p.log_ratio && norm_score { fault::NORM_SPIKE } else { 0 }
    }

    /// The loss scale, 1 without one.
    fn scale(&self, control: &[u32]) -> f32 {
        if self.0.scale_interval == 0 { 1.0 } else { f32::from_bits(control[control::LOSS_SCALE]) }
    }

    /// What becomes of the loss scale after a step that is at fault, or not.
    fn rescale(&self, control: &mut [u32], overflow: bool) {
        let (p, scale) = (self.0, self.scale(control));
        let good = if overflow { 0 } else { control[control::GOOD] + 1 };
        let grows = good >= p.scale_interval;
        let next = match (overflow, grows) {
            (true, _) => (scale * p.scale_backoff).max(1.0),
            (false, true) => (scale * p.scale_growth).min(p.scale_most),
            (false, false) => scale,
        };
        control[control::LOSS_SCALE] = next.to_bits();
        control[control::GOOD] = if grows { 0 } else { good };
    }

    /// The faults of the step that are certain, from its parts.
    fn faults(control: &[u32], status: &[u32], loss: u32, norm: f32, [gradients, buffers]: [u32; 2]) -> u32 {
        let row = control[control::COMMITTED].wrapping_sub(control[control::START]);
        let mut faults = 0;
        for (present, bit) in [
            (gradients > 0, fault::GRADIENT),
            (is_non_finite(loss), fault::LOSS),
            (gradients == 0 && is_non_finite(norm.to_bits()), fault::NORM),
            (status[0] != 0, fault::DATA),
            (row >= control[control::ROWS], fault::SCHEDULE),
            (control[control::HELD] != 0, fault::HELD),
            (buffers > 0, fault::BUFFER),
        ] {
            faults |= if present { bit } else { 0 };
        }
        faults
    }
}

impl Kernel for Gate {
    fn name(&self) -> &'static str {
        "gate"
    }

    fn updates(&self, index: usize) -> bool {
        // All but the record.
        index < 2
    }

    fn run(&self, args: &mut Args<'_>) {
        let p = self.0;
        let partials = &args.input::<u32>(0)[..4 * (p.blocks + p.buffer_blocks) as usize];
        let (partials, buffers) = partials.split_at(4 * p.blocks as usize);
        let loss = args.input::<u32>(1)[p.loss_offset as usize];
        let [control, status, record] = &mut args.outputs[..] else { return };
        let (mut squares, mut largest, mut non_finite) = (0.0f32, 0u32, 0u32);
        for block in partials.chunks_exact(4) {
            squares += f32::from_bits(block[0]);
            largest = largest.max(block[1]);
            non_finite = non_finite.saturating_add(block[2]);
        }
        let scale = self.scale(control);
        let norm = squares.sqrt() / scale;
        let buffers = buffers.chunks_exact(4).fold(0, |bad, block| bad | block[2]);
        let faults = Self::faults(control, status, loss, norm, [non_finite, buffers]);
        // What is not finite has no place in a distribution.
        let finite = faults & (fault::GRADIENT | fault::LOSS | fault::NORM) == 0;
        let warm_up = if finite { p.warm_up } else { u32::MAX };
        let scores = Scores::read(control, f32::from_bits(loss), norm, warm_up);
        let faults = faults | if finite { self.spikes(f32::from_bits(loss), &scores) } else { 0 };
        let faults = faults | if self.rate_is_high(control) { fault::RATE } else { 0 };
        let refusing = faults & !p.advisory;
        let overflow = scale > 1.0 && refusing != 0 && refusing & !(fault::GRADIENT | fault::NORM) == 0;
        let held = control[control::HELD] != 0 || (refusing != 0 && !overflow && p.on_fault == Verdict::Hold as u32);
        let verdict = match refusing {
            0 => Verdict::Commit,
            _ if held => Verdict::Hold,
            _ => Verdict::Reject,
        };
        control[control::HELD] = u32::from(held);
        control[control::ATTEMPT] = control[control::ATTEMPT].wrapping_add(1);
        control[control::VERDICT] = verdict as u32;
        // PyTorch's clip_grad_norm_: max_norm / (norm + 1e-6), at most 1.
        let clip = if p.max_norm > 0.0 { (p.max_norm / (norm + 1e-6)).min(1.0) } else { 1.0 };
        control[control::CLIP] = (clip / scale).to_bits();
        control[control::NORM] = norm.to_bits();
        if verdict == Verdict::Commit {
            let row_words = p.groups as usize * control::ROW_WORDS;
            let row = control[control::COMMITTED].wrapping_sub(control[control::START]) as usize;
            let from = control::schedule_start(p.groups as usize) + row * row_words;
            control.copy_within(from..from + row_words, control::CURRENT);
            control[control::COMMITTED] = control[control::COMMITTED].wrapping_add(1);
        }
        if p.scale_interval > 0 && (overflow || verdict == Verdict::Commit) {
            self.rescale(control, overflow);
        }
        let largest = (f32::from_bits(largest) / scale).to_bits();
        record.fill(0);
        let (attempt, committed) = (control[control::ATTEMPT], control[control::COMMITTED]);
        let words = [attempt, committed, verdict as u32, faults, loss, norm.to_bits(), largest, non_finite];
        record[..8].copy_from_slice(&words);
        record[8..11].copy_from_slice(&status[..3]);
        record[12..14].copy_from_slice(&[scores.loss.to_bits(), scores.norm.to_bits()]);
        status.fill(0);
    }

    fn dispatch(&self, _: &GpuTraits) -> Option<Dispatch> {
        let shader = Shader::File { name: "gate", constants: vec![] };
        Some(Dispatch { shader, params: self.0.words(), workgroups: [1, 1, 1] })
    }
}
