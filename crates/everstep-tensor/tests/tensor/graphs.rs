//! Random graphs of ops: the same bits however often and in whatever pieces they run, near the reference on every
//! device, and their gradients near differences.

use everstep_tensor::ops::reference::{Array, Domain, largest, sum};
use everstep_tensor::{Device, Generator, GradientOptions, Result, Tensor, gradients};
use everstep_testing::close;

use crate::common::{devices, is_gpu};

/// An op of a graph, on tensors and in f64. Every one keeps numbers of moderate size moderate.
struct Rule {
    name: &'static str,
    inputs: usize,
    smooth: bool,
    apply: fn(&[Tensor]) -> Result<Tensor>,
    reference: fn(&[Array]) -> Array,
}

macro_rules! rules {
    ($($name:literal $inputs:literal $smooth:literal $apply:expr, $reference:expr;)+) => {
        &[$(Rule { name: $name, inputs: $inputs, smooth: $smooth, apply: $apply, reference: $reference }),+]
    };
}

fn map(x: &[Array], function: fn(f64) -> f64) -> Array {
    x[0].map(function)
}

fn zip(x: &[Array], function: fn(&[f64]) -> f64) -> Array {
    Array::zip(&[&x[0], &x[1]], function)
}

fn softmax(x: &Array) -> Array {
    let powers = Array::zip(&[x, &x.reduced(&[1], largest)], |x| (x[0] - x[1]).exp());
    Array::zip(&[&powers, &powers.reduced(&[1], sum)], |x| x[0] / x[1])
}

/// x y^T / 4 + y, of matrices [4, 4]; others are first averaged to one row.
fn mixed(x: &[Array]) -> Array {
    Array::from_fn(&[4, 4], |index| {
        (0..4).map(|k| x[0].at(&[index[0], k]) * x[1].at(&[index[1], k])).sum::<f64>() / 4.0
    })
}

/// All values are [4, 4] or [1, 4] or [4, 1]: every one broadcasts to every other.
fn square(x: &Tensor) -> Result<Tensor> {
    x.broadcast_to(&[4, 4])
}

const RULES: &[Rule] = rules! {
    "add" 2 true |x| x[0].add(&x[1])?.mul_scalar(0.5), |x| zip(x, |x| 0.5 * (x[0] + x[1]));
    "sub" 2 true |x| x[0].sub(&x[1])?.tanh(), |x| zip(x, |x| (x[0] - x[1]).tanh());
    "mul" 2 true |x| x[0].mul(&x[1])?.tanh(), |x| zip(x, |x| (x[0] * x[1]).tanh());
    "div" 2 true |x| x[0].div(&x[1].mul(&x[1])?.add_scalar(1.0)?), |x| zip(x, |x| x[0] / (x[1] * x[1] + 1.0));
    "exp" 1 true |x| x[0].tanh()?.exp(), |x| map(x, |x| x.tanh().exp());
    "log" 1 true |x| x[0].sigmoid()?.add_scalar(0.5)?.log(), |x| map(x, |x| (1.0 / (1.0 + (-x).exp()) + 0.5).ln());
    "sqrt" 1 true |x| x[0].mul(&x[0])?.add_scalar(1.0)?.sqrt(), |x| map(x, |x| (x * x + 1.0).sqrt());
    "gelu" 1 true |x| x[0].gelu(), |x| map(x, |x| (everstep_device::functions::GELU.reference)(&[x]));
    "neg" 1 true |x| x[0].neg(), |x| map(x, |x| -x);
    "mean rows" 1 true |x| x[0].mean(&[0], true), |x| x[0].reduced(&[0], |x| sum(x) / x.len() as f64);
    "sum columns" 1 true |x| square(&x[0])?.sum(&[-1], true)?.tanh(),
        |x| x[0].stretched(&[4, 4]).reduced(&[1], sum).map(f64::tanh);
    "softmax" 1 true |x| square(&x[0])?.softmax(1), |x| softmax(&x[0].stretched(&[4, 4]));
    "transpose" 1 true |x| x[0].t(), |x| x[0].permuted(&[1, 0]);
    "matmul" 2 true |x| square(&x[0])?.matmul(&square(&x[1])?.t()?)?.mul_scalar(0.25),
        |x| mixed(&[x[0].stretched(&[4, 4]), x[1].stretched(&[4, 4])]);
    "reshape" 1 true |x| square(&x[0])?.t()?.reshape(&[2, 8])?.reshape(&[4, 4]), |x| x[0].stretched(&[4, 4]).permuted(&[1, 0]);
    "slice" 1 true |x| square(&x[0])?.slice(0, 2..3), |x| Array::from_fn(&[1, 4], |i| x[0].stretched(&[4, 4]).at(&[2, i[1]]));
    "every second" 1 true |x| square(&x[0])?.reshape(&[8, 2])?.slice_step(0, 1, 8, 2)?.reshape(&[4, 2])?.sum(&[1], true),
        |x| Array::from_fn(&[4, 1], |i| x[0].stretched(&[4, 4]).at(&[i[0], 2]) + x[0].stretched(&[4, 4]).at(&[i[0], 3]));
    "relu" 1 false |x| x[0].relu(), |x| map(x, |x| x.max(0.0));
    "maximum" 2 false |x| x[0].maximum(&x[1]), |x| zip(x, |x| x[0].max(x[1]));
    "max" 1 false |x| x[0].max(&[0], true), |x| x[0].reduced(&[0], largest);
};

/// A graph: values are numbered, leaves first; each step adds one.
struct Graph {
    leaves: Vec<Array>,
    steps: Vec<(&'static Rule, Vec<usize>)>,
}

impl Graph {
    fn random(generator: &mut Generator, smooth: bool) -> Self {
        let shapes: [&[usize]; 4] = [&[4, 4], &[1, 4], &[4, 1], &[4, 4]];
        let leaves: Vec<Array> =
            shapes.iter().map(|shape| Array::draw(shape, Domain::between(-1.5, 1.5), generator)).collect();
        let rules: Vec<&'static Rule> = RULES.iter().filter(|rule| rule.smooth || !smooth).collect();
        let count = 5 + generator.below(26) as usize;
        let step = |at: usize| {
            let rule = rules[generator.below(rules.len() as u32) as usize];
            let inputs = (0..rule.inputs).map(|_| generator.below((leaves.len() + at) as u32) as usize).collect();
            (rule, inputs)
        };
        let steps = (0..count).map(step).collect();
        Self { leaves, steps }
    }

    /// Every value, and last the mean of all of them; `each` is called with each as it is made.
    fn run(&self, leaves: &[Tensor], each: impl Fn(&Tensor)) -> Result<Tensor> {
        let mut values = leaves.to_vec();
        for (rule, inputs) in &self.steps {
            let inputs: Vec<Tensor> = inputs.iter().map(|&input| values[input].clone()).collect();
            values.push((rule.apply)(&inputs)?);
            values.last().into_iter().for_each(&each);
        }
        let means = values.iter().map(Tensor::mean_all).collect::<Result<Vec<_>>>()?;
        means[1..].iter().try_fold(means[0].clone(), |total, mean| total.add(mean))
    }

    fn reference(&self, leaves: &[Array]) -> f64 {
        let mut values = leaves.to_vec();
        for (rule, inputs) in &self.steps {
            let inputs: Vec<Array> = inputs.iter().map(|&input| values[input].clone()).collect();
            values.push((rule.reference)(&inputs));
        }
        values.iter().map(|value| sum(&value.values) / value.count() as f64).sum()
    }

    fn tensors(&self, device: &Device) -> Vec<Tensor> {
        self.leaves.iter().map(|leaf| leaf.tensor(device).unwrap().requires_grad().unwrap()).collect()
    }

    fn describe(&self) -> String {
        self.steps.iter().map(|(rule, inputs)| format!("{} {inputs:?}", rule.name)).collect::<Vec<_>>().join(", ")
    }

    /// The result and the gradient of each leaf, as bits.
    fn bits(&self, device: &Device, each: impl Fn(&Tensor)) -> Vec<u32> {
        let leaves = self.tensors(device);
        let result = self.run(&leaves, each).unwrap();
        let leaves: Vec<&Tensor> = leaves.iter().collect();
        let found = gradients(&result, &leaves, GradientOptions::default()).unwrap();
        let parts = found.into_iter().map(|gradient| gradient.unwrap()).chain([result]);
        parts.flat_map(|part| part.to_vec::<f32>().unwrap()).map(f32::to_bits).collect()
    }
}

fn graphs(seed: u64, count: usize, smooth: bool) -> Vec<Graph> {
    let mut generator = Generator::new(seed);
    (0..count).map(|_| Graph::random(&mut generator, smooth)).collect()
}

/// Recorded as a whole, again, and with a read-back after every op.
#[test]
fn a_graph_gives_the_same_bits_every_time() {
    for device in devices().iter() {
        let count = if is_gpu(device) { 10 } else { 60 };
        for graph in graphs(11, count, false) {
            let first = graph.bits(device, |_| ());
            assert_eq!(first, graph.bits(device, |_| ()), "again on {device}: {}", graph.describe());
            if is_gpu(device) {
                // Pieces are other shaders there, and a GPU's compiler may contract each in its own way.
                continue;
            }
            let read = |value: &Tensor| drop(value.to_vec::<f32>().unwrap());
            assert_eq!(first, graph.bits(device, read), "in pieces on {device}: {}", graph.describe());
        }
    }
}

/// So every device is near every other. A graph adds up to 34 means of numbers of about 1, each after up to 30 roundings of a few 1e-7, some of which
/// later ops magnify.
#[test]
fn a_graph_is_near_its_reference() {
    for device in devices().iter() {
        let count = if is_gpu(device) { 20 } else { 100 };
        for graph in graphs(12, count, false) {
            let found = graph.run(&graph.tensors(device), |_| ()).unwrap().item::<f32>().unwrap();
            let expected = graph.reference(&graph.leaves);
            if let Err(reason) = close(&[found], &[expected], 5e-6, 2e-5) {
                panic!("{device}: {reason}: {}", graph.describe());
            }
        }
    }
}

#[test]
fn the_gradient_of_a_graph_is_near_differences() {
    for device in devices().iter() {
        let count = if is_gpu(device) { 10 } else { 40 };
        for graph in graphs(13, count, true) {
            let bits = graph.bits(device, |_| ());
            let found: Vec<f32> = bits[..bits.len() - 1].iter().map(|&bits| f32::from_bits(bits)).collect();
            let mut expected = Vec::new();
            for leaf in 0..graph.leaves.len() {
                for element in 0..graph.leaves[leaf].count() {
                    let at = |distance: f64| {
                        let mut leaves = graph.leaves.clone();
                        leaves[leaf].values[element] += distance;
                        graph.reference(&leaves)
                    };
                    expected.push((at(1e-5) - at(-1e-5)) / 2e-5);
                }
            }
            if let Err(reason) = close(&found, &expected, 5e-6, 1e-5) {
                panic!("{device}: {reason}: {}", graph.describe());
            }
        }
    }
}
