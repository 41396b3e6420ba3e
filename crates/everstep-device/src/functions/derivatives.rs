//! The derivatives of pointwise functions, as formulas: the gradient of each argument from the arguments, the value and
//! the value's gradient. They are derived again for gradients of gradients, so what they are made of is differentiable.
//!
//! Where a function has two branches, a `where` chooses between two gradients and nothing is multiplied by zero: a branch
//! that is not taken may be infinite.

use super::*;

type Parts = Vec<Option<Expr>>;

pub(super) fn one() -> Expr {
    number(1.0)
}

fn number(value: f32) -> Expr {
    Expr::constant(value)
}

/// `yes` where `condition(a, b)`, else `no`.
fn choose(condition: &'static Function, a: &Expr, b: &Expr, yes: Expr, no: Expr) -> Expr {
    let condition = Expr::call(condition, &[a.clone(), b.clone()]);
    Expr::call(&WHERE_COND, &[condition, yes, no])
}

/// d gelu / dx of the tanh form, with u = sqrt(2/pi) (x + 0.044715 x^3) and t = tanh(u):
/// (1 + t) / 2 + x (1 - t^2) u' / 2.
pub(super) fn gelu_tanh_derivative(args: &[Expr], _: &Expr, gradient: &Expr) -> Parts {
    let x = args[0].clone();
    let scale = (2.0 / std::f32::consts::PI).sqrt();
    let square = x.clone() * x.clone();
    let u = Expr::constant(scale) * (x.clone() + Expr::constant(0.044715) * square.clone() * x.clone());
    let t = Expr::call(&TANH, &[u]);
    let slope = Expr::constant(scale) * (one() + Expr::constant(3.0 * 0.044715) * square);
    let factor = Expr::constant(0.5) * (one() + t.clone() + x * (one() - t.clone() * t) * slope);
    vec![Some(gradient.clone() * factor)]
}

/// d gelu / dx of the erf form: Phi(x) + x phi(x), the normal distribution and its density.
pub(super) fn gelu_derivative(args: &[Expr], _: &Expr, gradient: &Expr) -> Parts {
    let x = args[0].clone();
    let erf = Expr::call(&ERF, &[x.clone() * Expr::constant(std::f32::consts::FRAC_1_SQRT_2)]);
    let density = Expr::call(&EXP, &[Expr::constant(-0.5) * (x.clone() * x.clone())]);
    let density = Expr::constant(std::f32::consts::FRAC_2_SQRT_PI * std::f32::consts::FRAC_1_SQRT_2 * 0.5) * density;
    let factor = Expr::constant(0.5) * (one() + erf) + x * density;
    vec![Some(gradient.clone() * factor)]
}

pub(super) fn erf_derivative(args: &[Expr], _: &Expr, gradient: &Expr) -> Parts {
    let density = Expr::call(&EXP, &[-(args[0].clone() * args[0].clone())]);
    vec![Some(gradient.clone() * (Expr::constant(std::f32::consts::FRAC_2_SQRT_PI) * density))]
}

pub(super) fn div_derivative(args: &[Expr], value: &Expr, gradient: &Expr) -> Parts {
    let share = gradient.clone() / args[1].clone();
    vec![Some(share.clone()), Some(-(share * value.clone()))]
}

/// The larger argument takes the gradient, equal ones half of it each.
pub(super) fn maximum_derivative(args: &[Expr], _: &Expr, gradient: &Expr) -> Parts {
    let share = |a: &Expr, b: &Expr| Some(Expr::call(&MAX_SHARE, &[a.clone(), b.clone(), gradient.clone()]));
    vec![share(&args[0], &args[1]), share(&args[1], &args[0])]
}

pub(super) fn minimum_derivative(args: &[Expr], value: &Expr, gradient: &Expr) -> Parts {
    maximum_derivative(&[-args[0].clone(), -args[1].clone()], value, gradient)
}

pub(super) fn silu_derivative(args: &[Expr], _: &Expr, gradient: &Expr) -> Parts {
    let x = args[0].clone();
    let s = Expr::call(&SIGMOID, &args[..1]);
    vec![Some(gradient.clone() * (s.clone() * (one() + x * (one() - s))))]
}

/// alpha e^x at and below zero. The argument of the power is kept from growing where the other branch is taken.
pub(super) fn elu_derivative(args: &[Expr], _: &Expr, gradient: &Expr) -> Parts {
    let (x, alpha) = (&args[0], &args[1]);
    let below = -Expr::call(&RELU, &[-x.clone()]);
    let slope = alpha.clone() * Expr::call(&EXP, &[below]);
    vec![Some(choose(&GT, x, &number(0.0), gradient.clone(), gradient.clone() * slope)), None]
}

pub(super) fn leaky_relu_derivative(args: &[Expr], _: &Expr, gradient: &Expr) -> Parts {
    let scaled = gradient.clone() * args[1].clone();
    vec![Some(choose(&GT, &args[0], &number(0.0), gradient.clone(), scaled)), None]
}

/// The gradient between the bounds, and none on them or beyond, as PyTorch 2.15 has it.
pub(super) fn clamp_derivative(args: &[Expr], _: &Expr, gradient: &Expr) -> Parts {
    let inner = choose(&LT, &args[0], &args[2], gradient.clone(), number(0.0));
    vec![Some(choose(&GT, &args[0], &args[1], inner, number(0.0))), None, None]
}

/// b a^(b-1), 0 where b is 0; a^b ln a, 0 where a is 0 and b is not negative.
pub(super) fn pow_derivative(args: &[Expr], value: &Expr, gradient: &Expr) -> Parts {
    let (a, b, zero) = (&args[0], &args[1], number(0.0));
    let lower = Expr::call(&POW, &[a.clone(), b.clone() - one()]);
    let base = choose(&EQ, b, &zero, zero.clone(), gradient.clone() * (b.clone() * lower));
    let growth = gradient.clone() * (value.clone() * Expr::call(&LOG, &args[..1]));
    let at_zero = choose(&GE, b, &zero, zero.clone(), growth.clone());
    vec![Some(base), Some(choose(&EQ, a, &zero, at_zero, growth))]
}

/// a - b floor(a / b), where the floor is constant.
pub(super) fn rem_derivative(args: &[Expr], _: &Expr, gradient: &Expr) -> Parts {
    let whole = Expr::call(&FLOOR, &[args[0].clone() / args[1].clone()]);
    vec![Some(gradient.clone()), Some(-(gradient.clone() * whole))]
}

/// Each side takes the gradient where it was chosen.
pub(super) fn where_derivative(args: &[Expr], _: &Expr, gradient: &Expr) -> Parts {
    let choose = |yes: Expr, no: Expr| Some(Expr::call(&WHERE_COND, &[args[0].clone(), yes, no]));
    vec![None, choose(gradient.clone(), number(0.0)), choose(number(0.0), gradient.clone())]
}

/// The gradient in the dtype of the argument; none for integers.
pub(super) fn cast_derivative(args: &[Expr], _: &Expr, gradient: &Expr) -> Parts {
    vec![match args[0].dtype() {
        dtype if dtype == gradient.dtype() => Some(gradient.clone()),
        DType::F32 => Some(Expr::call(&CAST_F32, std::slice::from_ref(gradient))),
        DType::F16 => Some(Expr::call(&CAST_F16, std::slice::from_ref(gradient))),
        DType::BF16 => Some(Expr::call(&CAST_BF16, std::slice::from_ref(gradient))),
        DType::I32 | DType::U32 | DType::Bool => None,
    }]
}
