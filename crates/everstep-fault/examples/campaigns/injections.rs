//! Random faults, one to a run, against the run without the fault.

use std::collections::BTreeMap;
use std::ops::Range;

use everstep_fault::chaos::{Damage, Elements, Fault, Key, Plan, Target};
use everstep_fault::{Error, Event, Result};
use everstep_tensor::{Device, Generator};
use serde::Serialize;

use crate::net::{PARAMETERS, STEPS, oracle, policy, run, state};

/// Seeds of model and data that the runs share: the bits of their clean runs are made once.
const SEEDS: u64 = 8;

/// What the runs have shown.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Summary {
    /// Runs.
    pub(crate) runs: u64,
    /// Runs in which the fault was seen.
    pub(crate) detected: u64,
    /// Runs that ended with the bits of the clean run, or of the clean run that leaves the same samples or batches out.
    pub(crate) identical: u64,
    /// Runs whose fault was too small to stand out: they end finite, with other bits.
    pub(crate) absorbed: u64,
    /// Runs that a fault which does not go away has ended, with a typed error.
    pub(crate) gave_up: u64,
    /// Runs that went on at other bits after a rewind with a lower learning rate.
    pub(crate) lowered: u64,
    /// Runs in which a bit of every element of a parameter or state was turned over, and the changes cancelled in its sum: the
    /// documented limit of the sums.
    pub(crate) cancelled: u64,
    /// What may not be: a state that is not finite, a changed bit of the state that nobody saw, a recovery from a passing
    /// fault that does not end with the clean bits.
    pub(crate) escapes: u64,
    /// The first of these in words.
    pub(crate) first_escapes: Vec<String>,
    /// What the last run told.
    #[serde(skip)]
    pub(crate) last_events: Vec<String>,
    /// The largest number of steps that a run needed.
    pub(crate) most_attempts: u64,
    /// Runs by the place of their fault.
    pub(crate) by_target: BTreeMap<String, u64>,
}

/// A random fault.
pub(crate) fn fault(generator: &mut Generator) -> Fault {
    let parameter = || PARAMETERS[0].to_owned();
    let mut pick = |count: u32| generator.below(count);
    let parameter = PARAMETERS.get(pick(4) as usize).map_or_else(parameter, |name| (*name).to_owned());
    let (nth, number) = (u64::from(pick(4)), pick(2) as usize);
    let target = match pick(8) {
        0 => Target::Batch { tensor: "x".into() },
        1 => Target::Labels { classes: 10 },
        2 => Target::Activation { op: None, nth },
        3 => Target::Backward { of: None, nth },
        4 => Target::Gradient { parameter },
        5 => Target::Weight { parameter },
        6 => Target::State { number, parameter },
        _ => Target::LearningRate,
    };
    let key = match pick(6) {
        0..=2 => Key::Once,
        3 => Key::Batch,
        4 => Key::Step { steps: 1 + u64::from(pick(3)) },
        _ if matches!(target, Target::Batch { .. }) => Key::Sample { id: u64::from(pick(1797)) },
        _ => Key::From,
    };
    let elements = match pick(3) {
        0 => Elements::All,
        1 => Elements::Largest,
        _ => Elements::Number(u64::from(pick(1 << 20))),
    };
    let damage = match (&target, pick(6)) {
        (Target::Labels { .. }, _) => Damage::Random,
        (Target::LearningRate, _) => Damage::Scale { factor: 10f32.powi(pick(7) as i32) },
        (_, 0) => Damage::Nan,
        (_, 1) => Damage::Infinity,
        (_, 2) => Damage::Set { value: 10f32.powi(pick(40) as i32 - 2) },
        (_, 3) => Damage::Scale { factor: -(10f32.powi(pick(12) as i32)) },
        _ => Damage::Flip { bit: pick(32) as u8 },
    };
    // The state is compared with what a step has left, so from the second step on.
    Fault { step: 2 + u64::from(pick(STEPS as u32 - 7)), key, target, elements, damage }
}

fn is_every_bit(fault: &Fault) -> bool {
    matches!((fault.elements, fault.damage), (Elements::All, Damage::Flip { .. }))
}

/// Runs the random faults of these numbers and this seed.
///
/// # Errors
/// Those of the runs that are no answer to a fault.
pub(crate) fn injections(numbers: Range<u64>, seed: u64, device: &Device) -> Result<Summary> {
    let clean = (0..SEEDS).map(|seed| oracle(seed, &[], &[], device)).collect::<Result<Vec<_>>>()?;
    let mut summary = Summary::default();
    for number in numbers {
        let mut generator = Generator::new(seed << 32 ^ number);
        let model = u64::from(generator.below(SEEDS as u32));
        let fault = fault(&mut generator);
        if let Err(escape) = one(&mut summary, model, &fault, &clean[model as usize], device)? {
            summary.escapes += 1;
            if summary.first_escapes.len() < 10 {
                let told = summary.last_events.join("\n");
                summary.first_escapes.push(format!("run {number}, {fault} ({fault:?}): {escape}\n{told}"));
            }
        }
        summary.runs += 1;
    }
    Ok(summary)
}

/// One run; the inner error says what may not be.
fn one(
    summary: &mut Summary,
    model: u64,
    fault: &Fault,
    clean: &[Vec<u32>],
    device: &Device,
) -> Result<Result<(), String>> {
    let target = serde_json::to_value(&fault.target).unwrap_or_default();
    let target = target.as_object().and_then(|object| object.keys().next().cloned());
    *summary.by_target.entry(target.unwrap_or_else(|| "learning_rate".into())).or_default() += 1;
    let run = run(model, Plan { seed: model, faults: vec![fault.clone()] }, policy(), device)?;
    summary.most_attempts = summary.most_attempts.max(run.guard.optimizer().gate().attempts());
    let seen = run.events.iter().any(|event| matches!(event, Event::Detected { .. } | Event::DetectedSlow { .. }));
    summary.detected += u64::from(seen);
    summary.last_events = run.events.iter().map(ToString::to_string).collect();
    if !run.was_finite {
        return Ok(Err("a state that is not finite".into()));
    }
    match run.gave_up {
        Some(Error::GaveUp { .. }) if fault.key == Key::Once => return Ok(Err("given up for a passing fault".into())),
        Some(Error::GaveUp { .. }) => {
            summary.gave_up += 1;
            return Ok(Ok(()));
        }
        _ => {}
    }
    let left_out: Vec<_> = run.guard.quarantined().iter().copied().collect();
    let nothing = run.guard.skipped().is_empty() && left_out.is_empty();
    let bits = state(run.guard.optimizer())?;
    let same = match nothing {
        true => bits == clean,
        false => bits == oracle(model, run.guard.skipped(), &left_out, device)?,
    };
    let in_state = matches!(fault.target, Target::Weight { .. } | Target::State { .. });
    summary.identical += u64::from(same);
    match (same, seen) {
        (true, _) => {}
        (false, _) if run.guard.tally().lowerings > 0 => summary.lowered += 1,
        // One that is made again and again, of which some were too small to be seen.
        (false, true) if fault.key != Key::Once => summary.absorbed += 1,
        (false, true) => return Ok(Err("a passing fault has left a trace".into())),
        (false, false) if in_state && is_every_bit(fault) => summary.cancelled += 1,
        (false, false) if in_state => return Ok(Err("a changed state that nobody saw".into())),
        (false, false) => summary.absorbed += 1,
    }
    Ok(Ok(()))
}
