//! Layers with their losses and gradients; initialisation.

use everstep::nn::{Fan, init::gain};
use everstep::prelude::*;
use serde_json::Value;

use crate::common::{Mlp, Scale, Worst, goldens, labels, load, number, tensor, text};

fn cases(kind: &str) -> Vec<Value> {
    goldens("layers.json").cases().iter().filter(|case| text(&case["kind"]) == kind).cloned().collect()
}

/// Notes the errors of one case.
fn check<M: Module>(
    case: &Value,
    module: M,
    forward: impl Fn(&M, &Tensor) -> everstep::Result<Tensor>,
    device: &Device,
    worst: &mut Worst,
) {
    let name = text(&case["name"]);
    load(&module, &case["state"]);
    let x = tensor(&case["input"], device).requires_grad().unwrap();
    let output = forward(&module, &x).unwrap();
    let loss = output.cross_entropy(&labels(&case["labels"], device)).unwrap();
    loss.backward().unwrap();
    worst.note("output", name, &output, &case["output64"], Scale::Array);
    worst.note("loss", name, &loss, &case["loss64"], Scale::Array);
    worst.note("gradient of the input", name, &x.grad().unwrap(), &case["grad_input64"], Scale::Array);
    for (parameter, handle) in module.named_parameters() {
        let place = format!("{name}, {parameter}");
        worst.note("gradient", &place, &handle.grad().unwrap(), &case["grads64"][&parameter], Scale::Array);
    }
}

#[test]
fn layers_are_those_of_pytorch() {
    for device in everstep_testing::devices() {
        let mut worst = Worst::default();
        let cases = cases("layer");
        for case in &cases {
            let config = &case["config"];
            match text(&case["layer"]) {
                "linear" => {
                    // The fixture's names are the config's own.
                    let config: LinearConfig = serde_json::from_value(config.clone()).unwrap();
                    let layer = config.init(&mut Generator::new(0), &device).unwrap();
                    check(case, layer, |layer, x| Ok(layer.forward(x)?), &device, &mut worst);
                }
                "mlp" => check(case, Mlp::new(&config["sizes"], &device), Mlp::forward, &device, &mut worst),
                other => panic!("no layer {other}"),
            }
        }
        assert_eq!(cases.len(), 5);
        // A dozen roundings of 6e-8 each; PyTorch's own float32 is off by as much.
        worst.assert(&device, |_| 1e-6);
    }
}

fn gain_of(params: &Value) -> f64 {
    match text(&params["nonlinearity"]) {
        "linear" => gain::LINEAR,
        "relu" => gain::RELU,
        "tanh" => gain::TANH,
        "leaky_relu" => gain::leaky_relu(number(&params["negative_slope"])),
        other => panic!("no gain of {other}"),
    }
}

fn init(case: &Value) -> Init {
    let params = &case["params"];
    let gain = gain_of(params);
    let fan = || if text(&params["mode"]) == "fan_in" { Fan::In } else { Fan::Out };
    match text(&case["initialiser"]) {
        "kaiming_uniform" => Init::KaimingUniform { gain, fan: fan() },
        "kaiming_normal" => Init::KaimingNormal { gain, fan: fan() },
        "xavier_uniform" => Init::XavierUniform { gain },
        "xavier_normal" => Init::XavierNormal { gain },
        other => panic!("no initialiser {other}"),
    }
}

/// Asserts that values drawn from a distribution with mean 0, this variance and this kurtosis (E x^4 / variance^2) look so:
/// mean and variance within five standard errors.
fn assert_moments(context: &str, values: &[f32], variance: f64, kurtosis: f64) {
    let count = values.len() as f64;
    let mean = values.iter().map(|&x| f64::from(x)).sum::<f64>() / count;
    let found = values.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / count;
    assert!(mean.abs() < 5.0 * (variance / count).sqrt(), "{context}: mean {mean}");
    let error = variance * ((kurtosis - 1.0) / count).sqrt();
    assert!((found - variance).abs() < 5.0 * error, "{context}: variance {found}, expected {variance}");
}

#[test]
fn initial_values_are_distributed_as_in_pytorch() {
    let device = Device::cpu();
    let cases = cases("init");
    assert_eq!(cases.len(), 110);
    for (index, case) in cases.iter().enumerate() {
        let init = init(case);
        let context = format!("{} {} {}", case["initialiser"], case["shape"], case["params"]);
        let same = |found: f64, expected: f64| (found - expected).abs() <= 1e-15 * expected; // a few roundings in f64
        assert!(same(gain_of(&case["params"]), number(&case["gain"])), "{context}");
        let fan = |name: &str| case[name].as_u64().unwrap() as usize;
        let fans = (fan("fan_in"), fan("fan_out"));
        let uniform = case.get("bound").is_some();
        let expected = number(&case[if uniform { "bound" } else { "std" }]);
        let scale = init.scale(fans.0, fans.1);
        assert!(same(scale, expected), "{context}: {scale}, expected {expected}");

        let shape: Vec<usize> = serde_json::from_value(case["shape"].clone()).unwrap();
        let mut generator = Generator::new(index as u64);
        let values: Vec<f32> = init.tensor(&shape, fans, &mut generator, &device).unwrap().to_vec().unwrap();
        assert_eq!(values.len(), shape.iter().product::<usize>());
        if uniform {
            let largest = values.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
            assert!(largest <= expected as f32, "{context}: {largest} outside {expected}");
            // All of n values miss the outer 20 / n of the range once in e^20 times.
            let outer = (20.0 / values.len() as f64).min(1.0);
            assert!(f64::from(largest) > expected * (1.0 - outer), "{context}: the largest is {largest}");
            assert_moments(&context, &values, expected * expected / 3.0, 1.8);
        } else {
            assert_moments(&context, &values, expected * expected, 3.0);
        }
    }
}
