//! The transformer: self-attention, the block around it, and a language model of such blocks.

use std::sync::Arc;

use everstep_tensor::{Activation, AttentionOptions, Device, Generator, Shape, Tensor, recompute};
use serde::{Deserialize, Serialize};

use crate::{Dropout, Embedding, Error, Init, LayerNorm, Linear, LinearConfig, Module, Result};

/// Self-attention with several heads (Vaswani et al., 2017): one projection to queries, keys and values, attention per head,
/// one projection back.
#[derive(Debug, Module)]
#[module(crate = everstep_nn)]
pub struct SelfAttention {
    /// To queries, keys and values, one after the other: `[3 width, width]`.
    pub qkv: Linear,
    /// Back: `[width, width]`.
    pub proj: Linear,
    heads: usize,
}

impl SelfAttention {
    /// `heads` heads of `width / heads` each.
    ///
    /// # Errors
    /// [`Error::Setting`] where the heads do not divide the width.
    pub fn new(width: usize, heads: usize, generator: &mut Generator, device: &Device) -> Result<Self> {
        if heads == 0 || !width.is_multiple_of(heads) {
            let rule = "at least 1, and a divisor of the width";
            return Err(Error::Setting { layer: "SelfAttention", field: "heads", value: heads.to_string(), rule });
        }
        let qkv = Linear::new(width, 3 * width, generator, device)?;
        Ok(Self { qkv, proj: Linear::new(width, width, generator, device)?, heads })
    }

    /// Of x `[B, T, width]`: the same shape.
    ///
    /// # Errors
    /// [`everstep_tensor::Error::Shapes`].
    pub fn forward(&self, x: &Tensor, options: &AttentionOptions) -> everstep_tensor::Result<Tensor> {
        let packed = self.qkv.forward(x)?;
        let [batch, time, columns] = packed.shape()[..] else {
            let rule = "self-attention takes x [B, T, width]";
            return Err(everstep_tensor::Error::Shape { op: "self_attention", shape: *x.shape(), rule });
        };
        let width = columns / 3;
        let packed = packed.reshape(&[batch, time, 3, self.heads, width / self.heads])?;
        self.proj.forward(&packed.self_attention(options)?.reshape(&[batch, time, width])?)
    }
}

/// A pre-norm block: x + attention(norm(x)), and x + down(gelu(up(norm(x)))) of that, four times as wide inside.
#[derive(Debug, Module)]
#[module(crate = everstep_nn)]
pub struct TransformerBlock {
    /// Before the attention.
    pub norm1: LayerNorm,
    /// The attention.
    pub attention: SelfAttention,
    /// Before the feed-forward part.
    pub norm2: LayerNorm,
    /// To four times the width, then GELU by tanh.
    pub up: Linear,
    /// Back.
    pub down: Linear,
    /// On what both parts add.
    pub dropout: Dropout,
}

impl TransformerBlock {
    /// A block of `heads` heads that drops with probability `dropout` what it adds.
    ///
    /// # Errors
    /// As [`SelfAttention::new`].
    pub fn new(width: usize, heads: usize, dropout: f32, generator: &mut Generator, device: &Device) -> Result<Self> {
        Ok(Self {
            norm1: LayerNorm::new(width, device)?,
            attention: SelfAttention::new(width, heads, generator, device)?,
            norm2: LayerNorm::new(width, device)?,
            up: Linear::new(width, 4 * width, generator, device)?,
            down: Linear::new(4 * width, width, generator, device)?,
            dropout: Dropout::new(dropout, generator)?,
        })
    }

    /// Of x `[B, T, width]`: the same shape.
    ///
    /// # Errors
    /// [`everstep_tensor::Error::Shapes`].
    pub fn forward(&self, x: &Tensor, options: &AttentionOptions) -> everstep_tensor::Result<Tensor> {
        let attended = self.attention.forward(&self.norm1.forward(x)?, options)?;
        let x = x.add(&self.dropout.forward(&attended)?)?;
        let inner = self.up.forward_with(&self.norm2.forward(&x)?, Activation::GeluTanh)?;
        x.add(&self.dropout.forward(&self.down.forward(&inner)?)?)
    }
}

/// Settings of a [`Gpt`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GptConfig {
    /// Tokens that there are.
    pub vocab: usize,
    /// Numbers per token inside.
    pub width: usize,
    /// Blocks.
    pub layers: usize,
    /// Heads per block.
    pub heads: usize,
    /// Tokens that it sees at most.
    pub context: usize,
    /// Probability of dropout in the blocks.
    #[serde(default)]
    pub dropout: f32,
    /// Whether the backward pass computes each block's activations again instead of keeping them.
    #[serde(default)]
    pub recompute: bool,
}

impl GptConfig {
    /// A model without dropout.
    pub fn new(vocab: usize, width: usize, layers: usize, heads: usize, context: usize) -> Self {
        Self { vocab, width, layers, heads, context, dropout: 0.0, recompute: false }
    }

    /// With dropout.
    #[must_use]
    pub fn dropout(self, dropout: f32) -> Self {
        Self { dropout, ..self }
    }

    /// With activations that are computed again in the backward pass ([`everstep_tensor::recompute`]): the same gradients, bit
    /// for bit, in the memory of one block's activations and a second forward pass's time.
    #[must_use]
    pub fn recompute(self, recompute: bool) -> Self {
        Self { recompute, ..self }
    }

    /// The model. Embeddings begin with a standard deviation of 0.02 (Radford et al., 2019), linear layers as in PyTorch.
    ///
    /// # Errors
    /// [`Error::Setting`].
    pub fn init(&self, generator: &mut Generator, device: &Device) -> Result<Gpt> {
        let table = |count: usize, generator: &mut Generator| {
            Embedding::with_init(count, self.width, Init::Normal { std: 0.02 }, generator, device)
        };
        let (tokens, positions) = (table(self.vocab, generator)?, table(self.context, generator)?);
        let block = |_| TransformerBlock::new(self.width, self.heads, self.dropout, generator, device).map(Arc::new);
        let blocks = (0..self.layers).map(block).collect::<Result<_>>()?;
        let norm = LayerNorm::new(self.width, device)?;
        let head = LinearConfig::new(self.width, self.vocab).bias(false).init(generator, device)?;
        Ok(Gpt { tok: tokens, pos: positions, blocks, norm, head, recompute: self.recompute })
    }
}

/// A language model: token and position embeddings, pre-norm blocks with causal attention, and a projection to the logits of
/// the next token (after Radford et al., 2019).
///
/// ```
/// # use everstep_nn::transformer::GptConfig;
/// # use everstep_tensor::{Device, Generator, Tensor};
/// let device = Device::cpu();
/// let model = GptConfig::new(65, 16, 2, 4, 8).init(&mut Generator::new(0), &device)?;
/// let tokens = Tensor::from_slice(&[1u32, 2, 3, 4, 5, 6], &[2, 3], &device)?;
/// assert_eq!(model.forward(&tokens)?.shape()[..], [2, 3, 65]);
/// # Ok::<(), everstep_nn::Error>(())
/// ```
#[derive(Debug, Module)]
#[module(crate = everstep_nn)]
pub struct Gpt {
    /// Vectors of the tokens.
    pub tok: Embedding,
    /// Vectors of the positions.
    pub pos: Embedding,
    /// The blocks. A tape that is to compute one again shares it.
    pub blocks: Vec<Arc<TransformerBlock>>,
    /// Before the head.
    pub norm: LayerNorm,
    /// To the logits, without a bias.
    pub head: Linear,
    recompute: bool,
}

impl Gpt {
    /// Logits `[B, T, vocab]` of the token after each of `tokens` (u32 `[B, T]`).
    ///
    /// # Errors
    /// [`everstep_tensor::Error::Shape`] where tokens is no matrix or longer than the context; [`everstep_tensor::Error::DTypes`].
    pub fn forward(&self, tokens: &Tensor) -> everstep_tensor::Result<Tensor> {
        let positions = self.pos.weight.tensor();
        let shape: Shape = *tokens.shape();
        if shape.rank() != 2 || shape[1] > positions.shape()[0] {
            let rule = "tokens are [B, T], with T at most the context";
            return Err(everstep_tensor::Error::Shape { op: "gpt", shape, rule });
        }
        let causal = AttentionOptions::new().causal();
        let x = self.tok.forward(tokens)?.add(&positions.slice(0, ..shape[1])?)?;
        let x = self.blocks.iter().try_fold(x, |x, block| self.through(block, &x, &causal))?;
        self.head.forward(&self.norm.forward(&x)?)
    }

    fn through(
        &self,
        block: &Arc<TransformerBlock>,
        x: &Tensor,
        options: &AttentionOptions,
    ) -> everstep_tensor::Result<Tensor> {
        if !self.recompute {
            return block.forward(x, options);
        }
        let (block, options) = (block.clone(), options.clone());
        recompute(x, move |x| block.forward(x, &options))
    }
}
