//! Random graphs of ops: the same bits however often and in whatever pieces they run, near the reference on every
//! device, and their gradients near differences.

use everstep_tensor::ops::reference::{Array, Domain, sum};
use everstep_tensor::{Device, Generator, GradientOptions, Result, Tensor, gradients};
use everstep_testing::close;

use crate::common::{devices, is_gpu};
use crate::graph_rules::{self, Rule};

/// A graph: values are numbered, leaves first; each step adds one.
struct Graph {
    leaves: Vec<Array>,
    steps: Vec<(&'static Rule, Vec<usize>)>,
}

impl Graph {
    /// Two of three steps are the next rule `in_turn`, so that all come up in few graphs.
    fn random(generator: &mut Generator, in_turn: &mut impl Iterator<Item = &'static Rule>) -> Self {
        let shapes: [&[usize]; 4] = [&[4, 4], &[1, 4], &[4, 1], &[4, 4]];
        let leaves: Vec<Array> =
            shapes.iter().map(|shape| Array::draw(shape, Domain::between(-1.5, 1.5), generator)).collect();
        let rules = graph_rules::all();
        let count = 5 + generator.below(26) as usize;
        let step = |at: usize| {
            let random = rules[generator.below(rules.len() as u32) as usize];
            let rule = if at.is_multiple_of(3) { random } else { in_turn.next().unwrap_or(random) };
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

fn graphs(seed: u64, count: usize) -> Vec<Graph> {
    let mut generator = Generator::new(seed);
    let rules = graph_rules::all();
    let mut in_turn = rules.iter().copied().cycle();
    let graphs: Vec<Graph> = (0..count).map(|_| Graph::random(&mut generator, &mut in_turn)).collect();
    let used = |rule: &Rule| graphs.iter().any(|graph| graph.steps.iter().any(|(step, _)| step.name == rule.name));
    assert!(rules.iter().all(|rule| used(rule)), "{count} graphs are too few for {} rules", rules.len());
    graphs
}

/// Recorded as a whole, again, and with a read-back after every op: nothing is joined then.
#[test]
fn a_graph_gives_the_same_bits_every_time() {
    for device in devices().iter() {
        let count = if is_gpu(device) { 10 } else { 60 };
        for graph in graphs(11, count) {
            let first = graph.bits(device, |_| ());
            assert_eq!(first, graph.bits(device, |_| ()), "again on {device}: {}", graph.describe());
            let read = |value: &Tensor| drop(value.to_vec::<f32>().unwrap());
            assert_eq!(first, graph.bits(device, read), "in pieces on {device}: {}", graph.describe());
        }
    }
}

/// So every device is near every other. A graph adds up to 34 means of numbers of about 1, each after up to 30
/// roundings of a few 1e-7, some of which later ops magnify by a few.
#[test]
fn a_graph_is_near_its_reference() {
    for device in devices().iter() {
        let count = if is_gpu(device) { 20 } else { 100 };
        for graph in graphs(12, count) {
            let found = graph.run(&graph.tensors(device), |_| ()).unwrap().item::<f32>().unwrap();
            let expected = graph.reference(&graph.leaves);
            if let Err(reason) = close(&[found], &[expected], 5e-6, 2e-5) {
                panic!("{device}: {reason}: {}", graph.describe());
            }
        }
    }
}

/// The slopes of the reference just left and right of each element of each leaf, the smaller one first.
fn slopes(graph: &Graph) -> Vec<[f64; 2]> {
    let middle = graph.reference(&graph.leaves);
    let mut slopes = Vec::new();
    for leaf in 0..graph.leaves.len() {
        for element in 0..graph.leaves[leaf].count() {
            let slope = |distance: f64| {
                let mut leaves = graph.leaves.clone();
                leaves[leaf].values[element] += distance;
                (graph.reference(&leaves) - middle) / distance
            };
            let (left, right) = (slope(-1e-5), slope(1e-5));
            slopes.push([left.min(right), left.max(right)]);
        }
    }
    slopes
}

/// At a kink every number between the slopes on its sides is a gradient; elsewhere those are 1e-5 of the curvature
/// apart. The tolerance is for as many roundings as the values have, forward and back; gradients are about as large.
#[test]
fn the_gradient_of_a_graph_is_near_differences() {
    for device in devices().iter() {
        let count = if is_gpu(device) { 14 } else { 40 };
        for graph in graphs(13, count) {
            let bits = graph.bits(device, |_| ());
            let found: Vec<f32> = bits[..bits.len() - 1].iter().map(|&bits| f32::from_bits(bits)).collect();
            let nearest = |(&found, [low, high]): (&f32, [f64; 2])| f64::from(found).max(low).min(high);
            let expected: Vec<f64> = found.iter().zip(slopes(&graph)).map(nearest).collect();
            if let Err(reason) = close(&found, &expected, 5e-6, 1e-5) {
                panic!("{device}: {reason}: {}", graph.describe());
            }
        }
    }
}
