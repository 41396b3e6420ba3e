//! Datasets, readers and the resumable loader of Everstep.
//!
//! A [`Dataset`] writes single samples into memory that it is given; a [`Subset`] is a view of one, and
//! [`Dataset::split_stratified`] makes two of them. A [`HostLoader`] puts samples together into batches, ahead of time
//! on a thread of its own, in an order that is a pure function of a [`Cursor`]: seed, epoch and position. So a run that
//! goes back to a cursor sees the same batches again.
//!
//! ```
//! use everstep_data::{Dataset, HostLoader, LoaderConfig, digits};
//!
//! # fn main() -> everstep_data::Result<()> {
//! let (train, test) = digits()?.split_stratified(0.8, 7)?;
//! let mut loader = HostLoader::new(train, LoaderConfig::new(32).shuffle(7))?;
//! for batch in loader.epoch() {
//!     let batch = batch?;
//!     assert_eq!(batch.x.shape(), &[batch.len(), 64]);
//! }
//! assert_eq!((loader.cursor().epoch, test.len()), (1, 359));
//! # Ok(())
//! # }
//! ```
//!
//! Files come in through [`IdxArray`] (the format of MNIST) and [`mnist`], [`CsvDataset`] for tables and
//! [`CharDataset`] for text; [`digits`] needs no file at all. [`Dataset::transformed`] normalises and augments samples
//! as they are read, with random numbers that belong to seed, epoch and sample, so a run that goes back sees the same
//! pictures too.

mod assemble;
mod batch;
mod chars;
mod csv;
mod csv_problem;
mod csv_rows;
mod dataset;
mod digits;
mod error;
mod geometry;
mod host;
mod idx;
mod images;
mod loader;
mod memory;
mod permutation;
mod statistics;
mod subset;
mod transform;
mod transformed;
mod vocabulary;
mod worker;

pub use batch::{Batch, Loader};
pub use chars::CharDataset;
pub use csv::{Column, CsvConfig, CsvDataset, Target};
pub use csv_problem::{CsvColumn, CsvProblem};
pub use dataset::{At, Dataset, ElementType, FieldMut, FieldSpec, SampleMut, SampleSpec};
pub use digits::{digits, digits_split};
pub use error::{Error, IdxProblem, Result};
pub use host::{HostBatch, HostTensor, Values};
pub use idx::{IdxArray, IdxValues};
pub use images::{ImageDataset, mnist};
pub use loader::{Cursor, DataDescription, Epoch, HostLoader, LoaderConfig, MAX_PREFETCH};
pub use memory::InMemoryDataset;
pub use permutation::Permutation;
pub use subset::Subset;
pub use transform::{CustomTransform, Transform, TransformProblem};
pub use transformed::Transformed;
pub use vocabulary::Vocabulary;
