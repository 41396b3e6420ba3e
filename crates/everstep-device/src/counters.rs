//! What an executor counted.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Work done by a device since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Recordings run.
    pub flushes: u64,
    /// Of those, kept ones that were run again.
    pub replays: u64,
    /// Commands run.
    pub commands: u64,
    /// Commands dropped because nothing needed their result.
    pub dropped: u64,
    /// Commands that became part of another one.
    pub fused: u64,
    /// Copies left out because the producer wrote the target itself.
    pub elided: u64,
    /// Bytes copied from the host.
    pub upload_bytes: u64,
    /// Submissions made, and so the number of the next one: runs of recordings, and read-backs.
    pub submissions: u64,
    /// Read-backs begun.
    pub reads: u64,
    /// Read-backs for which the host stood still.
    pub blocking_reads: u64,
    /// Read-backs for which a host that had run too far ahead let the device catch up.
    pub paced_reads: u64,
    /// Bytes of device memory held, in use or pooled.
    pub memory_bytes: u64,
    /// Compute pipelines built (GPU).
    pub pipelines: u64,
    /// Bind groups built (GPU).
    pub bind_groups: u64,
}

#[derive(Debug, Default)]
pub(crate) struct AtomicCounters {
    pub(crate) flushes: AtomicU64,
    pub(crate) replays: AtomicU64,
    pub(crate) commands: AtomicU64,
    pub(crate) dropped: AtomicU64,
    pub(crate) fused: AtomicU64,
    pub(crate) elided: AtomicU64,
    pub(crate) upload_bytes: AtomicU64,
    pub(crate) submissions: AtomicU64,
    pub(crate) reads: AtomicU64,
    pub(crate) blocking_reads: AtomicU64,
    pub(crate) paced_reads: AtomicU64,
    pub(crate) memory_bytes: AtomicU64,
    pub(crate) pipelines: AtomicU64,
    pub(crate) bind_groups: AtomicU64,
}

impl AtomicCounters {
    pub(crate) fn add(counter: &AtomicU64, amount: usize) {
        counter.fetch_add(amount as u64, Relaxed);
    }

    pub(crate) fn snapshot(&self) -> Counters {
        Counters {
            flushes: self.flushes.load(Relaxed),
            replays: self.replays.load(Relaxed),
            commands: self.commands.load(Relaxed),
            dropped: self.dropped.load(Relaxed),
            fused: self.fused.load(Relaxed),
            elided: self.elided.load(Relaxed),
            upload_bytes: self.upload_bytes.load(Relaxed),
            submissions: self.submissions.load(Relaxed),
            reads: self.reads.load(Relaxed),
            blocking_reads: self.blocking_reads.load(Relaxed),
            paced_reads: self.paced_reads.load(Relaxed),
            memory_bytes: self.memory_bytes.load(Relaxed),
            pipelines: self.pipelines.load(Relaxed),
            bind_groups: self.bind_groups.load(Relaxed),
        }
    }
}
