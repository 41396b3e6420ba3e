//! Convolutions and poolings with their gradients.

use everstep::prelude::*;
use serde_json::Value;

use crate::common::{Scale, Worst, goldens, tensor, text};

/// A case's settings, whose names are those of the options.
fn options<T: serde::de::DeserializeOwned>(case: &Value) -> T {
    serde_json::from_value(case["params"]["options"].clone()).unwrap()
}

fn compute(case: &Value, inputs: &[Tensor]) -> everstep::tensor::Result<Tensor> {
    let (x, output) = (&inputs[0], &case["params"]["options"]["output"]);
    let activation = match case["params"]["activation"].as_str() {
        Some("relu") => Activation::Relu,
        _ => Activation::None,
    };
    match text(&case["op"]) {
        "conv2d" => x.conv2d(&inputs[1], inputs.get(2), &options(case), activation),
        "conv1d" => x.conv1d(&inputs[1], inputs.get(2), &options(case), activation),
        "max_pool2d" => x.max_pool2d(options::<PoolOptions>(case)),
        "max_pool1d" => x.max_pool1d(options::<PoolOptions>(case)),
        "avg_pool2d" => x.avg_pool2d(options::<PoolOptions>(case)),
        "avg_pool1d" => x.avg_pool1d(options::<PoolOptions>(case)),
        "adaptive_avg_pool2d" => x.adaptive_avg_pool2d(serde_json::from_value::<[usize; 2]>(output.clone()).unwrap()),
        "adaptive_avg_pool1d" => x.adaptive_avg_pool1d(output.as_u64().unwrap() as usize),
        other => panic!("no op {other}"),
    }
}

#[test]
fn convolutions_and_poolings_are_those_of_pytorch() {
    let goldens = goldens("conv.json");
    assert_eq!(goldens.cases().len(), 25);
    for device in everstep_testing::devices() {
        let mut worst = Worst::default();
        for case in goldens.cases() {
            let (name, op) = (text(&case["name"]), text(&case["op"]));
            let names: Vec<&str> = ["x", "w", "b"].into_iter().filter(|key| !case["inputs"][key].is_null()).collect();
            let leaf = |key: &&str| tensor(&case["inputs"][key], &device).requires_grad().unwrap();
            let inputs: Vec<Tensor> = names.iter().map(leaf).collect();
            let output = compute(case, &inputs).unwrap_or_else(|error| panic!("{name}: {error}"));
            worst.note(op, name, &output, &case["output64"], Scale::Array);
            output.mul(&tensor(&case["grad_output"], &device)).unwrap().sum_all().unwrap().backward().unwrap();
            assert_eq!(names.len(), case["grads64"].as_object().unwrap().len(), "{name}");
            for (key, input) in names.iter().zip(&inputs) {
                let place = format!("{name}, gradient of {key}");
                worst.note(
                    &format!("{op} gradient"),
                    &place,
                    &input.grad().unwrap(),
                    &case["grads64"][key],
                    Scale::Array,
                );
            }
        }
        // Maxima are moved, not computed; the others are sums of up to a hundred products, in another order.
        worst.assert(&device, |kind| if kind == "max_pool2d" || kind == "max_pool1d" { 1e-12 } else { 1e-6 });
    }
}

/// A layer begins as PyTorch's does: uniform in +-1 / sqrt(fan in), which is what its `reset_parameters` comes to.
#[test]
fn layers_take_the_settings_of_a_file_and_begin_within_their_bound() {
    let written =
        r#"{"in_channels": 4, "out_channels": 6, "kernel": [3, 2], "stride": 2, "padding": [1, 0], "groups": 2}"#;
    let config: Conv2dConfig = serde_json::from_str(written).unwrap();
    assert_eq!(config, Conv2dConfig::new(4, 6, [3, 2]).stride(2).padding([1, 0]).groups(2));
    assert_eq!(serde_json::from_str::<Conv2dConfig>(&serde_json::to_string(&config).unwrap()).unwrap(), config);
    let device = Device::cpu();
    let layer = config.init(&mut Generator::new(3), &device).unwrap();
    assert_eq!(layer.weight.tensor().shape(), &[6, 2, 3, 2]);
    let names: Vec<String> = layer.named_parameters().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["weight", "bias"]);
    let bound = 1.0 / 12f32.sqrt();
    for parameter in layer.parameters() {
        let values = parameter.tensor().to_vec::<f32>().unwrap();
        assert!(
            values.iter().all(|value| value.abs() <= bound) && values.iter().any(|value| value.abs() > bound / 2.0)
        );
    }
    let x = Tensor::ones(&[2, 4, 7, 6], &device).unwrap();
    assert_eq!(layer.forward(&x).unwrap().shape(), &[2, 6, 4, 3]);
    let refused = |config: Conv2dConfig| match config.init(&mut Generator::new(0), &device).unwrap_err() {
        everstep::nn::Error::Setting { layer: "Conv2d", field, .. } => field,
        other => panic!("{other}"),
    };
    assert_eq!(refused(Conv2dConfig::new(0, 6, 3)), "in_channels");
    assert_eq!(refused(Conv2dConfig::new(4, 0, 3)), "out_channels");
    assert_eq!(refused(Conv2dConfig::new(4, 6, [3, 0])), "kernel");
    assert_eq!(refused(Conv2dConfig::new(4, 6, 3).groups(0)), "groups");
    assert_eq!(refused(Conv2dConfig::new(4, 6, 3).groups(4)), "out_channels");
    assert_eq!(refused(Conv2dConfig::new(4, 6, 3).bias_init(Init::Uniform { bound: f64::NAN })), "bias_init");
    assert!(Conv1dConfig::new(4, 6, 0usize).init(&mut Generator::new(0), &device).is_err());
}
