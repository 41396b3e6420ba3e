//! Indexing, joining, moving and reducing ops, and the options of cross-entropy, with their gradients.

use everstep::prelude::*;
use everstep::tensor::{CrossEntropyOptions, Result};
use everstep_testing::array;
use serde_json::Value;

use crate::common::{Scale, Worst, goldens, labels, number, tensor, text};

fn list<T: serde::de::DeserializeOwned>(value: &Value) -> Vec<T> {
    serde_json::from_value(value.clone()).unwrap()
}

/// The inputs by name: x, y, source and t want gradients, ids are integers.
struct Inputs(Vec<(String, Tensor)>);

impl Inputs {
    fn new(case: &Value, device: &Device) -> Self {
        let make = |(name, value): (&String, &Value)| match name.as_str() {
            "ids" => (name.clone(), labels(value, device)),
            _ => (name.clone(), tensor(value, device).requires_grad().unwrap()),
        };
        Self(case["inputs"].as_object().unwrap().iter().map(make).collect())
    }

    fn get(&self, name: &str) -> &Tensor {
        &self.0.iter().find(|(key, _)| key == name).unwrap().1
    }
}

/// The norm's p: a number, or the name of an infinite one.
fn power(value: &Value) -> f32 {
    match value.as_str() {
        Some("inf") => f32::INFINITY,
        Some(_) => f32::NEG_INFINITY,
        None => number(value) as f32,
    }
}

fn options(params: &Value) -> CrossEntropyOptions {
    serde_json::from_value(params.clone()).unwrap()
}

fn compute(op: &str, params: &Value, inputs: &Inputs) -> Result<Tensor> {
    let whole = |name: &str| params[name].as_i64().unwrap() as isize;
    let axes = || list::<isize>(&params["axes"]);
    let count = |name: &str| params[name].as_u64().unwrap() as usize;
    let (x, ids) = (|| inputs.get("x"), || inputs.get("ids"));
    match op {
        "embedding" => x().embedding(ids()),
        "index_select" => x().index_select(whole("axis"), ids()),
        "index_add" => x().index_add(whole("axis"), ids(), inputs.get("source")),
        "gather" => x().gather(whole("axis"), ids()),
        "scatter_add" => x().scatter_add(whole("axis"), ids(), inputs.get("source")),
        "cat" => Tensor::cat(&[x(), inputs.get("y")], whole("axis")),
        "stack" => Tensor::stack(&[x(), inputs.get("y")], whole("axis")),
        "chunk" => Ok(x().chunk(count("count"), 0)?.swap_remove(count("part"))),
        "pad" => x().pad(&list::<(usize, usize)>(&params["padding"]), number(&params["value"]) as f32),
        "flip" => x().flip(&axes()),
        "repeat" => x().repeat(&list::<usize>(&params["repeats"])),
        "tril" => x().tril(whole("diagonal")),
        "triu" => x().triu(whole("diagonal")),
        "one_hot" => ids().one_hot(count("classes")),
        "var" => x().var(&axes(), count("correction"), false),
        "std" => x().std(&axes(), count("correction"), false),
        "norm" => x().norm(power(&params["p"]), &axes(), false),
        "logsumexp" => x().logsumexp(&axes(), false),
        "min" => x().min(&axes(), false),
        "prod" => x().prod(&axes(), false),
        "cumsum" => x().cumsum(whole("axis")),
        "log_softmax" => x().log_softmax(whole("axis")),
        "argmin" => x().argmin(whole("axis"), false)?.cast(DType::F32),
        "cross_entropy" => x().cross_entropy_with(ids(), &options(params)),
        "cross_entropy_soft" => x().cross_entropy_soft(inputs.get("t"), &options(params)),
        other => panic!("no op {other}"),
    }
}

/// 1, 1 1/8, 1 2/8, ..: so that each element's gradient is another.
fn weights(like: &Tensor) -> Tensor {
    let weights = (0..like.count()).map(|index| 1.0 + index as f32 / 8.0).collect();
    Tensor::from_vec(weights, like.shape(), like.device()).unwrap()
}

fn check(case: &Value, device: &Device, worst: &mut Worst) {
    let (name, op) = (text(&case["name"]), text(&case["op"]));
    let inputs = Inputs::new(case, device);
    let output = compute(op, &case["params"], &inputs).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(output.shape(), &array(&case["output64"]).0[..], "{name}");
    worst.note(op, name, &output, &case["output64"], Scale::Array);
    let Some(gradients) = case.get("grads64") else { return };
    output.mul(&weights(&output)).unwrap().sum_all().unwrap().backward().unwrap();
    for (input, expected) in gradients.as_object().unwrap() {
        let gradient = inputs.get(input).grad().unwrap_or_else(|| panic!("{name}: no gradient of {input}"));
        let place = format!("{name}, gradient of {input}");
        worst.note(&format!("{op} gradient"), &place, &gradient, expected, Scale::Array);
    }
}

fn compare(file: &str, count: usize) {
    for device in everstep_testing::devices() {
        let mut worst = Worst::default();
        let goldens = goldens(file);
        goldens.cases().iter().for_each(|case| check(case, &device, &mut worst));
        assert_eq!(goldens.cases().len(), count);
        // Some dozens of roundings of 6e-8 each; powers are exponentials of logarithms.
        worst.assert(&device, |kind| if kind.starts_with("norm") { 3e-6 } else { 1.5e-6 });
    }
}

#[test]
fn indexing_joining_and_moving_are_those_of_pytorch() {
    compare("indexing.json", 35);
}

#[test]
fn reductions_and_cross_entropy_options_are_those_of_pytorch() {
    compare("reductions.json", 101);
}
