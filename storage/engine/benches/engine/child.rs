//! Processes of the benchmark's own: one that fills a disk and ends without closing it, as in a crash, and one that
//! opens it with memory that nothing has touched before.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use common::{buf::BufPool, env::Env};
use engine::{ChunkKey, Engine, EngineConfig, SizeClass};
use measure::{
    Failure, SMALL_BYTES,
    load::{Payloads, Work, drive},
    process,
};
use rustix::{
    fs::{FallocateFlags, fallocate, statvfs},
    io::Errno,
};
use serde_json::{Value, json};

use super::{
    POOL_BYTES,
    load::{self, Creator},
};

/// Says that what follows is for such a process.
pub(crate) const FLAG: &str = "--child";

/// As many chunks are written at a time: their records share the waiting for the disk.
const DEPTH: u32 = 256;
/// The bytes of a small slot that stay: more than its content takes.
const KEPT_BYTES: u64 = 8192;
/// Where space cannot be given back, chunks take at most this part of it: other work goes on, on the same disk.
const SPACE_PARTS: u64 = 2;
/// Slots are far larger than what is in them, so they may add up to more than the disk.
const CAPACITY_BYTES: u64 = 1 << 50;

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    Build {
        disk: PathBuf,
        chunks: u32,
        length: u32,
    },
    Open {
        disk: PathBuf,
    },
}

impl Task {
    pub(crate) fn arguments(&self) -> Vec<String> {
        let name = |disk: &PathBuf| disk.display().to_string();
        match self {
            Task::Build {
                disk,
                chunks,
                length,
            } => vec![name(disk), chunks.to_string(), length.to_string()],
            Task::Open { disk } => vec![name(disk)],
        }
    }

    pub(crate) fn parse(arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let arguments: Vec<String> = arguments.collect();
        let number = |text: &String| text.parse::<u32>().map_err(|error| error.to_string());
        match arguments.as_slice() {
            [disk] => Ok(Task::Open { disk: disk.into() }),
            [disk, chunks, length] => Ok(Task::Build {
                disk: disk.into(),
                chunks: number(chunks)?,
                length: number(length)?,
            }),
            _ => Err(format!("{FLAG} is for the benchmark itself")),
        }
    }
}

/// Does it, and prints one JSON object.
#[allow(clippy::print_stdout, reason = "its caller reads it")]
pub(crate) fn run(task: Task) -> Result<(), Failure> {
    let env = Env::real();
    let crash = matches!(task, Task::Build { .. });
    let runtime = super::runtime()?;
    let report = runtime.block_on(async {
        match task {
            Task::Build {
                disk,
                chunks,
                length,
            } => build(&env, disk, chunks, length).await,
            Task::Open { disk } => open(&env, disk).await,
        }
    })?;
    println!("{report}");
    if crash {
        // Nothing is closed, nothing is dropped.
        std::process::exit(0);
    }
    Ok(())
}

fn config() -> EngineConfig {
    EngineConfig {
        capacity_bytes: CAPACITY_BYTES,
        ..EngineConfig::default()
    }
}

async fn build(env: &Env, disk: PathBuf, chunks: u32, length: u32) -> Result<Value, Failure> {
    let pool = BufPool::new(POOL_BYTES);
    let payloads = Payloads::new(env, &pool);
    let engine = load::open(env, &pool, &disk, config()).await?;
    let sparse = length == SMALL_BYTES && can_punch(&disk)?;
    let chunks = if sparse || length != SMALL_BYTES {
        chunks
    } else {
        let status = statvfs(&disk)?;
        let slot_bytes = SizeClass::holding(length).map_or(1, SizeClass::slot_bytes);
        let space = status.f_bavail.saturating_mul(status.f_frsize) / SPACE_PARTS;
        chunks.min(u32::try_from(space / u64::from(slot_bytes))?)
    };
    let team = Creator::team(env, &engine, &payloads, (chunks, length), DEPTH);
    let team = team.into_iter().map(|creator| Builder {
        creator,
        disk: sparse.then(|| disk.clone()),
    });
    let done = drive(env, team, Duration::from_secs(24 * 3600)).await?;
    Ok(json!({ "chunks": chunks, "per_second": done.per_second() }))
}

async fn open(env: &Env, disk: PathBuf) -> Result<Value, Failure> {
    let pool = BufPool::new(POOL_BYTES);
    let before = process::resident_bytes(std::process::id())?;
    let start = env.now();
    let engine = Engine::open(env, &disk, config(), pool).await?;
    let seconds = (env.now() - start).as_secs_f64();
    let grown = process::resident_bytes(std::process::id())?.saturating_sub(before);
    engine.close().await;
    Ok(json!({ "seconds": seconds, "grown_bytes": grown }))
}

/// Creates chunks, and gives back what their slots take beyond their content: a record costs the same, and a
/// million fits on a disk of usual size.
struct Builder {
    creator: Creator,
    /// Where to give space back.
    disk: Option<PathBuf>,
}

impl Work for Builder {
    async fn step(&mut self) -> Result<bool, Failure> {
        let Some(key) = self.creator.create().await? else {
            return Ok(false);
        };
        if let Some(disk) = &self.disk {
            punch(&self.creator.engine, key, disk)?;
        }
        Ok(true)
    }
}

/// `docs/format/disk.md` says where slots are. Nothing is ever written behind the content of these.
fn punch(engine: &Engine, key: ChunkKey, disk: &Path) -> io::Result<()> {
    for position in engine.positions(key) {
        let file = disk.join("groups").join(format!("{}.dat", position.group));
        let file = File::options().write(true).open(file)?;
        let from = position.offset() + KEPT_BYTES;
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(&file, flags, from, position.end() - from)?;
    }
    Ok(())
}

/// Whether the file system can give back a part of a file.
fn can_punch(disk: &Path) -> io::Result<bool> {
    let file = tempfile::tempfile_in(disk)?;
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    match fallocate(&file, flags, 0, KEPT_BYTES) {
        Ok(()) => Ok(true),
        Err(Errno::OPNOTSUPP) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
