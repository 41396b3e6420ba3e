//! A look at every op of a step: where the first value comes up that is not finite, and the planned faults of ops.

use std::collections::HashMap;

use everstep_tensor::{Parameter, Phase, Probe, Result, Seen, Tensor};

use crate::Origin;
use crate::chaos::Due;

/// Results that are not finite are followed this far: what comes of one is not one more.
const MOST_FOUND: usize = 1000;
/// Of so many it is asked what they read: the first one to blame may come behind infinities that are meant, those of masks.
const MOST_TRACED: usize = 32;

/// What is watched, and what was seen.
#[derive(Default)]
pub(crate) struct Watch {
    pub(crate) due: Due,
    /// Whether results are looked at, or only faults made.
    pub(crate) looks: bool,
    pub(crate) names: Vec<(String, Parameter)>,
    pub(crate) batch: Vec<(&'static str, Tensor)>,
    pub(crate) samples: Vec<u64>,
    /// In the order in which they came up.
    pub(crate) found: Vec<Origin>,
    // Of the parameter used last, and of each op by its number.
    pub(crate) layer: Option<String>,
    pub(crate) layers: HashMap<u64, Option<String>>,
}

impl Probe for Watch {
    fn see(&mut self, seen: &Seen<'_>) -> Result<()> {
        self.due.op(seen)?;
        if !self.looks {
            return Ok(());
        }
        let layer = self.layer_of(seen);
        for output in seen.outputs.iter().filter(|output| output.dtype().is_float()) {
            if self.found.len() >= MOST_FOUND {
                break;
            }
            let Some(mut origin) = self.look(seen.op, seen.number, layer.clone(), output)? else { continue };
            if let Phase::Backward { of, .. } = seen.phase {
                origin.backward_of = Some(of);
            }
            if self.found.len() < MOST_TRACED {
                origin.from = self.source(seen.inputs)?;
            }
            self.found.push(origin);
        }
        Ok(())
    }
}

impl Watch {
    fn layer_of(&mut self, seen: &Seen<'_>) -> Option<String> {
        if let Phase::Backward { number, .. } = seen.phase {
            return number.and_then(|number| self.layers.get(&number).cloned().flatten());
        }
        let used = |(_, parameter): &&(String, Parameter)| seen.inputs.iter().any(|input| parameter.is_behind(input));
        if let Some((name, _)) = self.names.iter().find(used) {
            self.layer = Some(layer_of(name));
        }
        self.layers.insert(seen.number, self.layer.clone());
        self.layer.clone()
    }

    /// The first element of `tensor` that is not finite.
    fn look(&self, op: &'static str, number: u64, layer: Option<String>, tensor: &Tensor) -> Result<Option<Origin>> {
        let elements = tensor.peek()?;
        let Some(index) = elements.iter().position(|element| !element.is_finite()) else { return Ok(None) };
        let shape = tensor.shape().to_vec();
        let mut rest = index;
        let mut element: Vec<_> = shape
            .iter()
            .rev()
            .map(|&size| {
                let place = rest % size.max(1);
                rest /= size.max(1);
                place
            })
            .collect();
        element.reverse();
        let of_samples = shape.first() == Some(&self.samples.len());
        let sample = element.first().filter(|_| of_samples).and_then(|&row| self.samples.get(row)).copied();
        let value = elements[index].to_string();
        Ok(Some(Origin { op, number, backward_of: None, layer, shape, element, value, from: None, sample }))
    }

    /// Which of the inputs was not finite already, by the name of what it is.
    fn source(&self, inputs: &[&Tensor]) -> Result<Option<String>> {
        for input in inputs.iter().filter(|input| input.dtype().is_float()) {
            if input.peek()?.iter().all(|element| element.is_finite()) {
                continue;
            }
            let parameter = self.names.iter().find(|(_, parameter)| parameter.is_behind(input));
            let tensor = self.batch.iter().find(|(_, tensor)| tensor.shares_memory(input));
            let tensor = tensor.map(|(name, _)| format!("the batch's {name}"));
            return Ok(parameter.map(|(name, _)| name.clone()).or(tensor));
        }
        Ok(None)
    }

    /// The first gradient that is not finite, where no op was to blame.
    pub(crate) fn look_at_gradients(&mut self) -> Result<()> {
        let names = std::mem::take(&mut self.names);
        for (name, parameter) in &names {
            let Some(gradient) = parameter.grad().filter(|_| self.looks && self.found.is_empty()) else { continue };
            let origin = self.look("gradient", 0, Some(name.clone()), &gradient)?;
            // Its first dimension counts no samples.
            self.found.extend(origin.map(|origin| Origin { sample: None, ..origin }));
        }
        self.names = names;
        Ok(())
    }
}

/// A parameter's name without its last part.
fn layer_of(name: &str) -> String {
    name.rsplit_once('.').map_or(name, |(layer, _)| layer).to_owned()
}
