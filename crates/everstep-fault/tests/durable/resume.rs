//! A run that ends anywhere and is taken up again.

use std::collections::BTreeMap;

use everstep_fault::chaos::{Damage, Elements, Fault, Key, Plan, Target};
use everstep_fault::checkpoint::MemoryStorage;
use everstep_fault::{Checkpointing, Error, Event, Guard, Shutdown};
use everstep_optim::{AdamW, ReduceOnPlateau, Rule};
use everstep_tensor::Device;

use crate::run::{Model, Run, STEPS, data, on_demand, policy};

/// A passing fault, a state that is spoilt, a batch and a sample that are left out, and a learning rate that jumps.
fn faults() -> Plan {
    let nan = Damage::Nan;
    let batch = || Target::Batch { tensor: "x".into() };
    let weight = Target::Weight { parameter: "hidden.weight".into() };
    Plan {
        seed: 0,
        faults: vec![
            Fault { target: Target::Gradient { parameter: "output.weight".into() }, damage: nan, ..Fault::at(7) },
            Fault { target: weight, elements: Elements::Largest, damage: Damage::Flip { bit: 30 }, ..Fault::at(11) },
            Fault { key: Key::Batch, target: batch(), damage: nan, ..Fault::at(16) },
            Fault { key: Key::Sample { id: 5 }, target: batch(), damage: nan, ..Fault::at(1) },
            Fault {
                key: Key::Step { steps: 3 },
                target: Target::LearningRate,
                damage: Damage::Scale { factor: 1e3 },
                ..Fault::at(25)
            },
        ],
    }
}

/// Ends a run behind `steps` batches, saved or not, and takes it up again.
fn interrupted(steps: u64, saves: bool, plan: &Plan, device: &Device, reference: &Run) {
    let storage = MemoryStorage::new();
    let mut run = Run::new(storage.clone(), on_demand(), plan, device).unwrap();
    run.until(steps / 2).unwrap();
    while run.pulled() < steps {
        run.step().unwrap();
    }
    if saves {
        run.guard.save_checkpoint(&mut run.data).unwrap();
    }
    drop(run);
    let mut run = Run::new(storage, on_demand(), plan, device).unwrap();
    let resumed = run.guard.resumed().unwrap().clone();
    assert!(resumed.other_device.is_none() && resumed.place.step <= steps + 1, "{resumed:?}");
    assert!(saves || resumed.place.step <= steps / 2 + 1, "{resumed:?}");
    let outcome = run.until(STEPS);
    assert!(outcome.is_ok(), "{device}, {steps}, {saves}: {outcome:?} {:?}", run.events);
    assert!(matches!(run.events[0], Event::Resumed { .. }), "{:?}", run.events[0]);
    assert_eq!(run.bits(), reference.bits(), "{device}, {steps}, {saves}");
    let from = *run.losses.keys().next().unwrap();
    let expected: Vec<_> = reference.losses.range(from..).collect();
    assert_eq!(run.losses.iter().collect::<Vec<_>>(), expected, "{device}, {steps}, {saves}");
    // What a program counts by its calls includes those of steps that were refused: how many, depends on when that was known.
    assert!(!plan.faults.is_empty() || run.data.1.samples == reference.data.1.samples, "{device}, {steps}, {saves}");
    assert_eq!(run.guard.skipped(), reference.guard.skipped(), "{device}, {steps}, {saves}");
    assert_eq!(run.guard.quarantined(), reference.guard.quarantined(), "{device}, {steps}, {saves}");
}

fn whole(plan: &Plan, device: &Device) -> Run {
    let mut run = Run::new(MemoryStorage::new(), on_demand(), plan, device).unwrap();
    run.until(STEPS).unwrap();
    run
}

#[test]
fn a_run_goes_on_from_any_step() {
    let device = Device::isolated_cpu();
    let reference = whole(&Plan::default(), &device);
    for steps in 1..STEPS {
        interrupted(steps, true, &Plan::default(), &device, &reference);
    }
    for steps in [2, 9, 29, 33] {
        interrupted(steps, false, &Plan::default(), &device, &reference);
    }
}

/// What was learned of faults is not forgotten: batches and samples stay left out, limits stay set.
#[test]
fn a_run_with_faults_goes_on_from_any_step() {
    let device = Device::isolated_cpu();
    let reference = whole(&faults(), &device);
    assert_eq!((reference.guard.skipped().len(), reference.guard.quarantined().len()), (1, 1));
    assert!(reference.events.iter().any(|event| matches!(event, Event::LearningRateLimited { .. })));
    for steps in 1..STEPS {
        interrupted(steps, true, &faults(), &device, &reference);
    }
}

/// What the program has set by hand, and what a plateau has made of its metrics, is part of the state.
#[test]
fn settings_outlive_the_process() {
    let device = Device::isolated_cpu();
    let open = |storage: MemoryStorage| {
        let (model, mut data) = (Model::new(16, 1, &device), data(&device));
        let plateau = ReduceOnPlateau::new().factor(0.5).patience(1).delay(0);
        let rule = AdamW::new(3e-3).build(&model).unwrap().reduce_on_plateau(plateau).unwrap();
        let guard = Guard::with_optimizer(&model, rule, policy()).unwrap();
        let guard = guard.with_checkpoints(storage, on_demand(), &mut data).unwrap();
        Run { model, guard, data, events: Vec::new(), losses: BTreeMap::new() }
    };
    let train = |run: &mut Run, settings: bool, to: u64| {
        if settings {
            run.until(8).unwrap();
            run.guard.optimizer_mut().set_learning_rate(1e-2);
            for _ in 0..3 {
                let committed = run.guard.optimizer().gate().committed();
                run.guard.optimizer_mut().observe(committed, 1.0).unwrap();
            }
        }
        run.until(to).unwrap();
    };
    let mut reference = open(MemoryStorage::new());
    train(&mut reference, true, STEPS);
    let storage = MemoryStorage::new();
    train(&mut open(storage.clone()), true, 12);
    let mut run = open(storage);
    assert_eq!(run.pulled(), 12);
    assert_eq!(run.guard.optimizer().learning_rate(0, 12), 5e-3);
    train(&mut run, false, STEPS);
    assert_eq!(run.bits(), reference.bits());
}

#[test]
fn a_gpu_goes_on_with_its_bits() {
    let Some(gpu) = everstep_testing::gpu() else { return };
    let reference = whole(&Plan::default(), &gpu);
    for steps in [3, 17, 31] {
        interrupted(steps, true, &Plan::default(), &gpu, &reference);
    }
}

/// From one device to another a run goes on within rounding, and says that it may.
#[test]
fn another_device_is_told() {
    let Some(gpu) = everstep_testing::gpu() else { return };
    let cpu = Device::isolated_cpu();
    for (from, to) in [(&gpu, &cpu), (&cpu, &gpu)] {
        let storage = MemoryStorage::new();
        let mut first = Run::new(storage.clone(), on_demand(), &Plan::default(), from).unwrap();
        first.until(12).unwrap();
        drop(first);
        let mut run = Run::new(storage, on_demand(), &Plan::default(), to).unwrap();
        assert!(run.guard.resumed().unwrap().other_device.is_some());
        let told = |event: &Event| matches!(event, Event::Resumed { device_changed: Some(_), .. });
        run.until(STEPS).unwrap();
        assert!(run.events.iter().any(told), "{:?}", run.events);
        let reference = whole(&Plan::default(), to);
        let losses = |run: &Run| run.losses.values().map(|loss| f32::from_bits(*loss)).collect::<Vec<_>>();
        let expected = losses(&reference);
        let found = losses(&run);
        for (found, expected) in found.iter().rev().zip(expected.iter().rev()) {
            // Differences in the last bits of sums, grown by some 30 steps of Adam.
            assert!((found - expected).abs() < 1e-3 * expected.max(1.0), "{to}: {found} and {expected}");
        }
    }
}

/// A run that is done is not run again.
#[test]
fn a_finished_run_stays_finished() {
    let device = Device::isolated_cpu();
    let storage = MemoryStorage::new();
    let mut run = Run::new(storage.clone(), Checkpointing::default(), &Plan::default(), &device).unwrap();
    run.until(STEPS).unwrap();
    let bits = run.bits();
    drop(run);
    let run = Run::new(storage, Checkpointing::default(), &Plan::default(), &device).unwrap();
    assert_eq!((run.pulled(), run.bits()), (STEPS, bits));
}

/// A stop that is asked for ends the run behind a step, saved.
#[test]
fn a_run_stops_when_asked_to() {
    let device = Device::isolated_cpu();
    let reference = whole(&Plan::default(), &device);
    let storage = MemoryStorage::new();
    let shutdown = Shutdown::default();
    let mut run = Run::new(storage.clone(), on_demand(), &Plan::default(), &device).unwrap();
    run.guard = run.guard.stop_on(shutdown.clone());
    for _ in 0..10 {
        run.step().unwrap();
    }
    shutdown.request();
    let error = run.step().unwrap_err();
    assert!(matches!(error, Error::Stopped { generation: Some(_), problem: None }), "{error}");
    drop(run);
    let mut run = Run::new(storage, on_demand(), &Plan::default(), &device).unwrap();
    assert_eq!(run.pulled(), 10);
    run.until(STEPS).unwrap();
    assert_eq!(run.bits(), reference.bits());
}

/// A process that is gone without a word: the checkpoints that it had saved by itself are enough.
#[test]
fn checkpoints_are_saved_along_the_way() {
    let device = Device::isolated_cpu();
    let reference = whole(&Plan::default(), &device);
    let storage = MemoryStorage::new();
    let often = Checkpointing { write_share: 1.0, ..Checkpointing::default() };
    let mut run = Run::new(storage.clone(), often, &Plan::default(), &device).unwrap();
    while run.pulled() < STEPS - 5 {
        run.step().unwrap();
    }
    // As a crash would: nothing is finished, and the writer is wherever it is.
    let left = storage.after_power_loss();
    assert!(run.guard.ring().kept().iter().any(|kept| kept.1));
    let mut next = Run::new(left, often, &Plan::default(), &device).unwrap();
    next.until(STEPS).unwrap();
    assert_eq!(next.bits(), reference.bits());
    drop(run);
    // Now the writer has ended, and its last one is there.
    let mut next = Run::new(storage.after_power_loss(), often, &Plan::default(), &device).unwrap();
    assert!(next.guard.resumed().unwrap().place.step > 1);
    next.until(STEPS).unwrap();
    assert_eq!(next.bits(), reference.bits());
}
