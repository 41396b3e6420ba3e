//! Time and memory, taken as the peers' timings take them.

use std::time::{Duration, Instant};

/// How many runs are timed, and for how long at most.
#[derive(Clone, Copy, Debug)]
pub struct Runs {
    /// Runs before the first that counts.
    pub warm_up: usize,
    /// Runs that count.
    pub counted: usize,
    /// Time after which no more than five are counted.
    pub budget: Duration,
}

impl Default for Runs {
    fn default() -> Self {
        Self { warm_up: 5, counted: 25, budget: Duration::from_secs(20) }
    }
}

/// The median time of a run of `work`.
///
/// # Errors
/// Those of `work`.
pub fn median(runs: Runs, mut work: impl FnMut() -> everstep::Result<()>) -> everstep::Result<Duration> {
    for _ in 0..runs.warm_up {
        work()?;
    }
    let (mut times, start) = (Vec::new(), Instant::now());
    while times.len() < runs.counted && (times.len() < 5 || start.elapsed() < runs.budget) {
        let begin = Instant::now();
        work()?;
        times.push(begin.elapsed());
    }
    times.sort_unstable();
    Ok(times.get(times.len() / 2).copied().unwrap_or_default())
}

/// A line of `/proc/self/status` in MiB; `None` where there is none.
fn memory_mib(key: &str) -> Option<f64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find(|line| line.starts_with(key))?;
    Some(line.split_whitespace().nth(1)?.parse::<f64>().ok()? / 1024.0)
}

/// How far this process's resident peak rises above what was resident at the start. Linux only.
#[derive(Clone, Copy, Debug)]
pub struct PeakGrowth(Option<f64>);

impl PeakGrowth {
    /// From here on.
    pub fn start() -> Self {
        // "5" resets the peak.
        let reset = std::fs::write("/proc/self/clear_refs", "5").is_ok();
        Self(memory_mib("VmRSS").filter(|_| reset))
    }

    /// So far, in MiB; `None` where the system does not tell.
    pub fn mib(self) -> Option<f64> {
        Some(memory_mib("VmHWM")? - self.0?)
    }
}
