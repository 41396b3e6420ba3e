//! Pooling as layers, for [`crate::Sequential`].

use everstep_tensor::{Pair, PoolOptions, Result, Tensor};
use serde::{Deserialize, Serialize};

use crate::{Layer, Module};

/// The lines of an example: what a layer of this setting makes of 1, 2, 3, 4.
macro_rules! example {
    ($name:ident, $setting:literal, [$($size:literal),+] => [$($y:literal),+]) => {
        concat!(
            "```\n# use everstep_nn::{Layer, ", stringify!($name), "};\n# use everstep_tensor::{Device, Tensor};\n",
            "let x = Tensor::from_slice(&[1.0f32, 2.0, 3.0, 4.0], &[", $($size, ", ",)+ "], &Device::cpu())?;\n",
            "let layer = ", stringify!($name), "::new(", stringify!($setting), ");\n",
            "assert_eq!(layer.forward(&x)?.to_vec::<f32>()?, [", $(stringify!($y), ", ",)+ "]);\n",
            "# Ok::<(), everstep_tensor::Error>(())\n```"
        )
    };
}

/// Layers of one setting that are one method of a tensor, `Name(Setting) => method: example`.
macro_rules! pools {
    (
        $($(#[$doc:meta])* $name:ident($setting:ty) => $method:ident:
        $example:literal, [$($size:literal),+] => [$($y:literal),+];)+
    ) => {
        $(
            $(#[$doc])*
            ///
            #[doc = example!($name, $example, [$($size),+] => [$($y),+])]
            #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Module)]
            #[module(crate = everstep_nn)]
            pub struct $name(#[module(skip)] $setting);

            impl $name {
                /// With these settings; a number or a pair is the window's size, or an adaptive pooling's output.
                ///
                #[doc = example!($name, $example, [$($size),+] => [$($y),+])]
                pub fn new(setting: impl Into<$setting>) -> Self {
                    Self(setting.into())
                }
            }

            impl Layer for $name {
                fn forward(&self, x: &Tensor) -> Result<Tensor> {
                    x.$method(self.0)
                }
            }
        )+
    };
}

pools! {
    /// The largest pixel of each window: see [`Tensor::max_pool2d`].
    MaxPool2d(PoolOptions) => max_pool2d: 2, [1, 1, 2, 2] => [4.0];
    /// The largest element of each window of signals: see [`Tensor::max_pool1d`].
    MaxPool1d(PoolOptions) => max_pool1d: 2, [1, 1, 4] => [2.0, 4.0];
    /// The mean of each window: see [`Tensor::avg_pool2d`].
    AvgPool2d(PoolOptions) => avg_pool2d: 2, [1, 1, 2, 2] => [2.5];
    /// The mean of each window of signals: see [`Tensor::avg_pool1d`].
    AvgPool1d(PoolOptions) => avg_pool1d: 2, [1, 1, 4] => [1.5, 3.5];
    /// The mean of each of so many windows: see [`Tensor::adaptive_avg_pool2d`].
    AdaptiveAvgPool2d(Pair) => adaptive_avg_pool2d: 1, [1, 1, 2, 2] => [2.5];
    /// The mean of each of so many windows of signals: see [`Tensor::adaptive_avg_pool1d`].
    AdaptiveAvgPool1d(usize) => adaptive_avg_pool1d: 2usize, [1, 1, 4] => [1.5, 3.5];
}
