//! Convolutions and their gradients in every variant, against f64.

use everstep_device::cpu::{Conv, ConvBackwardInput, ConvBackwardWeight, ConvGeometry};
use everstep_device::functions::Activation;
use everstep_device::{Device, Generator};
use everstep_testing::assert_close;

use crate::variants::{both, normals, outputs};

/// Images, groups, channels per group of x, and of y.
type Planes = [usize; 4];

/// Sizes of y follow from the others.
fn geometry(
    [batch, groups, channels, outputs]: Planes,
    input: [usize; 2],
    kernel: [usize; 2],
    [stride, padding, dilation]: [[usize; 2]; 3],
) -> ConvGeometry {
    let output = std::array::from_fn(|axis| {
        let padded = input[axis] + 2 * padding[axis];
        (padded - (kernel[axis] - 1) * dilation[axis] - 1) / stride[axis] + 1
    });
    ConvGeometry { batch, groups, channels, outputs, input, output, kernel, stride, padding, dilation }
}

/// Calls `term` with the places in x, w and y of each product of the definition.
fn each_product(g: &ConvGeometry, mut term: impl FnMut(usize, usize, usize)) {
    let plane = |of: [usize; 2], channel: usize, at: [usize; 2]| (channel * of[0] + at[0]) * of[1] + at[1];
    for at in 0..g.output_count() {
        let position = [at / g.output[1] % g.output[0], at % g.output[1]];
        let (image, filter) =
            (at / g.positions() / (g.groups * g.outputs), at / g.positions() % (g.groups * g.outputs));
        let group = filter / g.outputs;
        for own in 0..g.depth() {
            let tap = [own / g.kernel[1] % g.kernel[0], own % g.kernel[1]];
            let met: [usize; 2] = std::array::from_fn(|axis| {
                (position[axis] * g.stride[axis] + tap[axis] * g.dilation[axis]).wrapping_sub(g.padding[axis])
            });
            if (0..2).all(|axis| met[axis] < g.input[axis]) {
                let channel = (image * g.groups + group) * g.channels + own / g.taps();
                term(plane(g.input, channel, met), filter * g.depth() + own, at);
            }
        }
    }
}

/// Sums of so many products, each rounded to a part in 2^24 of sums about as large as the root of their number.
fn tolerance(terms: usize) -> f64 {
    2e-6 * (terms as f64 + 1.0).sqrt()
}

fn check(device: &Device, generator: &mut Generator, g: ConvGeometry) {
    let (x, weight) = (normals(generator, g.input_count()), normals(generator, g.weight_count()));
    let (dy, bias) = (normals(generator, g.output_count()), normals(generator, g.groups * g.outputs));
    let mut y = vec![0.0; g.output_count()];
    let (mut dx, mut dw) = (vec![0.0; g.input_count()], vec![0.0; g.weight_count()]);
    let product = |left: f32, right: f32| f64::from(left) * f64::from(right);
    each_product(&g, |at_x, at_weight, at_y| {
        y[at_y] += product(x[at_x], weight[at_weight]);
        dx[at_x] += product(dy[at_y], weight[at_weight]);
        dw[at_weight] += product(x[at_x], dy[at_y]);
    });
    // A buffer has an element, also where nothing is read.
    let some = |values: &[f32]| if values.is_empty() { vec![1.0] } else { values.to_vec() };
    let (x, weight, dy) = (some(&x), some(&weight), some(&dy));
    for with_bias in [false, true] {
        let activation = if with_bias { Activation::Relu } else { Activation::None };
        let kernel = Conv { geometry: g, bias: with_bias, activation };
        let [found] = outputs(device, kernel, &[&x, &weight, &some(&bias)], [g.output_count()]);
        let of = |at: usize| bias[at / g.positions() % (g.groups * g.outputs)];
        let after = |(at, sum): (usize, &f64)| if with_bias { (sum + f64::from(of(at))).max(0.0) } else { *sum };
        let expected: Vec<f64> = y.iter().enumerate().map(after).collect();
        assert_close(&format!("{g:?} {activation:?}"), &found, &expected, 1e-5, tolerance(g.depth()));
    }
    let [found] = outputs(device, ConvBackwardInput { geometry: g }, &[&dy, &weight, &weight], [g.input_count()]);
    assert_close(&format!("{g:?} dx"), &found, &dx, 1e-5, tolerance(g.outputs * g.taps()));
    let kernel = ConvBackwardWeight::new(g);
    let [parts] = outputs(device, kernel.clone(), &[&x, &dy], [kernel.parts() * g.weight_count()]);
    let sum = |at: usize| parts.iter().skip(at).step_by(g.weight_count()).sum::<f32>();
    let found: Vec<f32> = (0..g.weight_count()).map(sum).collect();
    assert_close(&format!("{g:?} dw"), &found, &dw, 1e-5, tolerance(g.batch * g.positions()));
}

const PLAIN: [[usize; 2]; 3] = [[1, 1], [0, 0], [1, 1]];

/// Both sides of every edge of the tiles: channels, positions and taps that are no multiple of anything, few and many.
#[test]
fn convolutions_are_right_in_every_variant() {
    both("convolutions::convolutions_are_right_in_every_variant", |device| {
        let mut generator = Generator::new(11);
        for (planes, input, kernel, options) in [
            ([2, 1, 4, 32], [8, 8], [3, 3], [[1, 1], [1, 1], [1, 1]]),
            ([3, 1, 9, 33], [7, 9], [3, 3], [[1, 1], [1, 1], [1, 1]]),
            ([1, 2, 17, 66], [5, 13], [2, 3], [[1, 1], [0, 2], [1, 1]]),
            ([2, 1, 70, 65], [6, 5], [1, 1], PLAIN),
            ([3, 3, 10, 11], [11, 6], [3, 2], [[2, 1], [1, 0], [1, 2]]),
            ([2, 1, 12, 40], [9, 10], [3, 3], [[2, 3], [2, 1], [2, 1]]),
            ([5, 1, 9, 9], [1, 40], [1, 5], [[1, 2], [0, 4], [1, 3]]),
            // Taps that are all but one in the padding, and a stride beyond the kernel.
            ([1, 1, 10, 12], [2, 2], [5, 4], [[1, 1], [3, 2], [1, 1]]),
            ([2, 1, 9, 10], [9, 9], [1, 2], [[4, 3], [0, 0], [1, 1]]),
            // Few channels on one side.
            ([2, 1, 1, 32], [12, 12], [3, 3], [[1, 1], [1, 1], [1, 1]]),
            ([2, 1, 20, 3], [6, 7], [3, 3], [[1, 1], [1, 1], [1, 1]]),
            ([2, 9, 1, 1], [6, 7], [3, 3], [[1, 1], [1, 1], [1, 1]]),
            // Many parts and images of one position; nothing to add up, to begin with, or to write.
            ([70, 1, 9, 12], [3, 3], [3, 3], PLAIN),
            ([2, 1, 0, 12], [4, 4], [3, 3], PLAIN),
            ([0, 1, 9, 12], [4, 4], [3, 3], PLAIN),
            ([2, 1, 9, 0], [4, 4], [3, 3], PLAIN),
        ] {
            check(device, &mut generator, geometry(planes, input, kernel, options));
        }
    });
}

/// What is not finite stays where it belongs: a pixel outside the image is 0, and a channel past the last is none.
#[test]
fn convolutions_keep_what_is_not_finite_in_its_place() {
    both("convolutions::convolutions_keep_what_is_not_finite_in_its_place", |device| {
        let g = geometry([1, 1, 9, 10], [5, 6], [3, 3], [[1, 1], [1, 1], [1, 1]]);
        let (mut x, weight) = (vec![1.0; g.input_count()], vec![0.5; g.weight_count()]);
        // The last pixel of the last channel, and the first one of the first.
        x[g.input_count() - 1] = f32::INFINITY;
        x[0] = f32::NAN;
        let mut y = vec![0.0; g.output_count()];
        each_product(&g, |at_x, at_weight, at_y| y[at_y] += f64::from(x[at_x]) * f64::from(weight[at_weight]));
        let kernel = Conv { geometry: g, bias: false, activation: Activation::None };
        let [found] = outputs(device, kernel, &[&x, &weight, &[0.0]], [g.output_count()]);
        assert_close("not finite", &found, &y, 1e-6, 0.0);
        let mut dw = vec![0.0; g.weight_count()];
        each_product(&g, |at_x, at_weight, _| dw[at_weight] += f64::from(x[at_x]));
        let kernel = ConvBackwardWeight::new(g);
        let [parts] = outputs(
            device,
            kernel.clone(),
            &[&x, &y.iter().map(|_| 1.0).collect::<Vec<f32>>()],
            [kernel.parts() * g.weight_count()],
        );
        let sum = |at: usize| parts.iter().skip(at).step_by(g.weight_count()).sum::<f32>();
        let found: Vec<f32> = (0..g.weight_count()).map(sum).collect();
        assert_close("not finite dw", &found, &dw, 1e-6, 0.0);
    });
}
