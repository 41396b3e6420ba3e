//! What faults of each kind are taken for.

use std::collections::BTreeMap;

use everstep_fault::chaos::{Damage, Elements, Fault, Key, Plan, Target};
use everstep_fault::{Cause, Result};
use everstep_tensor::{Device, Generator};
use serde::Serialize;

use crate::net::{PARAMETERS, policy, run};

/// The kinds.
pub(crate) const KINDS: [&str; 5] = ["clean", "transient", "state", "data", "computation"];

/// Runs by their kind, and by what they were taken for.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Matrix {
    /// Counts by kind and then by diagnosis.
    pub(crate) counts: BTreeMap<&'static str, BTreeMap<String, u64>>,
    /// Runs.
    pub(crate) runs: u64,
    /// Runs that were taken for what they were.
    pub(crate) right: u64,
    /// Their share.
    pub(crate) accuracy: f64,
}

/// Values that no step survives.
fn fatal(generator: &mut Generator) -> Damage {
    match generator.below(3) {
        0 => Damage::Nan,
        1 => Damage::Infinity,
        _ => Damage::Set { value: f32::NEG_INFINITY },
    }
}

/// A fault of that kind; none for a clean run.
fn fault(kind: &str, generator: &mut Generator) -> Option<Fault> {
    let parameter = PARAMETERS[generator.below(4) as usize].to_owned();
    let step = 2 + u64::from(generator.below(26));
    let number = Elements::Number(u64::from(generator.below(1 << 20)));
    let x = || Target::Batch { tensor: "x".into() };
    let fault = Fault { step, elements: number, damage: fatal(generator), ..Fault::at(step) };
    Some(match kind {
        "transient" => match generator.below(4) {
            0 => Fault { target: x(), ..fault },
            1 => Fault { target: Target::Gradient { parameter }, ..fault },
            2 => Fault { target: Target::Activation { op: Some("matmul".into()), nth: 0 }, ..fault },
            _ => Fault { target: Target::Backward { of: None, nth: u64::from(generator.below(4)) }, ..fault },
        },
        "state" => {
            let number = generator.below(2) as usize;
            let damage = match generator.below(3) {
                0 => fatal(generator),
                _ => Damage::Flip { bit: generator.below(32) as u8 },
            };
            match generator.below(2) {
                0 => Fault { target: Target::Weight { parameter }, damage, ..fault },
                _ => Fault { target: Target::State { number, parameter }, damage, ..fault },
            }
        }
        "data" => match generator.below(3) {
            0 => Fault { target: x(), key: Key::Batch, elements: Elements::All, ..fault },
            1 => Fault { target: x(), key: Key::Sample { id: u64::from(generator.below(1797)) }, step: 1, ..fault },
            _ => {
                let damage = Damage::Scale { factor: 1e6 };
                // A value that is finite is told from others once there are others.
                let step = 24 + step % 6;
                Fault { target: x(), key: Key::Batch, elements: Elements::All, damage, step }
            }
        },
        "computation" => {
            let op = if generator.below(2) == 0 { "matmul" } else { "cross_entropy" };
            let target = match generator.below(2) {
                0 => Target::Activation { op: Some(op.into()), nth: 0 },
                _ => Target::Gradient { parameter },
            };
            Fault { target, key: Key::From, ..fault }
        }
        _ => return None,
    })
}

/// Runs `runs` faults of each kind from `seed` on.
///
/// # Errors
/// Those of the runs that are no answer to a fault.
pub(crate) fn confusion(runs: u64, seed: u64, device: &Device) -> Result<Matrix> {
    let mut matrix = Matrix::default();
    for (index, kind) in KINDS.into_iter().enumerate() {
        for number in 0..runs {
            let mut generator = Generator::new(seed << 32 ^ number << 8 ^ index as u64);
            let faults = fault(kind, &mut generator).into_iter().collect();
            let run = run(number % 8, Plan { seed: number, faults }, policy(), device)?;
            let found = run.guard.diagnoses().first().map(|diagnosis| diagnosis.cause);
            let found = match found {
                None => "clean".to_owned(),
                Some(Cause::Passing) => "transient".to_owned(),
                Some(cause) => serde_json::to_value(cause).unwrap_or_default().as_str().unwrap_or("slow").to_owned(),
            };
            matrix.runs += 1;
            matrix.right += u64::from(found == kind);
            *matrix.counts.entry(kind).or_default().entry(found).or_default() += 1;
        }
    }
    matrix.accuracy = matrix.right as f64 / matrix.runs.max(1) as f64;
    Ok(matrix)
}
