//! Weights that PyTorch saved: the fixtures of the example `load_pytorch`, on every device.

use std::path::PathBuf;

use everstep::nn::safetensors::{LoadOptions, load_safetensors, save_safetensors};
use everstep::nn::transformer::GptConfig;
use everstep::nn::{Conv2dConfig, Flatten, MaxPool2d, Relu};
use everstep::prelude::*;
use serde_json::Value;

use crate::common::{labels, tensor};

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../examples/load_pytorch")
}

fn expected(model: &str) -> Value {
    let text = std::fs::read_to_string(folder().join("expected.json")).unwrap();
    serde_json::from_str::<Value>(&text).unwrap()[model].clone()
}

fn cnn(seed: u64, device: &Device) -> Sequential {
    let mut generator = Generator::new(seed);
    let mut convolution = |from, to| Conv2dConfig::new(from, to, 3).padding(1).init(&mut generator, device).unwrap();
    let layers = Sequential::new().with(convolution(1, 8)).with(Relu).with(convolution(8, 16)).with(Relu);
    let mut linear = |from, to| Linear::new(from, to, &mut generator, device).unwrap();
    layers.with(MaxPool2d::new(2)).with(Flatten).with(linear(256, 32)).with(Relu).with(linear(32, 10))
}

#[test]
fn a_cnn_has_the_logits_of_pytorch() {
    for device in everstep_testing::devices() {
        let (model, expected) = (cnn(0, &device), expected("cnn"));
        let x = tensor(&expected["input"], &device);
        let report = load_safetensors(&model, folder().join("cnn.safetensors"), &LoadOptions::new()).unwrap();
        assert_eq!(report.loaded.len(), 8);
        let logits: Vec<f32> = model.forward(&x).unwrap().to_vec().unwrap();
        let wanted = everstep_testing::array(&expected["logits"]).1;
        // Sums of a few hundred products about 0.1, each rounded to 6e-8 of itself.
        everstep_testing::assert_close("cnn", &logits, &wanted, 0.0, 1e-6);
        // And through a file of our own, into an optimizer's arena.
        let file = std::env::temp_dir().join(format!("everstep-cnn-{}.safetensors", std::process::id()));
        save_safetensors(&model, &file).unwrap();
        let other = cnn(1, &device);
        let _optimizer = AdamW::new(1e-3).build(&other).unwrap();
        load_safetensors(&other, &file, &LoadOptions::new()).unwrap();
        std::fs::remove_file(&file).unwrap();
        assert_eq!(other.forward(&x).unwrap().to_vec::<f32>().unwrap(), logits);
    }
}

#[test]
fn a_gpt_has_the_logits_of_pytorch() {
    for device in everstep_testing::devices() {
        let expected = expected("gpt");
        let size = |name: &str| expected[name].as_u64().unwrap() as usize;
        let sizes = ["vocabulary", "width", "layers", "heads", "context"].map(size);
        let config = GptConfig::new(sizes[0], sizes[1], sizes[2], sizes[3], sizes[4]);
        let model = config.init(&mut Generator::new(0), &device).unwrap();
        let mut options = LoadOptions::new();
        for (theirs, ours) in [("n1", "norm1"), ("n2", "norm2"), ("qkv", "attention.qkv"), ("proj", "attention.proj")] {
            options = options.replace(format!("blocks.*.{theirs}.*"), format!("blocks.*.{ours}.*"));
        }
        let report = load_safetensors(&model, folder().join("gpt.safetensors"), &options).unwrap();
        assert_eq!(report.loaded.len(), 29);
        let logits: Vec<f32> = model.forward(&labels(&expected["input"], &device)).unwrap().to_vec().unwrap();
        let wanted = everstep_testing::array(&expected["logits"]).1;
        // Two blocks of sums of up to 128 products, each rounded to 6e-8 of itself.
        everstep_testing::assert_close("gpt", &logits, &wanted, 0.0, 5e-6);
    }
}
