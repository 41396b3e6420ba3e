//! A storage that fails, for tests.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::storage::{ReadFile, Storage, WriteFile};

/// How an operation fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It does nothing, and says this.
    Error(io::ErrorKind),
    /// It writes, or reads, half of the bytes and says so; operations without bytes do not fail.
    ShortWrite,
    /// It writes half of the bytes, or does all that it should where there are no bytes, and says that it failed.
    TornWrite,
    /// It flips a bit of what it writes or reads, and says that all is well; operations without bytes do not fail.
    WrongBytes,
    /// It says that there is no room, where it would write.
    NoSpace,
    /// It does nothing, nor does any later one.
    PowerLoss,
}

/// A storage over another one, whose operation of one number fails. Each call counts, each read and write of a file too.
#[derive(Clone, Debug)]
pub struct FaultyStorage {
    inner: Arc<dyn Storage>,
    fault: Arc<Fault>,
}

#[derive(Debug)]
struct Fault {
    at: u64,
    failure: Failure,
    operations: AtomicU64,
}

impl FaultyStorage {
    /// The operation number `at`, from 0, of `inner` fails.
    pub fn new(inner: impl Storage + 'static, at: u64, failure: Failure) -> Self {
        Self { inner: Arc::new(inner), fault: Arc::new(Fault { at, failure, operations: AtomicU64::new(0) }) }
    }

    /// How many operations there were, those that failed too.
    pub fn operations(&self) -> u64 {
        self.fault.operations.load(Ordering::Relaxed)
    }
}

impl Fault {
    /// Counts an operation, and says how it fails.
    fn next(&self) -> Option<Failure> {
        let number = self.operations.fetch_add(1, Ordering::Relaxed);
        let fails = number == self.at || (number > self.at && self.failure == Failure::PowerLoss);
        fails.then_some(self.failure)
    }

    /// An operation without bytes.
    fn around<T>(&self, writes: bool, operation: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        match self.next() {
            Some(Failure::TornWrite) if writes => operation().and(Err(torn())),
            Some(Failure::NoSpace) if !writes => operation(),
            Some(failure) => refusal(failure).map_or_else(operation, Err),
            None => operation(),
        }
    }
}

/// What it says where it does nothing else.
fn refusal(failure: Failure) -> Option<io::Error> {
    match failure {
        Failure::Error(kind) => Some(kind.into()),
        Failure::NoSpace => Some(io::ErrorKind::StorageFull.into()),
        Failure::PowerLoss => Some(io::Error::other("the power is gone")),
        Failure::ShortWrite | Failure::TornWrite | Failure::WrongBytes => None,
    }
}

fn torn() -> io::Error {
    io::Error::other("it failed half-way")
}

impl Storage for FaultyStorage {
    fn list(&self) -> io::Result<Vec<String>> {
        self.fault.around(false, || self.inner.list())
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn WriteFile>> {
        let file = self.fault.around(true, || self.inner.create(name))?;
        Ok(Box::new(FaultyFile { file, fault: self.fault.clone() }))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn ReadFile>> {
        let file = self.fault.around(false, || self.inner.open(name))?;
        Ok(Box::new(FaultyFile { file, fault: self.fault.clone() }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.fault.around(true, || self.inner.rename(from, to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.fault.around(true, || self.inner.remove(name))
    }

    fn sync(&self) -> io::Result<()> {
        self.fault.around(true, || self.inner.sync())
    }

    fn free_bytes(&self) -> io::Result<Option<u64>> {
        match self.fault.next() {
            Some(Failure::NoSpace) => Ok(Some(0)),
            failure => failure.and_then(refusal).map_or_else(|| self.inner.free_bytes(), Err),
        }
    }

    fn lock(&self) -> io::Result<Box<dyn Send + Sync>> {
        self.fault.around(false, || self.inner.lock())
    }

    fn place(&self) -> String {
        self.inner.place()
    }
}

struct FaultyFile<F> {
    file: F,
    fault: Arc<Fault>,
}

impl WriteFile for FaultyFile<Box<dyn WriteFile>> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (half, _) = bytes.split_at(bytes.len().div_ceil(2));
        match self.fault.next() {
            None => self.file.write(bytes),
            Some(Failure::ShortWrite) => self.file.write(half),
            Some(Failure::TornWrite) => self.file.write(half).and(Err(torn())),
            Some(Failure::WrongBytes) => self.file.write(&flipped(bytes)),
            Some(failure) => refusal(failure).map_or(Ok(0), Err),
        }
    }

    fn sync(&mut self) -> io::Result<()> {
        let file = &mut self.file;
        self.fault.around(true, || file.sync())
    }
}

impl ReadFile for FaultyFile<Box<dyn ReadFile>> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let half = bytes.len().div_ceil(2);
        match self.fault.next() {
            None | Some(Failure::NoSpace) => self.file.read(bytes),
            Some(Failure::ShortWrite) => self.file.read(bytes.get_mut(..half).unwrap_or_default()),
            Some(Failure::TornWrite) => Err(torn()),
            Some(Failure::WrongBytes) => {
                let read = self.file.read(bytes)?;
                let wrong = flipped(bytes.get(..read).unwrap_or_default());
                bytes.iter_mut().zip(wrong).for_each(|(byte, wrong)| *byte = wrong);
                Ok(read)
            }
            Some(failure) => refusal(failure).map_or(Ok(0), Err),
        }
    }

    fn bytes(&self) -> io::Result<u64> {
        self.fault.around(false, || self.file.bytes())
    }
}

fn flipped(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let middle = bytes.len() / 2;
    bytes.get_mut(middle).into_iter().for_each(|byte| *byte ^= 0x10);
    bytes
}
