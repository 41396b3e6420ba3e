//! The classifiers that `mnist` trains, and what they see: MNIST from a folder, or the embedded digits.

use std::path::Path;

use everstep::prelude::*;

/// What the command line can ask for.
#[derive(Clone, Copy, clap::ValueEnum)]
pub enum Kind {
    /// One hidden layer of 64.
    Seed,
    /// Two hidden layers of 512.
    Mlp,
    /// Two convolutions, a pooling and a hidden layer of 128.
    Cnn,
}

/// Digits from images `[B, 1, H, W]`.
#[derive(Module)]
pub enum Classifier {
    /// Fully connected.
    Mlp(Mlp),
    /// Convolutional.
    Cnn(Cnn),
}

impl Classifier {
    /// For images of this height and width.
    ///
    /// # Errors
    /// Those of making the layers.
    pub fn new(kind: Kind, size: [usize; 2], generator: &mut Generator, device: &Device) -> everstep::Result<Self> {
        let pixels = size[0] * size[1];
        Ok(match kind {
            Kind::Seed => Self::Mlp(Mlp::new(&[pixels, 64, 10], generator, device)?),
            Kind::Mlp => Self::Mlp(Mlp::new(&[pixels, 512, 512, 10], generator, device)?),
            Kind::Cnn => Self::Cnn(Cnn::new(size, generator, device)?),
        })
    }

    /// Logits `[B, 10]`.
    ///
    /// # Errors
    /// Those of its ops.
    pub fn forward(&self, images: &Tensor) -> everstep::Result<Tensor> {
        match self {
            Self::Mlp(model) => model.forward(images),
            Self::Cnn(model) => model.forward(images),
        }
    }

    /// Mean cross-entropy of a batch.
    ///
    /// # Errors
    /// Those of its ops.
    pub fn loss(&self, batch: &Batch) -> everstep::Result<Tensor> {
        Ok(self.forward(&batch.x)?.cross_entropy(&batch.y)?)
    }
}

/// Fully connected layers with ReLU between them.
#[derive(Module)]
pub struct Mlp {
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
pub struct Cnn {
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

/// Training and test images.
pub type Split = (Box<dyn Dataset>, Box<dyn Dataset>);

/// Training and test images: MNIST from a folder, or the embedded digits, split by a fixed seed.
///
/// # Errors
/// Those of reading.
pub fn load(folder: Option<&Path>) -> everstep::Result<Split> {
    Ok(match folder {
        Some(folder) => {
            let (train, test) = mnist(folder)?;
            (Box::new(train.with_channel()), Box::new(test.with_channel()))
        }
        None => {
            let (train, test) = digits()?.with_channel().split_stratified(0.8, 0)?;
            (Box::new(train), Box::new(test))
        }
    })
}

/// Height and width of the images of `data`.
pub fn image_size(data: &dyn Dataset) -> [usize; 2] {
    match data.spec().x.shape[..] {
        [_, height, width] => [height, width],
        ref other => [1, other.iter().product()],
    }
}

/// What the model takes the digits of `data` for.
///
/// # Errors
/// Those of running it.
pub fn evaluate(model: &Classifier, data: &mut Loader) -> everstep::Result<ConfusionMatrix> {
    let mut confusion = ConfusionMatrix::new(10)?;
    for batch in data.epoch() {
        let batch = batch?;
        let found = no_grad(|| model.forward(&batch.x))?.argmax(-1, false)?;
        confusion.add_slices(&batch.y.to_vec()?, &found.to_vec()?)?;
    }
    Ok(confusion)
}
