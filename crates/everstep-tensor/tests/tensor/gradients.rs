//! Gradients from the tape against differences of the f64 references, of first and second order.

use everstep_tensor::ops::reference::{Array, Domain};
use everstep_tensor::ops::table::{Case, Entry, Gradient};
use everstep_tensor::{Device, Error, Generator, GradientOptions, Result, Tensor, gradients};
use everstep_testing::close;

use crate::common::{Held, STORAGES, Storage, assert_none, cases, devices, expected, held_inputs, is_gpu, tensors};

/// Distance of differences of first order: their error is its square, 1e-10, and f64's rounding over it.
const STEP: f64 = 1e-5;
/// Of second order: the square is 1e-8, and so is f64's rounding over the square.
const WIDE_STEP: f64 = 1e-4;

/// Calls `check` with every case whose gradients of order `order` can be checked, in the layouts that make a difference
/// to gradients, on every device.
fn each(order: u32, mut check: impl FnMut(&Entry, &Case, &[Held], &Device) -> Result<(), String>) {
    let mut failures = Vec::new();
    let (mut last, mut number) = ("", 0);
    let devices = devices();
    for (entry, case) in cases() {
        number = if entry.name == last { number + 1 } else { 0 };
        last = entry.name;
        if case.orders.min(entry.gradient.orders()) < order || !case.inputs[0].dtype.is_float() {
            continue;
        }
        for device in devices.iter() {
            // Repeated elements would be equal where a maximum has its kink. On a GPU each pattern of access is a
            // shader to compile.
            let storages = if is_gpu(device) && number > 0 { &STORAGES[..1] } else { &STORAGES[..3] };
            for &storage in storages {
                let Some(held) = held_inputs(&case, storage) else { continue };
                if let Err(reason) = check(entry, &case, &held, device) {
                    let kind = device.info().kind;
                    failures.push(format!("{} {} {storage:?} on {kind:?}: {reason}", entry.name, case.label));
                }
            }
        }
    }
    assert_none(&failures);
}

/// The sum of the elements of `array`, each times its weight.
fn weighted(array: &Array, weights: &Array) -> f64 {
    array.values.iter().zip(&weights.values).map(|(value, weight)| value * weight).sum()
}

/// The case's inputs, moved along the given directions.
fn moved(held: &[Held], moves: &[(f64, &[Array])]) -> Vec<Held> {
    let mut held = held.to_vec();
    for (distance, directions) in moves {
        for ((array, _), direction) in held.iter_mut().zip(*directions) {
            array.values.iter_mut().zip(&direction.values).for_each(|(value, along)| *value += distance * along);
        }
    }
    held
}

/// Every direction along one element of one float input: (input, element, directions).
fn unit_directions(held: &[Held]) -> Vec<(usize, usize, Vec<Array>)> {
    let zeros: Vec<Array> = held.iter().map(|(array, _)| array.map(|_| 0.0)).collect();
    let mut all = Vec::new();
    for (input, (array, _)) in held.iter().enumerate().filter(|(_, (array, _))| array.dtype.is_float()) {
        for element in 0..array.count() {
            let mut directions = zeros.clone();
            directions[input].values[element] = 1.0;
            all.push((input, element, directions));
        }
    }
    all
}

/// Random numbers for each element of an array; none for integers.
fn random_like(array: &Array, generator: &mut Generator) -> Array {
    match array.dtype.is_float() {
        true => Array::draw(&array.shape, Domain::between(-1.0, 1.0), generator),
        false => array.map(|_| 0.0),
    }
}

/// The case's inputs, the float ones as leaves of the tape, and the weighted sum of its output.
fn forward(case: &Case, held: &[Held], weights: &Array, device: &Device) -> Result<(Vec<Tensor>, Tensor)> {
    let leaf = |tensor: Tensor| if tensor.dtype().is_float() { tensor.requires_grad() } else { Ok(tensor) };
    let inputs = tensors(held, device).into_iter().map(leaf).collect::<Result<Vec<_>>>()?;
    let loss = (case.apply)(&inputs)?.mul(&weights.tensor(device)?)?.sum_all()?;
    Ok((inputs, loss))
}

/// Compares the gradients of all inputs with `exact`, one number per float element, one after the other; `noise` is what
/// the differences themselves may be wrong by.
fn compare(held: &[Held], found: &[Option<Tensor>], exact: &[f64], scale: f64, noise: f64) -> Result<(), String> {
    let mut rest = exact;
    for ((array, _), found) in held.iter().zip(found) {
        if !array.dtype.is_float() {
            continue;
        }
        let (expected, others) = rest.split_at(array.count());
        rest = others;
        let found = found.as_ref().ok_or("no gradient")?;
        if **found.shape() != array.shape[..] {
            return Err(format!("a gradient {} of an input {:?}", found.shape(), array.shape));
        }
        let found = found.to_vec::<f32>().map_err(|error| error.to_string())?;
        // A gradient is a sum of some terms as large as the largest element of it, each rounded a few times.
        let largest = expected.iter().fold(0.0f64, |largest, value| largest.max(value.abs()));
        close(&found, expected, scale, scale * (0.1 + largest) + noise)?;
    }
    Ok(())
}

#[test]
fn the_tape_gives_the_gradient_of_the_reference() {
    let mut generator = Generator::new(5);
    each(1, |_, case, held, device| {
        let weights = random_like(&expected(case, held).map(|_| 0.0), &mut generator);
        let (inputs, loss) = forward(case, held, &weights, device).map_err(|error| error.to_string())?;
        let inputs: Vec<&Tensor> = inputs.iter().collect();
        let found = gradients(&loss, &inputs, GradientOptions::default()).map_err(|error| error.to_string())?;
        let at =
            |distance: f64, along: &[Array]| weighted(&expected(case, &moved(held, &[(distance, along)])), &weights);
        let slope = |(_, _, along): &(usize, usize, Vec<Array>)| (at(STEP, along) - at(-STEP, along)) / (2.0 * STEP);
        let exact: Vec<f64> = unit_directions(held).iter().map(slope).collect();
        compare(held, &found, &exact, 4e-6, 0.0)
    });
}

/// The gradient of the sum over all inputs of (gradient times a random direction).
#[test]
fn gradients_of_gradients_are_those_of_the_reference() {
    let mut generator = Generator::new(6);
    each(2, |_, case, held, device| {
        let weights = random_like(&expected(case, held).map(|_| 0.0), &mut generator);
        let along: Vec<Array> = held.iter().map(|(array, _)| random_like(array, &mut generator)).collect();
        let (inputs, loss) = forward(case, held, &weights, device).map_err(|error| error.to_string())?;
        let found = second_order(&inputs, &loss, &along).map_err(|error| error.to_string())?;
        let at = |first: f64, second: f64, unit: &[Array]| {
            weighted(&expected(case, &moved(held, &[(first, &along), (second, unit)])), &weights)
        };
        let curve = |(_, _, unit): &(usize, usize, Vec<Array>)| {
            let h = WIDE_STEP;
            (at(h, h, unit) - at(-h, h, unit) - at(h, -h, unit) + at(-h, -h, unit)) / (4.0 * h * h)
        };
        let exact: Vec<f64> = unit_directions(held).iter().map(curve).collect();
        // Each of the four sums is wrong by an ulp of its size or so, and what is left of them is divided by 4 h^2.
        let size = weighted(&expected(case, held).map(f64::abs), &weights.map(f64::abs));
        compare(held, &found, &exact, 2e-5, f64::EPSILON * size / (WIDE_STEP * WIDE_STEP))
    });
}

/// `None` stands for zero where the first gradient does not depend on an input.
fn second_order(inputs: &[Tensor], loss: &Tensor, along: &[Array]) -> Result<Vec<Option<Tensor>>> {
    let leaves: Vec<&Tensor> = inputs.iter().collect();
    let options = GradientOptions { create_graph: true, ..Default::default() };
    let mut sum: Option<Tensor> = None;
    for (first, along) in gradients(loss, &leaves, options)?.into_iter().zip(along) {
        let Some(first) = first else { continue };
        let part = first.mul(&along.tensor(first.device())?)?.sum_all()?;
        sum = Some(sum.map_or(Ok(part.clone()), |sum| sum.add(&part))?);
    }
    let found = match gradients(&sum.unwrap(), &leaves, GradientOptions::default()) {
        Err(Error::NoTape) => vec![None; inputs.len()],
        found => found?,
    };
    let whole = |(found, input): (Option<Tensor>, &Tensor)| {
        let found = found.map_or_else(|| Tensor::zeros(input.shape(), input.device()), Ok)?;
        Ok(Some(found))
    };
    found.into_iter().zip(inputs).map(whole).collect()
}

/// What the table says of the orders of gradient is so: a typed error, or no gradient.
#[test]
fn ops_without_a_gradient_say_so() {
    let mut failures = Vec::new();
    for (entry, case) in cases() {
        let held = held_inputs(&case, Storage::Plain).unwrap();
        let result = (case.reference)(&case.inputs);
        if !case.inputs[0].dtype.is_float() || result.count() == 0 || case.inputs[0].count() > 200 {
            continue;
        }
        let weights = result.map(|_| 1.0).with_dtype(everstep_tensor::DType::F32);
        let outcome = match entry.gradient {
            Gradient::Any => Ok(()),
            Gradient::First(_) => {
                let (inputs, loss) = forward(&case, &held, &weights, &Device::cpu()).unwrap();
                let along: Vec<Array> = case.inputs.iter().map(|input| input.map(|_| 1.0)).collect();
                match second_order(&inputs, &loss, &along) {
                    Err(Error::NotDifferentiable { .. }) => Ok(()),
                    other => Err(format!("second order: {other:?}")),
                }
            }
            Gradient::No(_) => {
                let leaf = case.inputs[0].tensor(&Device::cpu()).unwrap().requires_grad().unwrap();
                let others = case.inputs[1..].iter().map(|input| input.tensor(&Device::cpu()).unwrap());
                let inputs: Vec<Tensor> = std::iter::once(leaf).chain(others).collect();
                let output = (case.apply)(&inputs).unwrap();
                // `Debug` tells whether a gradient can flow back.
                let on_tape = format!("{output:?}").contains("on tape");
                if on_tape { Err(format!("{output:?}")) } else { Ok(()) }
            }
        };
        if let Err(reason) = outcome {
            failures.push(format!("{} {}: {reason}", entry.name, case.label));
        }
    }
    assert_none(&failures);
}
