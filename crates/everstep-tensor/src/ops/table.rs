//! The table of ops, one line each: what the tests are generated from.

use everstep_device::functions;
use everstep_device::{DType, Generator};

use super::compare::{self, comparison};
use super::pointwise;
use super::pointwise_cases::{self, Binary, Unary, binary, unary};
use super::reference::{Array, Domain};
use super::{
    any_all, argmax, arrange, attention, batch_norm, cast, conv, cross_entropy, cross_entropy_with, cumsum, dropout,
    gather, join, layer_norm, log_softmax, matmul, pad, pool, reduce, softmax, statistics, view,
};
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
    Unary(Unary),
    Binary(Binary),
    Comparison(compare::Comparison),
}

impl Entry {
    /// The uses to test; the same for equal generators.
    pub fn cases(&self, generator: &mut Generator) -> Vec<Case> {
        match &self.cases {
            Cases::Listed(cases) => cases(generator),
            Cases::Unary(unary) => unary.cases(generator),
            Cases::Binary(binary) => binary.cases(generator),
            Cases::Comparison(comparison) => comparison.cases(generator),
        }
    }
}

pub(super) const FLOAT: &[DType] = &[DType::F32];
pub(super) const NUMBERS: &[DType] = &[DType::F32, DType::U32, DType::I32];
pub(super) const EVERY: &[DType] = &[DType::F32, DType::F16, DType::BF16, DType::U32, DType::I32, DType::Bool];
const EQUALITY: &[DType] = &[DType::F32, DType::U32, DType::I32, DType::Bool];

pub(super) const EXACT: Tolerance =
    Tolerance { relative: 0.0, absolute: 0.0, why: "elements are moved, compared or negated, not computed" };
pub(super) const ROUNDED: Tolerance =
    Tolerance { relative: 6e-8, absolute: 0.0, why: "one operation, rounded once: half a unit of 2^-23" };
const DIVIDED: Tolerance =
    Tolerance { relative: 3e-7, absolute: 0.0, why: "2.5 units of 2^-23, which WGSL allows a division or square root" };
pub(super) const CURVE: Tolerance = Tolerance {
    relative: 6e-7,
    absolute: 0.0,
    why: "4 ulp, the bound of cpu/math.rs, and one for a GPU that divides or contracts the same polynomials",
};
const TAIL: Tolerance = Tolerance {
    relative: 6e-7,
    absolute: 1.2e-7,
    why: "as other curves; where the result nears 0 far left of zero, the absolute error that cpu/math.rs states",
};

const POWER: Tolerance = Tolerance {
    relative: 1e-6,
    absolute: 0.0,
    why: "half a unit on the CPU; a GPU has 29 bits of the logarithm, which the exponent magnifies by up to 88",
};
const ROOT: Tolerance = Tolerance {
    relative: 5e-7,
    absolute: 0.0,
    why: "a square root and a division, each within the 2.5 units of 2^-23 that WGSL allows, the root's error halved",
};
const TURN: Tolerance = Tolerance {
    relative: 6e-7,
    absolute: 6e-8,
    why: "4 ulp, the bound of cpu/math.rs; an absolute error where a GPU's reduction of the angle nears a zero",
};
const STEPWISE: Gradient = Gradient::No("it is zero wherever it exists");

/// Any number of moderate size.
const ANY: Domain = Domain::between(-3.0, 3.0);
/// Where exp and its kin neither overflow nor vanish.
const MODERATE: Domain = Domain::between(-5.0, 5.0);
const POSITIVE: Domain = Domain::between(0.2, 8.0);
const EXPONENT: Domain = Domain::between(0.2, 3.0);
/// No number of [`ANY`] but 0 is a multiple of one: a remainder jumps there.
const DIVISOR: Domain = Domain::away(3.1, 9.0);
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
    binary(&functions::POW, Tensor::pow, Tensor::pow_scalar, FLOAT, [POSITIVE, EXPONENT], Gradient::Any, POWER),
    binary(&functions::REM, Tensor::rem, Tensor::rem_scalar, NUMBERS, [ANY, DIVISOR], Gradient::Any, ROUNDED),
    unary(&functions::ABS, Tensor::abs, AWAY, Gradient::Any, EXACT),
    unary(&functions::EXPM1, Tensor::expm1, MODERATE, Gradient::Any, CURVE),
    unary(&functions::LOG1P, Tensor::log1p, POSITIVE, Gradient::Any, CURVE),
    unary(&functions::RSQRT, Tensor::rsqrt, POSITIVE, Gradient::Any, ROOT),
    unary(&functions::RECIP, Tensor::recip, AWAY, Gradient::Any, DIVIDED),
    unary(&functions::SIN, Tensor::sin, MODERATE, Gradient::Any, TURN),
    unary(&functions::COS, Tensor::cos, MODERATE, Gradient::Any, TURN),
    unary(&functions::SIGN, Tensor::sign, ANY, STEPWISE, EXACT),
    unary(&functions::FLOOR, Tensor::floor, ANY, STEPWISE, EXACT),
    unary(&functions::CEIL, Tensor::ceil, ANY, STEPWISE, EXACT),
    unary(&functions::ROUND, Tensor::round, ANY, STEPWISE, EXACT),
    unary(&functions::SILU, Tensor::silu, MODERATE, Gradient::Any, CURVE),
    unary(&functions::SOFTPLUS, Tensor::softplus, MODERATE, Gradient::Any, CURVE),
    pointwise_cases::ELU,
    pointwise_cases::LEAKY_RELU,
    pointwise_cases::CLAMP,
    comparison(&functions::EQ, Tensor::eq, Tensor::eq_scalar, EQUALITY),
    comparison(&functions::NE, Tensor::ne, Tensor::ne_scalar, EQUALITY),
    comparison(&functions::LT, Tensor::lt, Tensor::lt_scalar, NUMBERS),
    comparison(&functions::LE, Tensor::le, Tensor::le_scalar, NUMBERS),
    comparison(&functions::GT, Tensor::gt, Tensor::gt_scalar, NUMBERS),
    comparison(&functions::GE, Tensor::ge, Tensor::ge_scalar, NUMBERS),
    compare::LOGICAL_AND,
    compare::LOGICAL_OR,
    compare::LOGICAL_XOR,
    compare::LOGICAL_NOT,
    compare::WHERE_COND,
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
    gather::EMBEDDING,
    gather::INDEX_SELECT,
    gather::INDEX_ADD,
    gather::GATHER,
    gather::SCATTER_ADD,
    gather::ONE_HOT,
    pad::PAD,
    join::CAT,
    join::STACK,
    join::SPLIT,
    join::CHUNK,
    join::REPEAT,
    arrange::FLIP,
    arrange::TRIL,
    arrange::TRIU,
    any_all::ANY,
    any_all::ALL,
    reduce::SUM,
    reduce::MEAN,
    reduce::MAX,
    reduce::MIN,
    reduce::PROD,
    cumsum::CUMSUM,
    statistics::VAR,
    statistics::STD,
    statistics::NORM,
    statistics::LOGSUMEXP,
    argmax::ARGMAX,
    argmax::ARGMIN,
    softmax::SOFTMAX,
    log_softmax::LOG_SOFTMAX,
    matmul::MATMUL,
    matmul::LINEAR,
    conv::CONV2D,
    conv::CONV1D,
    pool::MAX_POOL2D,
    pool::MAX_POOL1D,
    pool::AVG_POOL2D,
    pool::AVG_POOL1D,
    pool::ADAPTIVE_AVG_POOL2D,
    pool::ADAPTIVE_AVG_POOL1D,
    cross_entropy::CROSS_ENTROPY,
    cross_entropy::CROSS_ENTROPY_ROWS,
    cross_entropy_with::CROSS_ENTROPY_WITH,
    cross_entropy_with::CROSS_ENTROPY_SOFT,
    dropout::DROPOUT,
    layer_norm::LAYER_NORM,
    layer_norm::RMS_NORM,
    layer_norm::GROUP_NORM,
    batch_norm::BATCH_NORM,
    attention::ATTENTION,
    attention::SELF_ATTENTION,
];
