//! The end of an update: its sums are compared, and its loss and norm enter the statistics.

use crate::control::{self, SUMMED, SUMS_BEFORE, Verdict, fault};
use crate::params::params;
use crate::{Args, Dispatch, GpuTraits, Kernel, Shader};

params! {
    /// The uniform of `seal.wgsl`.
    pub struct SealParams { check: u32, warm_up: u32, window: f32, groups: u32, advisory: u32 }
}

/// Looks at what the update of a committed step has read and written. Where `check` is 1 and the memory has changed since
/// the last step, and in any case where a result was not finite, the step becomes a tentative HOLD, which does not count
/// as committed. Otherwise its loss, norm and learning rate enter the statistics of the last `window` steps, as far as four standard
/// deviations once `warm_up` are in them. A refused step leaves everything as it is.
///
/// Outputs: control block, the sums of the step ([`control::SUMS`]), the step's record.
#[derive(Clone, Debug)]
pub struct Seal(pub SealParams);

impl Seal {
    /// The faults of the update.
    fn faults(&self, control: &[u32], sums: &[u32]) -> u32 {
        let compared = self.0.check != 0 && control[control::SUMMED_BEFORE] != 0;
        let mut faults = 0;
        for buffer in 0..SUMMED {
            if compared && sums[3 * buffer] != sums[SUMS_BEFORE + buffer] {
                faults |= fault::STATE;
            }
            if sums[3 * buffer + 2] != 0 {
                faults |= fault::UPDATE;
            }
        }
        faults
    }

    /// Takes `value` into the running mean and spread at `at` of the control block.
    fn take(&self, control: &mut [u32], at: usize, value: f32, unit: f32) {
        let (samples, word) = (control[control::SAMPLES], |at: usize| f32::from_bits(control[at]));
        let weight = (1.0 / (samples as f32 + 1.0)).max(1.0 / self.0.window);
        let (mean, spread) = (word(at), word(at + 1));
        let mut distance = value - mean;
        if samples >= self.0.warm_up {
            distance = distance.max(-4.0 * unit).min(4.0 * unit);
        }
        control[at] = (mean + weight * distance).to_bits();
        // The first value has no distance from itself.
        let spread = if samples == 0 { 0.0 } else { spread + weight * (distance.abs() - spread) };
        control[at + 1] = spread.to_bits();
    }

    fn learn(&self, control: &mut [u32], loss: f32, norm: f32) {
        let (samples, word) = (control[control::SAMPLES], |at: usize| f32::from_bits(control[at]));
        let loss_unit = control::loss_unit(word(control::LOSS_MEAN + 1), word(control::LOSS_LEVEL));
        let norm_unit = control::norm_unit(word(control::NORM_MEAN + 1));
        if samples < self.0.warm_up {
            let level = word(control::LOSS_LEVEL);
            control[control::LOSS_LEVEL] = (level + (loss.abs() - level) / (samples as f32 + 1.0)).to_bits();
        }
        self.take(control, control::LOSS_MEAN, loss, loss_unit);
        self.take(control, control::NORM_MEAN, control::log_norm(norm), norm_unit);
        let rates = control[control::CURRENT..].iter().step_by(control::ROW_WORDS).take(self.0.groups as usize);
        let rate = rates.map(|&rate| f32::from_bits(rate)).fold(f32::from_bits(control[control::RATE]), f32::max);
        control[control::RATE] = rate.to_bits();
        control[control::SAMPLES] = samples.saturating_add(1);
    }
}

impl Kernel for Seal {
    fn name(&self) -> &'static str {
        "seal"
    }

    fn check(&self, _: &[usize], outputs: &[usize]) -> Result<(), &'static str> {
        let &[control, sums, record] = outputs else { return Err("seal has three outputs") };
        let inside = control >= control::CURRENT && sums >= control::SUMS && record >= control::RECORD_WORDS;
        if inside { Ok(()) } else { Err("an operand of seal leaves its slice") }
    }

    fn updates(&self, _: usize) -> bool {
        true
    }

    fn run(&self, args: &mut Args<'_>) {
        let [control, sums, record] = &mut args.outputs[..] else { return };
        control[control::TENTATIVE] = 0;
        if control[control::VERDICT] != Verdict::Commit as u32 {
            return;
        }
        let faults = self.faults(control, sums);
        if faults & !self.0.advisory == 0 {
            record[3] |= faults;
            (0..SUMMED).for_each(|buffer| sums[SUMS_BEFORE + buffer] = sums[3 * buffer + 1]);
            control[control::SUMMED_BEFORE] = 1;
            self.learn(control, f32::from_bits(record[4]), f32::from_bits(record[5]));
        } else {
            control[control::VERDICT] = Verdict::Hold as u32;
            control[control::HELD] = 1;
            control[control::TENTATIVE] = 1;
            control[control::COMMITTED] = control[control::COMMITTED].wrapping_sub(1);
            record[1] = control[control::COMMITTED];
            record[2] = Verdict::Hold as u32;
            record[3] = faults;
            record[11] = 1;
        }
        sums[..SUMS_BEFORE].fill(0);
    }

    fn dispatch(&self, _: &GpuTraits) -> Option<Dispatch> {
        let shader = Shader::File { name: "seal", constants: vec![] };
        Some(Dispatch { shader, params: self.0.words(), workgroups: [1, 1, 1] })
    }
}
