//! Pointwise work as data: an [`Expr`] is a formula over elements, a [`Program`] the same formula compiled to a list.
//!
//! Two executors understand a program: the WGSL generator (`wgsl.rs`) and the CPU interpreter
//! (`cpu/pointwise.rs`). Derivatives are formulas too, so any order of gradient of a pointwise op is one more program.

use std::collections::HashMap;
use std::ops;
use std::sync::Arc;

use crate::DType;
use crate::functions::{self, Function};

/// A formula over the elements of inputs: a tree with shared branches.
#[derive(Clone, Debug)]
pub struct Expr(Arc<Node>);

#[derive(Debug)]
struct Node {
    kind: Kind,
    dtype: DType,
}

#[derive(Debug)]
enum Kind {
    Input(usize),
    Constant(u32),
    Scalar(usize),
    Apply(&'static Function, Vec<Expr>),
}

impl Expr {
    /// The element of input `index`.
    pub fn input(index: usize, dtype: DType) -> Self {
        Self(Arc::new(Node { kind: Kind::Input(index), dtype }))
    }

    /// A constant.
    pub fn constant(value: f32) -> Self {
        Self(Arc::new(Node { kind: Kind::Constant(value.to_bits()), dtype: DType::F32 }))
    }

    /// A constant of any dtype, by its bits.
    pub fn constant_bits(bits: u32, dtype: DType) -> Self {
        Self(Arc::new(Node { kind: Kind::Constant(bits), dtype }))
    }

    /// Scalar `index` of the call: a number that is the same for all elements and may differ from call to call without
    /// making another program.
    pub fn scalar(index: usize) -> Self {
        Self(Arc::new(Node { kind: Kind::Scalar(index), dtype: DType::F32 }))
    }

    /// The input that this formula is, where it is nothing else.
    pub fn as_input(&self) -> Option<usize> {
        match self.0.kind {
            Kind::Input(index) => Some(index),
            _ => None,
        }
    }

    /// The inputs that occur in it, ascending.
    pub fn used_inputs(&self) -> Vec<usize> {
        let mut used: Vec<_> = topological(std::slice::from_ref(self)).iter().filter_map(Expr::as_input).collect();
        used.sort_unstable();
        used.dedup();
        used
    }

    /// `function` of `args`; `None` where it has no overload for their dtypes.
    pub fn apply(function: &'static Function, args: Vec<Expr>) -> Option<Self> {
        let dtypes: Vec<_> = args.iter().map(Expr::dtype).collect();
        let dtype = function.overload(&dtypes)?.result;
        Some(Self(Arc::new(Node { kind: Kind::Apply(function, args), dtype })))
    }

    /// The dtype of its value.
    pub fn dtype(&self) -> DType {
        self.0.dtype
    }

    /// The value of a constant f32.
    fn as_constant(&self) -> Option<f32> {
        match self.0.kind {
            Kind::Constant(bits) if self.0.dtype == DType::F32 => Some(f32::from_bits(bits)),
            _ => None,
        }
    }

    /// `function` of f32 arguments, for formulas written in this crate.
    ///
    /// The table of functions has an f32 overload for each function used so (tested). Arguments of other dtypes, which
    /// [`Expr::apply`] refuses, make it NaN: an operator cannot return an error, and a gate sees that.
    pub fn call(function: &'static Function, args: &[Expr]) -> Self {
        Self::apply(function, args.to_vec()).unwrap_or_else(|| Self::constant(f32::NAN))
    }

    /// The sum of two gradients of one dtype: of halves it is computed as f32.
    fn joined(self, other: Expr) -> Self {
        let back = match self.dtype() {
            DType::F16 => &functions::CAST_F16,
            DType::BF16 => &functions::CAST_BF16,
            _ => return self + other,
        };
        let single = |half: Expr| Self::call(&functions::CAST_F32, &[half]);
        Self::call(back, &[single(self) + single(other)])
    }

    /// This formula with input `i` replaced by `inputs[i]`.
    pub fn substitute(&self, inputs: &[Expr]) -> Self {
        let mut done: HashMap<*const Node, Expr> = HashMap::new();
        for node in topological(std::slice::from_ref(self)) {
            let new = match &node.0.kind {
                Kind::Input(index) => inputs.get(*index).cloned().unwrap_or_else(|| node.clone()),
                Kind::Constant(_) | Kind::Scalar(_) => node.clone(),
                Kind::Apply(function, args) => {
                    let args = args.iter().map(|arg| done[&Arc::as_ptr(&arg.0)].clone()).collect();
                    Self(Arc::new(Node { kind: Kind::Apply(function, args), dtype: node.dtype() }))
                }
            };
            done.insert(Arc::as_ptr(&node.0), new);
        }
        done[&Arc::as_ptr(&self.0)].clone()
    }

    /// The gradient of this formula with respect to each of the first `inputs` inputs, times `gradient`.
    ///
    /// `output` stands for the formula's own value, so that a derivative such as `1 - tanh(x)^2` reuses it. An entry
    /// is `None` where the input does not occur or no gradient flows to it; the outer error names a function without
    /// a derivative on the way.
    pub fn gradients(
        &self,
        inputs: usize,
        output: &Expr,
        gradient: &Expr,
    ) -> std::result::Result<Vec<Option<Expr>>, &'static str> {
        let order = topological(std::slice::from_ref(self));
        let mut adjoints: HashMap<*const Node, Expr> = HashMap::new();
        adjoints.insert(Arc::as_ptr(&self.0), gradient.clone());
        let mut results: Vec<Option<Expr>> = vec![None; inputs];
        for node in order.iter().rev() {
            let Some(adjoint) = adjoints.remove(&Arc::as_ptr(&node.0)) else { continue };
            match &node.0.kind {
                Kind::Constant(_) | Kind::Scalar(_) => {}
                Kind::Input(index) if *index < inputs => {
                    let sum = results[*index].take().map_or(adjoint.clone(), |earlier| earlier.joined(adjoint));
                    results[*index] = Some(sum);
                }
                Kind::Input(_) => {}
                Kind::Apply(function, args) => {
                    let derivative = function.derivative.ok_or(function.name)?;
                    let value = if Arc::ptr_eq(&node.0, &self.0) { output } else { node };
                    for (arg, part) in args.iter().zip(derivative(args, value, &adjoint)) {
                        let Some(part) = part else { continue };
                        if !arg.dtype().is_float() || arg.as_constant().is_some() {
                            continue;
                        }
                        let key = Arc::as_ptr(&arg.0);
                        let sum = adjoints.remove(&key).map_or(part.clone(), |earlier| earlier.joined(part));
                        adjoints.insert(key, sum);
                    }
                }
            }
        }
        Ok(results)
    }
}

/// Every node below `roots`, arguments before their users, each once.
fn topological(roots: &[Expr]) -> Vec<Expr> {
    let mut order = Vec::new();
    let mut seen = std::collections::HashSet::new();
    let mut stack: Vec<(Expr, bool)> = roots.iter().rev().map(|root| (root.clone(), false)).collect();
    while let Some((node, expanded)) = stack.pop() {
        if expanded {
            order.push(node);
        } else if seen.insert(Arc::as_ptr(&node.0)) {
            stack.push((node.clone(), true));
            if let Kind::Apply(_, args) = &node.0.kind {
                stack.extend(args.iter().rev().map(|arg| (arg.clone(), false)));
            }
        }
    }
    order
}

impl ops::Add for Expr {
    type Output = Expr;
    fn add(self, other: Expr) -> Expr {
        Expr::call(&functions::ADD, &[self, other])
    }
}

impl ops::Sub for Expr {
    type Output = Expr;
    fn sub(self, other: Expr) -> Expr {
        Expr::call(&functions::SUB, &[self, other])
    }
}

impl ops::Mul for Expr {
    type Output = Expr;
    /// Multiplying by a constant 1 is dropped: gradients start with one.
    fn mul(self, other: Expr) -> Expr {
        match (self.as_constant(), other.as_constant()) {
            (Some(a), Some(b)) => Expr::constant(a * b),
            (Some(1.0), None) => other,
            (None, Some(1.0)) => self,
            _ => Expr::call(&functions::MUL, &[self, other]),
        }
    }
}

impl ops::Div for Expr {
    type Output = Expr;
    fn div(self, other: Expr) -> Expr {
        Expr::call(&functions::DIV, &[self, other])
    }
}

impl ops::Neg for Expr {
    type Output = Expr;
    fn neg(self) -> Expr {
        Expr::call(&functions::NEG, &[self])
    }
}

/// One step of a [`Program`]: its value is called by its position in the list.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Instruction {
    /// The element of an input.
    Input(usize),
    /// A constant's bits.
    Constant(u32),
    /// A scalar of the call.
    Scalar(usize),
    /// A function of earlier values, through the overload at `overload`.
    Apply {
        /// The function.
        function: &'static Function,
        /// Index into the function's overloads.
        overload: usize,
        /// Positions of the arguments.
        args: Vec<usize>,
    },
}

/// Formulas compiled to a list of instructions in which every value is computed once. Equal programs are one shader.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Program {
    inputs: Vec<DType>,
    instructions: Vec<Instruction>,
    dtypes: Vec<DType>,
    outputs: Vec<usize>,
    // Values of f32 across which a shader's compiler may change nothing: results of what were kernels of their own.
    sealed: Vec<usize>,
}

impl Program {
    /// Compiles one output per formula over inputs of these dtypes.
    pub fn new(inputs: &[DType], outputs: &[Expr]) -> Self {
        let mut program = Self { inputs: inputs.to_vec(), ..Self::default() };
        let mut known: HashMap<(Instruction, DType), usize> = HashMap::new();
        let mut position: HashMap<*const Node, usize> = HashMap::new();
        for node in topological(outputs) {
            let instruction = match &node.0.kind {
                Kind::Input(index) => Instruction::Input(*index),
                Kind::Constant(bits) => Instruction::Constant(*bits),
                Kind::Scalar(index) => Instruction::Scalar(*index),
                Kind::Apply(function, args) => {
                    let dtypes: Vec<_> = args.iter().map(Expr::dtype).collect();
                    let overload = function.overload_index(&dtypes).unwrap_or(0);
                    let args = args.iter().map(|arg| position[&Arc::as_ptr(&arg.0)]).collect();
                    Instruction::Apply { function, overload, args }
                }
            };
            let at = *known.entry((instruction.clone(), node.dtype())).or_insert_with(|| {
                program.instructions.push(instruction);
                program.dtypes.push(node.dtype());
                program.instructions.len() - 1
            });
            position.insert(Arc::as_ptr(&node.0), at);
        }
        program.outputs = outputs.iter().map(|output| position[&Arc::as_ptr(&output.0)]).collect();
        program
    }

    /// Dtypes of the inputs.
    pub fn inputs(&self) -> &[DType] {
        &self.inputs
    }

    /// The instructions, arguments before their users.
    pub fn instructions(&self) -> &[Instruction] {
        &self.instructions
    }

    /// The dtype of the value at a position.
    pub fn dtype(&self, position: usize) -> DType {
        self.dtypes[position]
    }

    /// Whether a shader's compiler must compute the value at a position as if it were stored and loaded: then joined formulas
    /// give the bits of single ones.
    pub fn is_sealed(&self, position: usize) -> bool {
        self.sealed.contains(&position)
    }

    /// Whether it was joined of several.
    pub fn is_joined(&self) -> bool {
        !self.sealed.is_empty()
    }

    /// How many scalars a call supplies.
    pub fn scalars(&self) -> usize {
        let index = |instruction: &Instruction| match instruction {
            Instruction::Scalar(index) => index + 1,
            _ => 0,
        };
        self.instructions.iter().map(index).max().unwrap_or(0)
    }

    /// Dtypes of the operands: the inputs, then the outputs.
    pub fn operands(&self) -> impl Iterator<Item = DType> + '_ {
        self.inputs.iter().copied().chain(self.outputs.iter().map(|&at| self.dtypes[at]))
    }

    /// Whether an output is of halves, two of which lie in a word.
    pub fn packs_output(&self) -> bool {
        self.outputs.iter().any(|&at| self.dtypes[at].is_half())
    }

    /// The position of each output.
    pub fn outputs(&self) -> &[usize] {
        &self.outputs
    }
}

/// Several programs as one: what one computes is an argument of the next.
#[derive(Debug, Default)]
pub(crate) struct Joined {
    inputs: Vec<DType>,
    instructions: Vec<Instruction>,
    dtypes: Vec<DType>,
    known: HashMap<(Instruction, DType), usize>,
    results: Vec<usize>,
}

impl Joined {
    /// A new input; gives its value's position.
    pub(crate) fn input(&mut self, dtype: DType) -> usize {
        self.inputs.push(dtype);
        self.add(Instruction::Input(self.inputs.len() - 1), dtype)
    }

    /// A value that is there already is not computed again.
    fn add(&mut self, instruction: Instruction, dtype: DType) -> usize {
        *self.known.entry((instruction.clone(), dtype)).or_insert_with(|| {
            self.instructions.push(instruction);
            self.dtypes.push(dtype);
            self.instructions.len() - 1
        })
    }

    /// Appends a program whose inputs are the values at `arguments`, and whose scalars follow `scalars` earlier ones. Gives the
    /// positions of its outputs.
    pub(crate) fn append(&mut self, program: &Program, arguments: &[usize], scalars: usize) -> Vec<usize> {
        let mut places = Vec::with_capacity(program.instructions.len());
        for (instruction, dtype) in program.instructions.iter().zip(&program.dtypes) {
            let place = match instruction {
                Instruction::Input(input) => arguments[*input],
                Instruction::Constant(bits) => self.add(Instruction::Constant(*bits), *dtype),
                Instruction::Scalar(index) => self.add(Instruction::Scalar(index + scalars), *dtype),
                Instruction::Apply { function, overload, args } => {
                    let args = args.iter().map(|&arg| places[arg]).collect();
                    self.add(Instruction::Apply { function, overload: *overload, args }, *dtype)
                }
            };
            places.push(place);
        }
        let results: Vec<usize> = program.outputs.iter().map(|&output| places[output]).collect();
        self.results.extend(&results);
        results
    }

    /// The program of the values at `outputs`, without what they do not need, and which inputs are left; `None` of no outputs.
    pub(crate) fn finish(self, outputs: &[usize]) -> Option<(Program, Vec<usize>)> {
        let mut needed = vec![false; self.instructions.len()];
        outputs.iter().for_each(|&output| needed[output] = true);
        for at in (0..needed.len()).rev() {
            if let (true, Instruction::Apply { args, .. }) = (needed[at], &self.instructions[at]) {
                args.iter().for_each(|&arg| needed[arg] = true);
            }
        }
        let (mut program, mut used) = (Program::default(), Vec::new());
        let mut places = vec![0; needed.len()];
        for (at, instruction) in self.instructions.into_iter().enumerate().filter(|(at, _)| needed[*at]) {
            places[at] = program.instructions.len();
            program.dtypes.push(self.dtypes[at]);
            program.instructions.push(match instruction {
                Instruction::Input(input) => {
                    used.push(input);
                    program.inputs.push(self.inputs[input]);
                    Instruction::Input(used.len() - 1)
                }
                Instruction::Apply { function, overload, args } => {
                    Instruction::Apply { function, overload, args: args.iter().map(|&arg| places[arg]).collect() }
                }
                other => other,
            });
        }
        program.outputs = outputs.iter().map(|&output| places[output]).collect();
        let single = |at: &&usize| needed[**at] && self.dtypes[**at] == DType::F32;
        program.sealed = self.results.iter().filter(single).map(|&at| places[at]).collect();
        program.sealed.sort_unstable();
        program.sealed.dedup();
        (!outputs.is_empty()).then_some((program, used))
    }
}

/// How a pointwise shader finds an operand's element.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Find {
    /// Element `i` lies at `offset + i`.
    Linear,
    /// Every element is the one at `offset`.
    Single,
    /// Through the collapsed dimensions' strides.
    Strided,
}

/// The access pattern a pointwise shader is generated for: how many collapsed dimensions, and how each operand
/// (inputs, then outputs) is found.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Access {
    /// Collapsed dimensions.
    pub rank: usize,
    /// Inputs, then outputs.
    pub operands: Vec<Find>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn x() -> Expr {
        Expr::input(0, DType::F32)
    }

    #[test]
    fn equal_formulas_compile_to_equal_programs_without_repeats() {
        let formula = || Expr::call(&functions::TANH, &[x() * x()]) + Expr::call(&functions::TANH, &[x() * x()]);
        let (a, b) = (Program::new(&[DType::F32], &[formula()]), Program::new(&[DType::F32], &[formula()]));
        assert_eq!(a, b);
        assert_eq!(a.instructions().len(), 4); // input, mul, tanh, add
    }

    #[test]
    fn gradients_reuse_the_output_and_skip_absent_inputs() {
        let y = Expr::input(2, DType::F32);
        let g = Expr::input(3, DType::F32);
        let grads = Expr::call(&functions::EXP, &[x()]).gradients(2, &y, &g).unwrap();
        let program = Program::new(&[DType::F32; 4], &[grads[0].clone().unwrap()]);
        assert!(grads[1].is_none());
        assert!(!program.instructions().contains(&Instruction::Input(0)), "exp' is the output itself");
    }

    #[test]
    fn a_function_without_derivative_is_named() {
        let formula = Expr::call(&functions::EQ, &[x(), x()]);
        assert_eq!(formula.gradients(1, &x(), &x()).unwrap_err(), "eq");
    }

    #[test]
    fn substitution_composes_formulas() {
        let inner = x() + Expr::constant(2.0);
        let outer = x() * x();
        let program = Program::new(&[DType::F32], &[outer.substitute(&[inner])]);
        assert_eq!(program.instructions().len(), 4);
    }
}
