//! Read-backs: a copy into mappable memory, a callback when it is there, a pool of such memory.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use wgpu::{Buffer, BufferUsages};

use super::executor::Faults;
use crate::readback::Parts;
use crate::{ALIGNMENT, Error, Result};

/// Mappable buffers that wait for the next read-back.
#[derive(Clone, Default)]
pub(super) struct StagingPool(Arc<Mutex<Vec<Buffer>>>);

/// Buffers the pool keeps: as many as steps can be in flight, with room to spare.
const POOL: usize = 16;

const WAITING: u8 = 0;
const MAPPED: u8 = 1;
const FAILED: u8 = 2;

/// A read-back under way.
pub(crate) struct PendingRead {
    device: wgpu::Device,
    buffer: Option<Buffer>,
    // Offset and length of each part in the buffer.
    parts: Vec<(usize, usize)>,
    state: Arc<AtomicU8>,
    // Waiting for this one, and not for whatever was submitted since, lets the host stay ahead of the device.
    submission: wgpu::SubmissionIndex,
    pool: StagingPool,
    faults: Arc<Faults>,
    name: String,
}

/// The size of a shared buffer for `bytes` bytes: the next power of two, as far as the device allows it.
pub(super) fn rounded(device: &wgpu::Device, bytes: u64) -> u64 {
    bytes.next_power_of_two().min(device.limits().max_buffer_size).max(bytes)
}

impl StagingPool {
    fn take(&self, device: &wgpu::Device, bytes: u64) -> Buffer {
        let mut pool = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fit = pool.iter().position(|buffer| buffer.size() >= bytes && buffer.size() <= bytes * 4);
        fit.map(|at| pool.swap_remove(at)).unwrap_or_else(|| {
            device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("read-back"),
                size: rounded(device, bytes),
                usage: BufferUsages::MAP_READ | BufferUsages::COPY_DST,
                mapped_at_creation: false,
            })
        })
    }

    fn give_back(&self, buffer: Buffer) {
        let mut pool = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if pool.len() >= POOL {
            pool.remove(0);
        }
        pool.push(buffer);
    }

    pub(super) fn trim(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    pub(super) fn read(
        &self,
        (device, queue): (&wgpu::Device, &wgpu::Queue),
        sources: &[(&Buffer, usize, usize)],
        clear: Option<(&Buffer, usize, usize)>,
        faults: Arc<Faults>,
        name: &str,
    ) -> PendingRead {
        let mut parts = Vec::with_capacity(sources.len());
        let mut total = 0;
        for (_, _, bytes) in sources {
            parts.push((total, *bytes));
            total += bytes.next_multiple_of(ALIGNMENT);
        }
        let buffer = self.take(device, total.max(ALIGNMENT) as u64);
        let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("read-back") });
        for ((source, offset, bytes), (at, _)) in sources.iter().zip(&parts).filter(|((_, _, bytes), _)| *bytes > 0) {
            let bytes = (*bytes as u64).next_multiple_of(4);
            encoder.copy_buffer_to_buffer(source, *offset as u64, &buffer, *at as u64, bytes);
        }
        if let Some((buffer, offset, bytes)) = clear {
            encoder.clear_buffer(buffer, offset as u64, Some(bytes as u64));
        }
        let submission = queue.submit([encoder.finish()]);
        let state = Arc::new(AtomicU8::new(WAITING));
        let done = state.clone();
        buffer.map_async(wgpu::MapMode::Read, .., move |outcome| {
            done.store(if outcome.is_ok() { MAPPED } else { FAILED }, Ordering::Release);
        });
        let pool = self.clone();
        let (device, buffer, name) = (device.clone(), Some(buffer), name.into());
        PendingRead { device, buffer, parts, state, submission, pool, faults, name }
    }
}

impl PendingRead {
    pub(crate) fn try_take(&mut self) -> Result<Option<Parts>> {
        self.poll(wgpu::PollType::Poll)?;
        match self.state.load(Ordering::Acquire) {
            WAITING => Ok(None),
            _ => self.take().map(Some),
        }
    }

    pub(crate) fn wait(mut self) -> Result<Parts> {
        while self.state.load(Ordering::Acquire) == WAITING {
            self.poll(wgpu::PollType::Wait { submission_index: Some(self.submission.clone()), timeout: None })?;
        }
        self.take()
    }

    fn poll(&self, how: wgpu::PollType) -> Result<()> {
        let outcome = self.device.poll(how);
        self.faults.check(&self.name, "read")?;
        outcome.map(drop).map_err(|error| self.failed(&error.to_string()))
    }

    fn failed(&self, reason: &str) -> Error {
        Error::Driver { device: self.name.clone(), op: "read".into(), reason: reason.into() }
    }

    fn take(&mut self) -> Result<Parts> {
        self.faults.check(&self.name, "read")?;
        let Some(buffer) = self.buffer.take() else { return Err(self.failed("taken twice")) };
        let mapped = buffer.get_mapped_range(..).map_err(|error| self.failed(&error.to_string()))?;
        let parts = self.parts.iter().map(|&(at, bytes)| mapped[at..at + bytes].to_vec()).collect();
        drop(mapped);
        buffer.unmap();
        self.pool.give_back(buffer);
        Ok(parts)
    }
}
