//! Distributions of initial values that have no golden numbers: their statistics, and orthogonality.

use everstep_nn::{Error, Init, LinearConfig};
use everstep_tensor::{Device, Generator};

fn draw(init: Init, shape: &[usize], seed: u64) -> Vec<f64> {
    let tensor = init.tensor(shape, (1, 1), &mut Generator::new(seed), &Device::cpu()).unwrap();
    assert_eq!(tensor.shape(), shape);
    tensor.to_vec::<f32>().unwrap().into_iter().map(f64::from).collect()
}

/// Asserts mean and variance within five standard errors (of a normal distribution, the widest tails among these).
fn assert_moments(context: &str, values: &[f64], mean: f64, variance: f64) {
    let count = values.len() as f64;
    let found = values.iter().sum::<f64>() / count;
    assert!((found - mean).abs() < 5.0 * (variance / count).sqrt(), "{context}: mean {found}, not {mean}");
    let found = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / count;
    assert!((found - variance).abs() < 5.0 * variance * (2.0 / count).sqrt(), "{context}: variance {found}");
}

#[test]
fn normal_and_truncated_normal() {
    let shape = [300, 400];
    assert_moments("normal", &draw(Init::Normal { std: 0.02 }, &shape, 1), 0.0, 0.0004);
    // Moments of the normal distribution cut off at two standard deviations: variance 1 - 2 a phi(a) / (2 Phi(a) - 1).
    let cut = draw(Init::TruncatedNormal { std: 0.5, low: -1.0, high: 1.0 }, &shape, 2);
    assert!(cut.iter().all(|value| value.abs() <= 1.0) && cut.iter().any(|value| value.abs() > 0.98));
    assert_moments("truncated", &cut, 0.0, 0.25 * (1.0 - 4.0 * 0.053_990_966_513_188_06 / 0.954_499_736_103_641_6));
    // One side only: the half-normal distribution.
    let half = draw(Init::TruncatedNormal { std: 1.0, low: 0.0, high: 9.0 }, &shape, 3);
    let mean = (2.0 / std::f64::consts::PI).sqrt();
    assert_moments("half", &half, mean, 1.0 - mean * mean);
    // Far out in the tail, where drawing again would take for ever: about an exponential distribution of rate 5.
    let tail = draw(Init::TruncatedNormal { std: 1.0, low: 5.0, high: 6.0 }, &[200, 50], 4);
    assert!(tail.iter().all(|value| (5.0..=6.0).contains(value)));
    let mean = tail.iter().sum::<f64>() / tail.len() as f64;
    assert!((mean - 5.18).abs() < 0.02, "{mean}");
    assert!(draw(Init::TruncatedNormal { std: 0.0, low: -1.0, high: 1.0 }, &[5], 5).iter().all(|value| *value == 0.0));
    assert!(draw(Init::ZEROS, &[5], 6).iter().all(|value| *value == 0.0));
    assert!(draw(Init::ONES, &[5], 7).iter().all(|value| *value == 1.0));
    assert_eq!(draw(Init::Normal { std: 1.0 }, &[64], 8), draw(Init::Normal { std: 1.0 }, &[64], 8));
}

#[test]
fn orthogonal_matrices_are() {
    for (shape, gain) in
        [(&[40, 40][..], 1.0), (&[7, 60], 2.0), (&[60, 7], 0.5), (&[8, 3, 3, 3], 1.0), (&[1, 5], 1.0), (&[3, 1], 1.0)]
    {
        let (rows, columns) = (shape[0], shape[1..].iter().product::<usize>());
        let values = draw(Init::Orthogonal { gain }, shape, 1);
        let at = |row: usize, column: usize| values[row * columns + column];
        let (count, length) = (rows.min(columns), rows.max(columns));
        for first in 0..count {
            for second in 0..count {
                let product = |k: usize| match rows <= columns {
                    true => at(first, k) * at(second, k),
                    false => at(k, first) * at(k, second),
                };
                let found: f64 = (0..length).map(product).sum();
                let expected = if first == second { gain * gain } else { 0.0 };
                // Each element is rounded to f32 once.
                assert!((found - expected).abs() < 1e-6 * gain * gain, "{shape:?}: {first}, {second}: {found}");
            }
        }
    }
    // Uniformly distributed: no sign is preferred, and each element has the variance 1 / n.
    let elements: Vec<f64> = (0..2000).map(|seed| draw(Init::Orthogonal { gain: 1.0 }, &[4, 4], seed)[5]).collect();
    assert_moments("one element", &elements, 0.0, 0.25);
    assert_eq!(draw(Init::Orthogonal { gain: 1.0 }, &[0, 4], 0), [0.0; 0]);
    assert_eq!(draw(Init::Orthogonal { gain: 1.0 }, &[4, 0], 0), [0.0; 0]);
    let flat = Init::Orthogonal { gain: 1.0 }.tensor(&[4], (4, 4), &mut Generator::new(0), &Device::cpu());
    assert!(matches!(flat, Err(everstep_tensor::Error::Shape { op: "orthogonal", .. })));
}

#[test]
fn what_is_no_distribution_is_an_error() {
    let refused = |init: Init| {
        let error = LinearConfig::new(4, 4).weight_init(init).init(&mut Generator::new(0), &Device::cpu()).unwrap_err();
        assert!(matches!(error, Error::Setting { field: "weight_init", .. }), "{error}");
    };
    refused(Init::TruncatedNormal { std: 1.0, low: 1.0, high: -1.0 });
    refused(Init::TruncatedNormal { std: 1.0, low: f64::NAN, high: 1.0 });
    refused(Init::TruncatedNormal { std: -1.0, low: -1.0, high: 1.0 });
    refused(Init::Orthogonal { gain: f64::NAN });
    refused(Init::Orthogonal { gain: -1.0 });
    let text = r#"{"truncated_normal": {"std": 0.02, "low": -2.0, "high": 2.0}}"#;
    assert_eq!(serde_json::from_str::<Init>(text).unwrap(), Init::TruncatedNormal { std: 0.02, low: -2.0, high: 2.0 });
}
