//! The engine of one disk: what others call. See `update` and `read` for what happens to bytes.
//!
//! Memory decides: every record is in `State`, under one lock that is never held across I/O. The order in which
//! records change there is the order in which the committer writes them. An update shows as pending as soon as
//! its data are written, and is acknowledged when the log has it.
//!
//! Updates of one chunk are serialized by the replica above. Should two meet here all the same, the later one is the
//! pending version, and both are whole.

mod channels;
mod maintain;
pub(crate) mod read;
mod scrub;
pub(crate) mod state;
mod target;
mod update;

use std::{
    collections::BTreeSet,
    path::Path,
    pin::pin,
    sync::{Arc, OnceLock},
    time::Duration,
};

use common::{
    buf::{BufPool, SharedBuf},
    data_dir::DataDir,
    env::Env,
    sync::Mutex,
};
use tokio::sync::{Notify, Semaphore};
use types::{
    checksum::Checksum,
    chunk::{ChunkId, ChunkMeta, Update, UpdateTag},
    id::InodeId,
    id::TargetId,
    version::{ChainVersion, ChunkVersion},
};

use self::{maintain::Maintenance, state::State};
pub use self::{
    scrub::{ScrubBudget, ScrubDamage, Scrubbed},
    state::CheckReport,
};
pub use crate::chunk_meta::ChunkKey;
use crate::{
    checkpoint::Checkpointer,
    chunk_meta::{Record, RecordKey},
    committer::{Committer, Durability, Entry, Urgency, Value},
    compact::Compaction,
    config::EngineConfig,
    device::{self, Device},
    error::{EngineError, OpenError},
    group::GroupId,
    health::Health,
    log::{Log, LogData, entry::LogEntry},
    meta_store::{MetaStore, fjall::FjallStore},
    open::{self, Contradictions},
    slots::SlotPool,
};

/// What `VERSION` says besides the version.
pub(crate) const ROLE: &str = "disk";
/// Rises when a release can no longer read what an earlier one wrote.
pub(crate) const FORMAT_VERSION: u32 = 2;

/// A change of a chunk as the engine knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A client's change of the committed content.
    Update(Update),
    /// The payload, of this length, is the content; what was there before does not matter.
    Replace {
        /// Bytes of content.
        length: u32,
    },
}

/// An update to make durable.
#[derive(Clone, Debug)]
pub struct UpdateRequest {
    /// The chunk.
    pub key: ChunkKey,
    /// The update may not reach beyond this.
    pub chunk_size: u32,
    /// The change.
    pub change: Change,
    /// The version it makes. The engine does not compare it: which versions may follow is the replica's business.
    pub update_version: ChunkVersion,
    /// The chain version under which it is made.
    pub chain_version: ChainVersion,
    /// For exactly-once.
    pub tag: Option<UpdateTag>,
    /// The bytes of a write or replacement.
    pub payload: Option<SharedBuf>,
    /// Their checksum, verified by the caller; compared again where that costs nothing.
    pub payload_checksum: Checksum,
}

/// What an update made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Updated {
    /// Bytes of content.
    pub length: u32,
    /// The checksum of the content; that of nothing for a removal.
    pub checksum: Checksum,
}

/// Which version to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadVersion {
    /// The committed one.
    Committed,
    /// The pending one; the committed one when nothing is pending.
    Pending,
}

/// Bytes of one version of a chunk.
#[derive(Clone, Debug)]
pub struct ReadOut {
    /// The bytes, verified; fewer than asked for where the chunk ends.
    pub data: SharedBuf,
    /// The checksum of these bytes.
    pub checksum: Checksum,
    /// The length of the chunk in this version.
    pub chunk_length: u32,
    /// The version.
    pub version: ChunkVersion,
}

/// The space of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Bytes that chunks may take.
    pub capacity_bytes: u64,
    /// Bytes of slots that are taken.
    pub used_bytes: u64,
}

/// From this share of the capacity on, space is low (E8).
const LOW_SPACE_PERCENT: u64 = 95;

impl Space {
    /// Whether an operator should act: before new chunks are refused.
    pub fn is_low(self) -> bool {
        self.used_bytes >= self.capacity_bytes / 100 * LOW_SPACE_PERCENT
    }
}

/// The chunks of one disk. Clones are the same engine. `close` it; dropping it instead is like a crash.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) env: Env,
    pub(crate) buffers: BufPool,
    pub(crate) health: Arc<Health>,
    pub(crate) committer: Committer,
    pub(crate) checkpointer: Arc<Checkpointer>,
    pub(crate) log: Log,
    pub(crate) state: Mutex<State>,
    pub(crate) slots: SlotPool,
    pub(crate) store: Arc<dyn MetaStore>,
    /// How long the store may take to answer.
    pub(crate) store_limit: Duration,
    /// Updates of at most so many bytes go into the log with their bytes.
    pub(crate) small_update_bytes: u32,
    /// Blocks that updates may make in memory at once.
    copy_room: Semaphore,
    /// Told when there is something to do in the background.
    pub(crate) wake: Arc<Notify>,
    /// Of the file system, for records.
    reserve_bytes: u64,
    pub(crate) compaction: Compaction,
    maintenance: OnceLock<Maintenance>,
    /// Last: the directory stays locked until everything above is gone.
    dir: Option<DataDir>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let dir = self.inner.dir.as_ref().map(DataDir::path);
        f.debug_struct("Engine")
            .field("dir", &dir)
            .finish_non_exhaustive()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // The records go now, and with them all slots: that must not look like empty groups.
        self.slots.freeze();
    }
}

impl Engine {
    /// Opens the disk in `dir`, making it when the directory is missing or empty.
    ///
    /// # Errors
    /// See `OpenError`.
    pub async fn open(
        env: &Env,
        dir: &Path,
        config: EngineConfig,
        buffers: BufPool,
    ) -> Result<Engine, OpenError> {
        let data_dir = {
            let dir = dir.to_owned();
            env.blocking(move || DataDir::open(&dir, ROLE, FORMAT_VERSION))
                .await?
        };
        Self::open_in(env, data_dir, &config, buffers, Contradictions::Refuse).await
    }

    /// Opens the disk in a directory that is locked already.
    pub(crate) async fn open_in(
        env: &Env,
        data_dir: DataDir,
        config: &EngineConfig,
        buffers: BufPool,
        contradictions: Contradictions,
    ) -> Result<Engine, OpenError> {
        let dir = data_dir.path();
        let store = FjallStore::open(env, dir, config.cache_bytes).await?;
        let device = device::open(env, dir, config).await;
        let device = device.map_err(|source| OpenError::Io {
            action: "open the files of the disk in",
            path: dir.to_owned(),
            source,
        })?;
        let disk: (Arc<dyn Device>, Arc<dyn MetaStore>) = (device, Arc::new(store));
        Self::build(env, disk, config, buffers, (Some(data_dir), contradictions)).await
    }

    /// Opens the disk that `device` and `store` make up.
    ///
    /// # Errors
    /// See `OpenError`.
    pub async fn open_on(
        env: &Env,
        device: Arc<dyn Device>,
        store: Arc<dyn MetaStore>,
        config: EngineConfig,
        buffers: BufPool,
    ) -> Result<Engine, OpenError> {
        let refuse = (None, Contradictions::Refuse);
        Self::build(env, (device, store), &config, buffers, refuse).await
    }

    async fn build(
        env: &Env,
        (device, store): (Arc<dyn Device>, Arc<dyn MetaStore>),
        config: &EngineConfig,
        buffers: BufPool,
        (dir, contradictions): (Option<DataDir>, Contradictions),
    ) -> Result<Engine, OpenError> {
        let wake = Arc::new(Notify::new());
        let disk = (device, store.clone());
        let opened = open::open(env, disk, config, &buffers, (&wake, contradictions)).await?;
        let committer = Committer::start(
            env,
            config.sync,
            opened.log.clone(),
            opened.slots.clone(),
            opened.checkpointer.clone(),
            opened.health.clone(),
        );
        let inner = Arc::new(Inner {
            env: env.clone(),
            buffers,
            health: opened.health,
            committer,
            checkpointer: opened.checkpointer,
            log: opened.log,
            state: Mutex::new(opened.state),
            slots: opened.slots,
            store,
            store_limit: config.hang_limit(),
            small_update_bytes: config.small_update_bytes,
            copy_room: Semaphore::new(update::COPY_BLOCKS),
            wake,
            reserve_bytes: opened.reserve_bytes,
            compaction: Compaction::default(),
            maintenance: OnceLock::new(),
            dir,
        });
        let maintenance = Maintenance::start(&inner);
        inner.maintenance.get_or_init(|| maintenance);
        // What was to be done when the disk was closed is still to be done.
        inner.wake.notify_one();
        Ok(Engine { inner })
    }

    /// What is known of a chunk; `None` when it was never heard of.
    ///
    /// # Errors
    /// `UnknownTarget`, `Failed`.
    pub fn get(&self, key: ChunkKey) -> Result<Option<ChunkMeta>, EngineError> {
        self.inner.health.check()?;
        let state = self.inner.state.lock();
        let record = state.target(key.target)?.chunks.get(&key.chunk);
        Ok(record.map(|record| record.meta(key.chunk)))
    }

    /// What is known of the chunks of a target, in order, `from` included: version floors and chunks that are
    /// only pending too.
    ///
    /// # Errors
    /// `UnknownTarget`, `Failed`.
    pub fn list(
        &self,
        target: TargetId,
        from: ChunkId,
        limit: usize,
    ) -> Result<Vec<ChunkMeta>, EngineError> {
        self.inner.health.check()?;
        let state = self.inner.state.lock();
        let chunks = state.target(target)?.from(from).take(limit);
        Ok(chunks.map(|(id, record)| record.meta(id)).collect())
    }

    /// Index and length of the highest committed chunk of a file.
    ///
    /// # Errors
    /// `UnknownTarget`, `Failed`.
    pub fn last_chunk(
        &self,
        target: TargetId,
        inode: InodeId,
    ) -> Result<Option<(u32, u32)>, EngineError> {
        self.inner.health.check()?;
        let state = self.inner.state.lock();
        let mut chunks = state.target(target)?.of_inode(inode);
        let existing = chunks.find_map(|(id, record)| {
            let head = record.committed.as_ref()?.head;
            head.exists().then_some((id.index, head.length))
        });
        Ok(existing)
    }

    /// Makes everything that was acknowledged durable, commits too.
    ///
    /// # Errors
    /// `Failed`.
    pub async fn sync(&self) -> Result<(), EngineError> {
        self.inner.health.check()?;
        self.inner.committer.flush().wait(&self.inner.health).await
    }

    /// The space of the disk.
    pub fn space(&self) -> Space {
        Space {
            capacity_bytes: self.inner.slots.capacity_bytes(),
            used_bytes: self.inner.slots.used_bytes(),
        }
    }

    /// Bytes of the slots of one target; 0 for a target that is not here.
    pub fn used_by(&self, target: TargetId) -> u64 {
        let state = self.inner.state.lock();
        state
            .targets
            .get(&target)
            .map_or(0, |target| target.used_bytes)
    }

    /// Why the disk is out of service; `None` while it is not.
    pub fn failure(&self) -> Option<String> {
        self.inner.health.failure()
    }

    /// Checks the invariants: marked slots are those in use, no slot is shared, lengths fit.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self) -> Result<CheckReport, Vec<String>> {
        let mut problems = Vec::new();
        let report = self
            .inner
            .state
            .lock()
            .check(&self.inner.slots, &mut problems);
        if problems.is_empty() {
            Ok(report)
        } else {
            Err(problems)
        }
    }

    /// Makes everything durable and ends. Later calls fail.
    pub async fn close(&self) {
        if let Some(maintenance) = self.inner.maintenance.get() {
            maintenance.stop().await;
        }
        self.inner.committer.close().await;
        // So that the next opening has nothing to replay. Should it fail, the log has everything.
        if let Err(error) = self.inner.checkpointer.run(&self.inner.log).await {
            tracing::warn!(%error, "a disk is closed without a last checkpoint");
        }
        self.inner.health.close();
        self.inner.slots.freeze();
        self.inner.slots.device().close().await;
        self.inner.store.close().await;
    }

    /// The groups that hold the committed and the pending version of a chunk, and where; for tests and tools.
    pub fn positions(&self, key: ChunkKey) -> BTreeSet<crate::Position> {
        let state = self.inner.state.lock();
        let record = state.record(key);
        record
            .into_iter()
            .flat_map(Record::slots)
            .map(|slot| slot.position())
            .collect()
    }
}

/// A change of a record, and what the log says of it.
pub(crate) struct NewRecord {
    pub(crate) record: Option<Record>,
    pub(crate) encoded: Vec<u8>,
    pub(crate) payload: Option<(Arc<LogData>, SharedBuf)>,
    /// The group whose data must be durable before.
    pub(crate) dirty: Option<GroupId>,
    /// Records of channels that change with it.
    pub(crate) channels: Vec<(RecordKey, Value)>,
}

impl NewRecord {
    /// A change that writes nothing but its entry.
    pub(crate) fn plain(record: Option<Record>, entry: &LogEntry) -> Self {
        Self {
            record,
            encoded: entry.encode(),
            payload: None,
            dirty: None,
            channels: Vec::new(),
        }
    }

    /// The chunk is forgotten.
    pub(crate) fn dropped(key: ChunkKey) -> Self {
        Self::plain(None, &LogEntry::Drop { key: key.into() })
    }
}

impl Inner {
    /// Puts a record in place and hands it to the committer. The caller holds the lock of `state`: that makes
    /// both orders the same.
    pub(crate) fn install(
        &self,
        state: &mut State,
        key: ChunkKey,
        change: NewRecord,
        urgency: Urgency,
    ) -> Durability {
        let record = change.record;
        let replaced = state.replace(key, record.clone());
        let mut after = change.channels;
        after.push((
            RecordKey::Chunk(key),
            record.map_or(Value::Gone, Value::Chunk),
        ));
        let entry = Entry {
            encoded: change.encoded,
            payload: change.payload,
            after,
            dirty: change.dirty,
            replaced,
        };
        self.committer.enqueue(entry, urgency)
    }

    /// Waits until the log has room for more.
    async fn log_room(&self) -> Result<(), EngineError> {
        /// Whoever waits looks again after this time at the latest.
        const PATIENCE: Duration = Duration::from_millis(50);
        loop {
            let mut freed = pin!(self.log.freed());
            // Before the look, so that nothing is missed in between.
            freed.as_mut().enable();
            if !self.log.fill().is_full() {
                return Ok(());
            }
            self.health.check()?;
            self.wake.notify_one();
            // Freed or not: the loop finds out.
            let _freed = self.env.timeout(PATIENCE, freed).await;
        }
    }
}
