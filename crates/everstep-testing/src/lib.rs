//! What the tests share: the devices to test on, PyTorch's numbers, comparison with a stated tolerance.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, reason = "used in tests alone")]

use std::io::Write;
use std::path::{Path, PathBuf};

use everstep_device::Device;
use serde_json::Value;

/// Says something although the test passes: the test harness keeps what `eprintln!` says.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// A GPU to test on: a real one, else a software one. `None`, with a line that says so, where there is none.
///
/// # Panics
/// Where there is none and `EVERSTEP_REQUIRE_GPU` is 1: continuous integration may not skip.
pub fn gpu() -> Option<Device> {
    match Device::gpu("") {
        Ok(device) => Some(device),
        Err(error) if std::env::var("EVERSTEP_REQUIRE_GPU").is_ok_and(|value| value == "1") => {
            panic!("EVERSTEP_REQUIRE_GPU is set: {error}")
        }
        Err(error) => {
            say(&format!("skipped on the GPU: {error}"));
            None
        }
    }
}

/// The CPU engine, and a GPU where there is one.
pub fn devices() -> Vec<Device> {
    std::iter::once(Device::cpu()).chain(gpu()).collect()
}

/// The folder of real test data that `EVERSTEP_DATA` names; `None`, with a line that says so, without it.
pub fn data() -> Option<PathBuf> {
    let folder = std::env::var_os("EVERSTEP_DATA").map(PathBuf::from).filter(|folder| folder.is_dir());
    if folder.is_none() {
        say("skipped: EVERSTEP_DATA names no folder of test data");
    }
    folder
}

/// Whether |found - expected| <= absolute + relative |expected| for each element; NaN equals NaN, infinities themselves.
///
/// # Errors
/// Where an element is farther off, naming the worst, or the counts differ.
pub fn close(found: &[f32], expected: &[f64], relative: f64, absolute: f64) -> Result<(), String> {
    if found.len() != expected.len() {
        return Err(format!("{} elements, expected {}", found.len(), expected.len()));
    }
    let excess = |(&found, &expected): (&f32, &f64)| {
        let found = f64::from(found);
        if found == expected || (found.is_nan() && expected.is_nan()) {
            return 0.0;
        }
        let error = (found - expected).abs() / (absolute + relative * expected.abs());
        if error.is_nan() { f64::INFINITY } else { error }
    };
    let errors = found.iter().zip(expected).map(excess).enumerate();
    match errors.max_by(|a, b| a.1.total_cmp(&b.1)) {
        Some((at, error)) if error > 1.0 => {
            let (found, expected) = (found[at], expected[at]);
            Err(format!("element {at} is {found}, expected {expected}: {error:.2} times the tolerance"))
        }
        _ => Ok(()),
    }
}

/// Asserts [`close`].
///
/// # Panics
/// Where it is not so.
#[track_caller]
pub fn assert_close(context: &str, found: &[f32], expected: &[f64], relative: f64, absolute: f64) {
    if let Err(reason) = close(found, expected, relative, absolute) {
        panic!("{context}: {reason}");
    }
}

/// PyTorch's numbers, from a JSON fixture beside the script that made it.
pub struct Goldens(Value);

impl Goldens {
    /// Reads a fixture.
    ///
    /// # Panics
    /// Where it cannot be read.
    pub fn read(path: impl AsRef<Path>) -> Self {
        let path = path.as_ref();
        let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self(serde_json::from_str(&text).unwrap())
    }

    /// The cases.
    pub fn cases(&self) -> &[Value] {
        self.0["cases"].as_array().unwrap()
    }
}

/// An array of a fixture, `{"shape": [..], "data": [..]}`: shape and elements.
pub fn array(value: &Value) -> (Vec<usize>, Vec<f64>) {
    let shape = value["shape"].as_array().unwrap().iter().map(|size| size.as_u64().unwrap() as usize).collect();
    (shape, value["data"].as_array().unwrap().iter().map(|element| element.as_f64().unwrap()).collect())
}
