//! What can be done to a sample as it is read.

use std::fmt;
use std::sync::Arc;

use everstep_device::philox::Generator;
use serde::{Deserialize, Serialize};

use crate::geometry::{crop, flip_horizontal, flip_vertical, rotate};
use crate::host::zeros;
use crate::{FieldSpec, Result};

/// One change to the `x` of a sample, f32 values in C order.
///
/// An image is whatever has at least two dimensions: `[H, W]`, `[C, H, W]`; all its planes are moved alike. Flat images
/// are given their size by a [`Transform::Reshape`] and flattened by another. The order of a list is the order in which
/// its transforms are applied.
///
/// ```
/// use everstep_data::{Dataset, Transform, digits};
///
/// # fn main() -> everstep_data::Result<()> {
/// let augment = [
///     Transform::Reshape { shape: vec![1, 8, 8] },
///     Transform::Rotate { degrees: 10.0 },
///     Transform::Crop { size: [8, 8], padding: 1 },
///     Transform::Normalise { mean: vec![0.3], std: vec![0.4] },
///     Transform::Noise { std: 0.05 },
/// ];
/// let digits = digits()?.transformed(augment, 7)?;
/// assert_eq!(digits.spec().x.shape, [1, 8, 8]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Transform {
    /// `(x - mean) / std`, computed in f64. One mean and one std for all values, or one each for every entry of the
    /// first dimension: channels of `[C, H, W]`, columns of `[F]`. [`Transform::standardise`] finds them.
    Normalise {
        /// The means, finite.
        mean: Vec<f64>,
        /// The standard deviations, finite and above 0.
        std: Vec<f64>,
    },
    /// Turns an image round, left to right.
    FlipHorizontal {
        /// How often, 0 to 1.
        probability: f32,
    },
    /// Turns an image over, top to bottom.
    FlipVertical {
        /// How often, 0 to 1.
        probability: f32,
    },
    /// Cuts `size` out of an image with a margin of zeros, every place as likely as any other.
    Crop {
        /// The height and width of what is cut out, in pixels.
        size: [usize; 2],
        /// The width of the margin on each of the four sides, in pixels; 0 where it is absent in serialised form.
        #[serde(default)]
        padding: usize,
    },
    /// Turns an image around its centre by an angle between `-degrees` and `degrees`, every angle as likely as any
    /// other; bilinear, with zeros for what comes from outside. Above 0 is anticlockwise.
    Rotate {
        /// The largest angle, 0 to 180 degrees.
        degrees: f32,
    },
    /// Adds a number from the normal distribution with mean 0 to every value.
    Noise {
        /// The standard deviation, finite and not below 0.
        std: f32,
    },
    /// Says another shape for the same values.
    Reshape {
        /// The shape.
        shape: Vec<usize>,
    },
    /// What a program brings; see [`Transform::custom`]. It has no serialised form.
    #[serde(skip)]
    Custom(CustomTransform),
}

/// A transform that is not this crate's; see [`Transform::custom`]. Equal to its own clones only.
#[derive(Clone)]
pub struct CustomTransform {
    name: String,
    function: Arc<Function>,
}

/// What a custom transform does to values of a shape.
type Function = dyn Fn(&mut [f32], &[usize], &mut Generator) -> Result<()> + Send + Sync;

impl fmt::Debug for CustomTransform {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("CustomTransform").field(&self.name).finish()
    }
}

impl PartialEq for CustomTransform {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && Arc::ptr_eq(&self.function, &other.function)
    }
}

/// Why a transform cannot be applied.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TransformProblem {
    /// A number out of its range.
    #[error("`{field}` is {value}: use a number {range}")]
    Range {
        /// The field.
        field: &'static str,
        /// Its value.
        value: f64,
        /// What it may be.
        range: &'static str,
    },
    /// Means or standard deviations as many as there is nothing of.
    #[error("`{field}` has {found} values for the shape {shape:?}: use 1, or one per entry of the first dimension")]
    Channels {
        /// The field.
        field: &'static str,
        /// The number of values.
        found: usize,
        /// The shape of `x`.
        shape: Vec<usize>,
    },
    /// A shape that is no image's.
    #[error("an image is needed, [H, W] or [C, H, W], but `x` is {shape:?}: put a `Reshape` before")]
    NotImage {
        /// The shape of `x`.
        shape: Vec<usize>,
    },
    /// A crop of nothing, or of more than there is.
    #[error("{size:?} cannot be cut out of {image:?} with a padding of {padding}: use 1 to the padded size")]
    CropSize {
        /// The size to be cut out, H and W.
        size: [usize; 2],
        /// The size of the image, H and W.
        image: [usize; 2],
        /// The padding on each side.
        padding: usize,
    },
    /// A reshape that changes the number of values.
    #[error("{from:?} cannot become {to:?}: the number of values must stay")]
    Reshape {
        /// The shape of `x`.
        from: Vec<usize>,
        /// The shape that was asked for.
        to: Vec<usize>,
    },
}

impl Transform {
    /// A transform of the program's own: `function` changes the values of a shape in place. All its randomness must
    /// come from the generator, which belongs to seed, epoch, sample and the transform's place in the list.
    ///
    /// ```
    /// use everstep_data::{Dataset, HostLoader, LoaderConfig, Transform, digits};
    ///
    /// # fn main() -> everstep_data::Result<()> {
    /// let fade = Transform::custom("fade", |values, _shape, generator| {
    ///     let factor = 0.5 + 0.5 * generator.uniform();
    ///     values.iter_mut().for_each(|value| *value *= factor);
    ///     Ok(())
    /// });
    /// let mut loader = HostLoader::new(digits()?.transformed([fade], 7)?, LoaderConfig::new(32))?;
    /// # loader.next_batch()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn custom(
        name: impl Into<String>,
        function: impl Fn(&mut [f32], &[usize], &mut Generator) -> Result<()> + Send + Sync + 'static,
    ) -> Self {
        Self::Custom(CustomTransform { name: name.into(), function: Arc::new(function) })
    }

    /// The transform's name: that of its serialised form, or the one that a custom transform was given.
    pub fn name(&self) -> &str {
        match self {
            Self::Normalise { .. } => "normalise",
            Self::FlipHorizontal { .. } => "flip_horizontal",
            Self::FlipVertical { .. } => "flip_vertical",
            Self::Crop { .. } => "crop",
            Self::Rotate { .. } => "rotate",
            Self::Noise { .. } => "noise",
            Self::Reshape { .. } => "reshape",
            Self::Custom(custom) => &custom.name,
        }
    }

    /// The shape that `x` has after the transform, where it can be applied to `shape`.
    pub(crate) fn output(&self, shape: &[usize]) -> std::result::Result<Vec<usize>, TransformProblem> {
        match self {
            Self::Normalise { mean, std } => {
                channels("mean", mean, shape)?;
                channels("std", std, shape)?;
                mean.iter().try_for_each(|&mean| in_range("mean", mean, mean.is_finite(), "that is finite"))?;
                let positive = |std: f64| std.is_finite() && std > 0.0;
                std.iter().try_for_each(|&std| in_range("std", std, positive(std), "above 0"))?;
            }
            Self::FlipHorizontal { probability } | Self::FlipVertical { probability } => {
                image(shape)?;
                let fits = (0.0..=1.0).contains(probability);
                in_range("probability", f64::from(*probability), fits, "from 0 to 1")?;
            }
            Self::Crop { size, padding } => return crop_output(shape, *size, *padding),
            Self::Rotate { degrees } => {
                image(shape)?;
                in_range("degrees", f64::from(*degrees), (0.0..=180.0).contains(degrees), "from 0 to 180")?;
            }
            Self::Noise { std } => {
                in_range("std", f64::from(*std), std.is_finite() && *std >= 0.0, "from 0, that is finite")?;
            }
            Self::Reshape { shape: to } => {
                if FieldSpec::f32(to).length() != FieldSpec::f32(shape).length() {
                    return Err(TransformProblem::Reshape { from: shape.to_vec(), to: to.clone() });
                }
                return Ok(to.clone());
            }
            Self::Custom(_) => {}
        }
        Ok(shape.to_vec())
    }

    /// Changes `values` of `shape`, which [`Transform::output`] has accepted.
    pub(crate) fn apply(&self, values: &mut Vec<f32>, shape: &[usize], generator: &mut Generator) -> Result<()> {
        let size = image(shape).unwrap_or_default();
        match self {
            Self::Normalise { mean, std } => normalise(values, mean, std, shape),
            Self::FlipHorizontal { probability } if generator.uniform() < *probability => {
                flip_horizontal(values, size[1]);
            }
            Self::FlipVertical { probability } if generator.uniform() < *probability => flip_vertical(values, size),
            Self::FlipHorizontal { .. } | Self::FlipVertical { .. } | Self::Reshape { .. } => {}
            Self::Crop { size: wanted, padding } => {
                let room = |axis: usize| (size[axis] + 2 * padding - wanted[axis] + 1) as u32;
                let corner = [0, 1].map(|axis| generator.below(room(axis)) as usize);
                let planes: usize = shape[..shape.len() - 2].iter().product();
                let mut cut = zeros(planes * wanted[0] * wanted[1])?;
                crop(values, size, *padding, corner, &mut cut, *wanted);
                *values = cut;
            }
            Self::Rotate { degrees } => {
                let mut turned = zeros(values.len())?;
                let angle = f64::from(2.0 * generator.uniform() - 1.0) * f64::from(*degrees);
                rotate(values, size, angle, &mut turned);
                *values = turned;
            }
            Self::Noise { std } => values.iter_mut().for_each(|value| *value += std * generator.normal()),
            Self::Custom(custom) => (custom.function)(values, shape, generator)?,
        }
        Ok(())
    }
}

/// The height and width of an image.
fn image(shape: &[usize]) -> std::result::Result<[usize; 2], TransformProblem> {
    match shape {
        [.., height, width] => Ok([*height, *width]),
        _ => Err(TransformProblem::NotImage { shape: shape.to_vec() }),
    }
}

fn crop_output(shape: &[usize], size: [usize; 2], padding: usize) -> std::result::Result<Vec<usize>, TransformProblem> {
    let image = image(shape)?;
    // The places are drawn as u32, and no row's number may overflow.
    let padded = |axis: usize| padding.checked_mul(2)?.checked_add(image[axis]).filter(|&all| all < u32::MAX as usize);
    let fits = |axis: usize| size[axis] > 0 && padded(axis).is_some_and(|padded| size[axis] <= padded);
    let output = [&shape[..shape.len() - 2], &size[..]].concat();
    if !fits(0) || !fits(1) || FieldSpec::f32(&output).length().is_none() {
        return Err(TransformProblem::CropSize { size, image, padding });
    }
    Ok(output)
}

fn channels(field: &'static str, values: &[f64], shape: &[usize]) -> std::result::Result<(), TransformProblem> {
    match values.len() == 1 || Some(&values.len()) == shape.first() {
        true => Ok(()),
        false => Err(TransformProblem::Channels { field, found: values.len(), shape: shape.to_vec() }),
    }
}

fn in_range(
    field: &'static str,
    value: f64,
    fits: bool,
    range: &'static str,
) -> std::result::Result<(), TransformProblem> {
    if fits { Ok(()) } else { Err(TransformProblem::Range { field, value, range }) }
}

/// Each channel with its mean and std, or with the only one.
fn normalise(values: &mut [f32], mean: &[f64], std: &[f64], shape: &[usize]) {
    let channels = if mean.len().max(std.len()) == 1 { 1 } else { shape.first().copied().unwrap_or(1) };
    let length = (values.len() / channels.max(1)).max(1);
    for (channel, values) in values.chunks_exact_mut(length).enumerate() {
        let of = |all: &[f64]| if all.len() == 1 { all[0] } else { all[channel] };
        let (mean, std) = (of(mean), of(std));
        values.iter_mut().for_each(|value| *value = ((f64::from(*value) - mean) / std) as f32);
    }
}
