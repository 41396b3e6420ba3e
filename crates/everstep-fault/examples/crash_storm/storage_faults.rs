//! A run over a storage one of whose operations fails, and the run after it over what is left.

use everstep_fault::checkpoint::{Failure, FaultyStorage, MemoryStorage};
use everstep_fault::{Event, Result};
use serde::Serialize;

use crate::Extent;
use crate::net::{Saves, train};

const STEPS: u64 = 60;
const SAVES: Saves = Saves::Every(20);

/// What came of it.
#[derive(Default, Serialize)]
pub(crate) struct Summary {
    /// Operations of a run that saves, and of one that goes on.
    operations: u64,
    /// Runs with a failure.
    runs: u64,
    /// Those that ended all the same, and those that could not begin: a typed error.
    ended: u64,
    refused: u64,
    /// Saves that failed, and were told.
    failed_saves: u64,
    /// Runs behind a failure that went on with a checkpoint.
    resumed: u64,
    lost_runs: u64,
    differing_hashes: u64,
    failures: Vec<String>,
}

impl Summary {
    pub(crate) fn is_right(&self) -> bool {
        // That saves have failed, and no more runs than cannot begin.
        let tried = self.failed_saves > 0 && self.resumed > 0 && self.refused * 10 < self.runs;
        self.lost_runs == 0 && self.differing_hashes == 0 && tried
    }

    fn check(&mut self, what: &str, found: &str, expected: &str) {
        if found != expected {
            self.differing_hashes += 1;
            self.failures.push(format!("{what}: {found} instead of {expected}"));
        }
    }
}

/// Every way to fail.
fn ways() -> [Failure; 6] {
    [
        Failure::Error(std::io::ErrorKind::Other),
        Failure::ShortWrite,
        Failure::TornWrite,
        Failure::WrongBytes,
        Failure::NoSpace,
        Failure::PowerLoss,
    ]
}

/// Makes each operation of a run fail that saves, and of one that goes on with what it saved.
///
/// # Errors
/// Those of the undisturbed runs.
pub(crate) fn storage_faults(extent: Extent) -> Result<Summary> {
    let mut summary = Summary::default();
    let expected = train(MemoryStorage::new(), STEPS, SAVES)?.hash;
    // Saved half way: what the second kind of run begins with.
    let half = MemoryStorage::new();
    train(half.clone(), STEPS / 2, SAVES)?;
    for begun in [None, Some(half)] {
        let copy = || begun.as_ref().map_or_else(MemoryStorage::new, MemoryStorage::after_power_loss);
        let counting = FaultyStorage::new(copy(), u64::MAX, Failure::PowerLoss);
        summary.check("undisturbed", &train(counting.clone(), STEPS, SAVES)?.hash, &expected);
        let operations = counting.operations();
        summary.operations += operations;
        for at in (0..operations).step_by(extent.step()) {
            for way in ways() {
                one(&mut summary, copy(), (at, way), &expected);
            }
        }
    }
    Ok(summary)
}

/// A run whose operation `at` fails, and the one after it.
fn one(summary: &mut Summary, storage: MemoryStorage, (at, way): (u64, Failure), expected: &str) {
    let what = format!("operation {at}, {way:?}");
    summary.runs += 1;
    match train(FaultyStorage::new(storage.clone(), at, way), STEPS, SAVES) {
        Ok(ended) => {
            summary.ended += 1;
            summary.failed_saves += count(&ended.events, |event| matches!(event, Event::SaveFailed { .. }));
            summary.check(&what, &ended.hash, expected);
        }
        Err(_) => summary.refused += 1,
    }
    // The next process, on what a power loss leaves, too.
    let left = if matches!(way, Failure::PowerLoss) { storage.after_power_loss_seeded(at) } else { storage };
    match train(left, STEPS, SAVES) {
        Ok(ended) => {
            summary.resumed += count(&ended.events, |event| matches!(event, Event::Resumed { .. }));
            summary.check(&format!("after {what}"), &ended.hash, expected);
        }
        Err(error) => {
            summary.lost_runs += 1;
            summary.failures.push(format!("after {what}: {error}"));
        }
    }
}

fn count(events: &[Event], wanted: fn(&Event) -> bool) -> u64 {
    events.iter().filter(|event| wanted(event)).count() as u64
}
