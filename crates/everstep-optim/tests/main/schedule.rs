//! The learning rate: a function of committed steps, on the device in time whatever the host has seen.

use everstep_device::control::{self, fault};
use everstep_optim::{Optimizer, Rule, Sgd};
use everstep_tensor::{Device, Parameter, StepOptions, Tensor, Verdict};

use crate::common::on_each_device;

/// A parameter of one element that begins at 0.
fn parameter(device: &Device) -> Parameter {
    Parameter::new(&Tensor::zeros(&[1], device).unwrap()).unwrap()
}

fn with_lag(optimizer: Optimizer, in_flight: usize) -> Optimizer {
    optimizer.with_options(StepOptions { in_flight, ..StepOptions::default() }).unwrap()
}

/// A step with a gradient of 1, so that the value falls by the learning rate; refused where `refuse`.
fn step(parameter: &Parameter, optimizer: &mut Optimizer, refuse: bool) {
    let loss = parameter.tensor().sum_all().unwrap();
    loss.backward().unwrap();
    let judged = if refuse { loss.mul_scalar(f32::NAN).unwrap() } else { loss };
    optimizer.step(&judged).unwrap();
}

fn value(parameter: &Parameter) -> f32 {
    parameter.tensor().item().unwrap()
}

/// Values after each of these rates in turn: one subtraction each, so the bits are the same everywhere.
fn reference(rates: impl IntoIterator<Item = f64>) -> f32 {
    rates.into_iter().fold(0.0, |value, rate| value - rate as f32)
}

fn rate(committed: u64) -> f64 {
    0.1 * (1.0 + (committed as f64 * 0.37).sin()) / (1.0 + committed as f64)
}

#[test]
fn a_long_run_that_reads_no_record_follows_the_schedule() {
    on_each_device(|device| {
        for in_flight in [0, 4, 16] {
            let parameter = parameter(device);
            let mut optimizer = with_lag(Sgd::new(0.0).build(&parameter).unwrap().schedule(rate), in_flight);
            (0..300).for_each(|_| step(&parameter, &mut optimizer, false));
            assert_eq!(value(&parameter), reference((0..300).map(rate)), "{in_flight} in flight");
            assert_eq!(optimizer.finish().unwrap().len(), 300);
        }
    });
}

#[test]
fn a_refused_step_does_not_advance_the_schedule() {
    on_each_device(|device| {
        let parameter = parameter(device);
        let mut optimizer = with_lag(Sgd::new(0.0).build(&parameter).unwrap().schedule(rate), 16);
        // Two of five are refused, and once as many in a row as the window is long.
        (0..200).for_each(|index| step(&parameter, &mut optimizer, index % 5 < 2));
        (0..control::WINDOW).for_each(|_| step(&parameter, &mut optimizer, true));
        step(&parameter, &mut optimizer, false);
        assert_eq!(value(&parameter), reference((0..121).map(rate)));
        optimizer.finish().unwrap();
        assert_eq!((optimizer.gate().committed(), optimizer.gate().attempts()), (121, 265));
    });
}

#[test]
fn a_new_learning_rate_begins_with_the_next_step() {
    on_each_device(|device| {
        for in_flight in [0, 5, 16] {
            let parameter = parameter(device);
            let mut optimizer = with_lag(Sgd::new(0.5).build(&parameter).unwrap(), in_flight);
            let mut rates = Vec::new();
            for index in 0..90 {
                let refuse = index % 7 == 3;
                if index % 10 == 4 {
                    optimizer.set_learning_rate(1.0 / f64::from(index));
                }
                step(&parameter, &mut optimizer, refuse);
                let rate = if index < 4 { 0.5 } else { 1.0 / f64::from((index - 4) / 10 * 10 + 4) };
                rates.extend((!refuse).then_some(rate));
                assert_eq!(value(&parameter), reference(rates.clone()), "after step {index}, {in_flight} in flight");
            }
            // A schedule given later counts all committed steps.
            let mut optimizer = optimizer.schedule(rate);
            let committed = rates.len() as u64;
            (0..3).for_each(|_| step(&parameter, &mut optimizer, false));
            rates.extend((committed..committed + 3).map(rate));
            assert_eq!(value(&parameter), reference(rates));
        }
    });
}

#[test]
fn a_step_without_a_finite_rate_is_refused() {
    on_each_device(|device| {
        let parameter = parameter(device);
        // sqrt of a negative number from the fifth step on: a run of four never asks for it.
        let falling = |committed: u64| (1.0 - committed as f64 / 3.0).sqrt();
        let mut optimizer = with_lag(Sgd::new(0.0).build(&parameter).unwrap().schedule(falling), 2);
        (0..6).for_each(|_| step(&parameter, &mut optimizer, false));
        let records = optimizer.finish().unwrap();
        let refused = |record: &everstep_tensor::Record| (record.verdict, record.faults);
        assert!(records[..4].iter().all(|record| record.verdict == Verdict::Commit));
        assert!(records[4..].iter().all(|record| refused(record) == (Verdict::Reject, fault::SCHEDULE)));
        let reached = reference((0..4).map(falling));
        assert_eq!(value(&parameter), reached);
        for rate in [f64::NAN, f64::INFINITY, 1e300] {
            optimizer.set_learning_rate(rate);
            step(&parameter, &mut optimizer, false);
        }
        assert!(optimizer.finish().unwrap().iter().all(|record| refused(record) == (Verdict::Reject, fault::SCHEDULE)));
        optimizer.set_learning_rate(1.0);
        step(&parameter, &mut optimizer, false);
        assert_eq!(value(&parameter), reached - 1.0);
    });
}
