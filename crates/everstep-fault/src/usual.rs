//! What a run's own past calls usual.

/// Times that are looked back at.
pub(crate) const WINDOW: usize = 512;

/// The recent times of something that happens again and again, in milliseconds.
#[derive(Clone, Debug)]
pub(crate) struct Usual {
    // A ring: the oldest is overwritten.
    times: [f32; WINDOW],
    seen: usize,
}

impl Default for Usual {
    fn default() -> Self {
        Self { times: [0.0; WINDOW], seen: 0 }
    }
}

impl Usual {
    /// Takes in a time.
    pub(crate) fn take(&mut self, milliseconds: f64) {
        self.times[self.seen % WINDOW] = milliseconds as f32;
        self.seen += 1;
    }

    /// How many were taken in since the beginning.
    pub(crate) fn seen(&self) -> usize {
        self.seen
    }

    /// The time that 99 of 100 recent ones do not exceed (the 99th percentile by nearest rank); 0 where there are none.
    pub(crate) fn p99(&self) -> f64 {
        let mut times = self.times;
        let times = &mut times[..self.seen.min(WINDOW)];
        if times.is_empty() {
            return 0.0;
        }
        let rank = (times.len() * 99).div_ceil(100);
        f64::from(*times.select_nth_unstable_by(rank - 1, f32::total_cmp).1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_as_a_table() {
        let all = |count: u32| (1..=count).map(f64::from).collect::<Vec<_>>();
        let mostly = |odd: usize| [vec![9.0; odd], vec![1.0; 100 - odd]].concat();
        for (times, expected) in [
            (vec![], 0.0),
            (vec![7.0], 7.0),
            (all(20), 20.0),
            (all(100), 99.0),
            (all(200), 198.0),
            (mostly(1), 1.0),
            (mostly(2), 9.0),
            // Only the last 512 count: from 489 to 1000.
            (all(1000), 488.0 + 507.0),
        ] {
            let mut usual = Usual::default();
            times.iter().for_each(|&time| usual.take(time));
            assert_eq!((usual.p99(), usual.seen()), (expected, times.len()), "{} times", times.len());
        }
    }
}
