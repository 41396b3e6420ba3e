//! The cases of pointwise ops: generated from the table of functions, whose definitions in f64 are the references.

use everstep_device::functions::{self, Function};
use everstep_device::{DType, Generator};

use super::reference::{Array, Domain};
use super::table::{self, CURVE, Case, Cases, EXACT, Entry, FLOAT, ROUNDED, Tolerance};
use crate::{Result, Tensor};

/// A function of the table of one argument and the method that applies it.
#[derive(Debug)]
pub(super) struct Unary {
    function: &'static Function,
    apply: fn(&Tensor) -> Result<Tensor>,
    domain: Domain,
}

/// A function of the table of two arguments and the methods that apply it to tensors and to a tensor and a number.
#[derive(Debug)]
pub(super) struct Binary {
    function: &'static Function,
    apply: fn(&Tensor, &Tensor) -> Result<Tensor>,
    apply_scalar: fn(&Tensor, f32) -> Result<Tensor>,
    domains: [Domain; 2],
}

/// The entry of a function of one f32, its cases drawn from `domain`.
pub(super) const fn unary(
    function: &'static Function,
    apply: fn(&Tensor) -> Result<Tensor>,
    domain: Domain,
    gradient: table::Gradient,
    tolerance: Tolerance,
) -> Entry {
    let cases = Cases::Unary(Unary { function, apply, domain });
    Entry { name: function.name, dtypes: FLOAT, gradient, tolerance, cases }
}

/// The entry of a function of two arguments, its cases drawn from `domains`.
pub(super) const fn binary(
    function: &'static Function,
    apply: fn(&Tensor, &Tensor) -> Result<Tensor>,
    apply_scalar: fn(&Tensor, f32) -> Result<Tensor>,
    dtypes: &'static [DType],
    domains: [Domain; 2],
    gradient: table::Gradient,
    tolerance: Tolerance,
) -> Entry {
    let cases = Cases::Binary(Binary { function, apply, apply_scalar, domains });
    Entry { name: function.name, dtypes, gradient, tolerance, cases }
}

/// The entry of a function of one f32 and of numbers that are the same for all elements.
pub(super) const fn numbered(
    function: &'static Function,
    gradient: table::Gradient,
    tolerance: Tolerance,
    cases: fn(&mut Generator) -> Vec<Case>,
) -> Entry {
    Entry { name: function.name, dtypes: FLOAT, gradient, tolerance, cases: Cases::Listed(cases) }
}

/// Where functions are asked what they do at the edges: zeros, overflow, and far out.
const EXTREMES: [f64; 14] = [0.0, -0.0, 1e-30, -1e-30, 1e30, -1e30, 88.0, -87.0, 100.0, -100.0, 20.0, -20.0, 0.5, -0.5];

/// Cases of a function of one f32 and numbers, away from a kink at zero and at its edges.
fn numbered_cases(
    generator: &mut Generator,
    function: &'static Function,
    choices: &[&'static [f32]],
    apply: fn(&Tensor, &[f32]) -> Result<Tensor>,
) -> Vec<Case> {
    let shapes: [&[usize]; 5] = [&[3, 5], &[7], &[], &[0], &[2, 1, 3, 1, 2, 2]];
    let mut cases = Vec::new();
    for (number, &numbers) in choices.iter().enumerate() {
        let case = |label: String, input: Array| {
            let reference = move |x: f64| {
                let numbers = numbers.iter().map(|&number| f64::from(number));
                (function.reference)(&std::iter::once(x).chain(numbers).collect::<Vec<_>>())
            };
            Case::new(label, vec![input], move |x| apply(&x[0], numbers), move |x| x[0].map(reference))
        };
        for shape in if number == 0 { &shapes[..] } else { &shapes[..1] } {
            let input = Array::draw(shape, Domain::away(0.2, 3.0), generator);
            cases.push(case(format!("{shape:?} with {numbers:?}"), input));
        }
        let extremes = EXTREMES.iter().map(|&value| f64::from(value as f32)).collect();
        cases.push(case(format!("extremes with {numbers:?}"), Array::new(&[14], extremes)).with_orders(0));
    }
    cases
}

pub(super) const ELU: Entry = numbered(&functions::ELU, table::Gradient::Any, CURVE, |generator| {
    numbered_cases(generator, &functions::ELU, &[&[1.0], &[0.3], &[-2.0]], |x, numbers| x.elu(numbers[0]))
});

pub(super) const LEAKY_RELU: Entry = numbered(&functions::LEAKY_RELU, table::Gradient::Any, ROUNDED, |generator| {
    numbered_cases(generator, &functions::LEAKY_RELU, &[&[0.01], &[-1.5], &[0.0]], |x, numbers| {
        x.leaky_relu(numbers[0])
    })
});

pub(super) const CLAMP: Entry = numbered(&functions::CLAMP, table::Gradient::Any, EXACT, |generator| {
    const INFINITE: f32 = f32::INFINITY;
    let choices: [&[f32]; 4] = [&[-1.0, 1.5], &[0.5, INFINITE], &[-INFINITE, 0.25], &[2.0, -1.0]];
    numbered_cases(generator, &functions::CLAMP, &choices, move |x, bounds| {
        let given = |bound: f32| Some(bound).filter(|bound| bound.is_finite());
        x.clamp(given(bounds[0]), given(bounds[1]))
    })
});

impl Unary {
    pub(super) fn cases(&self, generator: &mut Generator) -> Vec<Case> {
        let shapes: [&[usize]; 8] = [&[7], &[3, 5], &[], &[1], &[0], &[2, 0, 3], &[2, 1, 3, 1, 2, 2], &[3, 7001]];
        let (apply, reference) = (self.apply, self.function.reference);
        let case = |label: String, input: Array| {
            Case::new(label, vec![input], move |x| apply(&x[0]), move |x| Array::zip(&[&x[0]], reference))
        };
        let mut cases: Vec<Case> =
            shapes.iter().map(|s| case(format!("{s:?}"), Array::draw(s, self.domain, generator))).collect();
        let extremes = EXTREMES.iter().map(|&value| f64::from(value as f32)).collect();
        cases.push(case("extremes".into(), Array::new(&[14], extremes)).with_orders(0));
        cases
    }
}

impl Binary {
    pub(super) fn cases(&self, generator: &mut Generator) -> Vec<Case> {
        let shapes: [(&[usize], &[usize]); 10] = [
            (&[3, 5], &[3, 5]),
            (&[3, 5], &[5]),
            (&[3, 1], &[1, 5]),
            (&[2, 1, 3], &[4, 1]),
            (&[], &[3]),
            (&[1], &[0]),
            (&[0, 3], &[1, 3]),
            (&[], &[]),
            (&[2, 1, 2, 1, 3, 1], &[1, 2, 1, 2, 1, 3]),
            (&[3, 7001], &[7001]),
        ];
        let mut cases = Vec::new();
        for (left, right) in shapes {
            let inputs = [(left, self.domains[0]), (right, self.domains[1])];
            let inputs = inputs.map(|(shape, domain)| Array::draw(shape, domain, generator));
            cases.push(self.case(format!("{left:?} with {right:?}"), inputs));
        }
        // Half of the elements are equal: a kink, where the second order does not exist, and where a remainder jumps.
        let b = Array::draw(&[2, 4], self.domains[1], generator);
        let a = Array::from_fn(&[2, 4], |index| b.at(index) + f64::from(index[1] as u32 % 2));
        let orders = if *self.function == functions::REM { 0 } else { 1 };
        cases.push(self.case("ties".into(), [a, b]).with_orders(orders));
        for shape in [&[3, 5][..], &[], &[0]] {
            let (scalar, apply, reference) =
                (self.domains[1].draw(generator), self.apply_scalar, self.function.reference);
            let input = Array::draw(shape, self.domains[0], generator);
            let apply = move |x: &[Tensor]| apply(&x[0], scalar);
            let expected = move |x: &[Array]| x[0].map(|value| reference(&[value, f64::from(scalar)]));
            cases.push(Case::new(format!("{shape:?} with {scalar}"), vec![input], apply, expected));
        }
        cases.extend([DType::U32, DType::I32].into_iter().filter_map(|dtype| self.integers(dtype, generator)));
        cases
    }

    fn case(&self, label: String, inputs: [Array; 2]) -> Case {
        let (apply, reference) = (self.apply, self.function.reference);
        let expected = move |x: &[Array]| Array::zip(&[&x[0], &x[1]], reference);
        Case::new(label, inputs.to_vec(), move |x| apply(&x[0], &x[1]), expected)
    }

    /// Integers whose results wrap around; `None` where the function takes none.
    fn integers(&self, dtype: DType, generator: &mut Generator) -> Option<Case> {
        self.function.overload(&[dtype, dtype])?;
        let (apply, reference) = (self.apply, self.function.reference);
        let inputs = [&[3, 5][..], &[5]].map(|shape| Array::integers(shape, dtype, 0, 1 << 20, generator));
        let expected = move |x: &[Array]| Array::zip(&[&x[0], &x[1]], reference).wrapped(dtype);
        Some(Case::new(dtype.name(), inputs.to_vec(), move |x| apply(&x[0], &x[1]), expected))
    }
}
