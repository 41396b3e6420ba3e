//! How parameters begin.
//!
//! Numbers come from a counter-based generator on the host, so a model starts with the same bits on every device.

use everstep_device::functions::erf_f64;
use everstep_tensor::{Device, Generator, Result, Shape, Tensor};
use serde::{Deserialize, Serialize};

use crate::Error;

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
    /// Normal with mean 0, without what lies outside [low, high] (PyTorch's `trunc_normal_`).
    TruncatedNormal {
        /// The standard deviation before anything is cut off.
        std: f64,
        /// The least value.
        low: f64,
        /// The largest value.
        high: f64,
    },
    /// Saxe et al., 2014: a random matrix with orthonormal rows or columns, whichever are fewer, times the gain. The rows
    /// run along the first dimension, the columns along all others.
    Orthogonal {
        /// The activation's gain.
        gain: f64,
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
    /// Zeros.
    pub const ZEROS: Self = Self::Constant(0.0);
    /// Ones.
    pub const ONES: Self = Self::Constant(1.0);

    /// Refuses a distribution that is none, for a setting of a layer.
    ///
    /// # Errors
    /// [`Error::Setting`].
    pub fn check(
        &self,
        layer: &'static str,
        field: &'static str,
        (fan_in, fan_out): (usize, usize),
    ) -> crate::Result<()> {
        let scale = self.scale(fan_in, fan_out);
        let constant = matches!(self, Self::Constant(_));
        let ordered = match *self {
            Self::TruncatedNormal { low, high, .. } => low < high && low.is_finite() && high.is_finite(),
            _ => true,
        };
        if (scale as f32).is_finite() && (scale >= 0.0 || constant) && ordered {
            return Ok(());
        }
        let rule = "of a finite scale, at least 0 for a distribution, and of bounds in order";
        Err(Error::Setting { layer, field, value: format!("{self:?}"), rule })
    }

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
            Self::Normal { std } | Self::TruncatedNormal { std, .. } => std,
            Self::Orthogonal { gain } => gain,
            Self::KaimingUniform { gain, fan } => gain * (3.0 / one(fan)).sqrt(),
            Self::KaimingNormal { gain, fan } => gain / one(fan).sqrt(),
            Self::XavierUniform { gain } => gain * (6.0 / both).sqrt(),
            Self::XavierNormal { gain } => gain * (2.0 / both).sqrt(),
        }
    }

    /// A tensor of `shape` for a layer of these fans, from a stream of its own.
    ///
    /// ```
    /// # use everstep_nn::Init;
    /// # use everstep_tensor::{Device, Generator};
    /// let init = Init::Orthogonal { gain: 1.0 };
    /// let rows = init.tensor(&[2, 3], (3, 2), &mut Generator::new(0), &Device::cpu())?;
    /// let product = rows.matmul(&rows.t()?)?.to_vec::<f32>()?;
    /// assert!(product.iter().zip([1.0, 0.0, 0.0, 1.0]).all(|(found, identity)| (found - identity).abs() < 1e-6));
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`everstep_tensor::Error::Shape`] for an orthogonal matrix of fewer than two dimensions; those of making a tensor.
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
                let count = Shape::new(shape)?.count();
                let data = (0..count).map(|_| scale * stream.normal()).collect();
                Tensor::from_vec(data, shape, device)
            }
            Self::TruncatedNormal { std, low, high } => {
                let count = Shape::new(shape)?.count();
                let data = (0..count).map(|_| truncated(*std, *low, *high, &mut stream)).collect();
                Tensor::from_vec(data, shape, device)
            }
            Self::Orthogonal { gain } => {
                let shape = Shape::new(shape)?;
                if shape.rank() < 2 {
                    let rule = "an orthogonal matrix has at least two dimensions";
                    return Err(everstep_tensor::Error::Shape { op: "orthogonal", shape, rule });
                }
                Tensor::from_vec(orthogonal(&shape, *gain, &mut stream), &shape, device)
            }
        }
    }
}

/// The distribution function of the standard normal distribution.
fn normal_cdf(x: f64) -> f64 {
    0.5 + 0.5 * erf_f64(x * std::f64::consts::FRAC_1_SQRT_2)
}

/// A number of the truncated normal distribution: normal numbers until one lies between the bounds, or, where that is
/// rare, the share of the probability between them that a uniform number gives.
fn truncated(std: f64, low: f64, high: f64, stream: &mut Generator) -> f32 {
    let mut draws = (0..32).map(|_| std * f64::from(stream.normal()));
    match draws.find(|value| (low..=high).contains(value)) {
        // The nearest f32 may lie outside bounds that are no f32.
        Some(value) => value as f32,
        None => truncated_tail(std, low, high, stream.uniform()),
    }
}

/// By bisection, because the inverse of erf has no closed form.
fn truncated_tail(std: f64, low: f64, high: f64, share: f32) -> f32 {
    // Nothing to speak of lies beyond nine standard deviations, and a std of 0 has all of it at 0.
    let (mut left, mut right) = ((low / std).clamp(-9.0, 9.0), (high / std).clamp(-9.0, 9.0));
    let (from, to) = (normal_cdf(left), normal_cdf(right));
    let wanted = from + (to - from) * f64::from(share);
    // 32 halvings of 18 leave less than the spacing of f32 near 1.
    for _ in 0..32 {
        let middle = 0.5 * (left + right);
        if normal_cdf(middle) < wanted {
            left = middle;
        } else {
            right = middle;
        }
    }
    let value = if std > 0.0 { std * 0.5 * (left + right) } else { 0.0 };
    value.max(low).min(high) as f32
}

/// Row-major elements of a matrix whose shorter side is orthonormal: Gram-Schmidt on normal numbers in f64, twice, because
/// once leaves what rounding made of nearly parallel vectors. The diagonal of R is positive, so the matrix is uniformly
/// distributed (Mezzadri, 2007).
fn orthogonal(shape: &Shape, gain: f64, stream: &mut Generator) -> Vec<f32> {
    let rows = shape[0];
    let columns: usize = shape[1..].iter().product();
    let (count, length) = (rows.min(columns), rows.max(columns));
    let mut vectors: Vec<Vec<f64>> = Vec::with_capacity(count);
    while vectors.len() < count {
        let mut vector: Vec<f64> = (0..length).map(|_| f64::from(stream.normal())).collect();
        for known in vectors.iter().chain(&vectors) {
            let along: f64 = known.iter().zip(&vector).map(|(a, b)| a * b).sum();
            vector.iter_mut().zip(known).for_each(|(element, known)| *element -= along * known);
        }
        let norm = vector.iter().map(|element| element * element).sum::<f64>().sqrt();
        // One that the others span is drawn again: it has probability 0.
        if norm > 1e-6 {
            vector.iter_mut().for_each(|element| *element /= norm);
            vectors.push(vector);
        }
    }
    let element = |row: usize, column: usize| if rows <= columns { vectors[row][column] } else { vectors[column][row] };
    (0..rows)
        .flat_map(|row| (0..columns).map(move |column| (row, column)))
        .map(|(r, c)| (gain * element(r, c)) as f32)
        .collect()
}
