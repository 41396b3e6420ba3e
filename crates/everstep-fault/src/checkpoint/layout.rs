//! The safetensors file of a group of tensors, without its bytes in memory.

use std::collections::{BTreeMap, BTreeSet};

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use super::save::TensorSource;
use super::{CheckpointError, TensorEntry};

/// Of the length before the header.
pub(super) const LENGTH_BYTES: usize = 8;
/// The most that readers of safetensors take.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// A group of tensors in the order in which they lie in their file.
pub(super) struct Layout<'a> {
    pub(super) tensors: Vec<&'a TensorSource<'a>>,
    /// The length of the header and the header.
    pub(super) head: Vec<u8>,
    /// Of the whole file.
    pub(super) bytes: u64,
}

impl<'a> Layout<'a> {
    /// Of one group's tensors.
    pub(super) fn new(mut tensors: Vec<&'a TensorSource<'a>>) -> Result<Self, CheckpointError> {
        // As safetensors itself orders them: larger elements first, so that each tensor is aligned, then by name.
        tensors.sort_by(|a, b| b.dtype.cmp(&a.dtype).then_with(|| a.name.cmp(&b.name)));
        let mut start = 0_usize;
        let mut infos = Vec::with_capacity(tensors.len());
        for tensor in &tensors {
            let (name, shape) = (tensor.name.clone(), tensor.shape.clone());
            let end = start.checked_add(tensor_bytes(tensor)?).ok_or_else(|| invalid(tensor, "it is too large"))?;
            infos.push((name, TensorInfo { dtype: tensor.dtype, shape, data_offsets: (start, end) }));
            start = end;
        }
        let header = header(infos).map_err(|problem| CheckpointError::Invalid { what: "a group".into(), problem })?;
        let head = [&(header.len() as u64).to_le_bytes()[..], &header].concat();
        let bytes = head.len() as u64 + start as u64;
        Ok(Self { tensors, head, bytes })
    }

    /// Whether `entries` are the same tensors, but for what they hold.
    pub(super) fn is_of(&self, entries: &[&TensorEntry]) -> bool {
        let entries: BTreeMap<&str, &&TensorEntry> = entries.iter().map(|entry| (entry.name.as_str(), entry)).collect();
        let same = |tensor: &&&TensorSource<'_>| {
            entries
                .get(tensor.name.as_str())
                .is_some_and(|entry| entry.dtype == tensor.dtype.to_string() && entry.shape == tensor.shape)
        };
        entries.len() == self.tensors.len() && self.tensors.iter().filter(same).count() == entries.len()
    }
}

/// The tensors in their groups. A name is one tensor's alone.
pub(super) fn layouts<'a>(tensors: &'a [TensorSource<'a>]) -> Result<Vec<Layout<'a>>, CheckpointError> {
    let mut names = BTreeSet::new();
    let mut groups = BTreeMap::<usize, Vec<&TensorSource<'_>>>::new();
    for tensor in tensors {
        if tensor.name == "__metadata__" {
            return Err(invalid(tensor, "safetensors has that name for something else"));
        }
        if !names.insert(&tensor.name) {
            return Err(invalid(tensor, "another tensor has that name"));
        }
        groups.entry(tensor.group).or_default().push(tensor);
    }
    groups.into_values().map(Layout::new).collect()
}

fn header(infos: Vec<(String, TensorInfo)>) -> Result<Vec<u8>, String> {
    // The entry by which PyTorch's loaders know whose layout it is.
    let metadata = [("format".to_owned(), "pt".to_owned())].into_iter().collect();
    let metadata = Metadata::new(Some(metadata), infos).map_err(|error| error.to_string())?;
    let mut header = serde_json::to_vec(&metadata).map_err(|error| error.to_string())?;
    header.resize(header.len().next_multiple_of(LENGTH_BYTES), b' ');
    if header.len() as u64 > MAX_HEADER_BYTES {
        return Err(format!("its header takes {} bytes, and may take {MAX_HEADER_BYTES}", header.len()));
    }
    Ok(header)
}

fn tensor_bytes(tensor: &TensorSource<'_>) -> Result<usize, CheckpointError> {
    let bits = shape_bits(&tensor.shape, tensor.dtype);
    let needed = bits.filter(|bits| bits % 8 == 0).map(|bits| bits / 8);
    let needed = needed.ok_or_else(|| invalid(tensor, &format!("{:?} is no whole number of bytes", tensor.shape)))?;
    let given: usize = tensor.pieces.iter().map(|piece| piece.len()).sum();
    if given != needed {
        let problem = format!("{:?} of {} takes {needed} bytes, and there are {given}", tensor.shape, tensor.dtype);
        return Err(invalid(tensor, &problem));
    }
    Ok(needed)
}

fn shape_bits(shape: &[usize], dtype: Dtype) -> Option<usize> {
    shape.iter().try_fold(dtype.bitsize(), |bits, &size| bits.checked_mul(size))
}

fn invalid(tensor: &TensorSource<'_>, problem: &str) -> CheckpointError {
    CheckpointError::Invalid { what: format!("tensor {:?}", tensor.name), problem: problem.to_owned() }
}

/// A tensor's place in its file.
pub(super) struct Part {
    pub(super) name: String,
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    pub(super) bytes: usize,
}

/// How long the header is, by the first bytes of a file of `bytes`.
pub(super) fn header_bytes(length: [u8; LENGTH_BYTES], bytes: u64) -> Result<usize, String> {
    let header = u64::from_le_bytes(length);
    if header > MAX_HEADER_BYTES.min(bytes.saturating_sub(LENGTH_BYTES as u64)) {
        return Err(format!("its header would take {header} bytes"));
    }
    usize::try_from(header).map_err(|error| error.to_string())
}

/// The tensors of a file in their order, by its header; they fill the file of `data` bytes behind it.
pub(super) fn parts(header: &[u8], data: u64) -> Result<Vec<Part>, String> {
    let metadata: Metadata = serde_json::from_slice(header).map_err(|error| format!("its header: {error}"))?;
    if metadata.data_len() as u64 != data {
        return Err(format!("its tensors take {} bytes, and there are {data}", metadata.data_len()));
    }
    let names = metadata.offset_keys();
    let part = |name: String| {
        let info = metadata.info(&name)?;
        let bytes = info.data_offsets.1.checked_sub(info.data_offsets.0)?;
        Some(Part { dtype: info.dtype, shape: info.shape.clone(), bytes, name })
    };
    names.into_iter().map(|name| part(name).ok_or_else(|| "its header is none".to_owned())).collect()
}
