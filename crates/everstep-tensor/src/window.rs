//! Settings of what slides over images: convolutions and poolings.

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// A number for each dimension of an image, (height, width); made from one number for both.
///
/// ```
/// # use everstep_tensor::Pair;
/// assert_eq!(Pair::from(3), Pair::from([3, 3]));
/// assert_eq!(serde_json::from_str::<Pair>("[3, 3]").unwrap(), serde_json::from_str::<Pair>("3").unwrap());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "PairForm")]
pub struct Pair(pub [usize; 2]);

/// How a [`Pair`] may be written in a file.
#[derive(Deserialize)]
#[serde(untagged)]
enum PairForm {
    Both(usize),
    Each([usize; 2]),
}

impl From<PairForm> for Pair {
    fn from(form: PairForm) -> Self {
        match form {
            PairForm::Both(value) => value.into(),
            PairForm::Each(values) => values.into(),
        }
    }
}

impl From<usize> for Pair {
    fn from(value: usize) -> Self {
        Self([value; 2])
    }
}

impl From<[usize; 2]> for Pair {
    fn from(values: [usize; 2]) -> Self {
        Self(values)
    }
}

/// Settings of a convolution: by default stride 1, no padding, dilation 1, one group. A convolution of one dimension uses
/// the second number of each pair, the width.
///
/// ```
/// # use everstep_tensor::ConvOptions;
/// let options = ConvOptions::default().stride(2).padding([1, 0]);
/// let written = r#"{"stride": 2, "padding": [1, 0]}"#;
/// assert_eq!(serde_json::from_str::<ConvOptions>(written).unwrap(), options);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConvOptions {
    /// Distance of the pixels that neighbouring outputs begin at.
    pub stride: Pair,
    /// Zeros around the image, on each side.
    pub padding: Pair,
    /// Distance of the pixels that neighbouring taps of the kernel meet.
    pub dilation: Pair,
    /// Groups of channels that have nothing to do with each other.
    pub groups: usize,
}

impl Default for ConvOptions {
    fn default() -> Self {
        Self { stride: Pair([1; 2]), padding: Pair([0; 2]), dilation: Pair([1; 2]), groups: 1 }
    }
}

impl ConvOptions {
    /// Distance of the pixels that neighbouring outputs begin at.
    ///
    /// ```
    /// # use everstep_tensor::{Activation, ConvOptions, Device, Tensor};
    /// let x = Tensor::from_slice(&[1.0f32, 2.0, 3.0, 4.0], &[1, 1, 4], &Device::cpu())?;
    /// let sum = Tensor::ones(&[1, 1, 2], &Device::cpu())?;
    /// let y = x.conv1d(&sum, None, &ConvOptions::default().stride(2), Activation::None)?;
    /// assert_eq!(y.to_vec::<f32>()?, [3.0, 7.0]);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    #[must_use]
    pub fn stride(self, stride: impl Into<Pair>) -> Self {
        Self { stride: stride.into(), ..self }
    }

    /// Zeros around the image, on each side.
    ///
    /// ```
    /// # use everstep_tensor::{Activation, ConvOptions, Device, Tensor};
    /// let x = Tensor::from_slice(&[1.0f32, 2.0, 3.0, 4.0], &[1, 1, 4], &Device::cpu())?;
    /// let sum = Tensor::ones(&[1, 1, 2], &Device::cpu())?;
    /// let y = x.conv1d(&sum, None, &ConvOptions::default().padding(1), Activation::None)?;
    /// assert_eq!(y.to_vec::<f32>()?, [1.0, 3.0, 5.0, 7.0, 4.0]);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    #[must_use]
    pub fn padding(self, padding: impl Into<Pair>) -> Self {
        Self { padding: padding.into(), ..self }
    }

    /// Distance of the pixels that neighbouring taps of the kernel meet.
    ///
    /// ```
    /// # use everstep_tensor::{Activation, ConvOptions, Device, Tensor};
    /// let x = Tensor::from_slice(&[1.0f32, 2.0, 3.0, 4.0], &[1, 1, 4], &Device::cpu())?;
    /// let sum = Tensor::ones(&[1, 1, 2], &Device::cpu())?;
    /// let y = x.conv1d(&sum, None, &ConvOptions::default().dilation(2), Activation::None)?;
    /// assert_eq!(y.to_vec::<f32>()?, [4.0, 6.0]);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    #[must_use]
    pub fn dilation(self, dilation: impl Into<Pair>) -> Self {
        Self { dilation: dilation.into(), ..self }
    }

    /// Groups of channels that have nothing to do with each other.
    ///
    /// ```
    /// # use everstep_tensor::{Activation, ConvOptions, Device, Tensor};
    /// let x = Tensor::from_slice(&[1.0f32, 2.0, 3.0, 4.0], &[1, 2, 2], &Device::cpu())?;
    /// let sum = Tensor::ones(&[2, 1, 2], &Device::cpu())?;
    /// let y = x.conv1d(&sum, None, &ConvOptions::default().groups(2), Activation::None)?;
    /// assert_eq!(y.to_vec::<f32>()?, [3.0, 7.0]);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    #[must_use]
    pub fn groups(self, groups: usize) -> Self {
        Self { groups, ..self }
    }
}

/// Settings of a pooling: by default windows that touch, without padding. A pooling of one dimension uses the second
/// number of each pair, the width.
///
/// ```
/// # use everstep_tensor::PoolOptions;
/// let options = PoolOptions::new([3, 2]).stride(2).padding([1, 0]);
/// let written = r#"{"kernel": [3, 2], "stride": 2, "padding": [1, 0]}"#;
/// assert_eq!(serde_json::from_str::<PoolOptions>(written).unwrap(), options);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PoolOptions {
    /// Size of a window.
    pub kernel: Pair,
    /// Distance of neighbouring windows; `None` is the size of one.
    #[serde(default)]
    pub stride: Option<Pair>,
    /// Pixels around the image on each side, at most half a window: they are no maximum, and zeros of a mean.
    #[serde(default = "none")]
    pub padding: Pair,
    /// Distance of neighbouring pixels of a window, of a maximum alone.
    #[serde(default = "one")]
    pub dilation: Pair,
    /// Whether a mean counts the padding.
    #[serde(default = "yes")]
    pub count_padding: bool,
}

fn none() -> Pair {
    Pair([0; 2])
}

fn one() -> Pair {
    Pair([1; 2])
}

fn yes() -> bool {
    true
}

impl PoolOptions {
    /// Windows of this size that touch.
    ///
    /// ```
    /// # use everstep_tensor::{Device, PoolOptions, Tensor};
    /// let x = Tensor::from_slice(&[1.0f32, 2.0, 3.0, 4.0], &[1, 1, 4], &Device::cpu())?;
    /// assert_eq!(x.max_pool1d(PoolOptions::new(2))?.to_vec::<f32>()?, [2.0, 4.0]);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn new(kernel: impl Into<Pair>) -> Self {
        Self { kernel: kernel.into(), stride: None, padding: none(), dilation: one(), count_padding: true }
    }

    /// Distance of neighbouring windows.
    ///
    /// ```
    /// # use everstep_tensor::{Device, PoolOptions, Tensor};
    /// let x = Tensor::from_slice(&[1.0f32, 2.0, 3.0, 4.0], &[1, 1, 4], &Device::cpu())?;
    /// assert_eq!(x.max_pool1d(PoolOptions::new(2).stride(1))?.to_vec::<f32>()?, [2.0, 3.0, 4.0]);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    #[must_use]
    pub fn stride(self, stride: impl Into<Pair>) -> Self {
        Self { stride: Some(stride.into()), ..self }
    }

    /// Pixels around the image on each side, at most half a window.
    ///
    /// ```
    /// # use everstep_tensor::{Device, PoolOptions, Tensor};
    /// let x = Tensor::from_slice(&[1.0f32, 2.0, 3.0, 4.0], &[1, 1, 4], &Device::cpu())?;
    /// assert_eq!(x.avg_pool1d(PoolOptions::new(2).padding(1))?.to_vec::<f32>()?, [0.5, 2.5, 2.0]);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    #[must_use]
    pub fn padding(self, padding: impl Into<Pair>) -> Self {
        Self { padding: padding.into(), ..self }
    }

    /// Distance of neighbouring pixels of a window, of a maximum alone.
    ///
    /// ```
    /// # use everstep_tensor::{Device, PoolOptions, Tensor};
    /// let x = Tensor::from_slice(&[1.0f32, 2.0, 3.0, 4.0], &[1, 1, 4], &Device::cpu())?;
    /// assert_eq!(x.max_pool1d(PoolOptions::new(2).stride(1).dilation(2))?.to_vec::<f32>()?, [3.0, 4.0]);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    #[must_use]
    pub fn dilation(self, dilation: impl Into<Pair>) -> Self {
        Self { dilation: dilation.into(), ..self }
    }

    /// Whether a mean counts the padding.
    ///
    /// ```
    /// # use everstep_tensor::{Device, PoolOptions, Tensor};
    /// let x = Tensor::from_slice(&[1.0f32, 2.0, 3.0, 4.0], &[1, 1, 4], &Device::cpu())?;
    /// let options = PoolOptions::new(2).padding(1).count_padding(false);
    /// assert_eq!(x.avg_pool1d(options)?.to_vec::<f32>()?, [1.0, 2.5, 4.0]);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    #[must_use]
    pub fn count_padding(self, count_padding: bool) -> Self {
        Self { count_padding, ..self }
    }
}

impl From<usize> for PoolOptions {
    fn from(kernel: usize) -> Self {
        Self::new(kernel)
    }
}

impl From<[usize; 2]> for PoolOptions {
    fn from(kernel: [usize; 2]) -> Self {
        Self::new(kernel)
    }
}

/// The largest setting: what shaders compute from it stays within 32 bits.
const LARGEST: usize = 1 << 20;

/// Refuses a setting outside `least` to the largest.
pub(crate) fn check(op: &'static str, name: &'static str, values: &[usize], least: usize) -> Result<()> {
    match values.iter().find(|&&value| value < least || value > LARGEST) {
        None => Ok(()),
        Some(&value) => {
            let range = if least == 0 { "0 to 2^20" } else { "1 to 2^20" };
            Err(Error::Argument { op, name, value: value as f64, range })
        }
    }
}

/// Pixels from the first to the last of a window.
pub(crate) fn extent(kernel: usize, dilation: usize) -> usize {
    kernel.saturating_sub(1).saturating_mul(dilation).saturating_add(1)
}

/// How many windows there are along one dimension; `None` where none fits.
pub(crate) fn outputs(input: usize, extent: usize, stride: usize, padding: usize) -> Option<usize> {
    Some((input + 2 * padding).checked_sub(extent)? / stride + 1)
}
