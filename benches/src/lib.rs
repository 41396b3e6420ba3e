//! What the benches share: the device under test and the workloads' models.
//!
//! The workloads are those that other engines are timed on too: a step is forward, mean cross-entropy, backward and AdamW
//! (rate 1e-3, betas 0.9 and 0.999, epsilon 1e-8, weight decay 0.01), its input already on the device.

use everstep::prelude::*;

/// The device under test: what `EVERSTEP_DEVICE` names, else the best.
///
/// # Errors
/// Where it names none.
pub fn device() -> everstep::Result<Device> {
    Ok(Device::best()?)
}

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

/// A training step of an [`Mlp`] on one fixed batch.
pub struct MlpStep {
    model: Mlp,
    optimizer: Optimizer,
    x: Tensor,
    y: Tensor,
}

impl MlpStep {
    /// For layers of these sizes and a batch of `batch` samples.
    ///
    /// # Errors
    /// Those of making layers and tensors.
    pub fn new(sizes: &[usize], batch: usize, device: &Device) -> everstep::Result<Self> {
        let model = Mlp::new(sizes, device)?;
        let optimizer = AdamW::new(1e-3).build(&model)?;
        let x = Tensor::randn(&[batch, sizes[0]], &mut Generator::new(1), device)?;
        let y = Tensor::from_vec((0..batch as u32).map(|index| index % 10).collect(), &[batch], device)?;
        Ok(Self { model, optimizer, x, y })
    }

    /// One step, finished on the device.
    ///
    /// # Errors
    /// Those of the step.
    pub fn run(&mut self) -> everstep::Result<()> {
        let loss = self.model.forward(&self.x)?.cross_entropy(&self.y)?;
        loss.backward()?;
        self.optimizer.step(&loss)?;
        self.optimizer.finish()?;
        Ok(())
    }
}
