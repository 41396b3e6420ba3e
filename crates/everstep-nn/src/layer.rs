//! What maps one tensor to another, and chains of them.

use std::fmt;

use everstep_tensor::Tensor;

use crate::{Dropout, Linear, Module, Visitor};

/// A module that maps one tensor to another: what [`Sequential`] is made of.
///
/// ```
/// use everstep_nn::{Layer, Module, Sequential};
/// use everstep_tensor::{Device, Tensor};
///
/// #[derive(Module)]
/// # #[module(crate = everstep_nn)]
/// struct Square;
///
/// impl Layer for Square {
///     fn forward(&self, x: &Tensor) -> everstep_tensor::Result<Tensor> {
///         x.mul(x)
///     }
/// }
///
/// let twice = Sequential::new().with(Square).with(Square);
/// let x = Tensor::from_slice(&[2.0f32, 3.0], &[2], &Device::cpu())?;
/// assert_eq!(twice.forward(&x)?.to_vec::<f32>()?, [16.0, 81.0]);
/// # Ok::<(), everstep_tensor::Error>(())
/// ```
pub trait Layer: Module {
    /// What the layer makes of `x`.
    ///
    /// # Errors
    /// Those of the layer's ops.
    fn forward(&self, x: &Tensor) -> everstep_tensor::Result<Tensor>;
}

impl<L: Layer + ?Sized> Layer for Box<L> {
    fn forward(&self, x: &Tensor) -> everstep_tensor::Result<Tensor> {
        (**self).forward(x)
    }
}

impl Layer for Linear {
    fn forward(&self, x: &Tensor) -> everstep_tensor::Result<Tensor> {
        Linear::forward(self, x)
    }
}

impl Layer for Dropout {
    fn forward(&self, x: &Tensor) -> everstep_tensor::Result<Tensor> {
        Dropout::forward(self, x)
    }
}

/// Layers one after another, named by their number as in PyTorch: `0.weight`, `0.bias`, `2.weight`.
///
/// ```
/// # use everstep_nn::{Linear, Module, Relu, Sequential};
/// # use everstep_tensor::{Device, Generator, Tensor};
/// # let (device, mut generator) = (Device::cpu(), Generator::new(0));
/// let first = Linear::new(4, 8, &mut generator, &device)?;
/// let model = Sequential::new().with(first).with(Relu).with(Linear::new(8, 2, &mut generator, &device)?);
/// assert_eq!(model.forward(&Tensor::zeros(&[3, 4], &device)?)?.shape(), &[3, 2]);
/// let names: Vec<String> = model.named_parameters().into_iter().map(|(name, _)| name).collect();
/// assert_eq!(names, ["0.weight", "0.bias", "2.weight", "2.bias"]);
/// # Ok::<(), everstep_nn::Error>(())
/// ```
#[derive(Default)]
pub struct Sequential {
    layers: Vec<Box<dyn Layer>>,
}

impl Sequential {
    /// No layers: what goes in comes out.
    ///
    /// ```
    /// # use everstep_nn::Sequential;
    /// # use everstep_tensor::{Device, Tensor};
    /// let x = Tensor::from_slice(&[1.0f32, -2.0], &[2], &Device::cpu())?;
    /// assert_eq!(Sequential::new().forward(&x)?.to_vec::<f32>()?, [1.0, -2.0]);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn new() -> Self {
        Self::default()
    }

    /// With one more layer at the end.
    ///
    /// ```
    /// # use everstep_nn::{Relu, Sequential};
    /// # use everstep_tensor::{Device, Tensor};
    /// let x = Tensor::from_slice(&[1.0f32, -2.0], &[2], &Device::cpu())?;
    /// assert_eq!(Sequential::new().with(Relu).forward(&x)?.to_vec::<f32>()?, [1.0, 0.0]);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    #[must_use]
    pub fn with(mut self, layer: impl Layer + 'static) -> Self {
        self.push(layer);
        self
    }

    /// Adds a layer at the end.
    ///
    /// ```
    /// # use everstep_nn::{Relu, Sequential};
    /// let mut model = Sequential::new();
    /// (0..3).for_each(|_| model.push(Relu));
    /// assert_eq!(model.len(), 3);
    /// ```
    pub fn push(&mut self, layer: impl Layer + 'static) {
        self.layers.push(Box::new(layer));
    }

    /// The number of layers.
    ///
    /// ```
    /// # use everstep_nn::{Relu, Sequential};
    /// assert_eq!(Sequential::new().with(Relu).len(), 1);
    /// ```
    pub fn len(&self) -> usize {
        self.layers.len()
    }

    /// Whether there are none.
    ///
    /// ```
    /// # use everstep_nn::Sequential;
    /// assert!(Sequential::new().is_empty());
    /// ```
    pub fn is_empty(&self) -> bool {
        self.layers.is_empty()
    }

    /// What the last layer makes of what the others made of x.
    ///
    /// # Errors
    /// Those of the layers.
    ///
    /// ```
    /// # use everstep_nn::{Relu, Sequential, Tanh};
    /// # use everstep_tensor::{Device, Tensor};
    /// let model = Sequential::new().with(Relu).with(Tanh);
    /// let x = Tensor::from_slice(&[100.0f32, -100.0], &[2], &Device::cpu())?;
    /// assert_eq!(model.forward(&x)?.to_vec::<f32>()?, [1.0, 0.0]);
    /// # Ok::<(), everstep_tensor::Error>(())
    /// ```
    pub fn forward(&self, x: &Tensor) -> everstep_tensor::Result<Tensor> {
        self.layers.iter().try_fold(x.clone(), |x, layer| layer.forward(&x))
    }
}

impl Module for Sequential {
    fn visit(&self, visitor: &mut Visitor<'_>) {
        self.layers.visit(visitor);
    }
}

impl Layer for Sequential {
    fn forward(&self, x: &Tensor) -> everstep_tensor::Result<Tensor> {
        Sequential::forward(self, x)
    }
}

impl fmt::Debug for Sequential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sequential({} layers)", self.layers.len())
    }
}
