//! Every operation of a save, a load and a prune fails in turn, in every way.

use std::io::ErrorKind;
use std::sync::Arc;

use everstep_fault::checkpoint::{
    CheckpointError, Failure, FaultyStorage, Loaded, MemoryStorage, Newest, Retention, Store,
};

use crate::helpers::{Content, open, two_generations};

const FAILURES: [Failure; 8] = [
    Failure::Error(ErrorKind::Other),
    Failure::Error(ErrorKind::NotFound),
    Failure::Error(ErrorKind::Interrupted),
    Failure::ShortWrite,
    Failure::TornWrite,
    Failure::WrongBytes,
    Failure::NoSpace,
    Failure::PowerLoss,
];

/// What is there after `work` has met each failure at each of its operations: `check` is given the storage as it was left,
/// and whether the work succeeded.
fn everywhere<T>(
    start: &MemoryStorage,
    work: impl Fn(&FaultyStorage) -> Result<T, CheckpointError>,
    check: impl Fn(&MemoryStorage, Option<T>, &str),
) {
    let whole = FaultyStorage::new(start.after_power_loss(), u64::MAX, Failure::PowerLoss);
    assert!(work(&whole).is_ok());
    assert!(whole.operations() > 10);
    for failure in FAILURES {
        for at in 0..whole.operations() {
            let memory = start.after_power_loss();
            let outcome = work(&FaultyStorage::new(memory.clone(), at, failure));
            let case = format!("{failure:?} at {at}: {:?}", outcome.as_ref().err());
            let seeds = if failure == Failure::PowerLoss { 8 } else { 2 };
            let succeeded = outcome.ok();
            check_all(&memory, seeds, succeeded, &check, &case);
        }
    }
}

fn check_all<T>(
    memory: &MemoryStorage,
    seeds: u64,
    succeeded: Option<T>,
    check: &impl Fn(&MemoryStorage, Option<T>, &str),
    case: &str,
) {
    // The worst first: what a loss of power now would leave.
    for seed in 0..seeds {
        check(&memory.after_power_loss_seeded(seed), None, &format!("{case}, seed {seed}"));
    }
    check(&memory.after_power_loss(), None, &format!("{case}, nothing but what was synced"));
    check(memory, succeeded, case);
}

fn newest(storage: &MemoryStorage) -> Newest {
    open(storage).unwrap().load_newest().unwrap()
}

#[test]
fn a_save_leaves_the_old_set_or_the_new_one() {
    let (start, contents) = two_generations();
    let new = Content::small(3);
    let is_known = |loaded: &Loaded| new.is(loaded) || contents[1].is(loaded);
    everywhere(
        &start,
        |faulty| new.save(&open(faulty)?),
        |storage, saved, case| {
            let newest = newest(storage);
            assert!(newest.damaged.is_empty(), "{case}: {:?}", newest.damaged);
            assert!(is_known(&newest.loaded.unwrap()), "{case}");
            let store = open(storage).unwrap();
            assert!(contents[0].is(&store.load(1).unwrap()), "{case}: an older one");
            if let Some(saved) = saved {
                assert!(new.is(&store.load(saved.generation).unwrap()), "{case}: what was said to be saved is not");
            }
            let next = Content::small(4);
            let saved = next.save(&store).unwrap_or_else(|error| panic!("{case}: then {error}"));
            assert!(next.is(&store.load(saved.generation).unwrap()), "{case}: the next one");
        },
    );
}

#[test]
fn a_success_is_durable() {
    let (start, _) = two_generations();
    let new = Content::small(3);
    let whole = FaultyStorage::new(start.after_power_loss(), u64::MAX, Failure::PowerLoss);
    new.save(&open(&whole).unwrap()).unwrap();
    for failure in FAILURES {
        for at in 0..whole.operations() {
            let memory = start.after_power_loss();
            let saved = open(&FaultyStorage::new(memory.clone(), at, failure)).and_then(|store| new.save(&store));
            let Ok(saved) = saved else { continue };
            let left = [memory.after_power_loss(), memory.after_power_loss_seeded(at)];
            for storage in left {
                let store = open(&storage).unwrap();
                assert!(new.is(&store.load(saved.generation).unwrap()), "{failure:?} at {at}");
            }
        }
    }
}

#[test]
fn a_load_gives_what_was_saved_or_an_error() {
    let (start, contents) = two_generations();
    everywhere(
        &start,
        |faulty| open(faulty)?.load_newest(),
        |storage, newest, case| {
            if let Some(newest) = newest {
                let loaded = newest.loaded.unwrap_or_else(|| panic!("{case}"));
                assert!(contents.iter().any(|content| content.is(&loaded)), "{case}");
                // One failure passes: it is read once more.
                assert_eq!((loaded.manifest.generation, newest.damaged), (2, vec![]), "{case}");
            }
            let store = Store::read_only(Arc::new(storage.clone()));
            assert!(contents[1].is(&store.load(2).unwrap()), "{case}: nothing was changed");
        },
    );
}

#[test]
fn a_file_that_cannot_be_read_is_not_set_aside() {
    let (start, contents) = two_generations();
    let whole = FaultyStorage::new(start.after_power_loss(), u64::MAX, Failure::PowerLoss);
    open(&whole).unwrap().load(2).unwrap();
    for at in 0..whole.operations() {
        let memory = start.after_power_loss();
        let faulty = FaultyStorage::new(memory.clone(), at, Failure::PowerLoss);
        let outcome = open(&faulty).and_then(|store| store.load_newest());
        assert!(matches!(outcome, Err(CheckpointError::Io { .. })), "at {at}: {outcome:?}");
        assert!(contents[1].is(&open(&memory).unwrap().load_newest().unwrap().loaded.unwrap()), "at {at}");
    }
}

#[test]
fn pruning_loses_nothing_that_stays() {
    let (start, contents) = two_generations();
    let third = Content::small(3);
    third.save(&open(&start).unwrap()).unwrap();
    everywhere(
        &start,
        |faulty| open(faulty)?.prune(&Retention { last: 1, every: None, best: 0 }),
        |storage, removed, case| {
            if removed.is_some_and(|removed| removed == [1, 2]) {
                assert!(open(storage).unwrap().load(1).is_err(), "{case}");
            }
            let newest = newest(storage);
            assert!(newest.damaged.is_empty() && third.is(&newest.loaded.unwrap()), "{case}");
            let store = open(storage).unwrap();
            for listed in store.list().unwrap() {
                // A generation that is still there is whole.
                let index = listed.generation as usize - 1;
                let all = [&contents[0], &contents[1], &third];
                assert!(all[index].is(&store.load(listed.generation).unwrap()), "{case}");
            }
            store.prune(&Retention { last: 1, every: None, best: 0 }).unwrap();
            assert_eq!(crate::helpers::files(storage, ".safetensors").len(), 2, "{case}: files that nothing refers to");
        },
    );
}
