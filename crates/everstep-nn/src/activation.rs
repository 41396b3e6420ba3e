//! Activations and other layers without parameters, for [`crate::Sequential`].

use std::sync::{Arc, OnceLock};

use everstep_device::expr::Expr;
use everstep_device::functions;
use everstep_tensor::ops::pointwise::{Formula, Pointwise};
use everstep_tensor::{DType, Result, Tensor, apply};
use serde::{Deserialize, Serialize};

use crate::{Layer, Module};

/// The lines of an example: what a layer makes of two numbers.
macro_rules! example {
    ($layer:expr, [$($x:expr),+] => [$($y:expr),+]) => {
        concat!(
            "```\n# use everstep_nn::*;\n# use everstep_tensor::{Device, Tensor};\n",
            "let x = Tensor::from_slice(&[", $(stringify!($x), "f32, ",)+ "], &[2], &Device::cpu())?;\n",
            "assert_eq!(", $layer, ".forward(&x)?.to_vec::<f32>()?, [", $(stringify!($y), ", ",)+ "]);\n",
            "# Ok::<(), everstep_tensor::Error>(())\n```"
        )
    };
}

/// Layers that are one method of a tensor, `Name => method: example`.
macro_rules! plain {
    ($($(#[$doc:meta])* $name:ident => $method:ident: [$($x:expr),+] => [$($y:expr),+];)+) => {
        $(
            $(#[$doc])*
            ///
            #[doc = example!(stringify!($name), [$($x),+] => [$($y),+])]
            #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Module)]
            #[module(crate = everstep_nn)]
            pub struct $name;

            impl Layer for $name {
                fn forward(&self, x: &Tensor) -> Result<Tensor> {
                    x.$method()
                }
            }
        )+
    };
}

plain! {
    /// x where positive, else 0: see [`Tensor::relu`].
    Relu => relu: [2.0, -3.0] => [2.0, 0.0];
    /// x Phi(x), by erf: see [`Tensor::gelu`].
    Gelu => gelu: [0.0, 20.0] => [0.0, 20.0];
    /// GELU by its tanh approximation: see [`Tensor::gelu_tanh`].
    GeluTanh => gelu_tanh: [0.0, 20.0] => [0.0, 20.0];
    /// Hyperbolic tangent: see [`Tensor::tanh`].
    Tanh => tanh: [0.0, 20.0] => [0.0, 1.0];
    /// 1 / (1 + e^-x): see [`Tensor::sigmoid`].
    Sigmoid => sigmoid: [0.0, 100.0] => [0.5, 1.0];
}

/// A layer that is a function of the table of x and the layer's numbers.
macro_rules! function {
    ($name:ident => $function:ident($($field:ident)?)) => {
        impl Layer for $name {
            fn forward(&self, x: &Tensor) -> Result<Tensor> {
                static FORMULA: OnceLock<Arc<Formula>> = OnceLock::new();
                let scalars: Vec<f32> = vec![$(self.$field)?];
                let formula = FORMULA.get_or_init(|| {
                    let mut arguments = vec![Expr::input(0, DType::F32)];
                    arguments.extend((0..scalars.len()).map(Expr::scalar));
                    let expr = Expr::call(&functions::$function, &arguments);
                    Formula::new(functions::$function.name, &[DType::F32], expr)
                });
                apply(Pointwise { formula: formula.clone(), scalars }, &[x])
            }
        }
    };
}

/// Sigmoid linear unit (Elfwing et al., 2018): x / (1 + e^-x).
///
#[doc = example!("Silu", [0.0, 100.0] => [0.0, 100.0])]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Module)]
#[module(crate = everstep_nn)]
pub struct Silu;

/// ln(1 + e^x).
///
#[doc = example!("Softplus", [100.0, -200.0] => [100.0, 0.0])]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Module)]
#[module(crate = everstep_nn)]
pub struct Softplus;

/// x where positive, else `negative_slope` x (Maas et al., 2013).
///
#[doc = example!("LeakyRelu { negative_slope: 0.25 }", [3.0, -2.0] => [3.0, -0.5])]
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, Module)]
#[serde(deny_unknown_fields, default)]
#[module(crate = everstep_nn)]
pub struct LeakyRelu {
    /// The slope below 0.
    pub negative_slope: f32,
}

impl Default for LeakyRelu {
    /// PyTorch's slope, 0.01.
    fn default() -> Self {
        Self { negative_slope: 0.01 }
    }
}

/// Exponential linear unit (Clevert et al., 2016): x where positive, else `alpha` (e^x - 1).
///
#[doc = example!("Elu { alpha: 2.0 }", [3.0, -100.0] => [3.0, -2.0])]
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, Module)]
#[serde(deny_unknown_fields, default)]
#[module(crate = everstep_nn)]
pub struct Elu {
    /// What it tends to on the left, negated.
    pub alpha: f32,
}

impl Default for Elu {
    /// PyTorch's alpha, 1.
    fn default() -> Self {
        Self { alpha: 1.0 }
    }
}

function!(Silu => SILU());
function!(Softplus => SOFTPLUS());
function!(LeakyRelu => LEAKY_RELU(negative_slope));
function!(Elu => ELU(alpha));

/// All dimensions but the first become one: `[B, ..]` to `[B, n]`.
///
/// ```
/// # use everstep_nn::{Flatten, Layer};
/// # use everstep_tensor::{Device, Tensor};
/// let x = Tensor::from_slice(&[1.0f32, 2.0, 3.0, 4.0], &[1, 2, 2], &Device::cpu())?;
/// assert_eq!(Flatten.forward(&x)?.shape(), &[1, 4]);
/// assert_eq!(Flatten.forward(&x)?.to_vec::<f32>()?, [1.0, 2.0, 3.0, 4.0]);
/// # Ok::<(), everstep_tensor::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Module)]
#[module(crate = everstep_nn)]
pub struct Flatten;

impl Layer for Flatten {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        x.flatten_from(1)
    }
}
