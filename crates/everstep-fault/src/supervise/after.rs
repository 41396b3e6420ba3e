//! What follows the end of a supervised run: a pure function, tested as a table.

use std::fmt;
use std::process::ExitStatus;
use std::time::Duration;

use super::Supervision;
use crate::shutdown::{EXIT_AT_ONCE, EXIT_STOPPED};

/// How a child ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Exit {
    /// By itself.
    Code(i32),
    /// By a signal.
    Signal(i32),
    /// Silent for so long that it was ended.
    Hung(Duration),
    /// Hung, and it did not end when it was killed: another beside it would write where it writes.
    Stuck,
    /// It did not start, or how it ended is not known.
    Unknown(String),
}

impl Exit {
    pub(super) fn of(status: ExitStatus) -> Self {
        #[cfg(unix)]
        let signal = std::os::unix::process::ExitStatusExt::signal(&status);
        #[cfg(not(unix))]
        let signal = None;
        match (status.code(), signal) {
            (Some(code), _) => Self::Code(code),
            (None, Some(signal)) => Self::Signal(signal),
            (None, None) => Self::Unknown(status.to_string()),
        }
    }

    /// The code with which a process that only passes it on exits: that of shells for a signal.
    fn passed_on(&self) -> u8 {
        match self {
            Self::Code(code) => u8::try_from(*code).unwrap_or(1),
            Self::Signal(signal) => u8::try_from(128 + signal).unwrap_or(1),
            Self::Hung(_) | Self::Stuck => 128 + 9,
            Self::Unknown(_) => 1,
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // As Windows writes what ended a process.
            Self::Code(code) if *code < 0 => write!(f, "exit code {code:#x}"),
            Self::Code(101) => write!(f, "exit code 101 (a panic)"),
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => match signal {
                4 => write!(f, "signal 4 (SIGILL)"),
                6 => write!(f, "signal 6 (SIGABRT)"),
                8 => write!(f, "signal 8 (SIGFPE)"),
                9 => write!(f, "signal 9 (SIGKILL: perhaps the system was out of memory)"),
                11 => write!(f, "signal 11 (SIGSEGV)"),
                15 => write!(f, "signal 15 (SIGTERM)"),
                _ => write!(f, "signal {signal}"),
            },
            Self::Hung(quiet) => write!(f, "hung: no step began for {:.1} s, and it was killed", quiet.as_secs_f64()),
            Self::Stuck => write!(f, "hung, and could not be killed: the system or a driver holds it"),
            Self::Unknown(problem) => f.write_str(problem),
        }
    }
}

/// The end of a child.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    /// How.
    pub(super) exit: Exit,
    /// The last step that it had begun.
    pub(super) step: Option<u64>,
    /// Whether a signal had asked for the stop.
    pub(super) asked: bool,
}

/// What is known of the children before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct History {
    /// Restarts altogether.
    pub(super) restarts: u32,
    /// Restarts since the last progress.
    pub(super) in_a_row: u32,
    /// The furthest step of any crash.
    pub(super) furthest: Option<u64>,
    /// The last crash.
    pub(super) last: Option<Ended>,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Exit with this code.
    Exit(u8),
    /// Run it again.
    Restart {
        /// After this time.
        delay: Duration,
        /// What is known then.
        history: History,
    },
    /// A person has to look.
    GiveUp(Reason),
}

/// Why it makes no sense to run it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// It crashes at the same step: the step's fault.
    SameStep,
    /// It crashes at different steps, and gets no further.
    NoProgress,
    /// It still runs.
    Stuck,
}

/// Decides what follows. A crash at another step than the one before is taken for the machine's fault: the program runs again,
/// after a time that doubles until there is progress, a crash further on than any before.
pub(super) fn after(history: &History, ended: &Ended, config: &Supervision) -> Next {
    match &ended.exit {
        Exit::Code(0) => return Next::Exit(0),
        // Who ends a child with two signals has asked for its end as well.
        Exit::Code(code) if [EXIT_STOPPED, EXIT_AT_ONCE].map(i32::from).contains(code) => {
            return Next::Exit(ended.exit.passed_on());
        }
        Exit::Stuck => return Next::GiveUp(Reason::Stuck),
        exit if ended.asked => return Next::Exit(exit.passed_on()),
        _ => {}
    }
    // Before the first step the machine may not be ready yet, such as a driver that is being reset: that has the budget alone.
    let again = history.last.as_ref().is_some_and(|last| last.step == ended.step);
    if again && (ended.step.is_some() || is_usage(&ended.exit)) {
        return Next::GiveUp(Reason::SameStep);
    }
    // No step at all is less than any.
    let in_a_row = if ended.step > history.furthest { 0 } else { history.in_a_row };
    if in_a_row >= config.restarts {
        return Next::GiveUp(Reason::NoProgress);
    }
    let doubled = config.first_delay_ms.saturating_mul(1u64.checked_shl(in_a_row).unwrap_or(u64::MAX));
    Next::Restart {
        delay: Duration::from_millis(doubled.min(config.longest_delay_ms)),
        history: History {
            restarts: history.restarts.saturating_add(1),
            in_a_row: in_a_row + 1,
            furthest: history.furthest.max(ended.step),
            last: Some(ended.clone()),
        },
    }
}

/// Whether the program says that its command line is wrong, as most do by this code.
fn is_usage(exit: &Exit) -> bool {
    matches!(exit, Exit::Code(2))
}

/// What a person reads who has to look.
pub(super) fn report(reason: Reason, history: &History, ended: &Ended) -> String {
    let at = |step: Option<u64>| step.map_or("before its first step".into(), |step| format!("at step {step}"));
    let restarts = match history.restarts {
        0 => "no restart".into(),
        1 => "1 restart".into(),
        many => format!("{many} restarts"),
    };
    let mut lines = vec![match reason {
        Reason::SameStep => format!("given up after {restarts}: the run ended twice {}", at(ended.step)),
        Reason::NoProgress => {
            format!("given up after {restarts}, {} of them in a row without progress", history.in_a_row)
        }
        Reason::Stuck => format!("given up after {restarts}: the run hangs {}", at(ended.step)),
    }];
    let ends = history.last.iter().map(|last| ("the time before", last)).chain([("this time", ended)]);
    lines.extend(ends.map(|(when, ended)| format!("  {when}, {}: {}", at(ended.step), ended.exit)));
    let hung = matches!(ended.exit, Exit::Hung(_));
    lines.push(match (reason, ended.step) {
        (Reason::Stuck, _) => "  end it, or restart the machine, before the same command runs again".into(),
        (_, None) if hung => "  what comes before the first step may need more time: raise `startup_ms`".into(),
        (_, None) => "  its own message, above, says what it lacks; RUST_BACKTRACE=1 shows where a panic began".into(),
        (_, Some(step)) => format!(
            "  look at the batch of step {step}; run with `--policy strict` to stop at the first fault, or with \
             RUST_BACKTRACE=1 to see where a panic began{}",
            if hung { "; where a step may take so long, raise `hang_floor_ms`" } else { "" }
        ),
    });
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: Supervision = Supervision {
        restarts: 3,
        first_delay_ms: 500,
        longest_delay_ms: 1500,
        hang_factor: 50.0,
        hang_floor_ms: 30_000,
        startup_ms: 600_000,
    };

    fn ended(exit: Exit, step: Option<u64>) -> Ended {
        Ended { exit, step, asked: false }
    }

    fn crash(step: Option<u64>) -> Ended {
        ended(Exit::Code(101), step)
    }

    /// The delays in milliseconds of a series of crashes, and why it ended.
    fn series(steps: &[Option<u64>]) -> (Vec<u128>, Option<Reason>) {
        let (mut history, mut delays) = (History::default(), Vec::new());
        for &step in steps {
            match after(&history, &crash(step), &CONFIG) {
                Next::Restart { delay, history: next } => {
                    delays.push(delay.as_millis());
                    assert_eq!(next.restarts as usize, delays.len());
                    history = next;
                }
                Next::GiveUp(reason) => return (delays, Some(reason)),
                Next::Exit(code) => panic!("exit {code}"),
            }
        }
        (delays, None)
    }

    #[test]
    fn crashes_as_a_table() {
        use Reason::{NoProgress, SameStep};
        let (none, at) = (None, Some);
        for (steps, delays, reason) in [
            (vec![at(5)], vec![500], None),
            (vec![at(5), at(5)], vec![500], Some(SameStep)),
            (vec![none], vec![500], None),
            // Before any step the machine may not be ready yet.
            (vec![none, none], vec![500, 1000], None),
            (vec![none, none, none, none], vec![500, 1000, 1500], Some(NoProgress)),
            // Further on each time: it starts afresh, without end.
            (vec![at(5), at(6), at(7), at(8), at(9)], vec![500; 5], None),
            // No further than before: longer and longer, and at last not at all.
            (vec![at(9), at(5), at(7), at(3)], vec![500, 1000, 1500], Some(NoProgress)),
            (vec![at(9), at(5), at(9), at(5)], vec![500, 1000, 1500], Some(NoProgress)),
            (vec![at(9), at(5), at(7), at(10), at(4)], vec![500, 1000, 1500, 500, 1000], None),
            (vec![at(0), none, at(0), at(1)], vec![500, 1000, 1500, 500], None),
        ] {
            assert_eq!(series(&steps), (delays, reason), "{steps:?}");
        }
    }

    #[test]
    fn ends_as_a_table() {
        let hung = Exit::Hung(Duration::from_secs(40));
        for (exit, alone, asked) in [
            (Exit::Code(0), Some(0), 0),
            (Exit::Code(75), Some(75), 75),
            (Exit::Code(130), Some(130), 130),
            (Exit::Code(1), None, 1),
            (Exit::Code(101), None, 101),
            (Exit::Code(-1), None, 1),
            (Exit::Signal(15), None, 143),
            (Exit::Unknown("gone".into()), None, 1),
            (hung, None, 137),
        ] {
            let next = after(&History::default(), &ended(exit.clone(), Some(5)), &CONFIG);
            match alone {
                Some(code) => assert_eq!(next, Next::Exit(code), "{exit}"),
                None => assert!(matches!(next, Next::Restart { .. }), "{exit}: {next:?}"),
            }
            let next = after(&History::default(), &Ended { exit: exit.clone(), step: Some(5), asked: true }, &CONFIG);
            assert_eq!(next, Next::Exit(asked), "{exit}, asked to stop");
        }
        let stuck = ended(Exit::Stuck, Some(5));
        assert_eq!(after(&History::default(), &stuck, &CONFIG), Next::GiveUp(Reason::Stuck));
        let never = Supervision { restarts: 0, ..CONFIG };
        assert_eq!(after(&History::default(), &crash(Some(5)), &never), Next::GiveUp(Reason::NoProgress));
    }

    #[test]
    fn delays_grow_without_overflow() {
        let config = Supervision { restarts: u32::MAX, ..CONFIG };
        for in_a_row in [2, 63, 64, 1000] {
            let history = History { in_a_row, furthest: Some(9), ..History::default() };
            let Next::Restart { delay, .. } = after(&history, &crash(Some(3)), &config) else { panic!("given up") };
            assert_eq!(delay.as_millis(), 1500, "{in_a_row} restarts");
        }
    }

    #[test]
    fn a_report_says_where_how_often_and_what_to_do() {
        let last = Some(ended(Exit::Signal(9), Some(12)));
        let history = History { restarts: 2, in_a_row: 1, furthest: Some(12), last };
        let text = report(Reason::SameStep, &history, &crash(Some(12)));
        for part in
            ["2 restarts", "twice at step 12", "signal 9", "exit code 101", "--policy strict", "RUST_BACKTRACE=1"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
        let text = report(Reason::SameStep, &history, &ended(Exit::Hung(Duration::from_secs(40)), Some(12)));
        assert!(text.contains("40.0 s") && text.contains("hang_floor_ms"), "{text}");
        let text = report(Reason::SameStep, &history, &crash(None));
        assert!(text.contains("before its first step"), "{text}");
    }
}
