//! Pooling as layers, for [`crate::Sequential`].

use everstep_tensor::{Pair, PoolOptions, Result, Tensor};
use serde::{Deserialize, Serialize};

use crate::{Layer, Module};

/// Layers of one setting that are one method of a tensor.
macro_rules! pools {
    ($($(#[$doc:meta])* $name:ident($setting:ty) => $method:ident;)+) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Module)]
            #[module(crate = everstep_nn)]
            pub struct $name(#[module(skip)] $setting);

            impl $name {
                /// With these settings; a number or a pair is the window's size, or an adaptive pooling's output.
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
    ///
    /// ```
    /// # use everstep_nn::{Layer, MaxPool2d};
    /// # use everstep_tensor::{Device, Tensor};
    /// let x = Tensor::zeros(&[2, 3, 8, 6], &Device::cpu())?;
    /// assert_eq!(MaxPool2d::new(2).forward(&x)?.shape(), &[2, 3, 4, 3]);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    MaxPool2d(PoolOptions) => max_pool2d;
    /// The largest element of each window of signals: see [`Tensor::max_pool1d`].
    MaxPool1d(PoolOptions) => max_pool1d;
    /// The mean of each window: see [`Tensor::avg_pool2d`].
    AvgPool2d(PoolOptions) => avg_pool2d;
    /// The mean of each window of signals: see [`Tensor::avg_pool1d`].
    AvgPool1d(PoolOptions) => avg_pool1d;
    /// The mean of each of so many windows: see [`Tensor::adaptive_avg_pool2d`].
    ///
    /// ```
    /// # use everstep_nn::{AdaptiveAvgPool2d, Layer};
    /// # use everstep_tensor::{Device, Tensor};
    /// let x = Tensor::zeros(&[2, 3, 8, 6], &Device::cpu())?;
    /// assert_eq!(AdaptiveAvgPool2d::new(1).forward(&x)?.shape(), &[2, 3, 1, 1]);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    AdaptiveAvgPool2d(Pair) => adaptive_avg_pool2d;
    /// The mean of each of so many windows of signals: see [`Tensor::adaptive_avg_pool1d`].
    AdaptiveAvgPool1d(usize) => adaptive_avg_pool1d;
}
