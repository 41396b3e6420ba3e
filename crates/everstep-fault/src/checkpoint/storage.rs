//! Where checkpoints lie.

use std::fmt;
use std::io;

/// Where checkpoints lie: a flat set of named files.
///
/// What is written, created, renamed or removed is durable only after the `sync` of the file or of the storage: a crash in
/// between leaves any part of it. A rename happens as a whole or not at all.
pub trait Storage: Send + Sync + fmt::Debug {
    /// The names of all files, in any order.
    ///
    /// # Errors
    /// What the storage says.
    fn list(&self) -> io::Result<Vec<String>>;

    /// A new empty file; an existing one of that name is replaced.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] for a name that cannot be one of a file; else what the storage says.
    fn create(&self, name: &str) -> io::Result<Box<dyn WriteFile>>;

    /// A file from its beginning, read from the medium where that is possible, not from a cache.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] where there is none; else what the storage says.
    fn open(&self, name: &str) -> io::Result<Box<dyn ReadFile>>;

    /// Gives a file another name, at once; a file that had it is gone.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] where there is none; else what the storage says.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] where there is none; else what the storage says.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes creations, renames and removals so far durable.
    ///
    /// # Errors
    /// What the storage says: then nobody knows which of them are.
    fn sync(&self) -> io::Result<()>;

    /// Bytes that can still be written; `None` where that is unknown.
    ///
    /// # Errors
    /// What the storage says.
    fn free_bytes(&self) -> io::Result<Option<u64>>;

    /// Held until it is dropped, or the process ends in whatever way.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] where another process, or another handle, holds it: the message names the holder.
    fn lock(&self) -> io::Result<Box<dyn Send + Sync>>;

    /// The place in words, for messages.
    fn place(&self) -> String;
}

/// A file that is written from its beginning to its end.
pub trait WriteFile: Send {
    /// Appends some of `bytes`, and says how many.
    ///
    /// # Errors
    /// What the storage says; part of `bytes` may have been written.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize>;

    /// Makes what was written durable; the file's name is made so by [`Storage::sync`].
    ///
    /// # Errors
    /// What the storage says: then nobody knows what is durable, and another call may say that all is well.
    fn sync(&mut self) -> io::Result<()>;
}

/// A file that is read from its beginning to its end.
pub trait ReadFile: Send {
    /// Reads some bytes, and says how many: 0 at the end alone.
    ///
    /// # Errors
    /// What the storage says.
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize>;

    /// The length of the whole file.
    ///
    /// # Errors
    /// What the storage says.
    fn bytes(&self) -> io::Result<u64>;
}

/// Refuses what is no name of a file in a flat set, on any system.
pub(super) fn check_name(name: &str) -> io::Result<()> {
    let is_special = |character: char| matches!(character, '/' | '\\' | ':' | '\0');
    if name.is_empty() || name == "." || name == ".." || name.contains(is_special) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{name:?} is no name of a file")));
    }
    Ok(())
}

/// Writes all of `bytes`.
pub(super) fn write_all(file: &mut dyn WriteFile, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.write(bytes) {
            Ok(0) => return Err(io::Error::new(io::ErrorKind::WriteZero, "the file takes no more bytes")),
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Reads until `bytes` is full or the file ends, and says how many there were.
pub(super) fn read_full(file: &mut dyn ReadFile, bytes: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read(rest) {
            Ok(0) => break,
            Ok(read) => filled += read.min(rest.len()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
