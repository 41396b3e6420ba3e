//! Every byte of a checkpoint flipped, and its files cut at every length: it is always seen, and the one before it is taken.

use std::sync::Arc;

use everstep_fault::checkpoint::{Manifest, MemoryStorage, Storage, Store};
use everstep_fault::{Error, Event, Result};
use serde::Serialize;

use crate::Extent;
use crate::net::{Saves, train};

const STEPS: u64 = 60;
/// Damages from one that is followed by a whole run to the next.
const RUNS: u64 = 100;

/// What came of it.
#[derive(Default, Serialize)]
pub(crate) struct Summary {
    /// Bytes of the newest generation's files.
    bytes: usize,
    flips: u64,
    cuts: u64,
    /// Runs that went on with the generation before the damaged one.
    runs: u64,
    unseen: u64,
    differing_hashes: u64,
    failures: Vec<String>,
}

impl Summary {
    pub(crate) fn is_right(&self) -> bool {
        self.unseen == 0 && self.differing_hashes == 0 && self.runs > 0
    }
}

/// Damages each byte of the newest of two generations in turn.
///
/// # Errors
/// Those of the undisturbed runs.
pub(crate) fn flips(extent: Extent) -> Result<Summary> {
    let mut summary = Summary::default();
    let expected = train(MemoryStorage::new(), STEPS, Saves::Every(20))?.hash;
    let storage = MemoryStorage::new();
    // One along the way and one at its end, of another state: else they would share their tensors.
    train(storage.clone(), STEPS - 20, Saves::Every(25))?;
    let newest = Store::read_only(Arc::new(storage.clone())).load_newest()?;
    let manifest = newest.loaded.ok_or(Error::NoCheckpoints)?.manifest;
    // Data files that the generation before has, too, hold for both.
    let older = Store::read_only(Arc::new(storage.clone())).load(manifest.generation - 1)?.manifest;
    let shared = |name: &String| older.files.iter().any(|file| file.name == *name);
    let names = storage.list().unwrap_or_default();
    for name in names.into_iter().filter(|name| is_of(&manifest, name) && !shared(name)) {
        let content = storage.content(&name).unwrap_or_default();
        summary.bytes += content.len();
        for index in (0..content.len()).step_by(extent.step()) {
            let mut flipped = content.clone();
            flipped[index] ^= 1 << (index % 8);
            summary.flips += 1;
            one(&mut summary, &storage, (&name, flipped), manifest.generation, &expected)?;
            summary.cuts += 1;
            one(&mut summary, &storage, (&name, content[..index].to_vec()), manifest.generation, &expected)?;
        }
    }
    Ok(summary)
}

/// Whether a file is the manifest itself, or named in it.
fn is_of(manifest: &Manifest, name: &str) -> bool {
    name == format!("generation-{:012}.json", manifest.generation)
        || manifest.files.iter().any(|file| file.name == name)
}

/// A damaged file: is it seen, and what does a run make of it, now and then?
fn one(
    summary: &mut Summary,
    storage: &MemoryStorage,
    (name, content): (&str, Vec<u8>),
    generation: u64,
    expected: &str,
) -> Result<()> {
    let damaged = storage.after_power_loss();
    let what = format!("{name}, {} bytes", content.len());
    damaged.replace(name, content);
    let found = Store::read_only(Arc::new(damaged.clone())).load_newest()?;
    let taken = found.loaded.map(|loaded| loaded.manifest.generation);
    if taken != Some(generation - 1) || found.damaged.first().map(|(damaged, _)| *damaged) != Some(generation) {
        summary.unseen += 1;
        summary.failures.push(format!("{what}: {taken:?} was taken"));
    }
    if !(summary.flips + summary.cuts).is_multiple_of(RUNS) {
        return Ok(());
    }
    summary.runs += 1;
    let ended = train(damaged.clone(), STEPS, Saves::Every(20))?;
    let told = ended.events.iter().any(|event| matches!(event, Event::GenerationDamaged { .. }));
    // A second start does not meet it again.
    let again = train(damaged, STEPS, Saves::Every(20))?;
    let met = again.events.iter().any(|event| matches!(event, Event::GenerationDamaged { .. }));
    if ended.hash != expected || again.hash != expected || !told || met {
        summary.differing_hashes += 1;
        summary.failures.push(format!("{what}: {} after it, told {told}, met again {met}", ended.hash));
    }
    Ok(())
}
