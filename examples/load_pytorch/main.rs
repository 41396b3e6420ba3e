//! Weights that PyTorch saved, in Everstep's layers: the logits of a CNN and of a GPT beside PyTorch's own.
//!
//! `make_fixture.py` beside this file wrote the weights as safetensors, with inputs and logits. Keys of a file that are not
//! named as the layers here are renamed by [`LoadOptions`].
//!
//! ```text
//! cargo run --release --example load_pytorch
//! ```
#![expect(clippy::print_stdout, reason = "an example talks to its user")]

use std::path::Path;

use everstep::nn::safetensors::{LoadOptions, load_safetensors};
use everstep::nn::transformer::{Gpt, GptConfig};
use everstep::nn::{Conv2d, Conv2dConfig, Flatten, MaxPool2d, Relu};
use everstep::prelude::*;
use serde::Deserialize;

/// How far logits may be from PyTorch's: a hundred roundings of numbers about 1.
const TOLERANCE: f32 = 1e-5;

#[derive(Deserialize)]
struct Array<T> {
    shape: Vec<usize>,
    data: Vec<T>,
}

#[derive(Deserialize)]
struct Images {
    input: Array<f32>,
    logits: Array<f32>,
}

#[derive(Deserialize)]
struct Tokens {
    vocabulary: usize,
    width: usize,
    layers: usize,
    heads: usize,
    context: usize,
    input: Array<u32>,
    logits: Array<f32>,
}

#[derive(Deserialize)]
struct Expected {
    torch: String,
    cnn: Images,
    gpt: Tokens,
}

/// Two convolutions, a pooling and two linear layers, numbered as in PyTorch's `nn.Sequential`.
fn cnn(generator: &mut Generator, device: &Device) -> everstep::Result<Sequential> {
    let mut convolution = |from, to| Conv2dConfig::new(from, to, 3).padding(1).init(generator, device);
    let (first, second): (Conv2d, Conv2d) = (convolution(1, 8)?, convolution(8, 16)?);
    let layers = Sequential::new().with(first).with(Relu).with(second).with(Relu).with(MaxPool2d::new(2)).with(Flatten);
    let hidden = Linear::new(16 * 4 * 4, 32, generator, device)?;
    Ok(layers.with(hidden).with(Relu).with(Linear::new(32, 10, generator, device)?))
}

/// Loads the file `name` beside this program's source into the module, every tensor of it.
fn load(module: &impl Module, name: &str, options: &LoadOptions) -> everstep::Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("load_pytorch").join(name);
    let report = load_safetensors(module, path, options)?;
    println!("{name}: {} tensors", report.loaded.len());
    Ok(())
}

/// Prints and returns the largest difference between logits and PyTorch's.
fn compare(name: &str, found: &Tensor, expected: &Array<f32>) -> everstep::Result<f32> {
    let values = found.to_vec::<f32>()?;
    let same_shape = found.shape()[..] == expected.shape[..];
    let differences = values.iter().zip(&expected.data).map(|(found, expected)| (found - expected).abs());
    // A NaN is no small difference.
    let worst = differences.fold(0.0, |worst: f32, difference| if difference <= worst { worst } else { difference });
    let worst = if same_shape { worst } else { f32::INFINITY };
    println!("{name}: max |difference| of {} logits: {worst:.2e}", values.len());
    Ok(worst)
}

fn run() -> everstep::Result<bool> {
    let (device, mut generator) = (Device::best()?, Generator::new(0));
    let text = include_str!("expected.json");
    let Ok(Expected { torch, cnn: images, gpt: tokens }) = serde_json::from_str::<Expected>(text) else {
        println!("expected.json is not what make_fixture.py writes");
        return Ok(false);
    };
    println!("{device}; PyTorch {torch}");

    let model = cnn(&mut generator, &device)?;
    load(&model, "cnn.safetensors", &LoadOptions::new())?;
    model.eval();
    let x = Tensor::from_slice(&images.input.data, &images.input.shape, &device)?;
    let first = compare("cnn", &no_grad(|| model.forward(&x))?, &images.logits)?;

    let config = GptConfig::new(tokens.vocabulary, tokens.width, tokens.layers, tokens.heads, tokens.context);
    let model: Gpt = config.init(&mut generator, &device)?;
    // The script's blocks call their parts by other names.
    let mut options = LoadOptions::new();
    for (theirs, ours) in [("n1", "norm1"), ("n2", "norm2"), ("qkv", "attention.qkv"), ("proj", "attention.proj")] {
        options = options.replace(format!("blocks.*.{theirs}.*"), format!("blocks.*.{ours}.*"));
    }
    load(&model, "gpt.safetensors", &options)?;
    model.eval();
    let x = Tensor::from_slice(&tokens.input.data, &tokens.input.shape, &device)?;
    let second = compare("gpt", &no_grad(|| model.forward(&x))?, &tokens.logits)?;
    Ok(first <= TOLERANCE && second <= TOLERANCE)
}

fn main() -> std::process::ExitCode {
    match run() {
        Ok(true) => std::process::ExitCode::SUCCESS,
        Ok(false) => {
            println!("the logits are not PyTorch's");
            std::process::ExitCode::FAILURE
        }
        Err(error) => {
            println!("{error}");
            std::process::ExitCode::FAILURE
        }
    }
}
