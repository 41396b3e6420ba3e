//! `everstep checkpoint`.

use std::path::PathBuf;
use std::sync::Arc;

use clap::{Parser, Subcommand};
use everstep_fault::checkpoint::{CheckpointError, LocalStorage, Manifest, Store, utc};
use serde_json::{Value, json};

/// Looks at the checkpoints of a run.
#[derive(Parser)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The generations that there are, newest first, by their manifests.
    List(Place),
    /// Compares every byte of the generations with their hashes.
    Verify(Place),
    /// What the run had come to, and the tensors.
    Show(Place),
}

#[derive(clap::Args)]
struct Place {
    /// The folder.
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// One generation by its number; else all, or, for `show`, the newest whose manifest can be read.
    #[arg(long)]
    generation: Option<u64>,
    /// JSON in the place of text.
    #[arg(long)]
    json: bool,
}

/// What to print, and whether all that was looked at is sound.
pub(crate) struct Answer {
    pub(crate) text: String,
    pub(crate) is_sound: bool,
}

/// A generation, and its manifest or what is wrong.
type Found = (u64, Result<Manifest, CheckpointError>);

pub(crate) fn run(args: &Args) -> Result<Answer, CheckpointError> {
    let (Command::List(place) | Command::Verify(place) | Command::Show(place)) = &args.command;
    let store = Store::read_only(Arc::new(LocalStorage::existing(&place.folder)));
    let mut found: Vec<Found> = store.list()?.into_iter().map(|listed| (listed.generation, listed.outcome)).collect();
    if let Some(generation) = place.generation {
        found.retain(|(number, _)| *number == generation);
        if found.is_empty() {
            return Err(CheckpointError::Missing { place: store.storage().place(), generation });
        }
    }
    match &args.command {
        Command::List(_) => Ok(list(&found, &store.set_aside_before()?, place.json)),
        Command::Verify(_) => Ok(verify(&store, found, place.json)),
        Command::Show(_) => show(found, place.json),
    }
}

fn is_sound(found: &[Found]) -> bool {
    found.iter().all(|(_, outcome)| outcome.is_ok())
}

fn list(found: &[Found], aside: &[u64], json: bool) -> Answer {
    if json {
        let rows: Vec<Value> = found.iter().map(row_json).collect();
        let text = format!("{:#}\n", json!({"generations": rows, "set_aside": aside}));
        return Answer { text, is_sound: is_sound(found) };
    }
    let head = ["generation", "created", "step", "epoch", "committed", "trusted", "loss", "size", "ok"];
    let rows = found.iter().map(|(generation, outcome)| match outcome {
        Ok(manifest) => row(manifest),
        Err(error) => {
            let mut cells = vec![String::new(); head.len()];
            cells[0] = generation.to_string();
            cells[head.len() - 1] = error.to_string();
            cells
        }
    });
    let mut text = table([head.map(str::to_owned).to_vec()].into_iter().chain(rows).collect());
    if !aside.is_empty() {
        let numbers: Vec<String> = aside.iter().map(u64::to_string).collect();
        text += &format!("set aside as damaged: {}\n", numbers.join(", "));
    }
    Answer { text, is_sound: is_sound(found) }
}

fn row(manifest: &Manifest) -> Vec<String> {
    let health = &manifest.health;
    vec![
        manifest.generation.to_string(),
        utc(manifest.created_ms),
        manifest.place.step.to_string(),
        manifest.place.cursor.epoch.to_string(),
        manifest.committed.to_string(),
        (if health.trusted { "yes" } else { "no" }).to_owned(),
        number(health.loss),
        size(manifest.bytes()),
        "ok".to_owned(),
    ]
}

fn row_json((generation, outcome): &Found) -> Value {
    match outcome {
        Ok(manifest) => json!({
            "generation": generation,
            "created_ms": manifest.created_ms,
            "step": manifest.place.step,
            "epoch": manifest.place.cursor.epoch,
            "committed": manifest.committed,
            "trusted": manifest.health.trusted,
            "loss": manifest.health.loss,
            "bytes": manifest.bytes(),
            "ok": true,
        }),
        Err(error) => json!({"generation": generation, "ok": false, "problem": error.to_string()}),
    }
}

fn verify(store: &Store, found: Vec<Found>, json: bool) -> Answer {
    let verified: Vec<Found> = found
        .into_iter()
        .map(|(generation, manifest)| (generation, manifest.and_then(|_| store.verify(generation))))
        .collect();
    let is_sound = is_sound(&verified);
    if json {
        let rows: Vec<Value> = verified.iter().map(row_json).collect();
        return Answer { text: format!("{:#}\n", json!({"generations": rows, "ok": is_sound})), is_sound };
    }
    let mut text = String::new();
    for (generation, outcome) in &verified {
        text += &match outcome {
            Ok(manifest) => {
                let (files, tensors) = (manifest.files.len(), manifest.tensors.len());
                format!("generation {generation}: ok, {} in {files} files, {tensors} tensors\n", size(manifest.bytes()))
            }
            Err(error) => format!("generation {generation}: {error}\n"),
        };
    }
    if verified.is_empty() {
        text += "no generations\n";
    }
    Answer { text, is_sound }
}

fn show(found: Vec<Found>, json: bool) -> Result<Answer, CheckpointError> {
    let mut first_error = None;
    for (_, outcome) in found {
        match outcome {
            Ok(manifest) => {
                let text = if json { format!("{:#}\n", json!(manifest)) } else { facts(&manifest) };
                return Ok(Answer { text, is_sound: true });
            }
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    match first_error {
        Some(error) => Err(error),
        None => Ok(Answer { text: "no generations\n".to_owned(), is_sound: false }),
    }
}

fn facts(manifest: &Manifest) -> String {
    let health = &manifest.health;
    let parent =
        |parent: &everstep_fault::checkpoint::Parent| format!("generation {} of run {}", parent.generation, parent.run);
    let rows = [
        ("generation", manifest.generation.to_string()),
        ("created", utc(manifest.created_ms)),
        ("run", manifest.run.clone()),
        ("resumed from", manifest.parent.as_ref().map_or_else(|| "-".to_owned(), parent)),
        ("written by", format!("Everstep {}, format version {}", manifest.engine_version, manifest.format_version)),
        ("device", manifest.device.clone()),
        ("model hash", manifest.model_hash.clone()),
        ("next", manifest.place.to_string()),
        ("committed", format!("{} of {} attempts", manifest.committed, manifest.attempt)),
        ("trusted", (if health.trusted { "yes" } else { "no" }).to_owned()),
        ("loss", number(health.loss)),
        ("gradient norm", number(health.norm)),
        ("metric", number(health.metric)),
        ("identity", manifest.identity.to_string()),
        ("values", manifest.values.keys().cloned().collect::<Vec<_>>().join(", ")),
        ("size", format!("{} in {} files", size(manifest.bytes()), manifest.files.len())),
    ];
    let mut text = table(rows.map(|(name, value)| vec![name.to_owned(), value]).to_vec());
    let head = ["tensor", "dtype", "shape", "file"].map(str::to_owned).to_vec();
    let tensor = |tensor: &everstep_fault::checkpoint::TensorEntry| {
        vec![tensor.name.clone(), tensor.dtype.clone(), format!("{:?}", tensor.shape), tensor.file.clone()]
    };
    text.push('\n');
    text += &table([head].into_iter().chain(manifest.tensors.iter().map(tensor)).collect());
    text
}

fn number(value: Option<impl std::fmt::Display>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// In the largest unit of which there is one.
fn size(bytes: u64) -> String {
    let units = [(1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    let unit = units.into_iter().find(|(unit, _)| bytes >= *unit);
    unit.map_or_else(|| format!("{bytes} B"), |(unit, name)| format!("{:.1} {name}", bytes as f64 / unit as f64))
}

/// Columns that are as wide as their widest cell; the last one as it is.
fn table(rows: Vec<Vec<String>>) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column).filter(|_| column + 1 < row.len()));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}
