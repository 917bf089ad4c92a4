//! Targets: one disk's seat in one chain, and the two views of its state.

use serde::{Deserialize, Serialize};

use crate::id::{ChainId, DiskIndex, NodeId, TargetId};

/// What mgmtd decided for a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PublicState {
    /// Takes reads and writes.
    Serving,
    /// Takes writes, as tail, and is refilled by its predecessor.
    Syncing,
    /// Alive, waiting for its turn to sync.
    Waiting,
    /// Dead, and among the last that held every acknowledged write.
    LastServing,
    /// Dead.
    Offline,
}

impl PublicState {
    /// All states, in the order in which a chain is sorted.
    pub const ALL: [PublicState; 5] = [
        Self::Serving,
        Self::LastServing,
        Self::Syncing,
        Self::Waiting,
        Self::Offline,
    ];
}

/// What the owner of a target reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LocalState {
    /// Open and holding everything.
    UpToDate,
    /// Open.
    Online,
    /// Not open.
    Offline,
}

impl LocalState {
    /// All states.
    pub const ALL: [LocalState; 3] = [Self::UpToDate, Self::Online, Self::Offline];

    /// Whether the target can take part in its chain.
    pub fn is_alive(self) -> bool {
        match self {
            Self::UpToDate | Self::Online => true,
            Self::Offline => false,
        }
    }
}

/// Where a target lives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// Its identity.
    pub id: TargetId,
    /// The node that owns the disk.
    pub node: NodeId,
    /// The disk.
    pub disk: DiskIndex,
    /// The chain it sits in.
    pub chain: ChainId,
    /// Set once its node has reported it open. A node makes a missing target anew only while this is
    /// false or the target is outside of service: a lost disk must never pass for an empty one.
    pub created: bool,
}
