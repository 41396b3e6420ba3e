//! Products whose K is cut into parts, as real GPUs run them.

use std::process::Command;

use everstep_tensor::ops::reference::{Array, Domain};
use everstep_tensor::{Activation, Generator};
use everstep_testing::assert_close;

const VARIANTS: &str = "EVERSTEP_GPU_VARIANTS";

/// A product with bias and activation, in parts of unequal lengths.
#[test]
fn products_in_parts_are_right_on_a_gpu() {
    // The variants for real GPUs are chosen when a process opens its device.
    if std::env::var(VARIANTS).is_err() {
        let mut process = Command::new(std::env::current_exe().unwrap());
        process.args(["split::products_in_parts_are_right_on_a_gpu", "--exact"]).env(VARIANTS, "hardware");
        let output = process.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        return;
    }
    let Some(device) = everstep_testing::gpu() else { return };
    let mut generator = Generator::new(17);
    let mut draw = |shape: &[usize]| Array::draw(shape, Domain::between(-1.0, 1.0), &mut generator);
    let (rows, depth, columns) = (9, 1100, 1030);
    let (x, weight, bias) = (draw(&[rows, depth]), draw(&[columns, depth]), draw(&[columns]));
    let on = |array: &Array| array.tensor(&device).unwrap();
    let (x_on, weight_on, bias_on) = (on(&x), on(&weight), on(&bias));
    let before = device.counters().commands;
    let y = x_on.linear(&weight_on, Some(&bias_on), Activation::Relu).unwrap();
    let found = y.to_vec::<f32>().unwrap();
    // Four parts at once, what is left of K, and their sum.
    assert!(device.counters().commands >= before + 3, "the product was not cut");
    let expected: Vec<f64> = (0..rows * columns)
        .map(|at| {
            let (row, column) = (at / columns, at % columns);
            let terms = (0..depth).map(|k| x.values[row * depth + k] * weight.values[column * depth + k]);
            (terms.sum::<f64>() + bias.values[column]).max(0.0)
        })
        .collect();
    // Sums of 1100 products below 1, each rounded to a part in 2^24 of sums of some tens.
    assert_close("product in parts", &found, &expected, 1e-5, 5e-5);
}
