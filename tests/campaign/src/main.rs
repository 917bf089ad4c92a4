//! A fault campaign with real processes: kills, hangs, partitions, full disks, while clients work; nothing may be lost, nothing
//! wrong, and nobody may wait for longer than 5 s.
//!
//! Order of reading: `isolation` (a world of its own), `host`, `network`, `disk`, `service`, `cluster` (what is tested), `scene`,
//! `trouble` (what breaks), `clients`, `files` (who works), `ground`, `stalls`, `replicas` (who judges), `run`.
//! Histories and their judges are those of the simulation (`tests/sim`).
#![allow(
    clippy::print_stdout,
    reason = "a program for people: what it found is its output"
)]

mod clients;
mod cluster;
mod disk;
mod files;
mod ground;
mod host;
mod isolation;
mod network;
mod options;
mod replicas;
mod report;
mod run;
mod scene;
mod service;
mod stalls;
mod trouble;

use std::{env, fs, path::Path, process::ExitCode};

use common::{env::Env, shutdown};

use crate::options::Options;

/// It cannot run on this system.
const CANNOT: u8 = 3;

fn main() -> ExitCode {
    let mut arguments = env::args().skip(1);
    if env::args().nth(1).as_deref() == Some(files::USE) {
        return end(
            files::use_files(Path::new(&arguments.nth(1).unwrap_or_default()))
                .map_err(|error| error.to_string()),
        );
    }
    let mut options = match options::parse(arguments) {
        Ok(Some(options)) => options,
        Ok(None) => {
            print!("{}", options::HELP);
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("penstock-campaign: {error}");
            return ExitCode::from(2);
        }
    };
    if !isolation::is_isolated() {
        if let Some(obstacle) = isolation::obstacle() {
            eprintln!("penstock-campaign: it cannot run here: {obstacle}");
            return ExitCode::from(CANNOT);
        }
        return end(Err(isolation::enter()));
    }
    match prepare(&mut options) {
        Ok(()) => work(&options),
        Err(error) => end(Err(error)),
    }
}

fn end(result: Result<(), String>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("penstock-campaign: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The directory must be new or empty: an old one may hold somebody's data.
fn prepare(options: &mut Options) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("{}: {error}", options.dir.display());
    fs::create_dir_all(&options.dir).map_err(failed)?;
    let empty = fs::read_dir(&options.dir).map_err(failed)?.next().is_none();
    if !empty {
        return Err(format!(
            "{} is not empty; name another directory",
            options.dir.display()
        ));
    }
    options.dir = fs::canonicalize(&options.dir).map_err(failed)?;
    Ok(())
}

fn work(options: &Options) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return end(Err(format!("no runtime: {error}"))),
    };
    let env = Env::real();
    let seed = options.seed.unwrap_or_else(|| env.random_below(1_000_000));
    let result = runtime.block_on(async {
        tokio::select! {
            report = run::run(&env, options, seed) => report.map(Some),
            told = shutdown::termination() => told.map(|()| None).map_err(|error| error.to_string()),
        }
    });
    // Threads that still wait for something end with the process.
    runtime.shutdown_background();
    let logs = options.dir.join("logs");
    match result {
        Ok(Some(report)) => {
            println!("{report}");
            if report.is_good() {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
        Ok(None) => end(Err(format!(
            "broken off; the logs are in {}",
            logs.display()
        ))),
        Err(error) => end(Err(format!(
            "{error}\nseed {seed}; the logs are in {}",
            logs.display()
        ))),
    }
}
