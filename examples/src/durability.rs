//! Flags of runs that outlive their process.

use std::path::PathBuf;
use std::process::ExitCode;

use everstep::fault::{Checkpointing, Shutdown, Supervision};
use everstep::prelude::*;

/// What a command line can ask for about crashes.
#[derive(Clone, clap::Args)]
pub struct Durability {
    /// Folder for checkpoints: the same command goes on with the newest.
    #[arg(long, value_name = "DIR")]
    checkpoint: Option<PathBuf>,
    /// Starts the program again when it crashes or hangs; with --checkpoint it goes on where it was.
    #[arg(long)]
    supervise: bool,
}

impl Durability {
    /// A guard that saves checkpoints, has gone on with the newest, and ends on SIGTERM or Ctrl-C with a last one; the same
    /// guard where there is no folder.
    ///
    /// # Errors
    /// Those of [`Guard::with_checkpoints`].
    pub fn guard(&self, guard: Guard, batches: &mut Loader) -> everstep::Result<Guard> {
        let Some(folder) = &self.checkpoint else { return Ok(guard) };
        let guard = guard.with_checkpoints_in(folder, Checkpointing::default(), batches)?;
        Ok(guard.stop_on(Shutdown::on_signals()?))
    }

    /// Runs the program, in a process of its own where it is supervised.
    pub fn run(&self, program: impl FnOnce() -> everstep::Result<()>) -> ExitCode {
        if self.supervise { everstep::supervise(&Supervision::default(), program) } else { everstep::run(program) }
    }
}
