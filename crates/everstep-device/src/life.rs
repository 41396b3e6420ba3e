//! Whether an executor still lives: shared by its device, its read-backs and its driver's callbacks.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::{Error, Result};

/// The life of one executor. It ends once and never begins again: a rebuilt device has another one.
#[derive(Debug)]
pub(crate) struct Life {
    device: String,
    generation: u64,
    // Of the device, through all its lives.
    failures: Arc<AtomicU64>,
    // Whether there is a reason: looked at often.
    over: AtomicBool,
    reason: Mutex<Option<String>>,
    ended: Condvar,
    // Whether read-backs no longer complete, as a test asked for.
    stalled: AtomicBool,
    // Bytes that its buffers may have, as a test asked for.
    memory_limit: AtomicUsize,
    // Whether its driver may never answer: nobody waits for it any more.
    hung: AtomicBool,
}

impl Life {
    pub(crate) fn new(device: String, generation: u64, failures: Arc<AtomicU64>) -> Arc<Self> {
        Arc::new(Self {
            device,
            generation,
            failures,
            over: AtomicBool::new(false),
            reason: Mutex::new(None),
            ended: Condvar::new(),
            stalled: AtomicBool::new(false),
            memory_limit: AtomicUsize::new(usize::MAX),
            hung: AtomicBool::new(false),
        })
    }

    fn reason(&self) -> MutexGuard<'_, Option<String>> {
        self.reason.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends it; the first reason stays. Wakes all that wait.
    pub(crate) fn end(&self, why: impl Into<String>) {
        let why = why.into();
        let mut reason = self.reason();
        if reason.is_some() {
            return;
        }
        *reason = Some(why.clone());
        // What was on it is gone, whichever recording put it there. Counted before anyone can see the end.
        self.failures.fetch_add(1, Ordering::AcqRel);
        self.over.store(true, Ordering::Release);
        self.ended.notify_all();
        drop(reason);
        tracing::warn!(device = %self.device, reason = %why, "device lost");
    }

    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// Why it ended.
    pub(crate) fn why(&self) -> Option<String> {
        if self.is_over() { self.reason().clone() } else { None }
    }

    /// [`Error::DeviceLost`] once it has ended.
    #[inline]
    pub(crate) fn check(&self) -> Result<()> {
        if self.is_over() { Err(self.error()) } else { Ok(()) }
    }

    pub(crate) fn error(&self) -> Error {
        Error::DeviceLost { device: self.device.clone(), reason: self.why().unwrap_or_default() }
    }

    pub(crate) fn device(&self) -> &str {
        &self.device
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    pub(crate) fn stall(&self) {
        self.hung.store(true, Ordering::Release);
        self.stalled.store(true, Ordering::Release);
    }

    pub(crate) fn is_stalled(&self) -> bool {
        self.stalled.load(Ordering::Acquire)
    }

    pub(crate) fn limit_memory(&self, bytes: usize) {
        self.memory_limit.store(bytes, Ordering::Release);
    }

    pub(crate) fn memory_limit(&self) -> usize {
        self.memory_limit.load(Ordering::Acquire)
    }

    pub(crate) fn hang(&self) {
        self.hung.store(true, Ordering::Release);
    }

    pub(crate) fn is_hung(&self) -> bool {
        self.hung.load(Ordering::Acquire)
    }

    /// Waits until it has ended, and says why.
    pub(crate) fn wait(&self) -> Error {
        let mut reason = self.reason();
        while reason.is_none() {
            reason = self.ended.wait(reason).unwrap_or_else(PoisonError::into_inner);
        }
        drop(reason);
        self.error()
    }
}
