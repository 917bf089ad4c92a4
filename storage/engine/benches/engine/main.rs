//! How fast one disk is under the engine, beside what fio gets from the same disk: `cargo bench -p penstock-engine`.
//!
//! Machines are noisy, so both take turns in several rounds, and what counts is the median of the ratios.
//! Invariants: fio runs only while no engine is open, so background work of one never slows the other. A figure
//! never fails the run; it stands beside its goal. All files are in one directory, which goes at the end, also
//! after an error or a signal.
#![warn(clippy::cast_possible_truncation, clippy::cast_sign_loss)]

mod child;
mod load;
mod options;
mod records;
mod speed;

use std::{
    io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use common::{buf::BufPool, env::Env, shutdown::termination};
use measure::{
    Failure,
    fio::{self, Fio},
    load::Payloads,
    process,
    scratch::Scratch,
    table::{self, Row},
};
use serde_json::json;
use tokio::runtime::Runtime;

use self::options::{Invocation, Options, Section};

/// As a server has it.
const WORKER_THREADS: usize = 2;
/// Unused buffers kept: more than what is under way in any measurement.
const POOL_BYTES: usize = 64 << 20;

/// What all measurements use.
pub(crate) struct Bench {
    pub(crate) env: Env,
    pub(crate) options: Options,
    /// Holds everything this run writes.
    pub(crate) dir: PathBuf,
    pub(crate) pool: BufPool,
    pub(crate) payloads: Payloads,
    pub(crate) fio: Fio,
}

impl Bench {
    fn new(options: Options, dir: &Path) -> Self {
        let env = Env::real();
        let pool = BufPool::new(POOL_BYTES);
        let payloads = Payloads::new(&env, &pool);
        let fio = Fio::new(dir.join("fio"), options.size, options.seconds);
        Self {
            env,
            options,
            dir: dir.to_owned(),
            pool,
            payloads,
            fio,
        }
    }

    /// Says what is going on; the table goes to standard output, alone.
    pub(crate) fn progress(&self, text: &str) {
        eprintln!("{text}");
    }

    async fn measure(&self) -> Result<Vec<Row>, Failure> {
        let mut rows = Vec::new();
        let wants = |section| self.options.wants(section);
        if wants(Section::Reads) || wants(Section::Writes) || wants(Section::Overwrites) {
            self.progress("preparing the file of fio");
            self.fio.lay_out().await?;
        }
        if wants(Section::Writes) {
            rows.extend(speed::new_chunks(self).await?);
        }
        if wants(Section::Reads) || wants(Section::Writes) || wants(Section::Overwrites) {
            self.progress("preparing the chunks");
            speed::fill(self).await?;
        }
        if wants(Section::Reads) {
            rows.extend(speed::reads(self).await?);
        }
        if wants(Section::Writes) {
            rows.extend(speed::replacements(self).await?);
        }
        if wants(Section::Overwrites) {
            rows.extend(speed::overwrites(self).await?);
        }
        if wants(Section::Records) {
            // They need the space.
            speed::clear(self).await?;
            rows.extend(records::measure(self).await?);
        }
        Ok(rows)
    }
}

fn runtime() -> io::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKER_THREADS)
        .enable_all()
        .build()
}

fn run(options: Options) -> Result<(), Failure> {
    let version = fio::version()?;
    let scratch = Scratch::new(&Env::real(), &options.dir)?;
    process::check_space(scratch.path(), options.space_needed())?;
    let runtime = runtime()?;
    let outcome = runtime.block_on(async {
        let bench = Bench::new(options, scratch.path());
        let rows = tokio::select! {
            rows = bench.measure() => rows?,
            signal = termination() => {
                signal?;
                return Err("interrupted".into());
            }
        };
        print(&bench.options, &version, &rows)
    });
    // First everything that uses the files, then the files.
    drop(runtime);
    scratch.close()?;
    outcome
}

#[allow(clippy::print_stdout, reason = "the result of the program")]
fn print(options: &Options, fio: &str, rows: &[Row]) -> Result<(), Failure> {
    if options.json {
        let object = json!({
            "fio": fio,
            "size_bytes": options.size,
            "seconds": options.seconds,
            "rounds": options.rounds,
            "chunks": options.chunks,
            "figures": table::json("engine", rows),
        });
        println!("{}", serde_json::to_string_pretty(&object)?);
        return Ok(());
    }
    println!("{}", table::text("engine", rows));
    println!(
        "raw is {fio} with io_uring and O_DIRECT on a file of {} MiB; {} rounds of {} s each, in turns.",
        options.size >> 20,
        options.rounds,
        options.seconds
    );
    println!("A ratio is the median of the rounds' ratios, spread their least and greatest.");
    Ok(())
}

fn main() -> ExitCode {
    let outcome = match options::parse(std::env::args().skip(1)) {
        Ok(Invocation::Help) => {
            options::print_help();
            Ok(())
        }
        Ok(Invocation::Child(task)) => child::run(task),
        Ok(Invocation::Measure(options)) => run(options),
        Err(error) => Err(error.into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("engine benchmark: {error}");
            ExitCode::FAILURE
        }
    }
}
