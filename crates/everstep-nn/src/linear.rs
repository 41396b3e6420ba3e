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
    ///
    /// ```
    /// # use everstep_nn::LinearConfig;
    /// # use everstep_tensor::{Device, Generator};
    /// # let (device, mut generator) = (Device::cpu(), Generator::new(0));
    /// let layer = LinearConfig::new(3, 2).init(&mut generator, &device)?;
    /// assert_eq!(layer.weight.shape(), &[2, 3]);
    /// assert_eq!(layer.bias.unwrap().shape(), &[2]);
    /// # Ok::<(), everstep_nn::Error>(())
    /// ```
    pub fn new(in_features: usize, out_features: usize) -> Self {
        Self { in_features, out_features, bias: true, weight_init: default_init(), bias_init: None }
    }

    /// With or without a bias.
    ///
    /// ```
    /// # use everstep_nn::LinearConfig;
    /// # use everstep_tensor::{Device, Generator};
    /// # let (device, mut generator) = (Device::cpu(), Generator::new(0));
    /// let layer = LinearConfig::new(3, 2).bias(false).init(&mut generator, &device)?;
    /// assert!(layer.bias.is_none());
    /// # Ok::<(), everstep_nn::Error>(())
    /// ```
    #[must_use]
    pub fn bias(self, bias: bool) -> Self {
        Self { bias, ..self }
    }

    /// How the weight begins.
    ///
    /// ```
    /// # use everstep_nn::{Init, LinearConfig};
    /// # use everstep_tensor::{Device, Generator};
    /// # let (device, mut generator) = (Device::cpu(), Generator::new(0));
    /// let layer = LinearConfig::new(2, 1).weight_init(Init::Constant(0.5)).init(&mut generator, &device)?;
    /// assert_eq!(layer.weight.tensor().to_vec::<f32>()?, [0.5, 0.5]);
    /// # Ok::<(), everstep_nn::Error>(())
    /// ```
    #[must_use]
    pub fn weight_init(self, weight_init: Init) -> Self {
        Self { weight_init, ..self }
    }

    /// How the bias begins.
    ///
    /// ```
    /// # use everstep_nn::{Init, LinearConfig};
    /// # use everstep_tensor::{Device, Generator};
    /// # let (device, mut generator) = (Device::cpu(), Generator::new(0));
    /// let layer = LinearConfig::new(2, 1).bias_init(Init::Constant(0.0)).init(&mut generator, &device)?;
    /// assert_eq!(layer.bias.unwrap().tensor().to_vec::<f32>()?, [0.0]);
    /// # Ok::<(), everstep_nn::Error>(())
    /// ```
    #[must_use]
    pub fn bias_init(self, bias_init: Init) -> Self {
        Self { bias_init: Some(bias_init), ..self }
    }

    /// The layer, its parameters drawn from streams of their own.
    ///
    /// # Errors
    /// [`Error::Setting`] without features or where an initial distribution is none; those of making a tensor.
    ///
    /// ```
    /// # use everstep_nn::{Init, LinearConfig};
    /// # use everstep_tensor::{Device, Generator, Tensor};
    /// # let (device, mut generator) = (Device::cpu(), Generator::new(0));
    /// let config = LinearConfig::new(3, 1).bias(false).weight_init(Init::Constant(2.0));
    /// let layer = config.init(&mut generator, &device)?;
    /// assert_eq!(layer.forward(&Tensor::ones(&[1, 3], &device)?)?.to_vec::<f32>()?, [6.0]);
    /// # Ok::<(), everstep_nn::Error>(())
    /// ```
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
    ///
    /// ```
    /// # use everstep_nn::Linear;
    /// # use everstep_tensor::{Device, Generator};
    /// # let (device, mut generator) = (Device::cpu(), Generator::new(0));
    /// let layer = Linear::new(4, 3, &mut generator, &device)?;
    /// // At first every weight is at most 1 / sqrt(4).
    /// assert!(layer.weight.tensor().to_vec::<f32>()?.iter().all(|weight| weight.abs() <= 0.5));
    /// # Ok::<(), everstep_nn::Error>(())
    /// ```
    pub fn new(in_features: usize, out_features: usize, generator: &mut Generator, device: &Device) -> Result<Self> {
        LinearConfig::new(in_features, out_features).init(generator, device)
    }

    /// y = x W^T + b.
    ///
    /// # Errors
    /// [`everstep_tensor::Error::Shapes`] where x does not end in `in_features`.
    ///
    /// ```
    /// # use everstep_nn::Linear;
    /// # use everstep_tensor::{Device, Generator, Tensor};
    /// # let (device, mut generator) = (Device::cpu(), Generator::new(0));
    /// let layer = Linear::new(2, 1, &mut generator, &device)?;
    /// layer.weight.set(&Tensor::from_slice(&[1.0f32, 10.0], &[1, 2], &device)?)?;
    /// layer.bias.as_ref().unwrap().set(&Tensor::from_slice(&[0.5f32], &[1], &device)?)?;
    /// let x = Tensor::from_slice(&[1.0f32, 2.0], &[1, 2], &device)?;
    /// assert_eq!(layer.forward(&x)?.to_vec::<f32>()?, [21.5]);
    /// # Ok::<(), everstep_nn::Error>(())
    /// ```
    pub fn forward(&self, x: &Tensor) -> everstep_tensor::Result<Tensor> {
        self.forward_with(x, Activation::None)
    }

    /// activation(x W^T + b), in one kernel where the activation's gradient allows it.
    ///
    /// # Errors
    /// As [`Linear::forward`].
    ///
    /// ```
    /// # use everstep_nn::{Init, LinearConfig};
    /// # use everstep_tensor::{Activation, Device, Generator, Tensor};
    /// # let (device, mut generator) = (Device::cpu(), Generator::new(0));
    /// let layer = LinearConfig::new(2, 1).bias_init(Init::Constant(-9.0)).init(&mut generator, &device)?;
    /// let x = Tensor::ones(&[1, 2], &device)?;
    /// assert_eq!(layer.forward_with(&x, Activation::Relu)?.to_vec::<f32>()?, [0.0]);
    /// # Ok::<(), everstep_nn::Error>(())
    /// ```
    pub fn forward_with(&self, x: &Tensor, activation: Activation) -> everstep_tensor::Result<Tensor> {
        let bias = self.bias.as_ref().map(Parameter::tensor);
        x.linear(&self.weight.tensor(), bias.as_ref(), activation)
    }
}
