//! Everything that the next step depends on, visited part by part.

use std::collections::BTreeMap;

use everstep_device::{Buffer, Command, Work};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{Error, Result};

/// Whatever must survive a fault: an optimizer with its arena, a loader's place, a program's own counters.
///
/// ```
/// use everstep_tensor::{Result, Snapshot, State, Visit};
///
/// #[derive(Debug, Default, PartialEq)]
/// struct Progress {
///     samples: u64,
///     best: Option<f64>,
/// }
///
/// impl State for Progress {
///     fn visit(&mut self, visit: &mut Visit<'_>) -> Result<()> {
///         visit.value("samples", &mut self.samples)?;
///         visit.value("best", &mut self.best)
///     }
/// }
///
/// let mut progress = Progress { samples: 640, best: Some(0.25) };
/// let mut snapshot = Snapshot::default();
/// snapshot.save(&mut progress)?;
/// progress = Progress::default();
/// snapshot.restore(&mut progress)?;
/// assert_eq!(progress, Progress { samples: 640, best: Some(0.25) });
/// # Ok::<(), everstep_tensor::Error>(())
/// ```
pub trait State {
    /// Shows each part to `visit`, always the same ones in the same order: it is copied, or replaced by its copy.
    ///
    /// # Errors
    /// Those of `visit`.
    fn visit(&mut self, visit: &mut Visit<'_>) -> Result<()>;
}

impl<S: State + ?Sized> State for &mut S {
    fn visit(&mut self, visit: &mut Visit<'_>) -> Result<()> {
        (**self).visit(visit)
    }
}

/// Two parts, named `0` and `1`.
impl<A: State, B: State> State for (A, B) {
    fn visit(&mut self, visit: &mut Visit<'_>) -> Result<()> {
        visit.within("0", &mut self.0)?;
        visit.within("1", &mut self.1)
    }
}

/// One walk over the parts of a [`State`].
#[derive(Debug)]
pub struct Visit<'a> {
    // Names of the parts that the walk is within, each followed by a dot.
    path: String,
    walk: Walk<'a>,
}

#[derive(Debug)]
enum Walk<'a> {
    Save(&'a mut Snapshot),
    // Whether a restore could do all of its work.
    Check(&'a Snapshot),
    // The size of each buffer.
    Measure(&'a mut BTreeMap<String, usize>),
    Restore(&'a Snapshot),
}

impl Visit<'_> {
    /// The parts of `part`, under `name`.
    ///
    /// # Errors
    /// Those of its parts.
    pub fn within(&mut self, name: &str, part: &mut dyn State) -> Result<()> {
        let length = self.path.len();
        self.path.push_str(name);
        self.path.push('.');
        let outcome = part.visit(self);
        self.path.truncate(length);
        outcome
    }

    /// A buffer of a device. Its copy is another one there: it is recorded, and nothing waits for it.
    ///
    /// # Errors
    /// [`Error::State`] for a restore from a snapshot that lacks it; those of the recording.
    pub fn buffer(&mut self, name: &str, buffer: &Buffer) -> Result<()> {
        let name = format!("{}{name}", self.path);
        match &mut self.walk {
            Walk::Save(snapshot) => {
                let fits = |copy: &&Buffer| copy.bytes() == buffer.bytes() && copy.device().is(buffer.device());
                let copy = match snapshot.buffers.get(&name).filter(fits) {
                    Some(copy) => copy.clone(),
                    None => buffer.device().windowed_buffer("snapshot", buffer.bytes())?,
                };
                copy_all(buffer, &copy)?;
                snapshot.buffers.insert(name, copy);
                Ok(())
            }
            Walk::Measure(sizes) => {
                sizes.insert(name, buffer.bytes());
                Ok(())
            }
            Walk::Check(snapshot) => {
                let copy = snapshot.buffers.get(&name).ok_or_else(|| missing(&name))?;
                let problem = match copy.device().is(buffer.device()) {
                    false => format!("is on {}, not on {}", copy.device(), buffer.device()),
                    true if copy.bytes() != buffer.bytes() => {
                        format!("has {} bytes, not {}", copy.bytes(), buffer.bytes())
                    }
                    true => return Ok(()),
                };
                Err(Error::State { part: name, problem })
            }
            Walk::Restore(snapshot) => {
                let copy = snapshot.buffers.get(&name).ok_or_else(|| missing(&name))?;
                copy_all(copy, buffer)
            }
        }
    }

    /// A value of the host: anything that JSON can hold, which a float that is not finite is not.
    ///
    /// # Errors
    /// [`Error::State`] for a value that JSON cannot hold, or a restore from a snapshot that lacks it or has another type.
    pub fn value<T: Serialize + DeserializeOwned>(&mut self, name: &str, value: &mut T) -> Result<()> {
        let name = format!("{}{name}", self.path);
        let failed = |error: serde_json::Error| Error::State { part: name.clone(), problem: error.to_string() };
        match &mut self.walk {
            Walk::Save(snapshot) => {
                let json = serde_json::to_value(&*value).map_err(failed)?;
                // What cannot be read back would be lost.
                T::deserialize(&json).map_err(failed)?;
                snapshot.values.insert(name, json);
            }
            Walk::Measure(_) => {}
            Walk::Check(snapshot) => {
                let json = snapshot.values.get(&name).ok_or_else(|| missing(&name))?;
                T::deserialize(json).map_err(failed)?;
            }
            Walk::Restore(snapshot) => {
                let json = snapshot.values.get(&name).ok_or_else(|| missing(&name))?;
                *value = T::deserialize(json).map_err(failed)?;
            }
        }
        Ok(())
    }

    /// As [`Visit::value`], where not every value of the type will do: `check` says what is wrong with one.
    ///
    /// # Errors
    /// As [`Visit::value`]; [`Error::State`] with what `check` says, before anything is replaced.
    pub fn value_if<T: Serialize + DeserializeOwned>(
        &mut self,
        name: &str,
        value: &mut T,
        check: impl FnOnce(&T) -> Option<String>,
    ) -> Result<()> {
        if let Walk::Check(snapshot) = &self.walk {
            let part = format!("{}{name}", self.path);
            let json = snapshot.values.get(&part).ok_or_else(|| missing(&part))?;
            let failed = |problem: String| Error::State { part: part.clone(), problem };
            let found = T::deserialize(json).map_err(|error| failed(error.to_string()))?;
            return check(&found).map_or(Ok(()), |problem| Err(failed(problem)));
        }
        self.value(name, value)
    }

    /// Whether the parts are being replaced: then what is derived from them is out of date.
    pub fn is_restore(&self) -> bool {
        matches!(self.walk, Walk::Restore(_))
    }
}

/// The bytes of each buffer of `state`, by the names of their parts.
///
/// # Errors
/// Those of the state.
pub fn buffer_sizes(state: &mut dyn State) -> Result<BTreeMap<String, usize>> {
    let mut sizes = BTreeMap::new();
    state.visit(&mut Visit { path: String::new(), walk: Walk::Measure(&mut sizes) })?;
    Ok(sizes)
}

fn missing(part: &str) -> Error {
    Error::State { part: part.into(), problem: "is not in the snapshot".into() }
}

/// Records the copy of a buffer to another one of its size, in parts that every kind of copy can bind.
fn copy_all(from: &Buffer, to: &Buffer) -> Result<()> {
    let most = from.device().window_bytes() / 256 * 256;
    for start in (0..from.bytes()).step_by(most.max(256)) {
        let count = most.max(256).min(from.bytes() - start);
        let part = |buffer: &Buffer| buffer.part(start, count).map(|region| region.slice());
        let (Some(input), Some(output)) = (part(from), part(to)) else { break };
        let command = Command { op: "snapshot", work: Work::Copy, inputs: vec![input], outputs: vec![output] };
        from.device().record(command)?;
    }
    Ok(())
}

/// A copy of a [`State`]: buffers stay on their device, values are JSON.
#[derive(Debug, Default)]
pub struct Snapshot {
    buffers: BTreeMap<String, Buffer>,
    values: BTreeMap<String, Value>,
}

impl Snapshot {
    /// Copies `state`, as it is behind everything recorded so far. Memory of an earlier copy is used again. The host does not
    /// wait for the device.
    ///
    /// # Errors
    /// [`Error::State`]; those of the recording, such as out of memory. What it held before is then void.
    pub fn save(&mut self, state: &mut dyn State) -> Result<()> {
        self.values.clear();
        state.visit(&mut Visit { path: String::new(), walk: Walk::Save(self) })?;
        self.flush()
    }

    /// Copies `part` in the place of what it holds under `name`, and leaves the rest: for what is known of that moment only
    /// later. It must have no buffers, which are as of now.
    ///
    /// # Errors
    /// [`Error::State`].
    pub fn amend(&mut self, name: &str, part: &mut dyn State) -> Result<()> {
        Visit { path: String::new(), walk: Walk::Save(self) }.within(name, part)
    }

    /// Replaces `state` by its copy. Nothing is changed unless everything fits.
    ///
    /// # Errors
    /// [`Error::State`] naming the first part that does not fit; those of the recording.
    pub fn restore(&self, state: &mut dyn State) -> Result<()> {
        state.visit(&mut Visit { path: String::new(), walk: Walk::Check(self) })?;
        state.visit(&mut Visit { path: String::new(), walk: Walk::Restore(self) })?;
        self.flush()
    }

    /// Of what lies on a device already.
    pub(crate) fn from_parts(buffers: BTreeMap<String, Buffer>, values: BTreeMap<String, Value>) -> Self {
        Self { buffers, values }
    }

    fn flush(&self) -> Result<()> {
        self.buffers.values().try_for_each(|buffer| Ok(buffer.device().flush()?))
    }

    /// Bytes on devices.
    pub fn bytes(&self) -> usize {
        self.buffers.values().map(Buffer::bytes).sum()
    }

    /// The buffers by the names of their parts.
    pub fn buffers(&self) -> &BTreeMap<String, Buffer> {
        &self.buffers
    }

    /// The values by the names of their parts.
    pub fn values(&self) -> &BTreeMap<String, Value> {
        &self.values
    }
}
