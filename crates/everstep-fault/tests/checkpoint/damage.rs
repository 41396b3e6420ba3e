//! Every byte of a small checkpoint is damaged in turn.

use everstep_fault::checkpoint::{CheckpointError, MemoryStorage, Storage};

use crate::helpers::{Content, open, two_generations};

const NEWEST: &str = "generation-000000000002.json";

/// The files of generation 2 alone.
fn of_newest(storage: &MemoryStorage) -> Vec<String> {
    let store = open(storage).unwrap();
    let [older, newer] = [1, 2].map(|generation| store.load(generation).unwrap().manifest.files);
    let own = newer.into_iter().filter(|file| !older.contains(file)).map(|file| file.name);
    own.chain([NEWEST.to_owned()]).collect()
}

/// Loading says so, an older generation is taken, and the damaged one is tried no more.
fn is_noticed(start: &MemoryStorage, older: &Content, name: &str, bytes: Option<Vec<u8>>, thorough: bool, case: &str) {
    let storage = if thorough { start.after_power_loss() } else { start.clone() };
    match bytes {
        Some(bytes) => storage.replace(name, bytes),
        None => storage.remove(name).unwrap(),
    }
    let store = open(&storage).unwrap();
    let Err(error) = store.load(2) else { panic!("{case}") };
    let missing = matches!(error, CheckpointError::Missing { .. });
    assert!(matches!(error, CheckpointError::Damaged { .. }) || missing, "{case}: {error}");
    assert!(store.verify(2).is_err(), "{case}");
    if thorough && !missing {
        let newest = store.load_newest().unwrap();
        assert!(older.is(&newest.loaded.unwrap()), "{case}");
        assert_eq!(newest.damaged, [(2, error)], "{case}");
        assert!(storage.content(&format!("{NEWEST}.bad")).is_some(), "{case}");
        assert!(store.load_newest().unwrap().damaged.is_empty(), "{case}: never tried again");
        assert_eq!(store.set_aside_before().unwrap(), [2]);
        assert_eq!(store.next_generation().unwrap(), 3, "{case}: nor its number used again");
    }
}

#[test]
fn every_flipped_bit_is_noticed() {
    let (start, contents) = two_generations();
    for name in of_newest(&start) {
        let whole = start.content(&name).unwrap();
        for byte in 0..whole.len() {
            for bit in 0..8 {
                let mut bytes = whole.clone();
                bytes[byte] ^= 1 << bit;
                let thorough = bit as usize == byte % 8;
                is_noticed(&start, &contents[0], &name, Some(bytes), thorough, &format!("{name}: bit {bit} of {byte}"));
                start.replace(&name, whole.clone());
            }
        }
    }
}

#[test]
fn every_length_is_noticed() {
    let (start, contents) = two_generations();
    for name in of_newest(&start) {
        let whole = start.content(&name).unwrap();
        for length in 0..whole.len() {
            let case = format!("{name}: {length} bytes");
            is_noticed(&start, &contents[0], &name, Some(whole[..length].to_vec()), true, &case);
        }
        for more in [0, b' ', b'\n'] {
            let longer = [&whole[..], &[more]].concat();
            is_noticed(&start, &contents[0], &name, Some(longer), true, &format!("{name}: and {more}"));
        }
        is_noticed(&start, &contents[0], &name, None, true, &format!("{name}: is missing"));
    }
}

#[test]
fn a_manifest_under_another_number_is_noticed() {
    let (storage, contents) = two_generations();
    storage.replace("generation-000000000005.json", storage.content(NEWEST).unwrap());
    let newest = open(&storage).unwrap().load_newest().unwrap();
    assert!(contents[1].is(&newest.loaded.unwrap()));
    assert!(matches!(newest.damaged[..], [(5, CheckpointError::Damaged { .. })]));
}

#[test]
fn one_that_looks_sets_nothing_aside() {
    let (storage, contents) = two_generations();
    storage.replace(NEWEST, b"{}".to_vec());
    let store = everstep_fault::checkpoint::Store::read_only(std::sync::Arc::new(storage.clone()));
    for _ in 0..2 {
        let newest = store.load_newest().unwrap();
        assert!(contents[0].is(&newest.loaded.unwrap()) && newest.damaged.len() == 1);
    }
    assert!(matches!(store.set_aside(1), Err(CheckpointError::ReadOnly { .. })));
    assert!(matches!(contents[0].save(&store), Err(CheckpointError::ReadOnly { .. })));
    assert!(matches!(store.prune(&Default::default()), Err(CheckpointError::ReadOnly { .. })));
}
