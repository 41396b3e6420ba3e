//! The table of ops, one line each: what the tests are generated from.

use everstep_device::functions;
use everstep_device::{DType, Generator};

use super::pointwise::{self, binary, unary};
use super::reference::{Array, Domain};
use super::{argmax, cast, cross_entropy, dropout, matmul, reduce, softmax, view};
use crate::{Result, Tensor};

/// One op.
#[derive(Debug)]
pub struct Entry {
    /// Its name, the method of [`Tensor`].
    pub name: &'static str,
    /// The dtypes that its first input may have.
    pub dtypes: &'static [DType],
    /// Whether gradients flow through it.
    pub gradient: Gradient,
    /// How far a result may be from the exact one.
    pub tolerance: Tolerance,
    pub(super) cases: Cases,
}

/// Whether gradients flow through an op.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gradient {
    /// Of any order.
    Any,
    /// Of the first order; gradients of gradients are a typed error, for this reason.
    First(&'static str),
    /// None, for this reason.
    No(&'static str),
}

impl Gradient {
    /// The highest order that is checked.
    pub fn orders(self) -> u32 {
        match self {
            Self::Any => 2,
            Self::First(_) => 1,
            Self::No(_) => 0,
        }
    }
}

/// The largest error of an element x: `absolute` + `relative` |x|, and why so much.
#[derive(Clone, Copy, Debug)]
pub struct Tolerance {
    /// Factor on the exact value's magnitude.
    pub relative: f64,
    /// Added to it.
    pub absolute: f64,
    /// The reason.
    pub why: &'static str,
}

/// Applies an op to the inputs of a case.
pub type Apply = Box<dyn Fn(&[Tensor]) -> Result<Tensor>>;
/// What the op should give, in f64.
pub type Reference = Box<dyn Fn(&[Array]) -> Array>;

/// One use of an op.
pub struct Case {
    /// What is special about it.
    pub label: String,
    /// The inputs.
    pub inputs: Vec<Array>,
    /// The use.
    pub apply: Apply,
    /// Its meaning.
    pub reference: Reference,
    /// The highest order of gradient that can be checked by differences here: 0 at kinks, and where it would take long.
    pub orders: u32,
}

impl Case {
    pub(super) fn new(
        label: impl Into<String>,
        inputs: Vec<Array>,
        apply: impl Fn(&[Tensor]) -> Result<Tensor> + 'static,
        reference: impl Fn(&[Array]) -> Array + 'static,
    ) -> Self {
        let small = inputs.iter().map(Array::count).sum::<usize>() <= 200;
        let orders = if small { 2 } else { 0 };
        Self { label: label.into(), inputs, apply: Box::new(apply), reference: Box::new(reference), orders }
    }

    /// The same case, its gradients checked up to `orders`.
    pub(super) fn with_orders(self, orders: u32) -> Self {
        Self { orders: orders.min(self.orders), ..self }
    }
}

/// Where an entry's cases come from.
#[derive(Debug)]
pub(super) enum Cases {
    Listed(fn(&mut Generator) -> Vec<Case>),
    Unary(pointwise::Unary),
    Binary(pointwise::Binary),
}

impl Entry {
    /// The uses to test; the same for equal generators.
    pub fn cases(&self, generator: &mut Generator) -> Vec<Case> {
        match &self.cases {
            Cases::Listed(cases) => cases(generator),
            Cases::Unary(unary) => unary.cases(generator),
            Cases::Binary(binary) => binary.cases(generator),
        }
    }
}

pub(super) const FLOAT: &[DType] = &[DType::F32];
pub(super) const NUMBERS: &[DType] = &[DType::F32, DType::U32, DType::I32];

pub(super) const EXACT: Tolerance =
    Tolerance { relative: 0.0, absolute: 0.0, why: "elements are moved, compared or negated, not computed" };
const ROUNDED: Tolerance =
    Tolerance { relative: 6e-8, absolute: 0.0, why: "one operation, rounded once: half a unit of 2^-23" };
const DIVIDED: Tolerance =
    Tolerance { relative: 3e-7, absolute: 0.0, why: "2.5 units of 2^-23, which WGSL allows a division or square root" };
const CURVE: Tolerance = Tolerance {
    relative: 6e-7,
    absolute: 0.0,
    why: "4 ulp, the bound of cpu/math.rs, and one for a GPU that divides or contracts the same polynomials",
};
const TAIL: Tolerance = Tolerance {
    relative: 6e-7,
    absolute: 1.2e-7,
    why: "as other curves; where the result nears 0 far left of zero, the absolute error that cpu/math.rs states",
};

/// Any number of moderate size.
const ANY: Domain = Domain::between(-3.0, 3.0);
/// Where exp and its kin neither overflow nor vanish.
const MODERATE: Domain = Domain::between(-5.0, 5.0);
const POSITIVE: Domain = Domain::between(0.2, 8.0);
/// Away from a pole or a kink at zero.
const AWAY: Domain = Domain::away(0.2, 3.0);

/// Every op.
pub static ALL: &[Entry] = &[
    binary(&functions::ADD, Tensor::add, Tensor::add_scalar, NUMBERS, [ANY, ANY], Gradient::Any, ROUNDED),
    binary(&functions::SUB, Tensor::sub, Tensor::sub_scalar, NUMBERS, [ANY, ANY], Gradient::Any, ROUNDED),
    binary(&functions::MUL, Tensor::mul, Tensor::mul_scalar, NUMBERS, [ANY, ANY], Gradient::Any, ROUNDED),
    binary(&functions::DIV, Tensor::div, Tensor::div_scalar, FLOAT, [ANY, AWAY], Gradient::Any, DIVIDED),
    binary(&functions::MAXIMUM, Tensor::maximum, Tensor::maximum_scalar, FLOAT, [ANY, ANY], Gradient::Any, EXACT),
    binary(&functions::MINIMUM, Tensor::minimum, Tensor::minimum_scalar, FLOAT, [ANY, ANY], Gradient::Any, EXACT),
    unary(&functions::NEG, Tensor::neg, ANY, Gradient::Any, EXACT),
    unary(&functions::EXP, Tensor::exp, MODERATE, Gradient::Any, CURVE),
    unary(&functions::LOG, Tensor::log, POSITIVE, Gradient::Any, CURVE),
    unary(&functions::SQRT, Tensor::sqrt, POSITIVE, Gradient::Any, DIVIDED),
    unary(&functions::TANH, Tensor::tanh, MODERATE, Gradient::Any, CURVE),
    unary(&functions::SIGMOID, Tensor::sigmoid, MODERATE, Gradient::Any, CURVE),
    unary(&functions::ERF, Tensor::erf, ANY, Gradient::Any, CURVE),
    unary(&functions::RELU, Tensor::relu, AWAY, Gradient::Any, EXACT),
    unary(&functions::GELU, Tensor::gelu, MODERATE, Gradient::Any, TAIL),
    unary(&functions::GELU_TANH, Tensor::gelu_tanh, MODERATE, Gradient::Any, TAIL),
    pointwise::EQUAL,
    pointwise::CONTIGUOUS,
    pointwise::COPY,
    cast::CAST,
    view::RESHAPE,
    view::FLATTEN_FROM,
    view::PERMUTE,
    view::TRANSPOSE,
    view::T,
    view::SLICE,
    view::SLICE_STEP,
    view::BROADCAST_TO,
    view::UNSQUEEZE,
    view::SQUEEZE,
    reduce::SUM,
    reduce::MEAN,
    reduce::MAX,
    argmax::ARGMAX,
    softmax::SOFTMAX,
    matmul::MATMUL,
    matmul::LINEAR,
    cross_entropy::CROSS_ENTROPY,
    cross_entropy::CROSS_ENTROPY_ROWS,
    dropout::DROPOUT,
];
