//! Every misuse is a typed error, and leaves what was there usable.

use everstep_nn::{Linear, Module};
use everstep_optim::{Adam, AdamW, Error, Optimizer, Rule, Sgd};
use everstep_tensor::{Device, Error as TensorError, Generator, Parameter, StepOptions, Tensor, Verdict};

use crate::common::{Model, OPTIMIZERS, attempt, backward, healthy, on_each_device, state};

fn linear(device: &Device) -> Linear {
    Linear::new(2, 1, &mut Generator::new(0), device).unwrap()
}

fn refused(outcome: Result<Optimizer, Error>) -> Error {
    outcome.map(|_| ()).unwrap_err()
}

#[test]
fn a_model_without_parameters() {
    let none: Vec<Linear> = Vec::new();
    assert_eq!(refused(Sgd::new(0.1).build(&none)), TensorError::NoParameters.into());
}

#[test]
fn a_parameter_belongs_to_one_live_optimizer() {
    on_each_device(|device| {
        let (shared, alone) = (linear(device), linear(device));
        let loss = |layer: &Linear| layer.weight.tensor().sum_all().unwrap();
        let mut first = Sgd::new(0.5).build(&shared).unwrap();
        // The other one would come first in the arena: it must not have moved when the shared one is found.
        let tape = loss(&alone);
        let both = (alone, shared);
        let in_use = TensorError::ParameterInUse { shape: *both.1.weight.shape() };
        assert_eq!(refused(AdamW::new(0.1).build(&both)), in_use.into());
        let (alone, shared) = both;
        tape.backward().unwrap();
        assert_eq!(alone.weight.grad().unwrap().to_vec::<f32>().unwrap(), [1.0, 1.0]);
        // The first one still works, and once it is gone its parameters are free, with their values.
        let step = |optimizer: &mut Optimizer, layer: &Linear| {
            let loss = loss(layer);
            loss.backward().unwrap();
            optimizer.step(&loss).unwrap();
        };
        let before = shared.weight.tensor().to_vec::<f32>().unwrap();
        step(&mut first, &shared);
        drop(first);
        let both = (alone, shared);
        let mut second = Sgd::new(0.25).build(&both).unwrap();
        step(&mut second, &both.1);
        let after: Vec<f32> = before.iter().map(|value| value - 0.5 - 0.25).collect();
        assert_eq!(both.1.weight.tensor().to_vec::<f32>().unwrap(), after);
    });
}

#[test]
fn parameters_of_two_devices() {
    let (here, there) = (Device::isolated_cpu(), Device::isolated_cpu());
    let error = refused(Sgd::new(0.1).build(&(linear(&here), linear(&there))));
    assert!(matches!(error, Error::Tensor(TensorError::Devices { op: "arena", .. })), "{error}");
}

#[test]
fn settings_outside_their_range() {
    let device = Device::isolated_cpu();
    let setting = |rule: Result<Optimizer, Error>| match refused(rule) {
        Error::Setting { optimizer, field, .. } => (optimizer, field),
        other => panic!("{other}"),
    };
    let model = linear(&device);
    // 1e39 is finite, but not as an f32.
    for bad in [-0.1, f64::NAN, f64::INFINITY, 1e39] {
        let plain = Sgd::new(0.1);
        assert_eq!(setting(Sgd::new(bad).build(&model)), ("Sgd", "learning_rate"));
        assert_eq!(setting(plain.clone().momentum(bad).build(&model)), ("Sgd", "momentum"));
        assert_eq!(setting(plain.clone().weight_decay(bad).build(&model)), ("Sgd", "weight_decay"));
        if bad != -0.1 {
            assert_eq!(setting(plain.clone().momentum(0.9).dampening(bad).build(&model)), ("Sgd", "dampening"));
        }
        assert_eq!(setting(Adam::new(bad).build(&model)), ("Adam", "learning_rate"));
        assert_eq!(setting(Adam::new(0.1).weight_decay(bad).build(&model)), ("Adam", "weight_decay"));
        assert_eq!(setting(AdamW::new(0.1).epsilon(bad).build(&model)), ("AdamW", "epsilon"));
        assert_eq!(setting(AdamW::new(0.1).betas(bad, 0.9).build(&model)), ("AdamW", "betas"));
        assert_eq!(setting(AdamW::new(0.1).betas(0.9, bad).build(&model)), ("AdamW", "betas"));
    }
    assert_eq!(setting(AdamW::new(0.1).betas(1.0, 0.9).build(&model)), ("AdamW", "betas"));
    // Divided by where a gradient has always been zero; 1e-50 is 0 as an f32.
    assert_eq!(setting(Adam::new(0.1).epsilon(0.0).build(&model)), ("Adam", "epsilon"));
    assert_eq!(setting(AdamW::new(0.1).epsilon(1e-50).build(&model)), ("AdamW", "epsilon"));
    let nesterov = Sgd::new(0.1).nesterov(true);
    assert_eq!(setting(nesterov.clone().build(&model)), ("Sgd", "nesterov"));
    assert_eq!(setting(nesterov.momentum(0.9).dampening(0.1).build(&model)), ("Sgd", "nesterov"));
    let error = refused(Sgd::new(-1.0).build(&model)).to_string();
    assert_eq!(error, "Sgd: `learning_rate` is -1, it must be finite and at least 0");
    // A refused optimizer has taken nothing.
    Sgd::new(0.1).build(&model).unwrap();
}

#[test]
fn options_outside_their_range() {
    let device = Device::isolated_cpu();
    let model = linear(&device);
    let optimizer = || Sgd::new(0.1).build(&model).unwrap();
    let argument = |outcome| match refused(outcome) {
        Error::Tensor(TensorError::Argument { op: "step", name, .. }) => name,
        other => panic!("{other}"),
    };
    for bad in [0.0, -1.0, f32::NAN] {
        assert_eq!(argument(optimizer().clip_norm(bad)), "max_norm");
    }
    let far = StepOptions { in_flight: 17, ..StepOptions::default() };
    assert_eq!(argument(optimizer().with_options(far)), "in_flight");
    // No clipping, said with a number.
    assert!(optimizer().clip_norm(f32::INFINITY).is_ok());
}

#[test]
fn a_loss_that_cannot_be_judged() {
    on_each_device(|device| {
        let model = Model::new(device);
        let mut optimizer = OPTIMIZERS[4].1(&model).unwrap();
        healthy(&model, &mut optimizer, 0..2);
        let loss = backward(&model, 2, None).unwrap();
        let before = state(&optimizer);
        let rows = Tensor::zeros(&[3], device).unwrap();
        let error = optimizer.step(&rows).unwrap_err();
        assert_eq!(error, TensorError::NotScalar { shape: *rows.shape() }.into());
        let whole = Tensor::scalar(1u32, device).unwrap();
        let error = optimizer.step(&whole).unwrap_err();
        assert!(matches!(error, Error::Tensor(TensorError::DTypes { op: "step", .. })), "{error}");
        let elsewhere = Tensor::scalar(1.0f32, &Device::isolated_cpu()).unwrap();
        let error = optimizer.step(&elsewhere).unwrap_err();
        assert!(matches!(error, Error::Tensor(TensorError::Devices { op: "step", .. })), "{error}");
        // None of them was a step, and the gradients and what is pending are still there for the right one.
        assert!(state(&optimizer) == before);
        optimizer.step(&loss).unwrap();
        let records = optimizer.finish().unwrap();
        assert!(records.iter().all(|record| record.verdict == Verdict::Commit));
        assert_eq!(records.iter().map(|record| record.attempt).collect::<Vec<_>>(), [1, 2, 3]);
    });
}

#[test]
fn a_tape_from_before_a_step_is_stale() {
    on_each_device(|device| {
        let model = Model::new(device);
        let x = Tensor::ones(&[4, 6], device).unwrap();
        let early = model.forward(&x).unwrap().sum_all().unwrap();
        let mut optimizer = OPTIMIZERS[4].1(&model).unwrap();
        // The parameters moved into the arena: the same values, but memory that no step will change.
        let stale = |outcome: everstep_tensor::Result<()>| match outcome.unwrap_err() {
            TensorError::StaleParameter { op } => op,
            other => panic!("{other}"),
        };
        assert_eq!(stale(early.backward()), "matmul");
        let old = model.forward(&x).unwrap().sum_all().unwrap();
        attempt(&model, &mut optimizer, 0, None).unwrap();
        assert_eq!(stale(old.backward()), "matmul");
        assert!(model.parameters().iter().all(|parameter| parameter.grad().is_none()), "nothing was collected");
        // Values set by hand make it stale as well.
        let old = model.forward(&x).unwrap().sum_all().unwrap();
        model.output.weight.set(&Tensor::ones(&[4, 16], device).unwrap()).unwrap();
        assert_eq!(stale(old.backward()), "matmul");
        // And a tape serves once.
        let loss = backward(&model, 1, None).unwrap();
        assert!(matches!(loss.backward(), Err(TensorError::TapeFreed { .. })));
        optimizer.step(&loss).unwrap();
        assert_eq!(optimizer.finish().unwrap().len(), 2);
    });
}

#[test]
fn a_parameter_that_is_no_f32() {
    let device = Device::isolated_cpu();
    let whole = Tensor::scalar(1u32, &device).unwrap();
    assert!(matches!(Parameter::new(&whole), Err(TensorError::NotFloat { .. })));
}
