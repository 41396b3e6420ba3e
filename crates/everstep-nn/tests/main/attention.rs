//! Multi-head attention against self-attention, whose numbers are PyTorch's, and against the formula in other ops.

use everstep_nn::transformer::SelfAttention;
use everstep_nn::{Error, Module, MultiHeadAttention};
use everstep_tensor::{AttentionOptions, Device, Generator, Result, Tensor};
use everstep_testing::assert_close;

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.to_vec().unwrap()
}

fn wide(tensor: &Tensor) -> Vec<f64> {
    values(tensor).into_iter().map(f64::from).collect()
}

fn random(shape: &[usize], seed: u64, device: &Device) -> Tensor {
    Tensor::randn(shape, &mut Generator::new(seed), device).unwrap()
}

/// Gives each projection its third of the packed one.
fn copy_of(packed: &SelfAttention, width: usize, heads: usize, device: &Device) -> Result<MultiHeadAttention> {
    let attention = MultiHeadAttention::new(width, heads, &mut Generator::new(9), device).unwrap();
    for (index, layer) in [&attention.query, &attention.key, &attention.value].into_iter().enumerate() {
        let rows = index * width..(index + 1) * width;
        layer.weight.set(&packed.qkv.weight.tensor().slice(0, rows.clone())?.contiguous()?)?;
        layer.bias.as_ref().unwrap().set(&packed.qkv.bias.as_ref().unwrap().tensor().slice(0, rows)?.contiguous()?)?;
    }
    attention.proj.weight.set(&packed.proj.weight.tensor())?;
    attention.proj.bias.as_ref().unwrap().set(&packed.proj.bias.as_ref().unwrap().tensor())?;
    Ok(attention)
}

#[test]
fn attention_of_a_sequence_to_itself_is_self_attention() {
    for device in everstep_testing::devices() {
        let packed = SelfAttention::new(6, 3, &mut Generator::new(1), &device).unwrap();
        let attention = copy_of(&packed, 6, 3, &device).unwrap();
        let x = random(&[2, 5, 6], 2, &device);
        for options in [AttentionOptions::new(), AttentionOptions::new().causal()] {
            let [own, other] = [x.requires_grad().unwrap(), x.requires_grad().unwrap()];
            let found = attention.forward(&own, &own, &own, &options).unwrap();
            let expected = packed.forward(&other, &options).unwrap();
            // Products of the same numbers, in matrices of other shapes.
            assert_close("output", &values(&found), &wide(&expected), 1e-6, 1e-6);
            found.mul(&found).unwrap().sum_all().unwrap().backward().unwrap();
            expected.mul(&expected).unwrap().sum_all().unwrap().backward().unwrap();
            let [found, expected] = [own.grad().unwrap(), other.grad().unwrap()];
            assert_close("gradient", &values(&found), &wide(&expected), 1e-5, 1e-6);
        }
    }
}

/// Keys and values of other lengths and widths, and a mask for one of the batch.
#[test]
fn attention_to_another_sequence_is_the_formula() {
    for device in everstep_testing::devices() {
        let attention = MultiHeadAttention::with_features(4, [3, 5], 2, &mut Generator::new(3), &device).unwrap();
        let (x, keys, features) =
            (random(&[2, 3, 4], 4, &device), random(&[2, 7, 3], 5, &device), random(&[2, 7, 5], 6, &device));
        let mut seen = vec![0.0f32; 2 * 7];
        seen[7 + 4..].fill(f32::NEG_INFINITY);
        let mask = Tensor::from_vec(seen, &[2, 1, 1, 7], &device).unwrap();
        let found = attention.forward(&x, &keys, &features, &AttentionOptions::new().mask(&mask)).unwrap();
        let expected = formula(&attention, [&x, &keys, &features], &mask).unwrap();
        assert_close("output", &values(&found), &wide(&expected), 1e-6, 1e-6);
    }
}

fn formula(attention: &MultiHeadAttention, [x, keys, features]: [&Tensor; 3], mask: &Tensor) -> Result<Tensor> {
    let heads = |x: Tensor| x.reshape(&[x.shape()[0], x.shape()[1], 2, 2])?.permute(&[0, 2, 1, 3]);
    let query = heads(attention.query.forward(x)?)?;
    let key = heads(attention.key.forward(keys)?)?;
    let value = heads(attention.value.forward(features)?)?;
    let scores = query.matmul(&key.permute(&[0, 1, 3, 2])?)?.mul_scalar(0.5f32.sqrt())?.add(mask)?;
    let y = scores.softmax(-1)?.matmul(&value)?.permute(&[0, 2, 1, 3])?;
    attention.proj.forward(&y.flatten_from(2)?)
}

#[test]
fn what_does_not_fit_is_an_error() {
    let (device, mut generator) = (Device::cpu(), Generator::new(0));
    for heads in [0, 3] {
        let error = MultiHeadAttention::new(4, heads, &mut generator, &device).unwrap_err();
        assert!(matches!(error, Error::Setting { field: "heads", .. }), "{error}");
    }
    let attention = MultiHeadAttention::new(4, 2, &mut generator, &device).unwrap();
    assert_eq!(attention.parameters().len(), 8);
    let [x, flat, long] = [&[2, 3, 4][..], &[3, 4], &[2, 5, 4]].map(|shape| Tensor::ones(shape, &device).unwrap());
    let options = AttentionOptions::new();
    assert!(attention.forward(&flat, &x, &x, &options).is_err(), "no batch");
    assert!(attention.forward(&x, &x, &long, &options).is_err(), "more values than keys");
    assert!(attention.forward(&x, &Tensor::ones(&[1, 3, 4], &device).unwrap(), &x, &options).is_err(), "another batch");
}
