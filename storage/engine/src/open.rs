//! Opens a disk: device and record store are there; log and records are brought together.
//!
//! 1. The record store says where the log begins to be news. A disk without that is a new one.
//! 2. The log is read from there (`log::replay`), and its entries applied (`recovery`).
//! 3. Slots are taken, what nobody refers to is free.
//! 4. What was read of the log is made durable: the process before may have been killed before it could.
//! 5. What the log had to say goes into the store, so that the next opening need not read it again.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::Arc,
};

use common::{buf::BufPool, env::Env};
use futures::future::try_join_all;
use tokio::sync::Notify;

use crate::{
    checkpoint::Checkpointer,
    chunk_meta::{CHUNK_PREFIX, RecordKey, TARGET_PREFIX, decode_log_start, encode_log_start},
    committer::Value,
    config::EngineConfig,
    device::{Device, FileId, watched::WatchedDevice},
    engine::state::State,
    error::OpenError,
    group::GroupId,
    health::Health,
    log::{
        self, Log, LogStart, Segment,
        entry::{LogEntry, LogRef},
    },
    meta_store::MetaStore,
    recovery::{self, Problems, Rebuilt},
    slots::{Limits, SlotPool},
};

/// The reserve for records is at most this part of what the file system has: one in ten.
const RESERVE_PARTS: u64 = 10;

/// What is done about chunks whose records contradict something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contradictions {
    /// The disk is not opened (E6).
    Refuse,
    /// They are dropped: someone has asked for it.
    Drop,
}

/// A disk that is open.
pub(crate) struct Opened {
    pub(crate) health: Arc<Health>,
    pub(crate) log: Log,
    pub(crate) slots: SlotPool,
    pub(crate) state: State,
    pub(crate) checkpointer: Arc<Checkpointer>,
    pub(crate) reserve_bytes: u64,
}

/// The files of a disk, by kind, with the bytes they reach.
pub(crate) struct Listed {
    pub(crate) groups: Vec<(GroupId, u64)>,
    log: Vec<(u32, u64)>,
}

/// A disk as it was found. Nothing has been written so far.
pub(crate) struct Read {
    pub(crate) slots: SlotPool,
    limits: Limits,
    pub(crate) groups: Vec<(GroupId, u64)>,
    health: Arc<Health>,
    log: Log,
    pub(crate) log_files: Vec<u32>,
    /// Segments of the log that were read, and the entries that were news.
    pub(crate) log_segments: usize,
    pub(crate) log_entries: usize,
    pub(crate) rebuilt: Rebuilt,
    pub(crate) problems: Problems,
}

pub(crate) async fn open(
    env: &Env,
    (device, store): (Arc<dyn Device>, Arc<dyn MetaStore>),
    config: &EngineConfig,
    buffers: &BufPool,
    (wake, contradictions): (&Arc<Notify>, Contradictions),
) -> Result<Opened, OpenError> {
    let start = find_start(env, &store).await?;
    let disk = (device, store.clone());
    let read = read(env, disk, config, (buffers, wake), start).await?;
    let Read {
        slots,
        limits,
        health,
        log,
        rebuilt,
        mut problems,
        log_files,
        log_entries,
        ..
    } = read;
    let dropped = match contradictions {
        Contradictions::Refuse => BTreeSet::new(),
        Contradictions::Drop => problems.take_chunks(),
    };
    problems.into_result()?;
    if log_entries > 0 {
        sync_log(slots.device(), &log_files).await?;
    }
    log.prepare().await.map_err(failed("make the log"))?;
    slots.give_back_empty().await;
    let checkpointer = Checkpointer::new(env, store, health.clone(), config, wake.clone());
    let dropped = dropped.into_iter().map(RecordKey::Chunk);
    let changed: Vec<(RecordKey, Value)> = rebuilt
        .changed
        .iter()
        .copied()
        .chain(dropped)
        .map(|key| (key, value_of(&rebuilt.state, key)))
        .collect();
    // Also when there is no news: the segments that were read for it are free then.
    if !log_files.is_empty() {
        checkpointer.add_found(changed, log.end(), log.needed());
        let written = checkpointer.run(&log).await;
        written.map_err(|error| OpenError::Checkpoint {
            reason: error.to_string(),
        })?;
    }
    Ok(Opened {
        health,
        log,
        slots,
        state: rebuilt.state,
        checkpointer: Arc::new(checkpointer),
        reserve_bytes: limits.records_reserve,
    })
}

/// Reads a disk and brings log and records together in memory.
///
/// # Errors
/// When something cannot be read, or the log lacks a part that was acknowledged.
pub(crate) async fn read(
    env: &Env,
    (device, store): (Arc<dyn Device>, Arc<dyn MetaStore>),
    config: &EngineConfig,
    (buffers, wake): (&BufPool, &Arc<Notify>),
    start: LogStart,
) -> Result<Read, OpenError> {
    let device: Arc<dyn Device> = Arc::new(WatchedDevice::new(env, device, config.hang_limit()));
    let files = device.list().await.map_err(failed("list the files"))?;
    let Listed { groups, log: files } = Listed::of(&files);
    let log_files = files.iter().map(|&(file, _)| file).collect();
    let (log, entries, found) = read_log(&device, config, buffers, files, start).await?;
    let log_segments = found.range(start.segment..).count();
    let log_entries = entries.len();
    let health = Arc::new(Health::default());
    let available = device.available_bytes().await;
    let available = available.map_err(failed("ask for space"))?;
    let limits = limits(config, &groups, available, &log);
    let slots = SlotPool::new(
        device,
        health.clone(),
        limits.clone(),
        &groups,
        wake.clone(),
    );
    let (rebuilt, problems) = {
        let slots = slots.clone();
        env.blocking(move || {
            let replayed = recovery::apply(&*store, entries)?;
            recovery::rebuild(&*store, &slots, replayed, found)
        })
        .await?
    };
    Ok(Read {
        slots,
        limits,
        groups,
        health,
        log,
        log_files,
        log_segments,
        log_entries,
        rebuilt,
        problems,
    })
}

/// Makes what was read durable. A process that is killed leaves batches that can be read and that the next loss of power takes
/// away; nothing may be built on them before.
async fn sync_log(device: &Arc<dyn Device>, files: &[u32]) -> Result<(), OpenError> {
    let synced = files.iter().map(|&file| device.sync(FileId::Log(file)));
    let synced = try_join_all(synced).await;
    synced.map(drop).map_err(failed("make the log durable"))
}

type OpenedLog = (Log, Vec<(LogEntry, LogRef)>, BTreeMap<u64, Arc<Segment>>);

/// Reads the log. Also returns the entries that are news, and the segments that were found.
async fn read_log(
    device: &Arc<dyn Device>,
    config: &EngineConfig,
    buffers: &BufPool,
    files: Vec<(u32, u64)>,
    start: LogStart,
) -> Result<OpenedLog, OpenError> {
    let replay = log::replay::replay(device, buffers, &files, start).await?;
    let (log, found) = Log::new(log::Parts {
        device: device.clone(),
        buffers: buffers.clone(),
        log_bytes: config.log_bytes,
        files,
        start,
        segments: replay.segments,
        next_segment: replay.next_segment,
        next_batch: replay.next_batch,
    });
    Ok((log, replay.entries, found))
}

fn failed(action: &'static str) -> impl FnOnce(io::Error) -> OpenError {
    move |source| OpenError::Device { action, source }
}

impl Listed {
    pub(crate) fn of(files: &[(FileId, u64)]) -> Self {
        let mut listed = Self {
            groups: Vec::new(),
            log: Vec::new(),
        };
        for &(id, bytes) in files {
            match id {
                FileId::Group(group) => listed.groups.push((group, bytes)),
                FileId::Log(number) => listed.log.push((number, bytes)),
            }
        }
        listed
    }
}

/// Where the log begins to be news; a new disk gets its beginning.
async fn find_start(env: &Env, store: &Arc<dyn MetaStore>) -> Result<LogStart, OpenError> {
    let found = {
        let store = store.clone();
        env.blocking(move || read_start(&*store)).await?
    };
    if let Some(start) = found {
        return Ok(start);
    }
    let start = LogStart {
        // Zero would be what a new file of the log holds.
        disk: env.random_u64().max(1),
        segment: 1,
        batch: 1,
    };
    let change = (
        RecordKey::LogStart.to_bytes(),
        Some(encode_log_start(start)),
    );
    store.write(vec![change]).await?;
    Ok(start)
}

/// Where the log begins to be news; `None` for a new disk. Blocks.
///
/// # Errors
/// When the store cannot be read, or has records but no beginning of the log.
pub(crate) fn read_start(store: &dyn MetaStore) -> Result<Option<LogStart>, OpenError> {
    let mut problems = Problems::default();
    match store.get(&RecordKey::LogStart.to_bytes())? {
        Some(bytes) => match decode_log_start(&bytes) {
            Ok(start) => return Ok(Some(start)),
            Err(error) => problems.add(format!("where the log begins: {error}")),
        },
        None => {
            let mut records = 0;
            for prefix in [TARGET_PREFIX, CHUNK_PREFIX] {
                store.scan(prefix, &mut |_, _| records += 1)?;
            }
            if records > 0 {
                problems.add(format!("{records} records do not say where the log begins"));
            }
        }
    }
    problems.into_result()?;
    Ok(None)
}

fn value_of(state: &State, key: RecordKey) -> Value {
    match key {
        RecordKey::Chunk(key) => match state.record(key) {
            Some(record) => Value::Chunk(record.clone()),
            None => Value::Gone,
        },
        RecordKey::Target(target) => match state.targets.get(&target) {
            Some(state) => Value::Target(state.chain),
            None => Value::Gone,
        },
        RecordKey::Channel(key) => state.channel_value(key),
        RecordKey::Sums(_) | RecordKey::LogStart => unreachable!("these follow from others"),
    }
}

fn limits(config: &EngineConfig, groups: &[(GroupId, u64)], available: u64, log: &Log) -> Limits {
    let group_bytes: u64 = groups.iter().map(|(_, bytes)| bytes).sum();
    let available = available.saturating_sub(log.unallocated_bytes());
    let file_system_bytes = group_bytes.saturating_add(available);
    let records_reserve = config.reserve_bytes.min(file_system_bytes / RESERVE_PARTS);
    Limits {
        capacity_bytes: match config.capacity_bytes {
            0 => file_system_bytes,
            bytes => bytes,
        },
        records_reserve,
        reserve_bytes: Arc::new((records_reserve + log.unallocated_bytes()).into()),
        preallocate_bytes: config.preallocate_bytes,
    }
}
