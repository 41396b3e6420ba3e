//! Checkpoints of a guarded run: what is saved, when, and by whom.
//!
//! Trusted snapshots are copied out of the device while the run goes on, and a thread writes them. A step waits for the copy
//! alone, and on a GPU not even for that.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use everstep_tensor::{Download, HostSnapshot, Snapshot};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::checkpoint::{CheckpointError, FORMAT_VERSION, Health, Manifest, Parent, Retention, Saved, Store};
use crate::layout::{self, Layout};
use crate::{Error, Event, Place, Result};

/// How checkpoints are taken. A field that is absent in serialised form takes the default's value.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Checkpointing {
    /// Which generations are kept.
    pub retention: Retention,
    /// The fewest attempts between checkpoints that the guard takes by itself.
    pub interval: u64,
    /// The share of the time, more than 0 and at most 1, in which such checkpoints may be written: behind one that took a
    /// second, at 0.1, ten pass before the next.
    pub write_share: f64,
}

impl Default for Checkpointing {
    /// As often as there is a newer trusted snapshot, for a tenth of the time at most.
    fn default() -> Self {
        Self { retention: Retention::default(), interval: 0, write_share: 0.1 }
    }
}

impl Checkpointing {
    pub(crate) fn check(&self) -> Result<()> {
        let valid = self.write_share > 0.0 && self.write_share <= 1.0;
        let rule = "more than 0 and at most 1";
        if valid { Ok(()) } else { Err(Error::Setting { field: "write_share", rule }) }
    }
}

/// What a guard went on with.
#[derive(Clone, Debug, PartialEq)]
pub struct Resumed {
    /// The generation.
    pub generation: u64,
    /// The step that comes next.
    pub place: Place,
    /// The device that it was saved on, where that was another one: results may then differ in their last bits.
    pub other_device: Option<String>,
}

/// The checkpoints of a run.
pub(crate) struct Durable {
    pub(crate) store: Arc<Store>,
    config: Checkpointing,
    run: String,
    pub(crate) parent: Option<Parent>,
    identity: Value,
    /// The last value that the program gave, and the attempt behind which it holds.
    pub(crate) metric: Option<(u64, f64)>,
    copying: Option<Job>,
    writing: Option<Writing>,
    // The last one that was saved: after which attempt, and as which generation.
    pub(crate) saved: Option<(u64, u64)>,
    // The attempt of the last try, and when the next may begin.
    tried: u64,
    not_before: Instant,
}

/// Between checkpoints, whatever their share of the time.
const LONGEST_PAUSE: Duration = Duration::from_secs(24 * 3600);

/// A snapshot on its way to the disk.
struct Job {
    attempt: u64,
    download: Download,
    layout: Layout,
}

struct Writing {
    attempt: u64,
    began: Instant,
    thread: std::io::Result<JoinHandle<Result<Saved, CheckpointError>>>,
}

impl Writing {
    fn is_over(&self) -> bool {
        self.thread.as_ref().map_or(true, JoinHandle::is_finished)
    }
}

impl Durable {
    pub(crate) fn new(store: Store, config: Checkpointing, identity: Value) -> Self {
        Self {
            store: Arc::new(store),
            config,
            run: new_id(),
            parent: None,
            identity,
            metric: None,
            copying: None,
            writing: None,
            saved: None,
            tried: 0,
            not_before: Instant::now(),
        }
    }

    /// There is a generation already, of the state after `attempt`.
    pub(crate) fn found(&mut self, attempt: u64, generation: u64) {
        (self.saved, self.tried) = (Some((attempt, generation)), attempt);
    }

    pub(crate) fn identity(&self) -> &Value {
        &self.identity
    }

    /// Whether a snapshot after `attempt` is to be saved now.
    pub(crate) fn wants(&self, attempt: u64) -> bool {
        let idle = self.copying.is_none() && self.writing.is_none();
        let newer = attempt > self.tried && attempt >= self.tried.saturating_add(self.config.interval);
        idle && newer && Instant::now() >= self.not_before
    }

    /// Begins to save a snapshot taken after `attempt`.
    pub(crate) fn begin(&mut self, attempt: u64, snapshot: &Snapshot, layout: Layout) -> Result<()> {
        self.tried = attempt;
        self.copying = Some(Job { attempt, download: snapshot.download()?, layout });
        Ok(())
    }

    /// What lay on a device that was lost is not on its way any more.
    pub(crate) fn forget_copy(&mut self) {
        self.copying = None;
    }

    /// Takes the save that is under way one further, without waiting; what has become of it.
    pub(crate) fn turn(&mut self, device: &str) -> Result<Option<Event>> {
        if let Some(job) = &mut self.copying
            && let Some(copy) = job.download.try_take()?
            && let Some(Job { attempt, layout, .. }) = self.copying.take()
        {
            self.writing = Some(self.write((attempt, true), copy, layout, device));
        }
        Ok(self.writing.take_if(|writing| writing.is_over()).map(|writing| self.ended(writing).0))
    }

    /// Saves the state after an attempt, which may be a trusted one, and waits for it, behind one that is under way: its
    /// generation, and what has become of both.
    pub(crate) fn save_now(
        &mut self,
        (attempt, trusted): (u64, bool),
        copy: HostSnapshot,
        layout: Layout,
        device: &str,
    ) -> (Vec<Event>, Result<u64>) {
        self.forget_copy();
        let earlier = self.writing.take().map(|writing| self.ended(writing).0);
        self.tried = attempt;
        let writing = self.write((attempt, trusted), copy, layout, device);
        let (event, outcome) = self.ended(writing);
        (earlier.into_iter().chain([event]).collect(), outcome)
    }

    fn ended(&mut self, writing: Writing) -> (Event, Result<u64>) {
        let took = writing.began.elapsed();
        let pause = Duration::try_from_secs_f64(took.as_secs_f64() / self.config.write_share).unwrap_or(LONGEST_PAUSE);
        self.not_before = Instant::now() + pause.min(LONGEST_PAUSE);
        let outcome = match writing.thread.map(JoinHandle::join) {
            Ok(Ok(outcome)) => outcome.map_err(Error::from),
            Ok(Err(_)) => Err(Error::Writer { problem: "the thread that wrote it panicked".into() }),
            Err(error) => Err(Error::Writer { problem: format!("there is no thread to write it: {error}") }),
        };
        match outcome {
            Ok(Saved { generation, bytes, .. }) => {
                self.saved = Some((writing.attempt, generation));
                (Event::Saved { generation, bytes, milliseconds: took.as_millis() as u64 }, Ok(generation))
            }
            Err(error) => {
                tracing::warn!(%error, "a checkpoint could not be saved");
                (Event::SaveFailed { problem: error.to_string() }, Err(error))
            }
        }
    }

    /// Begins to write a copy of the state after an attempt.
    fn write(&self, (attempt, trusted): (u64, bool), copy: HostSnapshot, layout: Layout, device: &str) -> Writing {
        let manifest = self.manifest(attempt, trusted, &copy, device);
        let (store, retention) = (self.store.clone(), self.config.retention);
        let save = move || {
            let tensors = layout.tensors(&copy);
            let saved = match store.save(manifest.clone(), &tensors) {
                // What is no longer wanted may be all that stands in the way.
                Err(CheckpointError::Full { .. }) if !store.prune(&retention)?.is_empty() => {
                    store.save(manifest, &tensors)?
                }
                outcome => outcome?,
            };
            // What is no longer wanted stays where it cannot be removed, and the next save tries again.
            if let Err(error) = store.prune(&retention) {
                tracing::warn!(%error, "old checkpoints could not be removed");
            }
            Ok(saved)
        };
        let thread = std::thread::Builder::new().name("checkpoint".into()).spawn(save);
        Writing { attempt, began: Instant::now(), thread }
    }

    fn manifest(&self, attempt: u64, trusted: bool, copy: &HostSnapshot, device: &str) -> Manifest {
        fn of<T: for<'a> Deserialize<'a>>(copy: &HostSnapshot, name: &str) -> Option<T> {
            copy.values().get(name).and_then(|value| T::deserialize(value).ok())
        }
        let start = Place { step: 1, cursor: everstep_data::Cursor { seed: 0, epoch: 0, position: 0 } };
        let created = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let metric = self.metric.filter(|(measured, _)| *measured == attempt).map(|(_, metric)| metric);
        let model = self.identity.get("model").map(Value::to_string).unwrap_or_default();
        Manifest {
            format_version: FORMAT_VERSION,
            engine_version: env!("CARGO_PKG_VERSION").into(),
            generation: 0,
            run: self.run.clone(),
            parent: self.parent.clone(),
            created_ms: created.as_millis() as u64,
            device: device.into(),
            model_hash: blake3::hash(model.as_bytes()).to_hex().to_string(),
            place: of::<Option<Place>>(copy, "progress.next").flatten().unwrap_or(start),
            attempt,
            committed: layout::committed(copy),
            health: Health { trusted, loss: of(copy, "seen.loss"), norm: of(copy, "seen.norm"), metric },
            identity: self.identity.clone(),
            values: copy.values().clone(),
            files: Vec::new(),
            tensors: Vec::new(),
        }
    }
}

impl Drop for Durable {
    /// A save that is under way ends: the program may be about to.
    fn drop(&mut self) {
        if let Some(Writing { thread: Ok(thread), .. }) = self.writing.take() {
            // Nobody is left to be told.
            let _ = thread.join();
        }
    }
}

/// 32 hexadecimal digits that no other run has.
fn new_id() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let here = (std::process::id(), std::thread::current().id());
    // The address of a fresh allocation differs between processes that start at once.
    let place = Box::new(0u8);
    let text = format!("{now:?} {here:?} {:p}", &raw const *place);
    blake3::hash(text.as_bytes()).to_hex()[..32].to_owned()
}
