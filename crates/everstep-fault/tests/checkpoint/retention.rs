use everstep_fault::checkpoint::{CheckpointError, Failure, FaultyStorage, Health, MemoryStorage, Retention, Store};

use crate::helpers::{Content, files, open};

fn generations(store: &Store) -> Vec<u64> {
    store.list().unwrap().iter().map(|listed| listed.generation).collect()
}

/// One generation for each, with its trust and metric.
fn saved(storage: &MemoryStorage, health: &[(bool, Option<f64>)]) -> Store {
    let store = open(storage).unwrap();
    for (number, &(trusted, metric)) in health.iter().enumerate() {
        let mut content = Content::small(number as u64 + 1);
        content.manifest.health = Health { trusted, metric, ..Health::default() };
        content.save(&store).unwrap();
    }
    store
}

#[test]
fn each_rule_keeps_its_own() {
    let storage = MemoryStorage::new();
    let metrics = [0.9, 0.2, 0.8, 0.2, 0.7, 0.6, 0.5, 0.4, 0.5, 0.9];
    let store = saved(&storage, &metrics.map(|metric| (true, Some(metric))));
    assert_eq!(store.prune(&Retention { last: 10, every: None, best: 0 }).unwrap(), [0; 0]);
    assert_eq!(store.prune(&Retention { last: 2, every: Some(3), best: 2 }).unwrap(), [1, 5, 7, 8]);
    assert_eq!(generations(&store), [10, 9, 6, 4, 3, 2]);
    assert_eq!(files(&storage, ".safetensors").len(), 7, "each has its own, and all have the frozen one");
    assert_eq!(store.prune(&Retention { last: 1, every: None, best: 1 }).unwrap(), [2, 3, 6, 9]);
    assert_eq!(generations(&store), [10, 4]);
    assert_eq!(store.next_generation().unwrap(), 11);
}

#[test]
fn the_newest_and_the_last_trusted_one_stay() {
    let health = [(true, None), (true, None), (false, None), (false, None), (false, None)];
    let store = saved(&MemoryStorage::new(), &health);
    assert_eq!(store.prune(&Retention { last: 0, every: Some(0), best: 3 }).unwrap(), [1, 3, 4]);
    assert_eq!(generations(&store), [5, 2]);
    assert!(store.load(5).is_ok() && store.load(2).is_ok());
}

#[test]
fn nothing_is_removed_while_a_manifest_is_unknown() {
    let storage = MemoryStorage::new();
    let store = saved(&storage, &[(true, None); 4]);
    let inner = br#"{"format_version":2,"what":"nobody knows"}"#;
    storage.replace("generation-000000000002.json", everstep_fault::checkpoint::seal(inner));
    let before = files(&storage, "");
    assert_eq!(store.prune(&Retention { last: 1, every: None, best: 0 }).unwrap(), [0; 0]);
    assert_eq!(files(&storage, ""), before);
    drop(store);
    // Nor while one cannot be read.
    let storage = MemoryStorage::new();
    drop(saved(&storage, &[(true, None); 2]));
    let before = files(&storage, "");
    for at in 3..20 {
        let faulty = FaultyStorage::new(storage.clone(), at, Failure::PowerLoss);
        assert!(matches!(
            open(&faulty).and_then(|store| store.prune(&Retention { last: 1, every: None, best: 0 })),
            Ok(removed) if removed.is_empty()
        ));
        assert_eq!(files(&storage, ""), before);
    }
}

#[test]
fn those_set_aside_protect_nothing() {
    let storage = MemoryStorage::new();
    let store = saved(&storage, &[(true, None); 3]);
    store.set_aside(2).unwrap();
    assert!(matches!(store.load(2), Err(CheckpointError::Missing { .. })));
    assert!(matches!(store.set_aside(2), Err(CheckpointError::Missing { .. })));
    assert_eq!(store.prune(&Retention::default()).unwrap(), [0; 0]);
    assert_eq!(files(&storage, ".safetensors").len(), 3);
    store.set_aside(3).unwrap();
    assert_eq!(store.next_generation().unwrap(), 4);
}
