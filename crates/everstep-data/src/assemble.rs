//! How batches come out of a dataset: a pure function from cursor to batch, which both the loader and its worker thread use.

use std::any::Any;
use std::cell::Cell;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::host::zeros;
use crate::{
    At, Cursor, Dataset, Error, FieldSpec, HostBatch, HostTensor, LoaderConfig, Permutation, Result, SampleMut,
    SampleSpec, Values,
};

/// Samples that a fingerprint looks at.
const PROBED: usize = 16;

/// Builds the batch that a cursor points at.
pub(crate) struct Assembler {
    dataset: Arc<dyn Dataset>,
    spec: SampleSpec,
    samples: usize,
    classes: Option<usize>,
    batch_size: usize,
    shuffled: bool,
    drop_last: bool,
}

impl Assembler {
    pub(crate) fn new(dataset: Arc<dyn Dataset>, config: &LoaderConfig) -> Result<Self> {
        let samples = dataset.len();
        if samples == 0 {
            return Err(Error::EmptyDataset { action: "a loader" });
        }
        let batch_size = config.batch_size;
        if batch_size == 0 || batch_size > samples {
            return Err(Error::BatchSize { batch_size, samples });
        }
        Ok(Self {
            spec: dataset.spec().clone(),
            classes: dataset.classes(),
            samples,
            batch_size,
            shuffled: config.shuffle.is_some(),
            drop_last: config.drop_last,
            dataset,
        })
    }

    pub(crate) fn samples(&self) -> usize {
        self.samples
    }

    pub(crate) fn epoch_batches(&self) -> usize {
        if self.drop_last { self.samples / self.batch_size } else { self.samples.div_ceil(self.batch_size) }
    }

    /// The places in the epoch's order that the batch at `cursor` takes; `None` at the epoch's end.
    fn places(&self, cursor: Cursor) -> Option<Range<usize>> {
        let start = usize::try_from(cursor.position).ok().filter(|&start| start < self.samples)?;
        let end = start.saturating_add(self.batch_size);
        match end <= self.samples {
            true => Some(start..end),
            false if self.drop_last => None,
            false => Some(start..self.samples),
        }
    }

    /// Whether the epoch of `cursor` has no further batch.
    pub(crate) fn at_epoch_end(&self, cursor: Cursor) -> bool {
        self.places(cursor).is_none()
    }

    /// The batch at `cursor`, or the first one of the next epoch where `cursor` is at its epoch's end.
    ///
    /// A panic of the dataset becomes [`Error::DatasetPanic`].
    pub(crate) fn batch(&self, cursor: Cursor) -> Result<HostBatch> {
        let (before, places) = match self.places(cursor) {
            Some(places) => (cursor, places),
            // A batch size is at most the number of samples, so every epoch has a first batch.
            None => (cursor.next_epoch(), 0..self.batch_size),
        };
        let after = Cursor { position: places.end as u64, ..before };
        // The panic's message names the sample, so the index must outlive it.
        let reading = Cell::new(0);
        // After a panic everything that the closure built is dropped, and what a dataset does to itself is its own.
        catch_unwind(AssertUnwindSafe(|| self.gather(before, places, &reading)))
            .map_err(|panic| Error::DatasetPanic { index: reading.get(), message: message(&*panic) })?
            .map(|(x, y, ids)| HostBatch { x, y, ids, before, after })
    }

    /// A hash of some of the samples, spread evenly over the dataset, as they are in epoch 0: another dataset has another one.
    ///
    /// # Errors
    /// What the dataset returns; [`Error::DatasetPanic`].
    pub(crate) fn fingerprint(&self) -> Result<String> {
        let reading = Cell::new(0);
        catch_unwind(AssertUnwindSafe(|| self.hash_samples(&reading)))
            .map_err(|panic| Error::DatasetPanic { index: reading.get(), message: message(&*panic) })?
    }

    fn hash_samples(&self, reading: &Cell<usize>) -> Result<String> {
        let mut hash = blake3::Hasher::new();
        let probed = PROBED.min(self.samples);
        for number in 0..probed {
            let index = number * (self.samples - 1) / (probed - 1).max(1);
            reading.set(index);
            let (mut x, mut y) = (Field::new(&self.spec.x, 1)?, Field::new(&self.spec.y, 1)?);
            let sample = SampleMut { x: x.values.field_mut(x.row(0)), y: y.values.field_mut(y.row(0)) };
            self.dataset.read(At::index(index), sample)?;
            hash.update(&self.dataset.id(index).to_le_bytes());
            hash.update(&x.values.to_le_bytes());
            hash.update(&y.values.to_le_bytes());
        }
        Ok(hash.finalize().to_hex()[..16].to_owned())
    }

    pub(crate) fn spec(&self) -> &SampleSpec {
        &self.spec
    }

    fn gather(
        &self,
        cursor: Cursor,
        places: Range<usize>,
        reading: &Cell<usize>,
    ) -> Result<(HostTensor, HostTensor, Vec<u64>)> {
        let order = self.shuffled.then(|| Permutation::new(self.samples, cursor.seed, cursor.epoch));
        let (mut x, mut y) = (Field::new(&self.spec.x, places.len())?, Field::new(&self.spec.y, places.len())?);
        let mut ids = zeros(places.len())?;
        for (row, place) in places.enumerate() {
            let index = order.as_ref().and_then(|order| order.get(place)).unwrap_or(place);
            reading.set(index);
            ids[row] = self.dataset.id(index);
            let sample = SampleMut { x: x.values.field_mut(x.row(row)), y: y.values.field_mut(y.row(row)) };
            self.dataset.read(At { index, epoch: cursor.epoch }, sample)?;
            self.check_classes(&y, row, ids[row])?;
        }
        Ok((x.finish()?, y.finish()?, ids))
    }

    /// A class out of range would be found by a kernel, steps later; here it is found with its sample's name.
    fn check_classes(&self, y: &Field, row: usize, id: u64) -> Result<()> {
        let (Some(classes), Some(values)) = (self.classes, y.values.as_u32()) else {
            return Ok(());
        };
        match values[y.row(row)].iter().find(|&&label| label as usize >= classes) {
            Some(&label) => Err(Error::Label { id, label, classes }),
            None => Ok(()),
        }
    }
}

/// One field of a batch while it is built.
struct Field {
    values: Values,
    shape: Vec<usize>,
    row_length: usize,
}

impl Field {
    fn new(spec: &FieldSpec, rows: usize) -> Result<Self> {
        let too_large = Error::OutOfMemory { what: "a batch", bytes: None };
        let row_length = spec.length().ok_or(too_large)?;
        let length = row_length.checked_mul(rows).ok_or(Error::OutOfMemory { what: "a batch", bytes: None })?;
        let shape = std::iter::once(rows).chain(spec.shape.iter().copied()).collect();
        Ok(Self { values: Values::zeros(spec.element, length)?, shape, row_length })
    }

    fn row(&self, row: usize) -> Range<usize> {
        row * self.row_length..(row + 1) * self.row_length
    }

    fn finish(self) -> Result<HostTensor> {
        HostTensor::new(self.values, &self.shape)
    }
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("(the panic carries no text)").to_string()
}
