//! Every pointwise op: one kernel for any formula, its gradient derived from the formula.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use everstep_device::cpu::Pointwise as Kernel;
use everstep_device::expr::{Expr, Program};
use everstep_device::functions::{self, Function};
use everstep_device::{Command, DType, Generator, Shape, Work};

use super::reference::Array;
use super::table;
use super::table::{Case, Cases, EVERY, EXACT, Entry};
use crate::op::{Inferred, Op, Saved, apply, common_float};
use crate::{Autocast, Error, Result, Tensor, autocast};

/// A formula over tensors with its program, and its gradients' as they are asked for.
#[derive(Debug)]
pub struct Formula {
    name: &'static str,
    expr: Expr,
    inputs: Vec<DType>,
    program: Arc<Program>,
    gradients: OnceLock<std::result::Result<Vec<Option<Gradient>>, &'static str>>,
}

/// `function` of inputs of these dtypes and then of scalars; `None` where it takes no such arguments.
fn arguments(function: &'static Function, dtypes: &[DType], scalars: usize) -> Option<Expr> {
    let mut args: Vec<_> = dtypes.iter().enumerate().map(|(index, &dtype)| Expr::input(index, dtype)).collect();
    for scalar in (0..scalars).map(Expr::scalar) {
        args.push(match dtypes.first() {
            Some(DType::U32) => Expr::apply(&functions::CAST_U32, vec![scalar])?,
            Some(DType::I32) => Expr::apply(&functions::CAST_I32, vec![scalar])?,
            _ => scalar,
        });
    }
    Expr::apply(function, args)
}

/// The same by way of f32, for inputs of which some are halves.
fn of_halves(function: &'static Function, dtypes: &[DType], scalars: usize) -> Option<Expr> {
    let single: Vec<DType> = dtypes.iter().map(|&dtype| if dtype.is_half() { DType::F32 } else { dtype }).collect();
    let widened = |(index, &dtype): (usize, &DType)| match Expr::input(index, dtype) {
        half if dtype.is_half() => Expr::apply(&functions::CAST_F32, vec![half]),
        other => Some(other),
    };
    let inputs = dtypes.iter().enumerate().map(widened).collect::<Option<Vec<_>>>()?;
    let value = arguments(function, &single, scalars)?.substitute(&inputs);
    let back = match common_float(dtypes.iter().copied()) {
        DType::F16 => &functions::CAST_F16,
        DType::BF16 => &functions::CAST_BF16,
        _ => return Some(value),
    };
    if value.dtype() == DType::F32 { Expr::apply(back, vec![value]) } else { Some(value) }
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
    ///
    /// The call's scalars are its last arguments, converted to the dtype of the first. For a function that has no overload
    /// for halves they become f32 on the way in, and its f32 result such a half on the way out where all floats were.
    fn of(function: &'static Function, dtypes: &[DType], scalars: usize) -> Result<Arc<Self>> {
        type Key = (&'static str, Vec<DType>, usize);
        static KNOWN: Mutex<Option<HashMap<Key, Arc<Formula>>>> = Mutex::new(None);
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        let known = known.get_or_insert_default();
        let key = (function.name, dtypes.to_vec(), scalars);
        if let Some(formula) = known.get(&key) {
            return Ok(formula.clone());
        }
        let none = || Error::DTypes { op: function.name, found: dtypes.to_vec() };
        let formula = arguments(function, dtypes, scalars).or_else(|| of_halves(function, dtypes, scalars));
        let formula = Self::new(function.name, dtypes, formula.ok_or_else(none)?);
        known.insert(key, formula.clone());
        Ok(formula)
    }

    fn gradients(&self) -> Result<&[Option<Gradient>]> {
        let derive = || {
            let count = self.inputs.len();
            let [output, gradient] = [count, count + 1].map(|index| Expr::input(index, self.expr.dtype()));
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
            _ => self.expr.dtype(),
        };
        let dtypes: Vec<_> = operands.iter().map(dtype).collect();
        let place = |operand: usize| operands.iter().position(|&used| used == operand).unwrap_or(operand);
        let renamed: Vec<_> = (0..count + 2)
            .map(|operand| Expr::input(place(operand), dtypes.get(place(operand)).copied().unwrap_or(DType::F32)))
            .collect();
        Gradient { formula: Self::new(self.name, &dtypes, expr.substitute(&renamed)), operands }
    }
}

/// Functions that leave the range of halves soon, or lose most of their bits in them: those of PyTorch's list.
const IN_F32: [&str; 8] = [
    functions::EXP.name,
    functions::EXPM1.name,
    functions::LOG.name,
    functions::LOG1P.name,
    functions::POW.name,
    functions::RECIP.name,
    functions::RSQRT.name,
    functions::SOFTPLUS.name,
];

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

    fn takes_halves(&self) -> bool {
        self.formula.inputs.iter().any(|dtype| dtype.is_half())
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
    call_with(function, inputs, &[])
}

/// Applies a function of the table to tensors and then to numbers, which are the same for every element.
///
/// # Errors
/// Those of the op; [`Error::Argument`] for a number that an integer dtype of the first tensor cannot hold.
pub fn call_with(function: &'static Function, inputs: &[&Tensor], scalars: &[f32]) -> Result<Tensor> {
    // Here and not in the funnel: the dtypes choose the formula.
    let takes = if IN_F32.contains(&function.name) { Autocast::Single } else { Autocast::AsGiven };
    if let Some(cast) = autocast::inputs(takes, inputs)? {
        return call_with(function, &cast.iter().collect::<Vec<_>>(), scalars);
    }
    let dtypes: Vec<_> = inputs.iter().map(|input| input.dtype()).collect();
    let formula = Formula::of(function, &dtypes, scalars.len())?;
    if let Some(&scalar) = scalars.iter().find(|&&scalar| !dtypes.first().is_none_or(|dtype| holds(*dtype, scalar))) {
        let range = "a whole number that the tensor's dtype can hold";
        return Err(Error::Argument { op: function.name, name: "other", value: f64::from(scalar), range });
    }
    apply(Pointwise { formula, scalars: scalars.to_vec() }, inputs)
}

/// Whether a number is the same in a dtype.
fn holds(dtype: DType, scalar: f32) -> bool {
    match dtype {
        DType::U32 => f64::from(scalar as u32) == f64::from(scalar),
        DType::I32 => f64::from(scalar as i32) == f64::from(scalar),
        DType::F32 | DType::F16 | DType::BF16 | DType::Bool => true,
        _ => false,
    }
}

/// Copies a view into row-major order.
#[derive(Debug)]
struct Contiguous;

impl Op for Contiguous {
    fn name(&self) -> &'static str {
        "contiguous"
    }

    fn takes_halves(&self) -> bool {
        true
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

impl Tensor {
    /// This tensor in row-major order: itself where it already is, else a copy.
    ///
    /// ```
    /// # use everstep_tensor::{Device, Tensor};
    /// let x = Tensor::from_slice(&[1.0f32, 2.0, 3.0, 4.0], &[2, 2], &Device::cpu())?;
    /// assert_eq!(x.t()?.contiguous()?.to_vec::<f32>()?, [1.0, 3.0, 2.0, 4.0]);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn contiguous(&self) -> Result<Tensor> {
        if self.layout().is_contiguous() { Ok(self.clone()) } else { apply(Contiguous, &[self]) }
    }

    /// A copy of its own, in row-major order.
    ///
    /// ```
    /// # use everstep_tensor::{Device, Tensor};
    /// let x = Tensor::from_slice(&[1.0f32, 2.0], &[2], &Device::cpu())?;
    /// assert_eq!(x.copy()?.to_vec::<f32>()?, [1.0, 2.0]);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn copy(&self) -> Result<Tensor> {
        apply(Contiguous, &[self])
    }
}

pub(super) const CONTIGUOUS: Entry = Entry {
    name: "contiguous",
    dtypes: EVERY,
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
        for dtype in [DType::F32, DType::U32, DType::F16, DType::Bool] {
            let count = if dtype == DType::Bool { 2 } else { 100 };
            let input = Array::integers(shape, dtype, 0, count, generator);
            let case = Case::new(format!("{dtype} {shape:?}"), vec![input], move |x| apply(&x[0]), |x| x[0].clone());
            // Differences of halves are too coarse to check a gradient with.
            cases.push(if dtype == DType::F32 { case } else { case.with_orders(0) });
        }
    }
    cases
}
