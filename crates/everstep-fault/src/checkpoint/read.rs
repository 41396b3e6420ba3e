//! Reading what was written, with every hash.

use std::collections::BTreeMap;
use std::io;

use blake3::Hasher;
use safetensors::Dtype;

use super::layout::{self, LENGTH_BYTES, Part};
use super::storage::{ReadFile, Storage, read_full};
use super::{CheckpointError, FileEntry, Manifest, TensorEntry, names};

/// A manifest of a million tensors takes less.
const MAX_MANIFEST_BYTES: u64 = 1 << 28;

/// A generation that was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// What the run had come to.
    pub manifest: Manifest,
    /// Its tensors by their names.
    pub tensors: BTreeMap<String, LoadedTensor>,
}

/// A tensor that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadedTensor {
    /// What its elements are.
    pub dtype: Dtype,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its elements, row by row, little-endian.
    pub bytes: Vec<u8>,
}

/// Reads the files of a storage.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a> {
    pub(super) storage: &'a dyn Storage,
    /// Bytes of one read.
    pub(super) chunk: usize,
}

/// Where the tensors of a file go.
type Kept<'a> = Option<&'a mut BTreeMap<String, LoadedTensor>>;

impl Reader<'_> {
    pub(super) fn io(self, operation: &str, file: &str, error: &io::Error) -> CheckpointError {
        io_error(self.storage, operation, file, error)
    }

    fn damaged(self, file: &str, problem: impl Into<String>) -> CheckpointError {
        CheckpointError::Damaged { place: self.storage.place(), file: file.to_owned(), problem: problem.into() }
    }

    /// A generation's manifest; what is wrong is read once more.
    pub(super) fn manifest(self, generation: u64) -> Result<Manifest, CheckpointError> {
        twice(|| {
            let name = names::manifest(generation);
            let missing = || CheckpointError::Missing { place: self.storage.place(), generation };
            let bytes = self.small_file(&name, missing)?;
            let manifest = Manifest::from_bytes(&self.storage.place(), &name, &bytes)?;
            if manifest.generation != generation {
                return Err(self.damaged(&name, format!("is the manifest of generation {}", manifest.generation)));
            }
            Ok(manifest)
        })
    }

    fn small_file(self, name: &str, missing: impl Fn() -> CheckpointError) -> Result<Vec<u8>, CheckpointError> {
        let (mut file, bytes) = self.open(name, missing)?;
        if bytes > MAX_MANIFEST_BYTES {
            return Err(self.damaged(name, format!("has {bytes} bytes, and may have {MAX_MANIFEST_BYTES}")));
        }
        let mut content = vec![0; bytes as usize];
        for part in content.chunks_mut(self.chunk) {
            self.fill(file.as_mut(), name, part)?;
        }
        Ok(content)
    }

    fn open(
        self,
        name: &str,
        missing: impl Fn() -> CheckpointError,
    ) -> Result<(Box<dyn ReadFile>, u64), CheckpointError> {
        let file = self.storage.open(name).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => missing(),
            _ => self.io("opening", name, &error),
        })?;
        let bytes = file.bytes().map_err(|error| self.io("reading the length of", name, &error))?;
        Ok((file, bytes))
    }

    fn fill(self, file: &mut dyn ReadFile, name: &str, bytes: &mut [u8]) -> Result<(), CheckpointError> {
        match read_full(file, bytes) {
            Ok(read) if read == bytes.len() => Ok(()),
            Ok(_) => Err(self.damaged(name, "ends too early")),
            Err(error) => Err(self.io("reading", name, &error)),
        }
    }

    /// Compares every file of a generation with its hashes; the tensors go to `kept`. What is wrong is read once more.
    pub(super) fn data(self, manifest: &Manifest, mut kept: Kept<'_>) -> Result<(), CheckpointError> {
        for file in &manifest.files {
            twice(|| {
                let mut tensors = BTreeMap::new();
                self.data_file(manifest, file, kept.is_some().then_some(&mut tensors))?;
                if let Some(kept) = &mut kept {
                    kept.append(&mut tensors);
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    fn data_file(self, manifest: &Manifest, entry: &FileEntry, mut kept: Kept<'_>) -> Result<(), CheckpointError> {
        let damaged = |problem: String| self.damaged(&entry.name, problem);
        let (mut file, bytes) = self.open_data(entry)?;
        let mut hasher = Hasher::new();
        let mut length = [0; LENGTH_BYTES];
        self.fill(file.as_mut(), &entry.name, &mut length)?;
        let mut header = vec![0; layout::header_bytes(length, bytes).map_err(damaged)?];
        self.fill(file.as_mut(), &entry.name, &mut header)?;
        hasher.update(&length).update(&header);
        let data = bytes - (LENGTH_BYTES + header.len()) as u64;
        let parts = layout::parts(&header, data).map_err(damaged)?;
        let mut entries: BTreeMap<&str, &TensorEntry> = BTreeMap::new();
        entries.extend(manifest.tensors.iter().filter(|t| t.file == entry.name).map(|t| (t.name.as_str(), t)));
        if entries.len() != parts.len() {
            return Err(damaged(format!("has {} tensors, and should have {}", parts.len(), entries.len())));
        }
        for part in parts {
            let same = |entry: &&TensorEntry| entry.dtype == part.dtype.to_string() && entry.shape == part.shape;
            let known = entries.get(part.name.as_str()).copied().filter(same);
            let known = known.ok_or_else(|| damaged(format!("the tensor {:?} is another one", part.name)))?;
            let hash = self.tensor(file.as_mut(), &entry.name, part, &mut hasher, kept.as_deref_mut())?;
            if hash != known.hash {
                return Err(damaged(format!("the tensor {:?} is not what was written", known.name)));
            }
        }
        self.finish(file.as_mut(), entry, &hasher)
    }

    fn open_data(self, entry: &FileEntry) -> Result<(Box<dyn ReadFile>, u64), CheckpointError> {
        let (file, bytes) = self.open(&entry.name, || self.damaged(&entry.name, "is missing"))?;
        if bytes != entry.bytes {
            return Err(self.damaged(&entry.name, format!("has {bytes} bytes, and should have {}", entry.bytes)));
        }
        Ok((file, bytes))
    }

    /// Reads a tensor, and says its hash.
    fn tensor(
        self,
        file: &mut dyn ReadFile,
        name: &str,
        part: Part,
        of_file: &mut Hasher,
        kept: Kept<'_>,
    ) -> Result<String, CheckpointError> {
        let mut of_tensor = Hasher::new();
        let mut take = |bytes: &mut [u8]| {
            self.fill(file, name, bytes)?;
            of_file.update(bytes);
            of_tensor.update(bytes);
            Ok::<(), CheckpointError>(())
        };
        if let Some(kept) = kept {
            let mut bytes = Vec::new();
            let too_large =
                |error| self.io("taking memory for", name, &io::Error::new(io::ErrorKind::OutOfMemory, error));
            bytes.try_reserve_exact(part.bytes).map_err(too_large)?;
            bytes.resize(part.bytes, 0);
            bytes.chunks_mut(self.chunk).try_for_each(take)?;
            kept.insert(part.name, LoadedTensor { dtype: part.dtype, shape: part.shape, bytes });
        } else {
            let mut buffer = vec![0; self.chunk.min(part.bytes)];
            let mut left = part.bytes;
            while left > 0 {
                let now = left.min(buffer.len());
                take(buffer.get_mut(..now).unwrap_or_default())?;
                left -= now;
            }
        }
        Ok(of_tensor.finalize().to_hex().to_string())
    }

    /// Whether a file is what was written, by its length and its hash alone.
    pub(super) fn read_back(self, entry: &FileEntry) -> Result<(), CheckpointError> {
        let (mut file, bytes) = self.open_data(entry)?;
        let mut hasher = Hasher::new();
        let mut buffer = vec![0; (self.chunk as u64).min(bytes) as usize];
        let mut left = bytes;
        while left > 0 {
            let part = buffer.get_mut(..left.min(self.chunk as u64) as usize).unwrap_or_default();
            self.fill(file.as_mut(), &entry.name, part)?;
            hasher.update(part);
            left -= part.len() as u64;
        }
        self.finish(file.as_mut(), entry, &hasher)
    }

    fn finish(self, file: &mut dyn ReadFile, entry: &FileEntry, hasher: &Hasher) -> Result<(), CheckpointError> {
        match read_full(file, &mut [0]) {
            Ok(0) => {}
            Ok(_) => return Err(self.damaged(&entry.name, "is longer than it was")),
            Err(error) => return Err(self.io("reading", &entry.name, &error)),
        }
        if hasher.finalize().to_hex().as_str() != entry.hash {
            return Err(self.damaged(&entry.name, "is not what was written: its hash is another one"));
        }
        Ok(())
    }
}

pub(super) fn io_error(storage: &dyn Storage, operation: &str, file: &str, error: &io::Error) -> CheckpointError {
    let operation = if file.is_empty() { operation.to_owned() } else { format!("{operation} {file}") };
    CheckpointError::Io { place: storage.place(), operation, problem: error.to_string(), kind: error.kind() }
}

/// What does not read well is read once more, as it may have been the reading. What was once an error of the storage and
/// once a wrong content is taken for the former, which may pass.
fn twice<T>(mut read: impl FnMut() -> Result<T, CheckpointError>) -> Result<T, CheckpointError> {
    let first = match read() {
        outcome @ (Ok(_) | Err(CheckpointError::Version { .. })) => return outcome,
        Err(error) => error,
    };
    match read() {
        Err(second) if first.may_pass() && !second.may_pass() => Err(first),
        outcome => outcome,
    }
}
