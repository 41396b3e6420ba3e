//! The control block: the words by which a step is judged, refused or committed on the device.
//!
//! ```text
//! word  0  attempt        steps judged so far
//!       1  committed      steps committed so far
//!       2  verdict        of the last judged step: 0 COMMIT, 1 REJECT, 2 HOLD
//!       3  held           1: every step is refused until the host clears it
//!       4  clip           f32, factor on the gradients
//!       5  norm           f32, gradient norm before clipping
//!       6  start          the committed count that the schedule's first row belongs to
//!       7  rows           rows of the schedule that are valid
//!       8  samples        committed steps in the statistics below
//!       9  loss mean      f32, running mean of the loss
//!      10  loss spread    f32, running mean of its distance from that
//!      11  norm mean      f32, the same of the gradient norm's natural logarithm
//!      12  norm spread    f32
//!      13  loss level     f32, mean magnitude of the loss over the first steps: what counts as much
//!      14  tentative      1: the last step has partly written, and its state is void until the host restores one
//!      15  summed         1: the sums of the last committed step's writes can be compared
//!      16  rate           f32, largest learning rate of a committed step
//!      17  loss scale     f32, what the loss is multiplied by before the backward pass; 0 where it is not
//!      18  good           committed steps since the loss scale has changed
//!      19..24            zero
//!      24  current        one row of 4 f32 per group: the schedule's row for the step being committed
//!          schedule       WINDOW rows of 4 f32 per group
//! ```
//! The sums ([`SUMS`] words in a buffer of their own) belong to up to [`SUMMED`] buffers, the parameters first and then the
//! optimizer's states:
//!
//! ```text
//! word  3 b      read      wrapping sum of the bits that this step's update read of buffer b
//!       3 b + 1  written   of those it wrote
//!       3 b + 2  refused   how many results were not finite, and so not stored
//!      12 + b    before    what the last committed step had written
//! ```
//! A row holds what an optimizer wants per step, computed by the host in f64: the learning rate and then its corrections.
//! `shared/control.wgsl` is the twin of the constants here.

/// Word of the attempt counter.
pub const ATTEMPT: usize = 0;
/// Word of the committed counter.
pub const COMMITTED: usize = 1;
/// Word of the verdict.
pub const VERDICT: usize = 2;
/// Word that holds every step while it is 1.
pub const HELD: usize = 3;
/// Word of the clipping factor.
pub const CLIP: usize = 4;
/// Word of the gradient norm.
pub const NORM: usize = 5;
/// Word of the schedule's first committed count.
pub const START: usize = 6;
/// Word of the number of valid rows.
pub const ROWS: usize = 7;
/// Word of the number of steps in the statistics.
pub const SAMPLES: usize = 8;
/// Word of the loss's running mean; behind it its spread, and the two of the norm's logarithm.
pub const LOSS_MEAN: usize = 9;
/// Word of the running mean of the norm's logarithm.
pub const NORM_MEAN: usize = 11;
/// Word of the loss's mean magnitude over the first steps.
pub const LOSS_LEVEL: usize = 13;
/// Word that is 1 after a step that has partly written.
pub const TENTATIVE: usize = 14;
/// Word that is 1 while the last committed step's sums can be compared.
pub const SUMMED_BEFORE: usize = 15;
/// Word of the largest learning rate of a committed step.
pub const RATE: usize = 16;
/// Word of the loss scale.
pub const LOSS_SCALE: usize = 17;
/// Word of the committed steps since the loss scale has changed.
pub const GOOD: usize = 18;
/// First word of the current rows.
pub const CURRENT: usize = 24;
/// f32 per row.
pub const ROW_WORDS: usize = 4;
/// Rows of the schedule per group: more than the steps that can be in flight, so a verdict learned late never empties it.
pub const WINDOW: usize = 64;
/// Words of a step's record, which the gate writes beside the control block.
pub const RECORD_WORDS: usize = 16;

/// Buffers whose bits are summed: the parameters, and up to three states of the optimizer.
pub const SUMMED: usize = 4;
/// First word of the sums that the last committed step has left.
pub const SUMS_BEFORE: usize = 3 * SUMMED;
/// Words of the sums.
pub const SUMS: usize = SUMS_BEFORE + SUMMED;

/// What the gate does with a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Verdict {
    /// The update is applied.
    Commit = 0,
    /// This step alone is refused.
    Reject = 1,
    /// This step and every later one is refused until the host clears it.
    Hold = 2,
}

/// Why a step was refused, as bits.
pub mod fault {
    /// A gradient is not finite.
    pub const GRADIENT: u32 = 1;
    /// The loss is not finite.
    pub const LOSS: u32 = 2;
    /// The gradients are finite, but their norm overflows.
    pub const NORM: u32 = 4;
    /// An op reported an element outside its range.
    pub const DATA: u32 = 8;
    /// The host supplied no schedule row for this step.
    pub const SCHEDULE: u32 = 16;
    /// An earlier step holds this one.
    pub const HELD: u32 = 32;
    /// A running buffer would become not finite.
    pub const BUFFER: u32 = 64;
    /// The loss is above its limit.
    pub const LOSS_LIMIT: u32 = 128;
    /// The loss is far above its running mean.
    pub const LOSS_SPIKE: u32 = 256;
    /// The gradient norm is far above its running mean.
    pub const NORM_SPIKE: u32 = 512;
    /// A parameter or a state of the optimizer is not what the last step has left.
    pub const STATE: u32 = 1024;
    /// The update would make a parameter or a state of the optimizer not finite.
    pub const UPDATE: u32 = 2048;
    /// The learning rate is far above those before.
    pub const RATE: u32 = 4096;

    /// Each fault in words.
    pub const NAMES: [(u32, &str); 13] = [
        (GRADIENT, "a gradient is not finite"),
        (LOSS, "the loss is not finite"),
        (NORM, "the gradient norm overflows"),
        (DATA, "data outside its range"),
        (SCHEDULE, "no learning rate for the step"),
        (HELD, "held by an earlier step"),
        (BUFFER, "a running statistic is not finite"),
        (LOSS_LIMIT, "the loss is above its limit"),
        (LOSS_SPIKE, "the loss stands out"),
        (NORM_SPIKE, "the gradient norm stands out"),
        (STATE, "parameters or optimizer states changed in memory"),
        (UPDATE, "the update is not finite"),
        (RATE, "the learning rate stands out"),
    ];
}

/// First word of the schedule of a control block for `groups` groups.
pub fn schedule_start(groups: usize) -> usize {
    CURRENT + groups * ROW_WORDS
}

/// Words of the whole block.
pub fn words(groups: usize) -> usize {
    schedule_start(groups) + WINDOW * groups * ROW_WORDS
}

/// What the gate wrote about one attempted step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Record {
    /// Which attempt, from 1.
    pub attempt: u32,
    /// Steps committed after it.
    pub committed: u32,
    /// What was done.
    pub verdict: Verdict,
    /// Why, as bits of [`fault`]; 0 for a commit.
    pub faults: u32,
    /// The loss.
    pub loss: f32,
    /// The gradient norm before clipping.
    pub norm: f32,
    /// The largest magnitude among the finite gradients.
    pub largest: f32,
    /// Gradients that are not finite.
    pub non_finite: u32,
    /// The device's status as the step found it.
    pub status: [u32; 3],
    /// Whether the update has partly written: the state is void until an earlier one is restored.
    pub tentative: bool,
    /// How far the loss lies above its running mean, in units of its spread.
    pub loss_score: f32,
    /// How far the norm's logarithm lies above its running mean, in units of its spread.
    pub norm_score: f32,
}

impl Record {
    /// Why the step was refused, in words; empty for a commit.
    pub fn reasons(&self) -> String {
        let named = fault::NAMES.iter().filter(|(bit, _)| self.faults & bit != 0);
        named.map(|(_, name)| *name).collect::<Vec<_>>().join(", ")
    }

    /// Reads a record's words.
    pub fn from_words(words: &[u32]) -> Self {
        let word = |index: usize| words.get(index).copied().unwrap_or_default();
        let verdict = match word(2) {
            0 => Verdict::Commit,
            1 => Verdict::Reject,
            _ => Verdict::Hold,
        };
        Self {
            attempt: word(0),
            committed: word(1),
            verdict,
            faults: word(3),
            loss: f32::from_bits(word(4)),
            norm: f32::from_bits(word(5)),
            largest: f32::from_bits(word(6)),
            non_finite: word(7),
            status: [word(8), word(9), word(10)],
            tentative: word(11) != 0,
            loss_score: f32::from_bits(word(12)),
            norm_score: f32::from_bits(word(13)),
        }
    }
}

/// The unit of the loss's score: its standard deviation as its spread tells it for a normal distribution (the mean distance
/// is sqrt(2 / pi) of it), and at least a quarter of its level, so that a loss that has become small may jump about: one
/// misjudged sample is much of a small batch.
pub fn loss_unit(spread: f32, level: f32) -> f32 {
    (spread * SPREAD).max(level * 0.25).max(f32::MIN_POSITIVE)
}

/// The unit of the score of the norm's natural logarithm: its standard deviation, and at least a half.
pub fn norm_unit(spread: f32) -> f32 {
    (spread * SPREAD).max(0.5)
}

/// The natural logarithm of a norm, with a bound for a norm of zero.
pub fn log_norm(norm: f32) -> f32 {
    crate::cpu::math::log_f32(norm.max(1e-30))
}

/// sqrt(pi / 2).
const SPREAD: f32 = 1.253_314_1;

/// Whether the bits are those of an infinity or a NaN: exponent all ones. Compilers of shaders may assume that NaN
/// does not exist, so no comparison of floats is a test.
#[inline(always)]
pub fn is_non_finite(bits: u32) -> bool {
    bits & 0x7f80_0000 == 0x7f80_0000
}
