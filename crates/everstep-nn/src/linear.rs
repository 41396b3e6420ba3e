//! The fully connected layer.

use everstep_tensor::{Activation, Device, Generator, Parameter, Tensor};
use serde::{Deserialize, Serialize};

use crate::init::gain;
use crate::{Error, Fan, Init, Module, Result};

/// Settings of a [`Linear`] layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinearConfig {
    /// Size of the input's last dimension.
    pub in_features: usize,
    /// Size of the output's last dimension.
    pub out_features: usize,
    /// Whether a bias is added.
    #[serde(default = "yes")]
    pub bias: bool,
    /// How the weight begins. By default as in PyTorch: uniform in +-1 / sqrt(in_features).
    #[serde(default = "default_init")]
    pub weight_init: Init,
    /// How the bias begins; `None` is uniform in +-1 / sqrt(in_features).
    #[serde(default)]
    pub bias_init: Option<Init>,
}

fn yes() -> bool {
    true
}

fn default_init() -> Init {
    Init::KaimingUniform { gain: gain::leaky_relu(5f64.sqrt()), fan: Fan::In }
}

impl LinearConfig {
    /// A layer from `in_features` to `out_features`, with a bias and PyTorch's initialisation.
    pub fn new(in_features: usize, out_features: usize) -> Self {
        Self { in_features, out_features, bias: true, weight_init: default_init(), bias_init: None }
    }

    /// With or without a bias.
    #[must_use]
    pub fn bias(self, bias: bool) -> Self {
        Self { bias, ..self }
    }

    /// How the weight begins.
    #[must_use]
    pub fn weight_init(self, weight_init: Init) -> Self {
        Self { weight_init, ..self }
    }

    /// How the bias begins.
    #[must_use]
    pub fn bias_init(self, bias_init: Init) -> Self {
        Self { bias_init: Some(bias_init), ..self }
    }

    /// The layer, its parameters drawn from streams of their own.
    ///
    /// # Errors
    /// [`Error::Setting`] without features or where an initial distribution is none; those of making a tensor.
    pub fn init(&self, generator: &mut Generator, device: &Device) -> Result<Linear> {
        for (field, value) in [("in_features", self.in_features), ("out_features", self.out_features)] {
            if value == 0 {
                return Err(Error::Setting { layer: "Linear", field, value: "0".into(), rule: "at least 1" });
            }
        }
        let fans = (self.in_features, self.out_features);
        let bias_init = self.bias_init.unwrap_or(Init::Uniform { bound: 1.0 / (self.in_features as f64).sqrt() });
        for (field, init) in [("weight_init", &self.weight_init), ("bias_init", &bias_init)] {
            init.check("Linear", field, fans)?;
        }
        let weight = self.weight_init.tensor(&[self.out_features, self.in_features], fans, generator, device)?;
        let bias = match self.bias {
            true => Some(Parameter::new(&bias_init.tensor(&[self.out_features], fans, generator, device)?)?),
            false => None,
        };
        Ok(Linear { weight: Parameter::new(&weight)?, bias })
    }
}

/// y = x W^T + b: x `[.., in]`, W `[out, in]`, b `[out]`, y `[.., out]`.
#[derive(Debug, Module)]
#[module(crate = everstep_nn)]
pub struct Linear {
    /// W: `[out, in]`.
    pub weight: Parameter,
    /// b: `[out]`.
    pub bias: Option<Parameter>,
}

impl Linear {
    /// A layer with a bias and PyTorch's initialisation; see [`LinearConfig`] for others.
    ///
    /// # Errors
    /// As [`LinearConfig::init`].
    pub fn new(in_features: usize, out_features: usize, generator: &mut Generator, device: &Device) -> Result<Self> {
        LinearConfig::new(in_features, out_features).init(generator, device)
    }

    /// y = x W^T + b.
    ///
    /// # Errors
    /// [`everstep_tensor::Error::Shapes`] where x does not end in `in_features`.
    pub fn forward(&self, x: &Tensor) -> everstep_tensor::Result<Tensor> {
        self.forward_with(x, Activation::None)
    }

    /// activation(x W^T + b), in one kernel where the activation's gradient allows it.
    ///
    /// # Errors
    /// As [`Linear::forward`].
    pub fn forward_with(&self, x: &Tensor, activation: Activation) -> everstep_tensor::Result<Tensor> {
        let bias = self.bias.as_ref().map(Parameter::tensor);
        x.linear(&self.weight.tensor(), bias.as_ref(), activation)
    }
}
