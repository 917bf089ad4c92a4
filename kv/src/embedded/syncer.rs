//! Brings the journal onto stable storage: soon after a commit, or at once when somebody waits.
//!
//! States, by three versions: `synced` <= `committed`; somebody waits while `wanted` > `synced`. One
//! fdatasync covers everything committed before it began, for all who wait. Sleeps while nothing is to do.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use common::shutdown::ShutdownSignal;
use tokio::sync::{Notify, watch};

use super::{
    Shared,
    config::SyncPolicy,
    engine::{Durability, write_failure},
    failure::Failure,
};
use crate::{error::KvError, metrics, transaction::CommitVersion};

pub(super) struct SyncState {
    committed: AtomicU64,
    wanted: AtomicU64,
    synced: watch::Sender<u64>,
    closing: AtomicBool,
    /// There is something to sync, or the end has come.
    dirty: Notify,
    /// It cannot wait for the interval.
    urgent: Notify,
}

impl SyncState {
    /// Everything up to `version` is synced.
    pub(super) fn new(version: CommitVersion) -> Self {
        Self {
            committed: AtomicU64::new(version.0),
            wanted: AtomicU64::new(0),
            synced: watch::channel(version.0).0,
            closing: AtomicBool::new(false),
            dirty: Notify::new(),
            urgent: Notify::new(),
        }
    }

    /// The committer has written up to `version`. Called before anybody is told so.
    pub(super) fn committed(&self, version: CommitVersion, durability: Durability) {
        self.committed.store(version.0, SeqCst);
        match durability {
            Durability::StableStorage => self.synced(version.0),
            Durability::OperatingSystem => self.dirty.notify_one(),
        }
    }

    /// The last commit, and the last one that is synced.
    pub(super) fn versions(&self) -> (CommitVersion, CommitVersion) {
        let synced = *self.synced.borrow();
        let committed = self.committed.load(SeqCst);
        (CommitVersion(committed), CommitVersion(synced))
    }

    /// Waits until everything committed before the call is synced.
    pub(super) async fn wait(&self, failure: &Failure) -> Result<(), KvError> {
        let target = self.committed.load(SeqCst);
        let mut synced = self.synced.subscribe();
        if *synced.borrow_and_update() < target {
            self.wanted.fetch_max(target, SeqCst);
            self.urgent.notify_one();
        }
        loop {
            failure.check()?;
            if *synced.borrow_and_update() >= target {
                return Ok(());
            }
            if synced.changed().await.is_err() {
                return Err(KvError::Closed);
            }
        }
    }

    /// Makes everybody who waits look for a failure.
    pub(super) fn wake(&self) {
        self.synced.send_modify(|_same| ());
        self.dirty.notify_one();
    }

    /// Syncs the rest and ends.
    pub(super) fn close(&self) {
        self.closing.store(true, SeqCst);
        self.dirty.notify_one();
        self.urgent.notify_one();
    }

    fn synced(&self, version: u64) {
        self.synced
            .send_modify(|synced| *synced = version.max(*synced));
    }
}

/// The task. Ends after `close` or a failure.
pub(super) async fn run(shared: Arc<Shared>, mut shutdown: ShutdownSignal) {
    let interval = match shared.config.sync {
        SyncPolicy::Always => Duration::ZERO,
        SyncPolicy::Interval(ms) => Duration::from_millis(ms),
    };
    let state = &shared.sync;
    while shared.failure.check().is_ok() {
        let synced = *state.synced.borrow();
        if state.committed.load(SeqCst) <= synced {
            if state.closing.load(SeqCst) {
                return;
            }
            state.dirty.notified().await;
            continue;
        }
        let hurry = state.wanted.load(SeqCst) > synced || state.closing.load(SeqCst);
        if !hurry && !shutdown.is_triggered() {
            tokio::select! {
                () = shared.env.sleep(interval) => {}
                () = state.urgent.notified() => {}
                () = shutdown.wait() => {}
            }
        }
        sync_once(&shared).await;
    }
    state.wake();
}

async fn sync_once(shared: &Arc<Shared>) {
    let target = shared.sync.committed.load(SeqCst);
    let begun = shared.env.now();
    let worker = shared.clone();
    let outcome = shared.env.blocking(move || worker.engine.sync()).await;
    match outcome {
        Ok(()) => {
            metrics::count_sync(shared.env.now().duration_since(begun));
            shared.sync.synced(target);
        }
        Err(error) => {
            let free_bytes = shared.space.room().free_bytes();
            let reason = write_failure("sync the journal", &error, free_bytes);
            shared.failure.set(reason);
        }
    }
}
