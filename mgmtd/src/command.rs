//! What stands in the manager group's log, and what applying it came to.
//!
//! A command states what was decided, with everything its application needs: applying reads no clock, no
//! randomness and no leader's memory, so every member comes to the same state. Encoded as postcard:
//! variants and fields are only ever appended.

use serde::{Deserialize, Serialize};
use types::{
    chain::Chain,
    id::{ChainId, ChainTableId, ClientId, DiskIndex, NodeId, RequestId, TargetId},
    node::{NodeKind, NodeStatus},
    status::{Status, StatusCode},
    version::{ChainTableVersion, RoutingVersion},
};

use crate::action::{Acted, Action};

/// A change of the cluster's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Command {
    /// A node announced itself, or moved.
    RegisterNode(Registration),
    /// What the leader saw since the last entry.
    Observe(Observation),
    /// New chains; each is a list of seats, head first.
    CreateChains {
        /// The table that gets a new version.
        table: ChainTableId,
        /// The seats of each chain.
        chains: Vec<Vec<Seat>>,
        /// Whose request it is: a retry of it gets the same chains again.
        asked: Asked,
    },
    /// An operator's action.
    Act {
        /// Which.
        action: Action,
        /// Whose request it is.
        asked: Asked,
    },
    /// A manager that left the group goes from the map.
    ForgetManager(NodeId),
}

/// A node as it describes itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Registration {
    pub(crate) id: NodeId,
    pub(crate) kind: NodeKind,
    pub(crate) addresses: Vec<String>,
    pub(crate) tags: Vec<String>,
}

/// Changes that follow from heartbeats, or from their absence.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Observation {
    /// Nodes that failed or came back.
    pub(crate) nodes: Vec<(NodeId, NodeStatus)>,
    /// Targets that their nodes have opened for the first time.
    pub(crate) created: Vec<TargetId>,
    /// Chains as they are to be; each is one version ahead of the one it was made from.
    pub(crate) chains: Vec<Chain>,
}

impl Observation {
    pub(crate) fn is_empty(&self) -> bool {
        self.nodes.is_empty() && self.created.is_empty() && self.chains.is_empty()
    }
}

/// One request of one client; retries are the same one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Asked {
    pub(crate) client: ClientId,
    pub(crate) request: RequestId,
}

/// A place for a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Seat {
    pub(crate) node: NodeId,
    pub(crate) disk: DiskIndex,
}

/// What applying a command came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Outcome {
    /// The state changed, or was so already; this is its version.
    Done(RoutingVersion),
    /// `CreateChains` was carried out.
    Created {
        chains: Vec<ChainId>,
        version: ChainTableVersion,
    },
    /// The command does not fit the state; nothing changed.
    Refused { code: StatusCode, message: String },
    /// `Act` was carried out.
    Acted(Acted),
}

impl Outcome {
    /// A refusal as the caller sees it.
    pub(crate) fn accepted(self) -> Result<Self, Status> {
        match self {
            Self::Refused { code, message } => Err(Status::new(code, message)),
            Self::Done(_) | Self::Created { .. } | Self::Acted(_) => Ok(self),
        }
    }
}
