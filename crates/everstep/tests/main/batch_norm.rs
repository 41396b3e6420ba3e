//! Batch norm: training, its gradients, the running statistics and evaluation.

use everstep::prelude::*;
use serde_json::Value;

use crate::common::{Scale, Worst, goldens, number, tensor, text};

/// The layer of a case, with its weights.
fn layer(case: &Value, device: &Device) -> Sequential {
    let (epsilon, momentum) = (number(&case["epsilon"]) as f32, number(&case["momentum"]) as f32);
    let channels = tensor(&case["state"]["bias"], device).count();
    let mut model = Sequential::new();
    match text(&case["layer"]) {
        "BatchNorm1d" => {
            model.push(BatchNorm1d::new(channels, device).unwrap().epsilon(epsilon).momentum(momentum).unwrap())
        }
        _ => model.push(BatchNorm2d::new(channels, device).unwrap().epsilon(epsilon).momentum(momentum).unwrap()),
    };
    for (name, parameter) in model.named_parameters() {
        let key = name.rsplit('.').next().unwrap();
        parameter.set(&tensor(&case["state"][key], device)).unwrap();
    }
    model
}

#[test]
fn batch_norm_is_that_of_pytorch() {
    let goldens = goldens("batch_norm.json");
    assert_eq!(goldens.cases().len(), 6);
    for device in everstep_testing::devices() {
        let mut worst = Worst::default();
        for case in goldens.cases() {
            let (name, model) = (text(&case["name"]), layer(case, &device));
            let batches: Vec<Tensor> =
                case["batches"].as_array().unwrap().iter().map(|batch| tensor(batch, &device)).collect();
            model.forward(&batches[0]).unwrap();
            model.forward(&batches[1]).unwrap();
            let x = batches[2].requires_grad().unwrap();
            let y = model.forward(&x).unwrap();
            worst.note("output", name, &y, &case["output64"], Scale::Array);
            y.mul(&tensor(&case["grad_output"], &device)).unwrap().sum_all().unwrap().backward().unwrap();
            worst.note("gradient", name, &x.grad().unwrap(), &case["grads64"]["x"], Scale::Array);
            for (key, parameter) in model.named_parameters() {
                let (found, expected) = (parameter.grad().unwrap(), &case["grads64"][key.rsplit('.').next().unwrap()]);
                worst.note("gradient", &format!("{name}, {key}"), &found, expected, Scale::Array);
            }
            let buffers = model.named_buffers();
            assert_eq!(buffers.len(), 2);
            for (key, buffer) in buffers {
                let expected = &case["running64"][key.rsplit('.').next().unwrap()];
                worst.note("running", &format!("{name}, {key}"), &buffer.tensor(), expected, Scale::Element);
            }
            model.eval();
            worst.note("eval", name, &model.forward(&batches[0]).unwrap(), &case["eval64"], Scale::Array);
        }
        // Sums of some tens of terms; a mean of 30 is rounded to 2e-6, as are the inputs that it is taken from.
        worst.assert(&device, |_| 2e-6);
    }
}

#[test]
fn what_does_not_fit_is_an_error() {
    let device = Device::cpu();
    let norm = BatchNorm1d::new(3, &device).unwrap();
    let ones = |shape: &[usize]| Tensor::ones(shape, &device).unwrap();
    assert!(norm.forward(&ones(&[2, 4])).is_err(), "other channels");
    assert!(norm.forward(&ones(&[2, 3, 4, 4])).is_err(), "an image");
    assert!(norm.forward(&ones(&[3])).is_err(), "no batch");
    assert!(norm.forward(&ones(&[1, 3])).is_err(), "no variance of one value");
    assert_eq!(norm.running_mean.tensor().to_vec::<f32>().unwrap(), [0.0; 3], "refused passes leave no mark");
    norm.eval();
    assert_eq!(norm.forward(&ones(&[1, 3])).unwrap().shape(), &[1, 3]);
    assert!(norm.momentum(1.5).is_err());
    assert!(BatchNorm2d::new(3, &device).unwrap().forward(&ones(&[2, 3])).is_err());
}
