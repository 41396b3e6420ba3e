//! Saves that fail, folders that are in use, and generations that are damaged.

use everstep_fault::chaos::Plan;
use everstep_fault::checkpoint::{CheckpointError, MemoryStorage, Retention, Storage, Store};
use everstep_fault::{Checkpointing, Error, Event, Guard};
use everstep_tensor::Device;

use crate::run::{Model, Run, data, guard, on_demand, policy};

/// A full disk fails that save and no more; with room again, the next one works.
#[test]
fn a_full_disk_fails_a_save_and_not_the_run() {
    let device = Device::isolated_cpu();
    let storage = MemoryStorage::new();
    let mut run = Run::new(storage.clone(), on_demand(), &Plan::default(), &device).unwrap();
    run.until(5).unwrap();
    storage.set_capacity(Some(1000));
    run.until(10).unwrap();
    assert!(run.events.iter().any(|event| matches!(event, Event::SaveFailed { .. })), "{:?}", run.events);
    let error = run.guard.save_checkpoint(&mut run.data).unwrap_err();
    let full = |error: &CheckpointError| matches!(error, CheckpointError::Full { .. });
    assert!(matches!(&error, Error::Checkpoint(error) if full(error)), "{error}");
    storage.set_capacity(None);
    let generation = run.guard.save_checkpoint(&mut run.data).unwrap();
    drop(run);
    let run = Run::new(storage, on_demand(), &Plan::default(), &device).unwrap();
    assert_eq!((run.guard.resumed().unwrap().generation, run.pulled()), (generation, 10));
}

#[test]
fn a_folder_has_one_run_at_a_time() {
    let device = Device::isolated_cpu();
    let folder = tempfile::tempdir().unwrap();
    let open = || {
        let (model, mut data) = (Model::new(16, 1, &device), data(&device));
        guard(&model, policy(), &Plan::default()).with_checkpoints_in(folder.path(), on_demand(), &mut data)
    };
    let first: Guard = open().unwrap();
    let error = open().err().unwrap();
    assert!(matches!(&error, Error::Checkpoint(error) if matches!(**error, CheckpointError::Locked { .. })), "{error}");
    drop(first);
    open().unwrap();
}

/// The newest one that is whole is taken; the damaged one is told once, and not looked at again.
#[test]
fn a_damaged_generation_is_passed_over() {
    let device = Device::isolated_cpu();
    let storage = MemoryStorage::new();
    let mut run = Run::new(storage.clone(), on_demand(), &Plan::default(), &device).unwrap();
    run.until(5).unwrap();
    run.until(10).unwrap();
    drop(run);
    let newest = storage.list().unwrap().into_iter().filter(|name| name.ends_with(".json")).max().unwrap();
    let mut content = storage.content(&newest).unwrap();
    let middle = content.len() / 2;
    content[middle] ^= 4;
    storage.replace(&newest, content);
    let mut run = Run::new(storage.clone(), on_demand(), &Plan::default(), &device).unwrap();
    assert_eq!(run.pulled(), 5);
    run.until(7).unwrap();
    assert!(run.events.iter().any(|event| matches!(event, Event::GenerationDamaged { .. })), "{:?}", run.events);
    drop(run);
    let mut run = Run::new(storage, on_demand(), &Plan::default(), &device).unwrap();
    run.until(8).unwrap();
    assert!(!run.events.iter().any(|event| matches!(event, Event::GenerationDamaged { .. })), "{:?}", run.events);
}

/// The best by the metric that the program reports, and the run's ancestry.
#[test]
fn the_best_generations_stay() {
    let device = Device::isolated_cpu();
    let storage = MemoryStorage::new();
    let retention = Retention { last: 1, best: 1, ..Retention::default() };
    let config = Checkpointing { retention, ..on_demand() };
    let mut run = Run::new(storage.clone(), config, &Plan::default(), &device).unwrap();
    for (steps, metric) in [(3, 0.5), (6, 0.2), (9, 0.9), (12, 0.4)] {
        run.until(steps).unwrap();
        run.guard.report_metric(metric);
        run.guard.save_checkpoint(&mut run.data).unwrap();
    }
    drop(run);
    let metrics = |storage: &MemoryStorage| -> Vec<_> {
        let listed = Store::read_only(std::sync::Arc::new(storage.clone())).list().unwrap();
        listed.into_iter().map(|listed| listed.outcome.unwrap()).collect()
    };
    let found = metrics(&storage);
    assert_eq!(found.iter().map(|m| m.health.metric.unwrap()).collect::<Vec<_>>()[..2], [0.4, 0.2], "{found:?}");
    let mut run = Run::new(storage.clone(), config, &Plan::default(), &device).unwrap();
    run.until(14).unwrap();
    let newest = &metrics(&storage)[0];
    let parent = newest.parent.clone().unwrap();
    assert_eq!((&parent.run, parent.generation), (&found[0].run, found[0].generation));
    assert_ne!(newest.run, parent.run);
}
