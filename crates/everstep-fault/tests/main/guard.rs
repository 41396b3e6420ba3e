//! Guarded runs with faults: they end with the bits of the run without the fault, or of the one that leaves the same batches
//! out.

use std::cell::Cell;
use std::sync::{Arc, Mutex, PoisonError};

use everstep_data::{Batch, Cursor, Loader, LoaderConfig};
use everstep_device::control::fault;
use everstep_device::{Buffer, Command, Slice, Work};
use everstep_fault::{Answer, Budget, Cause, Error, Event, Guard, Policy};
use everstep_nn::{Linear, Module};
use everstep_optim::{AdamW, Rule};
use everstep_tensor::{Activation, Device, Generator, Tensor, Verdict};

#[derive(Module)]
#[module(crate = everstep_nn)]
struct Model {
    hidden: Linear,
    output: Linear,
}

impl Model {
    fn new(device: &Device) -> Self {
        let mut generator = Generator::new(1);
        let hidden = Linear::new(64, 24, &mut generator, device).unwrap();
        Self { hidden, output: Linear::new(24, 10, &mut generator, device).unwrap() }
    }

    fn loss(&self, x: &Tensor, y: &Tensor) -> Result<Tensor, Error> {
        let hidden = self.hidden.forward_with(x, Activation::Relu)?;
        Ok(self.output.forward(&hidden)?.cross_entropy(y)?)
    }
}

const EPOCHS: usize = 2;
const BATCH: usize = 64;

/// A run of some epochs, batch by batch.
struct Run {
    model: Model,
    guard: Guard,
    loader: Loader,
    events: Vec<Event>,
}

impl Run {
    fn new(policy: Policy, device: &Device) -> Self {
        let model = Model::new(device);
        let guard = Guard::new(&model, AdamW::new(3e-3), policy).unwrap();
        let loader =
            Loader::new(everstep_data::digits().unwrap(), LoaderConfig::new(BATCH).shuffle(7), device).unwrap();
        Self { model, guard, loader, events: Vec::new() }
    }

    /// One step; `None` at the end of an epoch.
    fn step(&mut self, harm: impl Fn(&Batch) -> Option<Batch>) -> Result<Option<Cursor>, Error> {
        let Self { model, guard, loader, events } = self;
        let report = guard.step(loader, |batch| {
            let harmed = harm(batch);
            let batch = harmed.as_ref().unwrap_or(batch);
            model.loss(&batch.x, &batch.y)
        })?;
        events.extend(report.iter().flat_map(|report| report.events.clone()));
        if report.is_none() {
            events.extend(guard.take_events());
        }
        Ok(report.map(|report| report.place.cursor))
    }

    fn epochs(&mut self, harm: impl Fn(&Batch) -> Option<Batch>) -> Result<(), Error> {
        for _ in 0..EPOCHS {
            while self.step(&harm)?.is_some() {}
        }
        Ok(())
    }

    /// Every bit of the parameters and the optimizer's states.
    fn bits(&self) -> Vec<Vec<u32>> {
        let optimizer = self.guard.optimizer();
        let buffers = optimizer.states().iter().chain([optimizer.arena().values()]);
        buffers.map(words).collect()
    }

    fn recovered(&self) -> Vec<Cause> {
        let cause = |event: &Event| match event {
            Event::Recovered { diagnosis } => Some(diagnosis.cause),
            _ => None,
        };
        self.events.iter().filter_map(cause).collect()
    }
}

pub(crate) fn words(buffer: &Buffer) -> Vec<u32> {
    let parts = buffer.device().read(&[buffer.region().slice()]).unwrap().wait().unwrap();
    bytemuck::pod_collect_to_vec(&parts[0])
}

fn flip(buffer: &Buffer, index: usize, bit: u32) {
    let word = words(buffer)[index] ^ 1 << bit;
    let slice = Slice { offset: index * 4, bytes: 4, ..buffer.region().slice() };
    let work = Work::Upload(Arc::from(word.to_le_bytes()));
    buffer.device().record(Command { op: "flip", work, inputs: vec![], outputs: vec![slice] }).unwrap();
}

fn at(batch: u64) -> Cursor {
    Cursor { seed: 7, epoch: 0, position: batch * BATCH as u64 }
}

fn times(batch: &Batch, factor: f32) -> Batch {
    Batch { x: batch.x.mul_scalar(factor).unwrap(), ..batch.clone() }
}

/// The GPU is one device for the whole process, with one set of counters: one test has it at a time.
pub(crate) fn on_each_device(test: impl Fn(&Device)) {
    static GPU: Mutex<()> = Mutex::new(());
    test(&Device::isolated_cpu());
    if let Some(gpu) = everstep_testing::gpu() {
        let _alone = GPU.lock().unwrap_or_else(PoisonError::into_inner);
        test(&gpu);
    }
}

/// The forward passes of these tests make the faults themselves, by what they know of the host: they must be called.
fn called() -> Policy {
    Policy { capture: false, ..Policy::default() }
}

/// The policy with a lag and an interval that is no multiple of anything.
fn policies() -> impl Iterator<Item = Policy> {
    [0, 4, 8].into_iter().map(|in_flight| Policy { in_flight, interval: 7, snapshot_cost: None, ..called() })
}

/// The bits of a run in which nothing happens but that `left_out` are left out.
fn oracle(left_out: &[u64], device: &Device) -> Vec<Vec<u32>> {
    let model = Model::new(device);
    let mut optimizer = AdamW::new(3e-3).build(&model).unwrap();
    let mut loader =
        Loader::new(everstep_data::digits().unwrap(), LoaderConfig::new(BATCH).shuffle(7), device).unwrap();
    for _ in 0..EPOCHS {
        while let Some(batch) = loader.next_batch().unwrap() {
            if left_out.iter().any(|&index| at(index) == batch.before) {
                continue;
            }
            let loss = model.loss(&batch.x, &batch.y).unwrap();
            loss.backward().unwrap();
            optimizer.step(&loss).unwrap();
        }
    }
    assert!(optimizer.finish().unwrap().iter().all(|record| record.verdict == Verdict::Commit));
    optimizer.states().iter().chain([optimizer.arena().values()]).map(words).collect()
}

#[test]
fn a_clean_run_is_the_run_without_a_guard() {
    on_each_device(|device| {
        let expected = oracle(&[], device);
        for policy in policies().chain([Policy::default(), Policy::strict(), Policy::off()]) {
            let mut run = Run::new(policy, device);
            run.epochs(|_| None).unwrap();
            assert!(run.bits() == expected, "{device}, {policy:?}");
            assert_eq!((run.events.len(), run.guard.tally().actions()), (0, 0), "{:?}", run.events);
        }
    });
}

/// What is gone when the step runs again: the run is as if nothing had happened.
#[test]
fn a_passing_fault_leaves_no_trace() {
    on_each_device(|device| {
        let expected = oracle(&[], device);
        for policy in policies() {
            for factor in [f32::NAN, f32::INFINITY, 1e6] {
                let (mut run, once) = (Run::new(policy, device), Cell::new(true));
                let harm = |batch: &Batch| (batch.before == at(21) && once.take()).then(|| times(batch, factor));
                run.epochs(harm).unwrap();
                let context = format!("{device}, {factor}, {} in flight: {:?}", policy.in_flight, run.events);
                assert!(run.bits() == expected, "{context}");
                assert_eq!(run.recovered(), [Cause::Passing], "{context}");
                assert!(matches!(run.events[0], Event::Detected { place, .. } if place.cursor == at(21)), "{context}");
                assert_eq!(run.guard.tally().actions(), 1, "{context}");
            }
        }
    });
}

/// Batches that are bad each time they come, one and some in a row, in one epoch and at its end.
#[test]
fn bad_batches_are_left_out() {
    on_each_device(|device| {
        let last = 1797 / BATCH as u64;
        for bad in [&[21][..], &[9, 10], &[22, 23, 24, 25, 26], &[last], &[last - 1, last]] {
            let expected = oracle(bad, device);
            for policy in policies() {
                let mut run = Run::new(policy, device);
                let is_bad = |batch: &Batch| bad.iter().any(|&index| at(index) == batch.before);
                run.epochs(|batch| is_bad(batch).then(|| times(batch, f32::NAN))).unwrap();
                let context = format!("{device}, {bad:?}, {} in flight: {:?}", policy.in_flight, run.events);
                let skipped: Vec<_> = bad.iter().map(|&index| at(index)).collect();
                assert_eq!(run.guard.skipped(), skipped, "{context}");
                assert_eq!(run.recovered(), [Cause::Data], "{context}");
                assert!(run.bits() == expected, "{context}");
                // Each is examined once, also where an epoch ends, until the budget of examinations is used up.
                assert_eq!(run.guard.tally().examinations, (bad.len() as u32).min(4), "{context}");
            }
        }
    });
}

/// A bit of a weight or of a moment, from the lowest to the exponent's highest, and a NaN: the run ends with the bits of the
/// one in which no bit has flipped.
#[test]
fn a_flipped_bit_is_undone() {
    on_each_device(|device| {
        let expected = oracle(&[], device);
        for policy in policies() {
            for (buffer, bit) in [(0, 0), (0, 22), (0, 30), (0, 31), (1, 3), (1, 30), (2, 30), (2, 31)] {
                let mut run = Run::new(policy, device);
                for step in 0..1000 {
                    if step == 23 {
                        let optimizer = run.guard.optimizer();
                        let buffer =
                            if buffer == 0 { optimizer.arena().values() } else { &optimizer.states()[buffer - 1] };
                        flip(buffer, optimizer.arena().elements() - 64 - 250, bit);
                    }
                    if run.step(|_| None).unwrap().is_none() && run.loader.cursor().epoch == EPOCHS as u64 {
                        break;
                    }
                }
                let context =
                    format!("{device}, bit {bit} of {buffer}, {} in flight: {:?}", policy.in_flight, run.events);
                assert!(run.bits() == expected, "{context}");
                assert_eq!(run.recovered().len(), 1, "{context}");
                assert!(run.guard.skipped().is_empty(), "{context}");
            }
        }
    });
}

/// A learning rate that is 300 times too high from some step on is limited to what it was: the run is the one whose schedule
/// did not jump.
#[test]
fn a_learning_rate_that_is_too_high_is_limited() {
    on_each_device(|device| {
        let expected = oracle(&[], device);
        for policy in policies() {
            let model = Model::new(device);
            let rate = |committed: u64| if committed < 30 { 3e-3 } else { 0.9 };
            let optimizer = AdamW::new(3e-3).build(&model).unwrap().schedule(rate);
            let guard = Guard::with_optimizer(&model, optimizer, policy).unwrap();
            let loader = Run::new(Policy::off(), device).loader;
            let mut run = Run { model, guard, loader, events: Vec::new() };
            run.epochs(|_| None).unwrap();
            assert_eq!(run.recovered(), [Cause::LearningRate], "{device}: {:?}", run.events);
            assert!(run.bits() == expected, "{device}: {:?}", run.events);
        }
    });
}

/// Faults without end: the budget ends them, with an error that says so, and the state is one that was healthy.
#[test]
fn recovery_ends() {
    on_each_device(|device| {
        for policy in [
            Policy { skips: 5, ..called() },
            Policy { actions: 3, ..called() },
            Policy { capture: false, ..Policy::strict() },
        ] {
            let mut run = Run::new(policy, device);
            let harm = |batch: &Batch| (batch.before.position >= 10 * BATCH as u64).then(|| times(batch, f32::NAN));
            let error = run.epochs(harm).unwrap_err();
            let Error::GaveUp { record, budget, .. } = &error else { panic!("{device}: {error}") };
            let expected = match policy {
                Policy { answer: Answer::Stop, .. } => Budget::Strict,
                Policy { actions: 3, .. } => Budget::Actions,
                _ => Budget::Ladder,
            };
            assert_eq!(*budget, expected, "{device}: {error}");
            assert!(record.faults & fault::LOSS != 0, "{device}: {record:?}");
            let finite = |word: &u32| f32::from_bits(*word).is_finite();
            assert!(run.bits().iter().flatten().all(finite), "{device}");
            let (text, told) = (error.to_string(), run.guard.take_events());
            assert!(text.contains("the loss is not finite") && text.contains("epoch 0, sample"), "{text}");
            assert!(told.iter().any(|event| event.to_string().starts_with("given up")), "{told:?}");
            // The run can go on by hand.
            run.step(|_| None).unwrap();
        }
    });
}

/// A run that stops in the middle of an epoch learns of its last steps, and may go on.
#[test]
fn a_run_can_stop_anywhere() {
    on_each_device(|device| {
        let expected = oracle(&[3], device);
        let mut run = Run::new(called(), device);
        let harm = |batch: &Batch| (batch.before == at(3)).then(|| times(batch, f32::NAN));
        for _ in 0..4 {
            run.step(harm).unwrap();
        }
        let Run { guard, loader, .. } = &mut run;
        guard.finish(loader).unwrap();
        assert_eq!(loader.cursor(), at(3), "{device}");
        assert_eq!(
            guard.take_records().last().map(|record| record.faults & fault::LOSS),
            Some(fault::LOSS),
            "{device}"
        );
        run.epochs(harm).unwrap();
        assert!(run.bits() == expected, "{device}");
    });
}

/// An error of the closure changes nothing, and the batch comes again.
#[test]
fn an_error_of_forward_is_returned() {
    let device = Device::isolated_cpu();
    let expected = oracle(&[], &device);
    let mut run = Run::new(called(), &device);
    let wrong = |model: &Model, batch: &Batch| model.loss(&batch.y, &batch.y);
    for step in 0..5 {
        run.step(|_| None).unwrap();
        let Run { model, guard, loader, .. } = &mut run;
        let error = guard.step(loader, |batch| wrong(model, batch)).unwrap_err();
        assert!(matches!(error, Error::Tensor(_)), "{step}: {error}");
    }
    run.epochs(|_| None).unwrap();
    assert!(run.bits() == expected);
}

#[test]
fn settings_are_checked() {
    let model = Model::new(&Device::isolated_cpu());
    for policy in [
        Policy { snapshots: 0, ..Policy::default() },
        Policy { lower_by: 1.0, ..Policy::default() },
        Policy { lower_by: f64::NAN, ..Policy::default() },
        Policy { probation: 0, ..Policy::default() },
    ] {
        let error = Guard::new(&model, AdamW::new(1e-3), policy).unwrap_err();
        assert!(matches!(error, Error::Setting { .. }), "{policy:?}: {error}");
    }
}
