//! What updates read and wrote, as sums by which the next step sees whether the memory between them kept it.

use crate::control::{self, is_non_finite};

/// Sums over one buffer of the state, of bits, wrapping: their order does not show. The bits of neighbours are turned by
/// different amounts, so that no bit of all elements has the same weight: a tensor whose signs are all turned over shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    read: u32,
    written: u32,
    refused: u32,
}

impl Tally {
    /// Stores `after` in `slot`, element `index`, unless it is not finite: then the slot keeps what it has, and the refusal counts.
    #[inline(always)]
    pub(super) fn store(&mut self, index: usize, slot: &mut f32, after: f32) {
        let (before, after) = (slot.to_bits(), after.to_bits());
        let refused = is_non_finite(after);
        let kept = if refused { before } else { after };
        self.read = self.read.wrapping_add(before.rotate_left(index as u32));
        self.written = self.written.wrapping_add(kept.rotate_left(index as u32));
        self.refused += u32::from(refused);
        *slot = f32::from_bits(kept);
    }
}

/// The tallies of both, buffer by buffer.
pub(super) fn add<const BUFFERS: usize>(mut left: [Tally; BUFFERS], right: [Tally; BUFFERS]) -> [Tally; BUFFERS] {
    for (left, right) in left.iter_mut().zip(right) {
        left.read = left.read.wrapping_add(right.read);
        left.written = left.written.wrapping_add(right.written);
        left.refused = left.refused.wrapping_add(right.refused);
    }
    left
}

/// Adds them to the sums of the step, see [`control::SUMS`].
pub(super) fn publish<const BUFFERS: usize>(tallies: [Tally; BUFFERS], sums: &mut [u32]) {
    for (tally, sums) in tallies.iter().zip(sums[..control::SUMS_BEFORE].chunks_exact_mut(3)) {
        for (sum, part) in sums.iter_mut().zip([tally.read, tally.written, tally.refused]) {
            *sum = sum.wrapping_add(part);
        }
    }
}
