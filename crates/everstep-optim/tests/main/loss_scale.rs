//! A loss that is scaled for half precision: it changes no bit of what does not overflow, and an overflow refuses one step.

use everstep_device::control::{self, fault};
use everstep_optim::{AdamW, Rule, Sgd};
use everstep_tensor::{DType, Device, LossScale, Parameter, StepOptions, Tensor, Verdict};

use crate::common::on_each_device;

fn scale(initial: f32, interval: u32) -> LossScale {
    LossScale { initial, interval, ..LossScale::default() }
}

/// The bits of a few steps of a clipped optimizer.
fn bits(scale: Option<LossScale>, device: &Device) -> Vec<u32> {
    let values: Vec<f32> = (0..70).map(|index| (index as f32 * 0.37).sin()).collect();
    let parameter = Parameter::new(&Tensor::from_slice(&values, &[7, 10], device).unwrap()).unwrap();
    let mut optimizer = AdamW::new(0.01).build(&parameter).unwrap().clip_norm(0.5).unwrap();
    if let Some(scale) = scale {
        optimizer = optimizer.loss_scale(scale).unwrap();
    }
    for _ in 0..6 {
        let value = parameter.tensor();
        let loss = value.mul(&value).unwrap().mul(&value).unwrap().mean_all().unwrap();
        optimizer.backward(&loss).unwrap();
        optimizer.step(&loss).unwrap();
    }
    let records = optimizer.finish().unwrap();
    assert!(records.iter().all(|record| record.verdict == Verdict::Commit), "{device}: {records:?}");
    let norms = records.iter().map(|record| record.norm.to_bits());
    let values = parameter.tensor().to_vec::<f32>().unwrap();
    values.into_iter().map(f32::to_bits).chain(norms).collect()
}

#[test]
fn a_power_of_two_changes_nothing() {
    on_each_device(|device| {
        let expected = bits(None, device);
        for (initial, interval) in [(1.0, 1), (65536.0, 1000), (1024.0, 2)] {
            assert!(bits(Some(scale(initial, interval)), device) == expected, "{device}: {initial}");
        }
    });
}

/// A gradient of 1 in f16, whose largest number is 65,504: the scale falls from 65,536, grows after three steps, and falls again.
#[test]
fn an_overflow_refuses_its_step_alone() {
    on_each_device(|device| {
        for on_fault in [Verdict::Hold, Verdict::Reject] {
            let parameter = Parameter::new(&Tensor::ones(&[5], device).unwrap()).unwrap();
            let optimizer = Sgd::new(0.125).build(&parameter).unwrap();
            let options = StepOptions { on_fault, loss_scale: Some(scale(65536.0, 3)), ..optimizer.options() };
            let mut optimizer = optimizer.with_options(options).unwrap();
            for _ in 0..9 {
                let loss = parameter.tensor().cast(DType::F16).unwrap().sum_all().unwrap();
                let loss = loss.cast(DType::F32).unwrap();
                optimizer.backward(&loss).unwrap();
                optimizer.step(&loss).unwrap();
            }
            let records = optimizer.finish().unwrap();
            let committed: Vec<_> = records.iter().map(|record| record.verdict == Verdict::Commit).collect();
            assert_eq!(committed, [false, true, true, true, false, true, true, true, false], "{device}: {records:?}");
            let refused = records.iter().filter(|record| record.verdict == Verdict::Reject);
            assert!(refused.clone().count() == 3 && refused.clone().all(|record| record.faults == fault::GRADIENT));
            // What is told of the others is without the scale.
            assert_eq!((records[1].norm, records[1].largest), (5f32.sqrt(), 1.0), "{device}");
            assert_eq!(parameter.tensor().to_vec::<f32>().unwrap(), [1.0 - 6.0 * 0.125; 5], "{device}");
            let words = optimizer.gate().read_control().unwrap();
            assert_eq!(f32::from_bits(words[control::LOSS_SCALE]), 32768.0, "{device}");
        }
    });
}

/// At a scale of 1 it is no overflow of the scale's: and a loss that is not finite never is.
#[test]
fn what_no_scale_helps_is_a_fault() {
    on_each_device(|device| {
        let zero = Tensor::zeros(&[], device).unwrap();
        for (initial, loss_is_bad) in [(1.0, false), (1024.0, true)] {
            let parameter = Parameter::new(&Tensor::ones(&[5], device).unwrap()).unwrap();
            let optimizer = Sgd::new(0.125).build(&parameter).unwrap();
            let loss_scale = Some(scale(initial, 3));
            let options = StepOptions { on_fault: Verdict::Hold, loss_scale, ..optimizer.options() };
            let mut optimizer = optimizer.with_options(options).unwrap();
            let bad = parameter.tensor().sum_all().unwrap().div(&zero).unwrap();
            optimizer.backward(&bad).unwrap();
            optimizer.step(if loss_is_bad { &bad } else { &zero }).unwrap();
            let records = optimizer.finish().unwrap();
            assert_eq!(records[0].verdict, Verdict::Hold, "{device}: {records:?}");
        }
    });
}

#[test]
fn settings_are_checked() {
    let device = Device::isolated_cpu();
    for wrong in [
        LossScale { initial: 0.5, ..LossScale::default() },
        LossScale { growth: 0.0, ..LossScale::default() },
        LossScale { backoff: 1.0, ..LossScale::default() },
        LossScale { interval: 0, ..LossScale::default() },
        LossScale { most: f32::INFINITY, ..LossScale::default() },
    ] {
        let parameter = Parameter::new(&Tensor::ones(&[5], &device).unwrap()).unwrap();
        assert!(Sgd::new(0.1).build(&parameter).unwrap().loss_scale(wrong).is_err(), "{wrong:?}");
    }
}
