//! The faults that `chaos` can make.

use everstep::fault::chaos::{Damage, Elements, Fault, Key, Plan, Target};

/// The step that they begin at.
pub(crate) const STEP: u64 = 120;

/// The names of `all`: passing faults of the machine, but for the learning rates and the labels.
pub(crate) const ALL: [&str; 13] = [
    "nan_grad",
    "inf_grad",
    "nan_batch",
    "huge_batch",
    "lr_spike_3_steps",
    "lr_x300_from_here",
    "weight_nan",
    "weight_exponent_flip",
    "moment1_exponent_flip",
    "moment2_to_zero",
    "moment2_nan",
    "labels_garbage_20_steps",
    "grad_x1e6_once",
];

/// Further ones: a sample that is bad each time it comes, a machine that computes wrongly from some step on, a step that hangs.
pub(crate) const MORE: [&str; 3] = ["poisoned_sample", "broken_matmul", "slow_step"];

/// The plan of that name; `weight` is the parameter that is hit.
pub(crate) fn plan(name: &str, weight: &str, seed: u64) -> Option<Plan> {
    let parameter = || weight.to_owned();
    let gradient = || Target::Gradient { parameter: parameter() };
    let (first, second) =
        (Target::State { number: 0, parameter: parameter() }, Target::State { number: 1, parameter: parameter() });
    let batch = || Target::Batch { tensor: "x".into() };
    let (all, one, largest) = (Elements::All, Elements::Number(0), Elements::Largest);
    let scale = |factor| Damage::Scale { factor };
    let flip = Damage::Flip { bit: 30 };
    let (key, target, elements, damage) = match name {
        "nan_grad" => (Key::Once, gradient(), one, Damage::Nan),
        "inf_grad" => (Key::Once, gradient(), one, Damage::Infinity),
        "nan_batch" => (Key::Once, batch(), all, Damage::Nan),
        "huge_batch" => (Key::Once, batch(), all, scale(1e6)),
        "lr_spike_3_steps" => (Key::Step { steps: 3 }, Target::LearningRate, all, scale(1000.0)),
        "lr_x300_from_here" => (Key::From, Target::LearningRate, all, scale(300.0)),
        "weight_nan" => (Key::Once, Target::Weight { parameter: parameter() }, one, Damage::Nan),
        "weight_exponent_flip" => (Key::Once, Target::Weight { parameter: parameter() }, largest, flip),
        "moment1_exponent_flip" => (Key::Once, first, largest, flip),
        "moment2_to_zero" => (Key::Once, second, all, Damage::Set { value: 0.0 }),
        "moment2_nan" => (Key::Once, second, one, Damage::Nan),
        "labels_garbage_20_steps" => (Key::Step { steps: 20 }, Target::Labels { classes: 10 }, all, Damage::Random),
        "grad_x1e6_once" => (Key::Once, gradient(), all, scale(1e6)),
        "poisoned_sample" => (Key::Sample { id: 250 }, batch(), one, Damage::Nan),
        "broken_matmul" => {
            let target = Target::Activation { op: Some("matmul".into()), nth: 1 };
            (Key::From, target, one, Damage::Infinity)
        }
        "slow_step" => (Key::Once, Target::Time, all, Damage::Delay { delay_ms: 2000 }),
        _ => return None,
    };
    let step = if name == "poisoned_sample" { 1 } else { STEP };
    Some(Plan { seed, faults: vec![Fault { step, key, target, elements, damage }] })
}
