//! Normalisation layers.

use everstep_tensor::{Device, Parameter, RunningBuffer, Tensor};

use crate::{Error, Layer, Mode, Module, Result};

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

/// A batch norm for one number of dimensions.
macro_rules! batch_norm {
    ($(#[$doc:meta])* $layer:ident, $ranks:pat, $rule:literal) => {
        $(#[$doc])*
        ///
        /// While training it normalises by the batch's own statistics, and moves the running ones towards them: by
        /// `momentum`, with the variance's unbiased estimate, as PyTorch does. In evaluation it takes the running ones. Under
        /// an optimizer they are part of the step: one that is refused leaves them as they were.
        #[derive(Debug, Module)]
        #[module(crate = everstep_nn)]
        pub struct $layer {
            /// Factor: `[channels]`, ones at the beginning.
            pub weight: Parameter,
            /// Summand: `[channels]`, zeros at the beginning.
            pub bias: Parameter,
            /// Running mean: `[channels]`, zeros at the beginning.
            pub running_mean: RunningBuffer,
            /// Running variance: `[channels]`, ones at the beginning.
            pub running_var: RunningBuffer,
            epsilon: f32,
            momentum: f32,
            mode: Mode,
        }

        impl $layer {
            /// Of `channels` channels, with epsilon 1e-5 and momentum 0.1.
            ///
            /// # Errors
            /// Those of making a tensor.
            pub fn new(channels: usize, device: &Device) -> Result<Self> {
                Ok(Self {
                    weight: Parameter::new(&Tensor::ones(&[channels], device)?)?,
                    bias: Parameter::new(&Tensor::zeros(&[channels], device)?)?,
                    running_mean: RunningBuffer::new(&Tensor::zeros(&[channels], device)?)?,
                    running_var: RunningBuffer::new(&Tensor::ones(&[channels], device)?)?,
                    epsilon: 1e-5,
                    momentum: 0.1,
                    mode: Mode::training(),
                })
            }

            /// With another epsilon.
            #[must_use]
            pub fn epsilon(self, epsilon: f32) -> Self {
                Self { epsilon, ..self }
            }

            /// With another weight of the batch in the running statistics.
            ///
            /// # Errors
            /// [`Error::Setting`] where it is not in 0 to 1.
            pub fn momentum(self, momentum: f32) -> Result<Self> {
                if !(0.0..=1.0).contains(&momentum) {
                    let (value, rule) = (momentum.to_string(), "0 to 1");
                    return Err(Error::Setting { layer: stringify!($layer), field: "momentum", value, rule });
                }
                Ok(Self { momentum, ..self })
            }

            /// (x - mean) / sqrt(variance + epsilon) * weight + bias, per channel.
            ///
            /// # Errors
            /// [`everstep_tensor::Error::Shape`] where x has other dimensions, or while training fewer than two values per
            /// channel; [`everstep_tensor::Error::Shapes`] where it has other channels.
            pub fn forward(&self, x: &Tensor) -> everstep_tensor::Result<Tensor> {
                let op = "batch_norm";
                if !matches!(x.rank(), $ranks) {
                    return Err(everstep_tensor::Error::Shape { op, shape: *x.shape(), rule: $rule });
                }
                let count = x.count().checked_div(x.shape()[1]).unwrap_or(2);
                if self.mode.is_training() && count < 2 {
                    let rule = "training needs at least two values per channel";
                    return Err(everstep_tensor::Error::Shape { op, shape: *x.shape(), rule });
                }
                let (mean, variance) = match self.mode.is_training() {
                    true => x.batch_statistics()?,
                    false => (self.running_mean.tensor(), self.running_var.tensor()),
                };
                let (weight, bias) = (self.weight.tensor(), self.bias.tensor());
                let y = x.batch_norm(&mean, &variance, Some(&weight), Some(&bias), self.epsilon)?;
                if self.mode.is_training() {
                    let unbiased = variance.detach().mul_scalar((count as f64 / (count as f64 - 1.0)) as f32)?;
                    move_towards(&self.running_mean, &mean.detach(), self.momentum)?;
                    move_towards(&self.running_var, &unbiased, self.momentum)?;
                }
                Ok(y)
            }
        }

        impl Layer for $layer {
            fn forward(&self, x: &Tensor) -> everstep_tensor::Result<Tensor> {
                $layer::forward(self, x)
            }
        }
    };
}

/// buffer = (1 - momentum) buffer + momentum value.
fn move_towards(buffer: &RunningBuffer, value: &Tensor, momentum: f32) -> everstep_tensor::Result<()> {
    let before = buffer.pending()?.mul_scalar(1.0 - momentum)?;
    buffer.write(&before.add(&value.mul_scalar(momentum)?)?)
}

batch_norm! {
    /// Batch norm of x `[B, channels]` or `[B, channels, L]` (Ioffe and Szegedy, 2015).
    ///
    /// ```
    /// # use everstep_nn::{BatchNorm1d, Module};
    /// # use everstep_tensor::{Device, Tensor};
    /// let device = Device::cpu();
    /// let norm = BatchNorm1d::new(1, &device)?;
    /// let y = norm.forward(&Tensor::from_slice(&[1.0f32, 3.0], &[2, 1], &device)?)?.to_vec::<f32>()?;
    /// assert!((y[0] + 1.0).abs() < 1e-3 && (y[1] - 1.0).abs() < 1e-3);
    /// assert!((norm.running_mean.tensor().item::<f32>()? - 0.2).abs() < 1e-6);
    /// # Ok::<(), everstep_nn::Error>(())
    /// ```
    BatchNorm1d, 2 | 3, "x is [B, channels] or [B, channels, L]"
}

batch_norm! {
    /// Batch norm of images x `[B, channels, H, W]` (Ioffe and Szegedy, 2015).
    ///
    /// ```
    /// # use everstep_nn::{BatchNorm2d, Module};
    /// # use everstep_tensor::{Device, Tensor};
    /// let device = Device::cpu();
    /// let norm = BatchNorm2d::new(3, &device)?;
    /// norm.eval();
    /// let y = norm.forward(&Tensor::zeros(&[2, 3, 4, 4], &device)?)?;
    /// assert_eq!(y.to_vec::<f32>()?, [0.0; 96]);
    /// # Ok::<(), everstep_nn::Error>(())
    /// ```
    BatchNorm2d, 4, "x is [B, channels, H, W]"
}
