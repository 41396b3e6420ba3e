//! A process that runs its program again when it dies.
//!
//! What a program can answer to, its guard answers to. What ends the whole process, a driver's crash, the system's memory, a
//! hang, only another process can answer to: this one starts the program as a child, watches its heartbeat, and starts it
//! again. The program goes on where its last checkpoint left it; no state is handed over here.

mod after;
pub(crate) mod heartbeat;
mod pulse;

use std::env;
use std::fmt::Display;
use std::io::{self, Write};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::OnceLock;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::Result;
use crate::shutdown::{self, EXIT_AT_ONCE, EXIT_STOPPED, Shutdown};
use after::{Ended, Exit, History, Next, after, report};
use heartbeat::Reader;
use pulse::Pulse;

/// Exit code of [`supervise`] when running the program again makes no sense: `EX_SOFTWARE` of the BSD header `sysexits.h`, so
/// that a service manager can be told to leave it at that.
pub const EXIT_GAVE_UP: u8 = 70;

/// Holds the number of the process that supervises this one.
const SUPERVISED: &str = "EVERSTEP_SUPERVISED";
/// Holds how often the program was started again.
const RESTARTS: &str = "EVERSTEP_RESTARTS";

/// Time between two looks at the child.
const INTERVAL: Duration = Duration::from_millis(50);
/// Time in which a killed process has to be gone.
const KILL_PATIENCE: Duration = Duration::from_secs(60);

/// How a program is supervised. A field that is absent in serialised form takes the default's value.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Supervision {
    /// The most restarts in a row without progress: without a crash at a later step than any before.
    pub restarts: u32,
    /// Milliseconds until a restart, the first in a row; they double with each further one.
    pub first_delay_ms: u64,
    /// The most milliseconds until a restart.
    pub longest_delay_ms: u64,
    /// The run hangs when no step has begun for so many times the 99th percentile of the times between its last 512 steps.
    pub hang_factor: f64,
    /// The fewest milliseconds that are a hang: below it are a busy machine and an evaluation between two steps.
    pub hang_floor_ms: u64,
    /// Milliseconds that a run may take until its first step, between epochs, for its first 20 steps, and to stop when it was
    /// asked to. A program that does something else for longer needs more.
    pub startup_ms: u64,
}

impl Default for Supervision {
    fn default() -> Self {
        Self {
            restarts: 10,
            first_delay_ms: 500,
            longest_delay_ms: 60_000,
            hang_factor: 50.0,
            hang_floor_ms: 30_000,
            startup_ms: 600_000,
        }
    }
}

/// Runs a program in a child process, and runs it again when it crashes or hangs, until it ends by itself, a signal asks for
/// the stop, or it crashes twice in a row at the same step, which is then not the machine's fault.
///
/// Called in `main` before anything else: the child is the same executable with the same arguments, and runs `program` as
/// [`run`](crate::run) does. It has to save its state and to go on from it by itself. Its input and output are this process's.
///
/// A signal to this process is passed on to the child, which stops in its own time; a second one, a second or more after the
/// first, kills it. On Windows the console tells both of Ctrl-C. Where this process is killed, the child goes on alone.
///
/// The exit code is 0 when the program has ended well; [`EXIT_STOPPED`] when it has stopped as asked; [`EXIT_AT_ONCE`] after
/// two signals; [`EXIT_GAVE_UP`], with a report on the standard error stream; or that of a child which ended otherwise after
/// it was asked to stop.
///
/// ```no_run
/// use everstep_fault::{Supervision, supervise};
/// use std::process::ExitCode;
///
/// fn main() -> ExitCode {
///     supervise(&Supervision::default(), train)
/// }
/// # fn train() -> everstep_fault::Result<()> { Ok(()) }
/// ```
pub fn supervise<E: Display>(config: &Supervision, program: impl FnOnce() -> Result<(), E>) -> ExitCode {
    ExitCode::from(exit_code_of(config, program))
}

/// How often [`supervise`] has started this program again; 0 in a process that it did not start.
pub fn restarts() -> u32 {
    let number = || env::var(RESTARTS).ok()?.parse().ok();
    if is_supervised() { number().unwrap_or(0) } else { 0 }
}

/// Whether this process is the child that [`supervise`] has started. What that child starts inherits the variables, and is not.
fn is_supervised() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| {
        let Ok(supervisor) = env::var(SUPERVISED) else { return false };
        #[cfg(unix)]
        return supervisor == std::os::unix::process::parent_id().to_string();
        #[cfg(not(unix))]
        return !supervisor.is_empty();
    })
}

fn exit_code_of<E: Display>(config: &Supervision, program: impl FnOnce() -> Result<(), E>) -> u8 {
    if is_supervised() {
        return shutdown::exit_code_of(program);
    }
    let shutdown = Shutdown::counting_signals().unwrap_or_else(|error| {
        tell(format!("{error}: a signal to this process will not reach the program"));
        Shutdown::default()
    });
    let mut history = History::default();
    loop {
        let mut ended = match Supervised::start(history.restarts, config) {
            Ok(child) => child.watch(&shutdown),
            Err(error) => {
                let exit = Exit::Unknown(format!("it could not be started: {error}"));
                Ended { exit, step: None, asked: false }
            }
        };
        // The signal that stops this process may have ended the child before a look at either.
        ended.asked |= shutdown.requested();
        match after(&history, &ended, config) {
            Next::Exit(code) => return code,
            Next::GiveUp(reason) => {
                tell(report(reason, &history, &ended));
                return EXIT_GAVE_UP;
            }
            Next::Restart { delay, history: next } => {
                tell_of_restart(&ended, delay, &next);
                history = next;
                if !wait(delay, &shutdown) {
                    return EXIT_STOPPED;
                }
            }
        }
    }
}

/// Says something to the person at the terminal, or who reads the job's output: this process has no other task, and a program
/// that dies has seldom set up a log for it.
fn tell(what: impl Display) {
    let _ = writeln!(io::stderr(), "supervise: {what}");
}

fn tell_of_restart(ended: &Ended, delay: Duration, next: &History) {
    let step = ended.step.map_or("before the first step".into(), |step| format!("step {step}"));
    tell(format!("{step}: {}; restart {} begins in {} ms", ended.exit, next.restarts, delay.as_millis()));
}

/// Waits; `false` once a signal asks for the stop.
fn wait(delay: Duration, shutdown: &Shutdown) -> bool {
    let start = Instant::now();
    while !shutdown.requested() {
        let left = delay.saturating_sub(start.elapsed());
        if left.is_zero() {
            return true;
        }
        sleep(left.min(INTERVAL));
    }
    false
}

/// A child that runs the program.
struct Supervised {
    process: Child,
    heartbeat: Reader,
    pulse: Pulse,
    asked: bool,
}

impl Supervised {
    fn start(restarts: u32, config: &Supervision) -> io::Result<Self> {
        let heartbeat = Reader::new()?;
        let process = Command::new(executable()?)
            .args(env::args_os().skip(1))
            .env(SUPERVISED, std::process::id().to_string())
            .env(RESTARTS, restarts.to_string())
            .env(heartbeat::VARIABLE, heartbeat.path())
            .spawn()?;
        Ok(Self { process, heartbeat, pulse: Pulse::new(*config), asked: false })
    }

    /// Watches it to its end.
    fn watch(mut self, shutdown: &Shutdown) -> Ended {
        let mut last = Instant::now();
        loop {
            match self.process.try_wait() {
                Ok(Some(status)) => return self.ended(Exit::of(status)),
                Ok(None) => {}
                Err(error) => return self.ended(Exit::Unknown(format!("how it ended is not known: {error}"))),
            }
            match shutdown.signals() {
                0 => {}
                1 if self.asked => {}
                1 => self.ask(),
                _ => {
                    self.kill();
                    return self.ended(Exit::Code(i32::from(EXIT_AT_ONCE)));
                }
            }
            let now = Instant::now();
            let hung = self.pulse.look(self.heartbeat.read(), now.duration_since(last));
            last = now;
            if let Some(quiet) = hung {
                let exit = if self.kill() { Exit::Hung(quiet) } else { Exit::Stuck };
                return self.ended(exit);
            }
            sleep(INTERVAL);
        }
    }

    /// What is known of it once it is over, its last beat included.
    fn ended(mut self, exit: Exit) -> Ended {
        self.pulse.look(self.heartbeat.read(), Duration::ZERO);
        Ended { exit, step: self.pulse.step(), asked: self.asked }
    }

    /// Kills it: whether it is gone.
    fn kill(&mut self) -> bool {
        let start = Instant::now();
        let _ = self.process.kill();
        while start.elapsed() < KILL_PATIENCE {
            match self.process.try_wait() {
                Ok(None) => sleep(INTERVAL),
                Ok(Some(_)) | Err(_) => return true,
            }
        }
        false
    }

    /// Asks it to stop. It may know already, from the terminal or the service manager: signals that come together are one.
    fn ask(&mut self) {
        self.asked = true;
        self.pulse.stopping();
        // A console tells every process in it, and nothing else gives such a signal there.
        if cfg!(unix) && !self.terminate() {
            tell("there is no `kill` with which the program could be asked to stop: it is ended at once");
            self.kill();
        }
    }

    /// Sends it `SIGTERM` by the system's own command: the standard library knows `SIGKILL` alone. A container may have a shell
    /// that knows how to, and no command of that name. Its number is its own until the child is waited for.
    fn terminate(&self) -> bool {
        let number = self.process.id().to_string();
        let tries: [&[&str]; 2] = [&["kill", "-TERM", &number], &["sh", "-c", "kill -TERM \"$1\"", "sh", &number]];
        tries.iter().any(|words| {
            let mut command = Command::new(words[0]);
            command.args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            command.status().is_ok_and(|status| status.success())
        })
    }
}

/// This executable, as it was called at the start: a build in the meantime may have put another in its place.
fn executable() -> io::Result<std::path::PathBuf> {
    static PATH: OnceLock<std::path::PathBuf> = OnceLock::new();
    if let Some(path) = PATH.get() {
        return Ok(path.clone());
    }
    let path = env::current_exe()?;
    Ok(PATH.get_or_init(|| path).clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::Path;
    use std::process::Output;

    /// Which program is played, in which folder.
    const PROGRAM: &str = "EVERSTEP_TEST_PROGRAM";
    const FOLDER: &str = "EVERSTEP_TEST_FOLDER";

    /// Steps of the program that is played.
    const STEPS: u64 = 60;

    const CONFIG: Supervision = Supervision {
        restarts: 3,
        first_delay_ms: 10,
        longest_delay_ms: 50,
        hang_factor: 50.0,
        hang_floor_ms: 60_000,
        startup_ms: 120_000,
    };

    /// Not a test: what the tests run in a process of its own, which is this test alone, started again.
    #[test]
    #[ignore = "the tests beside it run it as a program"]
    fn program() {
        let (Ok(name), Ok(folder)) = (env::var(PROGRAM), env::var(FOLDER)) else { return };
        // Short where it is looked for alone: a busy machine is soon that slow.
        let hang_floor_ms = if name == "hangs" { 500 } else { CONFIG.hang_floor_ms };
        let config = Supervision { hang_floor_ms, ..CONFIG };
        let code = exit_code_of(&config, || play(&name, Path::new(&folder)));
        std::process::exit(i32::from(code));
    }

    /// A run with a checkpoint at each step, which is its number in a file.
    fn play(name: &str, folder: &Path) -> Result<(), String> {
        let note = |file: &str, text: String| {
            let mut file = fs::OpenOptions::new().create(true).append(true).open(folder.join(file)).unwrap();
            writeln!(file, "{text}").unwrap();
        };
        let shutdown = Shutdown::on_signals().unwrap();
        note("starts", restarts().to_string());
        if name == "never starts" {
            return Err("there is no model".into());
        }
        let checkpoint = folder.join("checkpoint");
        let saved = fs::read_to_string(&checkpoint).ok().and_then(|text| text.parse::<u64>().ok());
        for step in saved.unwrap_or(0) + 1..=STEPS {
            heartbeat::beat(step);
            match (name, restarts()) {
                ("crashes once", 0) | ("crashes always", _) if step == 12 => panic!("as planned"),
                ("crashes further on", times @ 0..5) if step == 5 + u64::from(times) => std::process::exit(3),
                ("crashes anywhere", times) if step == [30, 10, 20, 5, 15][times as usize] => std::process::abort(),
                ("hangs", 0) if step == 40 => sleep(Duration::from_secs(600)),
                ("stops", _) if step == 7 => {
                    shutdown::stopped();
                    return Err("stopped as asked".into());
                }
                ("trains on" | "is deaf", _) if step == 2 => {
                    note("ready", std::process::id().to_string());
                    while name == "is deaf" || !shutdown.requested() {
                        sleep(Duration::from_millis(5));
                    }
                    // Saving takes its time: long enough for the supervisor's signal to come after the terminal's.
                    sleep(Duration::from_millis(400));
                    shutdown::stopped();
                    return Err("stopped as asked".into());
                }
                _ => sleep(Duration::from_millis(1)),
            }
            // What crashes anywhere never gets to saving.
            if name != "crashes anywhere" {
                fs::write(&checkpoint, step.to_string()).unwrap();
            }
        }
        Ok(())
    }

    fn command(name: &str, folder: &Path) -> Command {
        let mut command = Command::new(env::current_exe().unwrap());
        command
            .args(["--exact", "supervise::tests::program", "--ignored", "--nocapture", "--test-threads=1"])
            .env(PROGRAM, name)
            .env(FOLDER, folder)
            .env_remove("RUST_BACKTRACE")
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        command
    }

    /// Exit code, what stood on the error stream, and how often the program had been started again at each of its starts.
    fn outcome(output: &Output, folder: &Path) -> (Option<i32>, String, Vec<u32>) {
        let starts = fs::read_to_string(folder.join("starts")).unwrap();
        let starts = starts.lines().map(|line| line.parse().unwrap()).collect();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned(), starts)
    }

    #[test]
    fn programs_as_a_table() {
        let gave_up = i32::from(EXIT_GAVE_UP);
        for (name, code, starts, said) in [
            ("ends well", 0, vec![0], ""),
            ("stops", i32::from(EXIT_STOPPED), vec![0], "stopped as asked"),
            ("never starts", gave_up, vec![0, 1, 2, 3], "Error: there is no model"),
            ("crashes once", 0, vec![0, 1], "step 12: exit code 101 (a panic); restart 1 begins in 10 ms"),
            ("crashes always", gave_up, vec![0, 1], "given up after 1 restart: the run ended twice at step 12"),
            ("crashes further on", 0, vec![0, 1, 2, 3, 4, 5], "step 9: exit code 3; restart 5"),
            ("crashes anywhere", gave_up, vec![0, 1, 2, 3], "3 of them in a row without progress"),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let output = command(name, folder.path()).output().unwrap();
            let (found, text, found_starts) = outcome(&output, folder.path());
            assert_eq!((found, found_starts), (Some(code), starts), "{name}: {text}");
            assert!(text.contains(said), "{name}: {text}");
        }
    }

    #[test]
    fn a_program_that_hangs_is_killed_and_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let output = command("hangs", folder.path()).output().unwrap();
        let (code, text, starts) = outcome(&output, folder.path());
        assert_eq!((code, &starts[..2]), (Some(0), &[0, 1][..]), "{text}");
        assert!(text.contains("hung: no step began for"), "{text}");
        assert_eq!(fs::read_to_string(folder.path().join("checkpoint")).unwrap(), STEPS.to_string());
    }

    /// What a program does that has the time to answer to signals: process ids of the supervisor and of the program.
    #[cfg(unix)]
    fn signalled(name: &str, send: impl FnOnce(u32, u32)) -> (Option<i32>, String, Vec<u32>, u32) {
        let folder = tempfile::tempdir().unwrap();
        let supervisor = command(name, folder.path()).spawn().unwrap();
        let ready = folder.path().join("ready");
        let number = loop {
            let line = fs::read_to_string(&ready).unwrap_or_default();
            match line.strip_suffix('\n').and_then(|line| line.parse().ok()) {
                Some(number) => break number,
                None => sleep(Duration::from_millis(5)),
            }
        };
        send(supervisor.id(), number);
        let (code, text, starts) = outcome(&supervisor.wait_with_output().unwrap(), folder.path());
        (code, text, starts, number)
    }

    #[cfg(unix)]
    fn kill(signal: &str, processes: &[u32]) -> bool {
        let processes = processes.iter().map(u32::to_string);
        Command::new("kill").arg(signal).args(processes).stderr(Stdio::null()).status().unwrap().success()
    }

    #[cfg(unix)]
    #[test]
    fn a_signal_to_the_supervisor_stops_the_program_in_its_own_time() {
        let (code, text, starts, _) = signalled("trains on", |supervisor, _| assert!(kill("-TERM", &[supervisor])));
        assert_eq!((code, starts), (Some(i32::from(EXIT_STOPPED)), vec![0]), "{text}");
    }

    #[cfg(unix)]
    #[test]
    fn a_signal_to_both_is_one_wish() {
        let both = |supervisor, program| assert!(kill("-INT", &[program, supervisor]));
        let (code, text, starts, _) = signalled("trains on", both);
        assert_eq!((code, starts), (Some(i32::from(EXIT_STOPPED)), vec![0]), "{text}");
    }

    #[cfg(unix)]
    #[test]
    fn a_second_signal_ends_both_at_once() {
        let (code, text, starts, program) = signalled("is deaf", |supervisor, _| {
            assert!(kill("-TERM", &[supervisor]));
            sleep(Duration::from_millis(1500));
            assert!(kill("-TERM", &[supervisor]));
        });
        assert_eq!((code, starts), (Some(i32::from(EXIT_AT_ONCE)), vec![0]), "{text}");
        assert!(!kill("-0", &[program]), "the program still runs");
    }

    #[test]
    fn a_configuration_says_what_it_does_not_know() {
        let read = serde_json::from_str::<Supervision>;
        assert_eq!(read("{}").unwrap(), Supervision::default());
        assert_eq!(read(r#"{"restarts": 3}"#).unwrap(), Supervision { restarts: 3, ..Supervision::default() });
        assert!(read(r#"{"restart": 3}"#).is_err());
    }
}
