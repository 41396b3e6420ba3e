//! The `everstep` command: looks after the checkpoints of Everstep's runs.
//!
//! ```text
//! everstep checkpoint list DIR                   # the generations that there are, newest first
//! everstep checkpoint verify DIR                 # every byte of every generation; exit code 1 where one is damaged
//! everstep checkpoint show DIR --generation 12   # what the run had come to, and the tensors
//! ```
//!
//! It looks, and changes nothing, so that it may run beside the training. Exit codes: 0, 1 where something is damaged or
//! missing, 2 for a command that it does not understand.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command talks to its user")]

mod checkpoint;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Looks after the checkpoints of Everstep's runs.
#[derive(Parser)]
#[command(name = "everstep", version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Looks at the checkpoints of a run.
    Checkpoint(checkpoint::Args),
}

fn main() -> ExitCode {
    let Args { command: Command::Checkpoint(args) } = Args::parse();
    match checkpoint::run(&args) {
        Ok(answer) => {
            print!("{}", answer.text);
            if answer.is_sound { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("everstep: {error}");
            ExitCode::FAILURE
        }
    }
}
