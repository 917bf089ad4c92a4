//! The manager group: one log of commands, agreed on by a majority of one, three or five members.
//!
//! The only place that knows openraft. Outside of here there are commands, the state they lead to, and
//! who leads. What is durable where: `log_store` (votes and entries, fsynced before anyone hears of
//! them), `snapshot_store` (the state as of some entry; older entries are dropped then). The state itself
//! lives in memory and is built again from both at start.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::Path,
    sync::Arc,
};

use common::env::{Env, Instant};
use openraft::{
    BasicNode, Config, Raft, ServerState, SnapshotPolicy,
    error::{ClientWriteError, InitializeError, RaftError},
};
use tokio::sync::watch;
use types::{
    id::NodeId,
    status::{Detail, Status, StatusCode},
};

use crate::{
    cluster::Cluster,
    command::{Command, Outcome},
    config::RaftTimes,
    raft::{
        log_store::LogStore, network::Network, snapshot_store::SnapshotStore,
        state_machine::StateMachine,
    },
};

#[cfg(fuzzing)]
pub mod fuzzing;
mod guard;
#[cfg(test)]
mod hostile;
mod log_file;
mod log_store;
mod network;
mod runtime;
mod snapshot_store;
mod state_machine;
#[cfg(test)]
mod suite;
#[cfg(test)]
mod tests;

pub(crate) use network::{Peers, RaftMethod};
pub use runtime::fix_randomness;

openraft::declare_raft_types!(
    /// What openraft is told about us.
    pub(crate) TypeConfig:
        D = Command,
        R = Outcome,
        NodeId = u64,
        Node = BasicNode,
        Entry = openraft::Entry<TypeConfig>,
        SnapshotData = io::Cursor<Vec<u8>>,
        AsyncRuntime = runtime::Runtime,
);

/// Why a member does not start.
#[derive(Debug, thiserror::Error)]
pub enum RaftStartError {
    /// A file of the log or the snapshot could not be read or written.
    #[error("cannot open the manager's log: {source}")]
    Log {
        /// What went wrong with which file.
        #[from]
        source: io::Error,
    },
    /// The consensus core refused to start.
    #[error("cannot start the manager's consensus: {reason}")]
    Core {
        /// What it said.
        reason: String,
    },
    /// The configuration names other members than the log.
    #[error(
        "`members` names {configured:?}, but this manager group was made with the members {agreed:?}; \
         members cannot be added or removed yet, only their addresses may change"
    )]
    Members {
        /// By the configuration.
        configured: BTreeSet<u64>,
        /// By the log.
        agreed: BTreeSet<u64>,
    },
}

/// The leader by its term: two leaders never share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Term(pub(crate) u64);

/// This process's seat in the group.
pub(crate) struct Member {
    env: Env,
    id: NodeId,
    raft: Raft<TypeConfig>,
    inbox: network::Inbox,
    cluster: watch::Receiver<Arc<Cluster>>,
}

impl Member {
    /// Opens the log in `dir` and takes part in a group that was made before; `bootstrap` makes one.
    ///
    /// # Errors
    /// See `RaftStartError`.
    pub(crate) async fn start(
        env: &Env,
        id: NodeId,
        dir: &Path,
        peers: Arc<dyn Peers>,
        times: &RaftTimes,
    ) -> Result<Self, RaftStartError> {
        let snapshots = SnapshotStore::open(env, dir).await?;
        let state_machine = StateMachine::open(env, snapshots).await?;
        let cluster = state_machine.subscribe();
        let log = LogStore::open(env, dir).await?;
        let network = Network::new(env, peers);
        let config = core_config(times)?;
        let raft = Raft::new(
            u64::from(id.0),
            Arc::new(config),
            network,
            log.clone(),
            state_machine,
        )
        .await
        .map_err(core_error)?;
        Ok(Self {
            env: env.clone(),
            id,
            inbox: network::Inbox::new(u64::from(id.0), raft.clone(), log),
            raft,
            cluster,
        })
    }

    /// Makes the group when this member belongs to none yet. Every member does so with the same table.
    ///
    /// # Errors
    /// Members when the log names others; Core when the consensus core stopped.
    pub(crate) async fn bootstrap(
        &self,
        members: &BTreeMap<NodeId, String>,
    ) -> Result<(), RaftStartError> {
        let nodes: BTreeMap<u64, BasicNode> = members
            .iter()
            .map(|(id, address)| (u64::from(id.0), BasicNode::new(address)))
            .collect();
        let configured: BTreeSet<u64> = nodes.keys().copied().collect();
        if !self.raft.is_initialized().await.map_err(core_error)? {
            return match self.raft.initialize(nodes).await {
                // The others may have made the group, and told this member, a moment ago.
                Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
                Err(error) => Err(core_error(error)),
            };
        }
        let metrics = self.raft.metrics().borrow().clone();
        let agreed: BTreeSet<u64> = metrics.membership_config.voter_ids().collect();
        // A member whose log is still empty but has voted learns the membership later; the next start checks it.
        if !agreed.is_empty() && agreed != configured {
            return Err(RaftStartError::Members { configured, agreed });
        }
        self.elect_when_alone(&configured).await
    }

    /// A single member need not wait for an election timer.
    async fn elect_when_alone(&self, members: &BTreeSet<u64>) -> Result<(), RaftStartError> {
        if members.len() == 1 {
            self.raft.trigger().elect().await.map_err(core_error)?;
        }
        Ok(())
    }

    /// Puts a command into the log; returns once it is durable on a majority and applied here.
    ///
    /// # Errors
    /// NotLeader; NoQuorum when `deadline` passed first (the command may still take effect); NotReady when the
    /// consensus core has stopped; or the refusal of the command.
    pub(crate) async fn propose(
        &self,
        command: Command,
        deadline: Instant,
    ) -> Result<Outcome, Status> {
        let written = self
            .env
            .timeout_at(deadline, self.raft.client_write(command))
            .await;
        match written {
            Ok(Ok(response)) => response.data.accepted(),
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward)))) => {
                let leader = forward.leader_node.map(|node| node.addr);
                Err(not_leader(leader))
            }
            Ok(Err(error)) => {
                let message = format!("the manager's consensus refused a change: {error}");
                Err(Status::new(StatusCode::NotReady, message))
            }
            Err(_elapsed) => Err(Status::new(
                StatusCode::NoQuorum,
                "the change is not yet on a majority of the managers; it may still take effect",
            )),
        }
    }

    /// Asks a majority whether this member leads, and waits until every entry committed before is
    /// applied here. The answer is about the moment of the question, not of the answer.
    pub(crate) async fn confirm(&self) -> Option<Term> {
        match self.raft.ensure_linearizable().await {
            // The read log id is the leader's first entry of its term or a later one.
            Ok(read_at) => read_at.map(|id| Term(id.leader_id.term)),
            Err(error) => {
                tracing::debug!(%error, "leadership is not confirmed");
                None
            }
        }
    }

    /// Whether this member believes that it leads.
    pub(crate) fn believes_to_lead(&self) -> bool {
        self.raft.server_metrics().borrow().state == ServerState::Leader
    }

    /// Who leads, as far as this member knows.
    pub(crate) fn leader(&self) -> Option<NodeId> {
        let leader = self.raft.server_metrics().borrow().current_leader?;
        u32::try_from(leader).ok().map(NodeId)
    }

    /// Why the consensus core stopped, when it has.
    pub(crate) fn failure(&self) -> Option<String> {
        let metrics = self.raft.metrics();
        let state = &metrics.borrow().running_state;
        state.as_ref().err().map(ToString::to_string)
    }

    /// Returns when the part that this member plays, or its leader, may have changed.
    pub(crate) fn role_changes(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut metrics = self.raft.server_metrics();
        metrics.mark_unchanged();
        async move {
            // An error means that the core is gone, which is a change as well.
            let _gone = metrics.changed().await.is_err();
        }
    }

    /// The state as of the last entry applied here.
    pub(crate) fn cluster(&self) -> Arc<Cluster> {
        self.cluster.borrow().clone()
    }

    /// The state, and each later one.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<Cluster>> {
        self.cluster.clone()
    }

    /// Answers another member.
    ///
    /// # Errors
    /// Malformed; NotReady when the consensus core has stopped.
    pub(crate) async fn handle(&self, method: RaftMethod, body: &[u8]) -> Result<Vec<u8>, Status> {
        self.inbox.handle(method, body).await
    }

    /// Leaves the group until the next start.
    pub(crate) async fn stop(&self) {
        if self.raft.shutdown().await.is_err() {
            tracing::error!(member = %self.id, "the manager's consensus ended with a panic");
        }
    }
}

/// The answer of a member that does not lead.
pub(crate) fn not_leader(leader: Option<String>) -> Status {
    match leader {
        Some(address) => Status::new(
            StatusCode::NotLeader,
            format!("this manager does not lead, the one at {address} does"),
        )
        .with_detail(Detail::Leader(address)),
        None => Status::new(
            StatusCode::NotLeader,
            "this manager does not lead and knows no leader yet",
        ),
    }
}

fn core_error(error: impl ToString) -> RaftStartError {
    RaftStartError::Core {
        reason: error.to_string(),
    }
}

fn core_config(times: &RaftTimes) -> Result<Config, RaftStartError> {
    let config = Config {
        cluster_name: "penstock".to_owned(),
        heartbeat_interval: times.heartbeat_ms,
        election_timeout_min: times.election_ms_min,
        election_timeout_max: times.election_ms_max,
        install_snapshot_timeout: times.snapshot_ms,
        // Entries are at most about 100 KiB: a batch stays far below the largest frame.
        max_payload_entries: 64,
        // Pieces of a snapshot, far below the largest frame too.
        snapshot_max_chunk_size: 1 << 20,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(times.snapshot_entries),
        max_in_snapshot_log_to_keep: times.snapshot_entries / 2,
        replication_lag_threshold: times.snapshot_entries * 2,
        purge_batch_size: (times.snapshot_entries / 4).max(1),
        ..Config::default()
    };
    config.validate().map_err(core_error)
}
