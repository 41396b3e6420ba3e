//! Settings as files: what is left out has PyTorch's default, what is unknown is an error.

use everstep_optim::{Adam, AdamW, Sgd};
use serde_json::{from_str, to_string};

#[test]
fn settings_survive_a_file() {
    let sgd = Sgd::new(0.1).momentum(0.9).dampening(0.1).nesterov(false).weight_decay(1e-4);
    assert_eq!(from_str::<Sgd>(&to_string(&sgd).unwrap()).unwrap(), sgd);
    let adam = Adam::new(1e-3).betas(0.8, 0.95).epsilon(1e-6).weight_decay(0.1);
    assert_eq!(from_str::<Adam>(&to_string(&adam).unwrap()).unwrap(), adam);
    let adamw = AdamW::new(3e-4);
    assert_eq!(from_str::<AdamW>(&to_string(&adamw).unwrap()).unwrap(), adamw);
}

#[test]
fn what_is_left_out_has_its_default() {
    assert_eq!(from_str::<Sgd>(r#"{"learning_rate": 0.1}"#).unwrap(), Sgd::new(0.1));
    assert_eq!(from_str::<Adam>(r#"{"learning_rate": 0.1}"#).unwrap(), Adam::new(0.1));
    let adamw = from_str::<AdamW>(r#"{"learning_rate": 0.1, "betas": [0.9, 0.99]}"#).unwrap();
    assert_eq!(adamw, AdamW { learning_rate: 0.1, betas: (0.9, 0.99), epsilon: 1e-8, weight_decay: 0.01, l1: 0.0 });
    assert_eq!(Adam::new(0.1).weight_decay, 0.0);
}

#[test]
fn what_is_unknown_or_missing_is_an_error() {
    let unknown = r#"{"learning_rate": 0.1, "momentun": 0.9}"#;
    let error = from_str::<Sgd>(unknown).unwrap_err().to_string();
    assert!(error.contains("unknown field `momentun`"), "{error}");
    assert!(from_str::<Adam>(unknown).is_err() && from_str::<AdamW>(unknown).is_err());
    assert!(from_str::<AdamW>("{}").unwrap_err().to_string().contains("missing field `learning_rate`"));
}
