//! What the driver says of itself: complaints, and the end.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use crate::life::Life;
use crate::{Error, Result};

/// A handle on the driver's device, with what it complained of since the last look.
#[derive(Clone)]
pub(crate) struct Driver {
    device: wgpu::Device,
    faults: Arc<Faults>,
}

struct Faults {
    life: Arc<Life>,
    refused: Mutex<Option<String>>,
}

/// What an error says that came of the device's loss, where the driver's callback has not said so yet.
fn says_lost(message: &str) -> bool {
    let message = message.to_lowercase();
    message.contains("device is lost") || message.contains("device lost") || message.contains("device was lost")
}

impl Faults {
    fn refused(&self, message: String) {
        if says_lost(&message) {
            self.life.end(message);
        } else {
            self.refused.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(message);
        }
    }
}

impl Driver {
    /// Listens to `device`, which lives as `life` says.
    pub(super) fn new(device: wgpu::Device, life: Arc<Life>) -> Self {
        let faults = Arc::new(Faults { life, refused: Mutex::default() });
        let sink = faults.clone();
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| sink.refused(error.to_string())));
        let sink = faults.clone();
        device.set_device_lost_callback(move |reason, message| {
            sink.life.end(format!("the driver says {reason:?} {message}").trim());
        });
        Self { device, faults }
    }

    pub(super) fn device(&self) -> &wgpu::Device {
        &self.device
    }

    pub(super) fn life(&self) -> &Life {
        &self.faults.life
    }

    /// As the driver would at a reset: whatever is submitted from now on is refused. Waits for nothing.
    pub(crate) fn destroy(&self) {
        self.device.destroy();
    }

    /// The end of the device, or else the first complaint since the last call, as an error.
    pub(super) fn check(&self, op: &str) -> Result<()> {
        self.life().check()?;
        let Some(reason) = self.faults.refused.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            return Ok(());
        };
        self.look()?;
        Err(Error::Driver { device: self.life().device().into(), op: op.into(), reason })
    }

    /// Lets the driver say that the device is lost, before an error is taken for something else.
    fn look(&self) -> Result<()> {
        self.poll(wgpu::PollType::Poll).map(drop)
    }

    /// Whether `create` ran out of memory: then an error, with what was asked for and what is there already.
    pub(super) fn allocate<T>(
        &self,
        (bytes, resident): (usize, impl Fn() -> usize),
        create: impl FnOnce() -> T,
    ) -> Result<T> {
        let out_of_memory = || Error::OutOfMemory { device: self.life().device().into(), bytes, resident: resident() };
        let limit = self.life().memory_limit();
        if limit < usize::MAX && resident().saturating_add(bytes) > limit {
            return Err(out_of_memory());
        }
        let scope = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let created = create();
        if pollster::block_on(scope.pop()).is_none() {
            return Ok(created);
        }
        self.look()?;
        Err(out_of_memory())
    }

    /// Polls the driver. [`wgpu::PollError::Timeout`] is no error of the device: it is `Ok(false)`.
    pub(super) fn poll(&self, how: wgpu::PollType) -> Result<bool> {
        self.life().check()?;
        // wgpu panics where a driver answers a poll with the loss of its device, after it has told the callback. Caught
        // here, it unwinds through wgpu alone, whose locks have no poison.
        let outcome = catch_unwind(AssertUnwindSafe(|| self.device.poll(how)));
        self.life().check()?;
        match outcome {
            Ok(Ok(_)) => Ok(true),
            Ok(Err(wgpu::PollError::Timeout)) => Ok(false),
            Ok(Err(error)) => Err(self.failed(&error.to_string())),
            Err(_) => {
                self.life().end("the driver failed while it was polled");
                self.life().check().map(|()| false)
            }
        }
    }

    /// A read-back that went wrong.
    pub(super) fn failed(&self, reason: &str) -> Error {
        Error::Driver { device: self.life().device().into(), op: "read".into(), reason: reason.into() }
    }
}
