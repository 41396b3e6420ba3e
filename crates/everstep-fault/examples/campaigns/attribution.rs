//! Every op in turn made to give a NaN, forward and backward: whether the diagnosis names it.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use everstep_data::Cursor;
use everstep_fault::chaos::{Damage, Elements, Fault, Key, Plan, Target};
use everstep_fault::{Batches, Error, Guard, Policy, Result};
use everstep_nn::{Module, Visitor};
use everstep_optim::Sgd;
use everstep_tensor::ops::table::{ALL, Case, Entry, Gradient};
use everstep_tensor::{Device, Generator, Parameter, Phase, Probe, Seen, State, Tensor, Visit, no_grad, with_probe};
use serde::Serialize;

/// What the sweep has shown.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Sweep {
    /// Ops of the table that give floats.
    pub(crate) ops: u64,
    /// NaNs that were made, each in a run of its own.
    pub(crate) injected: u64,
    /// Those that the device saw.
    pub(crate) detected: u64,
    /// Those of them whose op and phase the diagnosis named.
    pub(crate) named: u64,
    /// Those that reached neither loss nor gradient, so that there was nothing to see.
    pub(crate) harmless: u64,
    /// What was not named, and ops of the table whose own result was never seen: none, where all is well.
    pub(crate) failures: Vec<String>,
}

/// The inputs of a case as parameters, and its use.
struct Model {
    parameters: Vec<Parameter>,
    inputs: Vec<Input>,
    case: Case,
    has_gradient: bool,
}

enum Input {
    Parameter(usize),
    Tensor(Tensor),
}

impl Module for Model {
    fn visit(&self, visitor: &mut Visitor<'_>) {
        for (index, parameter) in self.parameters.iter().enumerate() {
            visitor.child(&format!("input{index}"), parameter);
        }
    }
}

impl Model {
    fn new(entry: &Entry, case: Case, device: &Device) -> Result<Self> {
        let (mut parameters, mut inputs) = (Vec::new(), Vec::new());
        for array in &case.inputs {
            let tensor = array.tensor(device)?;
            inputs.push(match tensor.dtype() {
                everstep_tensor::DType::F32 => {
                    parameters.push(Parameter::new(&tensor)?);
                    Input::Parameter(parameters.len() - 1)
                }
                _ => Input::Tensor(tensor),
            });
        }
        let has_gradient = !matches!(entry.gradient, Gradient::No(_));
        Ok(Self { parameters, inputs, case, has_gradient })
    }

    fn output(&self) -> Result<Tensor> {
        let input = |input: &Input| match input {
            Input::Parameter(index) => self.parameters[*index].tensor(),
            Input::Tensor(tensor) => tensor.clone(),
        };
        let inputs: Vec<_> = self.inputs.iter().map(input).collect();
        Ok(match self.has_gradient {
            true => (self.case.apply)(&inputs)?,
            false => no_grad(|| (self.case.apply)(&inputs))?,
        })
    }

    /// The mean square of what the op gives, and of the parameters, so that there is a gradient in any case.
    fn loss(&self) -> Result<Tensor> {
        let output = self.output()?;
        let mut loss = output.mul(&output)?.mean_all()?;
        for parameter in &self.parameters {
            let value = parameter.tensor();
            loss = loss.add(&value.mul(&value)?.mean_all()?)?;
        }
        Ok(loss)
    }
}

/// The same batch for ever.
struct Endless(u64);

impl State for Endless {
    fn visit(&mut self, visit: &mut Visit<'_>) -> everstep_tensor::Result<()> {
        visit.value("position", &mut self.0)
    }
}

impl Batches for Endless {
    type Batch = ();

    fn next_batch(&mut self) -> Result<Option<()>> {
        self.0 += 1;
        Ok(Some(()))
    }

    fn cursor(&self) -> Cursor {
        Cursor { seed: 0, epoch: 0, position: self.0 }
    }

    fn seek(&mut self, cursor: Cursor) -> Result<()> {
        self.0 = cursor.position;
        Ok(())
    }
}

/// The ops of a step that give floats, each with how many of its kind came before it.
#[derive(Default)]
struct List {
    forward: Vec<(&'static str, u64)>,
    backward: Vec<(&'static str, &'static str, u64)>,
}

impl Probe for List {
    fn see(&mut self, seen: &Seen<'_>) -> everstep_tensor::Result<()> {
        if seen.outputs.first().is_none_or(|output| !output.dtype().is_float() || output.count() == 0) {
            return Ok(());
        }
        match seen.phase {
            Phase::Forward => {
                let before = self.forward.iter().filter(|(op, _)| *op == seen.op).count() as u64;
                self.forward.push((seen.op, before));
            }
            Phase::Backward { of, .. } => {
                let before = self.backward.iter().filter(|(_, known, _)| *known == of).count() as u64;
                self.backward.push((seen.op, of, before));
            }
        }
        Ok(())
    }
}

/// The first use of an op that a NaN can be made in: dense floats, not empty.
fn model(entry: &Entry, device: &Device) -> Result<Option<Model>> {
    for case in entry.cases(&mut Generator::new(3)) {
        let fits = case.inputs.iter().all(|input| (1..=2000).contains(&input.count()));
        if !fits {
            continue;
        }
        let model = Model::new(entry, case, device)?;
        let output = no_grad(|| model.output())?;
        if output.dtype() == everstep_tensor::DType::F32 && output.count() > 0 && !model.parameters.is_empty() {
            return Ok(Some(model));
        }
    }
    Ok(None)
}

/// Sweeps every `stride`th op of the table.
///
/// # Errors
/// Those of the runs that are no answer to a fault.
pub(crate) fn attribution(stride: usize, device: &Device) -> Result<Sweep> {
    let mut sweep = Sweep::default();
    for entry in ALL.iter().step_by(stride.max(1)) {
        let Some(listed) = model(entry, device)? else { continue };
        sweep.ops += 1;
        let list = Rc::new(RefCell::new(List::default()));
        // A probe sees what the planned fault will find: the loss is part of it.
        with_probe(&list, || listed.loss().and_then(|loss| Ok(loss.backward()?)))?;
        drop(listed);
        let list = std::mem::take(&mut *list.borrow_mut());
        let mut seen = BTreeSet::new();
        for (op, nth) in list.forward {
            let target = Target::Activation { op: Some(op.into()), nth };
            if one(&mut sweep, entry, target, op, None, device)? {
                seen.insert(op);
            }
        }
        for (op, of, nth) in list.backward {
            one(&mut sweep, entry, Target::Backward { of: Some(of.into()), nth }, op, Some(of), device)?;
        }
        if seen.is_empty() {
            sweep.failures.push(format!("{}: no NaN of it was ever seen", entry.name));
        }
    }
    Ok(sweep)
}

/// One NaN: whether the device saw it.
fn one(
    sweep: &mut Sweep,
    entry: &Entry,
    target: Target,
    op: &'static str,
    of: Option<&'static str>,
    device: &Device,
) -> Result<bool> {
    let Some(model) = model(entry, device)? else { return Ok(false) };
    let fault = Fault { step: 3, key: Key::Batch, target, elements: Elements::All, damage: Damage::Nan };
    let text = format!("{}: {fault}", entry.name);
    let policy = Policy { interval: 2, in_flight: 0, ..Policy::default() };
    let mut guard = Guard::new(&model, Sgd::new(1e-4), policy)?.with_chaos(Plan { seed: 0, faults: vec![fault] })?;
    let mut batches = Endless(0);
    // Enough for the examination and the probation behind it.
    for _ in 0..16 {
        match guard.step(&mut batches, |()| model.loss()) {
            Ok(_) | Err(Error::GaveUp { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    sweep.injected += 1;
    let Some(diagnosis) = guard.diagnoses().first() else {
        sweep.harmless += 1;
        return Ok(false);
    };
    sweep.detected += 1;
    match &diagnosis.origin {
        Some(origin) if origin.op == op && origin.backward_of == of => sweep.named += 1,
        other => sweep.failures.push(format!("{text}: named {other:?}")),
    }
    Ok(true)
}
