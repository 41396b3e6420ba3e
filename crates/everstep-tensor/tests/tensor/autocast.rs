//! Mixed precision: the scope is nothing but casts, and products of halves are those of f32, rounded once.

use std::cell::RefCell;
use std::rc::Rc;

use everstep_device::functions::Activation;
use everstep_tensor::ops::reference::Domain;
use everstep_tensor::{
    AttentionOptions, ConvOptions, DType, Device, Generator, GradientOptions, Parameter, Precision, Probe, Result,
    Seen, Tensor, autocast, gradients, no_grad, with_probe,
};

use crate::common::devices;

const HALVES: [(Precision, DType); 2] = [(Precision::F16, DType::F16), (Precision::BF16, DType::BF16)];

fn draw(shape: &[usize], generator: &mut Generator, device: &Device) -> Tensor {
    everstep_tensor::ops::reference::Array::draw(shape, Domain::between(-2.0, 2.0), generator).tensor(device).unwrap()
}

fn bits(tensor: &Tensor) -> Vec<u32> {
    let single = tensor.detach().cast(DType::F32).unwrap().to_vec::<f32>().unwrap();
    single.into_iter().map(f32::to_bits).collect()
}

/// An op on tensors, called `name` in messages.
type Named<'a> = (&'a str, Vec<Tensor>, fn(&[&Tensor]) -> Result<Tensor>);

fn convolve(x: &[&Tensor]) -> Result<Tensor> {
    x[0].conv2d(x[1], x.get(2).copied(), &ConvOptions::default().padding(1), Activation::Relu)
}

fn attend(x: &[&Tensor]) -> Result<Tensor> {
    let options = AttentionOptions::new().causal();
    let options = if let Some(mask) = x.get(3) { options.mask(mask) } else { options };
    x[0].scaled_dot_product_attention(x[1], x[2], &options)
}

/// Ops whose cost is in products, with odd, empty, broadcast and transposed operands.
fn products(generator: &mut Generator, device: &Device) -> Vec<Named<'static>> {
    let mut new = |shape: &[usize]| draw(shape, generator, device);
    let transposed = new(&[7, 5]).t().unwrap();
    vec![
        ("matmul", vec![new(&[3, 7]), new(&[7, 5])], |x| x[0].matmul(x[1])),
        ("matmul, transposed", vec![transposed, new(&[7, 3])], |x| x[0].matmul(x[1])),
        ("matmul, batches", vec![new(&[2, 1, 3, 5]), new(&[3, 5, 1])], |x| x[0].matmul(x[1])),
        ("matmul, empty", vec![new(&[0, 5]), new(&[5, 3])], |x| x[0].matmul(x[1])),
        ("matmul of nothing", vec![new(&[3, 0]), new(&[0, 3])], |x| x[0].matmul(x[1])),
        ("linear", vec![new(&[2, 3, 7]), new(&[5, 7]), new(&[5])], |x| x[0].linear(x[1], Some(x[2]), Activation::Relu)),
        ("conv2d", vec![new(&[2, 3, 5, 4]), new(&[5, 3, 3, 3]), new(&[5])], convolve),
        ("conv2d without bias", vec![new(&[1, 1, 3, 3]), new(&[1, 1, 3, 3])], convolve),
        ("attention", vec![new(&[2, 5, 3]), new(&[2, 5, 3]), new(&[2, 5, 7])], attend),
        ("attention, mask", vec![new(&[5, 3]), new(&[5, 3]), new(&[5, 3]), new(&[1, 5])], attend),
        ("self-attention", vec![new(&[1, 5, 3, 2, 3])], |x| x[0].self_attention(&AttentionOptions::new().causal())),
    ]
}

/// Each op on halves gives what it gives on the same numbers as f32, rounded once: the result and, of a gradient that is the
/// same number in both, every gradient.
#[test]
fn products_of_halves_are_those_of_f32_rounded_once() {
    let mut generator = Generator::new(21);
    for device in devices().iter() {
        for (_, half) in HALVES {
            for (name, inputs, op) in products(&mut generator, device) {
                let leaf = |dtype| move |x: &Tensor| x.cast(half)?.cast(dtype)?.requires_grad();
                let run = |dtype: DType| -> Result<(Tensor, Vec<Tensor>)> {
                    let leaves = inputs.iter().map(leaf(dtype)).collect::<Result<Vec<_>>>()?;
                    let y = op(&leaves.iter().collect::<Vec<_>>())?;
                    // A gradient of ones, and a mask has none.
                    let loss = y.cast(DType::F32)?.sum_all()?;
                    let found = gradients(&loss, &leaves.iter().collect::<Vec<_>>(), GradientOptions::default())?;
                    Ok((y, found.into_iter().flatten().collect()))
                };
                let (y, found) = run(half).unwrap();
                let (expected, gradients) = run(DType::F32).unwrap();
                assert_eq!((y.dtype(), y.shape()), (half, expected.shape()), "{name}");
                assert_eq!(bits(&y), bits(&expected.cast(half).unwrap()), "{name} of {half} on {device}");
                assert_eq!(found.len(), gradients.len(), "{name}");
                // Attention's gradient is of its result, which was rounded; those of matrices that are used again are rounded
                // before they are added.
                if name.contains("attention") || name.contains("batches") {
                    continue;
                }
                for (at, (found, expected)) in found.iter().zip(&gradients).enumerate() {
                    assert_eq!(found.dtype(), half, "{name}");
                    let expected = bits(&expected.cast(half).unwrap());
                    assert_eq!(bits(found), expected, "gradient {at} of {name} of {half} on {device}");
                }
            }
        }
    }
}

/// On a GPU a product reads halves where they lie: no copies of them in f32, and none of the result but where rows are no whole words.
#[test]
fn products_of_halves_are_one_command() {
    let device = Device::null();
    for (precision, half) in HALVES {
        let [x, weight, narrow] = [[3, 7], [4, 7], [5, 7]]
            .map(|shape| Tensor::zeros(&shape, &device).unwrap().cast(half).unwrap().copy().unwrap());
        device.flush().unwrap();
        let commands = |weight: &Tensor| {
            let before = device.counters().commands;
            let y = autocast(precision, || x.linear(weight, None, Activation::Relu)).unwrap();
            device.flush().unwrap();
            assert_eq!(y.dtype(), half);
            device.counters().commands - before
        };
        assert_eq!((commands(&weight), commands(&narrow)), (1, 2), "{half}");
    }
}

/// The gradients of attention on halves against those of f32 on the same numbers.
#[test]
fn gradients_of_attention_on_halves() {
    let mut generator = Generator::new(22);
    for device in devices().iter() {
        for (_, half) in HALVES {
            let inputs = [[2, 5, 3], [2, 5, 3], [2, 5, 7]].map(|shape| draw(&shape, &mut generator, device));
            let run = |dtype: DType| {
                let leaves = inputs.each_ref().map(|x| x.cast(half).unwrap().cast(dtype).unwrap());
                let leaves = leaves.map(|x| x.requires_grad().unwrap());
                let y = attend(&leaves.each_ref()).unwrap().cast(DType::F32).unwrap();
                gradients(&y.sum_all().unwrap(), &leaves.each_ref(), GradientOptions::default()).unwrap()
            };
            let unit = if half == DType::F16 { 2f64.powi(-11) } else { 2f64.powi(-8) };
            for (found, expected) in run(half).into_iter().zip(run(DType::F32)) {
                let found = found.unwrap();
                assert_eq!(found.dtype(), half);
                let wide = |tensor: Tensor| tensor.cast(DType::F32).unwrap().to_vec::<f32>().unwrap();
                let expected: Vec<f64> = wide(expected.unwrap()).into_iter().map(f64::from).collect();
                // The gradient itself is rounded once. It uses the result, up to 14 as a sum of 7 columns below 2 each,
                // which was rounded too, times keys and queries below 2, over 5 keys.
                everstep_testing::assert_close("gradient", &wide(found), &expected, unit * 1.001, unit * 14.0 * 2.0);
            }
        }
    }
}

/// PyTorch's lists: what takes halves, what takes f32, and what takes what it is given.
#[test]
fn each_op_takes_what_the_convention_says() {
    let mut generator = Generator::new(23);
    for device in devices().iter() {
        let single = draw(&[3, 5], &mut generator, device);
        let positive = single.abs().unwrap();
        let labels = Tensor::from_slice(&[0u32, 1, 2], &[3], device).unwrap();
        for (precision, half) in HALVES {
            let halves = single.cast(half).unwrap();
            let given = |x: &Tensor| -> Result<Vec<(&str, Tensor)>> {
                Ok(vec![("relu", x.relu()?), ("tanh", x.tanh()?), ("add", x.add(x)?), ("max", x.max(&[1], false)?)])
            };
            let in_f32 = |x: &Tensor| -> Result<Vec<(&str, Tensor)>> {
                Ok(vec![
                    ("softmax", x.softmax(-1)?),
                    ("log_softmax", x.log_softmax(-1)?),
                    ("cross_entropy", x.cross_entropy(&labels)?),
                    ("layer_norm", x.layer_norm(&[5], None, None, 1e-5)?),
                    ("sum", x.sum_all()?),
                    ("mean", x.mean(&[0], false)?),
                    ("cumsum", x.cumsum(0)?),
                    ("exp", x.exp()?),
                    ("log", positive.cast(half)?.log()?),
                ])
            };
            let check = |list: Vec<(&str, Tensor)>, dtype: DType, what: &str| {
                list.iter().for_each(|(name, y)| assert_eq!(y.dtype(), dtype, "{name} of {what}, {half} on {device}"));
            };
            autocast(precision, || {
                check(given(&halves).unwrap(), half, "halves");
                check(given(&single).unwrap(), DType::F32, "f32");
                check(in_f32(&halves).unwrap(), DType::F32, "halves");
                assert_eq!(halves.add(&single).unwrap().dtype(), DType::F32);
                assert_eq!(single.matmul(&single.t().unwrap()).unwrap().dtype(), half);
                assert_eq!(labels.gt_scalar(1.0).unwrap().dtype(), DType::Bool);
                autocast(Precision::F32, || {
                    assert_eq!(single.matmul(&single.t().unwrap()).unwrap().dtype(), DType::F32);
                    check(in_f32(&halves).unwrap(), half, "halves outside");
                });
                let elsewhere = std::thread::scope(|scope| {
                    let product = scope.spawn(|| single.matmul(&single.t().unwrap()).unwrap().dtype());
                    product.join().unwrap()
                });
                assert_eq!(elsewhere, DType::F32, "a scope is of its thread");
            });
            assert_eq!(single.matmul(&single.t().unwrap()).unwrap().dtype(), DType::F32);
        }
    }
}

/// A layer, a norm and a layer with a loss behind them.
struct Net {
    parameters: [Parameter; 4],
}

impl Net {
    fn new(device: &Device) -> Self {
        let mut generator = Generator::new(24);
        let shapes: [&[usize]; 4] = [&[6, 5], &[6], &[3, 6], &[3]];
        Self { parameters: shapes.map(|shape| Parameter::new(&draw(shape, &mut generator, device)).unwrap()) }
    }

    fn loss(&self, x: &Tensor, labels: &Tensor, half: Option<DType>) -> Result<Tensor> {
        let cast = |x: Tensor| half.map_or(Ok(x.clone()), |half| x.cast(half));
        let [weight, bias, head, last] = self.parameters.each_ref().map(Parameter::tensor);
        let hidden = cast(x.clone())?.linear(&cast(weight)?, Some(&cast(bias)?), Activation::Relu)?;
        let hidden = hidden.cast(DType::F32)?.layer_norm(&[6], None, None, 1e-5)?;
        let logits = cast(hidden)?.linear(&cast(head)?, Some(&cast(last)?), Activation::None)?;
        logits.cast(DType::F32)?.cross_entropy(labels)?.mean_all()
    }

    fn gradients(&self) -> Vec<Tensor> {
        let taken = |parameter: &Parameter| {
            let gradient = parameter.grad().unwrap().copy().unwrap();
            parameter.zero_grad();
            gradient
        };
        self.parameters.iter().map(taken).collect()
    }
}

/// A scope is nothing but casts: written by hand they give the same bits. Against f32 gradients are off by the rounding.
#[test]
fn gradients_in_a_scope_are_those_of_casts_by_hand() {
    let mut generator = Generator::new(25);
    for device in devices().iter() {
        let net = Net::new(device);
        let x = draw(&[7, 5], &mut generator, device);
        let labels = Tensor::from_slice(&[0u32, 1, 2, 0, 1, 2, 0], &[7], device).unwrap();
        net.loss(&x, &labels, None).unwrap().backward().unwrap();
        let exact = net.gradients();
        for (precision, half) in HALVES {
            let by_hand = net.loss(&x, &labels, Some(half)).unwrap();
            by_hand.backward().unwrap();
            let expected = net.gradients();
            for within in [false, true] {
                let loss = autocast(precision, || {
                    let loss = net.loss(&x, &labels, None)?;
                    if within {
                        loss.backward()?;
                    }
                    Ok::<_, everstep_tensor::Error>(loss)
                });
                let loss = loss.unwrap();
                if !within {
                    loss.backward().unwrap();
                }
                assert_eq!((loss.dtype(), bits(&loss)), (DType::F32, bits(&by_hand)), "{half} on {device}");
                for (found, expected) in net.gradients().iter().zip(&expected) {
                    assert_eq!((found.dtype(), bits(found)), (DType::F32, bits(expected)), "{half} on {device}");
                }
            }
            let unit = if half == DType::F16 { 2f64.powi(-11) } else { 2f64.powi(-8) };
            for (found, exact) in expected.iter().zip(&exact) {
                let exact: Vec<f64> = exact.to_vec::<f32>().unwrap().into_iter().map(f64::from).collect();
                let size = exact.iter().fold(0.0f64, |size, value| size.max(value.abs()));
                // Some ten roundings on the way there and back of sums of a few terms, relative to the largest; a unit that
                // the rounding moves across relu's edge would be more, and there is none among these.
                let found = found.to_vec::<f32>().unwrap();
                everstep_testing::assert_close("gradient", &found, &exact, 0.0, 40.0 * unit * size);
            }
        }
    }
}

#[derive(Default)]
struct Casts {
    count: usize,
    // Of each product, whether the second operand is known as the parameter's.
    known: Vec<bool>,
    parameter: Option<Parameter>,
}

impl Probe for Casts {
    fn see(&mut self, seen: &Seen<'_>) -> Result<()> {
        self.count += usize::from(seen.op == "cast_f16");
        if let (Some(parameter), "matmul") = (&self.parameter, seen.op) {
            self.known.push(parameter.is_behind(seen.inputs[1]));
        }
        Ok(())
    }
}

#[test]
fn a_parameter_is_cast_once_in_a_scope_and_known_by_its_cast() {
    let device = Device::cpu();
    let weight = Parameter::new(&Tensor::ones(&[4, 4], &device).unwrap()).unwrap();
    let x = Tensor::ones(&[2, 4], &device).unwrap();
    let probe = Rc::new(RefCell::new(Casts { parameter: Some(weight.clone()), ..Casts::default() }));
    let twice = || -> Result<Tensor> {
        let hidden = x.linear(&weight.tensor(), None, Activation::Relu)?;
        hidden.linear(&weight.tensor(), None, Activation::None)?.mean_all()
    };
    let loss = with_probe(&probe, || autocast(Precision::F16, twice)).unwrap();
    // x and the weight; what the first product gives is of halves already.
    assert_eq!((probe.borrow().count, &probe.borrow().known[..]), (2, &[true, true][..]));
    loss.backward().unwrap();
    let expected = {
        let gradient = weight.grad().unwrap().to_vec::<f32>().unwrap();
        weight.zero_grad();
        twice().unwrap().backward().unwrap();
        (gradient, weight.grad().unwrap().to_vec::<f32>().unwrap())
    };
    // Both parts of the gradient have arrived; small integers are exact.
    assert_eq!(expected.0, expected.1);
    // The next scope casts anew.
    with_probe(&probe, || autocast(Precision::F16, twice)).unwrap();
    assert_eq!(probe.borrow().count, 4);
}

#[test]
fn a_known_cast_is_of_the_same_values_and_the_same_tape() {
    let device = Device::cpu();
    let weight = Parameter::new(&Tensor::ones(&[3, 3], &device).unwrap()).unwrap();
    let x = Tensor::ones(&[1, 3], &device).unwrap();
    let product = || x.matmul(&weight.tensor());
    autocast(Precision::F16, || {
        // Without a tape first: the cast that this leaves must not cut off the gradient of the next.
        let first = no_grad(product).unwrap();
        product().unwrap().sum_all().unwrap().backward().unwrap();
        assert_eq!(weight.grad().unwrap().to_vec::<f32>().unwrap(), [1.0; 9]);
        // A backward pass has freed the tape of that cast; a new one is made.
        product().unwrap().sum_all().unwrap().backward().unwrap();
        assert_eq!(weight.grad().unwrap().to_vec::<f32>().unwrap(), [2.0; 9]);
        weight.set(&Tensor::full(&[3, 3], 2.0, &device).unwrap()).unwrap();
        let second = product().unwrap();
        let single = |x: &Tensor| x.cast(DType::F32).unwrap().to_vec::<f32>().unwrap();
        assert_eq!((single(&first), single(&second)), (vec![3.0; 3], vec![6.0; 3]));
    });
}

/// What is too large for f16 is infinite there, and is seen: nothing swallows it.
#[test]
fn an_overflow_is_infinite_and_a_nan_stays_one() {
    for device in devices().iter() {
        let x = Tensor::from_slice(&[300.0f32, f32::NAN], &[2, 1], device).unwrap();
        let y = autocast(Precision::F16, || x.matmul(&Tensor::full(&[1, 1], 300.0, device)?)).unwrap();
        let found = y.cast(DType::F32).unwrap().to_vec::<f32>().unwrap();
        assert_eq!(found[0].to_bits(), f32::INFINITY.to_bits(), "{device}");
        assert_eq!(found[1].to_bits() & 0x7f80_0000, 0x7f80_0000, "{device}");
        assert_ne!(found[1].to_bits() & 0x007f_ffff, 0, "{device}");
        let y = autocast(Precision::BF16, || x.matmul(&Tensor::full(&[1, 1], 300.0, device)?)).unwrap();
        assert!((y.cast(DType::F32).unwrap().to_vec::<f32>().unwrap()[0] - 90_000.0).abs() < 360.0, "{device}");
    }
}
