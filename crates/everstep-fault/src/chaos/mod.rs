//! Planned faults: to see what a run does about them, in the program that is shipped.

mod inject;

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

pub(crate) use inject::{Chaos, Due};

/// Faults by step and place. A guard that is given one says so in every report; there is no other way to turn it on.
///
/// ```
/// use everstep_fault::chaos::{Damage, Elements, Fault, Key, Plan, Target};
///
/// let plan = Plan {
///     seed: 0,
///     faults: vec![Fault {
///         target: Target::Weight { parameter: "hidden.weight".into() },
///         elements: Elements::Largest,
///         damage: Damage::Flip { bit: 30 },
///         ..Fault::at(120)
///     }],
/// };
/// let text = serde_json::to_string(&plan)?;
/// assert_eq!(serde_json::from_str::<Plan>(&text)?, plan);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Of the random labels.
    #[serde(default)]
    pub seed: u64,
    /// The faults, made in this order where several are due at a place.
    pub faults: Vec<Fault>,
}

/// One planned fault.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// The step that it is made in, by its number (see [`crate::Place`]), from 1.
    pub step: u64,
    /// When it is made again.
    #[serde(default)]
    pub key: Key,
    /// Where.
    pub target: Target,
    /// Which elements of it.
    #[serde(default)]
    pub elements: Elements,
    /// What becomes of them.
    pub damage: Damage,
}

/// When a fault is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Key {
    /// At the first attempt of its step: a passing fault, gone when the step runs again.
    #[default]
    Once,
    /// At every attempt of its step and of those behind it, so many altogether.
    Step {
        /// How many steps.
        steps: u64,
    },
    /// Whenever its step's batch runs, on whatever state.
    Batch,
    /// Whenever the sample is in a batch, in each epoch, from its step on.
    Sample {
        /// Its id.
        id: u64,
    },
    /// At every attempt at anything, once its step was reached.
    From,
}

/// Where a fault is made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Target {
    /// A tensor of the batch, such as `x`: with [`Key::Sample`], that sample's row of it.
    Batch {
        /// Its name.
        tensor: String,
    },
    /// The classes of the batch, its tensor `y`: random ones.
    Labels {
        /// How many classes there are.
        classes: u32,
    },
    /// The result of an op of the forward pass.
    Activation {
        /// The op's name, `matmul` for instance; any op without one.
        #[serde(default)]
        op: Option<String>,
        /// Which of these in the step, from 0.
        #[serde(default)]
        nth: u64,
    },
    /// The result of an op of the backward pass.
    Backward {
        /// The name of the op of the forward pass whose gradient it is part of; any op without one.
        #[serde(default)]
        of: Option<String>,
        /// Which of these in the step, from 0.
        #[serde(default)]
        nth: u64,
    },
    /// A parameter's gradient, once it is whole.
    Gradient {
        /// The parameter's name.
        parameter: String,
    },
    /// A parameter, before the step.
    Weight {
        /// Its name.
        parameter: String,
    },
    /// The part of an optimizer's state that belongs to a parameter, before the step.
    State {
        /// Which state: 0 and 1 are Adam's first and second moments.
        number: usize,
        /// The parameter's name.
        parameter: String,
    },
    /// Every learning rate: only [`Damage::Scale`] makes sense.
    LearningRate,
    /// The step's time: [`Damage::Delay`].
    Time,
}

/// Which elements of a tensor a fault changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Elements {
    /// Every one.
    #[default]
    All,
    /// The largest in magnitude, the first of these.
    Largest,
    /// The one with this number in row-major order, counted round where there are not so many.
    Number(u64),
}

/// What becomes of an element.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Damage {
    /// A NaN.
    Nan,
    /// An infinity.
    Infinity,
    /// This value.
    Set {
        /// The value.
        value: f32,
    },
    /// It is multiplied.
    Scale {
        /// By this.
        factor: f32,
    },
    /// A bit of it is turned over.
    Flip {
        /// Which, 0 to 31; 23 to 30 are the exponent's, 31 the sign.
        bit: u8,
    },
    /// A random class.
    Random,
    /// The step takes longer.
    Delay {
        /// By so much.
        delay_ms: u64,
    },
}

impl Fault {
    /// A NaN in every element of the batch's tensor `x`, once, in step `step`: what differs is set by the caller.
    pub fn at(step: u64) -> Self {
        let target = Target::Batch { tensor: "x".into() };
        Self { step, key: Key::Once, target, elements: Elements::All, damage: Damage::Nan }
    }

    /// What is wrong with it.
    fn problem(&self) -> Option<&'static str> {
        match (&self.target, self.damage) {
            _ if self.step == 0 => Some("steps count from 1"),
            (_, Damage::Flip { bit }) if bit > 31 => Some("an element has bits 0 to 31"),
            (Target::Labels { classes: 0 }, _) => Some("there is at least one class"),
            (Target::Labels { .. }, Damage::Random) | (Target::Time, Damage::Delay { .. }) => None,
            (Target::LearningRate, Damage::Scale { .. }) => None,
            (Target::Labels { .. } | Target::Time | Target::LearningRate, _)
            | (_, Damage::Random | Damage::Delay { .. }) => Some("its damage does not belong to its target"),
            _ => None,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let (Target::LearningRate, Damage::Scale { factor }) = (&self.target, self.damage) {
            return write!(f, "the learning rate times {factor}");
        }
        match self.damage {
            Damage::Nan => write!(f, "NaN")?,
            Damage::Infinity => write!(f, "infinity")?,
            Damage::Set { value } => write!(f, "{value}")?,
            Damage::Scale { factor } => write!(f, "times {factor}")?,
            Damage::Flip { bit } => write!(f, "bit {bit} turned over")?,
            Damage::Random => write!(f, "random classes")?,
            Damage::Delay { delay_ms } => write!(f, "{delay_ms} ms more")?,
        }
        match &self.target {
            Target::Batch { tensor } => write!(f, " in the batch's {tensor}"),
            Target::Labels { .. } => write!(f, " as labels"),
            Target::Activation { op, nth } => write!(f, " in the result of {} {nth}", op.as_deref().unwrap_or("op")),
            Target::Backward { of, nth } => {
                write!(f, " in result {nth} of the backward pass of {}", of.as_deref().unwrap_or("all ops"))
            }
            Target::Gradient { parameter } => write!(f, " in the gradient of {parameter}"),
            Target::Weight { parameter } => write!(f, " in {parameter}"),
            Target::State { number, parameter } => write!(f, " in state {number} of {parameter}"),
            Target::LearningRate | Target::Time => Ok(()),
        }
    }
}

impl Plan {
    /// Reads a plan from a JSON file.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn from_path(path: impl AsRef<Path>) -> Result<Self> {
        let failed = |problem: String| Error::File { path: path.as_ref().into(), problem };
        let text = std::fs::read_to_string(&path).map_err(|error| failed(error.to_string()))?;
        serde_json::from_str(&text).map_err(|error| failed(error.to_string()))
    }

    fn check(&self) -> Result<()> {
        self.faults.iter().enumerate().try_for_each(|(number, fault)| match fault.problem() {
            Some(problem) => Err(Error::Plan { number, fault: fault.to_string(), problem: problem.into() }),
            None => Ok(()),
        })
    }
}
