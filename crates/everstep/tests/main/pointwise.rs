//! Functions of single elements with their gradients and their edges, comparisons, and the halves.

use everstep::prelude::*;
use everstep_testing::close;
use serde_json::Value;

use crate::common::{goldens, text};

/// A number, or one that JSON has no place for, as text.
fn number(value: &Value) -> f64 {
    value.as_str().map_or_else(|| value.as_f64().unwrap(), |name| name.parse().unwrap())
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(number).collect()
}

/// What f32 holds of a number: infinite beyond the largest.
fn held(values: &[f64]) -> Vec<f64> {
    values.iter().map(|&value| f64::from(value as f32)).collect()
}

fn tensor(values: &[f64], device: &Device) -> Tensor {
    let values: Vec<f32> = values.iter().map(|&value| value as f32).collect();
    Tensor::from_slice(&values, &[values.len()], device).unwrap()
}

fn apply(case: &Value, x: &[Tensor]) -> everstep::tensor::Result<Tensor> {
    let param = |name: &str| case["params"].get(name).map(|value| number(value) as f32);
    match text(&case["op"]) {
        "abs" => x[0].abs(),
        "log1p" => x[0].log1p(),
        "expm1" => x[0].expm1(),
        "rsqrt" => x[0].rsqrt(),
        "sin" => x[0].sin(),
        "cos" => x[0].cos(),
        "sign" => x[0].sign(),
        "floor" => x[0].floor(),
        "ceil" => x[0].ceil(),
        "round" => x[0].round(),
        "recip" => x[0].recip(),
        "silu" => x[0].silu(),
        "softplus" => x[0].softplus(),
        "elu" => x[0].elu(param("alpha").unwrap()),
        "leaky_relu" => x[0].leaky_relu(param("negative_slope").unwrap()),
        "clamp" => x[0].clamp(param("min"), param("max")),
        "pow" => x[0].pow(&x[1]),
        "pow_scalar" => x[0].pow_scalar(param("other").unwrap()),
        "rem" => x[0].rem(&x[1]),
        "eq" => x[0].eq(&x[1]),
        "ne" => x[0].ne(&x[1]),
        "lt" => x[0].lt(&x[1]),
        "le" => x[0].le(&x[1]),
        "gt" => x[0].gt(&x[1]),
        "ge" => x[0].ge(&x[1]),
        "where" => x[0].gt_scalar(0.0)?.where_cond(&x[0].mul(&x[1])?, &x[0].sub(&x[1])?),
        "rem_i32" => x[0].cast(DType::I32)?.rem(&x[1].cast(DType::I32)?),
        "f16" => x[0].cast(DType::F16),
        "bf16" => x[0].cast(DType::BF16),
        halves => {
            let (op, dtype) = halves.split_once('_').unwrap();
            let dtype = if dtype == "f16" { DType::F16 } else { DType::BF16 };
            let [a, b] = [x[0].cast(dtype)?, x[1].cast(dtype)?];
            let result = match op {
                "mul" => a.mul(&b)?,
                "add" => a.add(&b)?,
                "tanh" => a.tanh()?,
                other => panic!("no op {other}"),
            };
            assert_eq!(result.dtype(), dtype, "{halves}");
            Ok(result)
        }
    }
}

/// Where Everstep differs from PyTorch on purpose: a NaN keeps no sign, and x sigmoid(x) has its limit at minus infinity.
fn differs(op: &str, input: f64) -> bool {
    (op == "sign" && input.is_nan()) || (op == "silu" && input == f64::NEG_INFINITY)
}

/// Relative errors: PyTorch's own f32 is off by as much; powers and roots as their entries of the op table say.
fn tolerance(op: &str) -> (f64, f64) {
    match op {
        "pow" | "pow_scalar" => (2e-6, 1.2e-38),
        "sin" | "cos" => (1e-6, 1e-7),
        // A result near a tie of halves may round the other way: one place of a half.
        "tanh_f16" => (1e-3, 6e-8),
        "tanh_bf16" => (8e-3, 1.2e-38),
        _ => (1.2e-6, 1.2e-38),
    }
}

fn check(case: &Value, device: &Device) -> Result<(), String> {
    let op = text(&case["op"]);
    let (relative, absolute) = tolerance(op);
    let inputs: Vec<Vec<f64>> = case["inputs"].as_array().unwrap().iter().map(numbers).collect();
    let exact = op == "rem_i32";
    let with_gradients = case.get("gradients").is_some();
    let leaf = |values: &Vec<f64>| {
        let tensor = match exact {
            true => {
                let values: Vec<i32> = values.iter().map(|&value| value as i32).collect();
                Tensor::from_slice(&values, &[values.len()], device).unwrap()
            }
            false => tensor(values, device),
        };
        if with_gradients { tensor.requires_grad().unwrap() } else { tensor }
    };
    let leaves: Vec<Tensor> = inputs.iter().map(leaf).collect();
    let output = apply(case, &leaves).map_err(|error| error.to_string())?;
    let mut expected = numbers(&case["output"]);
    if exact {
        let found: Vec<f64> = output.to_vec::<i32>().unwrap().into_iter().map(f64::from).collect();
        return if found == expected { Ok(()) } else { Err(format!("{found:?}, expected {expected:?}")) };
    }
    let mut found = output.detach().cast(DType::F32).unwrap().to_vec::<f32>().unwrap();
    for (at, &input) in inputs[0].iter().enumerate().filter(|(_, input)| differs(op, **input)) {
        assert!(if input.is_nan() { found[at].is_nan() } else { found[at] == 0.0 }, "{op} of {input} is {}", found[at]);
        (found[at], expected[at]) = (0.0, 0.0);
    }
    close(&found, &held(&expected), relative, absolute)?;
    if !with_gradients {
        return Ok(());
    }
    let weights: Vec<f64> = (0..output.count()).map(|index| 1.0 + index as f64 / 8.0).collect();
    output.mul(&tensor(&weights, device)).unwrap().sum_all().unwrap().backward().unwrap();
    for (leaf, expected) in leaves.iter().zip(case["gradients"].as_array().unwrap()) {
        let expected = numbers(expected);
        let found = leaf.grad().ok_or("no gradient")?.to_vec::<f32>().unwrap();
        // A product of a few rounded factors.
        close(&found, &held(&expected), 3.0 * relative, 1e-6).map_err(|reason| format!("gradient: {reason}"))?;
    }
    Ok(())
}

#[test]
fn functions_and_their_edges_are_those_of_pytorch() {
    let goldens = goldens("pointwise.json");
    assert_eq!(goldens.cases().len(), 74);
    for device in everstep_testing::devices() {
        let failed = |case: &Value| Some(format!("{}: {}", case["name"], check(case, &device).err()?));
        let failures: Vec<String> = goldens.cases().iter().filter_map(failed).collect();
        assert!(failures.is_empty(), "{device}:\n{}", failures.join("\n"));
    }
}
