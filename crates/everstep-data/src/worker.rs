//! The thread that builds batches ahead of their use.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use crate::assemble::Assembler;
use crate::{Cursor, Error, HostBatch, Result};

/// A running worker: at most `depth` batches are built and not yet taken. Dropping it ends the thread.
pub(crate) struct Worker {
    // An `Option`, so that `drop` can close the channel before it waits for the thread.
    batches: Option<Receiver<Result<HostBatch>>>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// Starts a thread that builds the batches from `cursor` on, epoch after epoch, until an error.
    pub(crate) fn start(assembler: Arc<Assembler>, cursor: Cursor, depth: usize) -> Result<Self> {
        // The batch that the thread holds while it waits for room counts as one of `depth`.
        let (sender, receiver) = sync_channel(depth.saturating_sub(1));
        let thread = std::thread::Builder::new()
            .name("everstep-loader".to_string())
            .spawn(move || produce(&assembler, cursor, &sender))
            .map_err(|source| Error::WorkerStart { source })?;
        tracing::debug!(epoch = cursor.epoch, position = cursor.position, depth, "the loader's worker thread started");
        Ok(Self { batches: Some(receiver), thread: Some(thread) })
    }

    /// The next batch; waits for it where it is not built yet.
    pub(crate) fn next_batch(&self) -> Result<HostBatch> {
        let batch = self.batches.as_ref().and_then(|batches| batches.recv().ok());
        batch.unwrap_or(Err(Error::WorkerLost))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // With the channel closed the thread's next send fails, which is its sign to end.
        self.batches = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was reported as `WorkerLost` to whoever waited for a batch.
            let _ = thread.join();
        }
    }
}

fn produce(assembler: &Assembler, mut cursor: Cursor, batches: &SyncSender<Result<HostBatch>>) {
    loop {
        let batch = assembler.batch(cursor);
        let after = batch.as_ref().ok().map(|batch| batch.after);
        let taken = batches.send(batch).is_ok();
        match after {
            Some(after) if taken => cursor = after,
            _ => return,
        }
    }
}
