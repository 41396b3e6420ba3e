//! Normalisation and attention, as ops and as layers, with the gradients of every input and parameter.

use everstep::prelude::*;
use everstep::tensor::Result;
use everstep_testing::array;
use serde_json::Value;

use crate::common::{Scale, Worst, floats, goldens, labels, load, number, tensor, text};

fn count(value: &Value) -> usize {
    value.as_u64().unwrap() as usize
}

fn cases(kind: &str) -> Vec<Value> {
    goldens("norms.json").cases().iter().filter(|case| text(&case["kind"]) == kind).cloned().collect()
}

/// The options of an attention. Of its mask `seen` tells where negative infinity is: JSON has no place for it.
fn options(value: &Value, device: &Device) -> AttentionOptions {
    let whole = |mask: &Value| {
        let mut values = floats(mask);
        if !value["seen"].is_null() {
            let seen = array(&value["seen"]).1;
            assert_eq!(values.len(), seen.len());
            for (value, _) in values.iter_mut().zip(seen).filter(|(_, seen)| *seen == 0.0) {
                *value = f32::NEG_INFINITY;
            }
        }
        Tensor::from_vec(values, &array(mask).0, device).unwrap()
    };
    let mask = Some(&value["mask"]).filter(|mask| !mask.is_null()).map(whole);
    let scale = value["scale"].as_f64().map(|scale| scale as f32);
    AttentionOptions { causal: value["causal"].as_bool().unwrap(), mask, scale }
}

fn compute(case: &Value, inputs: &[Tensor]) -> Result<Tensor> {
    let (x, params) = (&inputs[0], &case["params"]);
    let epsilon = || number(&params["epsilon"]) as f32;
    let shape = || serde_json::from_value::<Vec<usize>>(params["shape"].clone()).unwrap();
    match text(&case["op"]) {
        "layer_norm" => x.layer_norm(&shape(), inputs.get(1), inputs.get(2), epsilon()),
        "rms_norm" => x.rms_norm(&shape(), inputs.get(1), epsilon()),
        "group_norm" => x.group_norm(count(&params["groups"]), inputs.get(1), inputs.get(2), epsilon()),
        "scaled_dot_product_attention" => {
            x.scaled_dot_product_attention(&inputs[1], &inputs[2], &options(params, x.device()))
        }
        "self_attention" => x.self_attention(&options(params, x.device())),
        other => panic!("no op {other}"),
    }
}

/// Goes back from the case's gradient of the output.
fn go_back(case: &Value, output: &Tensor) {
    let gradient = tensor(&case["grad_output"], output.device());
    output.mul(&gradient).unwrap().sum_all().unwrap().backward().unwrap();
}

/// A kind of its own for what has a tolerance of its own.
fn kind<'a>(case: &'a Value, of: &'a str) -> &'a str {
    if text(&case["name"]) == "layer_norm_far" { "layer_norm far from 0" } else { of }
}

fn tolerance(kind: &str) -> f64 {
    match kind.trim_end_matches(" gradient") {
        // Its vectors are moved, not computed; their gradients are sums of a few.
        "embedding" if kind == "embedding" => 1e-12,
        "embedding" => 2e-7,
        // A mean near 100 is rounded by up to 4e-6, of differences of about 1. PyTorch's own float32 is off by as much.
        "layer_norm far from 0" => 1e-5,
        // A handful of roundings of 6e-8 each, and a root.
        "layer_norm" | "rms_norm" | "group_norm" => 1e-6,
        // Scores of up to 9 are rounded by 5e-7, and so are the weights, which are their powers. A score's gradient
        // is a difference of such, which cancels in part. PyTorch's own float32 is off by 1e-6.
        "scaled_dot_product_attention" | "self_attention" => 3e-6,
        // Some of the above in a row; and of the gradient of a norm's bias terms of 28 in all cancel to 2.
        "transformer_block" => 6e-6,
        other => panic!("no tolerance of {other}"),
    }
}

fn check_op(case: &Value, device: &Device, worst: &mut Worst) {
    let (name, kind) = (text(&case["name"]), kind(case, text(&case["op"])));
    let names = ["x", "w", "b", "q", "k", "v"].into_iter().filter(|key| !case["inputs"][key].is_null());
    let names: Vec<&str> = names.collect();
    let leaf = |key: &&str| tensor(&case["inputs"][key], device).requires_grad().unwrap();
    let inputs: Vec<Tensor> = names.iter().map(leaf).collect();
    let output = compute(case, &inputs).unwrap_or_else(|error| panic!("{name}: {error}"));
    worst.note(kind, name, &output, &case["output64"], Scale::Array);
    go_back(case, &output);
    assert_eq!(names.len(), case["grads64"].as_object().unwrap().len(), "{name}");
    for (key, input) in names.iter().zip(&inputs) {
        let found = input.grad().unwrap_or_else(|| panic!("{name}: no gradient of {key}"));
        let place = format!("{name}, gradient of {key}");
        worst.note(&format!("{kind} gradient"), &place, &found, &case["grads64"][key], Scale::Array);
    }
}

#[test]
fn normalisation_and_attention_are_those_of_pytorch() {
    let cases = cases("op");
    assert_eq!(cases.len(), 34);
    for device in everstep_testing::devices() {
        let mut worst = Worst::default();
        cases.iter().for_each(|case| check_op(case, &device, &mut worst));
        worst.assert(&device, tolerance);
    }
}

/// Compares a layer with the case's values; its input is of numbers, which want a gradient, or of ids.
fn check_layer<M: Module>(
    case: &Value,
    module: M,
    forward: impl Fn(&M, &Tensor) -> Result<Tensor>,
    device: &Device,
    worst: &mut Worst,
) {
    let (name, kind) = (text(&case["name"]), text(&case["layer"]));
    load(&module, &case["state"]);
    let x = match case["grad_input64"].is_null() {
        true => labels(&case["input"], device),
        false => tensor(&case["input"], device).requires_grad().unwrap(),
    };
    let output = forward(&module, &x).unwrap_or_else(|error| panic!("{name}: {error}"));
    worst.note(kind, name, &output, &case["output64"], Scale::Array);
    go_back(case, &output);
    let kind = format!("{kind} gradient");
    if !case["grad_input64"].is_null() {
        let found = x.grad().unwrap_or_else(|| panic!("{name}: no gradient of x"));
        worst.note(&kind, &format!("{name}, gradient of x"), &found, &case["grad_input64"], Scale::Array);
    }
    for (parameter, handle) in module.named_parameters() {
        let found = handle.grad().unwrap_or_else(|| panic!("{name}: no gradient of {parameter}"));
        let place = format!("{name}, gradient of {parameter}");
        worst.note(&kind, &place, &found, &case["grads64"][&parameter], Scale::Array);
    }
}

fn check_norm(case: &Value, device: &Device, worst: &mut Worst) {
    let config = &case["config"];
    let (size, epsilon) = (|name: &str| count(&config[name]), config["epsilon"].as_f64().map(|epsilon| epsilon as f32));
    match text(&case["layer"]) {
        "layer_norm" => {
            let layer = LayerNorm::new(size("features"), device).unwrap();
            // Without an epsilon in the case the layer's own is that of PyTorch.
            let layer = epsilon.into_iter().fold(layer, LayerNorm::epsilon);
            check_layer(case, layer, LayerNorm::forward, device, worst);
        }
        "rms_norm" => {
            let layer = RmsNorm::new(size("features"), device).unwrap();
            check_layer(case, epsilon.into_iter().fold(layer, RmsNorm::epsilon), RmsNorm::forward, device, worst);
        }
        "group_norm" => {
            let layer = GroupNorm::new(size("groups"), size("channels"), device).unwrap();
            check_layer(case, layer, GroupNorm::forward, device, worst);
        }
        other => panic!("no layer {other}"),
    }
}

fn check_attention(case: &Value, device: &Device, worst: &mut Worst) {
    let (config, mut generator) = (&case["config"], Generator::new(0));
    let (width, heads) = (count(&config["width"]), count(&config["heads"]));
    let options = options(&case["options"], device);
    if text(&case["layer"]) == "self_attention" {
        let layer = SelfAttention::new(width, heads, &mut generator, device).unwrap();
        return check_layer(case, layer, |layer, x| layer.forward(x, &options), device, worst);
    }
    let dropout = number(&config["dropout"]) as f32;
    let block = TransformerBlock::new(width, heads, dropout, &mut generator, device).unwrap();
    if !config["training"].as_bool().unwrap() {
        block.eval();
    }
    check_layer(case, block, |block, x| block.forward(x, &options), device, worst);
}

#[test]
fn layers_of_normalisation_and_attention_are_those_of_pytorch() {
    let cases = cases("layer");
    assert_eq!(cases.len(), 12);
    for device in everstep_testing::devices() {
        let mut worst = Worst::default();
        for case in &cases {
            match text(&case["layer"]) {
                "embedding" => {
                    let (count, width) = (count(&case["config"]["count"]), count(&case["config"]["width"]));
                    let layer = Embedding::new(count, width, &mut Generator::new(0), &device).unwrap();
                    check_layer(case, layer, Embedding::forward, &device, &mut worst);
                }
                "self_attention" | "transformer_block" => check_attention(case, &device, &mut worst),
                _ => check_norm(case, &device, &mut worst),
            }
        }
        worst.assert(&device, tolerance);
    }
}
