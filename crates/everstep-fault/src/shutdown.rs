//! Stopping when a signal asks for it, and the exit code that says so.

use std::fmt::Display;
use std::io::Write;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::{Error, Result};

/// Exit code of a run that stopped as asked, with its state saved: the same command goes on. It is `EX_TEMPFAIL` of the
/// BSD header `sysexits.h`, which schedulers take for "try again".
pub const EXIT_STOPPED: u8 = 75;

/// Exit code of a process that a second signal ended at once: that of shells for an interrupted command.
pub const EXIT_AT_ONCE: u8 = 130;

/// Signals that come so close to each other are one wish. A terminal signals a whole process group, service managers and
/// schedulers signal every process of a job, and who supervises a program passes its signal on: one Ctrl-C or one `SIGTERM`
/// often arrives twice.
const TOGETHER: Duration = Duration::from_secs(1);

/// Time that an orderly exit may take: a driver that hangs may hold it up.
const EXIT_PATIENCE: Duration = Duration::from_secs(5);

/// What the signals of this process go to, once they are listened to.
static INSTALLED: Mutex<Option<Shutdown>> = Mutex::new(None);

/// Whether a second signal is left to whoever reads [`Shutdown::signals`].
static SECOND_IS_LEFT: AtomicBool = AtomicBool::new(false);

/// Whether a guard has stopped as asked, and has saved what it had.
static STOPPED: AtomicBool = AtomicBool::new(false);

/// Whether the run is to stop: clones share one answer, and the default one is only asked by [`Shutdown::request`].
///
/// ```
/// use everstep_fault::Shutdown;
///
/// let shutdown = Shutdown::default();
/// assert!(!shutdown.requested());
/// shutdown.clone().request();
/// assert!(shutdown.requested());
/// ```
#[derive(Clone, Debug, Default)]
pub struct Shutdown(Arc<Asked>);

#[derive(Debug, Default)]
struct Asked {
    requested: AtomicBool,
    signals: AtomicU32,
}

impl Shutdown {
    /// Asks for the stop when the process gets `SIGINT`, `SIGTERM` or `SIGHUP`; on Windows when its console tells of Ctrl-C,
    /// Ctrl-Break, of being closed or of the end of the session. A second signal, a second or more after the first, exits
    /// the process at once with [`EXIT_AT_ONCE`]: nothing that was saved is lost, since a checkpoint is whole or not there.
    ///
    /// The signals are listened to once in a process; every later call returns the same answer. `SIGHUP` is listened to even
    /// where the process was started with it ignored, as by `nohup`: a run that is to outlive its terminal is started in a
    /// session of its own instead, as by `setsid`, `tmux` or a service manager.
    ///
    /// # Errors
    /// [`Error::Signals`] where the program listens to them itself, or the system refuses.
    pub fn on_signals() -> Result<Self> {
        let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shutdown) = &*installed {
            return Ok(shutdown.clone());
        }
        let shutdown = Self::default();
        let (asked, mut last) = (shutdown.clone(), None);
        ctrlc::set_handler(move || answer(asked.count(Instant::now(), &mut last))).map_err(|error| {
            let problem = match error {
                ctrlc::Error::System(error) => error.to_string(),
                other => other.to_string(),
            };
            Error::Signals { problem }
        })?;
        *installed = Some(shutdown.clone());
        Ok(shutdown)
    }

    /// As [`Shutdown::on_signals`], for a process that has more to do than to exit when a second signal comes.
    pub(crate) fn counting_signals() -> Result<Self> {
        SECOND_IS_LEFT.store(true, Ordering::SeqCst);
        Self::on_signals()
    }

    /// Whether the run is to stop.
    pub fn requested(&self) -> bool {
        self.0.requested.load(Ordering::Relaxed)
    }

    /// Asks for the stop, as a first signal does.
    pub fn request(&self) {
        self.0.requested.store(true, Ordering::Relaxed);
    }

    /// How many signals have come, those that came together counted as one.
    pub(crate) fn signals(&self) -> u32 {
        self.0.signals.load(Ordering::Relaxed)
    }

    /// Counts a signal: its number, or 0 for one that belongs to the one before.
    fn count(&self, now: Instant, last: &mut Option<Instant>) -> u32 {
        if last.is_some_and(|last| now.duration_since(last) < TOGETHER) {
            return 0;
        }
        *last = Some(now);
        self.request();
        self.0.signals.fetch_add(1, Ordering::SeqCst) + 1
    }
}

/// Answers to a signal, by its number. Runs in a thread of its own, not in the signal's handler.
fn answer(number: u32) {
    if number == 1 {
        tracing::warn!("asked to stop by a signal: the step under way ends first; another signal exits at once");
    } else if number > 1 && !SECOND_IS_LEFT.load(Ordering::SeqCst) {
        tracing::warn!("a second signal: exiting at once");
        // Without this thread, an exit is only as fast as the last driver's clean-up.
        let _ = std::thread::Builder::new().spawn(|| {
            std::thread::sleep(EXIT_PATIENCE);
            std::process::abort();
        });
        std::process::exit(i32::from(EXIT_AT_ONCE));
    }
}

/// Notes that a guard returns [`Error::Stopped`]: what the program makes of that error, [`run`] knows what it was.
pub(crate) fn stopped() {
    STOPPED.store(true, Ordering::SeqCst);
}

/// Whether a guard has returned [`Error::Stopped`] in this process.
pub(crate) fn was_stopped() -> bool {
    STOPPED.load(Ordering::SeqCst)
}

/// Runs a program, and gives the exit code of how it ended: 0, [`EXIT_STOPPED`] after an error with which a guard stopped as
/// asked, 1 after any other. The error stands on the standard error stream.
///
/// ```
/// use everstep_fault::run;
/// use std::process::ExitCode;
///
/// fn main() -> ExitCode {
///     run(|| Ok::<(), everstep_fault::Error>(()))
/// }
/// ```
pub fn run<E: Display>(program: impl FnOnce() -> Result<(), E>) -> ExitCode {
    ExitCode::from(exit_code_of(program))
}

/// As [`run`], as a number: an [`ExitCode`] cannot be looked into.
pub(crate) fn exit_code_of<E: Display>(program: impl FnOnce() -> Result<(), E>) -> u8 {
    let Err(error) = program() else { return 0 };
    let stopped = was_stopped();
    let prefix = if stopped { "" } else { "Error: " };
    // As the end of a program says it where `main` returns an error: a log may go nowhere.
    let _ = writeln!(std::io::stderr(), "{prefix}{error}");
    if stopped { EXIT_STOPPED } else { 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_shared_and_another_is_not() {
        let (one, other) = (Shutdown::default(), Shutdown::default());
        one.clone().request();
        assert!(one.requested() && !other.requested());
        assert_eq!(one.signals(), 0);
    }

    #[test]
    fn signals_that_come_together_are_one() {
        let (shutdown, mut last) = (Shutdown::default(), None);
        let start = Instant::now();
        let after = [0, 1, 999, 1000, 1001, 1999, 2500].map(Duration::from_millis);
        assert_eq!(after.map(|after| shutdown.count(start + after, &mut last)), [1, 0, 0, 2, 0, 0, 3]);
        assert_eq!((shutdown.requested(), shutdown.signals()), (true, 3));
    }

    #[test]
    fn exit_codes_without_a_stop() {
        assert_eq!(exit_code_of(|| Ok::<(), Error>(())), 0);
        assert_eq!(exit_code_of(|| Err("no such model")), 1);
    }

    /// What stands above, in processes of their own: signals are a whole process's.
    #[cfg(unix)]
    mod processes {
        use super::*;
        use std::io::{BufRead, BufReader};
        use std::process::{Command, Stdio};
        use std::thread::sleep;

        const MODE: &str = "EVERSTEP_TEST_SHUTDOWN";

        /// Not a test: what the tests run in a process of its own, which is this test alone.
        #[test]
        #[ignore = "the tests beside it run it as a program"]
        fn program() {
            let Ok(mode) = std::env::var(MODE) else { return };
            let code = exit_code_of(|| {
                let shutdown = Shutdown::on_signals()?;
                assert!(Arc::ptr_eq(&shutdown.0, &Shutdown::on_signals()?.0));
                writeln!(std::io::stderr(), "ready").unwrap();
                while !shutdown.requested() || mode == "deaf" {
                    sleep(Duration::from_millis(5));
                }
                stopped();
                Err::<(), _>(Error::Stopped { generation: Some(7), problem: None })
            });
            std::process::exit(i32::from(code));
        }

        /// Exit code and last line of the program after these signals.
        fn signalled(mode: &str, signals: &[&str]) -> (Option<i32>, String) {
            let mut program = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "shutdown::tests::processes::program", "--ignored", "--nocapture"])
                .env(MODE, mode)
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            let mut lines = BufReader::new(program.stderr.take().unwrap()).lines().map(Result::unwrap);
            assert!(lines.any(|line| line == "ready"));
            for (index, signal) in signals.iter().enumerate() {
                if index > 0 {
                    sleep(TOGETHER + Duration::from_millis(500));
                }
                let sent = Command::new("kill").args([signal, &*program.id().to_string()]).status().unwrap();
                assert!(sent.success());
            }
            let last = lines.last().unwrap_or_default();
            (program.wait().unwrap().code(), last)
        }

        #[test]
        fn each_signal_stops_a_run_that_then_says_so() {
            for signal in ["-INT", "-TERM", "-HUP"] {
                let (code, last) = signalled("listens", &[signal]);
                assert_eq!(code, Some(i32::from(EXIT_STOPPED)), "{signal}: {last}");
                assert_eq!(last, Error::Stopped { generation: Some(7), problem: None }.to_string());
            }
        }

        #[test]
        fn a_second_signal_exits_at_once() {
            assert_eq!(signalled("deaf", &["-INT", "-INT"]).0, Some(i32::from(EXIT_AT_ONCE)));
        }
    }
}
