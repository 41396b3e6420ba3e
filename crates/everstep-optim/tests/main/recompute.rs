//! Activations that are computed again in the backward pass, within the transaction of a step: not one bit is different.

use std::sync::Arc;

use everstep_nn::transformer::GptConfig;
use everstep_nn::{BatchNorm1d, Dropout, Linear, Module};
use everstep_optim::{AdamW, MixedPrecision, Optimizer, Rule, Sgd};
use everstep_tensor::{Activation, Device, Generator, Tensor, Verdict, recompute};

use crate::common::on_each_device;

fn bits(model: &impl Module) -> Vec<Vec<u32>> {
    let bits = |tensor: Tensor| tensor.to_vec::<f32>().unwrap().into_iter().map(f32::to_bits).collect();
    let parameters = model.named_parameters().into_iter().map(|(_, parameter)| parameter.tensor());
    parameters.chain(model.named_buffers().into_iter().map(|(_, buffer)| buffer.tensor())).map(bits).collect()
}

fn precise(optimizer: Optimizer, mixed: Option<MixedPrecision>) -> Optimizer {
    if let Some(mixed) = mixed { optimizer.mixed_precision(mixed).unwrap() } else { optimizer }
}

/// A transformer with dropout after some steps.
fn gpt(recompute: bool, mixed: Option<MixedPrecision>, device: &Device) -> Vec<Vec<u32>> {
    let config = GptConfig::new(11, 16, 3, 2, 6).dropout(0.2).recompute(recompute);
    let model = config.init(&mut Generator::new(5), device).unwrap();
    let mut optimizer = precise(AdamW::new(1e-2).build(&model).unwrap().clip_norm(1.0).unwrap(), mixed);
    for step in 0..4 {
        let tokens: Vec<u32> = (0..12).map(|at| (at * 7 + step) % 11).collect();
        let tokens = Tensor::from_slice(&tokens, &[2, 6], device).unwrap();
        let loss = optimizer.autocast(|| model.forward(&tokens)?.cross_entropy(&tokens)).unwrap();
        optimizer.backward(&loss).unwrap();
        optimizer.step(&loss).unwrap();
    }
    let records = optimizer.finish().unwrap();
    assert!(records.iter().all(|record| record.verdict == Verdict::Commit), "{records:?}");
    bits(&model)
}

#[test]
fn a_transformer_learns_the_same() {
    on_each_device(|device| {
        for mixed in [None, Some(MixedPrecision::f16()), Some(MixedPrecision::bf16())] {
            assert!(gpt(true, mixed, device) == gpt(false, mixed, device), "{mixed:?} on {device}");
        }
    });
}

#[derive(Module)]
#[module(crate = everstep_nn)]
struct Block {
    layer: Linear,
    norm: BatchNorm1d,
    dropout: Dropout,
}

impl Block {
    fn forward(&self, x: &Tensor) -> everstep_tensor::Result<Tensor> {
        let hidden = self.norm.forward(&self.layer.forward_with(x, Activation::GeluTanh)?)?;
        // Twice, so that the second move of the running statistics begins with the first.
        x.add(&self.norm.forward(&self.dropout.forward(&hidden)?)?)
    }
}

/// Blocks with batch norms after steps of which one is refused.
fn normed(again: bool, in_flight: usize, device: &Device) -> Vec<Vec<u32>> {
    let mut generator = Generator::new(6);
    let mut block = || {
        Arc::new(Block {
            layer: Linear::new(4, 4, &mut generator, device).unwrap(),
            norm: BatchNorm1d::new(4, device).unwrap(),
            dropout: Dropout::new(0.3, &mut generator).unwrap(),
        })
    };
    let model: Vec<_> = (0..3).map(|_| block()).collect();
    let optimizer = Sgd::new(0.1).momentum(0.9).build(&model).unwrap();
    let options = everstep_tensor::StepOptions { in_flight, ..optimizer.options() };
    let mut optimizer = optimizer.with_options(options).unwrap();
    for step in 0..5 {
        let x = Tensor::rand(&[7, 4], -1.0, 1.0, &mut Generator::new(step), device).unwrap();
        let x = if step == 2 { x.mul_scalar(f32::NAN).unwrap() } else { x };
        let y = model.iter().try_fold(x, |x, block| {
            let block = block.clone();
            if again { recompute(&x, move |x| block.forward(x)) } else { block.forward(&x) }
        });
        let loss = y.and_then(|y| y.mul(&y)?.tanh()?.mean_all()).unwrap();
        optimizer.backward(&loss).unwrap();
        optimizer.step(&loss).unwrap();
    }
    let records = optimizer.finish().unwrap();
    let refused: Vec<_> = records.iter().map(|record| record.verdict != Verdict::Commit).collect();
    assert_eq!(refused, [false, false, true, false, false], "{records:?}");
    bits(&model)
}

#[test]
fn running_statistics_move_once_and_dropout_draws_the_same() {
    on_each_device(|device| {
        for in_flight in [0, 4] {
            assert!(normed(true, in_flight, device) == normed(false, in_flight, device), "{device}");
        }
    });
}

/// A deep transformer holds the activations of one block.
#[test]
fn a_deep_transformer_needs_less_memory() {
    let held = |recompute: bool| {
        let device = Device::isolated_cpu();
        let config = GptConfig::new(11, 32, 12, 2, 64).recompute(recompute);
        let model = config.init(&mut Generator::new(5), &device).unwrap();
        let tokens = Tensor::from_slice(&[3u32; 8 * 64], &[8, 64], &device).unwrap();
        let before = device.counters().memory_bytes;
        model.forward(&tokens).unwrap().cross_entropy(&tokens).unwrap().backward().unwrap();
        device.flush().unwrap();
        (device.counters().memory_bytes - before) as f64
    };
    let (kept, again) = (held(false), held(true));
    assert!(again < kept / 3.0, "{again} bytes against {kept}");
}
