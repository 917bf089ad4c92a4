//! How fast one disk is under the engine, beside what fio gets from the same disk: `cargo bench -p penstock-engine`.
//!
//! Machines are noisy, so both take turns in several rounds, and what counts is the median of the ratios.
//! Invariants: fio runs only while no engine is open, so background work of one never slows the other. A figure
//! never fails the run; it stands beside its goal. All files are in one directory, which goes at the end, also
//! after an error or a signal.
#![warn(clippy::cast_possible_truncation, clippy::cast_sign_loss)]

mod child;
mod fio;
mod load;
mod options;
mod process;
mod records;
mod speed;
mod table;

use std::{
    error::Error,
    fs, io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use common::{buf::BufPool, env::Env};
use tokio::{
    runtime::Runtime,
    signal::unix::{SignalKind, signal},
};

use self::{
    fio::Fio,
    load::Payloads,
    options::{Invocation, Options, Section},
    table::Row,
};

/// What went wrong, for the person who called.
pub(crate) type Failure = Box<dyn Error + Send + Sync>;

/// The bytes of a chunk, and of the large requests.
pub(crate) const CHUNK_BYTES: u32 = 1 << 20;
/// The bytes of the small requests.
pub(crate) const SMALL_BYTES: u32 = 4096;

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

/// Removes a directory if it is still empty and was made by this run.
struct MadeDir(Option<PathBuf>);

impl MadeDir {
    fn new(dir: &Path) -> io::Result<Self> {
        let made = !dir.exists();
        fs::create_dir_all(dir)?;
        Ok(Self(made.then(|| dir.to_owned())))
    }
}

impl Drop for MadeDir {
    fn drop(&mut self) {
        if let Some(dir) = &self.0 {
            // Somebody else may have put something there meanwhile.
            drop(fs::remove_dir(dir));
        }
    }
}

async fn interrupted() -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        result = tokio::signal::ctrl_c() => result,
        _ = terminate.recv() => Ok(()),
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
    let _made = MadeDir::new(&options.dir)?;
    let dir = tempfile::Builder::new()
        .prefix("run-")
        .tempdir_in(&options.dir)?;
    process::check_space(dir.path(), options.space_needed())?;
    let runtime = runtime()?;
    let outcome = runtime.block_on(async {
        let bench = Bench::new(options, dir.path());
        let rows = tokio::select! {
            rows = bench.measure() => rows?,
            signal = interrupted() => {
                signal?;
                return Err("interrupted".into());
            }
        };
        table::print(&bench.options, &version, &rows)?;
        Ok(())
    });
    // First everything that uses the files, then the files.
    drop(runtime);
    dir.close()?;
    outcome
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
