//! Snapshots of a run, few and far back.

use everstep_tensor::{Result, Snapshot, State};

/// Snapshots whose ages grow like powers of two: the newest are close together, the oldest reach far back.
///
/// A snapshot becomes trusted by the healthy steps after it. While none is, the oldest one stays; and the last trusted one
/// never makes room for others. Where there is a reach, nor does the newest one that is as old, nor the next.
#[derive(Debug)]
pub struct Ring {
    kept: Vec<Kept>,
    // Memory of snapshots that were dropped.
    free: Vec<Snapshot>,
    capacity: usize,
    // Steps back that there is always a snapshot for.
    reach: u64,
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
        Self { kept: Vec::new(), free: Vec::new(), capacity, reach: 0 }
    }

    /// The same, with always a snapshot that is `reach` attempts old, or the one of the start: for what shows late. It takes four
    /// snapshots or more.
    #[must_use]
    pub fn reaching(self, reach: u64) -> Self {
        Self { reach, ..self }
    }

    /// How many snapshots before the newest is the newest one that is as old as the reach, or else the oldest.
    pub(crate) fn far_back(&self, now: u64) -> usize {
        self.kept.len().saturating_sub(1 + self.anchor(now).unwrap_or(0))
    }

    fn anchor(&self, now: u64) -> Option<usize> {
        self.kept.iter().rposition(|kept| kept.attempt + self.reach <= now)
    }

    /// Keeps at most `capacity` snapshots from now on, and no more than fit into `bytes`, but `least`.
    pub(crate) fn limit(&mut self, capacity: usize, bytes: Option<usize>, least: usize) {
        let largest = self.kept.iter().map(|kept| kept.snapshot.bytes()).max().unwrap_or(0).max(1);
        self.capacity = bytes.map_or(capacity, |bytes| capacity.min((bytes / largest).max(least)));
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

    /// Replaces what the snapshot after `attempt` holds under `name`, where there is one: see [`Snapshot::amend`].
    ///
    /// # Errors
    /// As [`Snapshot::amend`].
    pub(crate) fn amend(&mut self, attempt: u64, name: &str, part: &mut dyn State) -> Result<()> {
        let kept = self.kept.iter_mut().rev().find(|kept| kept.attempt == attempt);
        kept.map_or(Ok(()), |kept| kept.snapshot.amend(name, part))
    }

    /// The snapshot that is missed least at `now`: the one between whose neighbours the gap is the smallest part of its age.
    fn superfluous(&self, now: u64) -> Option<usize> {
        let last_trusted = self.kept.iter().rposition(|kept| kept.trusted).unwrap_or(0);
        let cost = |index: usize| {
            let newer = self.kept.get(index + 1).map_or(now, |kept| kept.attempt);
            let older = index.checked_sub(1).map_or(0, |older| self.kept[older].attempt);
            (newer - older) as f64 / (now - self.kept[index].attempt).max(1) as f64
        };
        // The one that reaches far enough, and the next one, which will.
        let anchor = self.anchor(now).unwrap_or(0);
        let reaches = |index: usize| self.reach > 0 && self.capacity > 3 && (anchor..=anchor + 1).contains(&index);
        let is_needed = |index: usize| index == last_trusted || reaches(index);
        let candidates = (0..self.kept.len()).filter(|&index| !is_needed(index));
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

    /// Drops all, their memory too: the device is gone.
    pub(crate) fn clear(&mut self) {
        self.kept.clear();
        self.free.clear();
    }

    /// The newest snapshot, and the attempt after which it was taken.
    pub(crate) fn newest(&self) -> Option<(u64, &Snapshot)> {
        self.kept.last().map(|kept| (kept.attempt, &kept.snapshot))
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

    /// Restores the snapshot `generations` before the newest to look at it, and keeps all.
    pub(crate) fn look_back(&self, generations: usize, state: &mut dyn State) -> Result<()> {
        let index = self.kept.len().checked_sub(1 + generations);
        index.and_then(|index| self.kept.get(index)).map_or(Ok(()), |kept| kept.snapshot.restore(state))
    }

    /// The newest snapshot that is trusted, and the attempt after which it was taken.
    pub fn newest_trusted(&self) -> Option<(u64, &Snapshot)> {
        self.kept.iter().rev().find(|kept| kept.trusted).map(|kept| (kept.attempt, &kept.snapshot))
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
