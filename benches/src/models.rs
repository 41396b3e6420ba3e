//! The models of the workloads.

use everstep::prelude::*;

/// Fully connected layers with ReLU between them.
#[derive(Module)]
pub struct Mlp {
    layers: Vec<Linear>,
}

impl Mlp {
    /// Layers between these sizes.
    ///
    /// # Errors
    /// Those of making layers.
    pub fn new(sizes: &[usize], device: &Device) -> everstep::Result<Self> {
        let mut generator = Generator::new(0);
        let layer = |pair: &[usize]| Ok(Linear::new(pair[0], pair[1], &mut generator, device)?);
        Ok(Self { layers: sizes.windows(2).map(layer).collect::<everstep::Result<_>>()? })
    }

    /// Logits of x [B, first size].
    ///
    /// # Errors
    /// Those of the ops.
    pub fn forward(&self, x: &Tensor) -> everstep::Result<Tensor> {
        let mut x = x.clone();
        for (index, layer) in self.layers.iter().enumerate() {
            let last = index + 1 == self.layers.len();
            x = layer.forward_with(&x, if last { Activation::None } else { Activation::Relu })?;
        }
        Ok(x)
    }
}

/// conv 1-32, ReLU, conv 32-64, ReLU (both 3x3, padding 1), max-pool 2, linear to 128, ReLU, linear to 10.
#[derive(Module)]
pub struct Cnn {
    conv1: Conv2d,
    conv2: Conv2d,
    hidden: Linear,
    output: Linear,
}

impl Cnn {
    /// For images of 28 x 28.
    ///
    /// # Errors
    /// Those of making layers.
    pub fn new(device: &Device) -> everstep::Result<Self> {
        let mut generator = Generator::new(0);
        Ok(Self {
            conv1: Conv2dConfig::new(1, 32, 3).padding(1).init(&mut generator, device)?,
            conv2: Conv2dConfig::new(32, 64, 3).padding(1).init(&mut generator, device)?,
            hidden: Linear::new(64 * 14 * 14, 128, &mut generator, device)?,
            output: Linear::new(128, 10, &mut generator, device)?,
        })
    }

    /// Logits of images [B, 1, 28, 28].
    ///
    /// # Errors
    /// Those of the ops.
    pub fn forward(&self, images: &Tensor) -> everstep::Result<Tensor> {
        let x = self.conv1.forward_with(images, Activation::Relu)?;
        let x = self.conv2.forward_with(&x, Activation::Relu)?.max_pool2d(2)?;
        let x = self.hidden.forward_with(&x.flatten_from(1)?, Activation::Relu)?;
        Ok(self.output.forward(&x)?)
    }
}
