//! The methods of the functions of the table: of one tensor, of two, of a tensor and numbers.

use everstep_device::functions;

use super::pointwise::{call, call_with};
#[cfg(doc)]
use crate::Error;
use crate::{Result, Tensor};

/// The lines of an example, `x` being two numbers.
macro_rules! example {
    ($call:expr, [$($x:expr),+] => [$($y:expr),+]) => {
        concat!(
            "```\n# use everstep_tensor::{Device, Tensor};\nlet x = Tensor::from_vec::<f32>(vec![",
            $(stringify!($x), ", ",)+ "], &[2], &Device::cpu())?;\nassert_eq!(x.", $call, "?.to_vec::<f32>()?, [",
            $(stringify!($y), ", ",)+ "]);\n# Ok::<(), everstep_tensor::Error>(())\n```"
        )
    };
}

/// Methods of one tensor, `name => FUNCTION: example`, with their docs.
macro_rules! unary {
    ($($(#[$doc:meta])* $name:ident => $function:ident: [$($x:expr),+] => [$($y:expr),+];)+) => {
        impl Tensor {
            $($(#[$doc])*
            ///
            /// # Errors
            /// [`Error::DTypes`] where the dtype is not a float.
            ///
            #[doc = example!(concat!(stringify!($name), "()"), [$($x),+] => [$($y),+])]
            pub fn $name(&self) -> Result<Tensor> {
                call(&functions::$function, &[self])
            })+
        }
    };
}

/// As `unary!`, of functions whose derivative is zero wherever it exists: no gradient flows through them.
macro_rules! stepwise {
    ($($(#[$doc:meta])* $name:ident => $function:ident: [$($x:expr),+] => [$($y:expr),+];)+) => {
        impl Tensor {
            $($(#[$doc])*
            /// No gradient flows: it is zero wherever it exists.
            ///
            /// # Errors
            /// [`Error::DTypes`] where the dtype is not a float.
            ///
            #[doc = example!(concat!(stringify!($name), "()"), [$($x),+] => [$($y),+])]
            pub fn $name(&self) -> Result<Tensor> {
                call(&functions::$function, &[&self.detach()])
            })+
        }
    };
}

/// Methods of two tensors and of a tensor and a number, `name, scalar => FUNCTION: example with 2`.
macro_rules! binary {
    ($($(#[$doc:meta])* $name:ident, $scalar:ident => $function:ident: [$($x:expr),+] => [$($y:expr),+];)+) => {
        impl Tensor {
            $($(#[$doc])*
            ///
            /// # Errors
            /// [`Error::Shapes`] where the shapes do not broadcast, [`Error::DTypes`], [`Error::Devices`].
            ///
            #[doc = example!(
                concat!(stringify!($name), "(&Tensor::full(&[2], 2.0, &Device::cpu())?)"), [$($x),+] => [$($y),+]
            )]
            pub fn $name(&self, other: &Tensor) -> Result<Tensor> {
                call(&functions::$function, &[self, other])
            }

            /// The same with a number on the right.
            ///
            /// # Errors
            /// [`Error::DTypes`]; [`Error::Argument`] for a number that an integer dtype cannot hold.
            ///
            #[doc = example!(concat!(stringify!($scalar), "(2.0)"), [$($x),+] => [$($y),+])]
            pub fn $scalar(&self, other: f32) -> Result<Tensor> {
                call_with(&functions::$function, &[self], &[other])
            })+
        }
    };
}

unary! {
    /// -x
    neg => NEG: [1.0, -2.0] => [-1.0, 2.0];
    /// |x|
    abs => ABS: [1.5, -2.5] => [1.5, 2.5];
    /// e^x
    exp => EXP: [0.0, 1000.0] => [1.0, f32::INFINITY];
    /// e^x - 1, exact near zero too.
    expm1 => EXPM1: [0.0, 1e-20] => [0.0, 1e-20];
    /// Natural logarithm: NaN below 0, negative infinity at 0.
    log => LOG: [1.0, 0.0] => [0.0, f32::NEG_INFINITY];
    /// ln(1 + x), exact near zero too: NaN below -1, negative infinity at -1.
    log1p => LOG1P: [-1.0, 1e-20] => [f32::NEG_INFINITY, 1e-20];
    /// Square root: NaN below 0.
    sqrt => SQRT: [9.0, 2.25] => [3.0, 1.5];
    /// 1 / sqrt(x): NaN below 0, infinity at 0.
    rsqrt => RSQRT: [4.0, 0.25] => [0.5, 2.0];
    /// 1 / x
    recip => RECIP: [4.0, -0.5] => [0.25, -2.0];
    /// Sine of an angle in radians; NaN of infinities.
    sin => SIN: [0.0, std::f32::consts::FRAC_PI_2] => [0.0, 1.0];
    /// Cosine of an angle in radians; NaN of infinities.
    cos => COS: [0.0, std::f32::consts::PI] => [1.0, -1.0];
    /// Hyperbolic tangent.
    tanh => TANH: [0.0, 20.0] => [0.0, 1.0];
    /// 1 / (1 + e^-x)
    sigmoid => SIGMOID: [0.0, 100.0] => [0.5, 1.0];
    /// The error function.
    erf => ERF: [0.0, -9.0] => [0.0, -1.0];
    /// x where positive, else 0; NaN stays.
    relu => RELU: [2.0, -3.0] => [2.0, 0.0];
    /// Gaussian error linear unit, x Phi(x), by erf (PyTorch's default; Hendrycks and Gimpel, 2016).
    gelu => GELU: [0.0, 20.0] => [0.0, 20.0];
    /// GELU by its tanh approximation (PyTorch's `approximate="tanh"`).
    gelu_tanh => GELU_TANH: [0.0, 20.0] => [0.0, 20.0];
    /// x sigmoid(x), also called swish (Elfwing et al., 2017); 0, its limit, at minus infinity.
    silu => SILU: [0.0, 100.0] => [0.0, 100.0];
    /// ln(1 + e^x)
    softplus => SOFTPLUS: [100.0, -200.0] => [100.0, 0.0];
}

stepwise! {
    /// -1, 0 or 1; NaN of NaN (PyTorch's is 0).
    sign => SIGN: [-2.5, 0.0] => [-1.0, 0.0];
    /// The largest integer that is not more than x.
    floor => FLOOR: [1.5, -1.5] => [1.0, -2.0];
    /// The smallest integer that is not less than x.
    ceil => CEIL: [1.5, -1.5] => [2.0, -1.0];
    /// The nearest integer, the even one of two.
    round => ROUND: [2.5, 3.5] => [2.0, 4.0];
}

binary! {
    /// x + y, broadcast.
    add, add_scalar => ADD: [1.0, -5.0] => [3.0, -3.0];
    /// x - y, broadcast.
    sub, sub_scalar => SUB: [1.0, -5.0] => [-1.0, -7.0];
    /// x y, element by element, broadcast.
    mul, mul_scalar => MUL: [1.0, -5.0] => [2.0, -10.0];
    /// x / y, broadcast.
    div, div_scalar => DIV: [1.0, -5.0] => [0.5, -2.5];
    /// The larger of x and y, broadcast; NaN where either is. Equal ones share the gradient.
    maximum, maximum_scalar => MAXIMUM: [1.0, 5.0] => [2.0, 5.0];
    /// The smaller of x and y, broadcast; NaN where either is. Equal ones share the gradient.
    minimum, minimum_scalar => MINIMUM: [1.0, 5.0] => [1.0, 2.0];
    /// x^y, broadcast, as C's `pow`: 1 where y is 0 or x is 1, whatever the other is; NaN of a negative x and a y that
    /// is no integer. The gradient of x is 0 where y is 0, that of y where x is 0 and y is not negative, as PyTorch has
    /// them; that of y is NaN for a negative x.
    pow, pow_scalar => POW: [3.0, -5.0] => [9.0, 25.0];
    /// x - y floor(x / y), broadcast: what a division leaves, with the sign of the divisor (PyTorch's `remainder`,
    /// Python's `%`), exactly. By zero it is NaN, of integers 0.
    rem, rem_scalar => REM: [5.5, -5.5] => [1.5, 0.5];
}

impl Tensor {
    /// Exponential linear unit (Clevert et al., 2015): x above 0, else alpha (e^x - 1).
    ///
    /// # Errors
    /// [`Error::DTypes`] where the dtype is not a float.
    ///
    #[doc = example!("elu(2.0)", [3.0, -100.0] => [3.0, -2.0])]
    pub fn elu(&self, alpha: f32) -> Result<Tensor> {
        call_with(&functions::ELU, &[self], &[alpha])
    }

    /// x above 0, else slope x.
    ///
    /// # Errors
    /// [`Error::DTypes`] where the dtype is not a float.
    ///
    #[doc = example!("leaky_relu(0.25)", [3.0, -2.0] => [3.0, -0.5])]
    pub fn leaky_relu(&self, slope: f32) -> Result<Tensor> {
        call_with(&functions::LEAKY_RELU, &[self], &[slope])
    }

    /// x, but at least `min` and at most `max`, where they are given; `max` where `min` is more than it; NaN stays. The
    /// gradient is that of x between the bounds, and zero on them and beyond.
    ///
    /// # Errors
    /// [`Error::DTypes`] where the dtype is not a float.
    ///
    #[doc = example!("clamp(Some(0.0), Some(1.0))", [3.0, -2.0] => [1.0, 0.0])]
    pub fn clamp(&self, min: Option<f32>, max: Option<f32>) -> Result<Tensor> {
        call_with(&functions::CLAMP, &[self], &[min.unwrap_or(f32::NEG_INFINITY), max.unwrap_or(f32::INFINITY)])
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
