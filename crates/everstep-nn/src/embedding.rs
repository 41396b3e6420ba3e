//! The embedding layer.

use everstep_tensor::{Device, Generator, Parameter, Tensor};

use crate::{Init, Module, Result};

/// A table of vectors, one per id.
///
/// ```
/// # use everstep_nn::Embedding;
/// # use everstep_tensor::{Device, Generator, Tensor};
/// let device = Device::cpu();
/// let table = Embedding::new(10, 4, &mut Generator::new(0), &device)?;
/// let ids = Tensor::from_slice(&[3u32, 7], &[1, 2], &device)?;
/// assert_eq!(table.forward(&ids)?.shape()[..], [1, 2, 4]);
/// # Ok::<(), everstep_nn::Error>(())
/// ```
#[derive(Debug, Module)]
#[module(crate = everstep_nn)]
pub struct Embedding {
    /// The vectors: `[count, width]`.
    pub weight: Parameter,
}

impl Embedding {
    /// `count` vectors of `width` numbers of the standard normal distribution, as in PyTorch.
    ///
    /// # Errors
    /// Those of making a tensor.
    ///
    /// ```
    /// # use everstep_nn::Embedding;
    /// # use everstep_tensor::{Device, Generator};
    /// # let (device, mut generator) = (Device::cpu(), Generator::new(0));
    /// let table = Embedding::new(100, 16, &mut generator, &device)?;
    /// assert!(table.weight.tensor().mean_all()?.item::<f32>()?.abs() < 0.1);
    /// # Ok::<(), everstep_nn::Error>(())
    /// ```
    pub fn new(count: usize, width: usize, generator: &mut Generator, device: &Device) -> Result<Self> {
        Self::with_init(count, width, Init::Normal { std: 1.0 }, generator, device)
    }

    /// The same with another distribution.
    ///
    /// # Errors
    /// [`crate::Error::Setting`] where it is none.
    ///
    /// ```
    /// # use everstep_nn::{Embedding, Init};
    /// # use everstep_tensor::{Device, Generator};
    /// # let (device, mut generator) = (Device::cpu(), Generator::new(0));
    /// let table = Embedding::with_init(10, 2, Init::Constant(0.5), &mut generator, &device)?;
    /// assert_eq!(table.weight.tensor().to_vec::<f32>()?, [0.5; 20]);
    /// # Ok::<(), everstep_nn::Error>(())
    /// ```
    pub fn with_init(
        count: usize,
        width: usize,
        init: Init,
        generator: &mut Generator,
        device: &Device,
    ) -> Result<Self> {
        init.check("Embedding", "init", (count, width))?;
        let weight = init.tensor(&[count, width], (count, width), generator, device)?;
        Ok(Self { weight: Parameter::new(&weight)? })
    }

    /// The vectors of `ids` (u32 `[..]`): `[.., width]`.
    ///
    /// # Errors
    /// [`everstep_tensor::Error::DTypes`]. An id at or above the count is found on the device, see [`Tensor::embedding`].
    ///
    /// ```
    /// # use everstep_nn::Embedding;
    /// # use everstep_tensor::{Device, Generator, Tensor};
    /// # let (device, mut generator) = (Device::cpu(), Generator::new(0));
    /// let table = Embedding::new(3, 2, &mut generator, &device)?;
    /// table.weight.set(&Tensor::from_slice(&[0.0f32, 1.0, 10.0, 11.0, 20.0, 21.0], &[3, 2], &device)?)?;
    /// let ids = Tensor::from_slice(&[2u32, 0], &[2], &device)?;
    /// assert_eq!(table.forward(&ids)?.to_vec::<f32>()?, [20.0, 21.0, 0.0, 1.0]);
    /// # Ok::<(), everstep_nn::Error>(())
    /// ```
    pub fn forward(&self, ids: &Tensor) -> everstep_tensor::Result<Tensor> {
        self.weight.tensor().embedding(ids)
    }
}
