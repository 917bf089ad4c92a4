//! Applies committed entries to the cluster's state and publishes each new one.
//!
//! The state is in memory; a snapshot of it is durable before the log entries that it covers are purged.

use std::{io, sync::Arc};

use common::{env::Env, sync::Mutex};
use openraft::{
    BasicNode, EntryPayload, LogId, OptionalSend, RaftSnapshotBuilder, Snapshot, SnapshotMeta,
    StorageError, StorageIOError, StoredMembership, storage::RaftStateMachine,
};
use tokio::sync::watch;
use types::codec::{self, Versioned};

use super::{
    TypeConfig,
    snapshot_store::{Meta, Saved, SnapshotStore},
};
use crate::{apply, cluster::Cluster, command::Outcome};

impl Versioned for Cluster {
    const VERSION: u16 = 1;
}

#[derive(Clone, Debug, Default)]
struct Applied {
    last: Option<LogId<u64>>,
    membership: StoredMembership<u64, BasicNode>,
    cluster: Cluster,
}

/// See the module's text. Clones are views of the same state, for building snapshots.
#[derive(Clone, Debug)]
pub(crate) struct StateMachine {
    env: Env,
    applied: Arc<Mutex<Applied>>,
    snapshots: SnapshotStore,
    published: watch::Sender<Arc<Cluster>>,
}

impl StateMachine {
    /// The state as of the newest snapshot.
    pub(crate) async fn open(env: &Env, snapshots: SnapshotStore) -> io::Result<Self> {
        let applied = match snapshots.load().await? {
            Some(saved) => restore(&saved.meta, &saved.state)?,
            None => Applied::default(),
        };
        let published = watch::Sender::new(Arc::new(applied.cluster.clone()));
        Ok(Self {
            env: env.clone(),
            applied: Arc::new(Mutex::new(applied)),
            snapshots,
            published,
        })
    }

    /// The state, and each later one.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<Cluster>> {
        self.published.subscribe()
    }

    fn publish(&self, cluster: &Cluster) {
        let new = cluster.routing.version > self.published.borrow().routing.version;
        if new {
            self.published.send_replace(Arc::new(cluster.clone()));
        }
    }
}

fn restore(meta: &Meta, state: &[u8]) -> io::Result<Applied> {
    let damage =
        |what: String| io::Error::new(io::ErrorKind::InvalidData, format!("snapshot: {what}"));
    let cluster: Cluster = codec::decode(state).map_err(|error| damage(error.to_string()))?;
    cluster.check().map_err(|wrong| damage(wrong.join("; ")))?;
    Ok(Applied {
        last: meta.last_log_id,
        membership: meta.last_membership.clone(),
        cluster,
    })
}

/// Whether a snapshot can be installed.
///
/// # Errors
/// What is wrong with it.
pub(super) fn check_snapshot(meta: &Meta, state: &[u8]) -> io::Result<()> {
    restore(meta, state).map(drop)
}

fn apply_entry(applied: &mut Applied, entry: openraft::Entry<TypeConfig>) -> Outcome {
    applied.last = Some(entry.log_id);
    match entry.payload {
        EntryPayload::Blank => {}
        EntryPayload::Membership(membership) => {
            applied.membership = StoredMembership::new(Some(entry.log_id), membership);
        }
        EntryPayload::Normal(command) => return apply::apply(&mut applied.cluster, &command),
    }
    Outcome::Done(applied.cluster.routing.version)
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotBuilder = Self;

    async fn applied_state(
        &mut self,
    ) -> Result<(Option<LogId<u64>>, StoredMembership<u64, BasicNode>), StorageError<u64>> {
        let applied = self.applied.lock();
        Ok((applied.last, applied.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Outcome>, StorageError<u64>>
    where
        I: IntoIterator<Item = openraft::Entry<TypeConfig>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut applied = self.applied.lock();
        let outcomes = entries
            .into_iter()
            .map(|entry| apply_entry(&mut applied, entry))
            .collect();
        self.publish(&applied.cluster);
        Ok(outcomes)
    }

    async fn get_snapshot_builder(&mut self) -> Self::SnapshotBuilder {
        // A builder of its own state: entries applied meanwhile do not get into the snapshot.
        let frozen = self.applied.lock().clone();
        Self {
            applied: Arc::new(Mutex::new(frozen)),
            ..self.clone()
        }
    }

    async fn begin_receiving_snapshot(
        &mut self,
    ) -> Result<Box<io::Cursor<Vec<u8>>>, StorageError<u64>> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta<u64, BasicNode>,
        snapshot: Box<io::Cursor<Vec<u8>>>,
    ) -> Result<(), StorageError<u64>> {
        let fail =
            |error: io::Error| StorageIOError::write_snapshot(Some(meta.signature()), &error);
        let state = snapshot.into_inner();
        let restored = restore(meta, &state).map_err(fail)?;
        let saved = Saved {
            meta: meta.clone(),
            state,
        };
        self.snapshots.save(saved).await.map_err(fail)?;
        let mut applied = self.applied.lock();
        *applied = restored;
        self.publish(&applied.cluster);
        Ok(())
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> Result<Option<Snapshot<TypeConfig>>, StorageError<u64>> {
        let saved = self
            .snapshots
            .load()
            .await
            .map_err(|error| StorageIOError::read_snapshot(None, &error))?;
        Ok(saved.map(|saved| Snapshot {
            meta: saved.meta,
            snapshot: Box::new(io::Cursor::new(saved.state)),
        }))
    }
}

impl RaftSnapshotBuilder<TypeConfig> for StateMachine {
    async fn build_snapshot(&mut self) -> Result<Snapshot<TypeConfig>, StorageError<u64>> {
        let (meta, state) = {
            let applied = self.applied.lock();
            let upto = applied
                .last
                .map_or_else(|| "empty".to_owned(), |id| id.to_string());
            let meta = Meta {
                last_log_id: applied.last,
                last_membership: applied.membership.clone(),
                // Two snapshots of one entry may differ in bytes, so their ids must.
                snapshot_id: format!("{upto}-{:016x}", self.env.random_u64()),
            };
            (meta, codec::encode(&applied.cluster))
        };
        let saved = Saved {
            meta: meta.clone(),
            state: state.clone(),
        };
        self.snapshots
            .save(saved)
            .await
            .map_err(|error| StorageIOError::write_snapshot(Some(meta.signature()), &error))?;
        Ok(Snapshot {
            meta,
            snapshot: Box::new(io::Cursor::new(state)),
        })
    }
}
