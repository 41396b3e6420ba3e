//! Losses with their gradients.

use everstep::nn::loss::{self, Reduction};
use everstep::prelude::*;
use serde_json::Value;

use crate::common::{Scale, Worst, goldens, labels, number, tensor, text};

fn run(case: &Value, inputs: &[(String, Tensor)], reduction: Reduction) -> Tensor {
    let input = |name: &str| inputs.iter().find(|(key, _)| key.ends_with(name)).map(|(_, tensor)| tensor);
    let (x, param) = (input("x").unwrap(), |name: &str| number(&case["params"][name]) as f32);
    let t = || input("t").unwrap();
    let loss = match text(&case["loss"]) {
        "mse" => loss::mse(x, t(), reduction),
        "l1" => loss::l1(x, t(), reduction),
        "huber" => loss::huber(x, t(), param("delta"), reduction),
        "smooth_l1" => loss::smooth_l1(x, t(), param("beta"), reduction),
        "bce_with_logits" => {
            let weight = inputs.iter().find(|(key, _)| key == "pos_weight").map(|(_, tensor)| tensor);
            loss::bce_with_logits(
                x,
                inputs.iter().find(|(key, _)| key == "t").map(|(_, t)| t).unwrap(),
                weight,
                reduction,
            )
        }
        "nll" => loss::nll(x, input("labels").unwrap(), reduction),
        "kl_div" => loss::kl_div(x, t(), reduction),
        other => panic!("no loss {other}"),
    };
    loss.unwrap()
}

/// 1, 1 1/8, 1 2/8, ..: so that each element's gradient is another.
fn weights(like: &Tensor) -> Tensor {
    let weights = (0..like.count()).map(|index| 1.0 + index as f32 / 8.0).collect();
    Tensor::from_vec(weights, like.shape(), like.device()).unwrap()
}

#[test]
fn losses_are_those_of_pytorch() {
    for device in everstep_testing::devices() {
        let goldens = goldens("losses.json");
        let mut worst = Worst::default();
        assert_eq!(goldens.cases().len(), 19);
        for case in goldens.cases() {
            for (reduction, key) in [(Reduction::Mean, "mean"), (Reduction::Sum, "sum"), (Reduction::None, "none")] {
                let input = |(name, value): (&String, &Value)| {
                    let tensor = match name.as_str() {
                        "labels" => labels(value, &device),
                        "x" | "t" => tensor(value, &device).requires_grad().unwrap(),
                        _ => tensor(value, &device),
                    };
                    (name.clone(), tensor)
                };
                let inputs: Vec<_> = case["inputs"].as_object().unwrap().iter().map(input).collect();
                let (name, kind) = (format!("{} {key}", case["name"]), text(&case["loss"]));
                let found = run(case, &inputs, reduction);
                worst.note(kind, &name, &found, &case[format!("{key}64")], Scale::Array);
                found.mul(&weights(&found)).unwrap().sum_all().unwrap().backward().unwrap();
                for (input, expected) in case[format!("grads_{key}64")].as_object().unwrap() {
                    let tensor = &inputs.iter().find(|(name, _)| name == input).unwrap().1;
                    let place = format!("{name}, gradient of {input}");
                    worst.note(&format!("{kind} gradient"), &place, &tensor.grad().unwrap(), expected, Scale::Array);
                }
            }
        }
        // A handful of roundings of 6e-8 each.
        worst.assert(&device, |_| 5e-7);
    }
}

#[test]
fn what_does_not_fit_is_an_error() {
    use everstep::tensor::Error;
    let device = Device::cpu();
    let zeros = |shape: &[usize]| Tensor::zeros(shape, &device).unwrap();
    // It would broadcast to [3, 3].
    let found = loss::mse(&zeros(&[3, 1]), &zeros(&[3]), Reduction::Mean);
    assert!(matches!(found, Err(Error::Shapes { op: "mse", .. })));
    for bad in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        let found = loss::huber(&zeros(&[3]), &zeros(&[3]), bad, Reduction::Mean);
        assert!(matches!(found, Err(Error::Argument { op: "huber", name: "delta", .. })));
    }
    assert!(matches!(
        loss::smooth_l1(&zeros(&[3]), &zeros(&[3]), -1.0, Reduction::Sum),
        Err(Error::Argument { op: "smooth_l1", .. })
    ));
    assert!(loss::bce_with_logits(&zeros(&[3]), &zeros(&[3]), Some(&zeros(&[2, 3])), Reduction::Sum).is_err());
    let whole = Tensor::from_slice(&[1u32, 2, 3], &[3], &device).unwrap();
    assert!(matches!(loss::l1(&zeros(&[3]), &whole, Reduction::Mean), Err(Error::DTypes { .. })));
}
