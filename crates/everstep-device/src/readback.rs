//! Reading results back: asynchronous underneath, blocking as a wrapper.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use std::sync::Arc;

use smallvec::SmallVec;

use crate::life::Life;
use crate::{Device, Error, Result, status};

/// Bytes of a slice: those of a step's record need no heap.
pub(crate) type Bytes = SmallVec<[u8; 64]>;

/// Bytes of the slices asked for.
pub(crate) type Parts = SmallVec<[Bytes; 2]>;

fn vectors(parts: Parts) -> Vec<Vec<u8>> {
    parts.into_iter().map(SmallVec::into_vec).collect()
}

pub(crate) enum Pending {
    Ready(Parts),
    #[cfg(feature = "gpu")]
    Gpu(crate::gpu::PendingRead),
    /// Of a device that hangs: it never completes.
    Stalled,
}

/// For a caller that waits for what it already has.
const TAKEN: Error = Error::Command { op: "read", reason: "its result was taken before" };

/// A read-back under way. Poll it with [`Readback::try_take`], await it, or block with [`Readback::wait`].
#[must_use = "a read-back that is dropped is never seen"]
pub struct Readback {
    device: Device,
    // Of the executor that it was begun on.
    life: Arc<Life>,
    pending: Option<Pending>,
    // Whether the device's data status comes behind the slices.
    with_status: bool,
}

impl Readback {
    pub(crate) fn new(device: Device, life: Arc<Life>, pending: Pending, with_status: bool) -> Self {
        Self { device, life, pending: Some(pending), with_status }
    }

    /// The bytes of each slice, if they have arrived. After they were taken it answers `None` for ever.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] where an op met data outside its range since the last read-back; [`Error::DeviceLost`] where the
    /// device was lost since the read-back began.
    pub fn try_take(&mut self) -> Result<Option<Vec<Vec<u8>>>> {
        Ok(self.try_parts()?.map(vectors))
    }

    fn try_parts(&mut self) -> Result<Option<Parts>> {
        let Some(pending) = self.pending.take() else { return Ok(None) };
        // What lay on a device that is lost is lost, arrived or not: so every executor loses the same.
        self.life.check()?;
        match pending {
            Pending::Ready(parts) => self.checked(parts).map(Some),
            #[cfg(feature = "gpu")]
            Pending::Gpu(mut read) => match read.try_take()? {
                Some(parts) => self.checked(parts).map(Some),
                None => {
                    self.pending = Some(Pending::Gpu(read));
                    Ok(None)
                }
            },
            Pending::Stalled => {
                self.pending = Some(Pending::Stalled);
                Ok(None)
            }
        }
    }

    /// Waits for the bytes of each slice.
    ///
    /// # Errors
    /// As [`Readback::try_take`].
    pub fn wait(self) -> Result<Vec<Vec<u8>>> {
        self.device.count_blocking_read();
        self.arrive().map(vectors)
    }

    /// As [`Readback::wait`], for a host that has run ahead of the device and lets it catch up: counted apart.
    ///
    /// # Errors
    /// As [`Readback::try_take`].
    pub fn pace(self) -> Result<Vec<Vec<u8>>> {
        self.pace_parts().map(vectors)
    }

    /// As [`Readback::pace`], for the words of the first slice alone: `words` holds them afterwards, in the memory that it has.
    ///
    /// # Errors
    /// As [`Readback::try_take`].
    pub fn pace_words(self, words: &mut Vec<u32>) -> Result<()> {
        let parts = self.pace_parts()?;
        words.clear();
        let bytes = parts.first().map_or(&[][..], |bytes| bytes);
        words.extend(bytes.chunks_exact(4).map(bytemuck::pod_read_unaligned::<u32>));
        Ok(())
    }

    fn pace_parts(mut self) -> Result<Parts> {
        if let Some(parts) = self.try_parts()? {
            return Ok(parts);
        }
        self.device.count_paced_read();
        self.arrive()
    }

    fn arrive(mut self) -> Result<Parts> {
        let _span = self.device.host_span("wait");
        let pending = self.pending.take().ok_or(TAKEN)?;
        self.life.check()?;
        let parts = match pending {
            Pending::Ready(parts) => parts,
            #[cfg(feature = "gpu")]
            Pending::Gpu(read) => read.wait()?,
            Pending::Stalled => return Err(self.life.wait()),
        };
        self.checked(parts)
    }

    /// Splits off the status and turns it into an error.
    fn checked(&self, mut parts: Parts) -> Result<Parts> {
        let status = if self.with_status { parts.pop() } else { None };
        let words: Vec<u32> = status.map(|bytes| bytemuck::allocation::pod_collect_to_vec(&bytes)).unwrap_or_default();
        status::error(&words).map_or(Ok(parts), Err)
    }
}

impl Future for Readback {
    type Output = Result<Vec<Vec<u8>>>;

    /// Pending until the bytes are there; asks to be polled again at once, because no driver thread would wake it.
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if self.pending.is_none() {
            return Poll::Ready(Err(TAKEN));
        }
        match self.try_take() {
            Ok(Some(parts)) => Poll::Ready(Ok(parts)),
            Err(error) => Poll::Ready(Err(error)),
            Ok(None) => {
                context.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }
}
