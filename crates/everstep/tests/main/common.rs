//! Fixtures, and how far a result may be from them.

use std::collections::BTreeMap;
use std::path::Path;

use everstep::prelude::*;
use everstep_testing::{Goldens, array};
use serde_json::Value;

pub(crate) fn goldens(name: &str) -> Goldens {
    Goldens::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(name))
}

pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

pub(crate) fn number(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

/// The elements of an array of f32 numbers, exactly.
pub(crate) fn floats(value: &Value) -> Vec<f32> {
    array(value).1.into_iter().map(|element| element as f32).collect()
}

pub(crate) fn tensor(value: &Value, device: &Device) -> Tensor {
    Tensor::from_vec(floats(value), &array(value).0, device).unwrap()
}

/// An array of labels.
pub(crate) fn labels(value: &Value, device: &Device) -> Tensor {
    let (shape, data) = array(value);
    Tensor::from_vec(data.into_iter().map(|label| label as u32).collect(), &shape, device).unwrap()
}

/// Gives the parameters of a module the values of a state dict of the same names.
pub(crate) fn load(module: &impl Module, state: &Value) {
    let parameters = module.named_parameters();
    assert_eq!(parameters.len(), state.as_object().unwrap().len());
    for (name, parameter) in parameters {
        parameter.set(&tensor(&state[&name], &parameter.device())).unwrap();
    }
}

/// fc2(relu(fc1(x))), with PyTorch's names.
#[derive(Module)]
pub(crate) struct Mlp {
    fc1: Linear,
    fc2: Linear,
}

impl Mlp {
    pub(crate) fn new(sizes: &Value, device: &Device) -> Self {
        let sizes: Vec<usize> = serde_json::from_value(sizes.clone()).unwrap();
        let mut generator = Generator::new(0);
        let mut layer = |at: usize| Linear::new(sizes[at], sizes[at + 1], &mut generator, device).unwrap();
        Self { fc1: layer(0), fc2: layer(1) }
    }

    pub(crate) fn forward(&self, x: &Tensor) -> everstep::Result<Tensor> {
        Ok(self.fc2.forward(&self.fc1.forward_with(x, Activation::Relu)?)?)
    }
}

/// What an error is measured against.
#[derive(Clone, Copy)]
pub(crate) enum Scale {
    /// Each element: for functions of single elements.
    Element,
    /// The largest element of the array: for sums, whose terms may cancel.
    Array,
}

/// The worst errors by kind, in the order of their names.
#[derive(Default)]
pub(crate) struct Worst(BTreeMap<String, (f64, String)>);

impl Worst {
    /// Notes the worst of |found - expected| / scale. A wrong shape or a NaN fails at once.
    #[track_caller]
    pub(crate) fn note(&mut self, kind: &str, case: &str, found: &Tensor, expected: &Value, scale: Scale) {
        let (shape, expected) = array(expected);
        assert_eq!(found.shape(), &shape[..], "{case}: shape");
        self.note_values(kind, case, &found.to_vec().unwrap(), &expected, scale);
    }

    #[track_caller]
    pub(crate) fn note_values(&mut self, kind: &str, case: &str, found: &[f32], expected: &[f64], scale: Scale) {
        assert_eq!(found.len(), expected.len(), "{case}: elements");
        let largest = expected.iter().fold(0.0f64, |largest, value| largest.max(value.abs()));
        let worst = self.0.entry(kind.to_string()).or_default();
        for (at, (&found, &expected)) in found.iter().zip(expected).enumerate() {
            assert!(found.is_finite(), "{case}: element {at} is {found}");
            let scale = match scale {
                Scale::Element => expected.abs(),
                Scale::Array => largest,
            };
            let error = (f64::from(found) - expected).abs();
            // What f32 cannot hold to full precision is no error.
            let error = error / scale.max(f64::from(f32::MIN_POSITIVE));
            if error > worst.0 {
                *worst = (error, format!("{case}, element {at}: {found} for {expected}"));
            }
        }
    }

    /// Asserts that every kind's worst error is within what `tolerance` gives it.
    #[track_caller]
    pub(crate) fn assert(&self, device: &Device, tolerance: impl Fn(&str) -> f64) {
        let mut failures = Vec::new();
        for (kind, (error, place)) in &self.0 {
            // Shown with `--nocapture`.
            #[expect(clippy::print_stdout, reason = "a test that measures says what it found")]
            {
                println!("{:?} {kind}: {error:.1e} ({place})", device.info().kind);
            }
            if *error > tolerance(kind) {
                failures.push(format!("{kind}: {error:.2e}, not {:.1e}, in {place}", tolerance(kind)));
            }
        }
        assert!(failures.is_empty(), "{device}:\n{}", failures.join("\n"));
    }
}
