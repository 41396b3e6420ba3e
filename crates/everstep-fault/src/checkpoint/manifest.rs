//! What a generation is: its manifest, and the file it lies in.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::ser::{CompactFormatter, Formatter, Serializer};

use super::{CheckpointError, names};
use crate::Place;

/// The version of the files that are written.
pub const FORMAT_VERSION: u32 = 1;

const BEFORE_HASH: &[u8] = b"{\"hash\":\"";
const AFTER_HASH: &[u8] = b"\",\"manifest\":";
const END: &[u8] = b"}\n";
const HASH_DIGITS: usize = 64;

/// What a run had come to, and the files that hold its tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The version of the files, [`FORMAT_VERSION`].
    pub format_version: u32,
    /// The version of the program that wrote it.
    pub engine_version: String,
    /// Its number: it counts up, and none is used twice.
    pub generation: u64,
    /// The run's id, 32 hex digits.
    pub run: String,
    /// Where the run was resumed from.
    pub parent: Option<Parent>,
    /// When it was made, Unix time in milliseconds.
    pub created_ms: u64,
    /// The device that computed it.
    pub device: String,
    /// Hash of the model's parameters and their shapes.
    pub model_hash: String,
    /// The place of the next step.
    pub place: Place,
    /// Attempts of steps so far.
    pub attempt: u64,
    /// Steps that were committed so far.
    pub committed: u64,
    /// How the run was doing.
    pub health: Health,
    /// What must be the same to go on exactly: model, optimizer, data.
    pub identity: Value,
    /// The values of the run's state: cursor, counters, random keys, schedule, statistics.
    pub values: BTreeMap<String, Value>,
    /// The files of tensors.
    pub files: Vec<FileEntry>,
    /// The tensors.
    pub tensors: Vec<TensorEntry>,
}

/// A generation of another run, which a run was resumed from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parent {
    /// The run's id.
    pub run: String,
    /// The generation's number.
    pub generation: u64,
}

/// How a run was doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Health {
    /// Whether the steps after it had shown that the state is sound when it was saved.
    pub trusted: bool,
    /// The last loss; `None` where there is none that is finite.
    pub loss: Option<f32>,
    /// The last gradient norm; `None` where there is none that is finite.
    pub norm: Option<f32>,
    /// What the best generations are found by, smaller is better; `None` where there is none that is finite.
    pub metric: Option<f64>,
}

/// A file of tensors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Its name.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// BLAKE3 of all of it, 64 hex digits.
    pub hash: String,
}

/// A tensor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorEntry {
    /// Its name.
    pub name: String,
    /// The name of the file that it lies in.
    pub file: String,
    /// Its dtype as safetensors calls it, such as `F32`.
    pub dtype: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// BLAKE3 of its bytes, 64 hex digits.
    pub hash: String,
}

impl Manifest {
    /// Bytes of all its files of tensors.
    pub fn bytes(&self) -> u64 {
        self.files.iter().fold(0, |sum, file| sum.saturating_add(file.bytes))
    }

    /// The bytes of its file.
    ///
    /// # Errors
    /// [`CheckpointError::Invalid`] for values that cannot be read back, such as ones that are nested very deeply.
    pub fn to_bytes(&self) -> Result<Vec<u8>, CheckpointError> {
        let refused = |problem: String| CheckpointError::Invalid { what: "the manifest".to_owned(), problem };
        let mut inner = Vec::new();
        let formatter = Lines { inner: CompactFormatter, depth: 0 };
        self.serialize(&mut Serializer::with_formatter(&mut inner, formatter)).map_err(|e| refused(e.to_string()))?;
        let bytes = seal(&inner);
        let again = Self::from_bytes("", "", &bytes).map_err(|error| refused(error.to_string()))?;
        if again != *self {
            return Err(refused("it does not read back as it was".to_owned()));
        }
        Ok(bytes)
    }

    /// Of the bytes of its file; `place` and `file` are for messages.
    ///
    /// # Errors
    /// [`CheckpointError::Damaged`] where any byte is not what was written, or what was written does not fit together;
    /// [`CheckpointError::Version`] for a version that is not known.
    pub fn from_bytes(place: &str, file: &str, bytes: &[u8]) -> Result<Self, CheckpointError> {
        let damaged = |problem: String| CheckpointError::Damaged { place: place.into(), file: file.into(), problem };
        let inner = unseal(bytes).map_err(|problem| damaged(problem.to_owned()))?;
        let Version { format_version } =
            serde_json::from_slice(inner).map_err(|error| damaged(format!("has no version: {error}")))?;
        let manifest = match format_version {
            1 => version_1(inner),
            found => return Err(CheckpointError::Version { file: file.into(), found, known: FORMAT_VERSION }),
        };
        manifest.map_err(damaged)
    }
}

/// What every version has; other fields do not matter.
#[derive(Deserialize)]
struct Version {
    format_version: u64,
}

fn version_1(inner: &[u8]) -> Result<Manifest, String> {
    let manifest: Manifest = serde_json::from_slice(inner).map_err(|error| error.to_string())?;
    let files: BTreeSet<&str> = manifest.files.iter().map(|file| file.name.as_str()).collect();
    if files.len() != manifest.files.len() {
        return Err("names a file twice".to_owned());
    }
    for file in &manifest.files {
        if names::kind(&file.name) != names::Kind::Data || !names::is_hash(&file.hash) {
            return Err(format!("{:?} is no file of tensors", file.name));
        }
    }
    let mut tensors = BTreeSet::new();
    for tensor in &manifest.tensors {
        if !tensors.insert(&tensor.name) {
            return Err(format!("names the tensor {:?} twice", tensor.name));
        }
        if !files.contains(tensor.file.as_str()) || !names::is_hash(&tensor.hash) {
            return Err(format!("the tensor {:?} lies in no file", tensor.name));
        }
    }
    Ok(manifest)
}

/// The bytes of a manifest's file around the manifest itself, a JSON object: its hash, then the object as it is.
pub fn seal(inner: &[u8]) -> Vec<u8> {
    let hash = blake3::hash(inner).to_hex();
    [BEFORE_HASH, hash.as_bytes(), AFTER_HASH, inner, END].concat()
}

/// Every byte of the file is one that was written: those around the manifest are compared, the others hashed.
fn unseal(bytes: &[u8]) -> Result<&[u8], &'static str> {
    const SHAPE: &str = "is not the file of a manifest";
    let rest = bytes.strip_prefix(BEFORE_HASH).ok_or(SHAPE)?;
    let (hash, rest) = rest.split_at_checked(HASH_DIGITS).ok_or(SHAPE)?;
    let inner = rest.strip_prefix(AFTER_HASH).and_then(|rest| rest.strip_suffix(END)).ok_or(SHAPE)?;
    if blake3::hash(inner).to_hex().as_bytes() != hash {
        return Err("is not what was written: its hash is another one");
    }
    Ok(inner)
}

/// JSON for people and `diff`: a line for each field of the manifest, and one for each file, tensor and value.
struct Lines {
    inner: CompactFormatter,
    depth: usize,
}

impl Lines {
    /// Objects and arrays this deep have a line for each of their parts.
    const DEPTH: usize = 2;

    fn line<W: ?Sized + io::Write>(&self, writer: &mut W) -> io::Result<()> {
        if self.depth > Self::DEPTH {
            return Ok(());
        }
        writer.write_all(b"\n")?;
        (0..self.depth).try_for_each(|_| writer.write_all(b"  "))
    }

    fn next<W: ?Sized + io::Write>(&self, writer: &mut W, first: bool) -> io::Result<()> {
        if !first {
            writer.write_all(b",")?;
        }
        self.line(writer)
    }

    fn begin(&mut self) {
        self.depth += 1;
    }

    fn end(&mut self) {
        self.depth = self.depth.saturating_sub(1);
    }
}

impl Formatter for Lines {
    fn begin_array<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.begin();
        self.inner.begin_array(writer)
    }

    fn begin_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.next(writer, first)
    }

    fn end_array<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.end();
        self.inner.end_array(writer)
    }

    fn begin_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.begin();
        self.inner.begin_object(writer)
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.next(writer, first)
    }

    fn end_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.end();
        self.inner.end_object(writer)
    }
}
