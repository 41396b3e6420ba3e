//! Dropout as a layer.

use everstep_tensor::{Generator, RandomStream, Tensor};

use crate::{Error, Mode, Module, Result};

/// While training, zeroes each element with probability p and scales the others by 1 / (1 - p) (Srivastava et al.,
/// 2014). In evaluation it passes its input through.
#[derive(Debug, Module)]
#[module(crate = everstep_nn)]
pub struct Dropout {
    probability: f32,
    stream: RandomStream,
    mode: Mode,
}

impl Dropout {
    /// A layer that drops with `probability`, from a random stream of its own.
    ///
    /// # Errors
    /// [`Error::Setting`] where the probability is not in [0, 1).
    pub fn new(probability: f32, generator: &mut Generator) -> Result<Self> {
        if !(0.0..1.0).contains(&probability) {
            let (value, rule) = (probability.to_string(), "at least 0 and less than 1");
            return Err(Error::Setting { layer: "Dropout", field: "probability", value, rule });
        }
        Ok(Self { probability, stream: RandomStream::new(generator), mode: Mode::training() })
    }

    /// x with elements dropped, while training.
    ///
    /// # Errors
    /// Those of the op.
    pub fn forward(&self, x: &Tensor) -> everstep_tensor::Result<Tensor> {
        if !self.mode.is_training() || self.probability == 0.0 {
            return Ok(x.clone());
        }
        x.dropout(self.probability, &self.stream.draw(x.device())?)
    }
}
