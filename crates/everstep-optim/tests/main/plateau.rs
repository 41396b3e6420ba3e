//! A reduction takes effect at a fixed step, however late the host learns.

use everstep_optim::{Error, Optimizer, ReduceOnPlateau, Rule, Schedule, Sgd};
use everstep_tensor::{Device, Parameter, StepOptions, Tensor};

use crate::common::on_each_device;

fn build(device: &Device, config: ReduceOnPlateau, in_flight: usize) -> (Parameter, Optimizer) {
    let parameter = Parameter::new(&Tensor::zeros(&[1], device).unwrap()).unwrap();
    let optimizer = Sgd::new(1.0).build(&parameter).unwrap().reduce_on_plateau(config).unwrap();
    (parameter, optimizer.with_options(StepOptions { in_flight, ..StepOptions::default() }).unwrap())
}

/// A step with a gradient of 1 and a loss of 0 or NaN: the value falls by the rate.
fn step(parameter: &Parameter, optimizer: &mut Optimizer, refuse: bool) {
    let x = parameter.tensor();
    let loss = x.sub(&x.detach()).unwrap().sum_all().unwrap();
    loss.backward().unwrap();
    let judged = if refuse { loss.mul_scalar(f32::NAN).unwrap() } else { loss };
    optimizer.step(&judged).unwrap();
}

#[test]
fn the_lag_of_the_records_does_not_show() {
    on_each_device(|device| {
        let mut found = Vec::new();
        for in_flight in [0, 1, 4, 16] {
            let (parameter, optimizer) = build(device, ReduceOnPlateau::new().factor(0.5).patience(9), in_flight);
            let mut optimizer = optimizer.schedule(Schedule::exponential(0.99));
            for index in 0..120 {
                step(&parameter, &mut optimizer, index % 7 == 3);
                for record in optimizer.take_records() {
                    if record.verdict == everstep_tensor::Verdict::Commit {
                        optimizer.observe(record.committed.into(), record.loss.into()).unwrap();
                    }
                }
            }
            found.push(parameter.tensor().item::<f32>().unwrap());
        }
        // The loss never improves: the values of steps 1 to 11 make the first reduction, 16 steps after the last of them.
        let committed = (0..120).filter(|index| index % 7 != 3).count() as u64;
        let rate = |step: u64| 0.99f64.powf(step as f64) * 0.5f64.powf(step.saturating_sub(17).div_euclid(10) as f64);
        let expected = (0..committed).fold(0.0f32, |value, step| value - rate(step) as f32);
        assert_eq!(found, vec![expected; 4]);
    });
}

#[test]
fn what_comes_too_late_is_an_error_and_changes_nothing() {
    let device = Device::cpu();
    let (parameter, mut optimizer) = build(&device, ReduceOnPlateau::new().patience(0).delay(2), 4);
    (0..6).for_each(|_| step(&parameter, &mut optimizer, false));
    assert_eq!(optimizer.observe(3, 1.0), Err(Error::Late { step: 3, effect: 5, next: 6 }));
    assert_eq!(optimizer.observe(4, 1.0), Ok(1.0));
    assert_eq!(optimizer.observe(4, 1.0), Ok(0.1));
    assert_eq!((optimizer.learning_rate(0, 5), optimizer.learning_rate(0, 6)), (1.0, 0.1));
    step(&parameter, &mut optimizer, false);
    assert_eq!(parameter.tensor().item::<f32>().unwrap(), -6.1);
    // A metric of a later time, after the records have been waited for.
    optimizer.finish().unwrap();
    let committed = optimizer.gate().committed();
    assert_eq!((committed, optimizer.observe(committed, 0.5)), (7, Ok(0.1)));

    let mut plain = Sgd::new(1.0).build(&Parameter::new(&Tensor::zeros(&[1], &device).unwrap()).unwrap()).unwrap();
    assert_eq!(plain.observe(0, 1.0), Err(Error::NoPlateau));
    for (config, field) in [
        (ReduceOnPlateau::new().factor(1.0), "factor"),
        (ReduceOnPlateau { threshold: f64::NAN, ..Default::default() }, "threshold"),
        (ReduceOnPlateau { min_factor: -1.0, ..Default::default() }, "min_factor"),
    ] {
        assert!(matches!(config.start(), Err(Error::Setting { field: found, .. }) if found == field));
    }
}

#[test]
fn schedules_from_files_are_checked() {
    let parse = |text: &str| serde_json::from_str::<Schedule>(text);
    let whole = Schedule::warm_up(10).then(10, Schedule::one_cycle(50)).then(60, Schedule::constant());
    assert_eq!(parse(&serde_json::to_string(&whole).unwrap()).unwrap(), whole);
    assert_eq!(parse(r#"{"type": "cosine", "steps": 5}"#).unwrap(), Schedule::cosine(5, 0.0));
    assert!(parse(r#"{"type": "cosine", "steps": 5, "min": 0.1}"#).is_err());
    assert!(parse(r#"{"type": "constant", "min": 0.1}"#).is_err());
    assert!(parse(r#"{"type": "cosinus", "steps": 5}"#).is_err());
    for bad in [
        Schedule::step(0, 0.5),
        Schedule::exponential(-0.5),
        Schedule::cosine(5, f64::NAN),
        Schedule::linear(5, f64::INFINITY, 1.0),
        Schedule::constant().then(9, Schedule::constant()).then(9, Schedule::constant()),
        Schedule::constant().then(9, Schedule::step(0, 1.0)),
    ] {
        assert!(matches!(bad.check(), Err(Error::Setting { optimizer: "Schedule", .. })), "{bad:?}");
    }
    // Nothing to divide by, and far beyond the end: a factor all the same.
    for schedule in [Schedule::step(0, 0.5), Schedule::cosine(0, 0.5), Schedule::one_cycle(0), Schedule::one_cycle(1)] {
        assert!([0, 1, u64::MAX].into_iter().all(|step| schedule.factor(step).is_finite()), "{schedule:?}");
    }
}
