//! What a checkpoint costs: how long a step waits for it, and how fast it is written, beside a copy of the same memory and a plain
//! write of the same bytes in the same run: `cargo run --release -p everstep-benches --bin checkpoint -- --json`.

#![expect(clippy::print_stdout, reason = "the line is what it is for")]

use std::fs::File;
use std::hint::black_box;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use everstep::fault::checkpoint::{Dtype, LocalStorage, Manifest, Store, TensorSource};
use everstep::prelude::*;
use serde_json::json;

/// Times the checkpoints of a model under AdamW.
#[derive(Parser)]
struct Args {
    /// Parameters, in millions; the state is three times as many floats.
    #[arg(long, default_value_t = 100)]
    millions: usize,
    /// Rounds; each times all four.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// A folder on the disk that is measured; the system's for temporary files without it.
    #[arg(long)]
    folder: Option<PathBuf>,
    /// One line of JSON.
    #[arg(long)]
    json: bool,
}

/// Square layers of ten million parameters each.
#[derive(Module)]
struct Model {
    layers: Vec<Linear>,
}

const WIDTH: usize = 3162;
/// Steps from a checkpoint to the next.
const APART: usize = 30;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args = Args::parse();
    let folder =
        args.folder.clone().unwrap_or_else(std::env::temp_dir).join(format!("everstep-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let outcome = measure(&args, &folder);
    // Gigabytes are not left behind, whatever went wrong.
    std::fs::remove_dir_all(&folder)?;
    let result = outcome?;
    println!("{}", if args.json { result.to_string() } else { format!("{result:#}") });
    Ok(())
}

fn measure(args: &Args, folder: &Path) -> Result<serde_json::Value, Box<dyn std::error::Error>> {
    let device = Device::cpu();
    let mut generator = Generator::new(0);
    let layers = (0..args.millions.div_ceil(10)).map(|_| Linear::new(WIDTH, WIDTH, &mut generator, &device));
    let model = Model { layers: layers.collect::<Result<_, _>>()? };
    let parameters: usize = model.parameters().iter().map(|parameter| parameter.shape().count()).sum();
    let mut data = Loader::new(digits()?, LoaderConfig::new(8), &device)?;
    // A snapshot in every second step, and a checkpoint of every twentieth: by then the one before is on the disk.
    let config = Checkpointing { interval: APART as u64, write_share: 1.0, ..Checkpointing::default() };
    let policy =
        Policy { interval: 2, probation: 1, in_flight: 0, snapshot_cost: None, snapshots: 2, ..Policy::default() };
    let guard = Guard::new(&model, AdamW::new(1e-4), policy)?;
    let mut guard = guard.with_checkpoints_in(folder.join("run"), config, &mut data)?;
    let input = Tensor::ones(&[1, WIDTH], &device)?;
    let mut step = |guard: &mut Guard| {
        guard.step(&mut data, |_| {
            let output = model.layers.iter().try_fold(input.clone(), |x, layer| layer.forward(&x))?;
            Ok::<_, everstep::Error>(output.mean_all()?)
        })
    };
    let mut steps = Vec::new();
    while steps.len() < APART * (args.rounds + 1) {
        let (reads, start) = (device.counters().reads, Instant::now());
        step(&mut guard)?;
        // A step reads its record, and one with a checkpoint the snapshot, too.
        steps.push((start.elapsed(), device.counters().reads - reads > 1));
    }
    let step_wait = step_wait(&steps);
    let bytes = guard.optimizer().states().iter().map(|state| state.bytes()).sum::<usize>()
        + guard.optimizer().arena().values().bytes();
    let (mut waits, mut copies, mut plain, mut saves, mut verifies) = (vec![], vec![], vec![], vec![], vec![]);
    let whole = Store::read_only(Arc::new(LocalStorage::existing(folder.join("run")))).load_newest()?;
    let manifest = whole.loaded.ok_or("no checkpoint")?.manifest;
    for round in 0..args.rounds {
        // What the step does: the snapshot's memory, out of the arena.
        let mut snapshot = Snapshot::default();
        snapshot.save(&mut Parts(&guard))?;
        let start = Instant::now();
        let copy = snapshot.download()?.wait()?.ok_or("no copy")?;
        waits.push(start.elapsed());
        let buffers: Vec<&Vec<u8>> = copy.buffers().values().collect();
        let start = Instant::now();
        black_box(buffers.iter().map(|&buffer| buffer.clone()).collect::<Vec<_>>());
        copies.push(start.elapsed());
        // Which of the two comes first changes from round to round: the disk still has to do with the one before.
        if round % 2 == 0 {
            plain.push(write_plainly(&folder.join("plain"), &buffers)?);
        }
        let (save, verify) = save(&folder.join("store"), manifest.clone(), &buffers)?;
        if round % 2 == 1 {
            plain.push(write_plainly(&folder.join("plain"), &buffers)?);
        }
        saves.push(save);
        verifies.push(verify);
    }
    let [wait, copy, plain, save, verify] = [waits, copies, plain, saves, verifies].map(median);
    Ok(json!({
        "parameters": parameters,
        "state_mib": bytes >> 20,
        "step_wait_ms": ms(step_wait),
        "wait_ms": ms(wait),
        "copy_ms": ms(copy),
        "step_wait_of_copy": ratio(step_wait, copy),
        "wait_of_copy": ratio(wait, copy),
        "plain_write_ms": ms(plain),
        "save_write_ms": ms(save),
        "verify_ms": ms(verify),
        "plain_mib_per_s": (bytes >> 20) as f64 / plain.as_secs_f64(),
        "save_mib_per_s": (bytes >> 20) as f64 / save.as_secs_f64(),
        "throughput_of_disk": ratio(plain, save),
    }))
}

/// The buffers that a checkpoint has to hold.
struct Parts<'a>(&'a Guard);

impl State for Parts<'_> {
    fn visit(&mut self, visit: &mut Visit<'_>) -> everstep::tensor::Result<()> {
        let optimizer = self.0.optimizer();
        visit.buffer("values", optimizer.arena().values())?;
        let mut states = optimizer.states().iter().enumerate();
        states.try_for_each(|(number, state)| visit.buffer(&format!("state{number}"), state))
    }
}

/// Written and synced, and nothing else.
fn write_plainly(path: &Path, buffers: &[&Vec<u8>]) -> std::io::Result<Duration> {
    let start = Instant::now();
    let mut file = File::create(path)?;
    buffers.iter().try_for_each(|buffer| file.write_all(buffer))?;
    file.sync_all()?;
    let took = start.elapsed();
    std::fs::remove_file(path)?;
    Ok(took)
}

/// The time to write and sync a generation, and that to read it back.
fn save(
    folder: &Path,
    manifest: Manifest,
    buffers: &[&Vec<u8>],
) -> Result<(Duration, Duration), Box<dyn std::error::Error>> {
    let store = Store::open(Arc::new(LocalStorage::new(folder)?))?;
    let tensor = |(number, buffer): (usize, &&Vec<u8>)| TensorSource {
        name: format!("buffer{number}"),
        group: 0,
        dtype: Dtype::F32,
        shape: vec![buffer.len() / 4],
        pieces: vec![],
    };
    let mut tensors: Vec<_> = buffers.iter().enumerate().map(tensor).collect();
    tensors.iter_mut().zip(buffers).for_each(|(tensor, buffer)| tensor.pieces.push(buffer));
    let saved = store.save(manifest, &tensors)?;
    drop(store);
    std::fs::remove_dir_all(folder)?;
    Ok((Duration::from_secs_f64(saved.write_seconds), Duration::from_secs_f64(saved.verify_seconds)))
}

/// How much longer a step takes that begins a checkpoint, than those before it which take a snapshot as it does: the median.
fn step_wait(steps: &[(Duration, bool)]) -> Duration {
    let begun = (APART / 2..steps.len()).filter(|&index| steps[index].1);
    let wait = |index: usize| {
        let usual = (1..=3).map(|number| steps[index - 2 * number].0).collect();
        steps[index].0.saturating_sub(median(usual))
    };
    median(begun.map(wait).collect())
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

fn ms(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e4).round() / 10.0
}

fn ratio(of: Duration, to: Duration) -> f64 {
    (of.as_secs_f64() / to.as_secs_f64() * 1000.0).round() / 1000.0
}
