//! Ops and their gradients.

use everstep::device::DeviceKind;
use everstep::prelude::*;
use everstep_testing::array;
use serde_json::Value;

use crate::common::{Scale, Worst, goldens, labels, number, tensor, text};

fn list<T: serde::de::DeserializeOwned>(value: &Value) -> Vec<T> {
    serde_json::from_value(value.clone()).unwrap()
}

/// The inputs of a case, by name: tensors that want gradients.
struct Inputs<'a> {
    case: &'a Value,
    device: &'a Device,
    made: Vec<(&'static str, Tensor)>,
}

impl Inputs<'_> {
    fn has(&self, name: &str) -> bool {
        self.case["inputs"].get(name).is_some()
    }

    /// A scalar where the case has it among its parameters.
    fn get(&mut self, name: &'static str) -> Tensor {
        if !self.has(name) {
            return Tensor::scalar(number(&self.case["params"][name]) as f32, self.device).unwrap();
        }
        let leaf = tensor(&self.case["inputs"][name], self.device).requires_grad().unwrap();
        self.made.push((name, leaf.clone()));
        leaf
    }
}

fn activation(name: &str) -> Activation {
    match name {
        "none" => Activation::None,
        "relu" => Activation::Relu,
        "gelu" => Activation::Gelu,
        "gelu_tanh" => Activation::GeluTanh,
        "tanh" => Activation::Tanh,
        "sigmoid" => Activation::Sigmoid,
        other => panic!("no activation {other}"),
    }
}

fn compute(op: &str, params: &Value, inputs: &mut Inputs<'_>) -> everstep::tensor::Result<Tensor> {
    let flag = |name: &str| params[name].as_bool().unwrap();
    match op {
        "linear" => {
            let bias = inputs.has("b").then(|| inputs.get("b"));
            inputs.get("x").linear(&inputs.get("w"), bias.as_ref(), activation(text(&params["activation"])))
        }
        "matmul" => {
            let turned = |x: Tensor, turn| if turn { x.t() } else { Ok(x) };
            let a = turned(inputs.get("a"), flag("transpose_a"))?;
            a.matmul(&turned(inputs.get("b"), flag("transpose_b"))?)
        }
        "softmax" => inputs.get("x").softmax(params["axis"].as_i64().unwrap() as isize),
        "cross_entropy" => inputs.get("logits").cross_entropy(&labels(&inputs.case["inputs"]["labels"], inputs.device)),
        "relu" => inputs.get("x").relu(),
        "gelu" => inputs.get("x").gelu(),
        "gelu_tanh" => inputs.get("x").gelu_tanh(),
        "tanh" => inputs.get("x").tanh(),
        "sigmoid" => inputs.get("x").sigmoid(),
        "exp" => inputs.get("x").exp(),
        "log" => inputs.get("x").log(),
        "sqrt" => inputs.get("x").sqrt(),
        "neg" => inputs.get("x").neg(),
        "add" => inputs.get("x").add(&inputs.get("y")),
        "sub" => inputs.get("x").sub(&inputs.get("y")),
        "mul" => inputs.get("x").mul(&inputs.get("y")),
        "div" => inputs.get("x").div(&inputs.get("y")),
        "sum" => inputs.get("x").sum(&list::<isize>(&params["axes"]), flag("keepdim")),
        "mean" => inputs.get("x").mean(&list::<isize>(&params["axes"]), flag("keepdim")),
        "max" => inputs.get("x").max(&list::<isize>(&params["axes"]), flag("keepdim")),
        "argmax" => inputs.get("x").argmax(params["axis"].as_i64().unwrap() as isize, flag("keepdim")),
        "permute_reshape" => {
            inputs.get("x").permute(&list::<isize>(&params["axes"]))?.reshape(&list::<usize>(&params["shape"]))
        }
        "slice" => {
            let ranges = list::<(usize, usize)>(&params["ranges"]);
            let cut = |x: Tensor, (axis, &(start, end)): (usize, &(usize, usize))| x.slice(axis as isize, start..end);
            ranges.iter().enumerate().try_fold(inputs.get("x"), cut)
        }
        "slice_overlap" => {
            let x = inputs.get("x");
            x.slice(0, 0..4)?.mul(&x.slice(0, 2..6)?)
        }
        other => panic!("no op {other}"),
    }
}

/// The scalar forms, `x.sub_scalar(1.5)`, beside the broadcast of a tensor of rank 0: the same formula, the same bits.
fn assert_scalar_form(op: &str, params: &Value, inputs: &mut Inputs<'_>, output: &Tensor) {
    let Some(right) = params.get("y") else { return };
    let right = number(right) as f32;
    let x = inputs.get("x");
    let (found, by_operator) = match op {
        "add" => (x.add_scalar(right), &x + right),
        "sub" => (x.sub_scalar(right), &x - right),
        "mul" => (x.mul_scalar(right), &x * right),
        "div" => (x.div_scalar(right), &x / right),
        other => panic!("no scalar form of {other}"),
    };
    let expected = output.to_vec::<f32>().unwrap();
    // WGSL lets a GPU divide within 2.5 units in the last place, a constant divisor otherwise than a variable one.
    let expected: Vec<f64> = expected.into_iter().map(f64::from).collect();
    everstep_testing::assert_close(op, &found.unwrap().to_vec::<f32>().unwrap(), &expected, 3e-7, 0.0);
    everstep_testing::assert_close(op, &by_operator.unwrap().to_vec::<f32>().unwrap(), &expected, 3e-7, 0.0);
}

fn check(case: &Value, device: &Device, worst: &mut Worst) {
    let (name, op, params) = (text(&case["name"]), text(&case["op"]), &case["params"]);
    let mut inputs = Inputs { case, device, made: vec![] };
    let output = compute(op, params, &mut inputs).unwrap_or_else(|error| panic!("{name}: {error}"));
    if op == "argmax" {
        let (shape, expected) = array(&case["output"]);
        assert_eq!(output.shape(), &shape[..], "{name}");
        let found: Vec<f64> = output.to_vec::<u32>().unwrap().into_iter().map(f64::from).collect();
        assert_eq!(found, expected, "{name}");
        return;
    }
    let scale = scale(op, name);
    worst.note(op, name, &output, &case["output64"], scale);
    output.mul(&tensor(&case["grad_output"], device)).unwrap().sum_all().unwrap().backward().unwrap();
    assert_eq!(inputs.made.len(), case["grads64"].as_object().unwrap().len(), "{name}");
    for (input, leaf) in &inputs.made {
        let gradient = leaf.grad().unwrap_or_else(|| panic!("{name}: no gradient of {input}"));
        let place = format!("{name}, gradient of {input}");
        worst.note(&format!("{op} gradient"), &place, &gradient, &case["grads64"][*input], scale);
    }
    assert_scalar_form(op, params, &mut inputs, &output);
}

/// Sums, and functions computed by ones that cancel, have the precision of their largest terms.
fn scale(op: &str, name: &str) -> Scale {
    match op {
        "exp" | "log" | "sqrt" | "neg" | "relu" | "permute_reshape" | "slice" | "slice_overlap" => Scale::Element,
        "add" | "sub" | "mul" | "div" if !name.contains("broadcast") => Scale::Element,
        _ => Scale::Array,
    }
}

#[test]
fn ops_and_gradients_are_those_of_pytorch() {
    for device in everstep_testing::devices() {
        let mut worst = Worst::default();
        let goldens = goldens("ops.json");
        goldens.cases().iter().for_each(|case| check(case, &device, &mut worst));
        assert_eq!(goldens.cases().len(), 127);
        worst.assert(&device, |kind| tolerance(kind, device.info().kind));
    }
}

/// How far each kind of case may be off, as a share of its scale. PyTorch's own float32 is off by up to 5.3e-7.
fn tolerance(kind: &str, device: DeviceKind) -> f64 {
    match (kind, device) {
        // Nothing is computed; the fixture has 13 digits.
        ("max" | "neg" | "permute_reshape" | "relu" | "slice" | "sum gradient", _) => 1e-12,
        ("max gradient" | "neg gradient" | "permute_reshape gradient" | "relu gradient" | "slice gradient", _) => 1e-12,
        // Sums of a dozen roundings, of 6e-8 each.
        (_, DeviceKind::Cpu) => 6e-7,
        // WGSL lets a GPU divide within 2.5 units in the last place, and gives its roots and exponentials as much.
        _ => 1.5e-6,
    }
}
