//! What can go wrong with a checkpoint.

use std::io;

/// An error of a checkpoint.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The storage refused.
    #[error("{place}: {operation}: {problem}; look at that disk or its rights, and try again")]
    Io {
        /// The storage.
        place: String,
        /// What was tried.
        operation: String,
        /// What the storage says.
        problem: String,
        /// Its kind.
        kind: io::ErrorKind,
    },
    /// A file is not what was written.
    #[error("{place}: {file}: {problem}; that generation is lost, load an older one")]
    Damaged {
        /// The storage.
        place: String,
        /// The file.
        file: String,
        /// How it shows.
        problem: String,
    },
    /// A file reads back other than it was written.
    #[error("{place}: {file} does not read back as it was written; nothing was changed, try again or use another disk")]
    ReadBack {
        /// The storage.
        place: String,
        /// The file.
        file: String,
    },
    /// A file of a version that this program does not know.
    #[error("{file} has format version {found}, and this program knows 1 to {known}; load it with a newer Everstep")]
    Version {
        /// The file.
        file: String,
        /// Its version.
        found: u64,
        /// The newest that is known.
        known: u32,
    },
    /// There is no room.
    #[error("{place}: a checkpoint takes {needed} bytes and {free} are free; make room, or keep fewer generations")]
    Full {
        /// The storage.
        place: String,
        /// Bytes to write.
        needed: u64,
        /// Bytes that can be written, as far as the storage tells; 0 where it does not.
        free: u64,
    },
    /// Somebody else writes here.
    #[error("{place} is in use by {holder}; end that run, or use another folder")]
    Locked {
        /// The storage.
        place: String,
        /// Who holds it.
        holder: String,
    },
    /// There is no such generation.
    #[error("{place} has no generation {generation}; `list` shows those that there are")]
    Missing {
        /// The storage.
        place: String,
        /// The generation.
        generation: u64,
    },
    /// The store was opened for looking.
    #[error("{place} was opened for reading alone; open it with `Store::open` to change it")]
    ReadOnly {
        /// The storage.
        place: String,
    },
    /// What cannot be saved.
    #[error("{what} cannot be saved: {problem}")]
    Invalid {
        /// The tensor, or another part.
        what: String,
        /// Why not.
        problem: String,
    },
}

impl CheckpointError {
    /// Whether it may pass: the file itself need not be wrong.
    pub(super) fn may_pass(&self) -> bool {
        !matches!(self, Self::Damaged { .. })
    }
}
