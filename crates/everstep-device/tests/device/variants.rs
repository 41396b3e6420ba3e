//! A kernel has variants by kind of GPU and by shape: all of them against f64 or the CPU engine, those of real GPUs on a driver in
//! software too.

use everstep_device::cpu::{
    Attention, AttentionBackward, LayerNorm, LayerNormBackward, LayerNormParams, LogSoftmax, LogSoftmaxBackward,
    Matmul, Softmax, SoftmaxBackward, SoftmaxParams,
};
use everstep_device::functions::Activation;
use everstep_device::{Buffer, Device, Generator, Kernel, Layout};
use everstep_testing::assert_close;

use crate::{alone, run, shape, slice, upload_words, words};

/// Runs `body` as drivers in software run it, and as real GPUs do.
pub(crate) fn both(test: &str, body: fn(&Device)) {
    for variants in ["", "hardware"] {
        alone(test, &[("EVERSTEP_GPU_VARIANTS", variants)], || everstep_testing::gpu().iter().for_each(body));
    }
}

pub(crate) fn normals(generator: &mut Generator, count: usize) -> Vec<f32> {
    (0..count).map(|_| generator.normal()).collect()
}

fn to_f64(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| f64::from(value)).collect()
}

/// What a kernel writes to outputs of so many elements, all NaN before.
pub(crate) fn outputs<const N: usize>(
    device: &Device,
    kernel: impl Kernel,
    inputs: &[&[f32]],
    sizes: [usize; N],
) -> [Vec<f32>; N] {
    let inputs: Vec<Buffer> = inputs.iter().map(|values| upload_words(device, values)).collect();
    let targets = sizes.map(|count| upload_words(device, &vec![f32::NAN; count]));
    let slices = |buffers: &[Buffer]| buffers.iter().map(slice).collect::<Vec<_>>();
    run(device, kernel, &slices(&inputs), &slices(&targets));
    targets.each_ref().map(words)
}

/// A batch of matrices [batches, rows, columns], dense or transposed, behind `offset` elements of something else.
pub(crate) fn matrices([batches, rows, columns]: [usize; 3], transposed: bool, offset: usize) -> Layout {
    let dense = |rows, columns| {
        let room = Layout::contiguous(shape(&[batches + 1, rows, columns]));
        let whole = Layout::contiguous(shape(&[batches * rows * columns + offset]));
        let own = whole.slice(0, offset, offset + batches * rows * columns, 1).unwrap();
        assert!(room.end() >= batches * rows * columns);
        own.reshape(&shape(&[batches, rows, columns])).unwrap()
    };
    if transposed { dense(columns, rows).permute(&[0, 2, 1]).unwrap() } else { dense(rows, columns) }
}

fn at(layout: &Layout, index: [usize; 3]) -> usize {
    layout.offset() + index.iter().zip(layout.strides()).map(|(index, stride)| index * stride).sum::<usize>()
}

/// The product in f64, with its bias, and no activation.
pub(crate) fn product(a: (&Layout, &[f32]), b: (&Layout, &[f32]), bias: Option<&[f32]>) -> Vec<f64> {
    let (batches, m, k, n) = (a.0.shape()[0], a.0.shape()[1], a.0.shape()[2], b.0.shape()[2]);
    let mut c = Vec::with_capacity(batches * m * n);
    for index in 0..batches * m * n {
        let (batch, row, column) = (index / (m * n), index / n % m, index % n);
        let term =
            |step: usize| f64::from(a.1[at(a.0, [batch, row, step])]) * f64::from(b.1[at(b.0, [batch, step, column])]);
        c.push((0..k).map(term).sum::<f64>() + bias.map_or(0.0, |bias| f64::from(bias[column])));
    }
    c
}

fn check_matmul(device: &Device, generator: &mut Generator, [batches, m, n, k]: [usize; 4], offset: usize) {
    for (a_turned, b_turned) in [(false, false), (true, false), (false, true), (true, true)] {
        let (a, b) = (matrices([batches, m, k], a_turned, 1), matrices([batches, k, n], b_turned, offset));
        let (left, right) = (normals(generator, a.end().max(1)), normals(generator, b.end().max(1)));
        for bias in [None, Some(normals(generator, n))] {
            let activation = if bias.is_some() { Activation::Relu } else { Activation::None };
            let kernel = Matmul { a, b, bias: bias.as_ref().map(|_| (0, 1)), activation };
            let other = bias.clone().unwrap_or(vec![0.0]);
            let [c] = outputs(device, kernel, &[&left, &right, &other], [batches * m * n]);
            let mut expected = product((&a, &left), (&b, &right), bias.as_deref());
            if bias.is_some() {
                expected.iter_mut().for_each(|value| *value = value.max(0.0));
            }
            let name = format!("{batches} x {m} x {n} x {k} {a_turned} {b_turned} {offset} {activation:?}");
            // Sums of k products, each rounded to a part in 2^24 of sums about as large as the root of k.
            assert_close(&name, &c, &expected, 1e-5, 2e-6 * (k as f64 + 1.0).sqrt());
        }
    }
}

/// Both sides of every edge of the tiles; K that is no multiple of 4; a B that begins where no vec4 does.
#[test]
fn matmul_is_right_in_every_variant() {
    both("variants::matmul_is_right_in_every_variant", |device| {
        let mut generator = Generator::new(3);
        for sizes in [
            [1, 32, 128, 64],
            [1, 33, 132, 65],
            [1, 7, 4, 1],
            [2, 70, 36, 30],
            [3, 9, 260, 12],
            [1, 6, 8, 8],
            [1, 40, 10, 50],
            [1, 5, 65, 33],
            [2, 130, 64, 3],
            [1, 8, 8, 0],
            [1, 129, 256, 40],
            // So many that a real GPU takes the large tiles.
            [64, 100, 130, 9],
        ] {
            check_matmul(device, &mut generator, sizes, 4);
        }
        check_matmul(device, &mut generator, [2, 33, 36, 20], 1);
    });
}

/// NaN and infinity stay where they belong: at the edges, where rows and columns are read twice, too.
#[test]
fn matmul_keeps_what_is_not_finite_in_its_place() {
    both("variants::matmul_keeps_what_is_not_finite_in_its_place", |device| {
        let (m, n, k) = (35, 36, 6);
        let (a, b) = (matrices([1, m, k], false, 0), matrices([1, k, n], false, 0));
        let (mut left, mut right) = (vec![1.0; m * k], vec![0.5; k * n]);
        left[34 * k + 5] = f32::NAN;
        right[5 * n + 35] = f32::INFINITY;
        right[n + 3] = f32::NEG_INFINITY;
        let kernel = Matmul { a, b, bias: None, activation: Activation::None };
        let [c] = outputs(device, kernel, &[&left, &right, &[0.0]], [m * n]);
        let expected = product((&a, &left), (&b, &right), None);
        assert_close("not finite", &c, &expected, 1e-6, 0.0);
    });
}

/// Operands of attention [2, T or S, D or E] from a mixed buffer, as heads of a projection lie.
struct Heads {
    q: Layout,
    k: Layout,
    v: Layout,
    y: Layout,
    words: usize,
}

fn heads([queries, keys, width, value_width]: [usize; 4]) -> Heads {
    let row = 2 * (2 * width + value_width);
    let rows = queries.max(keys);
    // [row, part, head, column] with two heads, seen as [head, row, column].
    let part = |rows: usize, first: usize, width: usize| {
        let whole = Layout::contiguous(shape(&[queries.max(keys), row]));
        let part = whole.slice(1, first, first + 2 * width, 1).unwrap().slice(0, 0, rows, 1).unwrap();
        part.reshape(&shape(&[rows, 2, width])).unwrap().permute(&[1, 0, 2]).unwrap()
    };
    Heads {
        q: part(queries, 0, width),
        k: part(keys, 2 * width, width),
        v: part(keys, 4 * width, value_width),
        y: Layout::contiguous(shape(&[queries, 2, value_width])).permute(&[1, 0, 2]).unwrap(),
        words: rows * row,
    }
}

fn check_attention(device: &Device, generator: &mut Generator, sizes: [usize; 4], causal: bool, masked: bool) {
    let [queries, keys, width, value_width] = sizes;
    let Heads { q, k, v, y, words } = heads(sizes);
    let mut x = normals(generator, words);
    if causal && keys > 2 {
        // The last key's values, which earlier queries do not see.
        x[at(&v, [0, keys - 1, 0])] = f32::NAN;
        x[at(&v, [1, keys - 1, value_width - 1])] = f32::INFINITY;
    }
    let mask = masked
        .then(|| Layout::contiguous(shape(&[1, queries, keys])).broadcast_to(&shape(&[2, queries, keys])).unwrap());
    let mut masks = normals(generator, queries * keys);
    masks.iter_mut().step_by(7).for_each(|value| *value = f32::NEG_INFINITY);
    let kernel = Attention { q, k, v, mask, y, scale: 0.4, causal };
    let count = 2 * queries * value_width;
    let name = format!("{sizes:?} causal {causal} masked {masked}");
    let inputs = [&x[..], &x, &x, &masks];
    let found = outputs(device, kernel.clone(), &inputs, [count, 2 * queries]);
    let expected = outputs(&Device::cpu(), kernel.clone(), &inputs, [count, 2 * queries]);
    for (found, expected) in found.iter().zip(&expected) {
        // Probabilities are off by a few parts in 2^22, by their exponentials.
        assert_close(&name, found, &to_f64(expected), 1e-5, 4e-6);
    }
    let g = normals(generator, count);
    let dense = |rows: usize, width: usize, first: usize| {
        let whole = Layout::contiguous(shape(&[first + 2 * rows * width]));
        whole.slice(0, first, first + 2 * rows * width, 1).unwrap().reshape(&shape(&[2, rows, width])).unwrap()
    };
    let (dk, dv) = (2 * queries * width, 2 * (queries + keys) * width);
    let backward = AttentionBackward {
        forward: kernel,
        g: y,
        dq: dense(queries, width, 0),
        dk: dense(keys, width, dk),
        dv: dense(keys, value_width, dv),
    };
    let total = dv + 2 * keys * value_width;
    let [y, sums] = &expected;
    let finite: Vec<f32> = x.iter().map(|&value| if value.is_finite() { value } else { 1.0 }).collect();
    let finite_y: Vec<f32> = y.iter().map(|&value| if value.is_finite() { value } else { 1.0 }).collect();
    let inputs = [&finite[..], &finite, &finite, &masks, &finite_y, sums, &g];
    let [found] = outputs(device, backward.clone(), &inputs, [total]);
    let [expected] = outputs(&Device::cpu(), backward, &inputs, [total]);
    // Of sums over up to 70 queries.
    assert_close(&name, &found, &to_f64(&expected), 1e-4, 4e-5);
}

#[test]
fn attention_is_that_of_the_cpu_in_every_variant() {
    both("variants::attention_is_that_of_the_cpu_in_every_variant", |device| {
        let mut generator = Generator::new(5);
        for sizes in [[64, 64, 32, 32], [9, 9, 4, 8], [1, 1, 64, 64], [70, 17, 16, 12], [5, 70, 8, 4], [10, 11, 6, 5]] {
            for (causal, masked) in [(false, false), (true, false), (false, true), (true, true)] {
                check_attention(device, &mut generator, sizes, causal, masked);
            }
        }
    });
}

fn check_rows(device: &Device, generator: &mut Generator, rows: usize, columns: usize) {
    let count = rows * columns;
    let (mut x, g) = (normals(generator, count), normals(generator, count));
    x[count / 2] = 90.0;
    let params = SoftmaxParams { rows: rows as u32, columns: columns as u32 };
    let name = format!("{rows} rows of {columns}");
    let cpu = Device::cpu();
    fn same<const N: usize>(name: &str, found: [Vec<f32>; N], expected: [Vec<f32>; N]) {
        for (found, expected) in found.iter().zip(&expected) {
            // Sums of up to 3,000 terms one after the other.
            assert_close(name, found, &to_f64(expected), 1e-4, 1e-5);
        }
    }
    let both =
        |kernel: Softmax| [outputs(device, kernel.clone(), &[&x], [count]), outputs(&cpu, kernel, &[&x], [count])];
    let [found, expected] = both(Softmax(params));
    same(&name, found, expected.clone());
    let [y] = expected;
    let kernel = SoftmaxBackward(params);
    let inputs = [&y[..], &g];
    same(&name, outputs(device, kernel.clone(), &inputs, [count]), outputs(&cpu, kernel, &inputs, [count]));
    let [y] = outputs(&cpu, LogSoftmax(params), &[&x], [count]);
    same(&name, outputs(device, LogSoftmax(params), &[&x], [count]), [y.clone()]);
    let inputs = [&y[..], &g];
    let kernel = LogSoftmaxBackward(params);
    same(&name, outputs(device, kernel.clone(), &inputs, [count]), outputs(&cpu, kernel, &inputs, [count]));
    let (weight, bias) = (normals(generator, columns), normals(generator, columns));
    for centred in [true, false] {
        let params = LayerNormParams { rows: rows as u32, columns: columns as u32, epsilon: 1e-5 };
        let kernel = LayerNorm { params, centred, weight: true, bias: centred };
        let (inputs, sizes) = ([&x[..], &weight, &bias], [count, 2 * rows]);
        let expected = outputs(&cpu, kernel.clone(), &inputs, sizes);
        same(&name, outputs(device, kernel, &inputs, sizes), expected.clone());
        let kernel = LayerNormBackward { params, centred, weight: true };
        let inputs = [&x[..], &weight, &expected[1], &g];
        same(&name, outputs(device, kernel.clone(), &inputs, [count]), outputs(&cpu, kernel, &inputs, [count]));
    }
}

#[test]
fn kernels_of_rows_are_those_of_the_cpu_in_every_variant() {
    both("variants::kernels_of_rows_are_those_of_the_cpu_in_every_variant", |device| {
        let mut generator = Generator::new(7);
        for (rows, columns) in [(1, 1), (3, 70), (8, 3), (65, 10), (70, 33), (9, 3000), (2, 5000), (130, 64)] {
            check_rows(device, &mut generator, rows, columns);
        }
    });
}
