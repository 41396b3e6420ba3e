//! Convolution as a layer, of signals and of images.

use everstep_tensor::{Activation, ConvOptions, Device, Generator, Pair, Parameter, Tensor};
use serde::{Deserialize, Serialize};

use crate::init::gain;
use crate::{Error, Fan, Init, Layer, Module, Result};

fn yes() -> bool {
    true
}

fn one() -> usize {
    1
}

fn default_init() -> Init {
    Init::KaimingUniform { gain: gain::leaky_relu(5f64.sqrt()), fan: Fan::In }
}

/// What both kinds of layers begin with.
struct Beginning<'a> {
    layer: &'static str,
    channels: [usize; 2],
    groups: usize,
    kernel: &'a [usize],
    weight_init: Init,
    bias_init: Option<Init>,
    bias: bool,
}

impl Beginning<'_> {
    /// Weight and bias, drawn from streams of their own.
    fn parameters(&self, generator: &mut Generator, device: &Device) -> Result<(Parameter, Option<Parameter>)> {
        let [in_channels, out_channels] = self.channels;
        let settings = [("in_channels", in_channels), ("out_channels", out_channels), ("groups", self.groups)];
        let kernel = self.kernel.iter().map(|&size| ("kernel", size));
        if let Some((field, _)) = settings.into_iter().chain(kernel).find(|(_, value)| *value == 0) {
            return Err(Error::Setting { layer: self.layer, field, value: "0".into(), rule: "at least 1" });
        }
        for (field, channels) in &settings[..2] {
            if !channels.is_multiple_of(self.groups) {
                let (value, rule) = (channels.to_string(), "a multiple of `groups`");
                return Err(Error::Setting { layer: self.layer, field, value, rule });
            }
        }
        let shape = [&[out_channels, in_channels / self.groups], self.kernel].concat();
        let taps = self.kernel.iter().fold(1, |product: usize, &size| product.saturating_mul(size));
        // As PyTorch counts them: the second without regard to groups.
        let fans = (shape[1].saturating_mul(taps), out_channels.saturating_mul(taps));
        let bias_init = self.bias_init.unwrap_or(Init::Uniform { bound: 1.0 / (fans.0 as f64).sqrt() });
        for (field, init) in [("weight_init", &self.weight_init), ("bias_init", &bias_init)] {
            init.check(self.layer, field, fans)?;
        }
        let weight = Parameter::new(&self.weight_init.tensor(&shape, fans, generator, device)?)?;
        let bias = match self.bias {
            true => Some(Parameter::new(&bias_init.tensor(&[out_channels], fans, generator, device)?)?),
            false => None,
        };
        Ok((weight, bias))
    }
}

/// The lines of an example, put together from parts.
macro_rules! example {
    ($($part:expr),+ $(,)?) => {
        concat!(
            "```\n# use everstep_nn::*;\n# use everstep_tensor::{Activation, Device, Generator, Tensor};\n",
            "# let (device, mut generator) = (Device::cpu(), Generator::new(0));\n",
            $($part,)+
            "\n# Ok::<(), everstep_nn::Error>(())\n```"
        )
    };
}

/// A layer of one number of dimensions: its settings, its parameters, its forward pass. `$image` is the shape of an image
/// of two pixels each way, for the examples, and `$sum` the sum of its pixels where each is 1.
macro_rules! layer {
    (
        $(#[$doc:meta])* $layer:ident, $config:ident, $method:ident, $size:ty, $argument:ty,
        |$kernel:ident| $sizes:expr, $taps:literal, $image:literal, $sum:literal
    ) => {
        #[doc = concat!("Settings of a [`", stringify!($layer), "`] layer.")]
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct $config {
            /// Channels of the input.
            pub in_channels: usize,
            /// Channels of the output.
            pub out_channels: usize,
            /// Size of the kernel.
            pub kernel: $size,
            /// Distance of the pixels that neighbouring outputs begin at; by default 1.
            #[serde(default = "defaults::stride")]
            pub stride: Pair,
            /// Zeros around the input, on each side; by default none.
            #[serde(default = "defaults::padding")]
            pub padding: Pair,
            /// Distance of the pixels that neighbouring taps meet; by default 1.
            #[serde(default = "defaults::stride")]
            pub dilation: Pair,
            /// Groups of channels that have nothing to do with each other; by default 1.
            #[serde(default = "one")]
            pub groups: usize,
            /// Whether a bias is added.
            #[serde(default = "yes")]
            pub bias: bool,
            /// How the weight begins. By default as in PyTorch: uniform in +-1 / sqrt(fan in).
            #[serde(default = "default_init")]
            pub weight_init: Init,
            /// How the bias begins; `None` is uniform in +-1 / sqrt(fan in).
            #[serde(default)]
            pub bias_init: Option<Init>,
        }

        impl $config {
            /// A layer with this kernel, stride 1, no padding, a bias and PyTorch's initialisation.
            ///
            #[doc = example!(
                "let layer = ", stringify!($config), "::new(1, 8, 2).init(&mut generator, &device)?;\n",
                "assert_eq!(layer.forward(&Tensor::ones(&", $image, ", &device)?)?.to_vec::<f32>()?.len(), 8);",
            )]
            pub fn new(in_channels: usize, out_channels: usize, kernel: $argument) -> Self {
                let ConvOptions { stride, padding, dilation, groups } = ConvOptions::default();
                let (kernel, weight_init) = (kernel.into(), default_init());
                let (bias, bias_init) = (true, None);
                Self {
                    in_channels, out_channels, kernel, stride, padding, dilation, groups, bias, weight_init, bias_init,
                }
            }

            /// Distance of the pixels that neighbouring outputs begin at.
            #[must_use]
            pub fn stride(self, stride: $argument) -> Self {
                Self { stride: stride.into(), ..self }
            }

            /// Zeros around the input, on each side.
            #[must_use]
            pub fn padding(self, padding: $argument) -> Self {
                Self { padding: padding.into(), ..self }
            }

            /// Distance of the pixels that neighbouring taps meet.
            #[must_use]
            pub fn dilation(self, dilation: $argument) -> Self {
                Self { dilation: dilation.into(), ..self }
            }

            /// Groups of channels that have nothing to do with each other.
            #[must_use]
            pub fn groups(self, groups: usize) -> Self {
                Self { groups, ..self }
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
            /// [`Error::Setting`] for channels, groups or a kernel of 0, channels that are no multiple of the groups, or
            /// where an initial distribution is none; those of making a tensor.
            ///
            #[doc = example!(
                "let config = ", stringify!($config), "::new(1, 1, 2).bias(false).weight_init(Init::Constant(0.5));\n",
                "let layer = config.init(&mut generator, &device)?;\n",
                "assert!(layer.weight.tensor().to_vec::<f32>()?.iter().all(|&weight| weight == 0.5));",
            )]
            pub fn init(&self, generator: &mut Generator, device: &Device) -> Result<$layer> {
                let $kernel = self.kernel;
                let beginning = Beginning {
                    layer: stringify!($layer),
                    channels: [self.in_channels, self.out_channels],
                    groups: self.groups,
                    kernel: &$sizes,
                    weight_init: self.weight_init,
                    bias_init: self.bias_init,
                    bias: self.bias,
                };
                let (weight, bias) = beginning.parameters(generator, device)?;
                let (stride, padding, dilation) = (self.stride, self.padding, self.dilation);
                Ok($layer { weight, bias, options: ConvOptions { stride, padding, dilation, groups: self.groups } })
            }
        }

        $(#[$doc])*
        #[derive(Debug, Module)]
        #[module(crate = everstep_nn)]
        pub struct $layer {
            #[doc = concat!("`[out, in / groups, ", $taps, "]`.")]
            pub weight: Parameter,
            /// `[out]`.
            pub bias: Option<Parameter>,
            #[module(skip)]
            options: ConvOptions,
        }

        impl $layer {
            /// Stride, padding, dilation and groups.
            pub fn options(&self) -> &ConvOptions {
                &self.options
            }

            /// x * W + b.
            ///
            /// # Errors
            /// [`everstep_tensor::Error::Shapes`] where x has other channels, or is smaller than the kernel.
            ///
            #[doc = example!(
                "let config = ", stringify!($config), "::new(1, 1, 2).bias(false).weight_init(Init::Constant(1.0));\n",
                "let layer = config.init(&mut generator, &device)?;\n",
                "assert_eq!(layer.forward(&Tensor::ones(&", $image, ", &device)?)?.to_vec::<f32>()?, [", $sum, "]);",
            )]
            pub fn forward(&self, x: &Tensor) -> everstep_tensor::Result<Tensor> {
                self.forward_with(x, Activation::None)
            }

            /// activation(x * W + b), in one kernel where the activation's gradient allows it.
            ///
            /// # Errors
            #[doc = concat!("As [`", stringify!($layer), "::forward`].")]
            ///
            #[doc = example!(
                "let layer = ", stringify!($config), "::new(1, 1, 2).bias_init(Init::Constant(-9.0)).init(&mut generator, &device)?;\n",
                "let x = Tensor::ones(&", $image, ", &device)?;\n",
                "assert_eq!(layer.forward_with(&x, Activation::Relu)?.to_vec::<f32>()?, [0.0]);",
            )]
            pub fn forward_with(&self, x: &Tensor, activation: Activation) -> everstep_tensor::Result<Tensor> {
                let bias = self.bias.as_ref().map(Parameter::tensor);
                x.$method(&self.weight.tensor(), bias.as_ref(), &self.options, activation)
            }
        }

        impl Layer for $layer {
            fn forward(&self, x: &Tensor) -> everstep_tensor::Result<Tensor> {
                $layer::forward(self, x)
            }
        }
    };
}

/// Defaults of settings that are pairs.
mod defaults {
    use everstep_tensor::{ConvOptions, Pair};

    pub(super) fn stride() -> Pair {
        ConvOptions::default().stride
    }

    pub(super) fn padding() -> Pair {
        ConvOptions::default().padding
    }
}

layer! {
    /// Convolution of images: x `[B, in, H, W]`, W `[out, in / groups, kernel height, kernel width]`, b `[out]`, y
    /// `[B, out, H', W']`. See [`Tensor::conv2d`].
    ///
    /// ```
    /// # use everstep_nn::Conv2dConfig;
    /// # use everstep_tensor::{Activation, Device, Generator, Tensor};
    /// let device = Device::cpu();
    /// let layer = Conv2dConfig::new(1, 8, 3).padding(1).init(&mut Generator::new(0), &device)?;
    /// let x = Tensor::ones(&[2, 1, 5, 7], &device)?;
    /// assert_eq!(layer.forward_with(&x, Activation::Relu)?.shape(), &[2, 8, 5, 7]);
    /// # Ok::<(), everstep_nn::Error>(())
    /// ```
    Conv2d, Conv2dConfig, conv2d, Pair, impl Into<Pair>, |kernel| kernel.0, "kernel height, kernel width",
    "[1, 1, 2, 2]", "4.0"
}

layer! {
    /// Convolution of signals: x `[B, in, L]`, W `[out, in / groups, kernel]`, b `[out]`, y `[B, out, L']`. See
    /// [`Tensor::conv1d`].
    ///
    /// ```
    /// # use everstep_nn::Conv1dConfig;
    /// # use everstep_tensor::{Device, Generator, Tensor};
    /// let device = Device::cpu();
    /// let layer = Conv1dConfig::new(3, 4, 5).stride(2).init(&mut Generator::new(0), &device)?;
    /// assert_eq!(layer.forward(&Tensor::ones(&[2, 3, 9], &device)?)?.shape(), &[2, 4, 3]);
    /// # Ok::<(), everstep_nn::Error>(())
    /// ```
    Conv1d, Conv1dConfig, conv1d, usize, usize, |kernel| [kernel], "kernel", "[1, 1, 2]", "2.0"
}
