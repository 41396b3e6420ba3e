//! Mixed precision under a guard: overflows refuse their steps alone, faults are recovered from and a process is taken up
//! again with the same bits, because the loss scale is a word of the control block.

use everstep_fault::chaos::{Damage, Elements, Fault, Plan, Target};
use everstep_fault::checkpoint::MemoryStorage;
use everstep_fault::{Error, Event, Guard, Policy};
use everstep_optim::{AdamW, MixedPrecision, Rule};
use everstep_tensor::{Device, LossScale, control};

use crate::run::{Model, Run, STEPS, data, on_demand, policy};

/// f16 with a scale at which gradients overflow at first and that grows soon, so that they overflow again.
fn f16() -> MixedPrecision {
    let scale = LossScale { initial: 16_777_216.0, interval: 3, ..LossScale::default() };
    MixedPrecision::f16().loss_scale(Some(scale))
}

fn open(
    storage: MemoryStorage,
    mixed: Option<MixedPrecision>,
    policy: Policy,
    plan: &Plan,
    device: &Device,
) -> Result<Run, Error> {
    let (model, mut data) = (Model::new(16, 1, device), data(device));
    let optimizer = AdamW::new(3e-3).build(&model)?.clip_norm(1.0)?;
    let optimizer = if let Some(mixed) = mixed { optimizer.mixed_precision(mixed)? } else { optimizer };
    let guard = Guard::with_optimizer(&model, optimizer, policy)?;
    let guard = if plan.faults.is_empty() { guard } else { guard.with_chaos(plan.clone())? };
    let guard = guard.with_checkpoints(storage, on_demand(), &mut data)?;
    Ok(Run { model, guard, data, events: Vec::new(), losses: std::collections::BTreeMap::new() })
}

fn whole(in_flight: usize, plan: &Plan, device: &Device) -> Run {
    let policy = Policy { in_flight, ..policy() };
    let mut run = open(MemoryStorage::new(), Some(f16()), policy, plan, device).unwrap();
    run.until(STEPS).unwrap();
    run
}

fn rejected(run: &Run) -> usize {
    run.events.iter().filter(|event| matches!(event, Event::Rejected { .. })).count()
}

fn scale(run: &Run) -> f32 {
    f32::from_bits(run.guard.optimizer().gate().read_control().unwrap()[control::LOSS_SCALE])
}

#[test]
fn overflows_refuse_their_steps_alone_whatever_the_lag() {
    for device in everstep_testing::devices() {
        let reference = whole(0, &Plan::default(), &device);
        let refused = rejected(&reference);
        // From 2^24 down to where they fit, and after each three good steps once more or so; nothing else happens.
        assert!((4..STEPS as usize / 2).contains(&refused), "{device}: {refused}");
        let saved = reference.events.iter().filter(|event| matches!(event, Event::Saved { .. })).count();
        assert_eq!(refused + saved, reference.events.len(), "{device}: {:?}", reference.events);
        assert_eq!(reference.guard.optimizer().gate().committed(), STEPS - refused as u64, "{device}");
        assert!(scale(&reference) < 16_777_216.0, "{device}");
        for lag in [4, 8] {
            let run = whole(lag, &Plan::default(), &device);
            assert_eq!(run.bits(), reference.bits(), "{device}, {lag}");
            assert_eq!((rejected(&run), scale(&run)), (refused, scale(&reference)), "{device}, {lag}");
        }
    }
}

/// A batch that is NaN once is a fault and no overflow: it runs again. A weight that was changed in memory is rewound from.
#[test]
fn faults_leave_no_trace() {
    for device in everstep_testing::devices() {
        let reference = whole(4, &Plan::default(), &device);
        let batch = Fault { target: Target::Batch { tensor: "x".into() }, damage: Damage::Nan, ..Fault::at(16) };
        let weight = Target::Weight { parameter: "hidden.weight".into() };
        let (elements, damage) = (Elements::Largest, Damage::Flip { bit: 30 });
        let weight = Fault { target: weight, elements, damage, ..Fault::at(23) };
        for (fault, lag) in [(batch.clone(), 0), (batch, 4), (weight.clone(), 0), (weight, 4)] {
            let plan = Plan { seed: 0, faults: vec![fault] };
            let run = whole(lag, &plan, &device);
            let recovered = run.events.iter().filter(|event| matches!(event, Event::Recovered { .. })).count();
            assert_eq!(recovered, 1, "{device}: {:?}", run.events);
            assert_eq!(run.bits(), reference.bits(), "{device}, {plan:?}: {:?}", run.events);
            assert_eq!(scale(&run), scale(&reference), "{device}, {plan:?}");
        }
    }
}

#[test]
fn a_run_goes_on_from_any_step() {
    let device = Device::isolated_cpu();
    let reference = whole(4, &Plan::default(), &device);
    for steps in [1, 2, 5, 11, 17, 23, 31] {
        let storage = MemoryStorage::new();
        let open = || open(storage.clone(), Some(f16()), policy(), &Plan::default(), &device);
        let mut run = open().unwrap();
        while run.pulled() < steps {
            run.step().unwrap();
        }
        run.guard.save_checkpoint(&mut run.data).unwrap();
        drop(run);
        let mut run = open().unwrap();
        assert!(run.guard.resumed().is_some());
        run.until(STEPS).unwrap();
        assert_eq!(run.bits(), reference.bits(), "{steps}");
        assert_eq!(scale(&run), scale(&reference), "{steps}");
    }
}

/// Another precision is another run.
#[test]
fn a_run_does_not_go_on_in_another_precision() {
    let device = Device::isolated_cpu();
    let storage = MemoryStorage::new();
    let open = |mixed| open(storage.clone(), mixed, policy(), &Plan::default(), &device);
    let mut run = open(None).unwrap();
    run.until(4).unwrap();
    run.guard.save_checkpoint(&mut run.data).unwrap();
    drop(run);
    let error = open(Some(MixedPrecision::bf16())).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("precision"), "{error}");
    assert!(open(Some(MixedPrecision::f16())).is_err());
    assert!(open(None).unwrap().guard.resumed().is_some());
}
