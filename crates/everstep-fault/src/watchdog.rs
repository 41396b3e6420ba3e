//! A thread that notices when a run stands still, and says at what.

use std::fmt;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{JoinHandle, ThreadId};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::usual::Usual;

/// Stalls that are kept until they are taken: more say nothing new.
const KEPT: usize = 64;
/// A stall is told again when it has lasted so many times as long.
const AGAIN: f64 = 10.0;
/// A look that comes so much later than it should: the whole process stood still, and not what it waits for.
const OVERSLEPT: Duration = Duration::from_secs(1);

/// What a run is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Outside of a step: an evaluation, or whatever else the program does. It is not watched.
    Outside,
    /// Waiting for a batch.
    Loading,
    /// Everything else of a step: computing, and waiting for the device.
    Computing,
}

/// When a phase is a stall. A field that is absent in serialised form takes the default's value.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WatchdogConfig {
    /// Times as long as 99 of 100 of the last 512 phases of its kind.
    pub factor: f64,
    /// The fewest milliseconds: below it are a busy machine and its scheduler.
    pub floor_ms: u64,
    /// Phases of its kind that are seen first.
    pub least: u32,
}

impl Default for WatchdogConfig {
    fn default() -> Self {
        Self { factor: 20.0, floor_ms: 2_000, least: 20 }
    }
}

/// A phase that lasts far longer than such phases do.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Stall {
    /// Which phase.
    pub phase: Phase,
    /// The step.
    pub step: u64,
    /// How long it has lasted so far.
    pub waited_ms: u64,
    /// What 99 of 100 do not exceed.
    pub usual_ms: f64,
}

/// As a sentence for a person.
impl fmt::Display for Stall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, which) = match self.phase {
            Phase::Outside => ("the program has not gone on to the next step", "pauses"),
            Phase::Loading => ("the data loader has given no batch", "batches"),
            Phase::Computing => ("the device has not answered", "steps"),
        };
        let (waited, usual) = (time(self.waited_ms as f64), time(self.usual_ms));
        write!(f, "step {}: {what} for {waited}, 99 of 100 {which} take at most {usual}", self.step)
    }
}

fn time(milliseconds: f64) -> String {
    match milliseconds {
        short if short < 10.0 => format!("{short:.2} ms"),
        short if short < 1e3 => format!("{short:.0} ms"),
        middling if middling < 1e4 => format!("{:.1} s", middling / 1e3),
        middling if middling < 600e3 => format!("{:.0} s", middling / 1e3),
        long => format!("{:.0} min", long / 60e3),
    }
}

/// The phases of a run, at times that are handed in.
#[derive(Debug)]
struct Phases {
    config: WatchdogConfig,
    phase: Phase,
    step: u64,
    began: Duration,
    // Milliseconds after which the stall that was told is told again.
    again: Option<f64>,
    looked: Duration,
    loading: Usual,
    computing: Usual,
}

impl Phases {
    fn new(config: WatchdogConfig) -> Self {
        let zero = Duration::ZERO;
        let (loading, computing) = (Usual::default(), Usual::default());
        Self { config, phase: Phase::Outside, step: 0, began: zero, again: None, looked: zero, loading, computing }
    }

    fn enter(&mut self, phase: Phase, step: u64, now: Duration) {
        let lasted = milliseconds(now.saturating_sub(self.began));
        match self.phase {
            // A stall is not usual, however often it comes.
            _ if self.again.is_some() => {}
            Phase::Outside => {}
            Phase::Loading => self.loading.take(lasted),
            Phase::Computing => self.computing.take(lasted),
        }
        (self.phase, self.step, self.began, self.again) = (phase, step, now, None);
    }

    /// The stall that is to be told now, at a look that comes `interval` after the one before.
    fn look(&mut self, now: Duration, interval: Duration) -> Option<Stall> {
        let overslept = now.saturating_sub(self.looked).saturating_sub(interval);
        self.looked = now;
        if overslept > OVERSLEPT {
            self.began = (self.began + overslept).min(now);
        }
        let usual = match self.phase {
            Phase::Outside => return None,
            Phase::Loading => &self.loading,
            Phase::Computing => &self.computing,
        };
        let waited = milliseconds(now.saturating_sub(self.began));
        let floor = self.config.floor_ms as f64;
        if waited < self.again.unwrap_or(floor) || usual.seen() < self.config.least as usize {
            return None;
        }
        let usual_ms = usual.p99();
        if waited <= self.config.factor * usual_ms {
            return None;
        }
        self.again = Some(AGAIN * waited);
        Some(Stall { phase: self.phase, step: self.step, waited_ms: waited as u64, usual_ms })
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// What the run and the thread share.
#[derive(Debug)]
struct Shared {
    start: Instant,
    watched: Mutex<Watched>,
    ended: Condvar,
}

#[derive(Debug)]
struct Watched {
    phases: Phases,
    stalls: Vec<Stall>,
    is_over: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Watched> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread: looks until it is over.
    fn watch(&self, interval: Duration, on_stall: impl Fn(&Stall)) {
        let mut watched = self.lock();
        while !watched.is_over {
            let waited = self.ended.wait_timeout(watched, interval);
            watched = waited.unwrap_or_else(PoisonError::into_inner).0;
            let now = self.start.elapsed();
            let Some(stall) = watched.phases.look(now, interval) else { continue };
            if watched.stalls.len() < KEPT {
                watched.stalls.push(stall);
            }
            // The run does not wait for who is told.
            drop(watched);
            on_stall(&stall);
            watched = self.lock();
        }
    }
}

/// Watches the phases of a run from a thread of its own, which ends with it. What is not usual is told once, and again each
/// time that it has lasted ten times as long.
#[derive(Debug)]
pub(crate) struct Watchdog {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    id: ThreadId,
}

impl Watchdog {
    /// Begins to watch, outside of a step. `on_stall` is called from the thread, while the run stands still: what
    /// [`Watchdog::take_stalls`] gives comes too late to say it.
    ///
    /// # Errors
    /// Where the system gives no thread.
    pub(crate) fn start(config: WatchdogConfig, on_stall: impl Fn(&Stall) + Send + 'static) -> io::Result<Self> {
        let watched = Watched { phases: Phases::new(config), stalls: Vec::new(), is_over: false };
        let shared = Arc::new(Shared { start: Instant::now(), watched: Mutex::new(watched), ended: Condvar::new() });
        let interval = Duration::from_millis((config.floor_ms / 8).clamp(5, 250));
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("everstep-watchdog".into())
            .spawn(move || theirs.watch(interval, on_stall))?;
        let id = thread.thread().id();
        Ok(Self { shared, thread: Some(thread), id })
    }

    /// The run goes on with another phase, or with another step.
    pub(crate) fn enter(&self, phase: Phase, step: u64) {
        let now = self.shared.start.elapsed();
        self.shared.lock().phases.enter(phase, step, now);
    }

    /// The stalls that were told since the last call, oldest first.
    pub(crate) fn take_stalls(&self) -> Vec<Stall> {
        std::mem::take(&mut self.shared.lock().stalls)
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.shared.lock().is_over = true;
        self.shared.ended.notify_all();
        // Whoever is told may hold the last handle: a thread does not wait for itself.
        if let Some(thread) = self.thread.take().filter(|_| std::thread::current().id() != self.id) {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    const INTERVAL: Duration = Duration::from_millis(250);

    fn at(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    /// A run of so many steps that load for 2 ms, compute for 10 ms and pause for none, and the time at which it ends.
    fn run_of(steps: u64) -> (Phases, u64) {
        let mut phases = Phases::new(WatchdogConfig::default());
        for step in 1..=steps {
            let begin = 12 * (step - 1);
            phases.enter(Phase::Loading, step, at(begin));
            phases.enter(Phase::Computing, step, at(begin + 2));
            phases.enter(Phase::Outside, step, at(begin + 12));
            phases.look(at(begin + 12), INTERVAL);
        }
        (phases, 12 * steps)
    }

    /// The times, in milliseconds after its begin, at which a phase that does not end is told as a stall.
    fn told(phases: &mut Phases, begin: u64, lasts: u64) -> Vec<Stall> {
        (1..=lasts / 250).filter_map(|look| phases.look(at(begin + 250 * look), INTERVAL)).collect()
    }

    #[test]
    fn what_is_a_stall_as_a_table() {
        for (phase, steps, usual) in [
            (Phase::Loading, 100, Some(2.0)),
            (Phase::Computing, 100, Some(10.0)),
            (Phase::Computing, 20, Some(10.0)),
            // Too few to know what is usual, and what a program does between two steps is its own.
            (Phase::Computing, 19, None),
            (Phase::Outside, 100, None),
        ] {
            let (mut phases, end) = run_of(steps);
            phases.enter(phase, steps + 1, at(end));
            let stalls = told(&mut phases, end, 60_000);
            let expected = usual.map(|usual_ms| Stall { phase, step: steps + 1, waited_ms: 2_000, usual_ms });
            assert_eq!(stalls.first(), expected.as_ref(), "{phase:?} after {steps} steps");
            // Once more at ten times the time, and not at a hundred times yet.
            assert_eq!(stalls.len(), if usual.is_some() { 2 } else { 0 }, "{stalls:?}");
            assert!(stalls.get(1).is_none_or(|again| again.waited_ms == 20_000));
        }
    }

    #[test]
    fn slow_steps_have_a_longer_limit() {
        let mut phases = Phases::new(WatchdogConfig::default());
        for step in 1..=30 {
            phases.enter(Phase::Computing, step, at(1000 * step));
            phases.look(at(1000 * step), INTERVAL);
        }
        let stalls = told(&mut phases, 30_000, 60_000);
        assert_eq!(stalls.iter().map(|stall| stall.waited_ms).collect::<Vec<_>>(), [20_250]);
    }

    #[test]
    fn a_stall_is_not_usual() {
        let (mut phases, mut now) = run_of(100);
        for step in 101..200 {
            phases.enter(Phase::Computing, step, at(now));
            assert_eq!(told(&mut phases, now, 3_000).len(), 1, "step {step}");
            now += 3_000;
            phases.enter(Phase::Outside, step, at(now));
        }
        assert_eq!((phases.computing.p99(), phases.computing.seen()), (10.0, 100));
    }

    #[test]
    fn a_machine_that_slept_is_no_stall() {
        let (mut phases, end) = run_of(100);
        phases.enter(Phase::Computing, 101, at(end));
        assert_eq!(phases.look(at(end + 3_600_000), INTERVAL), None);
        assert_eq!(told(&mut phases, end + 3_600_000, 2_500).len(), 1);
    }

    #[test]
    fn sentences() {
        let stall = Stall { phase: Phase::Computing, step: 120, waited_ms: 41_000, usual_ms: 12.0 };
        let device = "step 120: the device has not answered for 41 s, 99 of 100 steps take at most 12 ms";
        assert_eq!(stall.to_string(), device);
        let stall = Stall { phase: Phase::Loading, waited_ms: 2_345, usual_ms: 0.25, ..stall };
        let loader = "step 120: the data loader has given no batch for 2.3 s, 99 of 100 batches take at most 0.25 ms";
        assert_eq!(stall.to_string(), loader);
        let json = r#"{"phase":"loading","step":120,"waited_ms":2345,"usual_ms":0.25}"#;
        assert_eq!(serde_json::to_string(&stall).unwrap(), json);
    }

    #[test]
    fn a_thread_tells_a_stall_while_it_lasts_and_ends_with_its_handle() {
        // A busy machine may stall any of the short phases, too: only the last one is asked for.
        let config = WatchdogConfig { floor_ms: 100, ..WatchdogConfig::default() };
        let (sender, receiver) = mpsc::channel();
        let watchdog = Watchdog::start(config, move |stall| sender.send(*stall).unwrap()).unwrap();
        for step in 1..=30 {
            watchdog.enter(Phase::Loading, step);
            watchdog.enter(Phase::Computing, step);
            watchdog.enter(Phase::Outside, step);
        }
        watchdog.enter(Phase::Loading, 31);
        let stall = receiver.iter().find(|stall| stall.step == 31).unwrap();
        assert!(stall.phase == Phase::Loading && stall.waited_ms >= 100, "{stall:?}");
        assert!(watchdog.take_stalls().contains(&stall) && watchdog.take_stalls().is_empty());
        drop(watchdog);
        // The thread is gone, and what it sent by.
        assert!(receiver.iter().all(|stall| stall.step == 31));
    }
}
