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
    ///
    /// ```
    /// # use everstep_nn::Dropout;
    /// # use everstep_tensor::Generator;
    /// assert!(Dropout::new(0.1, &mut Generator::new(0)).is_ok());
    /// assert!(Dropout::new(1.0, &mut Generator::new(0)).is_err());
    /// ```
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
    ///
    /// ```
    /// # use everstep_nn::{Dropout, Module};
    /// # use everstep_tensor::{Device, Generator, Tensor};
    /// let layer = Dropout::new(0.5, &mut Generator::new(0))?;
    /// let x = Tensor::ones(&[100], &Device::cpu())?;
    /// assert!(layer.forward(&x)?.to_vec::<f32>()?.iter().all(|&y| y == 0.0 || y == 2.0));
    /// layer.eval();
    /// assert_eq!(layer.forward(&x)?.to_vec::<f32>()?, [1.0; 100]);
    /// # Ok::<(), everstep_nn::Error>(())
    /// ```
    pub fn forward(&self, x: &Tensor) -> everstep_tensor::Result<Tensor> {
        if !self.mode.is_training() || self.probability == 0.0 {
            return Ok(x.clone());
        }
        x.dropout(self.probability, &self.stream.draw(x.device())?)
    }
}
