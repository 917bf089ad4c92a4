//! What changed in the last maps, so that a subscriber with one of them gets only that (protocol M5).
//!
//! Kept is which entries changed in each step, not what they were: a delta takes their values from the map that it leads
//! to. Several entries of the log may be published as one step, and another member may have published what lies between:
//! who has a map that was not published here gets the whole one, as does one that is too far behind. Derived and bounded.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use types::{
    id::{ChainId, ChainTableId, NodeId, TargetId},
    routing::RoutingInfo,
    routing_delta::{Changes, RoutingDelta},
    version::{ChainTableVersion, RoutingVersion},
};

#[cfg(test)]
mod tests;

/// Entries that are remembered in all: a few MiB.
const KEYS_MAX: usize = 65_536;

/// The entries that changed.
#[derive(Debug, Default)]
struct Touched {
    nodes: BTreeSet<NodeId>,
    targets: BTreeSet<TargetId>,
    chains: BTreeSet<ChainId>,
    tables: BTreeSet<(ChainTableId, ChainTableVersion)>,
}

/// From one map that was published to the next.
#[derive(Debug)]
struct Step {
    from: RoutingVersion,
    to: RoutingVersion,
    touched: Touched,
}

/// See the module's text.
#[derive(Debug, Default)]
pub(crate) struct History {
    /// Each begins where the one before ends.
    steps: VecDeque<Step>,
    keys: usize,
}

impl Touched {
    fn between(old: &RoutingInfo, new: &RoutingInfo) -> Self {
        Self {
            nodes: differing(&old.nodes, &new.nodes),
            targets: differing(&old.targets, &new.targets),
            chains: differing(&old.chains, &new.chains),
            tables: differing(&old.tables, &new.tables),
        }
    }

    fn add(&mut self, other: &Self) {
        self.nodes.extend(&other.nodes);
        self.targets.extend(&other.targets);
        self.chains.extend(&other.chains);
        self.tables.extend(&other.tables);
    }

    fn count(&self) -> usize {
        self.nodes.len() + self.targets.len() + self.chains.len() + self.tables.len()
    }
}

/// The keys whose values differ, or that only one of the two has.
fn differing<K: Ord + Copy, V: PartialEq>(
    old: &BTreeMap<K, V>,
    new: &BTreeMap<K, V>,
) -> BTreeSet<K> {
    let gone = old.keys().filter(|key| !new.contains_key(*key));
    let put = new
        .iter()
        .filter(|(key, value)| old.get(*key) != Some(*value));
    gone.copied().chain(put.map(|(key, _)| *key)).collect()
}

impl History {
    /// `new` is about to be published after `old`.
    pub(crate) fn note(&mut self, old: &RoutingInfo, new: &RoutingInfo) {
        if self.steps.back().is_some_and(|last| last.to != old.version) {
            self.steps.clear();
            self.keys = 0;
        }
        let touched = Touched::between(old, new);
        self.keys += touched.count();
        self.steps.push_back(Step {
            from: old.version,
            to: new.version,
            touched,
        });
        while self.keys > KEYS_MAX {
            let Some(oldest) = self.steps.pop_front() else {
                break;
            };
            self.keys -= oldest.touched.count();
        }
    }

    /// What leads from the map of version `known` to `now`; `None` when that is not remembered, or no shorter than the map.
    pub(crate) fn since(&self, known: RoutingVersion, now: &RoutingInfo) -> Option<RoutingDelta> {
        let steps = self
            .steps
            .iter()
            .skip_while(|step| step.to <= known)
            .take_while(|step| step.to <= now.version);
        let mut touched = Touched::default();
        let (mut from, mut to) = (None, known);
        for step in steps {
            from = from.or(Some(step.from));
            to = step.to;
            touched.add(&step.touched);
        }
        let from = from.filter(|from| *from == known && to == now.version)?;
        let all = now.nodes.len() + now.targets.len() + now.chains.len() + now.tables.len();
        if touched.count() >= all {
            return None;
        }
        Some(RoutingDelta {
            from,
            to,
            nodes: Changes::of(touched.nodes, &now.nodes),
            targets: Changes::of(touched.targets, &now.targets),
            chains: Changes::of(touched.chains, &now.chains),
            tables: Changes::of(touched.tables, &now.tables),
        })
    }
}
