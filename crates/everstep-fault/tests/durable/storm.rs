//! Short samples of the storms; the example `crash_storm` runs them whole.

use crate::{Extent, flips, kills, storage_faults};

/// Not a test of its own: the process that a storm starts and kills.
#[test]
#[ignore = "is started by the storm"]
fn trains_and_is_killed() {
    if let Some(line) = kills::child().unwrap() {
        println!("\n{line}");
    }
}

#[test]
fn a_run_that_is_killed_ends_with_the_same_bits() {
    let arguments = ["storm::trains_and_is_killed", "--exact", "--ignored", "--nocapture", "--test-threads=1"];
    let storm = kills::storm(16, 1, &arguments).unwrap();
    assert!(storm.is_right(), "{}", serde_json::to_string(&storm).unwrap());
}

/// The example makes every operation fail.
#[test]
fn no_failing_operation_of_the_storage_loses_a_run() {
    let summary = storage_faults::storage_faults(Extent(9)).unwrap();
    assert!(summary.is_right(), "{}", serde_json::to_string(&summary).unwrap());
}

/// The example flips every byte.
#[test]
fn no_flipped_byte_is_gone_on_with() {
    let summary = flips::flips(Extent(97)).unwrap();
    assert!(summary.is_right(), "{}", serde_json::to_string(&summary).unwrap());
}
