//! Chains of layers.

use everstep_nn::{
    Dropout, Elu, Flatten, Gelu, GeluTanh, Layer, LeakyRelu, Linear, Module, Relu, Sequential, Sigmoid, Silu, Softplus,
    Tanh,
};
use everstep_tensor::{Device, Generator, Result, Tensor};

#[test]
fn layers_run_in_their_order_under_their_numbers() {
    for device in everstep_testing::devices() {
        let mut generator = Generator::new(0);
        let (first, second) =
            (Linear::new(6, 4, &mut generator, &device).unwrap(), Linear::new(4, 2, &mut generator, &device).unwrap());
        let x = Tensor::randn(&[5, 2, 3], &mut generator, &device).unwrap();
        let by_hand = second.forward(&first.forward(&x.flatten_from(1).unwrap()).unwrap().tanh().unwrap()).unwrap();
        let inner = Sequential::new().with(Tanh).with(second);
        let model =
            Sequential::new().with(Flatten).with(first).with(Dropout::new(0.5, &mut generator).unwrap()).with(inner);
        let names: Vec<String> = model.named_parameters().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["1.weight", "1.bias", "3.1.weight", "3.1.bias"]);
        assert_eq!((model.len(), model.is_empty(), model.random_streams().len()), (4, false, 1));
        model.eval();
        let found = model.forward(&x).unwrap();
        assert_eq!(found.to_vec::<f32>().unwrap(), by_hand.to_vec::<f32>().unwrap());
        found.sum_all().unwrap().backward().unwrap();
        assert!(model.parameters().iter().all(|parameter| parameter.grad().is_some()));
    }
    let x = Tensor::ones(&[2], &Device::cpu()).unwrap();
    assert_eq!(Sequential::new().forward(&x).unwrap().to_vec::<f32>().unwrap(), [1.0, 1.0]);
}

#[test]
fn activations_are_the_methods_of_tensors() {
    let x = Tensor::from_slice(&[-2.0f32, -0.5, 0.0, 0.5, 3.0], &[5], &Device::cpu()).unwrap();
    type Method = fn(&Tensor) -> Result<Tensor>;
    let layers: Vec<(Box<dyn Layer>, Method)> = vec![
        (Box::new(Relu), Tensor::relu),
        (Box::new(Gelu), Tensor::gelu),
        (Box::new(GeluTanh), Tensor::gelu_tanh),
        (Box::new(Tanh), Tensor::tanh),
        (Box::new(Sigmoid), Tensor::sigmoid),
    ];
    for (layer, method) in &layers {
        let values = |tensor: Tensor| tensor.to_vec::<f32>().unwrap();
        assert_eq!(values(layer.forward(&x).unwrap()), values(method(&x).unwrap()));
    }
}

/// Values of torch.nn.functional in f64, and gradients at 0, where two of them have a kink.
#[test]
fn activations_with_settings_are_those_of_pytorch() {
    for device in everstep_testing::devices() {
        let cases: [(Box<dyn Layer>, [f64; 4], f32); 4] = [
            (
                Box::new(Silu),
                [-2.0 / (1.0 + 2f64.exp()), 0.0, 1.0 / (1.0 + (-1f64).exp()), 3.0 / (1.0 + (-3f64).exp())],
                0.5,
            ),
            (Box::new(Softplus), [(-2f64).exp().ln_1p(), 2f64.ln(), 1f64.exp().ln_1p(), 3f64.exp().ln_1p()], 0.5),
            (Box::new(LeakyRelu { negative_slope: 0.25 }), [-0.5, 0.0, 1.0, 3.0], 0.25),
            (Box::new(Elu { alpha: 0.5 }), [0.5 * (-2f64).exp_m1(), 0.0, 1.0, 3.0], 0.5),
        ];
        for (layer, expected, slope) in &cases {
            let x = Tensor::from_slice(&[-2.0f32, 0.0, 1.0, 3.0], &[4], &device).unwrap().requires_grad().unwrap();
            let y = layer.forward(&x).unwrap();
            // A rounding or two.
            everstep_testing::assert_close("activation", &y.to_vec().unwrap(), expected, 3e-7, 0.0);
            y.sum_all().unwrap().backward().unwrap();
            assert!((x.grad().unwrap().to_vec::<f32>().unwrap()[1] - slope).abs() < 1e-6);
        }
    }
}
