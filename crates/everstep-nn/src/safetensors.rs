//! Weights in files: the safetensors format, that of PyTorch's ecosystem.
//!
//! A file is a header of at most 100 MB (names, dtypes, shapes, offsets) and the elements, little-endian. It holds no
//! code, and the header is checked against the file's length before anything is read by it.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use ::safetensors::tensor::{Dtype, SafeTensors, TensorView};
use everstep_tensor::{DType, Parameter, RunningBuffer, Tensor};

use crate::{Error, Item, Module, Pattern, Result, Visitor};

/// How the tensors of a file find the parameters and running buffers of a module.
///
/// Each key of the file is renamed by the rules in the order they were given, each applied to what the one before it made;
/// what comes out is looked up among the module's names.
///
/// ```
/// use everstep_nn::safetensors::LoadOptions;
///
/// // Hugging Face's GPT-2: other names, and weights of its own layer that are transposed.
/// let options = LoadOptions::new()
///     .ignore("*.attn.bias")
///     .replace("h.*.attn.c_attn.*", "blocks.*.qkv.*")
///     .rename("wte.weight", "tok.weight")
///     .transpose("blocks.*.qkv.weight");
/// assert_eq!(options.name_of("h.3.attn.c_attn.weight")?.as_deref(), Some("blocks.3.qkv.weight"));
/// assert_eq!(options.name_of("h.3.attn.bias")?, None);
/// # Ok::<(), everstep_nn::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    partial: bool,
    rules: Vec<KeyRule>,
    transposed: Vec<String>,
}

#[derive(Clone, Debug)]
enum KeyRule {
    Ignore(String),
    Replace { from: String, to: String },
}

impl LoadOptions {
    /// Every parameter must be in the file, and every tensor of the file must be wanted.
    pub fn new() -> Self {
        Self::default()
    }

    /// Parameters that the file does not have keep their values, and tensors that no parameter wants are left out: for
    /// transfer learning.
    #[must_use]
    pub fn partial(self) -> Self {
        Self { partial: true, ..self }
    }

    /// The key `from` is the parameter `to`.
    #[must_use]
    pub fn rename(self, from: impl Into<String>, to: impl Into<String>) -> Self {
        self.replace(from, to)
    }

    /// Keys like `from` become like `to`: each `*` in `from` stands for any characters, as few as possible, and the n-th
    /// `*` in `to` for what the n-th in `from` stood for. So `("model.*", "*")` takes a prefix away.
    #[must_use]
    pub fn replace(mut self, from: impl Into<String>, to: impl Into<String>) -> Self {
        self.rules.push(KeyRule::Replace { from: from.into(), to: to.into() });
        self
    }

    /// Keys that match the pattern (see [`Pattern`]) are left out, and are not unexpected.
    #[must_use]
    pub fn ignore(mut self, pattern: impl Into<String>) -> Self {
        self.rules.push(KeyRule::Ignore(pattern.into()));
        self
    }

    /// The file has the matrices of the parameters that match the pattern (see [`Pattern`]) transposed.
    #[must_use]
    pub fn transpose(mut self, pattern: impl Into<String>) -> Self {
        self.transposed.push(pattern.into());
        self
    }

    /// The name that a key of the file is looked up by; `None` where it is ignored.
    ///
    /// # Errors
    /// [`Error::Pattern`] where a rule's pattern is none, or its replacement has more `*` than it.
    pub fn name_of(&self, key: &str) -> Result<Option<String>> {
        let mut name = key.to_string();
        for rule in &self.rules {
            match rule {
                KeyRule::Ignore(pattern) if Pattern::new(pattern)?.matches(&name) => return Ok(None),
                KeyRule::Ignore(_) => {}
                KeyRule::Replace { from, to } => {
                    if to.matches('*').count() > from.matches('*').count() {
                        let reason = format!("`{to}` has more `*` than it");
                        return Err(Error::Pattern { pattern: from.clone(), reason });
                    }
                    if let Some(parts) = captures(from, &name) {
                        name = substitute(to, &parts);
                    }
                }
            }
        }
        Ok(Some(name))
    }
}

/// What each `*` of the pattern stands for in `name`, as few characters as possible; `None` where it does not match.
fn captures<'a>(pattern: &str, name: &'a str) -> Option<Vec<&'a str>> {
    let mut literals = pattern.split('*');
    let mut rest = name.strip_prefix(literals.next().unwrap_or_default())?;
    let mut literals: Vec<&str> = literals.collect();
    // Without a `*` nothing may be left.
    let Some(last) = literals.pop() else { return rest.is_empty().then(Vec::new) };
    let mut parts = Vec::new();
    for literal in literals {
        let (part, after) = rest.split_once(literal)?;
        parts.push(part);
        rest = after;
    }
    parts.push(rest.strip_suffix(last)?);
    Some(parts)
}

fn substitute(pattern: &str, parts: &[&str]) -> String {
    let mut literals = pattern.split('*');
    let mut name = literals.next().unwrap_or_default().to_string();
    for (literal, part) in literals.zip(parts) {
        name.push_str(part);
        name.push_str(literal);
    }
    name
}

/// What loading did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// Names of the module that now have the file's values.
    pub loaded: Vec<String>,
    /// Names that the file does not have.
    pub missing: Vec<String>,
    /// Keys of the file that the module does not want.
    pub unexpected: Vec<String>,
}

/// What a name of a module stands for.
#[derive(Clone)]
enum Leaf {
    Parameter(Parameter),
    Buffer(RunningBuffer),
}

impl Leaf {
    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Parameter(own), Self::Parameter(other)) => own.is(other),
            (Self::Buffer(own), Self::Buffer(other)) => own.is(other),
            _ => false,
        }
    }

    fn tensor(&self) -> Tensor {
        match self {
            Self::Parameter(parameter) => parameter.tensor().detach(),
            Self::Buffer(buffer) => buffer.tensor().detach(),
        }
    }

    fn set(&self, value: &Tensor) -> everstep_tensor::Result<()> {
        match self {
            Self::Parameter(parameter) => parameter.set(value),
            Self::Buffer(buffer) => buffer.set(value),
        }
    }
}

/// Every name with what it stands for; a tied parameter has several names.
fn leaves(module: &impl Module) -> Vec<(String, Leaf)> {
    let mut list = Vec::new();
    let mut meet = |name: &str, item: Item<'_>| match item {
        Item::Parameter(parameter) => list.push((name.to_string(), Leaf::Parameter(parameter.clone()))),
        Item::Buffer(buffer) => list.push((name.to_string(), Leaf::Buffer(buffer.clone()))),
        _ => {}
    };
    module.visit(&mut Visitor::new(&mut meet));
    list
}

/// The same, each once, under its first name.
fn distinct_leaves(module: &impl Module) -> Vec<(String, Leaf)> {
    let mut list: Vec<(String, Leaf)> = Vec::new();
    for (name, leaf) in leaves(module) {
        if !list.iter().any(|(_, known)| known.is(&leaf)) {
            list.push((name, leaf));
        }
    }
    list
}

/// Writes the values of a module's parameters and the committed ones of its running buffers, as f32 under their names; a
/// tied one once, under its first name.
///
/// The file is written beside `path` and then renamed, so that whatever fails, there is never half of one.
///
/// ```
/// # use everstep_nn::{Linear, safetensors::{LoadOptions, load_safetensors, save_safetensors}};
/// # use everstep_tensor::{Device, Generator};
/// # let device = Device::cpu();
/// # let path = std::env::temp_dir().join(format!("everstep-doc-{}.safetensors", std::process::id()));
/// let model = Linear::new(4, 2, &mut Generator::new(0), &device)?;
/// save_safetensors(&model, &path)?;
/// let other = Linear::new(4, 2, &mut Generator::new(1), &device)?;
/// let report = load_safetensors(&other, &path, &LoadOptions::new())?;
/// assert_eq!(report.loaded, ["weight", "bias"]);
/// assert_eq!(other.weight.tensor().to_vec::<f32>()?, model.weight.tensor().to_vec::<f32>()?);
/// # std::fs::remove_file(path).unwrap();
/// # Ok::<(), everstep_nn::Error>(())
/// ```
///
/// # Errors
/// [`Error::File`]; those of reading the values back.
pub fn save_safetensors(module: &impl Module, path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    let mut data = Vec::new();
    for (name, leaf) in distinct_leaves(module) {
        let values = leaf.tensor().to_vec::<f32>()?;
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        data.push((name, leaf.tensor().shape().to_vec(), bytes));
    }
    let failed =
        |reason: ::safetensors::SafeTensorError| Error::Format { path: path.into(), reason: reason.to_string() };
    let views = data
        .iter()
        .map(|(name, shape, bytes)| {
            Ok((name.as_str(), TensorView::new(Dtype::F32, shape.clone(), bytes).map_err(failed)?))
        })
        .collect::<Result<Vec<_>>>()?;
    // The entry by which PyTorch's loaders know whose layout it is.
    let metadata = [("format".to_string(), "pt".to_string())].into_iter().collect();
    let bytes = ::safetensors::serialize(views, Some(metadata)).map_err(failed)?;
    write_whole(path, &bytes).map_err(|error| file_error(path, "write", &error))
}

fn file_error(path: &Path, action: &'static str, error: &std::io::Error) -> Error {
    Error::File { path: path.into(), action, kind: error.kind(), reason: error.to_string() }
}

/// Writes beside the path, then renames: the path holds the old content or the new.
fn write_whole(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let name = path.file_name().ok_or_else(|| std::io::Error::from(std::io::ErrorKind::InvalidInput))?;
    let temporary: PathBuf = path.with_file_name(format!(".{}.{}.tmp", name.to_string_lossy(), std::process::id()));
    let written = (|| {
        let mut file = fs::File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    })();
    if written.is_err() {
        // What is left is of no use; that it cannot be removed says no more than the first error.
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// Gives the parameters and running buffers of a module the values of a file.
///
/// Elements of f32, f16, bf16 and f64 become f32. Nothing is changed unless every check has passed. A tied parameter is
/// found under any of its names; where the file has several, the first counts. PyTorch's `num_batches_tracked`, of which no
/// layer here makes use, is left out where the module has no such name.
///
/// # Errors
/// [`Error::File`]; [`Error::Format`] where it is no safetensors file; [`Error::Keys`] where names are missing or
/// unexpected, unless the options are [`LoadOptions::partial`]; [`Error::FileShape`] and [`Error::FileDType`], which name
/// the key; [`Error::KeyTwice`] where two keys become one name; [`Error::Pattern`]; those of setting a parameter.
pub fn load_safetensors(module: &impl Module, path: impl AsRef<Path>, options: &LoadOptions) -> Result<LoadReport> {
    let path = path.as_ref();
    let bytes = fs::read(path).map_err(|error| file_error(path, "read", &error))?;
    load_safetensors_bytes(module, &bytes, path, options)
}

/// As [`load_safetensors`], of a file that is in memory; errors call it `path`.
///
/// # Errors
/// As [`load_safetensors`].
pub fn load_safetensors_bytes(
    module: &impl Module,
    bytes: &[u8],
    path: impl AsRef<Path>,
    options: &LoadOptions,
) -> Result<LoadReport> {
    let path = path.as_ref();
    let file = SafeTensors::deserialize(bytes)
        .map_err(|error| Error::Format { path: path.into(), reason: error.to_string() })?;
    // The file's own order is that of a hash table.
    let mut keys = file.names();
    keys.sort_unstable();
    let mut wanted: BTreeMap<String, &str> = BTreeMap::new();
    for key in keys {
        let Some(name) = options.name_of(key)? else { continue };
        if let Some(first) = wanted.insert(name.clone(), key) {
            return Err(Error::KeyTwice { name, first: first.into(), second: key.into() });
        }
    }
    let transposed = options.transposed.iter().map(|pattern| Pattern::new(pattern)).collect::<Result<Vec<_>>>()?;
    let (mut report, mut changes) = (LoadReport::default(), Vec::<(Leaf, Tensor)>::new());
    let leaves = leaves(module);
    for (name, leaf) in &leaves {
        let Some(key) = wanted.remove(name) else { continue };
        report.loaded.push(name.clone());
        if changes.iter().any(|(known, _)| known.is(leaf)) {
            continue;
        }
        let view = file.tensor(key).map_err(|error| Error::Format { path: path.into(), reason: error.to_string() })?;
        let transpose = transposed.iter().any(|pattern| pattern.matches(name));
        changes.push((leaf.clone(), value_of(key, &view, leaf, transpose)?));
    }
    let found = |leaf: &Leaf| changes.iter().any(|(known, _)| known.is(leaf));
    report.missing =
        distinct_leaves(module).into_iter().filter(|(_, leaf)| !found(leaf)).map(|(name, _)| name).collect();
    wanted.retain(|name, _| name.rsplit('.').next() != Some("num_batches_tracked"));
    report.unexpected = wanted.into_values().map(String::from).collect();
    let whole = report.missing.is_empty() && report.unexpected.is_empty();
    if !whole && !options.partial {
        let LoadReport { missing, unexpected, .. } = report;
        return Err(Error::Keys { path: path.into(), missing, unexpected });
    }
    changes.iter().try_for_each(|(leaf, value)| leaf.set(value))?;
    Ok(report)
}

/// A tensor of the file as a value of the leaf.
fn value_of(key: &str, view: &TensorView<'_>, leaf: &Leaf, transpose: bool) -> Result<Tensor> {
    let present = leaf.tensor();
    if present.dtype() != DType::F32 {
        return Err(everstep_tensor::Error::DTypes { op: "load_safetensors", found: vec![present.dtype()] }.into());
    }
    let mut shape = view.shape().to_vec();
    let matrix = shape.len() == 2;
    if transpose && matrix {
        shape.reverse();
    }
    if shape != present.shape()[..] || (transpose && !matrix) {
        let (file, model) = (view.shape().to_vec(), *present.shape());
        return Err(Error::FileShape { key: key.into(), file, model, transposed: transpose });
    }
    let values = floats(key, view)?;
    let tensor = Tensor::from_vec(values, view.shape(), present.device())?;
    Ok(if transpose { tensor.t()?.contiguous()? } else { tensor })
}

/// The elements as f32.
fn floats(key: &str, view: &TensorView<'_>) -> Result<Vec<f32>> {
    fn of<const N: usize>(bytes: &[u8], convert: impl Fn([u8; N]) -> f32) -> Vec<f32> {
        bytes.as_chunks::<N>().0.iter().map(|bytes| convert(*bytes)).collect()
    }
    let bytes = view.data();
    match view.dtype() {
        Dtype::F32 => Ok(of(bytes, f32::from_le_bytes)),
        Dtype::F16 => Ok(of(bytes, |bytes| half::f16::from_le_bytes(bytes).to_f32())),
        Dtype::BF16 => Ok(of(bytes, |bytes| half::bf16::from_le_bytes(bytes).to_f32())),
        Dtype::F64 => Ok(of(bytes, |bytes| f64::from_le_bytes(bytes) as f32)),
        other => Err(Error::FileDType { key: key.into(), dtype: other.to_string() }),
    }
}
