//! The table of pointwise functions: one row each, understood by the WGSL generator, the CPU interpreter, the
//! gradient rules and the tests.

use std::hash::{Hash, Hasher};

use crate::DType::{self, Bool, F32, I32, U32};
use crate::cpu::lanes;
use crate::cpu::math;
use crate::expr::Expr;

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

use Wgsl::{Call, Infix};

fn one() -> Expr {
    Expr::constant(1.0)
}

/// erf to full f64 precision, for references: the series of positive terms where it converges fast, else the continued
/// fraction of erfc (Abramowitz and Stegun 7.1.6 and 7.1.14).
pub fn erf_f64(x: f64) -> f64 {
    let magnitude = x.abs();
    if magnitude.is_nan() || magnitude > 6.0 {
        return if x.is_nan() { x } else { x.signum() };
    }
    if magnitude < 3.0 {
        let (mut term, mut sum, mut n) = (x, x, 0.0);
        while term.abs() > 1e-18 * sum.abs() {
            n += 1.0;
            term *= 2.0 * x * x / (2.0 * n + 1.0);
            sum += term;
        }
        return sum * (-x * x).exp() * std::f64::consts::FRAC_2_SQRT_PI;
    }
    let mut fraction = magnitude;
    for k in (1..=60).rev() {
        fraction = magnitude + f64::from(k) / 2.0 / fraction;
    }
    x.signum() * (1.0 - (-x * x).exp() / fraction * std::f64::consts::FRAC_2_SQRT_PI / 2.0)
}

/// x (1 + curve) / 2, where 0 times infinity is 0: the limit on the left.
fn gelu_f64(x: f64, curve: f64) -> f64 {
    if x == f64::NEG_INFINITY { 0.0 } else { 0.5 * x * (1.0 + curve) }
}

fn gelu_tanh_f64(x: f64) -> f64 {
    gelu_f64(x, ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh())
}

/// d gelu / dx of the tanh form, with u = sqrt(2/pi) (x + 0.044715 x^3) and t = tanh(u):
/// (1 + t) / 2 + x (1 - t^2) u' / 2.
fn gelu_tanh_derivative(args: &[Expr], _: &Expr, gradient: &Expr) -> Vec<Option<Expr>> {
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
fn gelu_derivative(args: &[Expr], _: &Expr, gradient: &Expr) -> Vec<Option<Expr>> {
    let x = args[0].clone();
    let erf = Expr::call(&ERF, &[x.clone() * Expr::constant(std::f32::consts::FRAC_1_SQRT_2)]);
    let density = Expr::call(&EXP, &[Expr::constant(-0.5) * (x.clone() * x.clone())]);
    let density = Expr::constant(std::f32::consts::FRAC_2_SQRT_PI * std::f32::consts::FRAC_1_SQRT_2 * 0.5) * density;
    let factor = Expr::constant(0.5) * (one() + erf) + x * density;
    vec![Some(gradient.clone() * factor)]
}

fn erf_derivative(args: &[Expr], _: &Expr, gradient: &Expr) -> Vec<Option<Expr>> {
    let density = Expr::call(&EXP, &[-(args[0].clone() * args[0].clone())]);
    vec![Some(gradient.clone() * (Expr::constant(std::f32::consts::FRAC_2_SQRT_PI) * density))]
}

fn div_derivative(args: &[Expr], value: &Expr, gradient: &Expr) -> Vec<Option<Expr>> {
    let share = gradient.clone() / args[1].clone();
    vec![Some(share.clone()), Some(-(share * value.clone()))]
}

/// The larger argument takes the gradient, equal ones half of it each.
fn maximum_derivative(args: &[Expr], _: &Expr, gradient: &Expr) -> Vec<Option<Expr>> {
    let share = |a: &Expr, b: &Expr| Some(Expr::call(&MAX_SHARE, &[a.clone(), b.clone(), gradient.clone()]));
    vec![share(&args[0], &args[1]), share(&args[1], &args[0])]
}

fn minimum_derivative(args: &[Expr], value: &Expr, gradient: &Expr) -> Vec<Option<Expr>> {
    maximum_derivative(&[-args[0].clone(), -args[1].clone()], value, gradient)
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
    |x| if x[0].is_nan() || x[1].is_nan() { f64::NAN } else { x[0].max(x[1]) }; Some(maximum_derivative);
    /// The smaller of a and b; NaN where either is.
    MINIMUM = "minimum": [overload!(Call("min_f32"), lanes::minimum, [F32, F32] => F32)];
    |x| if x[0].is_nan() || x[1].is_nan() { f64::NAN } else { x[0].min(x[1]) }; Some(minimum_derivative);
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
    /// 1 where a equals b, else 0, as a number.
    EQUAL = "equal": [
        overload!(Call("equal_f32"), lanes::equal, [F32, F32] => F32),
        overload!(Call("equal_u32"), lanes::equal_u32, [U32, U32] => F32),
    ]; |x| f64::from(u8::from(x[0] == x[1])); None;
    /// The value as f32.
    CAST_F32 = "cast_f32": [
        overload!(Call("f32"), lanes::f32_from_u32, [U32] => F32),
        overload!(Call("f32"), lanes::f32_from_i32, [I32] => F32),
        overload!(Call("f32"), lanes::f32_from_u32, [Bool] => F32),
    ]; |x| x[0]; None;
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

    /// `Expr::call` relies on these.
    #[test]
    fn names_are_unique_and_the_functions_of_formulas_take_f32() {
        let mut names: Vec<_> = ALL.iter().map(|f| f.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
        for function in ALL.iter().filter(|f| !f.name.starts_with("cast")) {
            let arity = function.overloads[0].args.len();
            assert!(function.overload(&[F32; 3][..arity]).is_some_and(|o| o.result == F32), "{}", function.name);
        }
    }

    #[test]
    fn the_reference_of_erf_is_exact() {
        // Python's math.erf, which rounds the C library's.
        for (x, y) in
            [(0.5, 0.5204998778130465), (1.0, 0.8427007929497149), (2.9, 0.9999589021219005), (3.5, 0.9999992569016276)]
        {
            assert!((erf_f64(x) - y).abs() < 1e-15 && (erf_f64(-x) + y).abs() < 1e-15, "{x}");
        }
    }
}
