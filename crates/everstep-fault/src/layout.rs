//! Where the tensors of a checkpoint lie in the buffers of a run's state.

use std::collections::BTreeMap;

use everstep_device::control;
use everstep_nn::Module;
use everstep_optim::Optimizer;
use everstep_tensor::{HostSnapshot, Parameter, RunningBuffer};
use safetensors::Dtype;
use serde_json::{Value, json};

use crate::checkpoint::{Loaded, LoadedTensor, TensorSource};
use crate::{Error, Result};

/// The model by its names.
pub(crate) struct Names {
    pub(crate) parameters: Vec<(String, Parameter)>,
    buffers: Vec<(String, RunningBuffer)>,
    // Seed and stream of each layer that draws.
    streams: Vec<(u64, u32)>,
}

/// A tensor of a checkpoint, and the bytes of a buffer that it is.
#[derive(Clone, Debug, PartialEq)]
struct Piece {
    tensor: String,
    dtype: Dtype,
    shape: Vec<usize>,
    offset: usize,
    bytes: usize,
    // Frozen parameters, which do not change from save to save, have a file of their own.
    frozen: bool,
}

/// The tensors of every buffer, by the buffers' names in the state. What lies between them is padding: zeros.
pub(crate) struct Layout {
    parts: BTreeMap<String, (usize, Vec<Piece>)>,
}

/// The part with the control block.
const CONTROL: &str = "optimizer.gate.control";

impl Names {
    pub(crate) fn of(model: &impl Module) -> Self {
        let streams = model.random_streams().iter().map(|stream| stream.key()).collect();
        Self { parameters: model.named_parameters(), buffers: model.named_buffers(), streams }
    }

    /// What must be the same of the model.
    pub(crate) fn identity(&self) -> Value {
        let parameter = |(name, parameter): &(String, Parameter)| {
            (name.clone(), json!({ "shape": parameter.shape().to_vec(), "dtype": parameter.dtype().to_string() }))
        };
        let buffer = |(name, buffer): &(String, RunningBuffer)| (name.clone(), json!(buffer.shape().to_vec()));
        json!({
            "parameters": self.parameters.iter().map(parameter).collect::<serde_json::Map<_, _>>(),
            "buffers": self.buffers.iter().map(buffer).collect::<serde_json::Map<_, _>>(),
            "random_streams": self.streams,
        })
    }

    fn name_of(&self, parameter: &Parameter) -> String {
        let known = self.parameters.iter().find(|(_, known)| known.is(parameter));
        known.map_or_else(|| "unnamed".into(), |(name, _)| name.clone())
    }
}

impl Layout {
    /// Of a state with buffers of these sizes, whose optimizer is the part `optimizer`.
    pub(crate) fn of(names: &Names, optimizer: &Optimizer, sizes: &BTreeMap<String, usize>) -> Self {
        let parameters = |prefix: &str| parameter_pieces(names, optimizer, prefix);
        let mut known: BTreeMap<String, Vec<Piece>> = BTreeMap::new();
        known.insert("optimizer.arena.values".into(), parameters("model"));
        for number in 0..optimizer.states().len() {
            known.insert(format!("optimizer.state{number}"), parameters(&format!("optimizer.state{number}")));
        }
        known.insert("optimizer.arena.committed".into(), buffer_pieces(names, optimizer, "model"));
        known.insert("optimizer.arena.pending".into(), buffer_pieces(names, optimizer, "pending"));
        let mut pieces = |part: &str, bytes: usize| known.remove(part).unwrap_or_else(|| vec![raw(part, bytes)]);
        let parts = sizes.iter().map(|(part, &bytes)| (part.clone(), (bytes, pieces(part, bytes)))).collect();
        Self { parts }
    }

    /// The tensors, as they lie in a snapshot of this layout.
    pub(crate) fn tensors<'a>(&self, snapshot: &'a HostSnapshot) -> Vec<TensorSource<'a>> {
        let mut sources = Vec::new();
        for (part, (_, pieces)) in &self.parts {
            let Some(buffer) = snapshot.buffers().get(part) else { continue };
            sources.extend(pieces.iter().map(|piece| TensorSource {
                name: piece.tensor.clone(),
                group: usize::from(piece.frozen),
                dtype: piece.dtype,
                shape: piece.shape.clone(),
                pieces: buffer.get(piece.offset..piece.offset + piece.bytes).into_iter().collect(),
            }));
        }
        sources
    }

    /// A snapshot of this layout of the tensors of a checkpoint.
    ///
    /// # Errors
    /// [`Error::Changed`] naming the first tensor that is not there, is another, or has no place.
    pub(crate) fn snapshot(&self, loaded: Loaded) -> Result<HostSnapshot> {
        let changed = |difference: String| Error::Changed { difference };
        let mut tensors = loaded.tensors;
        let mut buffers = BTreeMap::new();
        for (part, (bytes, pieces)) in &self.parts {
            let mut buffer = vec![0; *bytes];
            for piece in pieces {
                let found = tensors.remove(&piece.tensor);
                let found = found.ok_or_else(|| changed(format!("it has no tensor `{}`", piece.tensor)))?;
                piece.check(&found).map_err(changed)?;
                let Some(place) = buffer.get_mut(piece.offset..piece.offset + piece.bytes) else { continue };
                place.copy_from_slice(&found.bytes);
            }
            buffers.insert(part.clone(), buffer);
        }
        match tensors.keys().next() {
            Some(name) => Err(changed(format!("its tensor `{name}` has no place here"))),
            None => Ok(HostSnapshot::new(buffers, loaded.manifest.values)),
        }
    }
}

impl Piece {
    /// What is wrong with a tensor that is to take this place.
    fn check(&self, found: &LoadedTensor) -> std::result::Result<(), String> {
        if (found.dtype, &found.shape, found.bytes.len()) == (self.dtype, &self.shape, self.bytes) {
            return Ok(());
        }
        let (name, dtype, shape) = (&self.tensor, self.dtype, &self.shape);
        Err(format!("its tensor `{name}` is {:?} {:?}, here it is {dtype:?} {shape:?}", found.dtype, found.shape))
    }
}

fn parameter_pieces(names: &Names, optimizer: &Optimizer, prefix: &str) -> Vec<Piece> {
    let arena = optimizer.arena();
    let piece = |(parameter, slot): (&Parameter, &std::ops::Range<usize>)| Piece {
        tensor: format!("{prefix}.{}", names.name_of(parameter)),
        dtype: Dtype::F32,
        shape: parameter.shape().to_vec(),
        offset: slot.start * 4,
        bytes: parameter.shape().count() * 4,
        frozen: !parameter.is_trainable(),
    };
    arena.parameters().iter().zip(arena.slots()).map(piece).collect()
}

fn buffer_pieces(names: &Names, optimizer: &Optimizer, prefix: &str) -> Vec<Piece> {
    let arena = optimizer.arena();
    let name = |buffer: &RunningBuffer| {
        let known = names.buffers.iter().find(|(_, known)| known.is(buffer));
        known.map_or("unnamed", |(name, _)| name.as_str())
    };
    let piece = |(buffer, start): (&RunningBuffer, usize)| Piece {
        tensor: format!("{prefix}.{}", name(buffer)),
        dtype: Dtype::F32,
        shape: buffer.shape().to_vec(),
        offset: start * 4,
        bytes: buffer.shape().count() * 4,
        frozen: false,
    };
    arena.buffers().iter().zip(arena.buffer_starts()).map(piece).collect()
}

/// A buffer that is one tensor, of words where it can be.
fn raw(part: &str, bytes: usize) -> Piece {
    let (dtype, count) = if bytes.is_multiple_of(4) { (Dtype::U32, bytes / 4) } else { (Dtype::U8, bytes) };
    Piece { tensor: part.into(), dtype, shape: vec![count], offset: 0, bytes, frozen: false }
}

/// How many steps a snapshot's control block counts as committed.
pub(crate) fn committed(snapshot: &HostSnapshot) -> u64 {
    let control = snapshot.buffers().get(CONTROL).map(Vec::as_slice).unwrap_or_default();
    let word = control.get(control::COMMITTED * 4..).and_then(|bytes| bytes.first_chunk().copied());
    word.map_or(0, u32::from_le_bytes).into()
}

/// What must be the same of the optimizer.
pub(crate) fn optimizer_identity(names: &Names, optimizer: &Optimizer) -> Value {
    let arena = optimizer.arena();
    let members = |group: &std::ops::Range<usize>| -> Vec<String> {
        let inside = arena.parameters().iter().zip(arena.slots()).filter(|(_, slot)| group.contains(&slot.start));
        inside.map(|(parameter, _)| names.name_of(parameter)).collect()
    };
    let groups = optimizer.rules().iter().zip(arena.groups());
    let groups = groups.map(|(rule, group)| json!({ "rule": format!("{rule:?}"), "parameters": members(group) }));
    let options = optimizer.options();
    json!({
        "groups": groups.collect::<Vec<_>>(),
        "schedule": optimizer.schedule_samples(),
        "clip_norm": options.max_norm,
        "clip_value": (optimizer.clip_limit() < f32::MAX).then(|| optimizer.clip_limit()),
        "loss_scale": options.loss_scale.map(|scale| format!("{scale:?}")),
        // Checkpoints from before there was a choice say nothing, and are of f32.
        "precision": optimizer.precision().half().map(|half| half.to_string()),
    })
}

/// The first difference between what was and what is, in words: `None` where there is none.
pub(crate) fn difference(path: &str, was: &Value, is: &Value) -> Option<String> {
    let within = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    match (was, is) {
        (Value::Object(was), Value::Object(is)) => {
            let keys = was.keys().chain(is.keys().filter(|key| !was.contains_key(*key)));
            keys.into_iter().find_map(|key| {
                let none = Value::Null;
                difference(&within(key), was.get(key).unwrap_or(&none), is.get(key).unwrap_or(&none))
            })
        }
        (Value::Array(was), Value::Array(is)) if was.len() == is.len() && was.iter().all(Value::is_object) => {
            let pairs = was.iter().zip(is).enumerate();
            pairs.into_iter().find_map(|(index, (was, is))| difference(&within(&index.to_string()), was, is))
        }
        _ if was == is => None,
        _ => Some(format!("{path} was {was} and is {is}")),
    }
}
