//! Checks the disk in a directory that no process uses: everything that opening checks, and every block of every version.
//!
//! Nothing in the directory changes: the files are opened for reading only, the record store, which writes when it opens, is
//! opened as a copy (`meta_store::fjall`), and the log is replayed in memory. What the check finds is listed whole, while
//! opening stops at the first pages.
//!
//! A repair never makes up content. What it can do is finish what an interrupted process left (the replay, files nobody
//! refers to), and, only when asked for in so many words, drop versions that cannot be read any more: then a resync brings
//! them back, if another replica has them. See `repair`.

mod repair;
mod report;
mod verify;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use common::{
    buf::BufPool,
    data_dir::{DataDir, DataDirError},
    env::Env,
};

pub use self::report::{DiskProblem, DiskReport, ProblemKind};
use crate::{
    chunk_meta::{ChunkKey, Record},
    config::{DeviceKind, EngineConfig},
    device::{Device, direct::DirectDevice, files::Files},
    engine::{FORMAT_VERSION, ROLE},
    error::OpenError,
    group::{GroupId, SLOTS_PER_GROUP},
    meta_store::{MetaStore, fjall::FjallStore},
    open::{self, Read},
    recovery::Contradiction,
};

/// What a check may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repair {
    /// Nothing.
    No,
    /// What loses nothing.
    Safe,
    /// Besides, versions of chunks that cannot be read are dropped.
    DropDamaged,
}

/// How far a check is; and asks it to stop.
#[derive(Debug, Default)]
pub struct CheckProgress {
    done_bytes: AtomicU64,
    total_bytes: AtomicU64,
    stopped: AtomicBool,
}

impl CheckProgress {
    /// Bytes that were verified, and how many there are; 0 until that is known.
    pub fn bytes(&self) -> (u64, u64) {
        let load = |bytes: &AtomicU64| bytes.load(Ordering::Relaxed);
        (load(&self.done_bytes), load(&self.total_bytes))
    }

    /// Asks the check to end soon. A repair that has begun ends between two chunks.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }
}

/// Why a disk could not be checked.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The directory is in use, of another version, or no disk.
    #[error(transparent)]
    Directory(#[from] DataDirError),
    /// The files could not be looked at, or the repair could not be made.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// It was asked to stop.
    #[error("stopped before the end; nothing was changed")]
    Stopped,
}

/// Checks the disk in `dir`, and repairs it as far as `repair` allows.
///
/// # Errors
/// See `CheckError`. What is wrong with the disk is no error but part of the report.
pub async fn check_disk(
    env: &Env,
    dir: &Path,
    repair: Repair,
    progress: &Arc<CheckProgress>,
) -> Result<DiskReport, CheckError> {
    // Held to the end, so that nobody changes between check and repair what the repair relies on.
    let data_dir = {
        let dir = dir.to_owned();
        env.blocking(move || lock(&dir, repair)).await?
    };
    let config = EngineConfig {
        device: DeviceKind::Direct,
        ..EngineConfig::default()
    };
    let files = {
        let dir = dir.to_owned();
        let opened = env.blocking(move || Files::open_to_read(&dir)).await;
        opened.map_err(|source| OpenError::Io {
            action: "open the files of the disk in",
            path: data_dir.path().to_owned(),
            source,
        })?
    };
    let device = Arc::new(DirectDevice::new(env, Arc::new(files), config.queue_depth));
    let mut report = match FjallStore::open_copy(env, dir, config.cache_bytes).await {
        Ok(store) => {
            let disk: (Arc<dyn Device>, Arc<dyn MetaStore>) = (device, Arc::new(store));
            let report = check_on(env, disk.clone(), &config, progress).await;
            disk.1.close().await;
            report?
        }
        Err(error) => DiskReport::unreadable(&error.to_string()),
    };
    if repair != Repair::No {
        repair::repair(env, data_dir, &config, (repair, progress), &mut report).await?;
    }
    Ok(report)
}

/// Locks the directory. For a repair as its owner does, which writes down who that is; blocks.
fn lock(dir: &Path, repair: Repair) -> Result<DataDir, DataDirError> {
    let looked_at = DataDir::open_existing(dir, ROLE, FORMAT_VERSION)?;
    if repair == Repair::No {
        return Ok(looked_at);
    }
    drop(looked_at);
    DataDir::open(dir, ROLE, FORMAT_VERSION)
}

/// Checks the disk that device and store make up. Writes to neither.
///
/// # Errors
/// See `CheckError`.
pub async fn check_on(
    env: &Env,
    (device, store): (Arc<dyn Device>, Arc<dyn MetaStore>),
    config: &EngineConfig,
    progress: &Arc<CheckProgress>,
) -> Result<DiskReport, CheckError> {
    let buffers = BufPool::new(BUFFER_BYTES);
    let start = {
        let store = store.clone();
        env.blocking(move || open::read_start(&*store)).await
    };
    let start = match start {
        Ok(Some(start)) => start,
        Ok(None) => return new_disk(&device).await,
        Err(OpenError::Inconsistent { problems, .. }) => {
            return Ok(DiskReport::unusable(ProblemKind::Records, problems));
        }
        Err(OpenError::Records(error)) => return Ok(DiskReport::unreadable(&error.to_string())),
        Err(error) => return Err(error.into()),
    };
    let disk = (device, store.clone());
    let read = match open::read(env, disk, config, (&buffers, &Arc::default()), start).await {
        Ok(read) => read,
        // The replay found a hole. What comes behind is unknown, so records and files cannot be compared.
        Err(OpenError::Inconsistent { problems, .. }) => {
            return Ok(DiskReport::unusable(ProblemKind::Log, problems));
        }
        Err(OpenError::Records(error)) => return Ok(DiskReport::unreadable(&error.to_string())),
        Err(error) => return Err(error.into()),
    };
    let mut report = count(&read);
    let problems = read.problems.list().iter().map(contradiction);
    report.problems.extend(problems);
    let chunks: Vec<(ChunkKey, Record)> = read
        .rebuilt
        .state
        .chunks()
        .map(|(key, record)| (key, record.clone()))
        .collect();
    let parts = verify::Parts {
        env: env.clone(),
        device: read.slots.device().clone(),
        store,
        buffers,
        progress: progress.clone(),
    };
    let verified = verify::verify(&parts, chunks).await?;
    report.verified_bytes = verified.bytes;
    report.problems.extend(verified.problems);
    Ok(report)
}

/// Memory kept for the next read.
const BUFFER_BYTES: usize = 16 << 20;

/// A process that was killed at its first start leaves this: there is nothing yet, and so nothing wrong.
async fn new_disk(device: &Arc<dyn Device>) -> Result<DiskReport, CheckError> {
    let files = device.list().await;
    let files = files.map_err(|source| OpenError::Device {
        action: "list the files",
        source,
    })?;
    let groups = open::Listed::of(&files).groups.len() as u64;
    if groups > 0 {
        let problem = format!("there are {groups} groups of slots, and no record of them");
        return Ok(DiskReport::unusable(ProblemKind::Records, vec![problem]));
    }
    Ok(DiskReport::default())
}

fn count(read: &Read) -> DiskReport {
    let state = &read.rebuilt.state;
    let mut used_groups: BTreeSet<GroupId> = BTreeSet::new();
    let mut report = DiskReport {
        targets: state.targets.len() as u64,
        groups: read.groups.len() as u64,
        log_files: read.log_files.len() as u64,
        log_segments: read.log_segments as u64,
        log_entries: read.log_entries as u64,
        ..DiskReport::default()
    };
    for (_, record) in state.chunks() {
        report.chunks += 1;
        let committed = record.committed.as_ref();
        report.bytes += committed.map_or(0, |version| u64::from(version.head.length));
        report.pending += u64::from(record.pending.is_some());
        for slot in record.slots() {
            report.slots += 1;
            used_groups.insert(slot.position().group);
        }
    }
    report.unused_groups = report.groups.saturating_sub(used_groups.len() as u64);
    let slots = report.groups * u64::from(SLOTS_PER_GROUP);
    report.free_slots = slots.saturating_sub(report.slots);
    report
}

fn contradiction(found: &Contradiction) -> DiskProblem {
    let kind = match found.key {
        Some(_) => ProblemKind::Record,
        None => ProblemKind::Records,
    };
    DiskProblem::new(kind, found.key, found.text.clone())
}

/// Chunks that have problems, with whether committed or pending versions have them.
fn damaged(report: &DiskReport) -> BTreeMap<ChunkKey, (bool, bool)> {
    let mut damaged: BTreeMap<ChunkKey, (bool, bool)> = BTreeMap::new();
    for problem in &report.problems {
        if let Some(key) = problem.key() {
            let (committed, pending) = damaged.entry(key).or_default();
            *(if problem.pending { pending } else { committed }) = true;
        }
    }
    damaged
}
