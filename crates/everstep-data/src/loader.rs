//! Batches in an order that a cursor can name.

use std::iter::FusedIterator;
use std::sync::Arc;

use everstep_tensor::{State, Visit};
use serde::{Deserialize, Serialize};

use crate::assemble::Assembler;
use crate::worker::Worker;
use crate::{Dataset, Error, FieldSpec, HostBatch, Result};

/// The largest [`LoaderConfig::prefetch`].
pub const MAX_PREFETCH: usize = 1024;

/// How a loader makes batches. A field that is absent in serialised form takes the default given here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoaderConfig {
    /// Samples in a batch, 1 to the number of samples; no default.
    pub batch_size: usize,
    /// The seed of the shuffle, which orders each epoch anew; `None` (the default) keeps the dataset's order.
    #[serde(default)]
    pub shuffle: Option<u64>,
    /// Whether a last batch that is not full is left out; by default it is kept.
    #[serde(default)]
    pub drop_last: bool,
    /// Batches that a worker thread builds ahead, at most [`MAX_PREFETCH`]; 0 builds them in the call. Default: 2.
    #[serde(default = "default_prefetch")]
    pub prefetch: usize,
}

fn default_prefetch() -> usize {
    2
}

impl LoaderConfig {
    /// Batches of `batch_size` in the dataset's order, the last one kept, two of them built ahead.
    pub fn new(batch_size: usize) -> Self {
        Self { batch_size, shuffle: None, drop_last: false, prefetch: default_prefetch() }
    }

    /// Shuffles each epoch with `seed`.
    pub fn shuffle(self, seed: u64) -> Self {
        Self { shuffle: Some(seed), ..self }
    }

    /// Whether a last batch that is not full is left out.
    pub fn drop_last(self, drop_last: bool) -> Self {
        Self { drop_last, ..self }
    }

    /// How many batches a worker thread builds ahead; 0 for no thread.
    pub fn prefetch(self, prefetch: usize) -> Self {
        Self { prefetch, ..self }
    }
}

/// A place in the sequence of batches: what a checkpoint saves of a loader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cursor {
    /// The seed of the shuffle; 0 and without meaning where the loader does not shuffle.
    pub seed: u64,
    /// The epoch, from 0.
    pub epoch: u64,
    /// How many samples of the epoch's order were consumed.
    pub position: u64,
}

impl Cursor {
    /// The start of the epoch after this one.
    pub(crate) fn next_epoch(self) -> Self {
        Self { epoch: self.epoch.wrapping_add(1), position: 0, ..self }
    }
}

/// What the batches of a loader depend on beside its cursor: two loaders of equal descriptions give the same batches, unless
/// their data differ in samples that the fingerprint does not look at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataDescription {
    /// Samples in the dataset.
    pub samples: usize,
    /// Element type and shape of a sample's input.
    pub x: String,
    /// Element type and shape of a sample's target.
    pub y: String,
    /// Samples in a batch.
    pub batch_size: usize,
    /// The seed of the shuffle.
    pub shuffle: Option<u64>,
    /// Whether a last batch that is not full is left out.
    pub drop_last: bool,
    /// A hash of sixteen samples and their ids.
    pub values_hash: String,
}

/// Gives a dataset's samples in batches, epoch after epoch, in the host's memory.
///
/// The batches are a pure function of dataset, configuration and [`Cursor`], with a worker thread and without one. The
/// cursor is that of the batches *consumed*: what the worker built ahead does not show in it.
pub struct HostLoader {
    assembler: Arc<Assembler>,
    config: LoaderConfig,
    cursor: Cursor,
    // Started by the first batch that is asked for, and again after a seek or an error.
    worker: Option<Worker>,
}

impl HostLoader {
    /// A loader of `dataset`, at the start of epoch 0. An [`Arc`] of a dataset is a dataset, to be shared.
    ///
    /// # Errors
    /// [`Error::EmptyDataset`]; [`Error::BatchSize`] for 0 or more than the dataset has; [`Error::Prefetch`].
    pub fn new(dataset: impl Dataset + 'static, config: LoaderConfig) -> Result<Self> {
        if config.prefetch > MAX_PREFETCH {
            return Err(Error::Prefetch { prefetch: config.prefetch, max: MAX_PREFETCH });
        }
        let assembler = Arc::new(Assembler::new(Arc::new(dataset), &config)?);
        let cursor = Cursor { seed: config.shuffle.unwrap_or(0), epoch: 0, position: 0 };
        Ok(Self { assembler, config, cursor, worker: None })
    }

    /// The next batch, or `None` once at the end of an epoch, after which the next epoch begins.
    ///
    /// After an error the cursor is where it was, so that another call tries the same batch again.
    ///
    /// # Errors
    /// What the dataset returns, in the order of the batches; [`Error::DatasetPanic`]; [`Error::Label`];
    /// [`Error::OutOfMemory`]; [`Error::WorkerStart`].
    pub fn next_batch(&mut self) -> Result<Option<HostBatch>> {
        if self.assembler.at_epoch_end(self.cursor) {
            self.cursor = self.cursor.next_epoch();
            return Ok(None);
        }
        let batch = self.produce().inspect_err(|_| self.worker = None)?;
        debug_assert_eq!(batch.before, self.cursor);
        self.cursor = batch.after;
        Ok(Some(batch))
    }

    fn produce(&mut self) -> Result<HostBatch> {
        if self.config.prefetch == 0 {
            return self.assembler.batch(self.cursor);
        }
        if self.worker.is_none() {
            self.worker = Some(Worker::start(Arc::clone(&self.assembler), self.cursor, self.config.prefetch)?);
        }
        self.worker.as_ref().map_or(Err(Error::WorkerLost), Worker::next_batch)
    }

    /// The batches up to the end of the current epoch, the first error the last item.
    pub fn epoch(&mut self) -> Epoch<'_, Self> {
        Epoch::new(self)
    }

    /// The number of batches in a whole epoch.
    pub fn epoch_batches(&self) -> usize {
        self.assembler.epoch_batches()
    }

    /// The number of samples in the dataset.
    pub fn samples(&self) -> usize {
        self.assembler.samples()
    }

    /// What batches depend on beside the cursor.
    ///
    /// # Errors
    /// What the dataset returns for the samples of the fingerprint; [`Error::DatasetPanic`].
    pub fn describe(&self) -> Result<DataDescription> {
        let field = |field: &FieldSpec| format!("{} {:?}", field.element, field.shape);
        let LoaderConfig { batch_size, shuffle, drop_last, .. } = self.config;
        let spec = self.assembler.spec();
        Ok(DataDescription {
            samples: self.samples(),
            x: field(&spec.x),
            y: field(&spec.y),
            batch_size,
            shuffle,
            drop_last,
            values_hash: self.assembler.fingerprint()?,
        })
    }

    /// The configuration.
    pub fn config(&self) -> &LoaderConfig {
        &self.config
    }

    /// The place after the batches consumed so far.
    pub fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// Goes to a place that [`HostLoader::cursor`] or a batch gave, its seed included; what follows is what followed then.
    ///
    /// # Errors
    /// [`Error::Cursor`] where its position is past the dataset's end; the loader is then where it was.
    pub fn seek(&mut self, cursor: Cursor) -> Result<()> {
        let samples = self.samples();
        if cursor.position > samples as u64 {
            return Err(Error::Cursor { cursor, samples });
        }
        if cursor != self.cursor {
            self.worker = None;
            self.cursor = cursor;
        }
        Ok(())
    }
}

/// The cursor: what follows a restore is what followed then.
impl State for HostLoader {
    fn visit(&mut self, visit: &mut Visit<'_>) -> everstep_tensor::Result<()> {
        let (mut cursor, samples) = (self.cursor, self.samples());
        let check = |cursor: &Cursor| {
            let outside = cursor.position > samples as u64;
            outside.then(|| Error::Cursor { cursor: *cursor, samples }.to_string())
        };
        visit.value_if("cursor", &mut cursor, check)?;
        if cursor != self.cursor {
            self.worker = None;
            self.cursor = cursor;
        }
        Ok(())
    }
}

/// The rest of an epoch of the loader `L`; an error is the last item.
pub struct Epoch<'a, L> {
    loader: &'a mut L,
    done: bool,
}

impl<'a, L> Epoch<'a, L> {
    pub(crate) fn new(loader: &'a mut L) -> Self {
        Self { loader, done: false }
    }

    /// The next item, where `next_batch` is the loader's.
    pub(crate) fn step<B>(&mut self, next_batch: impl FnOnce(&mut L) -> Result<Option<B>>) -> Option<Result<B>> {
        if self.done {
            return None;
        }
        let item = next_batch(self.loader).transpose();
        self.done = !matches!(item, Some(Ok(_)));
        item
    }
}

impl Iterator for Epoch<'_, HostLoader> {
    type Item = Result<HostBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step(HostLoader::next_batch)
    }
}

impl FusedIterator for Epoch<'_, HostLoader> {}
