//! The classifiers that `mnist` can train.

use everstep::prelude::*;

/// What the command line can ask for.
#[derive(Clone, Copy, clap::ValueEnum)]
pub(crate) enum Kind {
    /// One hidden layer of 64.
    Seed,
    /// Two hidden layers of 512.
    Mlp,
    /// Two convolutions, a pooling and a hidden layer of 128.
    Cnn,
}

/// Digits from images `[B, 1, H, W]`.
#[derive(Module)]
pub(crate) enum Classifier {
    /// Fully connected.
    Mlp(Mlp),
    /// Convolutional.
    Cnn(Cnn),
}

impl Classifier {
    /// For images of this height and width.
    pub(crate) fn new(
        kind: Kind,
        size: [usize; 2],
        generator: &mut Generator,
        device: &Device,
    ) -> everstep::Result<Self> {
        let pixels = size[0] * size[1];
        Ok(match kind {
            Kind::Seed => Self::Mlp(Mlp::new(&[pixels, 64, 10], generator, device)?),
            Kind::Mlp => Self::Mlp(Mlp::new(&[pixels, 512, 512, 10], generator, device)?),
            Kind::Cnn => Self::Cnn(Cnn::new(size, generator, device)?),
        })
    }

    /// Logits [B, 10].
    pub(crate) fn forward(&self, images: &Tensor) -> everstep::Result<Tensor> {
        match self {
            Self::Mlp(model) => model.forward(images),
            Self::Cnn(model) => model.forward(images),
        }
    }

    /// Mean cross-entropy of a batch.
    pub(crate) fn loss(&self, batch: &Batch) -> everstep::Result<Tensor> {
        Ok(self.forward(&batch.x)?.cross_entropy(&batch.y)?)
    }
}

/// Fully connected layers with ReLU between them.
#[derive(Module)]
pub(crate) struct Mlp {
    layers: Vec<Linear>,
}

impl Mlp {
    /// Layers between these sizes, initialised for the ReLU that follows (He et al., 2015).
    fn new(sizes: &[usize], generator: &mut Generator, device: &Device) -> everstep::Result<Self> {
        let (weight, bias) = (Init::KaimingUniform { gain: gain::RELU, fan: Fan::In }, Init::Constant(0.0));
        let config = |pair: &[usize]| LinearConfig::new(pair[0], pair[1]).weight_init(weight).bias_init(bias);
        let layers = sizes.windows(2).map(|pair| Ok(config(pair).init(generator, device)?));
        Ok(Self { layers: layers.collect::<everstep::Result<_>>()? })
    }

    fn forward(&self, images: &Tensor) -> everstep::Result<Tensor> {
        let mut x = images.flatten_from(1)?;
        for (index, layer) in self.layers.iter().enumerate() {
            let last = index + 1 == self.layers.len();
            x = layer.forward_with(&x, if last { Activation::None } else { Activation::Relu })?;
        }
        Ok(x)
    }
}

/// conv 1-32, ReLU, conv 32-64, ReLU (both 3x3, padding 1), max-pool 2, linear to 128, ReLU, linear to 10.
#[derive(Module)]
pub(crate) struct Cnn {
    conv1: Conv2d,
    conv2: Conv2d,
    hidden: Linear,
    output: Linear,
}

impl Cnn {
    /// Orthogonal matrices, scaled for the ReLU that follows (Saxe et al., 2014).
    fn new([height, width]: [usize; 2], generator: &mut Generator, device: &Device) -> everstep::Result<Self> {
        let (weight, bias) = (Init::Orthogonal { gain: gain::RELU }, Init::Constant(0.0));
        let conv = |from, to| Conv2dConfig::new(from, to, 3).padding(1).weight_init(weight).bias_init(bias);
        let linear = |from, to| LinearConfig::new(from, to).weight_init(weight).bias_init(bias);
        Ok(Self {
            conv1: conv(1, 32).init(generator, device)?,
            conv2: conv(32, 64).init(generator, device)?,
            hidden: linear(64 * (height / 2) * (width / 2), 128).init(generator, device)?,
            output: linear(128, 10).init(generator, device)?,
        })
    }

    fn forward(&self, images: &Tensor) -> everstep::Result<Tensor> {
        let x = self.conv1.forward_with(images, Activation::Relu)?;
        let x = self.conv2.forward_with(&x, Activation::Relu)?.max_pool2d(2)?;
        let x = self.hidden.forward_with(&x.flatten_from(1)?, Activation::Relu)?;
        Ok(self.output.forward(&x)?)
    }
}
