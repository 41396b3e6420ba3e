//! Faults beside what is not finite: memory that changes between steps, updates that overflow, losses and norms that
//! stand out.

use std::sync::Arc;

use everstep_device::control::{self, fault};
use everstep_device::{Buffer, Command, Work};
use everstep_optim::{AdamW, Optimizer, Rmsprop, Rule, Sgd};
use everstep_tensor::{Detection, Device, Parameter, Record, StepOptions, Tensor, Verdict};

use crate::common::*;

/// Flips a bit of element `index` in the device's memory, as a particle would.
pub(crate) fn flip(buffer: &Buffer, index: usize, bit: u32) {
    let word = words(buffer)[index] ^ 1 << bit;
    let slice = buffer.part(index / 64 * 256, 256).unwrap().slice();
    let slice = everstep_device::Slice { offset: slice.offset + index % 64 * 4, bytes: 4, ..slice };
    let work = Work::Upload(Arc::from(word.to_le_bytes()));
    buffer.device().record(Command { op: "flip", work, inputs: vec![], outputs: vec![slice] }).unwrap();
}

fn last(optimizer: &mut Optimizer) -> Record {
    *optimizer.finish().unwrap().last().unwrap()
}

/// A model and its optimizer after three steps.
fn trained(build: Build, device: &Device) -> (Model, Optimizer) {
    let model = Model::new(device);
    let mut optimizer = build(&model).unwrap();
    healthy(&model, &mut optimizer, 0..3);
    optimizer.finish().unwrap();
    (model, optimizer)
}

/// A weight and each state, from the lowest bit to the sign; the exponent's highest bit makes most numbers huge.
#[test]
fn a_bit_that_flips_between_steps_is_seen_in_the_next_one() {
    on_each_device(|device| {
        for (name, build) in OPTIMIZERS {
            let states = trained(build, device).1.states().len();
            for (buffer, bit) in (0..=states).flat_map(|buffer| [0, 20, 30, 31].map(|bit| (buffer, bit))) {
                let context = format!("{}, {name}, bit {bit} of buffer {buffer}", on(device));
                let (model, mut optimizer) = trained(build, device);
                let flipped = if buffer == 0 { optimizer.arena().values() } else { &optimizer.states()[buffer - 1] };
                // Of the output's weights, which reach the loss.
                flip(flipped, optimizer.arena().elements() - 128 + 5, bit);
                healthy(&model, &mut optimizer, 3..5);
                let records = optimizer.finish().unwrap();
                let [first, second] = records.as_slice() else { panic!("{context}: {records:?}") };
                // A huge weight may show in the loss or the gradients first.
                let seen = first.faults & (fault::LOSS | fault::GRADIENT | fault::NORM | fault::BUFFER) != 0;
                // A second moment below zero has no root.
                assert!(seen || first.faults & !fault::UPDATE == fault::STATE, "{context}: {first:?}");
                assert_eq!((first.tentative, first.committed), (!seen, 3), "{context}");
                if first.tentative {
                    assert_eq!((first.verdict, second.verdict), (Verdict::Hold, Verdict::Hold), "{context}");
                    assert!(second.faults & fault::HELD != 0 && !second.tentative, "{context}: {second:?}");
                }
            }
        }
    });
}

/// What a user changes is no fault: weights that are set, a layer that is frozen and thawed, a refused step, a release.
#[test]
fn changes_on_purpose_are_no_faults() {
    on_each_device(|device| {
        for (name, build) in OPTIMIZERS {
            let (model, mut optimizer) = trained(build, device);
            let weight = &model.output.weight;
            weight.set(&weight.tensor().mul_scalar(0.5).unwrap()).unwrap();
            healthy(&model, &mut optimizer, 3..5);
            weight.set_trainable(false);
            healthy(&model, &mut optimizer, 5..7);
            weight.set_trainable(true);
            healthy(&model, &mut optimizer, 7..9);
            attempt(&model, &mut optimizer, 9, Some(Fault::NanInput)).unwrap();
            healthy(&model, &mut optimizer, 10..12);
            let verdicts: Vec<_> = optimizer.finish().unwrap().iter().map(|record| record.verdict).collect();
            let expected: Vec<_> =
                (3..12).map(|step| if step == 9 { Verdict::Reject } else { Verdict::Commit }).collect();
            assert_eq!(verdicts, expected, "{}, {name}", on(device));
        }
    });
}

/// A state that was flipped and then accepted by hand is the state from there on.
#[test]
fn a_release_accepts_the_state() {
    on_each_device(|device| {
        let (model, mut optimizer) = trained(OPTIMIZERS[4].1, device);
        flip(optimizer.arena().values(), 0, 0);
        healthy(&model, &mut optimizer, 3..4);
        assert!(last(&mut optimizer).tentative, "{}", on(device));
        optimizer.release().unwrap();
        healthy(&model, &mut optimizer, 4..6);
        let records = optimizer.finish().unwrap();
        assert!(records.iter().all(|record| record.verdict == Verdict::Commit), "{}: {records:?}", on(device));
    });
}

#[test]
fn the_check_of_the_state_can_be_turned_off() {
    on_each_device(|device| {
        let (model, optimizer) = trained(OPTIMIZERS[4].1, device);
        let detection = Detection { check_state: false, ..Detection::default() };
        let mut optimizer = optimizer.with_options(StepOptions { detection, ..StepOptions::default() }).unwrap();
        flip(optimizer.arena().values(), 0, 0);
        healthy(&model, &mut optimizer, 3..4);
        assert_eq!(last(&mut optimizer).verdict, Verdict::Commit, "{}", on(device));
    });
}

/// Finite gradients, but rates so high that an update overflows: nothing that is not finite is stored, and the step does not
/// count.
#[test]
fn an_update_that_overflows_is_not_stored() {
    on_each_device(|device| {
        let optimizers: [fn(&Parameter) -> Optimizer; 4] = [
            |parameter| Sgd::new(1e30).build(parameter).unwrap(),
            |parameter| Sgd::new(1e30).momentum(0.9).build(parameter).unwrap(),
            |parameter| AdamW::new(3e37).build(parameter).unwrap(),
            |parameter| Rmsprop::new(3e37).build(parameter).unwrap(),
        ];
        for build in optimizers {
            let parameter = Parameter::new(&Tensor::ones(&[300], device).unwrap()).unwrap();
            let mut optimizer = build(&parameter);
            let context = format!("{}, {optimizer:?}", on(device));
            let mut factors = vec![1.0f32; 300];
            factors[257] = 1e9;
            let factors = Tensor::from_vec(factors, &[300], device).unwrap();
            for step in 0.. {
                assert!(step < 20, "{context}: nothing has overflowed");
                let loss = parameter.tensor().mul(&factors).unwrap().sum_all().unwrap();
                loss.backward().unwrap();
                // The loss would overflow, too.
                optimizer.step(&Tensor::ones(&[], device).unwrap()).unwrap();
                let record = last(&mut optimizer);
                for buffer in optimizer.states().iter().chain([optimizer.arena().values()]) {
                    assert!(words(buffer).iter().all(|&bits| !control::is_non_finite(bits)), "{context}, step {step}");
                }
                if record.faults != 0 {
                    let found = (record.faults, record.tentative, record.verdict, record.committed);
                    assert_eq!(found, (fault::UPDATE, true, Verdict::Hold, step), "{context}");
                    break;
                }
            }
        }
    });
}

/// A model that is one parameter, whose loss and gradient norm are whatever a test wants.
struct Scripted {
    parameter: Parameter,
    optimizer: Optimizer,
}

impl Scripted {
    fn new(detection: Detection, device: &Device) -> Self {
        let parameter = Parameter::new(&Tensor::zeros(&[1], device).unwrap()).unwrap();
        let options = StepOptions { detection, in_flight: 0, ..StepOptions::default() };
        // A rate of zero: the parameter stays where it is.
        let optimizer = Sgd::new(0.0).build(&parameter).unwrap().with_options(options).unwrap();
        Self { parameter, optimizer }
    }

    fn step(&mut self, loss: f32, norm: f32) -> Record {
        let value = self.parameter.tensor().mul_scalar(norm).unwrap().add_scalar(loss).unwrap().sum_all().unwrap();
        value.backward().unwrap();
        self.optimizer.step(&value).unwrap();
        last(&mut self.optimizer)
    }
}

/// The statistics, in f64.
#[derive(Default)]
struct Reference {
    samples: u32,
    level: f64,
    // Mean and spread of loss and log norm.
    running: [(f64, f64); 2],
}

impl Reference {
    fn units(&self) -> [f64; 2] {
        let deviation = |spread: f64| spread * std::f64::consts::FRAC_PI_2.sqrt();
        [deviation(self.running[0].1).max(0.25 * self.level), deviation(self.running[1].1).max(0.5)]
    }

    fn scores(&self, loss: f64, norm: f64, detection: &Detection) -> [f64; 2] {
        let (units, values) = (self.units(), [loss, norm.ln()]);
        let warm = self.samples >= detection.warm_up;
        std::array::from_fn(|at| if warm { (values[at] - self.running[at].0) / units[at] } else { 0.0 })
    }

    fn learn(&mut self, loss: f64, norm: f64, detection: &Detection) {
        let (units, values) = (self.units(), [loss, norm.ln()]);
        let count = f64::from(self.samples) + 1.0;
        let weight = (1.0 / count).max(1.0 / f64::from(detection.window));
        if self.samples < detection.warm_up {
            self.level += (loss.abs() - self.level) / count;
        }
        for at in 0..2 {
            let (mean, spread) = self.running[at];
            let mut distance = values[at] - mean;
            if self.samples >= detection.warm_up {
                distance = distance.clamp(-4.0 * units[at], 4.0 * units[at]);
            }
            let spread = if self.samples == 0 { 0.0 } else { spread + weight * (distance.abs() - spread) };
            self.running[at] = (mean + weight * distance, spread);
        }
        self.samples += 1;
    }
}

#[test]
fn scores_are_those_of_the_reference() {
    on_each_device(|device| {
        let detection = Detection { warm_up: 5, window: 20, score: Some(1e6), ..Detection::default() };
        let (mut script, mut reference) = (Scripted::new(detection, device), Reference::default());
        let mut generator = everstep_tensor::Generator::new(3);
        for step in 0..120 {
            let outlier = if step % 31 == 30 { 50.0 } else { 1.0 };
            let loss = (3.0 + generator.normal()) * outlier;
            let norm = (0.5 * generator.normal()).exp() * outlier;
            let record = script.step(loss, norm);
            assert_eq!(record.verdict, Verdict::Commit, "{}, step {step}: {record:?}", on(device));
            let expected = reference.scores(f64::from(record.loss), f64::from(record.norm), &detection);
            for (found, expected) in [record.loss_score, record.norm_score].into_iter().zip(expected) {
                // Running means in f32 over 120 steps, and differences of numbers of a like size.
                let tolerance = 1e-4 * (1.0 + expected.abs());
                assert!((f64::from(found) - expected).abs() < tolerance, "{}, {step}: {found} {expected}", on(device));
            }
            reference.learn(f64::from(record.loss), f64::from(record.norm), &detection);
        }
    });
}

/// What each limit refuses, that it can be off, and that refused steps leave no trace in the statistics.
#[test]
fn steps_that_stand_out_are_refused() {
    on_each_device(|device| {
        let off = Detection { warm_up: 5, ..Detection::default() };
        let limits = [
            ("loss limit", Detection { loss_limit: Some(100.0), ..off }, (101.0, 1.0), fault::LOSS_LIMIT, (99.0, 1e6)),
            ("score", Detection { score: Some(6.0), ..off }, (20.0, 1.0), fault::LOSS_SPIKE, (2.5, 1e6)),
            ("ratio", Detection { norm_ratio: Some(100.0), ..off }, (2.0, 150.0), fault::NORM_SPIKE, (1e3, 80.0)),
            ("both", Detection { warm_up: 5, ..Detection::spikes() }, (2.0, 1e4), fault::NORM_SPIKE, (2.5, 80.0)),
        ];
        for (name, detection, bad, bits, good) in limits {
            let context = format!("{}, {name}", on(device));
            let mut script = Scripted::new(detection, device);
            (0..10).for_each(|step| assert_eq!(script.step(2.0 + 0.1 * (step % 3) as f32, 1.0).faults, 0, "{context}"));
            let before = script.optimizer.gate().read_control().unwrap();
            for _ in 0..3 {
                let record = script.step(bad.0, bad.1);
                assert_eq!((record.verdict, record.faults), (Verdict::Reject, bits), "{context}: {record:?}");
            }
            let after = script.optimizer.gate().read_control().unwrap();
            assert_eq!(
                before[control::SAMPLES..control::CURRENT],
                after[control::SAMPLES..control::CURRENT],
                "{context}"
            );
            let record = script.step(good.0, good.1);
            assert_eq!(record.faults, 0, "{context}: {record:?}");
            // Whatever the limits of the others are.
            let mut script = Scripted::new(off, device);
            (0..10).for_each(|_| assert_eq!(script.step(2.0, 1.0).faults, 0));
            assert_eq!(script.step(bad.0, bad.1).faults, 0, "{context}, off");
        }
    });
}

/// A rate far above those before is refused; one that rises step by step is not, however far, nor the first ones.
#[test]
fn a_learning_rate_that_jumps_is_refused() {
    on_each_device(|device| {
        type Jump = (&'static str, fn(u64) -> f64, Option<u32>);
        let jumps: [Jump; 4] = [
            ("jump", |step| if step < 12 { 1e-4 } else { 2e-3 }, Some(12)),
            ("small jump", |step| if step < 12 { 1e-4 } else { 9e-4 }, None),
            ("warm-up", |step| 1e-6 * 2.0f64.powi(step as i32), None),
            ("from zero", |step| if step < 12 { 0.0 } else { 1e-3 }, None),
        ];
        for (name, rate, refused) in jumps {
            for (rule, build) in OPTIMIZERS {
                let model = Model::new(device);
                let detection = Detection { warm_up: 5, rate_ratio: Some(10.0), ..Detection::default() };
                let options = StepOptions { detection, ..StepOptions::default() };
                let optimizer = build(&model).unwrap().schedule(rate);
                let mut optimizer = optimizer.with_options(options).unwrap();
                healthy(&model, &mut optimizer, 0..16);
                let records = optimizer.finish().unwrap();
                let first = records.iter().find(|record| record.faults != 0);
                let found = first.map(|record| (record.faults, record.attempt - 1));
                let context = format!("{}, {name}, {rule}", on(device));
                assert_eq!(found, refused.map(|step| (fault::RATE, step)), "{context}: {first:?}");
            }
        }
    });
}

/// A loss that has become small may jump about: the floor is a tenth of where it began.
#[test]
fn a_small_loss_may_jump() {
    on_each_device(|device| {
        let mut script = Scripted::new(Detection { warm_up: 5, ..Detection::spikes() }, device);
        let losses = (0..10).map(|_| 2.0).chain((0..50).map(|step| if step % 10 == 9 { 1.1 } else { 0.001 }));
        losses.for_each(|loss| assert_eq!(script.step(loss, loss).faults, 0, "{}, {loss}", on(device)));
    });
}

#[test]
fn limits_are_checked() {
    let device = Device::isolated_cpu();
    let model = Model::new(&device);
    let off = Detection::default();
    for detection in [
        Detection { loss_limit: Some(f32::NAN), ..off },
        Detection { score: Some(0.5), ..off },
        Detection { score: Some(f32::NAN), ..off },
        Detection { norm_ratio: Some(0.0), ..off },
        Detection { rate_ratio: Some(0.5), ..off },
        Detection { warm_up: 0, ..off },
        Detection { window: 0, ..off },
    ] {
        let optimizer = Sgd::new(0.1).build(&model).unwrap();
        let error = optimizer.with_options(StepOptions { detection, ..StepOptions::default() }).unwrap_err();
        assert!(error.to_string().contains("step"), "{detection:?}: {error}");
    }
}
