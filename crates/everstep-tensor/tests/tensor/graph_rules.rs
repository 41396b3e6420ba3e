//! The ops that random graphs are made of, on tensors and in f64.
//!
//! Every value is [4, 4], [1, 4], [4, 1] or [1, 1], so that each broadcasts to each other. Every rule keeps numbers of
//! moderate size moderate, and magnifies an error by a few at most. A rule with a kink is continuous: two values that
//! are equal but for rounding give nearly the same whichever is larger.

use everstep_device::functions::{ERF, GELU, GELU_TANH};
use everstep_tensor::ops::reference::{Array, indices, largest, sum};
use everstep_tensor::{Activation, AttentionOptions, ConvOptions, PoolOptions, Result, Tensor};

/// An op of a graph.
pub(crate) struct Rule {
    pub(crate) name: &'static str,
    pub(crate) inputs: usize,
    pub(crate) apply: fn(&[Tensor]) -> Result<Tensor>,
    pub(crate) reference: fn(&[Array]) -> Array,
}

macro_rules! rules {
    ($($name:literal $inputs:literal $apply:expr, $reference:expr;)+) => {
        &[$(Rule { name: $name, inputs: $inputs, apply: $apply, reference: $reference }),+]
    };
}

/// All families in turn: neighbours in the list differ in kind, as what follows them in a graph should.
pub(crate) fn all() -> Vec<&'static Rule> {
    let families = [POINTWISE, KINKED, MOVING, REDUCING, MIXING];
    let longest = families.iter().map(|family| family.len()).max().unwrap_or(0);
    (0..longest).flat_map(|at| families.into_iter().filter_map(move |family| family.get(at))).collect()
}

fn map(x: &[Array], function: fn(f64) -> f64) -> Array {
    x[0].map(function)
}

fn zip(x: &[Array], function: fn(&[f64]) -> f64) -> Array {
    Array::zip(&x.iter().collect::<Vec<_>>(), function)
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// One element of each input makes one of the result, smoothly.
const POINTWISE: &[Rule] = rules! {
    "add" 2 |x| x[0].add(&x[1])?.mul_scalar(0.5), |x| zip(x, |x| 0.5 * (x[0] + x[1]));
    "sub" 2 |x| x[0].sub(&x[1])?.tanh(), |x| zip(x, |x| (x[0] - x[1]).tanh());
    "mul" 2 |x| x[0].mul(&x[1])?.tanh(), |x| zip(x, |x| (x[0] * x[1]).tanh());
    "div" 2 |x| x[0].div(&x[1].mul(&x[1])?.add_scalar(1.0)?), |x| zip(x, |x| x[0] / (x[1] * x[1] + 1.0));
    "exp" 1 |x| x[0].tanh()?.exp(), |x| map(x, |x| x.tanh().exp());
    "expm1" 1 |x| x[0].tanh()?.expm1(), |x| map(x, |x| x.tanh().exp_m1());
    "log" 1 |x| x[0].sigmoid()?.add_scalar(0.5)?.log(), |x| map(x, |x| (sigmoid(x) + 0.5).ln());
    "log1p" 1 |x| x[0].mul(&x[0])?.log1p(), |x| map(x, |x| (x * x).ln_1p());
    "sqrt" 1 |x| x[0].mul(&x[0])?.add_scalar(1.0)?.sqrt(), |x| map(x, |x| (x * x + 1.0).sqrt());
    "rsqrt" 1 |x| x[0].mul(&x[0])?.add_scalar(1.0)?.rsqrt(), |x| map(x, |x| 1.0 / (x * x + 1.0).sqrt());
    "recip" 1 |x| x[0].mul(&x[0])?.add_scalar(1.0)?.recip(), |x| map(x, |x| 1.0 / (x * x + 1.0));
    "erf" 1 |x| x[0].erf(), |x| map(x, |x| (ERF.reference)(&[x]));
    "gelu" 1 |x| x[0].gelu(), |x| map(x, |x| (GELU.reference)(&[x]));
    "gelu_tanh" 1 |x| x[0].gelu_tanh(), |x| map(x, |x| (GELU_TANH.reference)(&[x]));
    "silu" 1 |x| x[0].silu(), |x| map(x, |x| x * sigmoid(x));
    "softplus" 1 |x| x[0].softplus()?.mul_scalar(0.5), |x| map(x, |x| 0.5 * x.exp().ln_1p());
    "sigmoid" 1 |x| x[0].sigmoid(), |x| map(x, sigmoid);
    "tanh" 1 |x| x[0].tanh(), |x| map(x, f64::tanh);
    "sin" 1 |x| x[0].sin(), |x| map(x, f64::sin);
    "cos" 1 |x| x[0].cos(), |x| map(x, f64::cos);
    "neg" 1 |x| x[0].neg(), |x| map(x, |x| -x);
    "pow" 2 |x| x[0].sigmoid()?.add_scalar(0.5)?.pow(&x[1].tanh()?),
        |x| zip(x, |x| (sigmoid(x[0]) + 0.5).powf(x[1].tanh()));
    "pow_scalar" 1 |x| x[0].sigmoid()?.add_scalar(0.5)?.pow_scalar(2.5), |x| map(x, |x| (sigmoid(x) + 0.5).powf(2.5));
};

/// What bends where values meet.
const KINKED: &[Rule] = rules! {
    "relu" 1 |x| x[0].relu(), |x| map(x, |x| x.max(0.0));
    "leaky_relu" 1 |x| x[0].leaky_relu(0.25), |x| map(x, |x| if x > 0.0 { x } else { 0.25 * x });
    "elu" 1 |x| x[0].elu(0.5), |x| map(x, |x| if x > 0.0 { x } else { 0.5 * x.exp_m1() });
    "abs" 1 |x| x[0].abs(), |x| map(x, f64::abs);
    "clamp" 1 |x| x[0].clamp(Some(-0.5), Some(0.75)), |x| map(x, |x| x.clamp(-0.5, 0.75));
    "maximum" 2 |x| x[0].maximum(&x[1]), |x| zip(x, |x| x[0].max(x[1]));
    "minimum" 2 |x| x[0].minimum(&x[1]), |x| zip(x, |x| x[0].min(x[1]));
    "where_cond" 2 |x| x[0].gt(&x[1])?.where_cond(&x[0], &x[0].add(&x[1])?.mul_scalar(0.5)?),
        |x| zip(x, |x| if x[0] > x[1] { x[0] } else { 0.5 * (x[0] + x[1]) });
    "where_cond of a number" 1 |x| x[0].lt_scalar(0.0)?.where_cond(&x[0].sin()?, &x[0]),
        |x| map(x, |x| if x < 0.0 { x.sin() } else { x });
    "max" 1 |x| x[0].max(&[0], true), |x| x[0].reduced(&[0], largest);
    "min" 1 |x| square(&x[0])?.min(&[-1], true), |x| full(&x[0]).map(|x| -x).reduced(&[1], largest).map(|x| -x);
    "max_pool2d" 1 |x| image(&x[0])?.max_pool2d(PoolOptions::new(3).stride(1).padding(1))?.reshape(&[4, 4]),
        |x| windows(&x[0], 1, largest);
    "max_pool1d" 1 |x| square(&x[0])?.unsqueeze(0)?.max_pool1d(4)?.squeeze(0), |x| full(&x[0]).reduced(&[1], largest);
};

/// What puts elements elsewhere.
const MOVING: &[Rule] = rules! {
    "transpose" 1 |x| x[0].t(), |x| x[0].permuted(&[1, 0]);
    "reshape" 1 |x| square(&x[0])?.t()?.reshape(&[2, 8])?.reshape(&[4, 4]), |x| full(&x[0]).permuted(&[1, 0]);
    "slice" 1 |x| square(&x[0])?.slice(0, 2..3), |x| picked(&x[0], &[1, 4], |_, j| [2, j]);
    "every second" 1 |x| square(&x[0])?.reshape(&[8, 2])?.slice_step(0, 1, 8, 2)?.reshape(&[4, 2])?.sum(&[1], true),
        |x| Array::from_fn(&[4, 1], |i| full(&x[0]).at(&[i[0], 2]) + full(&x[0]).at(&[i[0], 3]));
    "cat" 2 |x| Tensor::cat(&[&square(&x[0])?.slice(0, ..1)?, &square(&x[1])?.slice(0, 1..)?], 0),
        |x| Array::from_fn(&[4, 4], |i| x[usize::from(i[0] > 0)].at(i));
    "stack" 2 |x| {
        let (x, y) = (square(&x[0])?, square(&x[1])?);
        Tensor::stack(&[&row(&x, 0)?, &row(&y, 1)?, &row(&x, 2)?, &row(&y, 3)?], 1)
    }, |x| Array::from_fn(&[4, 4], |i| x[i[1] % 2].at(&[i[1], i[0]]));
    "split" 1 |x| {
        let parts = square(&x[0])?.split(&[1, 3], 1)?;
        Tensor::cat(&[&parts[1], &parts[0]], 1)
    }, |x| picked(&x[0], &[4, 4], |i, j| [i, (j + 1) % 4]);
    "split, one part unused" 1 |x| Ok(square(&x[0])?.split(&[3, 1], 0)?.remove(1)),
        |x| picked(&x[0], &[1, 4], |_, j| [3, j]);
    "flip" 1 |x| square(&x[0])?.flip(&[0, 1]), |x| picked(&x[0], &[4, 4], |i, j| [3 - i, 3 - j]);
    "pad" 1 |x| square(&x[0])?.slice(0, 1..3)?.pad(&[(2, 0), (0, 0)], 0.5),
        |x| Array::from_fn(&[4, 4], |i| if i[0] < 2 { 0.5 } else { x[0].at(&[i[0] - 1, i[1]]) });
    "index_select" 1 |x| square(&x[0])?.index_select(0, &Tensor::from_slice(&[3u32, 1, 1, 0], &[4], x[0].device())?),
        |x| picked(&x[0], &[4, 4], |i, j| [[3, 1, 1, 0][i], j]);
    "gather" 1 |x| square(&x[0])?.gather(1, &places(&x[0])?), |x| picked(&x[0], &[4, 4], |i, j| [i, place(i, j)]);
    "scatter_add" 2 |x| square(&x[0])?.scatter_add(1, &places(&x[0])?, &square(&x[1])?)?.tanh(), |x| {
        let added = |i: usize, to: usize| (0..4).filter(|&j| place(i, j) == to).map(|j| x[1].at(&[i, j])).sum::<f64>();
        Array::from_fn(&[4, 4], |i| (x[0].at(i) + added(i[0], i[1])).tanh())
    };
    "tril" 1 |x| square(&x[0])?.tril(0), |x| Array::from_fn(&[4, 4], |i| if i[1] <= i[0] { x[0].at(i) } else { 0.0 });
};

/// Sums, means and their kin.
const REDUCING: &[Rule] = rules! {
    "mean rows" 1 |x| x[0].mean(&[0], true), |x| x[0].reduced(&[0], mean);
    "sum columns" 1 |x| square(&x[0])?.sum(&[-1], true)?.tanh(), |x| full(&x[0]).reduced(&[1], sum).map(f64::tanh);
    "cumsum" 1 |x| square(&x[0])?.cumsum(1)?.mul_scalar(0.25),
        |x| Array::from_fn(&[4, 4], |i| 0.25 * (0..=i[1]).map(|j| x[0].at(&[i[0], j])).sum::<f64>());
    "cumsum rows" 1 |x| square(&x[0])?.cumsum(0)?.tanh(),
        |x| Array::from_fn(&[4, 4], |i| (0..=i[0]).map(|j| x[0].at(&[j, i[1]])).sum::<f64>().tanh());
    "prod" 1 |x| square(&x[0])?.tanh()?.prod(&[0], true),
        |x| full(&x[0]).map(f64::tanh).reduced(&[0], |x| x.iter().product());
    "prod of zeros" 1 |x| square(&x[0])?.tril(1)?.tanh()?.prod(&[1], true), |x| {
        let lower = Array::from_fn(&[4, 4], |i| if i[1] <= i[0] + 1 { x[0].at(i).tanh() } else { 0.0 });
        lower.reduced(&[1], |x| x.iter().product())
    };
    "logsumexp" 1 |x| square(&x[0])?.logsumexp(&[1], true)?.mul_scalar(0.5),
        |x| full(&x[0]).map(f64::exp).reduced(&[1], sum).map(|x| 0.5 * x.ln());
    "var" 1 |x| square(&x[0])?.var(&[1], 1, true)?.tanh(),
        |x| full(&x[0]).reduced(&[1], |x| (4.0 / 3.0 * variance(x)).tanh());
    "softmax" 1 |x| square(&x[0])?.softmax(1), |x| softmax(&full(&x[0]));
    "softmax of columns" 1 |x| square(&x[0])?.softmax(0), |x| softmax(&full(&x[0]).permuted(&[1, 0])).permuted(&[1, 0]);
    "log_softmax" 1 |x| square(&x[0])?.log_softmax(1)?.mul_scalar(0.25),
        |x| softmax(&full(&x[0])).map(|x| 0.25 * x.ln());
    "layer_norm" 2 |x| {
        let (weight, bias) = (row(&square(&x[1])?, 2)?, row(&square(&x[1])?, 0)?);
        square(&x[0])?.layer_norm(&[4], Some(&weight), Some(&bias), 0.5)?.tanh()
    }, |x| {
        let (weight, bias) = (picked(&x[1], &[1, 4], |_, j| [2, j]), picked(&x[1], &[1, 4], |_, j| [0, j]));
        Array::zip(&[&normalised(&x[0]), &weight, &bias], |x| (x[0] * x[1] + x[2]).tanh())
    };
    "rms_norm" 1 |x| square(&x[0])?.rms_norm(&[4], None, 0.5), |x| {
        let root = full(&x[0]).reduced(&[1], |x| (mean(&x.iter().map(|x| x * x).collect::<Vec<_>>()) + 0.5).sqrt());
        Array::zip(&[&full(&x[0]), &root], |x| x[0] / x[1])
    };
    // [2, 4, 2] in two groups: each is a row of [4, 4], and its channels are pairs of columns.
    "group_norm" 2 |x| {
        let weight = row(&square(&x[1])?, 1)?;
        square(&x[0])?.reshape(&[2, 4, 2])?.group_norm(2, Some(&weight), None, 0.5)?.tanh()?.reshape(&[4, 4])
    }, |x| {
        let weight = picked(&x[1], &[4, 4], |i, j| [1, i % 2 * 2 + j / 2]);
        Array::zip(&[&normalised(&x[0]), &weight], |x| (x[0] * x[1]).tanh())
    };
    "avg_pool2d" 1 |x| image(&x[0])?.avg_pool2d(PoolOptions::new(3).stride(1).padding(1))?.reshape(&[4, 4]),
        |x| windows(&x[0], 1, |x| sum(x) / 9.0);
    "avg_pool1d" 1 |x| {
        let options = PoolOptions::new(3).stride(1).padding(1).count_padding(false);
        square(&x[0])?.unsqueeze(0)?.avg_pool1d(options)?.squeeze(0)
    }, |x| windows(&x[0], 0, mean);
    // 14 of 16 elements, so that windows share some.
    "adaptive_avg_pool1d" 1 |x| square(&x[0])?.reshape(&[1, 16])?.slice(1, 1..15)?.adaptive_avg_pool1d(4), |x| {
        let elements = &full(&x[0]).values[1..15];
        Array::from_fn(&[1, 4], |i| mean(&elements[i[1] * 14 / 4..((i[1] + 1) * 14).div_ceil(4)]))
    };
};

/// What multiplies values with one another.
const MIXING: &[Rule] = rules! {
    "matmul" 2 |x| square(&x[0])?.matmul(&square(&x[1])?.t()?)?.mul_scalar(0.25)?.tanh(),
        |x| products(x).map(|x| (0.25 * x).tanh());
    "linear" 3 |x| {
        let bias = row(&square(&x[2])?, 1)?;
        square(&x[0])?.linear(&square(&x[1])?, Some(&bias), Activation::Tanh)
    }, |x| Array::zip(&[&products(x), &picked(&x[2], &[1, 4], |_, j| [1, j])], |x| (x[0] + x[1]).tanh());
    "conv2d" 2 |x| {
        let kernel = image(&x[1])?.slice(2, ..3)?.slice(3, 1..)?;
        let options = ConvOptions::default().padding(1);
        image(&x[0])?.conv2d(&kernel, None, &options, Activation::None)?.mul_scalar(0.125)?.tanh()?.reshape(&[4, 4])
    }, |x| {
        let kernel = Array::from_fn(&[1, 1, 3, 3], |i| x[1].at(&[i[2], i[3] + 1]));
        let y = convolved(&full(&x[0]).reshaped(&[1, 1, 4, 4]), &kernel, [1, 1], [1, 1]);
        y.reshaped(&[4, 4]).map(|x| (0.125 * x).tanh())
    };
    "conv2d of channels" 2 |x| {
        let (x, kernel) = (square(&x[0])?.reshape(&[2, 2, 2, 2])?, square(&x[1])?.reshape(&[4, 2, 1, 2])?);
        let options = ConvOptions::default().stride(2).padding([0, 1]);
        x.conv2d(&kernel, None, &options, Activation::Sigmoid)?.reshape(&[4, 4])
    }, |x| {
        let (x, kernel) = (full(&x[0]).reshaped(&[2, 2, 2, 2]), full(&x[1]).reshaped(&[4, 2, 1, 2]));
        convolved(&x, &kernel, [2, 2], [0, 1]).map(sigmoid).reshaped(&[4, 4])
    };
    "conv1d of groups" 2 |x| {
        let (x, y) = (square(&x[0])?, square(&x[1])?);
        let (kernel, bias) = (y.slice(1, ..3)?.unsqueeze(1)?, y.slice(1, 3..)?.squeeze(1)?);
        let options = ConvOptions::default().padding(1).groups(4);
        x.unsqueeze(0)?.conv1d(&kernel, Some(&bias), &options, Activation::None)?.squeeze(0)?.mul_scalar(0.25)
    }, |x| {
        let kernel = Array::from_fn(&[4, 1, 1, 3], |i| x[1].at(&[i[0], i[3]]));
        let y = convolved(&full(&x[0]).reshaped(&[1, 4, 1, 4]), &kernel, [1, 1], [0, 1]).reshaped(&[4, 4]);
        Array::zip(&[&y, &picked(&x[1], &[4, 1], |i, _| [i, 3])], |x| 0.25 * (x[0] + x[1]))
    };
    "scaled_dot_product_attention" 3 |x| {
        let [q, k, v] = [0, 1, 2].map(|at| square(&x[at]).and_then(|x| x.reshape(&[2, 2, 4])));
        q?.scaled_dot_product_attention(&k?, &v?, &AttentionOptions::new())?.reshape(&[4, 4])
    }, |x| attention(x, |query, key| query / 2 == key / 2);
    "causal attention" 3 |x| {
        let options = AttentionOptions::new().causal();
        square(&x[0])?.scaled_dot_product_attention(&square(&x[1])?, &square(&x[2])?, &options)
    }, |x| attention(x, |query, key| key <= query);
};

fn square(x: &Tensor) -> Result<Tensor> {
    x.broadcast_to(&[4, 4])
}

fn image(x: &Tensor) -> Result<Tensor> {
    square(x)?.reshape(&[1, 1, 4, 4])
}

fn row(x: &Tensor, at: usize) -> Result<Tensor> {
    x.slice(0, at..=at)?.squeeze(0)
}

/// Which column an element comes from: some twice, some never.
fn place(row: usize, column: usize) -> usize {
    (row + column * column) % 4
}

fn places(x: &Tensor) -> Result<Tensor> {
    let places: Vec<u32> = (0..16).map(|at| place(at / 4, at % 4) as u32).collect();
    Tensor::from_slice(&places, &[4, 4], x.device())
}

fn full(x: &Array) -> Array {
    x.stretched(&[4, 4])
}

/// Elements of x as [4, 4], each from the place that `from` names.
fn picked(x: &Array, shape: &[usize], from: fn(usize, usize) -> [usize; 2]) -> Array {
    Array::from_fn(shape, |index| full(x).at(&from(index[0], index[1])))
}

fn mean(x: &[f64]) -> f64 {
    sum(x) / x.len() as f64
}

fn variance(x: &[f64]) -> f64 {
    x.iter().map(|element| (element - mean(x)).powi(2)).sum::<f64>() / x.len() as f64
}

/// Of each row of x with each row of y.
fn products(x: &[Array]) -> Array {
    Array::from_fn(&[4, 4], |i| (0..4).map(|k| x[0].at(&[i[0], k]) * x[1].at(&[i[1], k])).sum())
}

/// Rows without their means, over their deviations. Epsilon is 0.5 here and in the rules, so that rows of nearly equal
/// elements are not magnified.
fn normalised(x: &Array) -> Array {
    let (x, root) = (full(x), full(x).reduced(&[1], |x| (variance(x) + 0.5).sqrt()));
    Array::zip(&[&x, &x.reduced(&[1], mean), &root], |x| (x[0] - x[1]) / x[2])
}

fn softmax(x: &Array) -> Array {
    let powers = Array::zip(&[x, &x.reduced(&[1], largest)], |x| (x[0] - x[1]).exp());
    Array::zip(&[&powers, &powers.reduced(&[1], sum)], |x| x[0] / x[1])
}

/// `function` of what lies within one column and `rows` rows of each element.
fn windows(x: &Array, rows: usize, function: fn(&[f64]) -> f64) -> Array {
    let near = |at: usize, distance: usize| at.saturating_sub(distance)..=(at + distance).min(3);
    Array::from_fn(&[4, 4], |index| {
        let window = near(index[0], rows).flat_map(|i| near(index[1], 1).map(move |j| [i, j]));
        function(&window.map(|at| x.at(&at)).collect::<Vec<_>>())
    })
}

/// x [B, C, H, W] with a kernel [O, C / groups, h, w].
fn convolved(x: &Array, kernel: &Array, stride: [usize; 2], padding: [usize; 2]) -> Array {
    let size = |axis: usize| (x.shape[axis + 2] + 2 * padding[axis] - kernel.shape[axis + 2]) / stride[axis] + 1;
    let (outputs, depth) = (kernel.shape[0], kernel.shape[1]);
    let groups = x.shape[1] / depth;
    Array::from_fn(&[x.shape[0], outputs, size(0), size(1)], |at| {
        let taps = indices(&kernel.shape[1..]);
        let product = |tap: Vec<usize>| {
            let pixel = |axis: usize| (at[axis + 2] * stride[axis] + tap[axis + 1]).checked_sub(padding[axis]);
            let inside = |axis: usize| pixel(axis).filter(|&pixel| pixel < x.shape[axis + 2]);
            let channel = at[1] / (outputs / groups) * depth + tap[0];
            Some(x.at(&[at[0], channel, inside(0)?, inside(1)?]) * kernel.at(&[at[1], tap[0], tap[1], tap[2]]))
        };
        taps.filter_map(product).sum()
    })
}

/// Of queries, keys and values [4, 4].
fn attention(x: &[Array], sees: fn(usize, usize) -> bool) -> Array {
    let products = products(x);
    let seen = |i: &[usize]| if sees(i[0], i[1]) { products.at(i) / 2.0 } else { f64::NEG_INFINITY };
    let scores = Array::from_fn(&[4, 4], seen);
    let weights = softmax(&scores);
    Array::from_fn(&[4, 4], |i| (0..4).map(|key| weights.at(&[i[0], key]) * x[2].at(&[key, i[1]])).sum())
}
