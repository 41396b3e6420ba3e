//! Durable checkpoints: a run's state in files, so that another process goes on with it.
//!
//! A [`Store`] keeps *generations* in a [`Storage`]. A generation is a manifest, which says what a run had come to, and the
//! files of tensors that it names. [`Store::save`] writes the manifest last, so that at every instant what is there is either
//! the old set or the new one; what is read is compared with hashes down to the last byte, and [`Store::load_newest`] goes
//! back to the generation before one that is damaged. The files are described in `docs/CHECKPOINT_FORMAT.md`.
//!
//! ```
//! use std::sync::Arc;
//! use everstep_fault::checkpoint::{LocalStorage, Retention, Store};
//!
//! # let folder = std::env::temp_dir().join(format!("everstep-doc-checkpoint-{}", std::process::id()));
//! let store = Store::open(Arc::new(LocalStorage::new(&folder)?))?;
//! assert!(store.load_newest()?.loaded.is_none()); // nothing there yet
//! store.prune(&Retention::default())?;
//! # std::fs::remove_dir_all(folder)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod error;
mod faulty;
mod layout;
mod local;
mod manifest;
mod memory;
mod names;
mod prune;
mod read;
mod save;
mod storage;
mod store;
mod time;

pub use error::CheckpointError;
pub use faulty::{Failure, FaultyStorage};
pub use local::LocalStorage;
pub use manifest::{FORMAT_VERSION, FileEntry, Health, Manifest, Parent, TensorEntry, seal};
pub use memory::MemoryStorage;
pub use prune::Retention;
pub use read::{Loaded, LoadedTensor};
pub use safetensors::Dtype;
pub use save::{Saved, TensorSource};
pub use storage::{ReadFile, Storage, WriteFile};
pub use store::{Listed, Newest, Store};
pub use time::utc;
