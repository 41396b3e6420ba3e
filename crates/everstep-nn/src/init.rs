//! How parameters begin.
//!
//! Numbers come from a counter-based generator on the host, so a model starts with the same bits on every device.

use everstep_tensor::{Device, Generator, Result, Tensor};
use serde::{Deserialize, Serialize};

/// Which side of a layer the variance is kept for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fan {
    /// Activations keep their variance on the way forward.
    #[default]
    In,
    /// Gradients keep theirs on the way back.
    Out,
}

/// A distribution of initial values. `gain` makes up for the activation that follows: see [`gain`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Init {
    /// One value.
    Constant(f64),
    /// Uniform in [-bound, bound).
    Uniform {
        /// The bound.
        bound: f64,
    },
    /// Normal with mean 0.
    Normal {
        /// The standard deviation.
        std: f64,
    },
    /// He et al., 2015: uniform with bound gain sqrt(3 / fan).
    KaimingUniform {
        /// The activation's gain.
        gain: f64,
        /// Which fan.
        fan: Fan,
    },
    /// He et al., 2015: normal with standard deviation gain / sqrt(fan).
    KaimingNormal {
        /// The activation's gain.
        gain: f64,
        /// Which fan.
        fan: Fan,
    },
    /// Glorot and Bengio, 2010: uniform with bound gain sqrt(6 / (fan in + fan out)).
    XavierUniform {
        /// The activation's gain.
        gain: f64,
    },
    /// Glorot and Bengio, 2010: normal with standard deviation gain sqrt(2 / (fan in + fan out)).
    XavierNormal {
        /// The activation's gain.
        gain: f64,
    },
}

/// Gains of activations, as PyTorch's `calculate_gain` has them.
pub mod gain {
    /// No activation, sigmoid.
    pub const LINEAR: f64 = 1.0;
    /// Rectified linear unit.
    pub const RELU: f64 = std::f64::consts::SQRT_2;
    /// Hyperbolic tangent.
    pub const TANH: f64 = 5.0 / 3.0;

    /// Leaky rectified linear unit.
    pub fn leaky_relu(negative_slope: f64) -> f64 {
        (2.0 / (1.0 + negative_slope * negative_slope)).sqrt()
    }
}

impl Init {
    /// The bound of a uniform distribution or the standard deviation of a normal one, for a layer of these fans; the
    /// value of a constant.
    pub fn scale(&self, fan_in: usize, fan_out: usize) -> f64 {
        let one = |fan: Fan| match fan {
            Fan::In => fan_in.max(1) as f64,
            Fan::Out => fan_out.max(1) as f64,
        };
        let both = (fan_in + fan_out).max(1) as f64;
        match *self {
            Self::Constant(value) => value,
            Self::Uniform { bound } => bound,
            Self::Normal { std } => std,
            Self::KaimingUniform { gain, fan } => gain * (3.0 / one(fan)).sqrt(),
            Self::KaimingNormal { gain, fan } => gain / one(fan).sqrt(),
            Self::XavierUniform { gain } => gain * (6.0 / both).sqrt(),
            Self::XavierNormal { gain } => gain * (2.0 / both).sqrt(),
        }
    }

    /// A tensor of `shape` for a layer of these fans, from a stream of its own.
    ///
    /// # Errors
    /// Those of making a tensor.
    pub fn tensor(
        &self,
        shape: &[usize],
        (fan_in, fan_out): (usize, usize),
        generator: &mut Generator,
        device: &Device,
    ) -> Result<Tensor> {
        let mut stream = generator.fork();
        let scale = self.scale(fan_in, fan_out) as f32;
        match self {
            Self::Constant(_) => Tensor::full(shape, scale, device),
            Self::Uniform { .. } | Self::KaimingUniform { .. } | Self::XavierUniform { .. } => {
                Tensor::rand(shape, -scale, scale, &mut stream, device)
            }
            Self::Normal { .. } | Self::KaimingNormal { .. } | Self::XavierNormal { .. } => {
                let count = everstep_tensor::Shape::new(shape)?.count();
                let data = (0..count).map(|_| scale * stream.normal()).collect();
                Tensor::from_vec(data, shape, device)
            }
        }
    }
}
