//! Snapshots in the host's memory: what outlives a device.

use std::collections::{BTreeMap, VecDeque};

use everstep_device::{Buffer, Command, Device, Readback, Work};
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
    // Each buffer by itself: a driver's memory for read-backs may hold no more than the largest.
    waiting: VecDeque<(String, Readback)>,
    arrived: BTreeMap<String, Vec<u8>>,
    values: Option<BTreeMap<String, Value>>,
}

impl Snapshot {
    /// Begins to copy it into the host's memory. Nothing waits: what is recorded from now on does not change the copy.
    ///
    /// # Errors
    /// Those of the recording.
    pub fn download(&self) -> Result<Download> {
        let read = |(name, buffer): (&String, &Buffer)| {
            Ok((name.clone(), buffer.device().read_unchecked(&[buffer.region().slice()])?))
        };
        let waiting = self.buffers().iter().map(read).collect::<Result<_>>()?;
        Ok(Download { waiting, arrived: BTreeMap::new(), values: Some(self.values().clone()) })
    }
}

impl Download {
    /// Waits for the copy; `None` where it was taken before.
    ///
    /// # Errors
    /// As [`Download::try_take`].
    pub fn wait(mut self) -> Result<Option<HostSnapshot>> {
        while let Some((name, readback)) = self.waiting.pop_front() {
            self.arrived.insert(name, readback.pace()?.into_iter().next().unwrap_or_default());
        }
        Ok(self.take())
    }

    /// The copy, if it has arrived; afterwards `None` for ever.
    ///
    /// # Errors
    /// [`everstep_device::Error::DeviceLost`].
    pub fn try_take(&mut self) -> Result<Option<HostSnapshot>> {
        while let Some((name, readback)) = self.waiting.front_mut() {
            let Some(parts) = readback.try_take()? else { return Ok(None) };
            let name = std::mem::take(name);
            self.arrived.insert(name, parts.into_iter().next().unwrap_or_default());
            self.waiting.pop_front();
        }
        Ok(self.take())
    }

    fn take(&mut self) -> Option<HostSnapshot> {
        let values = self.values.take()?;
        Some(HostSnapshot { buffers: std::mem::take(&mut self.arrived), values })
    }
}

impl HostSnapshot {
    /// Of what was read from somewhere else.
    pub fn new(buffers: BTreeMap<String, Vec<u8>>, values: BTreeMap<String, Value>) -> Self {
        Self { buffers, values }
    }

    /// The buffers' bytes by the names of their parts.
    pub fn buffers(&self) -> &BTreeMap<String, Vec<u8>> {
        &self.buffers
    }

    /// The values by the names of their parts.
    pub fn values(&self) -> &BTreeMap<String, Value> {
        &self.values
    }

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
        write!(f, "Download({} buffers under way)", self.waiting.len())
    }
}
