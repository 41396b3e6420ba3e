//! The table of pointwise functions: one row each, understood by the WGSL generator, the CPU interpreter, the
//! gradient rules and the tests.

use std::hash::{Hash, Hasher};

mod derivatives;
mod reference;
mod table;

use crate::DType;
use crate::expr::Expr;

pub use reference::erf_f64;
pub use table::*;

/// How WGSL writes a function.
#[derive(Clone, Copy, Debug)]
pub enum Wgsl {
    /// `(a op b)`.
    Infix(&'static str),
    /// `name(a, ..)`: built in, or from a file of `shaders/shared/`.
    Call(&'static str),
}

/// A row for one combination of dtypes.
#[derive(Clone, Copy, Debug)]
pub struct Overload {
    /// Dtypes of the arguments.
    pub args: &'static [DType],
    /// Dtype of the value.
    pub result: DType,
    /// WGSL spelling.
    pub wgsl: Wgsl,
    /// The CPU function over a block of elements, all dtypes as 32-bit words.
    pub run: fn(&[&[u32]], &mut [u32]),
}

/// The vector-Jacobian product of a pointwise function: the gradient of each argument from the arguments, the value
/// and the value's gradient. `None` where none flows.
pub type Derivative = fn(args: &[Expr], value: &Expr, gradient: &Expr) -> Vec<Option<Expr>>;

/// One pointwise function.
#[derive(Debug)]
pub struct Function {
    /// Its name, the op's name.
    pub name: &'static str,
    /// Its dtypes.
    pub overloads: &'static [Overload],
    /// Its mathematical definition, the oracle of the tests.
    pub reference: fn(&[f64]) -> f64,
    /// Its derivative; `None` for a function through which no gradient can flow.
    pub derivative: Option<Derivative>,
}

impl Function {
    /// The overload for arguments of these dtypes.
    pub fn overload(&self, args: &[DType]) -> Option<&Overload> {
        self.overloads.iter().find(|overload| overload.args == args)
    }

    pub(crate) fn overload_index(&self, args: &[DType]) -> Option<usize> {
        self.overloads.iter().position(|overload| overload.args == args)
    }
}

impl PartialEq for Function {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Function {}

impl Hash for Function {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

/// The functions that compare, and give a truth value.
pub const COMPARISONS: [&Function; 6] = [&EQ, &NE, &LT, &LE, &GT, &GE];

/// What a kernel with an epilogue applies last. The numbers are the `ACTIVATION` of `shared/activation.wgsl`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Activation {
    /// Nothing.
    #[default]
    None = 0,
    /// [`RELU`]
    Relu = 1,
    /// [`GELU`]
    Gelu = 2,
    /// [`GELU_TANH`]
    GeluTanh = 3,
    /// [`TANH`]
    Tanh = 4,
    /// [`SIGMOID`]
    Sigmoid = 5,
}

impl Activation {
    /// The function; `None` for [`Activation::None`].
    pub fn function(self) -> Option<&'static Function> {
        match self {
            Self::None => None,
            Self::Relu => Some(&RELU),
            Self::Gelu => Some(&GELU),
            Self::GeluTanh => Some(&GELU_TANH),
            Self::Tanh => Some(&TANH),
            Self::Sigmoid => Some(&SIGMOID),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use DType::{Bool, F32};

    /// `Expr::call` relies on these: a function of numbers takes f32 and gives f32, a comparison gives a truth value.
    #[test]
    fn names_are_unique_and_the_functions_of_formulas_take_f32() {
        let mut names: Vec<_> = ALL.iter().map(|f| f.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
        let of_truth = |f: &Function| f.name.starts_with("logical") || f.name == WHERE_COND.name;
        for function in ALL.iter().filter(|f| !f.name.starts_with("cast") && !of_truth(f)) {
            let arity = function.overloads[0].args.len();
            let result = if COMPARISONS.contains(function) { Bool } else { F32 };
            assert!(function.overload(&[F32; 3][..arity]).is_some_and(|o| o.result == result), "{}", function.name);
        }
        assert!(WHERE_COND.overload(&[Bool, F32, F32]).is_some_and(|o| o.result == F32));
    }
}
