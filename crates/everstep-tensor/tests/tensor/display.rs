//! How tensors print.

use everstep_tensor::{Device, Tensor};

use crate::common::devices;

fn show(values: &[f32], shape: &[usize]) -> String {
    Tensor::from_slice(values, shape, &Device::cpu()).unwrap().to_string()
}

fn counting(shape: &[usize], device: &Device) -> Tensor {
    let count = shape.iter().product();
    Tensor::from_vec((0..count).map(|at| at as u32).collect(), shape, device).unwrap()
}

#[test]
fn every_rank_has_its_form() {
    assert_eq!(show(&[1.5], &[]), "1.5000 f32[]");
    assert_eq!(show(&[1.0, -2.25], &[2]), "[ 1.0000, -2.2500] f32[2]");
    assert_eq!(show(&[1.0, 2.0, 3.0, 40.0], &[2, 2]), "[[ 1.0000,  2.0000],\n [ 3.0000, 40.0000]] f32[2, 2]");
    let cube = counting(&[2, 2, 2], &Device::cpu()).to_string();
    assert_eq!(cube, "[[[0, 1],\n  [2, 3]],\n\n [[4, 5],\n  [6, 7]]] u32[2, 2, 2]");
    let signed = Tensor::from_slice(&[-1i32, 10], &[2], &Device::cpu()).unwrap();
    assert_eq!(signed.to_string(), "[-1, 10] i32[2]");
}

#[test]
fn empty_and_unusual_numbers_print() {
    assert_eq!(show(&[], &[0]), "[] f32[0]");
    assert_eq!(show(&[], &[2, 0]), "[[],\n []] f32[2, 0]");
    assert_eq!(show(&[], &[0, 2]), "[] f32[0, 2]");
    assert_eq!(show(&[f32::NAN, f32::INFINITY, -1.0], &[3]), "[    NaN,     inf, -1.0000] f32[3]");
    assert_eq!(show(&[1e-7, f32::NAN], &[2]), "[1.0000e-7,       NaN] f32[2]");
    assert_eq!(show(&[0.0, 1e9], &[2]), "[0.0000e0, 1.0000e9] f32[2]");
}

/// More than a thousand elements: the ends of each long dimension, and only those are read back.
#[test]
fn long_tensors_are_cut_short() {
    for device in devices().iter() {
        let line = counting(&[1001], device).to_string();
        assert_eq!(line, "[   0,    1,    2, ...,  998,  999, 1000] u32[1001]", "{device}");
        let table = counting(&[100, 20], device).to_string();
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines.len(), 7, "{table}");
        assert_eq!(lines[0], "[[   0,    1,    2, ...,   17,   18,   19],");
        assert_eq!(lines[3].trim(), "...,");
        assert_eq!(lines[6], " [1980, 1981, 1982, ..., 1997, 1998, 1999]] u32[100, 20]");
        // A dimension that is short stays whole.
        let wide = counting(&[2, 3, 400], device).to_string();
        assert_eq!(wide.matches("...").count(), 6, "{wide}");
        assert!(wide.contains("2399]]] u32[2, 3, 400]"), "{wide}");
        let view = counting(&[400, 3], device).t().unwrap().to_string();
        assert!(view.starts_with("[[   0,    3,    6, ..., 1191, 1194, 1197],"), "{view}");
    }
    // A view of one element that claims to be many is not expanded.
    let many = Tensor::full(&[1], 0.5, &Device::cpu()).unwrap().broadcast_to(&[1 << 40]).unwrap();
    assert_eq!(many.to_string(), format!("[{0}, {0}, {0}, ..., {0}, {0}, {0}] f32[1099511627776]", "0.5000"));
    let wide = many.reshape(&[1 << 20, 1 << 20]).unwrap().to_string();
    assert_eq!(wide.lines().count(), 7, "{wide}");
}

#[test]
fn debug_reads_nothing_back() {
    let device = Device::isolated_cpu();
    let x = Tensor::ones(&[2, 3], &device).unwrap();
    let y = x.requires_grad().unwrap().exp().unwrap();
    let before = device.counters();
    let name = device.info().name.clone();
    assert_eq!(format!("{x:?}"), format!("Tensor(f32[2, 3], {name})"));
    assert_eq!(format!("{y:?}"), format!("Tensor(f32[2, 3], {name}, on tape)"));
    assert_eq!(device.counters(), before);
    let _ = x.to_string();
    assert_eq!(device.counters().reads, before.reads + 1);
}

/// What cannot be read says why in place of its elements.
#[test]
fn a_tensor_that_cannot_be_read_prints_the_reason() {
    let device = Device::isolated_cpu();
    let labels = Tensor::from_slice(&[7u32], &[1], &device).unwrap();
    let loss = Tensor::zeros(&[1, 2], &device).unwrap().cross_entropy(&labels).unwrap();
    assert!(loss.to_string().contains("`cross_entropy` was given 7"), "{loss}");
}
