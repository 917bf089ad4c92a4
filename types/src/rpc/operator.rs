//! What an operator asks of the cluster manager about chains, tables and targets (protocol C4), and what it says.
//!
//! The methods belong to the manager's service (`rpc::mgmtd`); only the messages stand here.

use serde::{Deserialize, Serialize};

use crate::{
    id::{ChainId, ChainTableId, DiskIndex, NodeId, TargetId},
    version::{ChainTableVersion, ChainVersion},
};

/// Asks for a new version of a chain table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppendTableRequest {
    /// The table; made when missing.
    pub table: ChainTableId,
    /// Its chains, in order. New files use these; files that exist keep the version they were made with.
    pub chains: Vec<ChainId>,
}

/// Asks for one more target of a chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddTargetRequest {
    /// The chain.
    pub chain: ChainId,
    /// The node that gets the target.
    pub node: NodeId,
    /// Its disk.
    pub disk: DiskIndex,
}

/// The target that was added. It is filled from now on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddTargetReply {
    /// Its id.
    pub target: TargetId,
    /// The chain's version with it.
    pub version: ChainVersion,
}

/// Asks that a target leaves its chain for good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoveTargetRequest {
    /// The target; it must be Offline.
    pub target: TargetId,
    /// Whether the chain may have fewer copies from now on.
    pub copies: CopiesPolicy,
}

/// Whether an action may leave a chain with fewer copies than it is meant to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CopiesPolicy {
    /// Refused.
    Keep,
    /// Done; the chain is meant to have that many from then on.
    AllowFewer,
}

/// Asks for another order of a chain's targets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetPreferredRequest {
    /// The chain.
    pub chain: ChainId,
    /// All of its targets, in the order wanted, head first.
    pub order: Vec<TargetId>,
}

/// Asks for one step towards the preferred order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RotateChainRequest {
    /// The chain.
    pub chain: ChainId,
}

/// What the step is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RotateChainReply {
    /// The target that its node was asked to take out of service; it comes back as the last one. `None`: the targets
    /// that serve stand in the preferred order already.
    pub target: Option<TargetId>,
    /// The version of the chain that the step begins with.
    pub version: ChainVersion,
}

/// Asks that a chain nobody serves goes on with another target than those that served last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForceLastServingRequest {
    /// The chain.
    pub chain: ChainId,
    /// The target it shall go on with.
    pub target: TargetId,
    /// Whether acknowledged writes may be lost.
    pub loss: LossPolicy,
}

/// Whether an action may lose acknowledged writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LossPolicy {
    /// Refused, with what may be lost.
    Refuse,
    /// Done, and noted.
    Accept,
}

/// What a forced change of the last serving set gave up. Kept by the manager for good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    /// The chain.
    pub chain: ChainId,
    /// Its version from which on it goes on with less.
    pub version: ChainVersion,
    /// The target it goes on with.
    pub target: TargetId,
    /// The version of the chain with which that target had stopped serving; writes that were acknowledged from then on may
    /// be lost. `None`: it never served.
    pub left: Option<ChainVersion>,
    /// The targets that held everything and were given up, with their nodes and disks.
    pub given_up: Vec<(TargetId, NodeId, DiskIndex)>,
    /// The versions of tables that name the chain: files of these may be hit.
    pub tables: Vec<(ChainTableId, ChainTableVersion)>,
}
