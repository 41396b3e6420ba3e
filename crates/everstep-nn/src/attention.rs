//! Attention of one sequence to another.

use everstep_tensor::{AttentionOptions, Device, Generator, Tensor};

use crate::{Error, Linear, LinearConfig, Module, Result};

/// Attention with several heads (Vaswani et al., 2017): queries from one sequence, keys and values from others, a projection
/// of each to `heads` heads, attention per head, one projection back. For a sequence that attends to itself
/// [`crate::transformer::SelfAttention`] does the same with one projection and no copies.
///
/// ```
/// # use everstep_nn::MultiHeadAttention;
/// # use everstep_tensor::{AttentionOptions, Device, Generator, Tensor};
/// let (device, mut generator) = (Device::cpu(), Generator::new(0));
/// let attention = MultiHeadAttention::new(8, 2, &mut generator, &device)?;
/// let (decoder, encoder) = (Tensor::ones(&[3, 5, 8], &device)?, Tensor::ones(&[3, 7, 8], &device)?);
/// let y = attention.forward(&decoder, &encoder, &encoder, &AttentionOptions::new())?;
/// assert_eq!(y.shape()[..], [3, 5, 8]);
/// # Ok::<(), everstep_nn::Error>(())
/// ```
#[derive(Debug, Module)]
#[module(crate = everstep_nn)]
pub struct MultiHeadAttention {
    /// To the queries: `[width, width]`.
    pub query: Linear,
    /// To the keys: `[width, features of the keys]`.
    pub key: Linear,
    /// To the values: `[width, features of the values]`.
    pub value: Linear,
    /// Back: `[width, width]`.
    pub proj: Linear,
    heads: usize,
}

impl MultiHeadAttention {
    /// `heads` heads of `width / heads` each, of sequences that are all of this width.
    ///
    /// # Errors
    /// [`Error::Setting`] where the heads do not divide the width.
    pub fn new(width: usize, heads: usize, generator: &mut Generator, device: &Device) -> Result<Self> {
        Self::with_features(width, [width; 2], heads, generator, device)
    }

    /// The same, for keys and values of other numbers of features.
    ///
    /// # Errors
    /// As [`MultiHeadAttention::new`].
    pub fn with_features(
        width: usize,
        [keys, values]: [usize; 2],
        heads: usize,
        generator: &mut Generator,
        device: &Device,
    ) -> Result<Self> {
        if heads == 0 || !width.is_multiple_of(heads) {
            let rule = "at least 1, and a divisor of the width";
            return Err(Error::Setting { layer: "MultiHeadAttention", field: "heads", value: heads.to_string(), rule });
        }
        let mut layer = |features: usize| LinearConfig::new(features, width).init(generator, device);
        Ok(Self { query: layer(width)?, key: layer(keys)?, value: layer(values)?, proj: layer(width)?, heads })
    }

    /// Of queries `[B, T, width]`, keys `[B, S, ..]` and values `[B, S, ..]`: `[B, T, width]`. A mask of the options is
    /// broadcast to `[B, heads, T, S]`.
    ///
    /// # Errors
    /// [`everstep_tensor::Error::Shapes`], [`everstep_tensor::Error::Shape`].
    pub fn forward(
        &self,
        queries: &Tensor,
        keys: &Tensor,
        values: &Tensor,
        options: &AttentionOptions,
    ) -> everstep_tensor::Result<Tensor> {
        let query = self.split(&self.query.forward(queries)?)?;
        let (key, value) = (self.split(&self.key.forward(keys)?)?, self.split(&self.value.forward(values)?)?);
        let attended = query.scaled_dot_product_attention(&key, &value, options)?.permute(&[0, 2, 1, 3])?;
        self.proj.forward(&attended.flatten_from(2)?)
    }

    /// `[B, T, width]` as heads, `[B, heads, T, width / heads]`.
    fn split(&self, x: &Tensor) -> everstep_tensor::Result<Tensor> {
        let [batch, time, width] = x.shape()[..] else {
            let rule = "attention takes sequences [B, T, features]";
            return Err(everstep_tensor::Error::Shape { op: "attention", shape: *x.shape(), rule });
        };
        x.reshape(&[batch, time, self.heads, width / self.heads])?.permute(&[0, 2, 1, 3])
    }
}
