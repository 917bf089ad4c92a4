//! Nodes: the registered processes of a cluster.

use serde::{Deserialize, Serialize};

use crate::id::NodeId;

/// What a node does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeKind {
    /// Holds chunks.
    Storage,
    /// Serves the namespace.
    Meta,
    /// A member of the manager group.
    Mgmtd,
}

/// What mgmtd thinks of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeStatus {
    /// Its lease is valid, or not yet proven to have run out.
    Alive,
    /// Its lease and the margin have run out.
    Failed,
}

/// A registered process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its identity, from its configuration.
    pub id: NodeId,
    /// What it does.
    pub kind: NodeKind,
    /// Where it listens, `host:port`, best first.
    pub addresses: Vec<String>,
    /// Failure domains from outer to inner, for example `rack=3`.
    pub tags: Vec<String>,
    /// What mgmtd thinks of it.
    pub status: NodeStatus,
}
