//! The store on the disk of one machine: fjall's log-structured tree under our own transactions.
//!
//! fjall gives snapshots, atomic batches and a journal. On top of it, because it decides the speed:
//! 1. One committer thread takes all transactions that wait, judges them with the `resolver`, and writes one
//!    batch (`committer`). Only it writes, and only between batches does it take the snapshot that all
//!    new transactions share (`View`). A snapshot taken by anyone else could see half a batch: fjall publishes
//!    sequence numbers also when a background flush ends.
//! 2. One task brings the journal onto stable storage, at most an interval after a commit or when
//!    `sync` asks (`syncer`). All who wait share one fdatasync.
//! 3. One task seals tables in memory when they have grown (`rotator`).
//!
//! A write or sync that fails stops the store for good (`failure`): what the disk then holds is only known
//! after it is opened again. fjall does the same with itself, so there is no way on without a restart.
//! To run out of space would end like that too. Therefore commits are refused with `Full`, before anything is
//! written, while a reserve is left (`space`).

mod committer;
mod config;
mod engine;
mod failure;
mod journal;
mod open;
mod rotator;
mod space;
mod syncer;

use std::{fmt, path::Path, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use common::{
    data_dir::DataDir,
    env::{Env, Task},
    shutdown::ShutdownSignal,
    sync::Mutex,
};
use tokio::sync::{mpsc, oneshot};

use self::{
    committer::Job, engine::Engine, failure::Failure, rotator::RotationState, space::Space,
    syncer::SyncState,
};
pub use self::{
    config::{EmbeddedConfig, SyncPolicy},
    open::OpenError,
};
use crate::{
    error::KvError,
    group::CommitRequest,
    key::KeyRange,
    optimistic::{Backend, OptimisticTransaction, Snapshot},
    transaction::{CommitVersion, Kv, RangeOptions, RangePage, Transaction},
};

/// Range reads of at most this many items run where they are called (about 1 us an item when cached);
/// longer ones on a thread of their own.
const INLINE_ITEMS_MAX: usize = 128;

/// The store on disk. `close` it, or drop it and its transactions, to free the directory.
pub struct EmbeddedKv {
    shared: Arc<Shared>,
    ends: Mutex<Option<Ends>>,
}

/// How to learn that the background work is over.
struct Ends {
    committer: oneshot::Receiver<()>,
    syncer: Task<()>,
    rotator: Task<()>,
}

struct Shared {
    env: Env,
    config: EmbeddedConfig,
    /// `None` once the store was closed.
    jobs: Mutex<Option<mpsc::Sender<Job>>>,
    /// What new transactions read.
    view: Mutex<Arc<View>>,
    sync: SyncState,
    rotation: RotationState,
    failure: Failure,
    space: Space,
    engine: Engine,
    /// Last, so that the lock outlives the engine.
    dir: DataDir,
}

/// A version of the store.
struct View {
    snapshot: fjall::Snapshot,
    version: CommitVersion,
}

/// How the store is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmbeddedStatus {
    /// The last commit.
    pub committed: CommitVersion,
    /// The last commit that is on stable storage.
    pub synced: CommitVersion,
    /// Why the store has stopped, if it has.
    pub failure: Option<String>,
}

impl EmbeddedKv {
    /// Opens the store in `dir`, making it when it is missing or empty. Must be called inside a runtime.
    /// After `shutdown` every commit is synced at once; the store works on until it is closed or dropped.
    ///
    /// # Errors
    /// See `OpenError`.
    pub fn open(
        env: &Env,
        dir: &Path,
        config: EmbeddedConfig,
        shutdown: ShutdownSignal,
    ) -> Result<Arc<Self>, OpenError> {
        let (shared, jobs) = open::open(env, dir, config)?;
        let (done, committer) = oneshot::channel();
        committer::start(env, shared.clone(), jobs, done).map_err(OpenError::Thread)?;
        let syncer = env.spawn("kv-sync", syncer::run(shared.clone(), shutdown));
        let rotator = env.spawn("kv-rotate", rotator::run(shared.clone()));
        let ends = Mutex::new(Some(Ends {
            committer,
            syncer,
            rotator,
        }));
        Ok(Arc::new(Self { shared, ends }))
    }

    /// How the store is doing.
    pub fn status(&self) -> EmbeddedStatus {
        let (committed, synced) = self.shared.sync.versions();
        EmbeddedStatus {
            committed,
            synced,
            failure: self.shared.failure.reason(),
        }
    }

    /// Ends the store: waits for the commits under way, syncs, and frees the directory as soon as the last
    /// transaction is dropped. Later commits get `Closed`.
    ///
    /// # Errors
    /// When the last sync fails, or the store had failed before.
    pub async fn close(&self) -> Result<(), KvError> {
        let ends = self.ends.lock().take();
        self.shared.jobs.lock().take();
        if let Some(ends) = ends {
            // An error means that the thread is gone, which is what we wait for.
            let _gone = ends.committer.await.is_err();
            self.shared.sync.close();
            self.shared.rotation.close();
            ends.syncer.join().await;
            ends.rotator.join().await;
        }
        self.shared.failure.check()
    }
}

impl Drop for EmbeddedKv {
    fn drop(&mut self) {
        self.shared.jobs.lock().take();
        self.shared.sync.close();
        self.shared.rotation.close();
    }
}

impl fmt::Debug for EmbeddedKv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedKv")
            .field("dir", &self.shared.dir.path())
            .field("version", &self.shared.view.lock().version)
            .finish()
    }
}

#[async_trait]
impl Kv for EmbeddedKv {
    fn begin(&self) -> Box<dyn Transaction> {
        Box::new(OptimisticTransaction::new(self.shared.clone()))
    }

    async fn sync(&self) -> Result<(), KvError> {
        self.shared.sync.wait(&self.shared.failure).await
    }
}

impl Backend for Shared {
    type Snapshot = SharedView;

    fn env(&self) -> &Env {
        &self.env
    }

    fn snapshot(self: &Arc<Self>) -> Result<SharedView, KvError> {
        self.failure.check()?;
        Ok(SharedView {
            view: self.view.lock().clone(),
            shared: self.clone(),
        })
    }

    async fn commit(&self, request: CommitRequest) -> Result<CommitVersion, KvError> {
        let jobs = self.jobs.lock().clone().ok_or(KvError::Closed)?;
        let (reply, answer) = oneshot::channel();
        if jobs.send(Job { request, reply }).await.is_err() {
            self.failure.check()?;
            return Err(KvError::Closed);
        }
        drop(jobs);
        // No answer means that the committer died over this group.
        answer.await.unwrap_or(Err(KvError::CommitUnknown))
    }
}

/// A version of the store, as one transaction holds it.
struct SharedView {
    view: Arc<View>,
    shared: Arc<Shared>,
}

impl Snapshot for SharedView {
    fn version(&self) -> CommitVersion {
        self.view.version
    }

    async fn get(&self, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        self.shared.failure.check()?;
        self.shared.engine.get(&self.view.snapshot, key)
    }

    async fn page(&self, range: &KeyRange, options: RangeOptions) -> Result<RangePage, KvError> {
        self.shared.failure.check()?;
        if options.limit <= INLINE_ITEMS_MAX {
            let engine = &self.shared.engine;
            return engine.page(&self.view.snapshot, range, options);
        }
        let (shared, view, range) = (self.shared.clone(), self.view.clone(), range.clone());
        let work = move || shared.engine.page(&view.snapshot, &range, options);
        self.shared.env.blocking(work).await
    }
}
