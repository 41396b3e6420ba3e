//! Dropout: what share is kept, what it becomes, and whose random numbers decide.

use everstep_nn::{Dropout, Error, Module};
use everstep_tensor::{Device, Generator, Parameter, Tensor};

fn layer(probability: f32, seed: u64) -> Dropout {
    Dropout::new(probability, &mut Generator::new(seed)).unwrap()
}

fn forward(layer: &Dropout, x: &Tensor) -> Vec<f32> {
    layer.forward(x).unwrap().to_vec().unwrap()
}

#[test]
fn the_share_that_is_kept_and_its_scale() {
    for device in everstep_testing::devices() {
        let count = 200_000;
        let x = Tensor::full(&[400, 500], 3.0, &device).unwrap();
        for probability in [0.1f32, 0.25, 0.5, 0.9] {
            let found = forward(&layer(probability, 7), &x);
            // The factor is computed in f32, and so is the product.
            let scaled = 3.0 * (1.0 / (1.0 - probability));
            assert!(found.iter().all(|&y| y == 0.0 || y == scaled), "{probability}");
            let kept = found.iter().filter(|&&y| y != 0.0).count() as f64;
            let expected = f64::from(count) * (1.0 - f64::from(probability));
            // Five standard deviations of a binomial.
            let spread = 5.0 * (expected * f64::from(probability)).sqrt();
            assert!((kept - expected).abs() < spread, "{probability}: {kept} kept, expected {expected}");
            // Neighbours are independent: both kept as often as chance has it.
            let pairs = found.windows(2).filter(|pair| pair[0] != 0.0 && pair[1] != 0.0).count() as f64;
            let expected = f64::from(count) * (1.0 - f64::from(probability)).powi(2);
            assert!((pairs - expected).abs() < 10.0 * expected.sqrt(), "{probability}: {pairs}, {expected}");
        }
    }
}

#[test]
fn the_same_stream_gives_the_same_mask_on_every_device() {
    let masks = |device: &Device| {
        let x = Tensor::ones(&[37, 11], device).unwrap();
        let dropout = layer(0.4, 3);
        [forward(&dropout, &x), forward(&dropout, &x)]
    };
    let expected = masks(&Device::cpu());
    assert_ne!(expected[0], expected[1], "each draw is another");
    for device in everstep_testing::devices() {
        assert_eq!(masks(&device), expected);
    }
    let mut generator = Generator::new(3);
    let layers = [0; 2].map(|_| Dropout::new(0.4, &mut generator).unwrap());
    let x = Tensor::ones(&[37, 11], &Device::cpu()).unwrap();
    assert_eq!(forward(&layers[0], &x), expected[0], "a generator gives the same streams in turn");
    assert_ne!(forward(&layers[1], &x), expected[0], "each layer has its own");
    assert_ne!(forward(&layer(0.4, 4), &x), expected[0], "and so has each seed");
}

/// A block may hand its own generator on: what it draws from it meets nobody else's.
#[test]
fn forks_of_forks_have_streams_of_their_own() {
    let x = Tensor::ones(&[512], &Device::cpu()).unwrap();
    let mut generator = Generator::new(0);
    let mut masks = Vec::new();
    for _ in 0..3 {
        let mut block = generator.fork();
        masks.extend((0..3).map(|_| forward(&Dropout::new(0.5, &mut block).unwrap(), &x)));
        masks.push(forward(&Dropout::new(0.5, &mut block.fork()).unwrap(), &x));
    }
    for (index, mask) in masks.iter().enumerate() {
        assert!(!masks[..index].contains(mask), "mask {index} was drawn before");
    }
}

#[test]
fn the_gradient_passes_where_the_value_did() {
    for device in everstep_testing::devices() {
        let x = Parameter::new(&Tensor::full(&[30, 7], 2.0, &device).unwrap()).unwrap();
        let dropout = layer(0.3, 5);
        let y = dropout.forward(&x.tensor()).unwrap();
        y.sum_all().unwrap().backward().unwrap();
        let doubled: Vec<f32> = y.to_vec().unwrap();
        let gradient: Vec<f32> = x.grad().unwrap().to_vec().unwrap();
        assert!(doubled.iter().zip(&gradient).all(|(y, g)| *y == 2.0 * g));
        assert!(gradient.contains(&0.0));
    }
}

#[test]
fn evaluation_and_probability_0_pass_through() {
    let x = Tensor::ones(&[64], &Device::cpu()).unwrap();
    let dropout = layer(0.5, 0);
    let first = forward(&layer(0.5, 0), &x);
    dropout.eval();
    assert_eq!(forward(&dropout, &x), [1.0; 64]);
    dropout.train();
    assert_eq!(forward(&dropout, &x), first, "evaluation draws nothing");
    assert_eq!(forward(&layer(0.0, 0), &x), [1.0; 64]);
}

#[test]
fn a_probability_outside_its_range() {
    for bad in [1.0, 1.5, -0.1, f32::NAN, f32::INFINITY] {
        let error = Dropout::new(bad, &mut Generator::new(0)).unwrap_err();
        assert!(matches!(error, Error::Setting { layer: "Dropout", field: "probability", .. }), "{error}");
    }
    let error = Dropout::new(1.5, &mut Generator::new(0)).unwrap_err();
    assert_eq!(error.to_string(), "Dropout: `probability` is 1.5, it must be at least 0 and less than 1");
}
