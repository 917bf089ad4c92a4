//! The engine of one disk: what others call. See `update` and `read` for what happens to bytes.
//!
//! Memory decides: every record is in `State`, under one lock that is never held across I/O. The order in which
//! records change there is the order in which the committer writes them. An update shows as pending as soon as
//! its data are written, and is acknowledged when its record is durable.
//!
//! Updates of one chunk are serialized by the replica above. Should two meet here all the same, the later one is the
//! pending version, and both are whole.

mod read;
pub(crate) mod state;
mod target;
mod update;

use std::{collections::BTreeSet, path::Path, sync::Arc, time::Duration};

use common::{
    buf::{BufPool, SharedBuf},
    data_dir::DataDir,
    env::Env,
    sync::Mutex,
};
use tokio::sync::Notify;
use types::{
    checksum::Checksum,
    chunk::{ChunkId, ChunkMeta, Update, UpdateTag},
    id::InodeId,
    id::TargetId,
    version::{ChainVersion, ChunkVersion},
};

pub use self::state::CheckReport;
use self::state::State;
pub use crate::chunk_meta::ChunkKey;
use crate::{
    chunk_meta::{Record, RecordKey},
    committer::{Committer, Durability, Entry, Urgency, Value},
    config::EngineConfig,
    device::{self, Device, FileId, watched::WatchedDevice},
    error::{EngineError, OpenError},
    group::GroupId,
    health::Health,
    meta_store::{MetaStore, fjall::FjallStore},
    recovery,
    slots::{Limits, SlotPool},
};

/// What `VERSION` says besides the version.
const ROLE: &str = "disk";
/// Rises when a release can no longer read what an earlier one wrote.
const FORMAT_VERSION: u32 = 1;

/// The reserve for records is at most this part of what the file system has: one in ten.
const RESERVE_PARTS: u64 = 10;

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

struct Inner {
    env: Env,
    buffers: BufPool,
    health: Arc<Health>,
    committer: Committer,
    state: Mutex<State>,
    slots: SlotPool,
    store: Arc<dyn MetaStore>,
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
        let store = FjallStore::open(env, dir, config.cache_bytes).await?;
        let device = device::open(env, dir, &config).await;
        let device = device.map_err(|source| OpenError::Io {
            action: "open the files of the disk in",
            path: dir.to_owned(),
            source,
        })?;
        Self::build(
            env,
            (device, Arc::new(store)),
            &config,
            buffers,
            Some(data_dir),
        )
        .await
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
        Self::build(env, (device, store), &config, buffers, None).await
    }

    async fn build(
        env: &Env,
        (device, store): (Arc<dyn Device>, Arc<dyn MetaStore>),
        config: &EngineConfig,
        buffers: BufPool,
        dir: Option<DataDir>,
    ) -> Result<Engine, OpenError> {
        let hang = Duration::from_secs(config.hang_seconds.max(1));
        let device: Arc<dyn Device> = Arc::new(WatchedDevice::new(env, device, hang));
        let failed = |action| move |source| OpenError::Device { action, source };
        let files = device.list().await.map_err(failed("list the files"))?;
        let groups: Vec<(GroupId, u64)> = files
            .iter()
            .filter_map(|&(id, bytes)| match id {
                FileId::Group(group) => Some((group, bytes)),
                FileId::Log(_) => None,
            })
            .collect();
        let available = device
            .available_bytes()
            .await
            .map_err(failed("ask for space"))?;
        let limits = limits(config, &groups, available);
        let health = Arc::new(Health::default());
        let wake = Arc::new(Notify::new());
        let slots = SlotPool::new(
            device.clone(),
            health.clone(),
            limits,
            &groups,
            wake.clone(),
        );
        let state = {
            let (store, slots) = (store.clone(), slots.clone());
            env.blocking(move || recovery::rebuild(&*store, &slots))
                .await?
        };
        slots.give_back_empty().await;
        let committer = Committer::start(
            env,
            config.sync,
            store.clone(),
            slots.clone(),
            health.clone(),
            wake,
        );
        let inner = Inner {
            env: env.clone(),
            buffers,
            health,
            committer,
            state: Mutex::new(state),
            slots,
            store,
            dir,
        };
        Ok(Engine {
            inner: Arc::new(inner),
        })
    }

    /// What is known of a chunk; `None` when it was never heard of.
    ///
    /// # Errors
    /// `UnknownTarget`, `Failed`.
    pub fn get(&self, key: ChunkKey) -> Result<Option<ChunkMeta>, EngineError> {
        self.inner.health.check()?;
        let state = self.inner.state.lock();
        state.target(key.target)?;
        Ok(state.chunks.get(&key).map(|record| record.meta(key.chunk)))
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
        state.target(target)?;
        let chunks = state.from(target, from).take(limit);
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
        state.target(target)?;
        let existing = state.of_inode(target, inode).find_map(|(id, record)| {
            let committed = record.committed.as_ref()?;
            committed.exists.then_some((id.index, committed.length))
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
            capacity_bytes: self.inner.slots.limits().capacity_bytes,
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
        self.inner.committer.close().await;
        self.inner.health.close();
        self.inner.slots.freeze();
        self.inner.slots.device().close().await;
        self.inner.store.close().await;
    }

    /// The groups that hold the committed and the pending version of a chunk, and where; for tests and tools.
    pub fn positions(&self, key: ChunkKey) -> BTreeSet<crate::Position> {
        let state = self.inner.state.lock();
        let record = state.chunks.get(&key);
        record
            .into_iter()
            .flat_map(|record| record.slots())
            .map(|slot| slot.position())
            .collect()
    }
}

impl Inner {
    /// Puts a record in place and hands it to the committer. The caller holds the lock of `state`: that makes
    /// both orders the same.
    fn install(
        &self,
        state: &mut State,
        key: ChunkKey,
        record: Option<Arc<Record>>,
        dirty: Option<GroupId>,
        urgency: Urgency,
    ) -> Durability {
        let replaced = state.replace(key, record.clone());
        let entry = Entry {
            key: RecordKey::Chunk(key),
            value: record.map_or(Value::Gone, Value::Chunk),
            dirty,
            replaced,
        };
        self.committer.enqueue(entry, urgency)
    }
}

fn limits(config: &EngineConfig, groups: &[(GroupId, u64)], available: u64) -> Limits {
    let group_bytes: u64 = groups.iter().map(|(_, bytes)| bytes).sum();
    let file_system_bytes = group_bytes.saturating_add(available);
    Limits {
        capacity_bytes: match config.capacity_bytes {
            0 => file_system_bytes,
            bytes => bytes,
        },
        reserve_bytes: config.reserve_bytes.min(file_system_bytes / RESERVE_PARTS),
        preallocate_bytes: config.preallocate_bytes,
    }
}
