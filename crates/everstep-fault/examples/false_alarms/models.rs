//! Three models that have little in common.

use everstep_data::{Batch, CharDataset, Dataset, Loader, LoaderConfig, digits};
use everstep_fault::{Guard, Policy};
use everstep_nn::transformer::{Gpt, GptConfig};
use everstep_nn::{BatchNorm2d, Conv2d, Conv2dConfig, Dropout, Linear, Module};
use everstep_optim::{Adam, AdamW, Rule, Schedule, Sgd};
use everstep_tensor::{Activation, Device, Generator, Tensor};

use crate::Args;

/// Whatever goes wrong.
pub(crate) type Result<T, E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

/// How a model makes a loss of a batch.
type Forward = Box<dyn Fn(&Batch) -> Result<Tensor>>;

/// The models to train.
#[derive(Clone, Copy, Debug, PartialEq, clap::ValueEnum)]
pub(crate) enum Kind {
    /// Fully connected, on digits, with Adam: it learns them by heart.
    Mlp,
    /// Convolutions with batch norm and dropout, on digits, with SGD and momentum.
    Cnn,
    /// A transformer, on text, with AdamW, a warm-up and clipping.
    Gpt,
}

/// Something to train.
pub(crate) struct Training {
    pub(crate) guard: Guard,
    pub(crate) loader: Loader,
    pub(crate) forward: Forward,
}

impl Kind {
    /// All from the arguments' seed.
    pub(crate) fn training(self, args: &Args, device: &Device) -> Result<Training> {
        let mut generator = Generator::new(args.seed);
        match self {
            Self::Mlp => mlp(&mut generator, args, device),
            Self::Cnn => cnn(&mut generator, args, device),
            Self::Gpt => gpt(&mut generator, args, device),
        }
    }
}

/// Batches of a data set, by default of so many samples.
fn loader(data: impl Dataset + 'static, batch: usize, args: &Args, device: &Device) -> Result<Loader> {
    Ok(Loader::new(data, LoaderConfig::new(args.batch.unwrap_or(batch)).shuffle(args.seed), device)?)
}

fn mlp(generator: &mut Generator, args: &Args, device: &Device) -> Result<Training> {
    let (hidden, output) = (Linear::new(64, 48, generator, device)?, Linear::new(48, 10, generator, device)?);
    let model = (hidden, output);
    let guard = Guard::new(&model, Adam::new(1e-3 * args.rate), Policy::default())?;
    let loader = loader(digits()?, 32, args, device)?;
    let forward = move |batch: &Batch| {
        let hidden = model.0.forward_with(&batch.x, Activation::Relu)?;
        Ok(model.1.forward(&hidden)?.cross_entropy(&batch.y)?)
    };
    Ok(Training { guard, loader, forward: Box::new(forward) })
}

/// conv 1-8, batch norm, ReLU, max-pool 2, conv 8-16, batch norm, ReLU, max-pool 2, dropout, linear to 10.
#[derive(Module)]
#[module(crate = everstep_nn)]
struct Cnn {
    conv1: Conv2d,
    norm1: BatchNorm2d,
    conv2: Conv2d,
    norm2: BatchNorm2d,
    dropout: Dropout,
    output: Linear,
}

impl Cnn {
    fn forward(&self, images: &Tensor) -> Result<Tensor> {
        let x = self.norm1.forward(&self.conv1.forward(images)?)?.relu()?.max_pool2d(2)?;
        let x = self.norm2.forward(&self.conv2.forward(&x)?)?.relu()?.max_pool2d(2)?;
        Ok(self.output.forward(&self.dropout.forward(&x.flatten_from(1)?)?)?)
    }
}

fn cnn(generator: &mut Generator, args: &Args, device: &Device) -> Result<Training> {
    let conv = |from, to, generator: &mut Generator| Conv2dConfig::new(from, to, 3).padding(1).init(generator, device);
    let model = Cnn {
        conv1: conv(1, 8, generator)?,
        norm1: BatchNorm2d::new(8, device)?,
        conv2: conv(8, 16, generator)?,
        norm2: BatchNorm2d::new(16, device)?,
        dropout: Dropout::new(0.3, generator)?,
        output: Linear::new(64, 10, generator, device)?,
    };
    let guard = Guard::new(&model, Sgd::new(0.02 * args.rate).momentum(0.9), Policy::default())?;
    let loader = loader(digits()?.with_channel(), 16, args, device)?;
    let forward = move |batch: &Batch| Ok(model.forward(&batch.x)?.cross_entropy(&batch.y)?);
    Ok(Training { guard, loader, forward: Box::new(forward) })
}

fn gpt(generator: &mut Generator, args: &Args, device: &Device) -> Result<Training> {
    let data = CharDataset::new(TEXT, 24)?;
    let model: Gpt = GptConfig::new(data.vocabulary().len(), 32, 2, 2, 24).init(generator, device)?;
    let warm_up = 100.min(args.steps / 2);
    let schedule = Schedule::warm_up(warm_up).then(warm_up, Schedule::cosine((args.steps - warm_up).max(1), 0.1));
    let rule = AdamW::new(3e-3 * args.rate).betas(0.9, 0.99).weight_decay(0.1);
    let optimizer = rule.build(&model)?.clip_norm(1.0)?.schedule(schedule);
    let guard = Guard::with_optimizer(&model, optimizer, Policy::default())?;
    let loader = loader(data, 8, args, device)?;
    let forward = move |batch: &Batch| Ok(model.forward(&batch.x)?.cross_entropy(&batch.y)?);
    Ok(Training { guard, loader, forward: Box::new(forward) })
}

/// From *Alice's Adventures in Wonderland* (L. Carroll, 1865).
const TEXT: &str = "\
Alice was beginning to get very tired of sitting by her sister on the bank, and of having nothing to do: once or twice \
she had peeped into the book her sister was reading, but it had no pictures or conversations in it, \"and what is the use \
of a book,\" thought Alice, \"without pictures or conversations?\"\n\
So she was considering in her own mind (as well as she could, for the hot day made her feel very sleepy and stupid), \
whether the pleasure of making a daisy-chain would be worth the trouble of getting up and picking the daisies, when \
suddenly a White Rabbit with pink eyes ran close by her.\n\
There was nothing so very remarkable in that; nor did Alice think it so very much out of the way to hear the Rabbit say \
to itself, \"Oh dear! Oh dear! I shall be late!\" (when she thought it over afterwards, it occurred to her that she ought \
to have wondered at this, but at the time it all seemed quite natural); but when the Rabbit actually took a watch out of \
its waistcoat-pocket, and looked at it, and then hurried on, Alice started to her feet, for it flashed across her mind \
that she had never before seen a rabbit with either a waistcoat-pocket, or a watch to take out of it, and burning with \
curiosity, she ran across the field after it, and fortunately was just in time to see it pop down a large rabbit-hole \
under the hedge.\n\
In another moment down went Alice after it, never once considering how in the world she was to get out again.\n";
