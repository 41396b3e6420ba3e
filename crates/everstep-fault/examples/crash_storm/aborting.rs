//! A storage at one of whose operations the process dies.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use everstep_fault::checkpoint::{ReadFile, Storage, WriteFile};

/// A storage over another, at one of whose operations the process dies as if it were killed: nothing is cleaned up.
#[derive(Clone, Debug)]
pub(crate) struct AbortingStorage<S> {
    inner: S,
    deadline: Deadline,
}

/// Operations until the end.
#[derive(Clone, Debug)]
struct Deadline(Arc<AtomicU64>);

impl Deadline {
    fn pass(&self) {
        if self.0.fetch_sub(1, Ordering::Relaxed) == 1 {
            std::process::abort();
        }
    }
}

impl<S> AbortingStorage<S> {
    /// One that dies at its nth operation, from 1; `None` for never.
    pub(crate) fn new(inner: S, abort_at: Option<u64>) -> Self {
        Self { inner, deadline: Deadline(Arc::new(AtomicU64::new(abort_at.unwrap_or(u64::MAX)))) }
    }
}

impl<S: Storage> Storage for AbortingStorage<S> {
    fn list(&self) -> io::Result<Vec<String>> {
        self.deadline.pass();
        self.inner.list()
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn WriteFile>> {
        self.deadline.pass();
        Ok(Box::new(AbortingFile { inner: self.inner.create(name)?, deadline: self.deadline.clone() }))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn ReadFile>> {
        self.deadline.pass();
        self.inner.open(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.deadline.pass();
        self.inner.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.deadline.pass();
        self.inner.remove(name)
    }

    fn sync(&self) -> io::Result<()> {
        self.deadline.pass();
        self.inner.sync()
    }

    fn free_bytes(&self) -> io::Result<Option<u64>> {
        self.inner.free_bytes()
    }

    fn lock(&self) -> io::Result<Box<dyn Send + Sync>> {
        self.inner.lock()
    }

    fn place(&self) -> String {
        self.inner.place()
    }
}

struct AbortingFile {
    inner: Box<dyn WriteFile>,
    deadline: Deadline,
}

impl WriteFile for AbortingFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.deadline.pass();
        self.inner.write(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.deadline.pass();
        self.inner.sync()
    }
}
