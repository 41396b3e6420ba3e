//! Captured steps: the same bits as steps that are recorded anew, and the program's forward pass called only where it must be.

use std::cell::{Cell, RefCell};

use everstep_data::{Batch, Loader, LoaderConfig};
use everstep_fault::chaos::{Damage, Fault, Plan, Target};
use everstep_fault::{Error, Event, Guard, Policy};
use everstep_nn::{BatchNorm1d, Dropout, Linear, Module};
use everstep_optim::{AdamW, Rule, Schedule};
use everstep_tensor::{Device, Generator, Tensor};

use crate::guard::words;

#[derive(Module)]
#[module(crate = everstep_nn)]
struct Model {
    hidden: Linear,
    norm: BatchNorm1d,
    dropout: Dropout,
    output: Linear,
}

impl Model {
    fn new(device: &Device) -> Self {
        let mut generator = Generator::new(1);
        let hidden = Linear::new(64, 24, &mut generator, device).unwrap();
        let (norm, dropout) = (BatchNorm1d::new(24, device).unwrap(), Dropout::new(0.2, &mut generator).unwrap());
        Self { hidden, norm, dropout, output: Linear::new(24, 10, &mut generator, device).unwrap() }
    }

    fn loss(&self, batch: &Batch) -> Result<Tensor, Error> {
        let hidden = self.norm.forward(&self.hidden.forward(&batch.x)?)?.relu()?;
        Ok(self.output.forward(&self.dropout.forward(&hidden)?)?.cross_entropy(&batch.y)?)
    }
}

/// On devices of their own: what other tests record on a shared one would come in between.
fn on_each_device(test: impl Fn(&Device)) {
    test(&Device::isolated_cpu());
    if everstep_testing::gpu().is_some() {
        test(&Device::isolated_gpu("").unwrap());
    }
}

/// A run, and how often its forward pass was called.
struct Run {
    model: Model,
    guard: Guard,
    loader: Loader,
    calls: Cell<u32>,
    events: Vec<Event>,
}

impl Run {
    /// 450 samples are seven batches of 64 and one of 2.
    fn new(policy: Policy, device: &Device) -> Self {
        let model = Model::new(device);
        let schedule = Schedule::warm_up(5);
        let optimizer = AdamW::new(3e-3).build(&model).unwrap().clip_norm(1.0).unwrap().schedule(schedule);
        let guard = Guard::with_optimizer(&model, optimizer, policy).unwrap();
        let data = everstep_data::digits().unwrap();
        let data = everstep_data::Subset::new(data.into(), (0..450).collect()).unwrap();
        let loader = Loader::new(data, LoaderConfig::new(64).shuffle(7).prefetch(0), device).unwrap();
        Self { model, guard, loader, calls: Cell::new(0), events: Vec::new() }
    }

    fn epochs(&mut self, count: usize, forward: impl Fn(&Model, &Batch) -> Result<Tensor, Error>) {
        let Self { model, guard, loader, calls, events } = self;
        for _ in 0..count {
            while let Some(report) = guard
                .step(loader, |batch| {
                    calls.set(calls.get() + 1);
                    forward(model, batch)
                })
                .unwrap()
            {
                events.extend(report.events);
            }
            events.extend(guard.take_events());
        }
    }

    fn bits(&self) -> Vec<Vec<u32>> {
        let optimizer = self.guard.optimizer();
        let buffers = optimizer.states().iter().chain([optimizer.arena().values()]);
        let running = self.model.norm.running_mean.tensor().to_vec::<f32>().unwrap();
        buffers.map(words).chain([running.iter().map(|value| value.to_bits()).collect()]).collect()
    }
}

fn policy(capture: bool, in_flight: usize) -> Policy {
    Policy { capture, in_flight, interval: 7, snapshot_cost: None, ..Policy::default() }
}

#[test]
fn captured_steps_give_the_bits_of_recorded_ones() {
    on_each_device(|device| {
        let mut eager = Run::new(policy(false, 4), device);
        eager.epochs(4, Model::loss);
        assert_eq!(eager.calls.get(), 4 * 8);
        for in_flight in [0, 4, 8] {
            let before = device.counters().replays;
            let mut captured = Run::new(policy(true, in_flight), device);
            captured.epochs(4, Model::loss);
            assert_eq!(captured.bits(), eager.bits(), "{device}, {in_flight} steps in flight");
            // Of seven equal batches two are recorded in the first epoch and one in each later one; the short batch of the
            // first two epochs is recorded, and its check in the third and fourth.
            assert_eq!(captured.calls.get(), 2 + 3 + 4, "{device}");
            assert_eq!(device.counters().replays - before, 4 * 8 - 9, "{device}");
        }
    });
}

/// Refused steps, replays with a look at every op, rewinds and trials come between captured steps.
#[test]
fn faults_between_captured_steps_leave_the_bits_of_the_run_without_them() {
    let gradient = Target::Gradient { parameter: "hidden.weight".into() };
    let weight = Target::Weight { parameter: "output.weight".into() };
    let plan = Plan {
        seed: 1,
        faults: vec![
            Fault { target: gradient, ..Fault::at(6) },
            Fault { target: weight, damage: Damage::Flip { bit: 30 }, ..Fault::at(12) },
            Fault { damage: Damage::Infinity, ..Fault::at(14) },
        ],
    };
    on_each_device(|device| {
        let mut clean = Run::new(policy(false, 4), device);
        clean.epochs(3, Model::loss);
        for in_flight in [0, 4] {
            let mut run = Run::new(policy(true, in_flight), device);
            run.guard = run.guard.with_chaos(plan.clone()).unwrap();
            run.epochs(3, Model::loss);
            assert_eq!(run.bits(), clean.bits(), "{device}: {:?}", run.events);
            assert!(run.guard.diagnoses().len() >= 2, "{:?}", run.events);
            assert!(device.counters().replays > 0);
        }
    });
}

#[test]
fn what_cannot_be_captured_is_called_for_each_step() {
    on_each_device(|device| {
        let steps = 2 * 8;
        let calls = |forward: &dyn Fn(&Model, &Batch) -> Result<Tensor, Error>| {
            let mut run = Run::new(policy(true, 4), device);
            run.epochs(2, forward);
            run.calls.get()
        };
        let reads = calls(&|model, batch| {
            let loss = model.loss(batch)?;
            assert!(loss.item::<f32>()?.is_finite());
            Ok(loss)
        });
        assert_eq!(reads, steps, "{device}: a read-back");
        let kept = RefCell::new(Vec::new());
        let keeps = calls(&|model, batch| {
            let loss = model.loss(batch)?;
            kept.borrow_mut().push(loss.detach());
            Ok(loss.mul_scalar(1.0)?)
        });
        assert_eq!(keeps, steps, "{device}: a tensor that is kept");
        let factor = Cell::new(1.0);
        let counts = calls(&|model, batch| {
            factor.set(factor.get() + 0.01);
            Ok(model.loss(batch)?.mul_scalar(factor.get())?)
        });
        assert_eq!(counts, steps, "{device}: a number that changes");
        let uploads = calls(&|model, batch| {
            factor.set(factor.get() + 0.01);
            Ok(model.loss(batch)?.mul(&Tensor::scalar(factor.get(), batch.x.device())?)?)
        });
        assert_eq!(uploads, steps, "{device}: host data that changes");
    });
}

/// A tensor from elsewhere that a captured step reads may go away: its memory is never read again.
#[test]
fn a_tensor_that_is_replaced_ends_the_capture() {
    on_each_device(|device| {
        let run = |capture: bool| {
            let weight = RefCell::new(Tensor::scalar(1.0f32, device).unwrap());
            let mut run = Run::new(policy(capture, 4), device);
            for epoch in 0..3 {
                run.epochs(1, |model, batch| Ok(model.loss(batch)?.mul(&weight.borrow())?));
                *weight.borrow_mut() = Tensor::scalar(2.0 + epoch as f32, device).unwrap();
            }
            run.bits()
        };
        assert_eq!(run(true), run(false), "{device}");
    });
}

/// Switching layers and freezing parameters has the forward pass called again.
#[test]
fn a_switched_layer_and_a_frozen_parameter_are_seen_at_once() {
    on_each_device(|device| {
        let run = |capture: bool| {
            let mut run = Run::new(policy(capture, 4), device);
            let step = |run: &mut Run| {
                let Run { model, guard, loader, .. } = run;
                guard.step(loader, |batch| model.loss(batch)).unwrap();
            };
            (0..5).for_each(|_| step(&mut run));
            run.model.eval();
            step(&mut run);
            run.model.output.weight.set_trainable(false);
            (0..6).for_each(|_| step(&mut run));
            run.bits()
        };
        assert_eq!(run(true), run(false), "{device}");
    });
}

/// Memory that a captured step holds serves others in between, and is given back when memory is short.
#[test]
fn captured_steps_hold_no_more_memory_than_recorded_ones() {
    on_each_device(|device| {
        device.trim().unwrap();
        let peak = |capture: bool| {
            let before = device.counters().memory_bytes;
            let mut run = Run::new(policy(capture, 4), device);
            run.epochs(3, Model::loss);
            let after = device.counters().memory_bytes;
            drop(run);
            device.trim().unwrap();
            after - before
        };
        let (recorded, captured) = (peak(false), peak(true));
        // The record and the loss of each of the two shapes stay, and a check of one of them has its own beside them, at 256
        // bytes the piece.
        assert!(captured <= recorded + 6 * 256, "{device}: {captured} bytes, recorded {recorded}");
    });
}

#[test]
fn a_capture_is_dropped_where_memory_is_given_back() {
    on_each_device(|device| {
        let mut eager = Run::new(policy(false, 4), device);
        eager.epochs(2, Model::loss);
        let mut run = Run::new(policy(true, 4), device);
        run.epochs(1, Model::loss);
        device.trim().unwrap();
        run.epochs(1, Model::loss);
        assert_eq!(run.bits(), eager.bits(), "{device}");
    });
}
