//! The rows of the table.

use super::derivatives::*;
use super::reference::*;
use super::{Function, Overload, Wgsl};
use crate::DType::{BF16, Bool, F16, F32, I32, U32};
use crate::cpu::{lanes, math, power};
use crate::expr::Expr;

use Wgsl::{Call, Infix};

/// An overload whose CPU function is `$path`, a function of one slice per argument and the destination.
macro_rules! overload {
    ($wgsl:expr, $path:path, [$a:expr] => $r:expr) => {
        Overload {
            args: &[$a],
            result: $r,
            wgsl: $wgsl,
            run: |x, y| $path(bytemuck::cast_slice(x[0]), bytemuck::cast_slice_mut(y)),
        }
    };
    ($wgsl:expr, $path:path, [$a:expr, $b:expr] => $r:expr) => {
        Overload {
            args: &[$a, $b],
            result: $r,
            wgsl: $wgsl,
            run: |x, y| {
                $path(bytemuck::cast_slice(x[0]), bytemuck::cast_slice(x[1]), bytemuck::cast_slice_mut(y));
            },
        }
    };
    ($wgsl:expr, $path:path, [$a:expr, $b:expr, $c:expr] => $r:expr) => {
        Overload {
            args: &[$a, $b, $c],
            result: $r,
            wgsl: $wgsl,
            run: |x, y| {
                let (a, b, c) = (bytemuck::cast_slice(x[0]), bytemuck::cast_slice(x[1]), bytemuck::cast_slice(x[2]));
                $path(a, b, c, bytemuck::cast_slice_mut(y));
            },
        }
    };
}

/// The rows: `NAME = "name": overloads; reference; derivative`.
macro_rules! table {
    ($($(#[$doc:meta])* $id:ident = $name:literal: [$($overload:expr),+ $(,)?]; $reference:expr; $derivative:expr;)+) => {
        $($(#[$doc])* pub static $id: Function = Function {
            name: $name,
            overloads: &[$($overload),+],
            reference: $reference,
            derivative: $derivative,
        };)+
        /// Every function, in the order of the table.
        pub static ALL: &[&Function] = &[$(&$id),+];
    };
}

table! {
    /// a + b
    ADD = "add": [
        overload!(Infix("+"), lanes::add, [F32, F32] => F32),
        overload!(Infix("+"), lanes::add_u32, [U32, U32] => U32),
        overload!(Infix("+"), lanes::add_u32, [I32, I32] => I32),
    ]; |x| x[0] + x[1]; Some(|_, _, g| vec![Some(g.clone()), Some(g.clone())]);
    /// a - b
    SUB = "sub": [
        overload!(Infix("-"), lanes::sub, [F32, F32] => F32),
        overload!(Infix("-"), lanes::sub_u32, [U32, U32] => U32),
        overload!(Infix("-"), lanes::sub_u32, [I32, I32] => I32),
    ]; |x| x[0] - x[1]; Some(|_, _, g| vec![Some(g.clone()), Some(-g.clone())]);
    /// a b
    MUL = "mul": [
        overload!(Infix("*"), lanes::mul, [F32, F32] => F32),
        overload!(Infix("*"), lanes::mul_u32, [U32, U32] => U32),
        overload!(Infix("*"), lanes::mul_u32, [I32, I32] => I32),
    ]; |x| x[0] * x[1];
    Some(|x, _, g| vec![Some(g.clone() * x[1].clone()), Some(g.clone() * x[0].clone())]);
    /// a / b
    DIV = "div": [overload!(Infix("/"), lanes::div, [F32, F32] => F32)]; |x| x[0] / x[1]; Some(div_derivative);
    /// The larger of a and b; NaN where either is.
    MAXIMUM = "maximum": [overload!(Call("max_f32"), lanes::maximum, [F32, F32] => F32)];
    |x| max_f64(x[0], x[1]); Some(maximum_derivative);
    /// The smaller of a and b; NaN where either is.
    MINIMUM = "minimum": [overload!(Call("min_f32"), lanes::minimum, [F32, F32] => F32)];
    |x| min_f64(x[0], x[1]); Some(minimum_derivative);
    /// -a
    NEG = "neg": [overload!(Call("-"), lanes::neg, [F32] => F32)]; |x| -x[0]; Some(|_, _, g| vec![Some(-g.clone())]);
    /// e^a
    EXP = "exp": [overload!(Call("exp_f32"), math::exp, [F32] => F32)]; |x| x[0].exp();
    Some(|_, y, g| vec![Some(g.clone() * y.clone())]);
    /// Natural logarithm.
    LOG = "log": [overload!(Call("log_f32"), math::log, [F32] => F32)]; |x| x[0].ln();
    Some(|x, _, g| vec![Some(g.clone() / x[0].clone())]);
    /// Square root.
    SQRT = "sqrt": [overload!(Call("sqrt_f32"), lanes::sqrt, [F32] => F32)]; |x| x[0].sqrt();
    Some(|_, y, g| vec![Some(g.clone() * Expr::constant(0.5) / y.clone())]);
    /// Hyperbolic tangent.
    TANH = "tanh": [overload!(Call("tanh_f32"), math::tanh, [F32] => F32)]; |x| x[0].tanh();
    Some(|_, y, g| vec![Some(g.clone() * (one() - y.clone() * y.clone()))]);
    /// 1 / (1 + e^-a)
    SIGMOID = "sigmoid": [overload!(Call("sigmoid_f32"), math::sigmoid, [F32] => F32)]; |x| 1.0 / (1.0 + (-x[0]).exp());
    Some(|_, y, g| vec![Some(g.clone() * (y.clone() * (one() - y.clone())))]);
    /// The error function.
    ERF = "erf": [overload!(Call("erf_f32"), math::erf, [F32] => F32)]; |x| erf_f64(x[0]); Some(erf_derivative);
    /// a where it is positive or NaN, else 0.
    RELU = "relu": [overload!(Call("relu_f32"), lanes::relu, [F32] => F32)];
    |x| if x[0] < 0.0 { 0.0 } else { x[0] };
    Some(|_, y, g| vec![Some(Expr::call(&RELU_GATE, &[y.clone(), g.clone()]))]);
    /// Gaussian error linear unit (Hendrycks and Gimpel, 2016): a Phi(a), with erf; 0, its limit, at minus infinity.
    GELU = "gelu": [overload!(Call("gelu_f32"), math::gelu_erf, [F32] => F32)];
    |x| gelu_f64(x[0], erf_f64(x[0] * std::f64::consts::FRAC_1_SQRT_2)); Some(gelu_derivative);
    /// GELU by its tanh approximation.
    GELU_TANH = "gelu_tanh": [overload!(Call("gelu_tanh_f32"), math::gelu_tanh, [F32] => F32)];
    |x| gelu_tanh_f64(x[0]); Some(gelu_tanh_derivative);
    /// b where a is positive or NaN, else 0: the gradient of relu.
    RELU_GATE = "relu_gate": [overload!(Call("relu_gate_f32"), lanes::relu_gate, [F32, F32] => F32)];
    |x| if x[0] <= 0.0 { 0.0 } else { x[1] };
    Some(|x, _, g| vec![None, Some(Expr::call(&RELU_GATE, &[x[0].clone(), g.clone()]))]);
    /// c where a is the larger, half of it where a equals b, else 0: the gradient of maximum.
    MAX_SHARE = "max_share": [overload!(Call("max_share_f32"), lanes::max_share, [F32, F32, F32] => F32)];
    |x| if x[0] > x[1] { x[2] } else if x[0] == x[1] { 0.5 * x[2] } else { 0.0 };
    Some(|x, _, g| vec![None, None, Some(Expr::call(&MAX_SHARE, &[x[0].clone(), x[1].clone(), g.clone()]))]);
    /// The magnitude.
    ABS = "abs": [overload!(Call("abs_f32"), lanes::abs, [F32] => F32)]; |x| x[0].abs();
    Some(|x, _, g| vec![Some(g.clone() * Expr::call(&SIGN, &x[..1]))]);
    /// ln(1 + a), exact near zero too.
    LOG1P = "log1p": [overload!(Call("log1p_f32"), math::log1p, [F32] => F32)]; |x| x[0].ln_1p();
    Some(|x, _, g| vec![Some(g.clone() / (one() + x[0].clone()))]);
    /// e^a - 1, exact near zero too.
    EXPM1 = "expm1": [overload!(Call("expm1_f32"), math::expm1, [F32] => F32)]; |x| x[0].exp_m1();
    Some(|_, y, g| vec![Some(g.clone() * (one() + y.clone()))]);
    /// 1 / sqrt(a)
    RSQRT = "rsqrt": [overload!(Call("rsqrt_f32"), lanes::rsqrt, [F32] => F32)]; |x| 1.0 / x[0].sqrt();
    Some(|_, y, g| vec![Some(g.clone() * (Expr::constant(-0.5) * (y.clone() * y.clone() * y.clone())))]);
    /// 1 / a
    RECIP = "recip": [overload!(Call("recip_f32"), lanes::recip, [F32] => F32)]; |x| 1.0 / x[0];
    Some(|_, y, g| vec![Some(-(g.clone() * (y.clone() * y.clone())))]);
    /// Sine of an angle in radians.
    SIN = "sin": [overload!(Call("sin_f32"), math::sin, [F32] => F32)]; |x| x[0].sin();
    Some(|x, _, g| vec![Some(g.clone() * Expr::call(&COS, &x[..1]))]);
    /// Cosine of an angle in radians.
    COS = "cos": [overload!(Call("cos_f32"), math::cos, [F32] => F32)]; |x| x[0].cos();
    Some(|x, _, g| vec![Some(-(g.clone() * Expr::call(&SIN, &x[..1])))]);
    /// -1, 0 or 1; NaN of NaN.
    SIGN = "sign": [overload!(Call("sign_f32"), lanes::sign, [F32] => F32)]; |x| sign_f64(x[0]);
    Some(|_, _, _| vec![None]);
    /// The largest integer that is not more than a.
    FLOOR = "floor": [overload!(Call("floor_f32"), lanes::floor, [F32] => F32)]; |x| x[0].floor();
    Some(|_, _, _| vec![None]);
    /// The smallest integer that is not less than a.
    CEIL = "ceil": [overload!(Call("ceil_f32"), lanes::ceil, [F32] => F32)]; |x| x[0].ceil();
    Some(|_, _, _| vec![None]);
    /// The nearest integer, the even one of two.
    ROUND = "round": [overload!(Call("round_f32"), lanes::round, [F32] => F32)]; |x| x[0].round_ties_even();
    Some(|_, _, _| vec![None]);
    /// a / (1 + e^-a); 0, its limit, at minus infinity.
    SILU = "silu": [overload!(Call("silu_f32"), lanes::silu, [F32] => F32)]; |x| silu_f64(x[0]); Some(silu_derivative);
    /// ln(1 + e^a)
    SOFTPLUS = "softplus": [overload!(Call("softplus_f32"), math::softplus, [F32] => F32)]; |x| softplus_f64(x[0]);
    Some(|x, _, g| vec![Some(g.clone() * Expr::call(&SIGMOID, &x[..1]))]);
    /// a above 0, else b (e^a - 1).
    ELU = "elu": [overload!(Call("elu_f32"), lanes::elu, [F32, F32] => F32)]; |x| elu_f64(x[0], x[1]);
    Some(elu_derivative);
    /// a above 0, else b a.
    LEAKY_RELU = "leaky_relu": [overload!(Call("leaky_relu_f32"), lanes::leaky_relu, [F32, F32] => F32)];
    |x| if x[0] > 0.0 { x[0] } else { x[0] * x[1] }; Some(leaky_relu_derivative);
    /// a, at least b and at most c; c where b is more than c; NaN where any is.
    CLAMP = "clamp": [overload!(Call("clamp_f32"), lanes::clamp, [F32, F32, F32] => F32)];
    |x| min_f64(max_f64(x[0], x[1]), x[2]); Some(clamp_derivative);
    /// a^b, as C has it: 1 where b is 0 or a is 1, a NaN among them or not.
    POW = "pow": [overload!(Call("pow_f32"), power::pow, [F32, F32] => F32)]; |x| x[0].powf(x[1]); Some(pow_derivative);
    /// a - b floor(a / b), exactly: what is left of a division has the sign of b. Of integers 0 where b is 0.
    REM = "rem": [
        overload!(Call("rem_f32"), power::rem, [F32, F32] => F32),
        overload!(Call("rem_u32"), lanes::rem_u32, [U32, U32] => U32),
        overload!(Call("rem_i32"), lanes::rem_i32, [I32, I32] => I32),
    ]; |x| rem_f64(x[0], x[1]); Some(rem_derivative);
    /// Whether a equals b.
    EQ = "eq": [
        overload!(Call("eq_f32"), lanes::eq, [F32, F32] => Bool),
        overload!(Call("eq_u32"), lanes::eq_u32, [U32, U32] => Bool),
        overload!(Call("eq_i32"), lanes::eq_u32, [I32, I32] => Bool),
        overload!(Call("eq_u32"), lanes::eq_u32, [Bool, Bool] => Bool),
    ]; |x| truth(x[0] == x[1]); None;
    /// Whether a differs from b: NaN does from everything.
    NE = "ne": [
        overload!(Call("ne_f32"), lanes::ne, [F32, F32] => Bool),
        overload!(Call("ne_u32"), lanes::ne_u32, [U32, U32] => Bool),
        overload!(Call("ne_i32"), lanes::ne_u32, [I32, I32] => Bool),
        overload!(Call("ne_u32"), lanes::ne_u32, [Bool, Bool] => Bool),
    ]; |x| truth(x[0] != x[1]); None;
    /// Whether a is less than b.
    LT = "lt": [
        overload!(Call("lt_f32"), lanes::lt, [F32, F32] => Bool),
        overload!(Call("lt_u32"), lanes::lt_u32, [U32, U32] => Bool),
        overload!(Call("lt_i32"), lanes::lt_i32, [I32, I32] => Bool),
    ]; |x| truth(x[0] < x[1]); None;
    /// Whether a is at most b.
    LE = "le": [
        overload!(Call("le_f32"), lanes::le, [F32, F32] => Bool),
        overload!(Call("le_u32"), lanes::le_u32, [U32, U32] => Bool),
        overload!(Call("le_i32"), lanes::le_i32, [I32, I32] => Bool),
    ]; |x| truth(x[0] <= x[1]); None;
    /// Whether a is more than b.
    GT = "gt": [
        overload!(Call("gt_f32"), lanes::gt, [F32, F32] => Bool),
        overload!(Call("gt_u32"), lanes::gt_u32, [U32, U32] => Bool),
        overload!(Call("gt_i32"), lanes::gt_i32, [I32, I32] => Bool),
    ]; |x| truth(x[0] > x[1]); None;
    /// Whether a is at least b.
    GE = "ge": [
        overload!(Call("ge_f32"), lanes::ge, [F32, F32] => Bool),
        overload!(Call("ge_u32"), lanes::ge_u32, [U32, U32] => Bool),
        overload!(Call("ge_i32"), lanes::ge_i32, [I32, I32] => Bool),
    ]; |x| truth(x[0] >= x[1]); None;
    /// Whether both are true.
    LOGICAL_AND = "logical_and": [overload!(Infix("&"), lanes::and, [Bool, Bool] => Bool)];
    |x| truth(x[0] != 0.0 && x[1] != 0.0); None;
    /// Whether one or both are true.
    LOGICAL_OR = "logical_or": [overload!(Infix("|"), lanes::or, [Bool, Bool] => Bool)];
    |x| truth(x[0] != 0.0 || x[1] != 0.0); None;
    /// Whether one is true and the other is not.
    LOGICAL_XOR = "logical_xor": [overload!(Infix("^"), lanes::xor, [Bool, Bool] => Bool)];
    |x| truth((x[0] != 0.0) != (x[1] != 0.0)); None;
    /// Whether it is false.
    LOGICAL_NOT = "logical_not": [overload!(Call("not_bool"), lanes::not, [Bool] => Bool)]; |x| truth(x[0] == 0.0); None;
    /// b where a is true, else c.
    WHERE_COND = "where_cond": [
        overload!(Call("where_f32"), lanes::choose, [Bool, F32, F32] => F32),
        overload!(Call("where_u32"), lanes::choose, [Bool, U32, U32] => U32),
        overload!(Call("where_i32"), lanes::choose, [Bool, I32, I32] => I32),
        overload!(Call("where_u32"), lanes::choose, [Bool, Bool, Bool] => Bool),
    ]; |x| if x[0] != 0.0 { x[1] } else { x[2] }; Some(where_derivative);
    /// The value as f32.
    CAST_F32 = "cast_f32": [
        overload!(Call("f32"), lanes::f32_from_u32, [U32] => F32),
        overload!(Call("f32"), lanes::f32_from_i32, [I32] => F32),
        overload!(Call("f32"), lanes::f32_from_u32, [Bool] => F32),
        overload!(Call("f32_from_f16"), lanes::f32_from_f16, [F16] => F32),
        overload!(Call("f32_from_bf16"), lanes::f32_from_bf16, [BF16] => F32),
    ]; |x| x[0]; Some(cast_derivative);
    /// The nearest f16, the even one of two; infinite where it is too large. As a word that holds its 16 bits.
    CAST_F16 = "cast_f16": [overload!(Call("f16_from_f32"), lanes::f16_from_f32, [F32] => F16)]; |x| x[0];
    Some(cast_derivative);
    /// The nearest bf16, the even one of two; infinite where it is too large. As a word that holds its 16 bits.
    CAST_BF16 = "cast_bf16": [overload!(Call("bf16_from_f32"), lanes::bf16_from_f32, [F32] => BF16)]; |x| x[0];
    Some(cast_derivative);
    /// Whether the value is not zero; NaN is not.
    CAST_BOOL = "cast_bool": [
        overload!(Call("bool_from_f32"), lanes::bool_from_f32, [F32] => Bool),
        overload!(Call("bool_from_u32"), lanes::bool_from_u32, [U32] => Bool),
        overload!(Call("bool_from_i32"), lanes::bool_from_u32, [I32] => Bool),
    ]; |x| truth(x[0] != 0.0); None;
    /// The value as u32, rounded towards zero; saturating where it does not fit.
    CAST_U32 = "cast_u32": [
        overload!(Call("u32_from_f32"), lanes::u32_from_f32, [F32] => U32),
        overload!(Call("u32"), lanes::copy, [I32] => U32),
        overload!(Call("u32"), lanes::copy, [Bool] => U32),
    ]; |x| x[0].trunc(); None;
    /// The value as i32, rounded towards zero; saturating where it does not fit.
    CAST_I32 = "cast_i32": [
        overload!(Call("i32_from_f32"), lanes::i32_from_f32, [F32] => I32),
        overload!(Call("i32"), lanes::copy, [U32] => I32),
        overload!(Call("i32"), lanes::copy, [Bool] => I32),
    ]; |x| x[0].trunc(); None;
}
