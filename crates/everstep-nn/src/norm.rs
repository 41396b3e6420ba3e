//! Normalisation layers.

use everstep_tensor::{Device, Parameter, Tensor};

use crate::{Error, Layer, Module, Result};

/// Layer norm with a weight and a bias over the last dimension (Ba, Kiros and Hinton, 2016).
///
/// ```
/// # use everstep_nn::LayerNorm;
/// # use everstep_tensor::{Device, Tensor};
/// let device = Device::cpu();
/// let norm = LayerNorm::new(2, &device)?;
/// let y = norm.forward(&Tensor::from_slice(&[1.0f32, 3.0], &[1, 2], &device)?)?.to_vec::<f32>()?;
/// assert!((y[0] + 1.0).abs() < 1e-3 && (y[1] - 1.0).abs() < 1e-3);
/// # Ok::<(), everstep_nn::Error>(())
/// ```
#[derive(Debug, Module)]
#[module(crate = everstep_nn)]
pub struct LayerNorm {
    /// Factor: `[features]`, ones at the beginning.
    pub weight: Parameter,
    /// Summand: `[features]`, zeros at the beginning.
    pub bias: Parameter,
    epsilon: f32,
}

impl LayerNorm {
    /// Over a last dimension of `features`, with epsilon 1e-5.
    ///
    /// # Errors
    /// Those of making a tensor.
    pub fn new(features: usize, device: &Device) -> Result<Self> {
        let weight = Parameter::new(&Tensor::ones(&[features], device)?)?;
        let bias = Parameter::new(&Tensor::zeros(&[features], device)?)?;
        Ok(Self { weight, bias, epsilon: 1e-5 })
    }

    /// With another epsilon.
    #[must_use]
    pub fn epsilon(self, epsilon: f32) -> Self {
        Self { epsilon, ..self }
    }

    /// (x - mean) / sqrt(variance + epsilon) * weight + bias.
    ///
    /// # Errors
    /// [`everstep_tensor::Error::Shapes`] where x does not end in `features`.
    pub fn forward(&self, x: &Tensor) -> everstep_tensor::Result<Tensor> {
        let (weight, bias) = (self.weight.tensor(), self.bias.tensor());
        x.layer_norm(&weight.shape()[..], Some(&weight), Some(&bias), self.epsilon)
    }
}

impl Layer for LayerNorm {
    fn forward(&self, x: &Tensor) -> everstep_tensor::Result<Tensor> {
        LayerNorm::forward(self, x)
    }
}

/// Root-mean-square norm with a weight over the last dimension (Zhang and Sennrich, 2019).
///
/// ```
/// # use everstep_nn::RmsNorm;
/// # use everstep_tensor::{Device, Tensor};
/// let device = Device::cpu();
/// let norm = RmsNorm::new(2, &device)?;
/// let y = norm.forward(&Tensor::from_slice(&[3.0f32, -3.0], &[1, 2], &device)?)?.to_vec::<f32>()?;
/// assert!((y[0] - 1.0).abs() < 1e-3 && (y[1] + 1.0).abs() < 1e-3);
/// # Ok::<(), everstep_nn::Error>(())
/// ```
#[derive(Debug, Module)]
#[module(crate = everstep_nn)]
pub struct RmsNorm {
    /// Factor: `[features]`, ones at the beginning.
    pub weight: Parameter,
    epsilon: f32,
}

impl RmsNorm {
    /// Over a last dimension of `features`, with epsilon 1e-5.
    ///
    /// # Errors
    /// Those of making a tensor.
    pub fn new(features: usize, device: &Device) -> Result<Self> {
        Ok(Self { weight: Parameter::new(&Tensor::ones(&[features], device)?)?, epsilon: 1e-5 })
    }

    /// With another epsilon.
    #[must_use]
    pub fn epsilon(self, epsilon: f32) -> Self {
        Self { epsilon, ..self }
    }

    /// x / sqrt(mean x^2 + epsilon) * weight.
    ///
    /// # Errors
    /// [`everstep_tensor::Error::Shapes`] where x does not end in `features`.
    pub fn forward(&self, x: &Tensor) -> everstep_tensor::Result<Tensor> {
        let weight = self.weight.tensor();
        x.rms_norm(&weight.shape()[..], Some(&weight), self.epsilon)
    }
}

impl Layer for RmsNorm {
    fn forward(&self, x: &Tensor) -> everstep_tensor::Result<Tensor> {
        RmsNorm::forward(self, x)
    }
}

/// Norm over groups of channels, with a weight and a bias per channel (Wu and He, 2018).
///
/// ```
/// # use everstep_nn::GroupNorm;
/// # use everstep_tensor::{Device, Tensor};
/// let device = Device::cpu();
/// let norm = GroupNorm::new(2, 4, &device)?;
/// assert_eq!(norm.forward(&Tensor::ones(&[3, 4, 5, 5], &device)?)?.to_vec::<f32>()?, [0.0; 300]);
/// # Ok::<(), everstep_nn::Error>(())
/// ```
#[derive(Debug, Module)]
#[module(crate = everstep_nn)]
pub struct GroupNorm {
    /// Factor: `[channels]`, ones at the beginning.
    pub weight: Parameter,
    /// Summand: `[channels]`, zeros at the beginning.
    pub bias: Parameter,
    groups: usize,
    epsilon: f32,
}

impl GroupNorm {
    /// `groups` groups of `channels` channels, with epsilon 1e-5.
    ///
    /// # Errors
    /// [`Error::Setting`] where the groups do not divide the channels.
    pub fn new(groups: usize, channels: usize, device: &Device) -> Result<Self> {
        if groups == 0 || !channels.is_multiple_of(groups) {
            let rule = "at least 1, and a divisor of the channels";
            return Err(Error::Setting { layer: "GroupNorm", field: "groups", value: groups.to_string(), rule });
        }
        let weight = Parameter::new(&Tensor::ones(&[channels], device)?)?;
        Ok(Self { weight, bias: Parameter::new(&Tensor::zeros(&[channels], device)?)?, groups, epsilon: 1e-5 })
    }

    /// Of x `[B, channels, ..]`: the same shape.
    ///
    /// # Errors
    /// [`everstep_tensor::Error::Shapes`].
    pub fn forward(&self, x: &Tensor) -> everstep_tensor::Result<Tensor> {
        x.group_norm(self.groups, Some(&self.weight.tensor()), Some(&self.bias.tensor()), self.epsilon)
    }
}

impl Layer for GroupNorm {
    fn forward(&self, x: &Tensor) -> everstep_tensor::Result<Tensor> {
        GroupNorm::forward(self, x)
    }
}
