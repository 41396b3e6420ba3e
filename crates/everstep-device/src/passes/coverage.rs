//! Which bytes of a buffer are written: for buffers that a lost device held, of which only what was written anew counts.

use crate::Slice;

/// The written bytes of one buffer.
#[derive(Clone, Debug)]
pub(super) struct Coverage {
    bytes: usize,
    // First byte and end of each written stretch: sorted, apart from each other.
    stretches: Vec<(usize, usize)>,
}

impl Coverage {
    /// Of a buffer of `bytes` bytes, none of them written.
    pub(super) fn of(bytes: usize) -> Self {
        Self { bytes, stretches: Vec::new() }
    }

    pub(super) fn add(&mut self, slice: Slice) {
        let (mut start, mut end) = (slice.offset, slice.offset.saturating_add(slice.bytes));
        self.stretches.retain(|&(from, to)| {
            let apart = to < start || end < from;
            if !apart {
                (start, end) = (start.min(from), end.max(to));
            }
            apart
        });
        let at = self.stretches.partition_point(|&(from, _)| from < start);
        self.stretches.insert(at, (start, end));
    }

    pub(super) fn contains(&self, slice: Slice) -> bool {
        let end = slice.offset.saturating_add(slice.bytes);
        slice.bytes == 0 || self.stretches.iter().any(|&(from, to)| from <= slice.offset && end <= to)
    }

    pub(super) fn is_whole(&self) -> bool {
        self.bytes == 0 || self.stretches.iter().any(|&(from, to)| from == 0 && to >= self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BufferId;

    fn part(offset: usize, bytes: usize) -> Slice {
        Slice { buffer: BufferId(1), offset, bytes }
    }

    #[test]
    fn stretches_join_in_any_order() {
        let mut coverage = Coverage::of(1000);
        for (offset, bytes) in [(512, 256), (0, 256), (900, 100)] {
            coverage.add(part(offset, bytes));
        }
        assert!(coverage.contains(part(600, 100)) && coverage.contains(part(300, 0)) && !coverage.is_whole());
        assert!(!coverage.contains(part(200, 100)) && !coverage.contains(part(700, 200)));
        coverage.add(part(256, 256));
        assert!(coverage.contains(part(0, 768)) && !coverage.is_whole());
        coverage.add(part(700, 250));
        assert!(coverage.is_whole() && coverage.stretches == [(0, 1000)]);
    }
}
