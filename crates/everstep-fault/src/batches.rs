//! Where batches come from.

use std::fmt;

use everstep_data::{Batch, Cursor, Loader};
use everstep_tensor::{State, Tensor};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Result;

/// Where batches come from: pulled by the guard, so that it can pull one again. A pair of batches and a [`State`] of the
/// program's own goes back to a snapshot together: `guard.step(&mut (&mut loader, &mut progress), ..)`.
pub trait Batches: State {
    /// A batch.
    type Batch;

    /// The next batch, or `None` once at the end of an epoch, after which the next epoch begins.
    ///
    /// # Errors
    /// What reading it says; another call tries the same batch again.
    fn next_batch(&mut self) -> Result<Option<Self::Batch>>;

    /// The place of the next batch.
    fn cursor(&self) -> Cursor;

    /// Goes to a place that [`Batches::cursor`] gave.
    ///
    /// # Errors
    /// For a place that there is not.
    fn seek(&mut self, cursor: Cursor) -> Result<()>;

    /// What must be the same for a run to go on with a checkpoint: the data and how batches are made of them. Nothing by
    /// default.
    ///
    /// # Errors
    /// Those of reading it.
    fn identity(&self) -> Result<Value> {
        Ok(Value::Null)
    }

    /// The ids of the batch's samples, in their order; empty where they have none: then no sample can be found out.
    fn samples(batch: &Self::Batch) -> &[u64] {
        let _ = batch;
        &[]
    }

    /// The samples of `batch` at `rows`; `None` where a batch cannot be divided.
    ///
    /// # Errors
    /// Those of making it.
    fn part(batch: &Self::Batch, rows: &[usize]) -> Result<Option<Self::Batch>> {
        let _ = (batch, rows);
        Ok(None)
    }

    /// Shows each of the batch's tensors with its name: what a diagnosis calls it, what planned faults change, and what differs
    /// between steps that are captured. It shows all of them or none; of a batch that shows none, no step is captured.
    fn tensors(batch: &mut Self::Batch, each: &mut dyn FnMut(&'static str, &mut Tensor)) {
        let _ = (batch, each);
    }
}

impl Batches for Loader {
    type Batch = Batch;

    fn next_batch(&mut self) -> Result<Option<Batch>> {
        Ok(Loader::next_batch(self)?)
    }

    fn cursor(&self) -> Cursor {
        Loader::cursor(self)
    }

    fn seek(&mut self, cursor: Cursor) -> Result<()> {
        Ok(Loader::seek(self, cursor)?)
    }

    fn identity(&self) -> Result<Value> {
        let description = self.describe()?;
        Ok(serde_json::to_value(description).unwrap_or_default())
    }

    fn samples(batch: &Batch) -> &[u64] {
        &batch.ids
    }

    fn part(batch: &Batch, rows: &[usize]) -> Result<Option<Batch>> {
        let indices = rows.iter().map(|&row| row as u32).collect();
        let indices = Tensor::from_vec(indices, &[rows.len()], batch.x.device())?;
        let select = |tensor: &Tensor| tensor.index_select(0, &indices);
        let ids = rows.iter().filter_map(|&row| batch.ids.get(row)).copied().collect();
        Ok(Some(Batch { x: select(&batch.x)?, y: select(&batch.y)?, ids, ..batch.clone() }))
    }

    fn tensors(batch: &mut Batch, each: &mut dyn FnMut(&'static str, &mut Tensor)) {
        each("x", &mut batch.x);
        each("y", &mut batch.y);
    }
}

macro_rules! forward {
    ($inner:ident, $self:ident => $place:expr) => {
        type Batch = $inner::Batch;

        fn next_batch(&mut $self) -> Result<Option<Self::Batch>> {
            $place.next_batch()
        }

        fn cursor(&$self) -> Cursor {
            $place.cursor()
        }

        fn seek(&mut $self, cursor: Cursor) -> Result<()> {
            $place.seek(cursor)
        }

        fn identity(&$self) -> Result<Value> {
            $place.identity()
        }

        fn samples(batch: &Self::Batch) -> &[u64] {
            $inner::samples(batch)
        }

        fn part(batch: &Self::Batch, rows: &[usize]) -> Result<Option<Self::Batch>> {
            $inner::part(batch, rows)
        }

        fn tensors(batch: &mut Self::Batch, each: &mut dyn FnMut(&'static str, &mut Tensor)) {
            $inner::tensors(batch, each);
        }
    };
}

impl<B: Batches> Batches for &mut B {
    forward!(B, self => (**self));
}

/// The batches, and whatever goes back to a snapshot with them.
impl<B: Batches, S: State> Batches for (B, S) {
    forward!(B, self => self.0);
}

/// A step of a run by its batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Place {
    /// The batch's number in the order in which they come, from 1, those that are left out included: what ran again has the
    /// number that it had.
    pub step: u64,
    /// Where its batches find it.
    pub cursor: Cursor,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "step {} (epoch {}, sample {})", self.step, self.cursor.epoch, self.cursor.position)
    }
}
