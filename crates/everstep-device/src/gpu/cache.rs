//! Compiled pipelines kept on disk between processes, where a driver gives them out.
//!
//! A file per adapter, in the user's cache directory or the one that `EVERSTEP_CACHE_DIR` names; an empty name turns it off.
//! A file begins with a magic word, the length of what follows and its checksum, and is ignored where these do not agree.
//! It is written beside its place and renamed, so that no reader sees half of one. No failure here is an error: pipelines are
//! then built anew.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::{env, fs, process, thread};

const MAGIC: [u8; 8] = *b"EVSPIPE1";
/// Magic word, length, checksum.
const HEAD: usize = 24;
/// Bytes past which a file is not ours.
const MOST: u64 = 1 << 30;
/// Pipelines found built, one after the other, after which no more are expected soon.
const SETTLED: usize = 64;

/// The driver's cache of a device, and what is not yet on disk.
pub(super) struct DiskCache {
    cache: wgpu::PipelineCache,
    path: PathBuf,
    unsaved: bool,
    found: usize,
    saving: Arc<AtomicBool>,
}

/// The folder of cache files; `None` where there is to be none.
fn folder(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(named) = variable("EVERSTEP_CACHE_DIR") {
        return (!named.is_empty()).then(|| named.into());
    }
    let user = if cfg!(windows) {
        set("LOCALAPPDATA")
    } else if cfg!(target_os = "macos") {
        set("HOME").map(|home| home.join("Library/Caches"))
    } else {
        set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")))
    };
    Some(user?.join("everstep"))
}

/// FNV-1a of 64 bits: finds damage, not malice.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

/// The file's contents, where it is whole.
fn read(path: &Path) -> Option<Vec<u8>> {
    if fs::metadata(path).ok()?.len() > MOST {
        return None;
    }
    let file = fs::read(path).ok()?;
    let (head, data) = file.split_at_checked(HEAD)?;
    let word = |at: usize| Some(u64::from_le_bytes(head.get(at..at + 8)?.try_into().ok()?));
    let whole = head.starts_with(&MAGIC) && word(8)? == data.len() as u64 && word(16)? == checksum(data);
    whole.then(|| data.to_vec())
}

/// Writes the file beside its place, then puts it there.
fn write(path: &Path, data: &[u8]) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut file = Vec::with_capacity(HEAD + data.len());
    file.extend_from_slice(&MAGIC);
    file.extend_from_slice(&(data.len() as u64).to_le_bytes());
    file.extend_from_slice(&checksum(data).to_le_bytes());
    file.extend_from_slice(data);
    let beside = path.with_extension(format!("{}.new", process::id()));
    let outcome = fs::write(&beside, file).and_then(|()| fs::rename(&beside, path));
    if outcome.is_err() {
        let _ = fs::remove_file(&beside);
    }
    outcome
}

impl DiskCache {
    /// The cache of this device, with what a file has for it; `None` where the driver or the user wants none.
    pub(super) fn open(device: &wgpu::Device) -> Option<Self> {
        if !device.features().contains(wgpu::Features::PIPELINE_CACHE) {
            return None;
        }
        let key = wgpu::util::pipeline_cache_key(&device.adapter_info())?;
        let path = folder(|name| env::var_os(name))?.join(key).with_extension("bin");
        let data = read(&path);
        let descriptor =
            wgpu::PipelineCacheDescriptor { label: Some("everstep"), data: data.as_deref(), fallback: true };
        // SAFETY: the data is what `get_data` of such a cache gave an earlier process, whole by its checksum; wgpu looks
        // at its head for the adapter and the driver's version, and falls back to an empty cache where they are others.
        let cache = unsafe { device.create_pipeline_cache(&descriptor) };
        Some(Self { cache, path, unsaved: false, found: 0, saving: Arc::default() })
    }

    /// For a pipeline about to be built.
    pub(super) fn cache(&mut self) -> &wgpu::PipelineCache {
        (self.unsaved, self.found) = (true, 0);
        &self.cache
    }

    /// A pipeline was wanted that is built already. After some of those the file is written, by a thread of its own.
    pub(super) fn found(&mut self) {
        if !self.unsaved {
            return;
        }
        self.found += 1;
        if self.found < SETTLED || self.saving.swap(true, Ordering::AcqRel) {
            return;
        }
        self.unsaved = false;
        let (cache, path, saving) = (self.cache.clone(), self.path.clone(), self.saving.clone());
        let save = move || {
            save(&cache, &path);
            saving.store(false, Ordering::Release);
        };
        if let Err(error) = thread::Builder::new().name("everstep-pipelines".into()).spawn(save) {
            tracing::debug!(%error, "the pipelines are not kept");
        }
    }
}

fn save(cache: &wgpu::PipelineCache, path: &Path) {
    let Some(data) = cache.get_data() else { return };
    match write(path, &data) {
        Ok(()) => tracing::debug!(bytes = data.len(), path = %path.display(), "pipelines kept"),
        Err(error) => tracing::debug!(%error, path = %path.display(), "the pipelines are not kept"),
    }
}

impl Drop for DiskCache {
    fn drop(&mut self) {
        // A lost device has nothing to give, and is asked all the same: `get_data` is then empty.
        if self.unsaved && !self.saving.load(Ordering::Acquire) {
            save(&self.cache, &self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_as_it_was_written_or_not_at_all() {
        let folder = env::temp_dir().join(format!("everstep-cache-{}", process::id()));
        let path = folder.join("deep/own.bin");
        assert_eq!(read(&path), None);
        for data in [&b""[..], b"pipelines", &[7; 1000]] {
            write(&path, data).unwrap();
            assert_eq!(read(&path).as_deref(), Some(data));
        }
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        let whole = fs::read(&path).unwrap();
        for damaged in 0..whole.len() {
            let mut file = whole.clone();
            file[damaged] ^= 0x10;
            fs::write(&path, &file).unwrap();
            assert_eq!(read(&path), None, "byte {damaged}");
            fs::write(&path, &whole[..damaged]).unwrap();
            assert_eq!(read(&path), None, "{damaged} bytes");
        }
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn the_folder_is_the_one_named_or_the_users() {
        let with = |set: &'static [(&str, &str)]| {
            folder(move |name| set.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value)))
        };
        assert_eq!(with(&[("EVERSTEP_CACHE_DIR", ""), ("HOME", "/a"), ("LOCALAPPDATA", "a")]), None);
        assert_eq!(with(&[("EVERSTEP_CACHE_DIR", "/b"), ("HOME", "/a")]), Some("/b".into()));
        assert_eq!(with(&[]), None);
        if cfg!(target_os = "linux") {
            assert_eq!(with(&[("HOME", "/a")]), Some("/a/.cache/everstep".into()));
            assert_eq!(with(&[("HOME", "/a"), ("XDG_CACHE_HOME", "/c")]), Some("/c/everstep".into()));
        }
    }
}
