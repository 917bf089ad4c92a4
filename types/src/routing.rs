//! The cluster's map at one version. Immutable; shared in an `Arc`; never replaced by an older one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    chain::{Chain, ChainTable},
    id::{ChainId, ChainTableId, NodeId, TargetId},
    node::Node,
    target::Target,
    version::{ChainTableVersion, RoutingVersion},
};

/// Nodes, targets, chains and tables at one version.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoutingInfo {
    /// Rises with each change below.
    pub version: RoutingVersion,
    /// Every registered process.
    pub nodes: BTreeMap<NodeId, Node>,
    /// Every target.
    pub targets: BTreeMap<TargetId, Target>,
    /// Every chain.
    pub chains: BTreeMap<ChainId, Chain>,
    /// Every version of every chain table.
    pub tables: BTreeMap<(ChainTableId, ChainTableVersion), ChainTable>,
}

impl RoutingInfo {
    /// The node that owns `target`.
    pub fn node_of(&self, target: TargetId) -> Option<&Node> {
        self.nodes.get(&self.targets.get(&target)?.node)
    }

    /// The newest version of a table.
    pub fn newest_table(&self, id: ChainTableId) -> Option<&ChainTable> {
        let first = (id, ChainTableVersion(0));
        let last = (id, ChainTableVersion(u32::MAX));
        self.tables
            .range(first..=last)
            .next_back()
            .map(|(_, table)| table)
    }

    /// The chain of a table's position.
    pub fn chain_at(
        &self,
        table: ChainTableId,
        version: ChainTableVersion,
        index: usize,
    ) -> Option<&Chain> {
        self.chains
            .get(self.tables.get(&(table, version))?.chains.get(index)?)
    }
}
