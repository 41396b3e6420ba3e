//! Parameter groups, and limits on each gradient.

use everstep_nn::{Error as NnError, Linear, Module};
use everstep_optim::{AdamW, Error, Rmsprop, Rule, Schedule, Sgd};
use everstep_tensor::{Device, Generator, Parameter, Tensor, Verdict};

use crate::common::on_each_device;

#[derive(Module)]
#[module(crate = everstep_nn)]
struct Net {
    encoder: Vec<Linear>,
    head: Linear,
}

impl Net {
    fn new(device: &Device) -> Self {
        let layer = || Linear::new(2, 2, &mut Generator::new(0), device).unwrap();
        Self { encoder: vec![layer(), layer()], head: layer() }
    }
}

/// A step whose every gradient is `gradient`.
fn step(net: &Net, optimizer: &mut everstep_optim::Optimizer, gradient: f32) {
    let sum = |parameter: Parameter| parameter.tensor().sum_all().unwrap();
    let total = net.parameters().into_iter().map(sum).reduce(|a, b| a.add(&b).unwrap()).unwrap();
    let loss = total.mul_scalar(gradient).unwrap();
    loss.backward().unwrap();
    optimizer.step(&loss).unwrap();
}

/// How far each parameter moved in a step, by name.
fn moves(net: &Net, run: impl FnOnce()) -> Vec<(String, f32)> {
    let values = || -> Vec<f32> {
        net.parameters().iter().map(|parameter| parameter.tensor().to_vec::<f32>().unwrap()[0]).collect()
    };
    let before = values();
    run();
    let names = net.named_parameters().into_iter().map(|(name, _)| name);
    names.zip(before.iter().zip(values()).map(|(before, after)| before - after)).collect()
}

#[test]
fn each_parameter_follows_the_first_group_that_names_it() {
    on_each_device(|device| {
        let net = Net::new(device);
        let groups = Sgd::new(0.5).groups(&net).group("head.*", Sgd::new(0.25)).unwrap();
        let optimizer = groups.group("*.bias", Sgd::new(0.125)).unwrap().build().unwrap();
        // Schedules scale each group's own rate.
        let mut optimizer = optimizer.schedule(Schedule::step(1, 0.5));
        for factor in [1.0f32, 0.5] {
            for (name, moved) in moves(&net, || step(&net, &mut optimizer, 1.0)) {
                let rate = match name.as_str() {
                    "head.weight" | "head.bias" => 0.25,
                    name if name.ends_with("bias") => 0.125,
                    _ => 0.5,
                };
                assert!((moved - rate * factor).abs() < 1e-6, "{name} moved by {moved}");
            }
        }
        let rates: Vec<f64> = (0..4).map(|group| optimizer.learning_rate(group, 1)).collect();
        assert_eq!(rates, [0.25, 0.125, 0.0625, 0.0]);
        // A closure gives all groups one rate.
        let mut optimizer = optimizer.schedule(|_| 1.0);
        assert!(moves(&net, || step(&net, &mut optimizer, 1.0)).iter().all(|(_, moved)| (moved - 1.0).abs() < 1e-6));
    });
}

#[test]
fn groups_that_would_be_empty_are_errors() {
    let net = Net::new(&Device::cpu());
    let groups = || AdamW::new(0.1).groups(&net);
    let none = groups().group("decoder.*", AdamW::new(0.1)).unwrap_err();
    assert_eq!(none, NnError::NoMatch { pattern: "decoder.*".into() }.into());
    let wrong = groups().group("encoder.[0", AdamW::new(0.1)).unwrap_err();
    assert!(matches!(wrong, Error::Nn(NnError::Pattern { .. })), "{wrong}");
    let taken = groups().group("*.bias", AdamW::new(0.1)).unwrap().group("head.bias", AdamW::new(0.2)).unwrap_err();
    assert_eq!(taken, Error::EmptyGroup { pattern: "head.bias".into() });
    let setting = groups().group("head.*", AdamW::new(-1.0)).unwrap_err();
    assert!(matches!(setting, Error::Setting { field: "learning_rate", .. }));
    assert!(matches!(AdamW::new(0.1).l1(f64::NAN).build(&net), Err(Error::Setting { field: "l1", .. })));
    assert!(matches!(Rmsprop::new(0.1).alpha(1.5).build(&net), Err(Error::Setting { field: "alpha", .. })));
    // None of them took the parameters.
    let whole = groups().group("*", AdamW::new(0.2)).unwrap().build().unwrap();
    assert_eq!(whole.arena().groups().iter().map(ExactSizeIterator::len).collect::<Vec<_>>()[0], 0);
}

#[test]
fn a_frozen_part_stays_and_learns_again() {
    on_each_device(|device| {
        let net = Net::new(device);
        assert_eq!(net.freeze("encoder.*"), Ok(4));
        let mut optimizer = Sgd::new(0.5).build(&net).unwrap();
        let moved = moves(&net, || step(&net, &mut optimizer, 1.0));
        assert!(moved.iter().all(|(name, moved)| (*moved == 0.0) == name.starts_with("encoder")), "{moved:?}");
        assert_eq!(net.unfreeze("encoder.1.*"), Ok(2));
        let moved = moves(&net, || step(&net, &mut optimizer, 1.0));
        assert!(moved.iter().all(|(name, moved)| (*moved == 0.0) == name.starts_with("encoder.0")), "{moved:?}");
        assert_eq!(net.freeze("encode"), Err(NnError::NoMatch { pattern: "encode".into() }));
    });
}

#[test]
fn gradients_are_limited_by_value_and_faults_are_still_seen() {
    on_each_device(|device| {
        let net = Net::new(device);
        let mut optimizer = Sgd::new(1.0).build(&net).unwrap().clip_value(0.25).unwrap();
        for (gradient, expected) in [(3.0f32, 0.25f32), (-7.0, -0.25), (0.125, 0.125)] {
            let moved = moves(&net, || step(&net, &mut optimizer, gradient));
            assert!(moved.iter().all(|(_, moved)| (moved - expected).abs() < 1e-6), "{gradient}: {moved:?}");
        }
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert!(moves(&net, || step(&net, &mut optimizer, bad)).iter().all(|(_, moved)| *moved == 0.0));
        }
        let verdicts: Vec<_> = optimizer.finish().unwrap().iter().map(|record| record.verdict).collect();
        assert_eq!(verdicts, [vec![Verdict::Commit; 3], vec![Verdict::Reject; 3]].concat());
    });
    for bad in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        let found = Sgd::new(1.0).build(&Net::new(&Device::cpu())).unwrap().clip_value(bad);
        assert!(matches!(found, Err(Error::Setting { field: "clip_value", .. })));
    }
}

#[test]
fn collected_gradients_can_be_forgotten() {
    on_each_device(|device| {
        let net = Net::new(device);
        let backward = || net.head.weight.tensor().sum_all().unwrap().backward().unwrap();
        backward();
        net.zero_grad();
        assert!(net.head.weight.grad().is_none());
        let mut optimizer = Sgd::new(1.0).build(&net).unwrap();
        backward();
        optimizer.zero_grad();
        let loss = Tensor::scalar(0.0f32, device).unwrap();
        assert!(moves(&net, || optimizer.step(&loss).unwrap()).iter().all(|(_, moved)| *moved == 0.0));
    });
}

#[test]
fn a_spread_gradient_is_centered_without_a_nan() {
    on_each_device(|device| {
        // A constant gradient has a variance of zero, which rounding takes below.
        let net = Net::new(device);
        let mut optimizer = Rmsprop::new(1e-3).centered(true).alpha(0.5).build(&net).unwrap();
        (0..60).for_each(|_| step(&net, &mut optimizer, 0.3));
        let values = net.head.weight.tensor().to_vec::<f32>().unwrap();
        assert!(values.iter().all(|value| value.is_finite()), "{values:?}");
    });
}
