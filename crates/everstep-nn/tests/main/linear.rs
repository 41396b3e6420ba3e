//! The fully connected layer: settings, beginnings, errors.

use everstep_nn::{Error, Fan, Init, Linear, LinearConfig, Module, init};
use everstep_tensor::{Activation, Device, Error as TensorError, Generator, Tensor};
use serde_json::{from_str, to_string};

fn values(layer: &Linear) -> (Vec<f32>, Option<Vec<f32>>) {
    let read = |parameter: &everstep_tensor::Parameter| parameter.tensor().to_vec().unwrap();
    (read(&layer.weight), layer.bias.as_ref().map(read))
}

#[test]
fn settings_survive_a_file() {
    let configs = [
        LinearConfig::new(3, 4),
        LinearConfig::new(3, 4).bias(false).weight_init(Init::XavierNormal { gain: init::gain::TANH }),
        LinearConfig::new(3, 4)
            .weight_init(Init::KaimingUniform { gain: init::gain::RELU, fan: Fan::Out })
            .bias_init(Init::Constant(0.25)),
    ];
    for config in configs {
        assert_eq!(from_str::<LinearConfig>(&to_string(&config).unwrap()).unwrap(), config);
    }
    let short = r#"{"in_features": 3, "out_features": 4}"#;
    assert_eq!(from_str::<LinearConfig>(short).unwrap(), LinearConfig::new(3, 4));
    let written = r#"{"in_features": 3, "out_features": 4, "bias": false, "weight_init": {"normal": {"std": 0.02}}}"#;
    let config = LinearConfig::new(3, 4).bias(false).weight_init(Init::Normal { std: 0.02 });
    assert_eq!(from_str::<LinearConfig>(written).unwrap(), config);
}

#[test]
fn what_is_unknown_in_a_file_is_an_error() {
    let wrong = [
        (r#"{"in_features": 3, "out_feature": 4}"#, "unknown field `out_feature`"),
        (r#"{"in_features": 3}"#, "missing field `out_features`"),
        (
            r#"{"in_features": 3, "out_features": 4, "weight_init": {"normal": {"std": 1, "mean": 0}}}"#,
            "unknown field `mean`",
        ),
        (r#"{"in_features": 3, "out_features": 4, "weight_init": "identity"}"#, "unknown variant `identity`"),
    ];
    for (text, reason) in wrong {
        let error = from_str::<LinearConfig>(text).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
}

#[test]
fn settings_that_make_no_layer() {
    let field = |config: LinearConfig| match config.init(&mut Generator::new(0), &Device::cpu()).unwrap_err() {
        Error::Setting { layer: "Linear", field, .. } => field,
        other => panic!("{other}"),
    };
    assert_eq!(field(LinearConfig::new(0, 4)), "in_features");
    assert_eq!(field(LinearConfig::new(4, 0)), "out_features");
    for bad in [f64::NAN, f64::INFINITY, 1e39] {
        assert_eq!(field(LinearConfig::new(4, 4).weight_init(Init::Uniform { bound: bad })), "weight_init");
        assert_eq!(field(LinearConfig::new(4, 4).weight_init(Init::XavierNormal { gain: bad })), "weight_init");
        assert_eq!(field(LinearConfig::new(4, 4).bias_init(Init::Constant(bad))), "bias_init");
    }
    assert_eq!(field(LinearConfig::new(4, 4).bias_init(Init::Normal { std: -1.0 })), "bias_init");
    let negative = LinearConfig::new(4, 4).bias_init(Init::Constant(-1.0));
    assert!(negative.init(&mut Generator::new(0), &Device::cpu()).is_ok());
}

#[test]
fn a_layer_begins_with_the_same_bits_on_every_device() {
    let make = |device: &Device| values(&Linear::new(5, 3, &mut Generator::new(9), device).unwrap());
    let expected = make(&Device::cpu());
    let bound = 1.0 / 5f32.sqrt();
    assert!(expected.0.iter().chain(expected.1.iter().flatten()).all(|value| value.abs() <= bound));
    for device in everstep_testing::devices() {
        assert_eq!(make(&device), expected);
    }
    // A layer more at the end changes nothing before it; the weight is the same without a bias.
    let mut generator = Generator::new(9);
    let first = Linear::new(5, 3, &mut generator, &Device::cpu()).unwrap();
    let second = Linear::new(5, 3, &mut generator, &Device::cpu()).unwrap();
    assert_eq!(values(&first), expected);
    assert_ne!(values(&second), expected);
    let bare = LinearConfig::new(5, 3).bias(false).init(&mut Generator::new(9), &Device::cpu()).unwrap();
    assert_eq!((values(&bare), bare.parameters().len()), ((expected.0, None), 1));
}

#[test]
fn leading_dimensions_stay() {
    for device in everstep_testing::devices() {
        let layer = Linear::new(4, 2, &mut Generator::new(1), &device).unwrap();
        let x = Tensor::randn(&[2, 3, 4], &mut Generator::new(2), &device).unwrap();
        let y = layer.forward(&x).unwrap();
        assert_eq!(y.shape(), &[2, 3, 2]);
        let row = layer.forward(&x.slice(0, 1..2).unwrap().slice(1, 2..3).unwrap().reshape(&[4]).unwrap()).unwrap();
        assert_eq!(row.shape(), &[2]);
        let all: Vec<f32> = y.to_vec().unwrap();
        let expected: Vec<f64> = all[10..].iter().map(|&value| f64::from(value)).collect();
        // One row alone may be summed in another order than six.
        everstep_testing::assert_close("row", &row.to_vec::<f32>().unwrap(), &expected, 1e-6, 1e-7);
        let squashed = layer.forward_with(&x, Activation::Relu).unwrap().to_vec::<f32>().unwrap();
        assert!(squashed.iter().zip(&all).all(|(y, x)| *y == x.max(0.0)));
    }
}

#[test]
fn inputs_that_do_not_fit() {
    let layer = Linear::new(4, 2, &mut Generator::new(1), &Device::cpu()).unwrap();
    let forward = |shape: &[usize]| layer.forward(&Tensor::ones(shape, &Device::cpu()).unwrap()).unwrap_err();
    assert!(matches!(forward(&[3, 5]), TensorError::Shapes { op: "matmul", .. }));
    assert!(matches!(forward(&[]), TensorError::Shapes { op: "linear", .. }));
    let elsewhere = Tensor::ones(&[3, 4], &Device::isolated_cpu()).unwrap();
    assert!(matches!(layer.forward(&elsewhere), Err(TensorError::Devices { .. })));
}
