//! Writing a generation, so that a crash at any instant leaves the old set whole or the new one.

use std::collections::BTreeSet;
use std::io;
use std::thread;
use std::time::Instant;

use blake3::Hasher;
use safetensors::Dtype;

use super::layout::{Layout, layouts};
use super::storage::{WriteFile, write_all};
use super::{CheckpointError, FORMAT_VERSION, FileEntry, Manifest, Store, TensorEntry, names};

/// Bytes that are hashed at once, once for the file and once for the tensor: they stay in the cache.
const HASH_BYTES: usize = 1 << 18;
/// Room that is left for the file system's own.
const MARGIN_BYTES: u64 = 1 << 16;

/// A tensor to save.
#[derive(Clone, Debug)]
pub struct TensorSource<'a> {
    /// Its name, which no other tensor has.
    pub name: String,
    /// Tensors of one group lie in one file, which is not written again while none of them has changed.
    pub group: usize,
    /// What its elements are.
    pub dtype: Dtype,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its elements, row by row, little-endian: the bytes of the pieces one after the other.
    pub pieces: Vec<&'a [u8]>,
}

/// What a save did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Saved {
    /// The new generation.
    pub generation: u64,
    /// Bytes of all its tensors.
    pub bytes: u64,
    /// Bytes that were written: less where groups had not changed.
    pub written: u64,
    /// Seconds that hashing, writing and making it durable took.
    pub write_seconds: f64,
    /// Seconds that reading it back took.
    pub verify_seconds: f64,
}

impl Store {
    /// Saves a new generation: `manifest` with its number, version, files and tensors filled in. Files of tensors come first;
    /// each is written under another name, made durable, read back, and renamed; then the manifest in the same way. So the
    /// generation is there as a whole, or not at all.
    ///
    /// # Errors
    /// [`CheckpointError::Full`], before anything is written where the storage tells; [`CheckpointError::ReadBack`];
    /// [`CheckpointError::Invalid`]; [`CheckpointError::ReadOnly`]; [`CheckpointError::Io`]. Older generations are as they
    /// were, what was written is removed where that is possible, and another save may succeed.
    pub fn save(&self, mut manifest: Manifest, tensors: &[TensorSource<'_>]) -> Result<Saved, CheckpointError> {
        let mut highest = self.change()?;
        let layouts = layouts(tensors)?;
        let before = self.names()?;
        manifest.generation = self.number_after(*highest, &before)?;
        manifest.format_version = FORMAT_VERSION;
        let health = &mut manifest.health;
        health.loss = health.loss.filter(|loss| loss.is_finite());
        health.norm = health.norm.filter(|norm| norm.is_finite());
        health.metric = health.metric.filter(|metric| metric.is_finite());
        let mut save = Save {
            store: self,
            before,
            partial: BTreeSet::new(),
            renamed: BTreeSet::new(),
            needed: 0,
            written: 0,
            write_seconds: 0.0,
            verify_seconds: 0.0,
        };
        match save.run(&mut manifest, &layouts, &mut highest) {
            Ok(bytes) => Ok(Saved {
                generation: manifest.generation,
                bytes,
                written: save.written,
                write_seconds: save.write_seconds,
                verify_seconds: save.verify_seconds,
            }),
            Err(error) => {
                save.undo(manifest.generation);
                Err(save.as_full(error))
            }
        }
    }
}

/// A save that is under way.
struct Save<'a> {
    store: &'a Store,
    /// The files that there were.
    before: BTreeSet<String>,
    /// Temporary files of this save.
    partial: BTreeSet<String>,
    /// Files of this save under their own names.
    renamed: BTreeSet<String>,
    needed: u64,
    written: u64,
    write_seconds: f64,
    verify_seconds: f64,
}

/// A file and what is in it.
type Entries = (FileEntry, Vec<TensorEntry>);

impl Save<'_> {
    fn run(
        &mut self,
        manifest: &mut Manifest,
        layouts: &[Layout<'_>],
        highest: &mut u64,
    ) -> Result<u64, CheckpointError> {
        let kept = self.unchanged(layouts);
        let draft = |(index, kept): (usize, &Option<Entries>)| {
            kept.clone().or_else(|| layouts.get(index).map(|layout| drafted(layout, index)))
        };
        fill(manifest, kept.iter().enumerate().filter_map(draft));
        self.check_room(manifest, layouts, &kept)?;

        let mut entries = Vec::with_capacity(layouts.len());
        for (index, (layout, kept)) in layouts.iter().zip(kept).enumerate() {
            entries.push(match kept {
                Some(kept) => kept,
                None => self.write_group(layout, index)?,
            });
        }
        fill(manifest, entries.into_iter());
        // The names of the tensors' files before the name of the manifest that refers to them.
        self.timed(|save| save.store.sync())?;
        let (name, content) = (names::manifest(manifest.generation), manifest.to_bytes()?);
        self.write_manifest(&name, &content)?;
        *highest = manifest.generation;
        self.rename(&names::partial(&name), &name)?;
        self.timed(|save| save.store.sync())?;
        Ok(layouts.iter().flat_map(|layout| &layout.tensors).map(|tensor| tensor_bytes(tensor)).sum())
    }

    fn timed<T>(&mut self, work: impl FnOnce(&Self) -> T) -> T {
        let start = Instant::now();
        let outcome = work(self);
        self.write_seconds += start.elapsed().as_secs_f64();
        outcome
    }

    /// For each group the file of the newest generation that holds the same; that file is sound.
    fn unchanged(&mut self, layouts: &[Layout<'_>]) -> Vec<Option<Entries>> {
        let generations = Store::generations(&self.before);
        let manifests = generations.into_iter().map(|generation| self.store.reader().manifest(generation));
        let Some(newest) = manifests.into_iter().find_map(Result::ok) else { return vec![None; layouts.len()] };
        layouts.iter().map(|layout| self.unchanged_file(layout, &newest)).collect()
    }

    fn unchanged_file(&mut self, layout: &Layout<'_>, newest: &Manifest) -> Option<Entries> {
        for file in newest.files.iter().filter(|file| file.bytes == layout.bytes) {
            let entries: Vec<&TensorEntry> = newest.tensors.iter().filter(|tensor| tensor.file == file.name).collect();
            if !layout.is_of(&entries) || !self.timed(|_| holds(layout, &entries)) {
                continue;
            }
            let start = Instant::now();
            let sound = self.store.reader().read_back(file);
            self.verify_seconds += start.elapsed().as_secs_f64();
            if sound.is_ok() {
                return Some((file.clone(), entries.into_iter().cloned().collect()));
            }
        }
        None
    }

    fn check_room(
        &mut self,
        draft: &Manifest,
        layouts: &[Layout<'_>],
        kept: &[Option<Entries>],
    ) -> Result<(), CheckpointError> {
        let new = layouts.iter().zip(kept).filter(|(_, kept)| kept.is_none());
        let data: u64 = new.map(|(layout, _)| layout.bytes).sum();
        self.needed = data + draft.to_bytes()?.len() as u64 + MARGIN_BYTES;
        let free = self.store.storage.free_bytes().map_err(|e| self.store.io("asking for free space", "", &e))?;
        match free.filter(|&free| free < self.needed) {
            None => Ok(()),
            Some(free) => Err(CheckpointError::Full { place: self.store.storage.place(), needed: self.needed, free }),
        }
    }

    fn write_group(&mut self, layout: &Layout<'_>, index: usize) -> Result<Entries, CheckpointError> {
        let partial = names::partial_data(index);
        self.partial.insert(partial.clone());
        let (hash, hashes) = self.timed(|save| save.write_and_hash(layout, &partial))?;
        let name = names::data(&hash);
        self.read_back(&FileEntry { name: partial.clone(), bytes: layout.bytes, hash: hash.clone() }, &name)?;
        self.written += layout.bytes;
        self.rename(&partial, &name)?;
        Ok(entries(layout, hash, &hashes))
    }

    /// Hashes while it writes: both read what does not change.
    fn write_and_hash(&self, layout: &Layout<'_>, name: &str) -> Result<(String, Vec<String>), CheckpointError> {
        thread::scope(|scope| {
            let hashing = thread::Builder::new().name("checkpoint-hash".into()).spawn_scoped(scope, || hashes(layout));
            let pieces = layout.tensors.iter().flat_map(|tensor| tensor.pieces.iter().copied());
            self.write(name, std::iter::once(&layout.head[..]).chain(pieces))?;
            let panicked = |_| self.store.io("hashing", name, &io::Error::other("its thread panicked"));
            hashing.map_or_else(|_| Ok(hashes(layout)), |hashing| hashing.join().map_err(panicked))
        })
    }

    fn write_manifest(&mut self, name: &str, content: &[u8]) -> Result<(), CheckpointError> {
        let partial = names::partial(name);
        self.partial.insert(partial.clone());
        self.timed(|save| save.write(&partial, std::iter::once(content)))?;
        self.written += content.len() as u64;
        let hash = blake3::hash(content).to_hex().to_string();
        self.read_back(&FileEntry { name: partial, bytes: content.len() as u64, hash }, name)
    }

    fn write<'b>(&self, name: &str, pieces: impl Iterator<Item = &'b [u8]>) -> Result<(), CheckpointError> {
        let failed = |error: io::Error| self.store.io("writing", name, &error);
        let mut writer = Writer {
            file: self.store.storage.create(name).map_err(failed)?,
            buffer: Vec::new(),
            chunk: self.store.chunk,
        };
        for piece in pieces {
            writer.put(piece).map_err(failed)?;
        }
        writer.flush().and_then(|()| writer.file.sync()).map_err(failed)
    }

    /// Before the rename: what takes the place of an older file of that name is sound.
    fn read_back(&mut self, entry: &FileEntry, name: &str) -> Result<(), CheckpointError> {
        let start = Instant::now();
        let outcome = self.store.reader().read_back(entry);
        self.verify_seconds += start.elapsed().as_secs_f64();
        outcome.map_err(|error| match error {
            CheckpointError::Damaged { place, .. } => CheckpointError::ReadBack { place, file: name.to_owned() },
            error => error,
        })
    }

    fn rename(&mut self, from: &str, to: &str) -> Result<(), CheckpointError> {
        self.renamed.insert(to.to_owned());
        self.timed(|save| save.store.storage.rename(from, to))
            .map_err(|error| self.store.io("renaming", from, &error))?;
        self.partial.remove(from);
        Ok(())
    }

    /// Removes what was written. The files of tensors stay where it is not sure that the manifest is gone: a later
    /// [`Store::prune`] removes them.
    fn undo(&self, generation: u64) {
        self.partial.iter().for_each(|name| self.store.try_remove(name));
        let manifest = names::manifest(generation);
        if self.renamed.contains(&manifest) {
            let removed = self.store.storage.remove(&manifest);
            let gone = removed.is_ok() || removed.is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
            if !gone || self.store.sync().is_err() {
                return;
            }
        }
        // One that was there before may be another generation's.
        self.renamed
            .difference(&self.before)
            .filter(|name| **name != manifest)
            .for_each(|name| self.store.try_remove(name));
    }

    fn as_full(&self, error: CheckpointError) -> CheckpointError {
        use io::ErrorKind::{QuotaExceeded, StorageFull};
        match error {
            CheckpointError::Io { place, kind: StorageFull | QuotaExceeded, .. } => {
                let free = self.store.storage.free_bytes().ok().flatten().unwrap_or(0);
                CheckpointError::Full { place, needed: self.needed, free }
            }
            error => error,
        }
    }
}

/// Makes writes of the storage's size of small pieces, and of large ones without a copy.
struct Writer {
    file: Box<dyn WriteFile>,
    buffer: Vec<u8>,
    chunk: usize,
}

impl Writer {
    fn put(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let (now, rest) = bytes.split_at(bytes.len().min(self.chunk - self.buffer.len()));
            bytes = rest;
            if now.len() == self.chunk {
                write_all(self.file.as_mut(), now)?;
                continue;
            }
            self.buffer.extend_from_slice(now);
            if self.buffer.len() == self.chunk {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        write_all(self.file.as_mut(), &self.buffer)?;
        self.buffer.clear();
        Ok(())
    }
}

fn fill(manifest: &mut Manifest, entries: impl Iterator<Item = Entries>) {
    let (files, tensors): (Vec<_>, Vec<_>) = entries.unzip();
    (manifest.files, manifest.tensors) = (files, tensors.into_iter().flatten().collect());
}

/// What the entries will be but for the hashes: they take as many bytes.
fn drafted(layout: &Layout<'_>, index: usize) -> Entries {
    let hash = format!("{index:016x}{:048x}", 0);
    let hashes = vec![hash.clone(); layout.tensors.len()];
    entries(layout, hash, &hashes)
}

fn entries(layout: &Layout<'_>, hash: String, hashes: &[String]) -> Entries {
    let name = names::data(&hash);
    let tensor = |(tensor, hash): (&&TensorSource<'_>, &String)| TensorEntry {
        name: tensor.name.clone(),
        file: name.clone(),
        dtype: tensor.dtype.to_string(),
        shape: tensor.shape.clone(),
        hash: hash.clone(),
    };
    let tensors = layout.tensors.iter().zip(hashes).map(tensor).collect();
    (FileEntry { name, bytes: layout.bytes, hash }, tensors)
}

/// The hash of the file, and those of its tensors.
fn hashes(layout: &Layout<'_>) -> (String, Vec<String>) {
    let mut of_file = Hasher::new();
    of_file.update(&layout.head);
    let tensors = layout
        .tensors
        .iter()
        .map(|tensor| {
            tensor_hash(tensor, |bytes| {
                of_file.update(bytes);
            })
        })
        .collect();
    (of_file.finalize().to_hex().to_string(), tensors)
}

fn tensor_hash(tensor: &TensorSource<'_>, mut also: impl FnMut(&[u8])) -> String {
    let mut hasher = Hasher::new();
    for part in tensor.pieces.iter().flat_map(|piece| piece.chunks(HASH_BYTES)) {
        hasher.update(part);
        also(part);
    }
    hasher.finalize().to_hex().to_string()
}

/// Whether the tensors have these hashes; the first that has not is the last one that is looked at.
fn holds(layout: &Layout<'_>, entries: &[&TensorEntry]) -> bool {
    let known = |tensor: &TensorSource<'_>| entries.iter().find(|entry| entry.name == tensor.name).map(|e| &e.hash);
    layout.tensors.iter().all(|tensor| known(tensor).is_some_and(|hash| *hash == tensor_hash(tensor, |_| {})))
}

fn tensor_bytes(tensor: &TensorSource<'_>) -> u64 {
    tensor.pieces.iter().map(|piece| piece.len() as u64).sum()
}
