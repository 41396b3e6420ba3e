//! A training process that is killed at random moments, until it is done all the same.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use everstep_fault::checkpoint::{LocalStorage, Store};
use everstep_fault::{Error, Event, Result};
use everstep_tensor::Generator;
use serde::Serialize;

use crate::aborting::AbortingStorage;
use crate::net::{Saves, train};

/// Steps of a run.
const STEPS: u64 = 1000;
/// The longest life of a process that is killed, as a part of a whole run.
const LONGEST_LIFE: f64 = 0.3;
/// The furthest operation of its storage at which a process dies.
const FURTHEST_OPERATION: f64 = 150.0;
/// What a process that trains is told by: its folder, and the operation of its storage at which it dies.
const FOLDER: &str = "EVERSTEP_CRASH_STORM_FOLDER";
const ABORT_AT: &str = "EVERSTEP_CRASH_STORM_ABORT_AT";
/// What its last line begins with.
const MARK: &str = "ended:";
/// Starts after which a run that is not done is lost.
const MOST_STARTS: u64 = 3000;

/// What came of a storm.
#[derive(Default, Serialize)]
pub(crate) struct Storm {
    kills: u64,
    /// Those that left a file half written.
    inside_saves: u64,
    /// Those at an operation of the storage.
    at_operations: u64,
    /// Runs that were done.
    runs: u64,
    /// Times that a process went on with a checkpoint.
    resumed: u64,
    /// Generations that were found damaged: a crash damages none.
    damaged: u64,
    lost_runs: u64,
    differing_hashes: u64,
    failures: Vec<String>,
    #[serde(skip)]
    arguments: Vec<String>,
    #[serde(skip)]
    longest_life: Duration,
}

impl Storm {
    pub(crate) fn is_right(&self) -> bool {
        let survived =
            self.lost_runs == 0 && self.differing_hashes == 0 && self.damaged == 0 && self.failures.is_empty();
        // That it has tried something.
        survived && self.runs > 0 && self.resumed > 0 && (self.kills < 100 || self.inside_saves > 0)
    }
}

/// In a process that a storm has started: trains, and says how that ended. `None` in any other.
///
/// # Errors
/// Those of training.
pub(crate) fn child() -> Result<Option<String>> {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else { return Ok(None) };
    let abort_at = std::env::var(ABORT_AT).ok().and_then(|number| number.parse().ok());
    let storage = LocalStorage::new(&folder).map_err(|error| file(&folder, &error))?;
    let ended = train(AbortingStorage::new(storage, abort_at), STEPS, Saves::Often)?;
    let count = |wanted: fn(&Event) -> bool| ended.events.iter().filter(|event| wanted(event)).count();
    let resumed = count(|event| matches!(event, Event::Resumed { .. }));
    let damaged = count(|event| matches!(event, Event::GenerationDamaged { .. }));
    Ok(Some(format!("{MARK} {} {resumed} {damaged}", ended.hash)))
}

fn file(path: &Path, error: &std::io::Error) -> Error {
    Error::File { path: path.into(), problem: error.to_string() }
}

/// Kills so many processes, each this program with `arguments`, which lead to [`child`].
///
/// # Errors
/// Those of starting them.
pub(crate) fn storm(kills: u64, seed: u64, arguments: &[&str]) -> Result<Storm> {
    let folder = std::env::temp_dir().join(format!("everstep-crash-storm-{}", std::process::id()));
    let mut generator = Generator::new(seed);
    let mut storm = Storm { arguments: arguments.iter().map(ToString::to_string).collect(), ..Storm::default() };
    let start = Instant::now();
    let undisturbed = storm.life(&folder.join("undisturbed"), None, None)?;
    storm.longest_life = start.elapsed().mul_f64(LONGEST_LIFE);
    let Life::Done { hash, .. } = undisturbed else {
        storm.failures.push(format!("the undisturbed run: {undisturbed:?}"));
        return Ok(storm);
    };
    while storm.kills < kills && storm.failures.len() < 10 {
        run(&folder.join(format!("run-{}", storm.runs)), kills, &hash, &mut generator, &mut storm)?;
    }
    // What is left of a storm that went well is of no use.
    if storm.is_right() {
        let _ = std::fs::remove_dir_all(&folder);
    }
    Ok(storm)
}

/// One run, killed until it is done.
fn run(folder: &Path, kills: u64, hash: &str, generator: &mut Generator, storm: &mut Storm) -> Result<()> {
    for start in 0..MOST_STARTS {
        let spare = storm.kills >= kills;
        let at_operation = generator.uniform() < 0.3;
        let moment = generator.uniform();
        let abort_at = (!spare && at_operation).then_some(1 + (f64::from(moment) * FURTHEST_OPERATION) as u64);
        let kill_after = (!spare && !at_operation).then(|| storm.longest_life.mul_f64(moment.into()));
        match storm.life(folder, kill_after, abort_at)? {
            Life::Killed => {
                storm.kills += 1;
                storm.at_operations += u64::from(at_operation);
                storm.inside_saves += u64::from(has_partial(folder));
            }
            Life::Done { hash: found, resumed, damaged } => {
                storm.runs += 1;
                storm.resumed += resumed;
                storm.damaged += damaged;
                if found != hash {
                    storm.differing_hashes += 1;
                    storm.failures.push(format!("{}: {found} instead of {hash}", folder.display()));
                }
                check_store(folder, storm)?;
                return Ok(());
            }
            Life::Failed { output } => {
                storm.lost_runs += 1;
                storm.failures.push(format!("start {start} in {}: {output}", folder.display()));
                return Ok(());
            }
        }
    }
    storm.lost_runs += 1;
    storm.failures.push(format!("{}: not done after {MOST_STARTS} starts", folder.display()));
    Ok(())
}

/// Every generation of a run that is done is whole, and nothing half-written is left.
fn check_store(folder: &Path, storm: &mut Storm) -> Result<()> {
    let store = Store::read_only(std::sync::Arc::new(LocalStorage::existing(folder)));
    for listed in store.list()? {
        if let Err(error) = store.verify(listed.generation) {
            storm.failures.push(format!("{}: generation {}: {error}", folder.display(), listed.generation));
        }
    }
    if has_partial(folder) {
        storm.failures.push(format!("{}: a file half written is left", folder.display()));
    }
    Ok(())
}

fn has_partial(folder: &Path) -> bool {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    files.into_iter().any(|file| file.file_name().to_string_lossy().ends_with(".partial"))
}

/// How a process ended.
#[derive(Debug)]
enum Life {
    Done { hash: String, resumed: u64, damaged: u64 },
    Killed,
    Failed { output: String },
}

impl Storm {
    /// Starts a process, and kills it after a while where that is wanted.
    fn life(&self, folder: &Path, kill_after: Option<Duration>, abort_at: Option<u64>) -> Result<Life> {
        let program = std::env::current_exe().map_err(|error| file(folder, &error))?;
        let mut command = Command::new(&program);
        command.args(&self.arguments).env(FOLDER, folder).stdout(Stdio::piped()).stderr(Stdio::piped());
        if let Some(operation) = abort_at {
            command.env(ABORT_AT, operation.to_string());
        }
        let mut process = command.spawn().map_err(|error| file(&program, &error))?;
        if let Some(after) = kill_after {
            std::thread::sleep(after);
            // It may have ended by itself.
            let _ = process.kill();
        }
        let output = process.wait_with_output().map_err(|error| file(&program, &error))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let line = text.lines().find_map(|line| line.split_once(MARK)).map(|(_, words)| words);
        let words: Vec<_> = line.unwrap_or_default().split_whitespace().collect();
        Ok(match (output.status.code(), &words[..]) {
            (Some(0), [hash, resumed, damaged]) => Life::Done {
                hash: (*hash).to_owned(),
                resumed: resumed.parse().unwrap_or_default(),
                damaged: damaged.parse().unwrap_or(1),
            },
            // A signal: our kill, or its own abort.
            (None, _) => Life::Killed,
            (code, _) => {
                Life::Failed { output: format!("{code:?}: {text}{}", String::from_utf8_lossy(&output.stderr)) }
            }
        })
    }
}
