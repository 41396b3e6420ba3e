//! Snapshots in the host's memory: what outlives a device.

use std::collections::BTreeMap;

use everstep_device::{Command, Device, Readback, Work};
use serde_json::Value;

use crate::{Result, Snapshot};

/// A [`Snapshot`] whose buffers lie in the host's memory.
#[derive(Clone, Debug, Default)]
pub struct HostSnapshot {
    buffers: BTreeMap<String, Vec<u8>>,
    values: BTreeMap<String, Value>,
}

/// A copy into the host's memory under way.
#[must_use = "a copy that is dropped never arrives"]
pub struct Download {
    names: Vec<String>,
    readback: Option<Readback>,
    values: BTreeMap<String, Value>,
}

impl Snapshot {
    /// Begins to copy it into the host's memory. Nothing waits: what is recorded from now on does not change the copy.
    ///
    /// # Errors
    /// Those of the recording.
    pub fn download(&self) -> Result<Download> {
        let names = self.buffers().keys().cloned().collect();
        let slices: Vec<_> = self.buffers().values().map(|buffer| buffer.region().slice()).collect();
        let device = self.buffers().values().next().map(|buffer| buffer.device());
        let readback = device.map(|device| device.read_unchecked(&slices)).transpose()?;
        Ok(Download { names, readback, values: self.values().clone() })
    }
}

impl Download {
    /// The copy, if it has arrived; afterwards `None` for ever.
    ///
    /// # Errors
    /// [`everstep_device::Error::DeviceLost`].
    pub fn try_take(&mut self) -> Result<Option<HostSnapshot>> {
        let Some(readback) = &mut self.readback else { return Ok(None) };
        let Some(parts) = readback.try_take()? else { return Ok(None) };
        self.readback = None;
        let buffers = std::mem::take(&mut self.names).into_iter().zip(parts).collect();
        Ok(Some(HostSnapshot { buffers, values: std::mem::take(&mut self.values) }))
    }
}

impl HostSnapshot {
    /// The same on `device`, to be restored.
    ///
    /// # Errors
    /// Those of the recording, such as out of memory.
    pub fn upload(&self, device: &Device) -> Result<Snapshot> {
        let mut buffers = BTreeMap::new();
        for (name, bytes) in &self.buffers {
            let buffer = device.windowed_buffer("mirror", bytes.len())?;
            let (work, outputs) = (Work::Upload(bytes.as_slice().into()), vec![buffer.region().slice()]);
            device.record(Command { op: "mirror", work, inputs: vec![], outputs })?;
            buffers.insert(name.clone(), buffer);
        }
        device.flush()?;
        Ok(Snapshot::from_parts(buffers, self.values.clone()))
    }

    /// Bytes of the buffers.
    pub fn bytes(&self) -> usize {
        self.buffers.values().map(Vec::len).sum()
    }
}

impl std::fmt::Debug for Download {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Download({} buffers)", self.names.len())
    }
}
