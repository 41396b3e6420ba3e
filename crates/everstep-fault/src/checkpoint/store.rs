//! The generations in a storage.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::names::{self, Kind};
use super::read::{Reader, io_error};
use super::{CheckpointError, Loaded, Manifest, Storage};

/// Bytes of one read or write.
const CHUNK_BYTES: usize = 4 << 20;

/// The generations in a storage. One store at a time may change them; any number may look.
pub struct Store {
    pub(super) storage: Arc<dyn Storage>,
    pub(super) chunk: usize,
    // Nothing reads it: it is there to be dropped with the store.
    lock: Option<Box<dyn Send + Sync>>,
    // The highest number that a manifest may have had; held while generations change.
    changing: Mutex<u64>,
}

/// A generation that there is.
#[derive(Clone, Debug, PartialEq)]
pub struct Listed {
    /// Its number.
    pub generation: u64,
    /// Its manifest, or why that cannot be read. Its tensors were not looked at.
    pub outcome: Result<Manifest, CheckpointError>,
}

/// The newest generation that can be loaded.
#[derive(Clone, Debug, PartialEq)]
pub struct Newest {
    /// The generation; `None` where there is none.
    pub loaded: Option<Loaded>,
    /// The newer ones that cannot be, newest first, and why. Those that are damaged were set aside.
    pub damaged: Vec<(u64, CheckpointError)>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("storage", &self.storage).field("locked", &self.lock.is_some()).finish()
    }
}

impl Store {
    /// To save and to load: no other store changes it meanwhile. What an earlier one had not finished writing is removed.
    ///
    /// # Errors
    /// [`CheckpointError::Locked`] where another process, or another store of this one, is at it; [`CheckpointError::Io`].
    pub fn open(storage: Arc<dyn Storage>) -> Result<Self, CheckpointError> {
        let lock = storage.lock().map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => CheckpointError::Locked { place: storage.place(), holder: error.to_string() },
            _ => io_error(storage.as_ref(), "locking", "", &error),
        })?;
        let store = Self { lock: Some(lock), ..Self::read_only(storage) };
        for name in store.names()? {
            if let Kind::Partial(_) = names::kind(&name) {
                store.try_remove(&name);
            }
        }
        Ok(store)
    }

    /// To look, while another store changes it or not. It changes nothing.
    pub fn read_only(storage: Arc<dyn Storage>) -> Self {
        Self { storage, chunk: CHUNK_BYTES, lock: None, changing: Mutex::new(0) }
    }

    /// The same, with at most `bytes` written or read at once, where 4 MiB do not suit the storage.
    #[must_use]
    pub fn with_chunk_bytes(self, bytes: usize) -> Self {
        Self { chunk: bytes.max(1), ..self }
    }

    /// Where it is.
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    pub(super) fn reader(&self) -> Reader<'_> {
        Reader { storage: self.storage.as_ref(), chunk: self.chunk }
    }

    pub(super) fn io(&self, operation: &str, file: &str, error: &io::Error) -> CheckpointError {
        io_error(self.storage.as_ref(), operation, file, error)
    }

    pub(super) fn names(&self) -> Result<BTreeSet<String>, CheckpointError> {
        let names = self.storage.list().map_err(|error| self.io("listing the files", "", &error))?;
        Ok(names.into_iter().collect())
    }

    pub(super) fn sync(&self) -> Result<(), CheckpointError> {
        self.storage.sync().map_err(|error| self.io("making the names of files durable", "", &error))
    }

    /// Removes what is superfluous; where that fails, it stays.
    pub(super) fn try_remove(&self, name: &str) {
        if let Err(error) = self.storage.remove(name)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(place = %self.storage.place(), %name, %error, "a superfluous file stays");
        }
    }

    /// What changes generations does so one after the other.
    pub(super) fn change(&self) -> Result<MutexGuard<'_, u64>, CheckpointError> {
        if self.lock.is_none() {
            return Err(CheckpointError::ReadOnly { place: self.storage.place() });
        }
        // The number in it is right, whatever the one that panicked was doing.
        Ok(self.changing.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The numbers of the generations, newest first.
    pub(super) fn generations(names: &BTreeSet<String>) -> Vec<u64> {
        let number = |name: &String| match names::kind(name) {
            Kind::Manifest(generation) => Some(generation),
            _ => None,
        };
        let numbers: BTreeSet<u64> = names.iter().filter_map(number).collect();
        numbers.into_iter().rev().collect()
    }

    /// The generations, newest first, by their manifests: [`Store::verify`] looks at all of one.
    ///
    /// # Errors
    /// [`CheckpointError::Io`] where the storage does not say what there is.
    pub fn list(&self) -> Result<Vec<Listed>, CheckpointError> {
        let listed = |generation| Listed { generation, outcome: self.reader().manifest(generation) };
        Ok(Self::generations(&self.names()?).into_iter().map(listed).collect())
    }

    /// The numbers of the generations that were set aside, newest first.
    ///
    /// # Errors
    /// [`CheckpointError::Io`] where the storage does not say what there is.
    pub fn set_aside_before(&self) -> Result<Vec<u64>, CheckpointError> {
        let number = |name: &String| match names::kind(name) {
            Kind::Aside(generation) => Some(generation),
            _ => None,
        };
        let numbers: BTreeSet<u64> = self.names()?.iter().filter_map(number).collect();
        Ok(numbers.into_iter().rev().collect())
    }

    /// The number of the next generation, above all that there were, damaged ones too.
    ///
    /// # Errors
    /// [`CheckpointError::Io`]; [`CheckpointError::Damaged`] where there is no higher number.
    pub fn next_generation(&self) -> Result<u64, CheckpointError> {
        let tried = *self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        self.number_after(tried, &self.names()?)
    }

    pub(super) fn number_after(&self, tried: u64, names: &BTreeSet<String>) -> Result<u64, CheckpointError> {
        let highest = names.iter().filter_map(|name| names::kind(name).generation()).max().unwrap_or(0).max(tried);
        highest.checked_add(1).ok_or_else(|| CheckpointError::Damaged {
            place: self.storage.place(),
            file: names::manifest(highest),
            problem: "has the last number that there is".to_owned(),
        })
    }

    /// A generation, with every hash.
    ///
    /// # Errors
    /// [`CheckpointError::Missing`]; [`CheckpointError::Damaged`] where any byte is not what was written;
    /// [`CheckpointError::Version`]; [`CheckpointError::Io`].
    pub fn load(&self, generation: u64) -> Result<Loaded, CheckpointError> {
        let manifest = self.reader().manifest(generation)?;
        let mut tensors = std::collections::BTreeMap::new();
        self.reader().data(&manifest, Some(&mut tensors))?;
        Ok(Loaded { manifest, tensors })
    }

    /// Compares a generation with every hash, and keeps nothing of its tensors in memory.
    ///
    /// # Errors
    /// Those of [`Store::load`].
    pub fn verify(&self, generation: u64) -> Result<Manifest, CheckpointError> {
        let manifest = self.reader().manifest(generation)?;
        self.reader().data(&manifest, None)?;
        Ok(manifest)
    }

    /// The newest generation that can be loaded, trusted or not. Those that are damaged are set aside on the way, where the
    /// store may change them; those that the storage does not give now, or of another version, stay.
    ///
    /// # Errors
    /// [`CheckpointError::Io`] where the storage does not say what there is; it, or [`CheckpointError::Version`], where nothing
    /// can be loaded, and something may be later or by another program.
    pub fn load_newest(&self) -> Result<Newest, CheckpointError> {
        let mut damaged = Vec::new();
        for generation in Self::generations(&self.names()?) {
            let error = match self.load(generation) {
                Ok(loaded) => return Ok(Newest { loaded: Some(loaded), damaged }),
                Err(error) => error,
            };
            if matches!(error, CheckpointError::Damaged { .. })
                && self.lock.is_some()
                && let Err(problem) = self.set_aside(generation)
            {
                tracing::warn!(generation, error = %problem, "a damaged generation could not be set aside");
            }
            damaged.push((generation, error));
        }
        // A run that took this for an empty store would begin anew, and in time remove what could have been loaded.
        let may_load = damaged.iter().find(|(_, error)| !matches!(error, CheckpointError::Damaged { .. }));
        may_load.map_or(Ok(()), |(_, error)| Err(error.clone()))?;
        Ok(Newest { loaded: None, damaged })
    }

    /// Renames a generation's manifest to `….json.bad`: it is never tried again, and its number not used again.
    ///
    /// # Errors
    /// [`CheckpointError::Missing`]; [`CheckpointError::ReadOnly`]; [`CheckpointError::Io`].
    pub fn set_aside(&self, generation: u64) -> Result<(), CheckpointError> {
        let _changing = self.change()?;
        let name = names::manifest(generation);
        self.storage.rename(&name, &names::aside(generation)).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => CheckpointError::Missing { place: self.storage.place(), generation },
            _ => self.io("renaming", &name, &error),
        })?;
        self.sync()
    }
}
