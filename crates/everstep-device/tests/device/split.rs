//! Products whose K is cut into parts, on every executor against f64.

use everstep_device::cpu::{Matmul, MatmulSplit};
use everstep_device::functions::Activation;
use everstep_device::{Device, Generator, GpuTraits, Layout};
use everstep_testing::assert_close;

use crate::shape;
use crate::variants::{matrices, normals, outputs, product};

const GPU: GpuTraits = GpuTraits { software: false, subgroup: 32, max_workgroups: 65_535, cooperative: None };

/// What the kernels of a product in parts write; and into how many they cut it.
fn in_parts(device: &Device, kernel: &Matmul, [a, b, bias]: [&[f32]; 3]) -> (Vec<f32>, usize) {
    let MatmulSplit { parts, rest, sum } = kernel.split(&GPU).unwrap();
    let (count, elements) = (sum.count + usize::from(sum.rest), sum.elements);
    let [written] = outputs(device, parts, &[a, b, a], [sum.count * elements]);
    let rest = rest.map(|rest| outputs(device, rest, &[a, b, a], [elements])[0].clone());
    let [c] = outputs(device, sum, &[&written, &rest.unwrap_or(vec![0.0]), bias], [elements]);
    (c, count)
}

#[test]
fn parts_of_products_add_up() {
    let devices: Vec<Device> = std::iter::once(Device::cpu()).chain(everstep_testing::gpu()).collect();
    let mut generator = Generator::new(13);
    // K that is cut evenly, and not; one row or column; batches.
    for ([batches, m, n, k], count) in [
        ([1, 5, 7, 1024], 4),
        ([1, 65, 33, 1500], 6),
        ([1, 1, 9, 2049], 9),
        ([3, 70, 1, 1100], 5),
        ([2, 3, 4, 1031], 5),
    ] {
        for (a_turned, b_turned) in [(false, false), (true, false), (false, true), (true, true)] {
            let (a, b) = (matrices([batches, m, k], a_turned, 1), matrices([batches, k, n], b_turned, 4));
            let (left, right) = (normals(&mut generator, a.end()), normals(&mut generator, b.end()));
            let bias = normals(&mut generator, 2 * n + 1);
            for (bias_place, activation) in [(None, Activation::None), (Some((1, 2)), Activation::Relu)] {
                let kernel = Matmul { a, b, bias: bias_place, activation };
                let own: Vec<f32> = bias[1..].iter().step_by(2).copied().collect();
                let mut expected = product((&a, &left), (&b, &right), bias_place.map(|_| &own[..]));
                if activation == Activation::Relu {
                    expected.iter_mut().for_each(|value| *value = value.max(0.0));
                }
                for device in &devices {
                    let name = format!("{device}: {batches} x {m} x {n} x {k} {a_turned} {b_turned} {activation:?}");
                    let (found, parts) = in_parts(device, &kernel, [&left, &right, &bias]);
                    assert_eq!(parts, count, "{name}");
                    // Sums of k products, each rounded to a part in 2^24 of sums about as large as the root of k.
                    assert_close(&name, &found, &expected, 1e-5, 2e-6 * (k as f64 + 1.0).sqrt());
                }
            }
        }
    }
}

/// Operands that repeat a matrix, batches of as many dimensions as there can be, and of one too many to cut.
#[test]
fn parts_of_broadcast_operands_are_views() {
    let dense = |dims: &[usize]| Layout::contiguous(shape(dims));
    let kernel = |a: Layout, b: Layout| Matmul { a, b, bias: None, activation: Activation::None };
    let stretched = dense(&[1, 1, 2, 1100]).broadcast_to(&shape(&[2, 3, 2, 1100])).unwrap();
    let (a, b) = (vec![1.0; 2200], (0..6600).map(|at| (at % 1100) as f32 / 1100.0).collect::<Vec<_>>());
    let own = kernel(stretched, dense(&[2, 3, 1100, 1]));
    let (found, _) = in_parts(&Device::cpu(), &own, [&a, &b, &[0.0]]);
    // 0 + 1 + .. + 1099, each over 1100.
    assert_close("stretched", &found, &[549.5; 12], 1e-5, 0.0);
    assert!(kernel(dense(&[1, 1, 1, 2, 2000]), dense(&[1, 1, 1, 2000, 2])).split(&GPU).is_some());
    assert!(kernel(dense(&[1, 1, 1, 1, 2, 2000]), dense(&[1, 1, 1, 1, 2000, 2])).split(&GPU).is_none());
}
