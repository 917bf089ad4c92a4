//! What changed between two maps, for those who have an older one.
//!
//! A delta names the entries that differ, as they are in the later map. It fits exactly the map it was made for: in one
//! between the two an entry may differ that is the same in both.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    chain::{Chain, ChainTable},
    id::{ChainId, ChainTableId, NodeId, TargetId},
    node::Node,
    routing::RoutingInfo,
    target::Target,
    version::{ChainTableVersion, RoutingVersion},
};

/// The changes of one kind of entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes<K, V> {
    /// New or changed.
    pub put: Vec<(K, V)>,
    /// Not there any more.
    pub gone: Vec<K>,
}

impl<K, V> Default for Changes<K, V> {
    fn default() -> Self {
        Self {
            put: Vec::new(),
            gone: Vec::new(),
        }
    }
}

impl<K: Ord + Copy, V: Clone> Changes<K, V> {
    /// What these keys lead to in `map` now.
    pub fn of(keys: impl IntoIterator<Item = K>, map: &BTreeMap<K, V>) -> Self {
        let mut changes = Self::default();
        for key in keys {
            match map.get(&key) {
                Some(value) => changes.put.push((key, value.clone())),
                None => changes.gone.push(key),
            }
        }
        changes
    }

    fn apply(&self, map: &mut BTreeMap<K, V>) {
        for key in &self.gone {
            map.remove(key);
        }
        map.extend(self.put.iter().cloned());
    }
}

/// See the module's text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoutingDelta {
    /// It fits the map of this version.
    pub from: RoutingVersion,
    /// It makes the map of this version.
    pub to: RoutingVersion,
    /// Nodes.
    pub nodes: Changes<NodeId, Node>,
    /// Targets.
    pub targets: Changes<TargetId, Target>,
    /// Chains.
    pub chains: Changes<ChainId, Chain>,
    /// Versions of tables.
    pub tables: Changes<(ChainTableId, ChainTableVersion), ChainTable>,
}

impl RoutingInfo {
    /// The map that a delta makes of this one; `None` when it was made for another one, or leads nowhere.
    pub fn after(&self, delta: &RoutingDelta) -> Option<RoutingInfo> {
        if self.version != delta.from || self.version >= delta.to {
            return None;
        }
        let mut map = self.clone();
        map.version = delta.to;
        delta.nodes.apply(&mut map.nodes);
        delta.targets.apply(&mut map.targets);
        delta.chains.apply(&mut map.chains);
        delta.tables.apply(&mut map.tables);
        Some(map)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::DiskIndex;

    fn target(id: u64, created: bool) -> Target {
        Target {
            id: TargetId(id),
            node: NodeId(1),
            disk: DiskIndex(0),
            chain: ChainId(1),
            created,
        }
    }

    #[test]
    fn a_delta_fits_the_map_it_was_made_for_and_no_other() {
        let map = |version| RoutingInfo {
            version: RoutingVersion(version),
            targets: [1, 2].map(|id| (TargetId(id), target(id, false))).into(),
            ..RoutingInfo::default()
        };
        let delta = RoutingDelta {
            from: RoutingVersion(4),
            to: RoutingVersion(7),
            targets: Changes {
                put: vec![(TargetId(2), target(2, true))],
                gone: vec![TargetId(1)],
            },
            ..RoutingDelta::default()
        };
        for version in [3, 5, 6, 7, 8] {
            assert_eq!(map(version).after(&delta), None, "{version}");
        }
        let after = map(4).after(&delta).unwrap();
        assert_eq!(after.version, RoutingVersion(7));
        let targets: Vec<&Target> = after.targets.values().collect();
        assert_eq!(targets, [&target(2, true)]);
        // One that would lead back, or nowhere.
        let back = RoutingDelta {
            to: RoutingVersion(4),
            ..delta
        };
        assert_eq!(map(4).after(&back), None);
    }
}
