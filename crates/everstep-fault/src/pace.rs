//! How often snapshots may be taken for what they cost.

use std::time::{Duration, Instant};

/// How long a GPU takes to copy so many bytes, read and written at the 20 GB/s of a slow one: measuring it would have to wait
/// for it.
pub(crate) fn on_gpu(bytes: usize) -> Duration {
    Duration::from_secs_f64(2.0 * bytes as f64 / 20e9)
}

/// The time of a step and of a snapshot.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    last: Option<Instant>,
    // Running mean, in seconds.
    step: Option<f64>,
    snapshot: Duration,
}

impl Pace {
    /// Takes in how long a snapshot takes.
    pub(crate) fn snapshot_takes(&mut self, time: Duration) {
        self.snapshot = time;
    }

    /// A step has ended.
    pub(crate) fn step_ended(&mut self) {
        let now = Instant::now();
        if let Some(last) = self.last.replace(now) {
            let time = (now - last).as_secs_f64();
            self.step = Some(self.step.map_or(time, |mean| mean + 0.1 * (time - mean)));
        }
    }

    /// The fewest steps between snapshots that keep to `share` of their time.
    pub(crate) fn interval(&self, share: f64) -> u64 {
        let steps = self.step.map_or(0.0, |step| self.snapshot.as_secs_f64() / (share * step));
        // A clock that jumps puts snapshots off, but not for ever.
        steps.ceil().clamp(0.0, 10_000.0) as u64
    }
}
