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

/// Neighbours that are turned by different amounts.
pub(super) const TURNS: usize = u32::BITS as usize;

/// A [`Tally`] that takes whole blocks of [`TURNS`] elements, the first of an index that is a multiple of it: what each lane turns
/// its bits by is then known ahead, and the sums stay in vectors.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lanes {
    read: [u32; TURNS],
    written: [u32; TURNS],
    refused: [u32; TURNS],
}

impl Lanes {
    /// As [`Tally::store`], of an element of a block.
    #[inline(always)]
    pub(super) fn store(&mut self, lane: usize, slot: &mut f32, after: f32) {
        let mut one = Tally { read: self.read[lane], written: self.written[lane], refused: self.refused[lane] };
        one.store(lane, slot, after);
        (self.read[lane], self.written[lane], self.refused[lane]) = (one.read, one.written, one.refused);
    }

    /// All lanes.
    #[inline(always)]
    pub(super) fn sum(&self) -> Tally {
        let sum = |lanes: &[u32; TURNS]| lanes.iter().fold(0u32, |sum, lane| sum.wrapping_add(*lane));
        Tally { read: sum(&self.read), written: sum(&self.written), refused: sum(&self.refused) }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Elements of whole blocks, a value that is refused, and a rest.
    #[test]
    fn lanes_sum_as_one_tally_does() {
        let before: Vec<f32> = (0..3 * TURNS + 5).map(|at| at as f32 - 40.5).collect();
        let after = |at: usize| if at == 70 { f32::NAN } else { before[at] * 1.5 };
        let (mut one, mut lanes) = (Tally::default(), Lanes::default());
        let (mut left, mut right) = (before.clone(), before.clone());
        for at in 0..before.len() {
            one.store(at, &mut left[at], after(at));
            lanes.store(at % TURNS, &mut right[at], after(at));
        }
        assert_eq!((lanes.sum(), one.refused), (one, 1));
        assert!(left.iter().zip(&right).all(|(left, right)| left.to_bits() == right.to_bits()));
    }
}
