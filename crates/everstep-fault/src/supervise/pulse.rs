//! When a silence is a hang.

use std::time::Duration;

use super::Supervision;
use super::heartbeat::Beat;
use crate::usual::{Usual, WINDOW};

/// Beats until it is known what is usual.
const LEAST: u64 = 20;

/// The longest time between two looks that counts in full. Where it was longer, whoever looks stood still too: the machine
/// slept, or the whole job was stopped from the terminal.
const SLICE: Duration = Duration::from_secs(1);

/// What is known of a child's beats.
#[derive(Debug)]
pub(super) struct Pulse {
    config: Supervision,
    usual: Usual,
    last: Option<Beat>,
    quiet: Duration,
    stopping: bool,
}

impl Pulse {
    pub(super) fn new(config: Supervision) -> Self {
        Self { config, usual: Usual::default(), last: None, quiet: Duration::ZERO, stopping: false }
    }

    /// The child was asked to stop: what it saves takes its time.
    pub(super) fn stopping(&mut self) {
        self.stopping = true;
        self.quiet = Duration::ZERO;
    }

    /// The last step that the child has begun.
    pub(super) fn step(&self) -> Option<u64> {
        self.last.map(|beat| beat.step)
    }

    /// Takes in what the heartbeat says, some time after the last look: the length of the silence once it is a hang.
    pub(super) fn look(&mut self, beat: Option<Beat>, passed: Duration) -> Option<Duration> {
        self.quiet += passed.min(SLICE);
        let Some(beat) = beat.filter(|beat| self.last.is_none_or(|last| last.sequence < beat.sequence)) else {
            return (self.quiet > self.limit()).then_some(self.quiet);
        };
        // Neither the start nor a rest is the time of a step.
        if let Some(last) = self.last.filter(|last| !last.rests) {
            let beats = beat.sequence - last.sequence;
            let each = self.quiet.as_secs_f64() * 1e3 / beats as f64;
            (0..beats.min(WINDOW as u64)).for_each(|_| self.usual.take(each));
        }
        (self.last, self.quiet) = (Some(beat), Duration::ZERO);
        None
    }

    fn limit(&self) -> Duration {
        let [floor, startup] = [self.config.hang_floor_ms, self.config.startup_ms].map(Duration::from_millis);
        // By their numbers: fast ones have all come before the second look.
        let runs = !self.stopping && self.last.is_some_and(|beat| !beat.rests && beat.sequence > LEAST);
        if !runs || self.quiet <= floor {
            return if runs { floor } else { floor.max(startup) };
        }
        let usual = Duration::try_from_secs_f64(self.config.hang_factor * self.usual.p99() / 1e3);
        // What no clock can hold is never reached.
        floor.max(usual.unwrap_or(Duration::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: Supervision = Supervision {
        restarts: 1,
        first_delay_ms: 0,
        longest_delay_ms: 0,
        hang_factor: 10.0,
        hang_floor_ms: 2_000,
        startup_ms: 60_000,
    };

    /// A pulse after so many beats with so many milliseconds in between.
    fn after(beats: u64, milliseconds: u64) -> Pulse {
        let mut pulse = Pulse::new(CONFIG);
        for sequence in 1..=beats {
            let beat = Beat { sequence, step: sequence, rests: false };
            assert_eq!(pulse.look(Some(beat), Duration::from_millis(milliseconds)), None);
        }
        pulse
    }

    /// Seconds of silence, looked at every half second, until it is a hang.
    fn silence(pulse: &mut Pulse, beat: Option<Beat>) -> f64 {
        let hung = (0..1000).find_map(|_| pulse.look(beat, Duration::from_millis(500)));
        hung.expect("no hang").as_secs_f64()
    }

    #[test]
    fn the_limit_follows_what_is_usual() {
        let last = |sequence| Some(Beat { sequence, step: sequence, rests: false });
        for (name, mut pulse, beat, expected) in [
            ("no beat", after(0, 0), None, 60.5),
            ("few beats", after(20, 100), last(20), 60.5),
            ("fast steps: the floor", after(21, 100), last(21), 2.5),
            ("all before the first look", after(0, 0), last(21), 2.5),
            ("slow steps", after(21, 900), last(21), 9.5),
            ("a beat that could not be read", after(21, 900), None, 9.5),
        ] {
            assert_eq!(silence(&mut pulse, beat), expected, "{name}");
        }
    }

    #[test]
    fn a_rest_and_a_stop_may_take_as_long_as_the_start() {
        let mut pulse = after(30, 100);
        let rest = Some(Beat { sequence: 31, step: 30, rests: true });
        assert_eq!(pulse.look(rest, Duration::ZERO), None);
        assert_eq!(silence(&mut pulse, rest), 60.5);
        let mut pulse = after(30, 100);
        pulse.stopping();
        assert_eq!(silence(&mut pulse, None), 60.5);
    }

    #[test]
    fn a_time_in_which_nobody_looked_is_no_silence() {
        let mut pulse = after(30, 100);
        assert_eq!(pulse.look(None, Duration::from_secs(3600)), None);
        assert_eq!(silence(&mut pulse, None), 2.5);
    }

    #[test]
    fn steps_between_two_looks_share_the_time() {
        let mut pulse = Pulse::new(CONFIG);
        for sequence in [1, 101, 201] {
            pulse.look(Some(Beat { sequence, step: sequence, rests: false }), Duration::from_secs(1));
        }
        assert_eq!((pulse.usual.seen(), pulse.usual.p99()), (200, 10.0));
    }
}
