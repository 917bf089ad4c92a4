//! A target: one disk's seat in one chain, with what its replica must remember between requests.
//!
//! Its `View` (the chain as this node knows it, and the local state) is published as one value, so that
//! nobody sees a new chain with an old local state. The view changes in `target::driver` (new maps), in
//! `finish_sync` and in `take_out`; everyone else reads it.

pub(crate) mod driver;
pub(crate) mod local_state;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use common::{
    env::{Env, Instant},
    sync::Mutex,
};
use engine::ChunkKey;
use tokio::sync::{RwLock, RwLockReadGuard, watch};
use types::{
    chain::Chain,
    chunk::ChunkId,
    id::{ChainId, TargetId},
    status::{Status, StatusCode},
    target::{LocalState, PublicState},
    version::{ChainVersion, RoutingVersion},
};

use crate::{
    chunk_turns::{ChunkTurns, Turn},
    disk::Disk,
    replica::{dedup::DedupTable, read::OnItsWay},
};

/// A target that took itself out for want of space asks for its place again no sooner than this.
const FULL_PAUSE: Duration = Duration::from_secs(10);

/// Where a target stands, at one moment.
#[derive(Clone, Debug)]
pub(crate) struct View {
    /// The chain of the newest map that the target has worked through.
    pub(crate) chain: Arc<Chain>,
    pub(crate) local: LocalState,
    /// The map the chain is of.
    pub(crate) routing: RoutingVersion,
}

impl View {
    /// What mgmtd decided for `target`.
    pub(crate) fn public(&self, target: TargetId) -> PublicState {
        self.chain.state_of(target).unwrap_or(PublicState::Offline)
    }

    /// How many replicas take changes behind `target`.
    pub(crate) fn behind(&self, target: TargetId) -> usize {
        let taking = |state| matches!(state, PublicState::Serving | PublicState::Syncing);
        let after = self.chain.targets.iter().skip_while(|t| t.id != target);
        after.skip(1).filter(|t| taking(t.state)).count()
    }
}

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) id: TargetId,
    pub(crate) chain: ChainId,
    pub(crate) disk: Arc<Disk>,
    pub(crate) dedup: Mutex<DedupTable>,
    view: watch::Sender<Arc<View>>,
    turns: ChunkTurns,
    /// Held shared by every change under way; held alone while the target is reopened, so that nothing
    /// of an earlier life goes on in the next one.
    gate: RwLock<()>,
    /// Changes that are passed on and not yet pending here (see `replica::read`).
    on_its_way: Mutex<BTreeMap<ChunkId, OnItsWay>>,
    /// Chunks whose stored bytes do not match their checksum. Not listed to a predecessor that fills this
    /// target, so that it sends them.
    damaged: Mutex<BTreeSet<ChunkId>>,
    /// See `FULL_PAUSE`.
    reopen_after: Mutex<Option<Instant>>,
}

/// The right to change one chunk.
#[derive(Debug)]
pub(crate) struct Entered<'a> {
    _turn: Turn,
    _gate: RwLockReadGuard<'a, ()>,
}

/// A change announced by `Target::announce`; taken back on drop.
#[derive(Debug)]
pub(crate) struct Announced<'a> {
    target: &'a Target,
    chunk: ChunkId,
}

impl Drop for Announced<'_> {
    fn drop(&mut self) {
        self.target.on_its_way.lock().remove(&self.chunk);
    }
}

impl Target {
    pub(crate) fn new(id: TargetId, disk: Arc<Disk>, view: View) -> Self {
        Self {
            id,
            chain: view.chain.id,
            disk,
            dedup: Mutex::default(),
            view: watch::Sender::new(Arc::new(view)),
            turns: ChunkTurns::default(),
            gate: RwLock::new(()),
            on_its_way: Mutex::default(),
            damaged: Mutex::default(),
            reopen_after: Mutex::default(),
        }
    }

    pub(crate) fn key(&self, chunk: ChunkId) -> ChunkKey {
        ChunkKey {
            target: self.id,
            chunk,
        }
    }

    pub(crate) fn view(&self) -> Arc<View> {
        self.view.borrow().clone()
    }

    /// Every later view.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<View>> {
        self.view.subscribe()
    }

    /// Whether another target of the chain comes before this one.
    pub(crate) fn is_follower(&self) -> bool {
        self.view().chain.head() != Some(self.id)
    }

    /// Waits for the chunk's turn.
    ///
    /// # Errors
    /// DeadlineExceeded: nothing was done.
    pub(crate) async fn enter(
        &self,
        env: &Env,
        chunk: ChunkId,
        deadline: Instant,
    ) -> Result<Entered<'_>, Status> {
        let entered = async {
            Entered {
                _gate: self.gate.read().await,
                _turn: self.turns.take(chunk).await,
            }
        };
        env.timeout_at(deadline, entered).await.map_err(|_| {
            let message = format!("chunk {chunk} was busy until the deadline");
            Status::new(StatusCode::DeadlineExceeded, message)
        })
    }

    /// How many have a chunk's turn or wait for it.
    #[cfg(test)]
    pub(crate) fn turns_wanted(&self, chunk: ChunkId) -> usize {
        self.turns.wanted(chunk)
    }

    /// Keeps the target from being reopened.
    ///
    /// # Errors
    /// DeadlineExceeded: nothing was done.
    pub(crate) async fn open(
        &self,
        env: &Env,
        deadline: Instant,
    ) -> Result<RwLockReadGuard<'_, ()>, Status> {
        let open = env.timeout_at(deadline, self.gate.read()).await;
        open.map_err(|_| {
            let message = format!("target {} was busy until the deadline", self.id);
            Status::new(StatusCode::DeadlineExceeded, message)
        })
    }

    /// Tells readers that a change is being passed on. One per chunk: the caller has its turn.
    pub(crate) fn announce(&self, chunk: ChunkId, change: OnItsWay) -> Announced<'_> {
        self.on_its_way.lock().insert(chunk, change);
        Announced {
            target: self,
            chunk,
        }
    }

    pub(crate) fn on_its_way(&self, chunk: ChunkId) -> Option<OnItsWay> {
        self.on_its_way.lock().get(&chunk).copied()
    }

    /// The chunk's bytes are damaged; true when that is news.
    pub(crate) fn mark_damaged(&self, chunk: ChunkId) -> bool {
        self.damaged.lock().insert(chunk)
    }

    pub(crate) fn mark_repaired(&self, chunk: ChunkId) {
        self.damaged.lock().remove(&chunk);
    }

    pub(crate) fn is_damaged(&self, chunk: ChunkId) -> bool {
        self.damaged.lock().contains(&chunk)
    }

    /// The predecessor has sent everything (S5); true when the target is up to date now.
    pub(crate) fn finish_sync(&self, version: ChainVersion) -> bool {
        let syncing = |view: &View| {
            view.chain.version == version && view.public(self.id) == PublicState::Syncing
        };
        self.view.send_if_modified(|view| {
            let finished = syncing(view) && view.local == LocalState::Online;
            if finished {
                let local = LocalState::UpToDate;
                *view = Arc::new(View {
                    local,
                    ..(**view).clone()
                });
            }
            finished
        });
        let view = self.view();
        syncing(&view) && view.local == LocalState::UpToDate
    }

    /// Leaves the chain: something happened here that only a resync cures. True when that is news.
    pub(crate) fn take_out(&self) -> bool {
        self.view.send_if_modified(|view| {
            let news = view.local != LocalState::Offline;
            if news {
                let local = LocalState::Offline;
                *view = Arc::new(View {
                    local,
                    ..(**view).clone()
                });
            }
            news
        })
    }

    /// Like `take_out`, because the disk is full: waits a while before it asks for its place again.
    pub(crate) fn take_out_full(&self, now: Instant) -> bool {
        *self.reopen_after.lock() = Some(now + FULL_PAUSE);
        self.take_out()
    }

    /// Replaces the view unless the local state is not `expected` any more: then `None`. Otherwise whether
    /// anything changed.
    fn publish(&self, expected: LocalState, next: View) -> Option<bool> {
        let mut allowed = false;
        let changed = self.view.send_if_modified(|view| {
            allowed = view.local == expected;
            let changed = view.local != next.local
                || view.routing != next.routing
                || view.chain.version != next.chain.version;
            if allowed && changed {
                *view = Arc::new(next);
            }
            allowed && changed
        });
        allowed.then_some(changed)
    }
}
