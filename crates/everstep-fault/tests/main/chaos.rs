//! Planned faults, and what the guard finds out about them.

use everstep_data::{Batch, Loader};
use everstep_device::Device;
use everstep_fault::chaos::{Damage, Elements, Fault, Key, Plan, Target};
use everstep_fault::{Cause, Error, Event, Guard, Policy};
use everstep_nn::Linear;
use everstep_optim::Sgd;
use everstep_tensor::{Generator, State, Visit};

use crate::net::{BATCH, STEPS, loader, oracle, policy, run, state};

fn plan(fault: Fault) -> Plan {
    Plan { seed: 0, faults: vec![fault] }
}

/// The ids of the batch of step `step`.
fn samples(step: usize, device: &Device) -> Vec<u64> {
    let mut batches = loader(0, device).unwrap();
    for _ in 1..step {
        Loader::next_batch(&mut batches).unwrap();
    }
    Loader::next_batch(&mut batches).unwrap().unwrap().ids
}

/// A sample that is bad whenever it comes is found by halving and left out: the run is the one without it, in each epoch.
#[test]
fn a_poisoned_sample_is_found() {
    for device in everstep_testing::devices() {
        let ids = samples(12, &device);
        for id in [ids[0], ids[37], ids[BATCH - 1]] {
            let elements = Elements::Number(20);
            let run =
                run(0, plan(Fault { step: 1, key: Key::Sample { id }, elements, ..Fault::at(1) }), policy(), &device);
            let run = run.unwrap();
            assert_eq!(run.guard.quarantined().iter().copied().collect::<Vec<_>>(), [id], "{:?}", run.events);
            assert!(run.guard.skipped().is_empty(), "{:?}", run.events);
            let diagnosis = &run.guard.diagnoses()[0];
            assert_eq!((diagnosis.cause, &diagnosis.samples[..]), (Cause::Data, &[id][..]), "{diagnosis}");
            assert_eq!((diagnosis.on_other_state, diagnosis.with_other_batch), (Some(true), Some(false)));
            let origin = diagnosis.origin.as_ref().unwrap();
            assert_eq!((origin.sample, origin.from.as_deref()), (Some(id), Some("the batch's x")), "{origin}");
            assert_eq!(origin.layer.as_deref(), Some("hidden"), "{origin}");
            assert!(state(run.guard.optimizer()).unwrap() == oracle(0, &[], &[id], &device).unwrap(), "{device}");
        }
    }
}

/// Two of one batch.
#[test]
fn two_poisoned_samples_are_found() {
    let device = Device::isolated_cpu();
    let ids = samples(5, &device);
    let faults = [ids[3], ids[40]].map(|id| Fault { step: 1, key: Key::Sample { id }, ..Fault::at(1) });
    let run = run(0, Plan { seed: 0, faults: faults.to_vec() }, policy(), &device).unwrap();
    let mut expected = vec![ids[3], ids[40]];
    assert!(state(run.guard.optimizer()).unwrap() == oracle(0, &[], &expected, &device).unwrap());
    expected.sort_unstable();
    assert_eq!(run.guard.quarantined().iter().copied().collect::<Vec<_>>(), expected, "{:?}", run.events);
}

/// A machine that computes wrongly from some step on: the run ends with an error that says so, at a state that was healthy.
#[test]
fn a_broken_machine_is_told() {
    let device = Device::isolated_cpu();
    let target = Target::Activation { op: Some("matmul".into()), nth: 1 };
    let run = run(0, plan(Fault { key: Key::From, target, ..Fault::at(30) }), policy(), &device).unwrap();
    let diagnosis = run.guard.diagnoses().last().unwrap();
    assert_eq!((diagnosis.cause, diagnosis.recovered, diagnosis.chaos), (Cause::Computation, false, true));
    assert!(matches!(run.gave_up, Some(Error::GaveUp { .. })) && run.was_finite, "{:?}", run.events);
    let origin = diagnosis.origin.as_ref().unwrap();
    assert_eq!((origin.op, origin.layer.as_deref()), ("matmul", Some("output")), "{origin}");
}

/// A policy that only observes tells what stands out, and changes nothing.
#[test]
fn an_observer_changes_nothing() {
    for device in everstep_testing::devices() {
        // A gradient a million times too large, which is finite.
        let target = Target::Gradient { parameter: "hidden.weight".into() };
        let fault = Fault { target, damage: Damage::Scale { factor: 1e6 }, ..Fault::at(30) };
        let observed = run(0, plan(fault.clone()), Policy::observe(), &device).unwrap();
        let ignored = run(0, plan(fault), Policy::off(), &device).unwrap();
        let told = |event: &Event| matches!(event, Event::Rejected { committed: true, place } if place.step == 30);
        assert!(observed.events.iter().any(told), "{:?}", observed.events);
        assert!(state(observed.guard.optimizer()).unwrap() == state(ignored.guard.optimizer()).unwrap(), "{device}");
        assert_eq!(observed.guard.optimizer().gate().attempts(), observed.guard.optimizer().gate().committed());
        // What is not finite is refused all the same, and a state that changed is told.
        let nan = run(0, plan(Fault::at(30)), Policy::observe(), &device).unwrap();
        assert_eq!(nan.guard.optimizer().gate().attempts(), nan.guard.optimizer().gate().committed() + 1);
        let target = Target::Weight { parameter: "output.bias".into() };
        let flip = Fault { target, elements: Elements::Number(3), damage: Damage::Flip { bit: 0 }, ..Fault::at(30) };
        let flipped = run(0, plan(flip), Policy::observe(), &device).unwrap();
        assert!(flipped.events.iter().any(told), "{:?}", flipped.events);
        assert_eq!(flipped.guard.optimizer().gate().attempts(), flipped.guard.optimizer().gate().committed());
    }
}

/// An update that is not finite holds every step, also where nothing is answered: training goes on all the same.
#[test]
fn an_update_that_is_not_finite_ends_nothing() {
    let device = Device::isolated_cpu();
    let target = Target::State { number: 1, parameter: "hidden.weight".into() };
    let fault = Fault { target, elements: Elements::Number(3), ..Fault::at(10) };
    for policy in [Policy::off(), Policy::observe()] {
        let run = run(0, plan(fault.clone()), policy, &device).unwrap();
        // What was planted in the moment is not an update, and nobody cleans it up: each step from there on is told of and does
        // not count, and the run comes to its end.
        assert!(run.gave_up.is_none(), "{policy:?}");
        let refused = |event: &&Event| matches!(event, Event::Rejected { committed: false, .. });
        let (attempts, told) =
            (run.guard.optimizer().gate().attempts(), run.events.iter().filter(refused).count() as u64);
        assert_eq!((attempts, told), (STEPS, STEPS - 9), "{policy:?}");
        assert_eq!(run.guard.optimizer().gate().committed(), 9, "{policy:?}");
    }
    let run = run(0, plan(fault), policy(), &device).unwrap();
    assert!(run.was_finite && state(run.guard.optimizer()).unwrap() == oracle(0, &[], &[], &device).unwrap());
}

#[test]
fn plans_are_checked() {
    let device = Device::isolated_cpu();
    for fault in [
        Fault::at(0),
        Fault { damage: Damage::Flip { bit: 32 }, ..Fault::at(1) },
        Fault { damage: Damage::Random, ..Fault::at(1) },
        Fault { target: Target::LearningRate, ..Fault::at(1) },
        Fault { target: Target::Labels { classes: 0 }, damage: Damage::Random, ..Fault::at(1) },
    ] {
        assert!(matches!(run(0, plan(fault), policy(), &device), Err(Error::Plan { number: 0, .. })));
    }
    // What is not there is told when it is due, with what there is.
    for target in [
        Target::Weight { parameter: "nowhere".into() },
        Target::Gradient { parameter: "nowhere".into() },
        Target::State { number: 7, parameter: "hidden.weight".into() },
        Target::Batch { tensor: "z".into() },
    ] {
        let error = run(0, plan(Fault { target, ..Fault::at(3) }), policy(), &device).map(drop).unwrap_err();
        assert!(matches!(error, Error::Plan { number: 0, .. }), "{error}");
    }
    let path = std::env::temp_dir().join(format!("everstep_plan_{}.json", std::process::id()));
    let written = plan(Fault { key: Key::Step { steps: 3 }, target: Target::LearningRate, ..Fault::at(5) });
    std::fs::write(&path, serde_json::to_string(&written).unwrap()).unwrap();
    assert_eq!(Plan::from_path(&path).unwrap(), written);
    std::fs::write(&path, r#"{"faults": [{"step": 1, "target": "time"}]}"#).unwrap();
    assert!(matches!(Plan::from_path(&path), Err(Error::File { .. })));
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(Plan::from_path(&path), Err(Error::File { .. })));
}

/// A counter of the program's own.
struct Counter(u64);

impl State for Counter {
    fn visit(&mut self, visit: &mut Visit<'_>) -> everstep_tensor::Result<()> {
        visit.value("count", &mut self.0)
    }
}

/// What a program counts goes back with the rest; a report says that faults are planned, and snapshots keep to their bytes.
#[test]
fn a_programs_own_state_goes_back_too() {
    let device = Device::isolated_cpu();
    let model = Linear::new(64, 10, &mut Generator::new(0), &device).unwrap();
    let (mut batches, mut counter) = (loader(0, &device).unwrap(), Counter(0));
    let target = Target::Weight { parameter: "weight".into() };
    let fault = Fault { target, elements: Elements::Largest, damage: Damage::Flip { bit: 30 }, ..Fault::at(20) };
    // Two snapshots' worth: the slots of a weight and a bias.
    let most = 2 * 4 * (640 + 64) + 5000;
    let policy = Policy { in_flight: 0, snapshot_bytes: Some(most), ..policy() };
    let guard = Guard::new(&model, Sgd::new(0.1), policy).unwrap();
    let mut guard = guard.with_chaos(plan(fault)).unwrap();
    let mut events = Vec::new();
    for _ in 0..28 {
        let mut pair = (&mut batches, &mut counter);
        let report = guard.step(&mut pair, |batch| Ok::<_, Error>(model.forward(&batch.x)?.cross_entropy(&batch.y)?));
        let report = report.unwrap().unwrap();
        assert!(report.chaos);
        counter.0 += 1;
        // Counted from the place that the report is about.
        if report.events.is_empty() && report.place.step > 25 {
            assert_eq!(counter.0, report.place.step - u64::from(rewound(&events) > 0), "{events:?}");
        }
        events.extend(report.events);
    }
    assert_eq!(rewound(&events), 1, "{events:?}");
    assert!(guard.ring().bytes() <= most, "{}", guard.ring().bytes());
}

/// What the host has of a GPU's run is enough to go on with elsewhere: another guard that takes it over ends with the same bits.
#[test]
fn a_run_goes_on_from_its_mirror() {
    let Some(device) = everstep_testing::gpu() else { return };
    let make = || {
        let model = Linear::new(64, 10, &mut Generator::new(0), &device).unwrap();
        let guard = Guard::new(&model, Sgd::new(0.1).momentum(0.9), policy()).unwrap();
        (model, guard, loader(0, &device).unwrap())
    };
    let steps = |(model, guard, batches): &mut (Linear, Guard, _), count: u64| {
        while guard.optimizer().gate().latest() < count {
            let forward = |batch: &Batch| Ok::<_, Error>(model.forward(&batch.x)?.cross_entropy(&batch.y)?);
            guard.step(batches, forward).unwrap();
        }
        guard.finish(batches).unwrap();
        state(guard.optimizer()).unwrap()
    };
    let (mut first, mut second) = (make(), make());
    let expected = steps(&mut first, 40);
    let (attempt, mirror) = first.1.mirror().unwrap();
    assert!(attempt >= 5 && mirror.bytes() >= 2 * 4 * 650, "{attempt}");
    let snapshot = mirror.upload(&device).unwrap();
    second.1.restore(&snapshot, &mut second.2).unwrap();
    assert_eq!(second.1.optimizer().gate().committed(), attempt);
    assert!(steps(&mut second, 40) == expected);
}

fn rewound(events: &[Event]) -> usize {
    events.iter().filter(|event| matches!(event, Event::Rewound { .. })).count()
}
