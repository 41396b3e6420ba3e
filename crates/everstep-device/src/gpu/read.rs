//! Read-backs: a copy into mappable memory, a callback when it is there, a pool of such memory.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use smallvec::SmallVec;
use wgpu::{Buffer, BufferUsages};

use super::driver::Driver;
use crate::readback::{Bytes, Parts};
use crate::{ALIGNMENT, Result};

/// How long a host waits for a driver before it looks whether the device was declared lost meanwhile.
const LOOK_AROUND: Duration = Duration::from_millis(20);

/// A mappable buffer, and whether it is mapped.
struct Staging {
    buffer: Buffer,
    state: Arc<AtomicU8>,
}

/// Mappable buffers that wait for the next read-back.
#[derive(Clone, Default)]
pub(super) struct StagingPool(Arc<Mutex<Vec<Staging>>>);

/// Buffers the pool keeps: as many as steps can be in flight, with room to spare.
const POOL: usize = 16;
/// Of those for small read-backs, which are records of steps mostly, so many are made at once.
const SPARE: usize = 8;
/// Bytes of a small read-back.
const RECORDS: u64 = 1024;

const WAITING: u8 = 0;
const MAPPED: u8 = 1;
const FAILED: u8 = 2;

/// A read-back under way.
pub(crate) struct PendingRead {
    driver: Driver,
    staging: Option<Staging>,
    // Offset and length of each part in the buffer.
    parts: SmallVec<[(usize, usize); 4]>,
    // Waiting for this one, and not for whatever was submitted since, lets the host stay ahead of the device.
    submission: wgpu::SubmissionIndex,
    pool: StagingPool,
}

/// The size of a shared buffer for `bytes` bytes: the next power of two, as far as the device allows it.
pub(super) fn rounded(device: &wgpu::Device, bytes: u64) -> u64 {
    // Some drivers' limit is no multiple of anything, and what is mapped is one of 8.
    let most = device.limits().max_buffer_size / ALIGNMENT as u64 * ALIGNMENT as u64;
    bytes.next_power_of_two().min(most).max(bytes)
}

impl StagingPool {
    fn take(&self, driver: &Driver, bytes: u64, resident: impl Fn() -> usize) -> Result<Staging> {
        let mut pool = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |staging: &Staging| (bytes..=bytes * 4).contains(&staging.buffer.size());
        let fit = pool.iter().position(fits);
        if let Some(at) = fit {
            return Ok(pool.swap_remove(at));
        }
        let descriptor = wgpu::BufferDescriptor {
            label: Some("read-back"),
            size: rounded(driver.device(), bytes),
            usage: BufferUsages::MAP_READ | BufferUsages::COPY_DST,
            mapped_at_creation: false,
        };
        let create = || {
            let buffer = driver
                .allocate((descriptor.size as usize, &resident), || driver.device().create_buffer(&descriptor))?;
            Ok(Staging { buffer, state: Arc::default() })
        };
        // Those of records come in numbers: the steps that are in flight later allocate none.
        pool.reserve(POOL);
        for _ in 0..if bytes <= RECORDS { SPARE } else { 0 } {
            pool.push(create()?);
        }
        create()
    }

    fn give_back(&self, staging: Staging) {
        let mut pool = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if pool.len() >= POOL {
            pool.remove(0);
        }
        pool.push(staging);
    }

    pub(super) fn trim(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    pub(super) fn read(
        &self,
        (driver, queue): (&Driver, &wgpu::Queue),
        sources: &[(&Buffer, usize, usize)],
        clear: Option<(&Buffer, usize, usize)>,
        resident: impl Fn() -> usize,
    ) -> Result<PendingRead> {
        let device = driver.device();
        let mut parts = SmallVec::new();
        let mut total = 0;
        for (_, _, bytes) in sources {
            parts.push((total, *bytes));
            total += bytes.next_multiple_of(ALIGNMENT);
        }
        let staging = self.take(driver, total.max(ALIGNMENT) as u64, resident)?;
        let buffer = &staging.buffer;
        let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("read-back") });
        for ((source, offset, bytes), (at, _)) in sources.iter().zip(&parts).filter(|((_, _, bytes), _)| *bytes > 0) {
            let bytes = (*bytes as u64).next_multiple_of(4);
            encoder.copy_buffer_to_buffer(source, *offset as u64, buffer, *at as u64, bytes);
        }
        if let Some((buffer, offset, bytes)) = clear {
            encoder.clear_buffer(buffer, offset as u64, Some(bytes as u64));
        }
        let submission = queue.submit([encoder.finish()]);
        staging.state.store(WAITING, Ordering::Release);
        let done = staging.state.clone();
        buffer.map_async(wgpu::MapMode::Read, .., move |outcome| {
            done.store(if outcome.is_ok() { MAPPED } else { FAILED }, Ordering::Release);
        });
        let pool = self.clone();
        Ok(PendingRead { driver: driver.clone(), staging: Some(staging), parts, submission, pool })
    }
}

impl PendingRead {
    pub(crate) fn try_take(&mut self) -> Result<Option<Parts>> {
        self.driver.poll(wgpu::PollType::Poll)?;
        if self.is_waiting() { Ok(None) } else { self.take().map(Some) }
    }

    fn is_waiting(&self) -> bool {
        self.staging.as_ref().is_some_and(|staging| staging.state.load(Ordering::Acquire) == WAITING)
    }

    /// Waits, a little at a time: a device that hangs is declared lost by another thread, which nothing else would tell
    /// this one. One that answers is waited for no longer than without.
    pub(crate) fn wait(mut self) -> Result<Parts> {
        while self.is_waiting() {
            let submission_index = Some(self.submission.clone());
            self.driver.poll(wgpu::PollType::Wait { submission_index, timeout: Some(LOOK_AROUND) })?;
        }
        self.take()
    }

    fn take(&mut self) -> Result<Parts> {
        self.driver.check("read")?;
        let Some(staging) = self.staging.take() else { return Err(self.driver.failed("taken twice")) };
        let mapped = staging.buffer.get_mapped_range(..).map_err(|error| self.driver.failed(&error.to_string()))?;
        let parts = self.parts.iter().map(|&(at, bytes)| Bytes::from_slice(&mapped[at..at + bytes])).collect();
        drop(mapped);
        staging.buffer.unmap();
        self.pool.give_back(staging);
        Ok(parts)
    }
}
