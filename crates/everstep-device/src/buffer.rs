//! Handles on device memory.

use std::sync::Arc;

use crate::Device;

/// Names a buffer of a device in commands. Ids are never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BufferId(pub u64);

/// A stable handle on a buffer. Memory is assigned when the recording that first writes it runs, and given back
/// after the last handle is gone and the commands recorded until then have run.
#[derive(Clone)]
pub struct Buffer(Arc<Inner>);

struct Inner {
    id: BufferId,
    bytes: usize,
    device: Device,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.device.forget(self.id);
    }
}

impl Buffer {
    pub(crate) fn new(device: Device, id: BufferId, bytes: usize) -> Self {
        Self(Arc::new(Inner { id, bytes, device }))
    }

    /// The id that commands use.
    pub fn id(&self) -> BufferId {
        self.0.id
    }

    /// Size in bytes.
    pub fn bytes(&self) -> usize {
        self.0.bytes
    }

    /// The device it lives on.
    pub fn device(&self) -> &Device {
        &self.0.device
    }

    /// The whole buffer.
    pub fn region(&self) -> Region {
        Region { buffer: self.clone(), offset: 0, bytes: self.bytes() }
    }

    /// The part from byte `offset`, a multiple of [`ALIGNMENT`], `bytes` long; `None` where it does not fit.
    pub fn part(&self, offset: usize, bytes: usize) -> Option<Region> {
        let fits = offset.is_multiple_of(ALIGNMENT) && offset.checked_add(bytes)? <= self.bytes();
        fits.then(|| Region { buffer: self.clone(), offset, bytes })
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer({}, {} bytes)", self.0.id.0, self.0.bytes)
    }
}

/// Regions start at multiples of this many bytes: the largest alignment a GPU asks of a storage binding.
pub const ALIGNMENT: usize = 256;

/// A part of a buffer, with a handle that keeps the buffer alive.
#[derive(Clone, Debug)]
pub struct Region {
    buffer: Buffer,
    offset: usize,
    bytes: usize,
}

impl Region {
    /// The buffer.
    pub fn buffer(&self) -> &Buffer {
        &self.buffer
    }

    /// Size in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The same part, as commands name it.
    pub fn slice(&self) -> Slice {
        Slice { buffer: self.buffer.id(), offset: self.offset, bytes: self.bytes }
    }
}

/// A part of a buffer as data: what commands read and write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Slice {
    /// The buffer.
    pub buffer: BufferId,
    /// First byte: a multiple of [`ALIGNMENT`] where a kernel binds it, of 4 where bytes are copied.
    pub offset: usize,
    /// Length in bytes.
    pub bytes: usize,
}

impl Slice {
    /// Whether the two share a byte.
    pub fn overlaps(&self, other: &Self) -> bool {
        let (end, other_end) = (self.offset.saturating_add(self.bytes), other.offset.saturating_add(other.bytes));
        self.buffer == other.buffer && self.offset < other_end && other.offset < end
    }
}
