//! Snapshots of a run, few and far back.

use everstep_tensor::{Result, Snapshot, State};

/// Snapshots whose ages grow like powers of two: the newest are close together, the oldest reach far back.
///
/// A snapshot becomes trusted by the healthy steps after it. While none is, the oldest one stays; and the last trusted one
/// never makes room for others.
#[derive(Debug)]
pub struct Ring {
    kept: Vec<Kept>,
    // Memory of snapshots that were dropped.
    free: Vec<Snapshot>,
    capacity: usize,
}

#[derive(Debug)]
struct Kept {
    attempt: u64,
    trusted: bool,
    snapshot: Snapshot,
}

impl Ring {
    /// A ring of at most `capacity` snapshots.
    pub fn new(capacity: usize) -> Self {
        Self { kept: Vec::new(), free: Vec::new(), capacity }
    }

    /// Saves `state` as it is after `attempt`, later than all others. Nothing waits for the device.
    ///
    /// # Errors
    /// Those of [`Snapshot::save`]: the other snapshots are as they were, but for one that made room.
    pub fn save(&mut self, attempt: u64, state: &mut dyn State) -> Result<()> {
        if self.capacity == 0 {
            return Ok(());
        }
        while self.kept.len() >= self.capacity {
            let Some(index) = self.superfluous(attempt) else { return Ok(()) };
            self.drop_at(index);
        }
        let mut snapshot = self.free.pop().unwrap_or_default();
        let outcome = snapshot.save(state);
        match outcome {
            Ok(()) => self.kept.push(Kept { attempt, trusted: false, snapshot }),
            Err(_) => self.free.push(snapshot),
        }
        outcome
    }

    /// The snapshot that is missed least at `now`: the one between whose neighbours the gap is the smallest part of its age.
    fn superfluous(&self, now: u64) -> Option<usize> {
        let last_trusted = self.kept.iter().rposition(|kept| kept.trusted).unwrap_or(0);
        let cost = |index: usize| {
            let newer = self.kept.get(index + 1).map_or(now, |kept| kept.attempt);
            let older = index.checked_sub(1).map_or(0, |older| self.kept[older].attempt);
            (newer - older) as f64 / (now - self.kept[index].attempt).max(1) as f64
        };
        let candidates = (0..self.kept.len()).filter(|&index| index != last_trusted);
        candidates.min_by(|&a, &b| cost(a).total_cmp(&cost(b)))
    }

    fn drop_at(&mut self, index: usize) {
        let kept = self.kept.remove(index);
        self.free.push(kept.snapshot);
    }

    /// Takes in that every step up to `attempt` was healthy: snapshots `probation` steps before are trusted.
    pub fn trust(&mut self, attempt: u64, probation: u64) {
        for kept in &mut self.kept {
            kept.trusted |= kept.attempt + probation <= attempt;
        }
    }

    /// Drops the snapshots of `attempt` and later: that step was refused, or what came after it is void.
    pub fn forget_from(&mut self, attempt: u64) {
        while self.kept.last().is_some_and(|kept| kept.attempt >= attempt) {
            self.drop_at(self.kept.len() - 1);
        }
    }

    /// Restores the newest snapshot, or the one `generations` before it, as far back as there are any: after which attempt
    /// it was taken. Newer ones are dropped; `None` where there is none.
    ///
    /// # Errors
    /// Those of [`Snapshot::restore`].
    pub fn restore(&mut self, generations: usize, state: &mut dyn State) -> Result<Option<u64>> {
        let Some(newest) = self.kept.len().checked_sub(1) else { return Ok(None) };
        let index = newest.saturating_sub(generations);
        self.kept[index].snapshot.restore(state)?;
        let attempt = self.kept[index].attempt;
        self.forget_from(attempt + 1);
        Ok(Some(attempt))
    }

    /// The attempts after which snapshots are kept, oldest first, each with whether it is trusted.
    pub fn kept(&self) -> Vec<(u64, bool)> {
        self.kept.iter().map(|kept| (kept.attempt, kept.trusted)).collect()
    }

    /// Bytes on devices, of memory that waits for its next snapshot too.
    pub fn bytes(&self) -> usize {
        self.kept.iter().map(|kept| &kept.snapshot).chain(&self.free).map(Snapshot::bytes).sum()
    }
}
