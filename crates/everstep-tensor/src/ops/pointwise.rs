//! Every pointwise op: one kernel for any formula, its gradient derived from the formula.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use everstep_device::cpu::Pointwise as Kernel;
use everstep_device::expr::{Expr, Program};
use everstep_device::functions::{self, Function};
use everstep_device::{Command, DType, Generator, Shape, Work};

use super::reference::{Array, Domain};
use super::table;
use super::table::{Case, Cases, EXACT, Entry, FLOAT, NUMBERS, Tolerance};
use crate::op::{Inferred, Op, Saved, apply};
use crate::{Error, Result, Tensor};

/// A formula over tensors with its program, and its gradients' as they are asked for.
#[derive(Debug)]
pub struct Formula {
    name: &'static str,
    expr: Expr,
    inputs: Vec<DType>,
    program: Arc<Program>,
    gradients: OnceLock<std::result::Result<Vec<Option<Gradient>>, &'static str>>,
}

/// The gradient of one input: a formula over some of (inputs, output, output's gradient).
#[derive(Debug)]
struct Gradient {
    formula: Arc<Formula>,
    operands: Vec<usize>,
}

impl Formula {
    /// A formula over inputs of these dtypes, called `name` in messages.
    pub fn new(name: &'static str, inputs: &[DType], expr: Expr) -> Arc<Self> {
        let program = Arc::new(Program::new(inputs, std::slice::from_ref(&expr)));
        Arc::new(Self { name, expr, inputs: inputs.to_vec(), program, gradients: OnceLock::new() })
    }

    /// A table function of inputs of these dtypes: compiled once per process.
    fn of(function: &'static Function, dtypes: &[DType], scalar: bool) -> Result<Arc<Self>> {
        type Key = (&'static str, Vec<DType>, bool);
        static KNOWN: Mutex<Option<HashMap<Key, Arc<Formula>>>> = Mutex::new(None);
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        let known = known.get_or_insert_default();
        let key = (function.name, dtypes.to_vec(), scalar);
        if let Some(formula) = known.get(&key) {
            return Ok(formula.clone());
        }
        let mut args: Vec<_> = dtypes.iter().enumerate().map(|(index, &dtype)| Expr::input(index, dtype)).collect();
        if scalar {
            args.push(Expr::scalar(0));
        }
        let none = || Error::DTypes { op: function.name, found: dtypes.to_vec() };
        let formula = Self::new(function.name, dtypes, Expr::apply(function, args).ok_or_else(none)?);
        known.insert(key, formula.clone());
        Ok(formula)
    }

    fn gradients(&self) -> Result<&[Option<Gradient>]> {
        let derive = || {
            let count = self.inputs.len();
            let (output, gradient) = (Expr::input(count, self.expr.dtype()), Expr::input(count + 1, DType::F32));
            let parts = self.expr.gradients(count, &output, &gradient)?;
            Ok(parts.into_iter().map(|part| part.map(|expr| self.gradient(&expr))).collect())
        };
        let failed = |op: &&'static str| Error::NotDifferentiable { op };
        self.gradients.get_or_init(derive).as_deref().map_err(failed)
    }

    /// A gradient's formula over only those operands that it uses.
    fn gradient(&self, expr: &Expr) -> Gradient {
        let operands = expr.used_inputs();
        let count = self.inputs.len();
        let dtype = |&operand: &usize| match operand {
            _ if operand < count => self.inputs[operand],
            _ if operand == count => self.expr.dtype(),
            _ => DType::F32,
        };
        let dtypes: Vec<_> = operands.iter().map(dtype).collect();
        let place = |operand: usize| operands.iter().position(|&used| used == operand).unwrap_or(operand);
        let renamed: Vec<_> = (0..count + 2)
            .map(|operand| Expr::input(place(operand), dtypes.get(place(operand)).copied().unwrap_or(DType::F32)))
            .collect();
        Gradient { formula: Self::new(self.name, &dtypes, expr.substitute(&renamed)), operands }
    }
}

/// A formula applied to tensors, broadcast to one another.
#[derive(Debug)]
pub struct Pointwise {
    /// What to compute.
    pub formula: Arc<Formula>,
    /// The formula's scalars.
    pub scalars: Vec<f32>,
}

impl Op for Pointwise {
    fn name(&self) -> &'static str {
        self.formula.name
    }

    fn infer(&self, inputs: &[&Tensor]) -> Result<Inferred> {
        let dtypes: Vec<_> = inputs.iter().map(|input| input.dtype()).collect();
        if dtypes != self.formula.inputs {
            return Err(Error::DTypes { op: self.name(), found: dtypes });
        }
        let mut shape = *inputs[0].shape();
        for input in &inputs[1..] {
            let rule = "counted from the last, each dimension must be equal or 1";
            let wrong = Error::Shapes { op: self.name(), left: shape, right: *input.shape(), rule };
            shape = shape.broadcast(input.shape()).ok_or(wrong)?;
        }
        // Each may be a view of few elements, and their joint shape more than can be addressed.
        Ok(Inferred::one(Shape::new(&shape)?, self.formula.expr.dtype()))
    }

    fn record(&self, inputs: &[&Tensor], outputs: &[Tensor]) -> Result<()> {
        outputs[0].write_pointwise(self.name(), self.formula.program.clone(), inputs, self.scalars.clone())
    }

    fn vjp(&self, saved: &Saved<'_>, gradient: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let operand = |index: usize| match index {
            _ if index < saved.inputs.len() => &saved.inputs[index],
            _ if index == saved.inputs.len() => &saved.outputs[0],
            _ => gradient,
        };
        let part = |(index, part): (usize, &Option<Gradient>)| {
            let Some(part) = part.as_ref().filter(|_| saved.wants(index)) else { return Ok(None) };
            let operands: Vec<_> = part.operands.iter().map(|&index| operand(index)).collect();
            let whole = match (part.formula.expr.as_input(), &operands[..]) {
                (Some(only), _) => operands[only].clone(),
                (None, []) => Tensor::zeros(gradient.shape(), gradient.device())?,
                (None, _) => {
                    let op = Pointwise { formula: part.formula.clone(), scalars: self.scalars.clone() };
                    apply(op, &operands)?
                }
            };
            whole.sum_to(saved.inputs[index].shape()).map(Some)
        };
        self.formula.gradients()?.iter().enumerate().map(part).collect()
    }
}

/// Applies a function of the table to tensors.
pub fn call(function: &'static Function, inputs: &[&Tensor]) -> Result<Tensor> {
    let dtypes: Vec<_> = inputs.iter().map(|input| input.dtype()).collect();
    apply(Pointwise { formula: Formula::of(function, &dtypes, false)?, scalars: vec![] }, inputs)
}

/// Applies a binary function of the table to a tensor and a number.
fn call_scalar(function: &'static Function, input: &Tensor, scalar: f32) -> Result<Tensor> {
    apply(Pointwise { formula: Formula::of(function, &[input.dtype()], true)?, scalars: vec![scalar] }, &[input])
}

/// Copies a view into row-major order.
#[derive(Debug)]
struct Contiguous;

impl Op for Contiguous {
    fn name(&self) -> &'static str {
        "contiguous"
    }

    fn infer(&self, inputs: &[&Tensor]) -> Result<Inferred> {
        Ok(Inferred::one(*inputs[0].shape(), inputs[0].dtype()))
    }

    fn record(&self, inputs: &[&Tensor], outputs: &[Tensor]) -> Result<()> {
        let (input, output) = (inputs[0], &outputs[0]);
        let program = Arc::new(Program::new(&[input.dtype()], &[Expr::input(0, input.dtype())]));
        let (shape, layouts) = (*input.shape(), vec![*input.layout()]);
        let kernel = Kernel { program, shape, inputs: layouts, outputs: vec![*output.layout()], scalars: vec![] };
        Ok(input.device().record(Command {
            op: self.name(),
            work: Work::Kernel(Arc::new(kernel)),
            inputs: vec![input.slice_of_buffer()],
            outputs: vec![output.slice_of_buffer()],
        })?)
    }

    fn vjp(&self, _: &Saved<'_>, gradient: &Tensor) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(gradient.clone())])
    }
}

/// Methods of one tensor, `name => FUNCTION`, with their docs.
macro_rules! unary {
    ($($(#[$doc:meta])* $name:ident => $function:ident;)+) => {
        impl Tensor {
            $($(#[$doc])*
            ///
            /// # Errors
            /// [`Error::DTypes`] where the dtype is not f32.
            pub fn $name(&self) -> Result<Tensor> {
                call(&functions::$function, &[self])
            })+
        }
    };
}

/// Methods of two tensors and of a tensor and a number.
macro_rules! binary {
    ($($(#[$doc:meta])* $name:ident, $scalar:ident => $function:ident;)+) => {
        impl Tensor {
            $($(#[$doc])*
            ///
            /// # Errors
            /// [`Error::Shapes`] where the shapes do not broadcast, [`Error::DTypes`], [`Error::Devices`].
            pub fn $name(&self, other: &Tensor) -> Result<Tensor> {
                call(&functions::$function, &[self, other])
            }

            /// The same with a number on the right.
            ///
            /// # Errors
            /// [`Error::DTypes`] where the dtype is not f32.
            pub fn $scalar(&self, other: f32) -> Result<Tensor> {
                call_scalar(&functions::$function, self, other)
            })+
        }
    };
}

unary! {
    /// -x
    neg => NEG;
    /// e^x
    exp => EXP;
    /// Natural logarithm: NaN below 0, negative infinity at 0.
    log => LOG;
    /// Square root: NaN below 0.
    sqrt => SQRT;
    /// Hyperbolic tangent.
    tanh => TANH;
    /// 1 / (1 + e^-x)
    sigmoid => SIGMOID;
    /// The error function.
    erf => ERF;
    /// x where positive, else 0; NaN stays.
    relu => RELU;
    /// Gaussian error linear unit, x Phi(x), by erf (PyTorch's default).
    gelu => GELU;
    /// GELU by its tanh approximation (PyTorch's `approximate="tanh"`).
    gelu_tanh => GELU_TANH;
}

binary! {
    /// x + y, broadcast.
    add, add_scalar => ADD;
    /// x - y, broadcast.
    sub, sub_scalar => SUB;
    /// x y, element by element, broadcast.
    mul, mul_scalar => MUL;
    /// x / y, broadcast.
    div, div_scalar => DIV;
    /// The larger of x and y, broadcast; NaN where either is. Equal ones share the gradient.
    maximum, maximum_scalar => MAXIMUM;
    /// The smaller of x and y, broadcast; NaN where either is. Equal ones share the gradient.
    minimum, minimum_scalar => MINIMUM;
}

impl Tensor {
    /// This tensor in row-major order: itself where it already is, else a copy.
    pub fn contiguous(&self) -> Result<Tensor> {
        if self.layout().is_contiguous() { Ok(self.clone()) } else { apply(Contiguous, &[self]) }
    }

    /// A copy of its own, in row-major order.
    pub fn copy(&self) -> Result<Tensor> {
        apply(Contiguous, &[self])
    }

    /// 1 where the elements are equal, else 0, as f32; no gradient flows.
    pub fn equal(&self, other: &Tensor) -> Result<Tensor> {
        call(&functions::EQUAL, &[&self.detach(), &other.detach()])
    }
}

/// `&a + &b` and the like give a `Result`: shapes may not match.
macro_rules! operators {
    ($($trait:ident $method:ident $scalar:ident;)+) => {
        $(impl std::ops::$trait<&Tensor> for &Tensor {
            type Output = Result<Tensor>;
            fn $method(self, other: &Tensor) -> Result<Tensor> {
                Tensor::$method(self, other)
            }
        }

        impl std::ops::$trait<f32> for &Tensor {
            type Output = Result<Tensor>;
            fn $method(self, other: f32) -> Result<Tensor> {
                Tensor::$scalar(self, other)
            }
        })+
    };
}

operators! {
    Add add add_scalar;
    Sub sub sub_scalar;
    Mul mul mul_scalar;
    Div div div_scalar;
}

impl std::ops::Neg for &Tensor {
    type Output = Result<Tensor>;
    fn neg(self) -> Result<Tensor> {
        Tensor::neg(self)
    }
}

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

/// Where functions are asked what they do at the edges: zeros, overflow, and far out.
const EXTREMES: [f64; 14] = [0.0, -0.0, 1e-30, -1e-30, 1e30, -1e30, 88.0, -87.0, 100.0, -100.0, 20.0, -20.0, 0.5, -0.5];

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
        // Half of the elements are equal: a kink, where the second order does not exist.
        let b = Array::draw(&[2, 4], self.domains[1], generator);
        let a = Array::from_fn(&[2, 4], |index| b.at(index) + f64::from(index[1] as u32 % 2));
        cases.push(self.case("ties".into(), [a, b]).with_orders(1));
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

pub(super) const EQUAL: Entry = Entry {
    name: "equal",
    dtypes: &[DType::F32, DType::U32],
    gradient: table::Gradient::No("it is constant wherever it is continuous"),
    tolerance: EXACT,
    cases: Cases::Listed(|generator| {
        let shapes: [(&[usize], &[usize]); 5] =
            [(&[3, 5], &[3, 5]), (&[3, 5], &[5]), (&[], &[1]), (&[0], &[1]), (&[2, 1, 3, 1, 2, 2], &[3, 1, 1, 2])];
        let mut cases = Vec::new();
        for (left, right) in shapes {
            for dtype in [DType::F32, DType::U32] {
                let inputs = [left, right].map(|shape| Array::integers(shape, dtype, 0, 3, generator));
                let expected = |x: &[Array]| Array::zip(&[&x[0], &x[1]], |x| f64::from(u8::from(x[0] == x[1])));
                let label = format!("{dtype} {left:?} with {right:?}");
                cases.push(Case::new(label, inputs.to_vec(), |x| x[0].equal(&x[1]), expected));
            }
        }
        cases
    }),
};

pub(super) const CONTIGUOUS: Entry = Entry {
    name: "contiguous",
    dtypes: NUMBERS,
    gradient: table::Gradient::Any,
    tolerance: EXACT,
    cases: Cases::Listed(|generator| copies(generator, Tensor::contiguous)),
};

pub(super) const COPY: Entry =
    Entry { name: "copy", cases: Cases::Listed(|generator| copies(generator, Tensor::copy)), ..CONTIGUOUS };

fn copies(generator: &mut Generator, apply: fn(&Tensor) -> Result<Tensor>) -> Vec<Case> {
    let shapes: [&[usize]; 6] = [&[3, 5], &[7], &[], &[0], &[2, 0, 3], &[2, 1, 3, 1, 2, 2]];
    let mut cases = Vec::new();
    for shape in shapes {
        for dtype in [DType::F32, DType::U32] {
            let input = Array::integers(shape, dtype, 0, 100, generator);
            cases.push(Case::new(format!("{dtype} {shape:?}"), vec![input], move |x| apply(&x[0]), |x| x[0].clone()));
        }
    }
    cases
}
