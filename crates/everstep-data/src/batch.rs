//! Batches on a device.

use std::iter::FusedIterator;

use everstep_device::Device;
use everstep_tensor::{State, Tensor, Visit};

use crate::{Cursor, DataDescription, Dataset, Epoch, HostBatch, HostLoader, HostTensor, LoaderConfig, Result, Values};

impl HostTensor {
    /// The same tensor on `device`.
    ///
    /// # Errors
    /// [`Error::Tensor`](crate::Error::Tensor): what the device says.
    pub fn to_device(self, device: &Device) -> Result<Tensor> {
        let (values, shape) = self.into_parts();
        Ok(match values {
            Values::F32(values) => Tensor::from_vec(values, &shape, device)?,
            Values::U32(values) => Tensor::from_vec(values, &shape, device)?,
        })
    }
}

impl HostBatch {
    /// The same batch on `device`.
    ///
    /// # Errors
    /// [`Error::Tensor`](crate::Error::Tensor): what the device says.
    pub fn to_device(self, device: &Device) -> Result<Batch> {
        Ok(Batch {
            x: self.x.to_device(device)?,
            y: self.y.to_device(device)?,
            ids: self.ids,
            before: self.before,
            after: self.after,
        })
    }
}

/// A batch on a device.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The inputs, `[B, ...]`.
    pub x: Tensor,
    /// The targets, `[B, ...]`.
    pub y: Tensor,
    /// The samples' indices in the base dataset, in the batch's order.
    pub ids: Vec<u64>,
    /// The cursor that gives this batch.
    pub before: Cursor,
    /// The cursor of what comes after this batch.
    pub after: Cursor,
}

impl Batch {
    /// The number of samples, B.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether the batch has no samples; a loader gives no such batch.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}

/// A [`HostLoader`] whose batches go to a device.
///
/// ```
/// use everstep_data::{LoaderConfig, Loader, digits_split};
/// use everstep_device::Device;
///
/// # fn main() -> everstep_data::Result<()> {
/// let (train, _) = digits_split(7)?;
/// let mut loader = Loader::new(train, LoaderConfig::new(32).shuffle(7), &Device::cpu())?;
/// for batch in loader.epoch() {
///     let batch = batch?;
///     assert_eq!(batch.x.shape(), &[batch.len(), 64]);
/// }
/// # Ok(())
/// # }
/// ```
pub struct Loader {
    host: HostLoader,
    device: Device,
}

impl Loader {
    /// A loader of `dataset`, at the start of epoch 0, whose batches lie on `device`.
    ///
    /// # Errors
    /// As [`HostLoader::new`].
    pub fn new(dataset: impl Dataset + 'static, config: LoaderConfig, device: &Device) -> Result<Self> {
        Ok(Self { host: HostLoader::new(dataset, config)?, device: device.clone() })
    }

    /// The next batch, or `None` once at the end of an epoch, after which the next epoch begins.
    ///
    /// After an error the cursor is where it was, so that another call tries the same batch again.
    ///
    /// # Errors
    /// As [`HostLoader::next_batch`], and [`Error::Tensor`](crate::Error::Tensor).
    pub fn next_batch(&mut self) -> Result<Option<Batch>> {
        let Some(batch) = self.host.next_batch()? else {
            return Ok(None);
        };
        let before = batch.before;
        match batch.to_device(&self.device) {
            Ok(batch) => Ok(Some(batch)),
            Err(error) => {
                self.host.seek(before)?;
                Err(error)
            }
        }
    }

    /// The batches up to the end of the current epoch, the first error the last item.
    pub fn epoch(&mut self) -> Epoch<'_, Self> {
        Epoch::new(self)
    }

    /// The number of batches in a whole epoch.
    pub fn epoch_batches(&self) -> usize {
        self.host.epoch_batches()
    }

    /// The number of samples in the dataset.
    pub fn samples(&self) -> usize {
        self.host.samples()
    }

    /// What batches depend on beside the cursor.
    ///
    /// # Errors
    /// As [`HostLoader::describe`].
    pub fn describe(&self) -> Result<DataDescription> {
        self.host.describe()
    }

    /// The configuration.
    pub fn config(&self) -> &LoaderConfig {
        self.host.config()
    }

    /// The device of the batches.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The place after the batches consumed so far.
    pub fn cursor(&self) -> Cursor {
        self.host.cursor()
    }

    /// Goes to a place that [`Loader::cursor`] or a batch gave; see [`HostLoader::seek`].
    ///
    /// # Errors
    /// As [`HostLoader::seek`].
    pub fn seek(&mut self, cursor: Cursor) -> Result<()> {
        self.host.seek(cursor)
    }
}

/// As [`HostLoader`]'s.
impl State for Loader {
    fn visit(&mut self, visit: &mut Visit<'_>) -> everstep_tensor::Result<()> {
        self.host.visit(visit)
    }
}

impl Iterator for Epoch<'_, Loader> {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step(Loader::next_batch)
    }
}

impl FusedIterator for Epoch<'_, Loader> {}
