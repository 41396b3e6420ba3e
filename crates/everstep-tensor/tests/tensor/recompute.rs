//! Parts of a forward pass that the backward pass runs again: the same gradients, bit for bit, in less memory.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use everstep_tensor::ops::reference::{Array, Domain};
use everstep_tensor::{
    Activation, Device, Error, Generator, GradientOptions, Parameter, Phase, Precision, Probe, RandomStream, Result,
    RunningBuffer, Seen, Tensor, autocast, gradients, no_grad, recompute, with_probe,
};

use crate::common::devices;

fn draw(shape: &[usize], generator: &mut Generator, device: &Device) -> Tensor {
    Array::draw(shape, Domain::between(-1.0, 1.0), generator).tensor(device).unwrap()
}

fn bits(tensor: &Tensor) -> Vec<u32> {
    tensor.detach().to_vec::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
}

const WIDTH: usize = 6;

/// Weights of its own, one that all blocks share, dropout, and a running mean that it subtracts.
struct Block {
    own: [Parameter; 2],
    shared: Parameter,
    stream: RandomStream,
    mean: RunningBuffer,
}

impl Block {
    fn new(shared: &Parameter, generator: &mut Generator, device: &Device) -> Self {
        let mut weight = || Parameter::new(&draw(&[WIDTH, WIDTH], generator, device)).unwrap();
        let own = [weight(), weight()];
        let mean = RunningBuffer::new(&Tensor::zeros(&[WIDTH], device).unwrap()).unwrap();
        Self { own, shared: shared.clone(), stream: RandomStream::new(generator), mean }
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let [first, second] = self.own.each_ref().map(Parameter::tensor);
        let hidden = x.linear(&first, None, Activation::GeluTanh)?;
        let hidden = hidden.dropout(0.25, &self.stream.draw(x.device())?)?;
        let hidden = hidden.linear(&second, None, Activation::Relu)?.add(&hidden)?;
        // What it held before, which is something else when it runs again.
        let before = self.mean.pending()?;
        self.mean.write(&before.mul_scalar(0.5)?.add(&hidden.detach().mean(&[0], false)?)?)?;
        let hidden = hidden.sub(&before)?.linear(&self.shared.tensor(), None, Activation::Tanh)?;
        let hidden = hidden.dropout(0.5, &self.stream.draw(x.device())?)?;
        // The shared weight twice, and x once more.
        x.add(&hidden.linear(&self.shared.tensor(), None, Activation::None)?)
    }
}

/// How a stack runs its blocks.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Kept,
    Again,
    /// Two blocks to a part, each of them a part too.
    Nested,
}

struct Stack {
    shared: Parameter,
    blocks: Vec<Arc<Block>>,
    precision: Precision,
}

impl Stack {
    fn new(device: &Device) -> Self {
        let mut generator = Generator::new(31);
        let shared = Parameter::new(&draw(&[WIDTH, WIDTH], &mut generator, device)).unwrap();
        let blocks = (0..4).map(|_| Arc::new(Block::new(&shared, &mut generator, device))).collect();
        Self { shared, blocks, precision: Precision::F32 }
    }

    fn parameters(&self) -> Vec<Parameter> {
        self.blocks.iter().flat_map(|block| block.own.clone()).chain([self.shared.clone()]).collect()
    }

    fn forward(&self, x: &Tensor, way: Way) -> Result<Tensor> {
        let again = |block: &Arc<Block>, x: &Tensor| {
            let block = block.clone();
            recompute(x, move |x| block.forward(x))
        };
        // The shared weight before, and the input of the parts behind them.
        let start = x.linear(&self.shared.tensor(), None, Activation::None)?;
        let y = match way {
            Way::Kept => self.blocks.iter().try_fold(start.clone(), |x, block| block.forward(&x))?,
            Way::Again => self.blocks.iter().try_fold(start.clone(), |x, block| again(block, &x))?,
            Way::Nested => self.blocks.chunks(2).try_fold(start.clone(), |x, pair| {
                let pair = pair.to_vec();
                recompute(&x, move |x| pair.iter().try_fold(x.clone(), |x, block| again(block, &x)))
            })?,
        };
        y.mul(&start)?.linear(&self.shared.tensor(), None, Activation::Sigmoid)?.mean_all()
    }
}

/// The bits of some steps: losses, gradients of everything, and what the buffers hold then.
fn run(way: Way, precision: Precision, device: &Device) -> Vec<Vec<u32>> {
    let mut stack = Stack::new(device);
    stack.precision = precision;
    let mut found = Vec::new();
    for step in 0..3 {
        let x = draw(&[5, WIDTH], &mut Generator::new(40 + step), device).requires_grad().unwrap();
        let loss = autocast(stack.precision, || stack.forward(&x, way)).unwrap();
        loss.backward().unwrap();
        found.extend([bits(&loss), bits(&x.grad().unwrap())]);
        for parameter in stack.parameters() {
            found.push(bits(&parameter.grad().unwrap()));
            parameter.zero_grad();
        }
        found.extend(stack.blocks.iter().map(|block| bits(&block.mean.tensor())));
    }
    found
}

#[test]
fn gradients_are_the_same_bits() {
    for device in devices().iter() {
        let expected = run(Way::Kept, Precision::F32, device);
        for way in [Way::Again, Way::Nested] {
            assert!(run(way, Precision::F32, device) == expected, "{way:?} on {device}");
        }
    }
}

/// In a scope of halves too, of weights that one part uses: a weight's cast is the scope's, and a part that runs again is in
/// a scope of its own, so the gradients of a weight in several parts are rounded before they are added, not behind that.
#[test]
fn a_part_runs_again_in_its_precision() {
    for device in devices().iter() {
        let mut generator = Generator::new(33);
        let weights: Vec<_> =
            (0..3).map(|_| Parameter::new(&draw(&[WIDTH, WIDTH], &mut generator, device)).unwrap()).collect();
        let x = draw(&[5, WIDTH], &mut generator, device);
        let run = |again: bool, precision: Precision| {
            let forward = || {
                let x = weights.iter().try_fold(x.clone(), |x, weight| {
                    let weight = weight.clone();
                    let layer = move |x: &Tensor| {
                        let hidden = x.linear(&weight.tensor(), None, Activation::Tanh)?;
                        x.add(&hidden.linear(&weight.tensor(), None, Activation::Relu)?)
                    };
                    if again { recompute(&x, layer) } else { layer(&x) }
                })?;
                x.mean_all()
            };
            let loss = autocast(precision, forward).unwrap();
            loss.backward().unwrap();
            let taken = |weight: &Parameter| {
                let gradient = bits(&weight.grad().unwrap());
                weight.zero_grad();
                gradient
            };
            (bits(&loss), weights.iter().map(taken).collect::<Vec<_>>())
        };
        for precision in [Precision::F16, Precision::BF16] {
            assert!(run(true, precision) == run(false, precision), "{precision:?} on {device}");
        }
        assert!(run(true, Precision::F16) != run(true, Precision::F32), "{device}");
    }
}

#[test]
fn memory_is_that_of_one_part() {
    let held = |again: bool| {
        let device = Device::isolated_cpu();
        let mut generator = Generator::new(34);
        let weights: Vec<_> =
            (0..16).map(|_| Parameter::new(&draw(&[32, 32], &mut generator, &device)).unwrap()).collect();
        let mut x = draw(&[512, 32], &mut generator, &device);
        for weight in weights.clone() {
            let layer = move |x: &Tensor| {
                let weight = weight.tensor();
                let hidden = x.linear(&weight, None, Activation::GeluTanh)?.linear(&weight, None, Activation::Tanh)?;
                x.add(&hidden.linear(&weight, None, Activation::GeluTanh)?)
            };
            x = if again { recompute(&x, layer).unwrap() } else { layer(&x).unwrap() };
        }
        let loss = x.mean_all().unwrap();
        loss.backward().unwrap();
        let found = weights.iter().map(|weight| bits(&weight.grad().unwrap())).collect::<Vec<_>>();
        (device.counters().memory_bytes, found)
    };
    let ((kept, expected), (again, found)) = (held(false), held(true));
    assert!(found == expected);
    // A layer keeps five tensors of the size of x, and a part one: 80 against 16 and the five of one part.
    assert!(again * 2 < kept, "{again} bytes against {kept}");
}

#[test]
fn the_tape_is_a_tape() {
    let device = Device::cpu();
    let weight = Parameter::new(&Tensor::full(&[2, 2], 0.5, &device).unwrap()).unwrap();
    let x = Tensor::from_slice(&[1.0f32, -2.0], &[1, 2], &device).unwrap().requires_grad().unwrap();
    let part = |x: &Tensor| {
        let weight = weight.clone();
        recompute(x, move |x| {
            let y = x.matmul(&weight.tensor())?;
            y.mul(&y)?.mul(&y)
        })
    };
    // Gradients of gradients, of the part's own result as well.
    let y = part(&x).unwrap();
    let loss = y.mul(&y).unwrap().sum_all().unwrap();
    let twice = GradientOptions { create_graph: true, ..Default::default() };
    let first = gradients(&loss, &[&x, &y], twice).unwrap();
    // y is (0.5 (a + b))^3 twice, the loss 2 u^6 of u = -0.5: 12 u^5 0.5 and 2 y.
    assert_eq!(first[0].as_ref().unwrap().to_vec::<f32>().unwrap(), [-0.1875, -0.1875]);
    assert_eq!(first[1].as_ref().unwrap().to_vec::<f32>().unwrap(), [-0.25, -0.25]);
    let sum = first[0].as_ref().unwrap().sum_all().unwrap();
    let second = gradients(&sum, &[&x], GradientOptions { retain: true, ..Default::default() }).unwrap();
    // d/da of 2 * 6 u^5: 60 u^4 0.5.
    assert_eq!(second[0].as_ref().unwrap().to_vec::<f32>().unwrap(), [1.875, 1.875]);
    // Once, and it is free.
    loss.backward().unwrap();
    assert_eq!(x.grad().unwrap().to_vec::<f32>().unwrap(), [-0.1875, -0.1875]);
    assert!(matches!(loss.backward(), Err(Error::TapeFreed { .. })));
    // Without a tape, and without a parameter, it is a call.
    assert!(no_grad(|| part(&x)).unwrap().sum_all().unwrap().backward().is_err());
    let plain = recompute(&x.detach(), |x| x.tanh()).unwrap();
    assert!(matches!(plain.sum_all().unwrap().backward(), Err(Error::NoTape)));
    // An error is the part's own.
    assert!(matches!(
        recompute(&x, |x| x.reshape(&[5])),
        Err(Error::Shapes { .. } | Error::Shape { .. } | Error::Device(_))
    ));
    // Frozen, and a part that gives what it was given.
    weight.set_trainable(false);
    assert!(part(&x.detach()).unwrap().sum_all().unwrap().backward().is_err());
    recompute(&x, |x| Ok(x.clone())).unwrap().sum_all().unwrap().backward().unwrap();
}

#[test]
fn a_long_chain_is_freed_in_a_loop() {
    let device = Device::cpu();
    let mut x = Tensor::ones(&[1], &device).unwrap().requires_grad().unwrap();
    for _ in 0..20_000 {
        x = recompute(&x, |x| x.mul_scalar(1.0)).unwrap();
    }
    drop(x);
}

#[test]
fn what_changes_in_between_is_an_error() {
    let device = Device::cpu();
    let weight = Parameter::new(&Tensor::full(&[2, 2], 0.5, &device).unwrap()).unwrap();
    let x = Tensor::ones(&[1, 2], &device).unwrap();
    // The parameter, learning or frozen.
    for trainable in [true, false] {
        weight.set_trainable(trainable);
        let used = weight.clone();
        let x = x.requires_grad().unwrap();
        let loss = recompute(&x, move |x| x.matmul(&used.tensor())).unwrap().sum_all().unwrap();
        weight.set(&Tensor::ones(&[2, 2], &device).unwrap()).unwrap();
        assert_eq!(loss.backward(), Err(Error::StaleParameter { op: "recompute" }), "{trainable}");
    }
    weight.set_trainable(true);
    // More draws, fewer draws, those of another stream, another shape.
    let streams = [0, 1].map(|seed| RandomStream::new(&mut Generator::new(seed)));
    for kind in 0..4 {
        let (calls, used, streams) = (AtomicU32::new(0), weight.clone(), streams.clone());
        let strange = move |x: &Tensor| {
            let again = calls.fetch_add(1, Ordering::Relaxed) > 0;
            let mut y = x.matmul(&used.tensor())?;
            let draws = if kind == 0 && again { 2 } else { usize::from(!(kind == 1 && again)) };
            for _ in 0..draws {
                y = y.dropout(0.5, &streams[usize::from(kind == 2 && again)].draw(x.device())?)?;
            }
            if kind == 3 && again { y.reshape(&[2]) } else { Ok(y) }
        };
        let loss = recompute(&x, strange).unwrap().sum_all().unwrap();
        assert!(matches!(loss.backward(), Err(Error::Recomputed { .. })), "{kind}");
        assert!(weight.grad().is_none());
    }
    // The thread is as before.
    let draws = [0, 1].map(|_| streams[0].draw(&device).unwrap().call);
    assert_eq!(draws[0] + 1, draws[1]);
}

/// Of an op of the backward pass, the op whose gradient it is part of, and its number.
type Of = Option<(&'static str, Option<u64>)>;

#[derive(Default)]
struct Names(Vec<(&'static str, Of)>);

impl Probe for Names {
    fn see(&mut self, seen: &Seen<'_>) -> Result<()> {
        let backward = match seen.phase {
            Phase::Forward => None,
            Phase::Backward { of, number } => Some((of, number)),
        };
        self.0.push((seen.op, backward));
        Ok(())
    }
}

/// Every op of the backward pass is known as part of the gradient of an op that was seen.
#[test]
fn a_probe_sees_what_runs_again() {
    let device = Device::cpu();
    let stack = Stack::new(&device);
    let x = Tensor::ones(&[3, WIDTH], &device).unwrap();
    let names = Rc::new(RefCell::new(Names::default()));
    with_probe(&names, || stack.forward(&x, Way::Nested)?.backward()).unwrap();
    let names = &names.borrow().0;
    let backward: Vec<_> = names.iter().filter_map(|(_, backward)| *backward).collect();
    assert!(!backward.is_empty());
    for (of, number) in backward {
        let number = number.unwrap() as usize;
        assert_eq!((names[number].0, names[number].1), (of, None));
    }
}
