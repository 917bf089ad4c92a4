//! The state that the manager group agrees on: the routing map, and what makes new ids and fences.
//!
//! Changed only by `apply`, one log entry at a time. Published in an `Arc` after each entry, never
//! changed in place. `check` holds its invariants; tests run it after every entry.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use types::{
    chain::Chain,
    codec::{self, DecodeError, Versioned},
    id::{ChainId, NodeId, TargetId},
    node::{Node, NodeKind, NodeStatus},
    routing::RoutingInfo,
    rpc::{mgmtd::StepDown, operator::Loss},
    version::{ChainVersion, RoutingVersion},
};

use crate::{
    command::{Asked, Outcome},
    transition,
};

/// The replicated state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cluster {
    /// What everybody sees. Its version rises by one with each entry that changes anything.
    pub(crate) routing: Arc<RoutingInfo>,
    /// Ids below were given out; they are never given out again.
    pub(crate) next_chain: u32,
    /// As `next_chain`.
    pub(crate) next_target: u64,
    /// The version at which a node was last declared failed. It gets a lease only once it works by a map
    /// at least as new, or it would serve readers by the map in which it still does.
    pub(crate) fences: BTreeMap<NodeId, RoutingVersion>,
    /// The last requests of operators, oldest first, with what they came to.
    pub(crate) answered: VecDeque<(Asked, Outcome)>,
    /// How many copies each chain is meant to have.
    pub(crate) copies: BTreeMap<ChainId, u32>,
    /// The version of its chain with which a target stopped holding everything; none for one that does.
    pub(crate) left_at: BTreeMap<TargetId, ChainVersion>,
    /// The targets that are to step down, each at one version of its chain.
    pub(crate) rotating: BTreeMap<ChainId, StepDown>,
    /// What forced changes gave up, oldest first.
    pub(crate) losses: Vec<Loss>,
}

impl Versioned for Cluster {
    const VERSION: u16 = 2;
}

/// The state before operators' actions. Read, not written.
#[derive(Debug, Serialize, Deserialize)]
struct ClusterV1 {
    routing: Arc<RoutingInfo>,
    next_chain: u32,
    next_target: u64,
    fences: BTreeMap<NodeId, RoutingVersion>,
    answered: VecDeque<(Asked, Outcome)>,
}

impl Versioned for ClusterV1 {
    const VERSION: u16 = 1;
}

impl From<ClusterV1> for Cluster {
    fn from(old: ClusterV1) -> Self {
        // Nothing could be added or removed: every chain has as many targets as it was made with.
        let count = |chain: &Chain| u32::try_from(chain.targets.len()).unwrap_or(u32::MAX);
        let copies = old.routing.chains.iter();
        Self {
            copies: copies.map(|(id, chain)| (*id, count(chain))).collect(),
            routing: old.routing,
            next_chain: old.next_chain,
            next_target: old.next_target,
            fences: old.fences,
            answered: old.answered,
            ..Self::default()
        }
    }
}

impl Default for Cluster {
    fn default() -> Self {
        Self {
            routing: Arc::default(),
            next_chain: 1,
            next_target: 1,
            fences: BTreeMap::new(),
            answered: VecDeque::new(),
            copies: BTreeMap::new(),
            left_at: BTreeMap::new(),
            rotating: BTreeMap::new(),
            losses: Vec::new(),
        }
    }
}

impl Cluster {
    /// Reads a state of this release or the one before.
    ///
    /// # Errors
    /// When the bytes are neither.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        match codec::decode::<Self>(bytes) {
            Err(DecodeError::Version { found: 1, .. }) => {
                codec::decode::<ClusterV1>(bytes).map(Self::from)
            }
            decoded => decoded,
        }
    }

    /// The map, to be changed; readers keep theirs.
    pub(crate) fn routing_mut(&mut self) -> &mut RoutingInfo {
        Arc::make_mut(&mut self.routing)
    }

    /// How many copies a chain is meant to have.
    pub(crate) fn copies_of(&self, chain: &Chain) -> u32 {
        let targets = u32::try_from(chain.targets.len()).unwrap_or(u32::MAX);
        self.copies.get(&chain.id).copied().unwrap_or(targets)
    }

    /// The storage nodes that count as alive.
    pub(crate) fn alive_storage(&self) -> impl Iterator<Item = &Node> {
        self.routing
            .nodes
            .values()
            .filter(|node| node.kind == NodeKind::Storage && node.status == NodeStatus::Alive)
    }

    /// What is true of every state; each violation in words.
    pub(crate) fn check(&self) -> Result<(), Vec<String>> {
        let mut wrong = Vec::new();
        self.check_chains(&mut wrong);
        self.check_tables(&mut wrong);
        for (id, target) in &self.routing.targets {
            let seated = self
                .routing
                .chains
                .get(&target.chain)
                .is_some_and(|chain| chain.state_of(*id).is_some());
            if target.id != *id || !seated {
                wrong.push(format!("target {id} has no seat in chain {}", target.chain));
            }
            if id.0 >= self.next_target {
                wrong.push(format!("target {id} was never given out"));
            }
            if !self.routing.nodes.contains_key(&target.node) {
                wrong.push(format!(
                    "target {id} is on the unknown node {}",
                    target.node
                ));
            }
        }
        for (id, step) in &self.rotating {
            let chain = self.routing.chains.get(id);
            if chain.is_none_or(|chain| chain.version != step.chain_version) {
                wrong.push(format!(
                    "chain {id} rotates at a version that is not its own"
                ));
            }
        }
        for id in self.left_at.keys() {
            if !self.routing.targets.contains_key(id) {
                wrong.push(format!("target {id} left a chain but does not exist"));
            }
        }
        for (id, fence) in &self.fences {
            if *fence > self.routing.version {
                wrong.push(format!("the fence of node {id} lies ahead of the map"));
            }
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    }

    fn check_chains(&self, wrong: &mut Vec<String>) {
        for (id, chain) in &self.routing.chains {
            if let Err(error) = transition::check_chain(chain) {
                wrong.push(format!("chain {id}: {error}"));
            }
            if chain.id != *id || id.0 >= self.next_chain {
                wrong.push(format!("chain {id} was never given out"));
            }
            let mut preferred = chain.preferred.clone();
            let mut ids: Vec<TargetId> = chain.targets.iter().map(|target| target.id).collect();
            preferred.sort_unstable();
            ids.sort_unstable();
            if preferred != ids {
                wrong.push(format!("chain {id} prefers an order of other targets"));
            }
            let mut nodes = BTreeSet::new();
            for target in &chain.targets {
                match self.routing.targets.get(&target.id) {
                    Some(found) if found.chain != *id => {
                        wrong.push(format!("target {} belongs to another chain", target.id));
                    }
                    Some(found) if !nodes.insert(found.node) => {
                        wrong.push(format!("chain {id} has two targets on node {}", found.node));
                    }
                    Some(_) => {}
                    None => {
                        wrong.push(format!("chain {id} names the unknown target {}", target.id))
                    }
                }
            }
        }
    }

    fn check_tables(&self, wrong: &mut Vec<String>) {
        for ((id, version), table) in &self.routing.tables {
            if (table.id, table.version) != (*id, *version) {
                wrong.push(format!(
                    "table {id} version {version} is filed under another key"
                ));
            }
            let unknown = |chain: &&ChainId| !self.routing.chains.contains_key(chain);
            if let Some(chain) = table.chains.iter().find(unknown) {
                wrong.push(format!("table {id} names the unknown chain {chain}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use types::id::{ChainTableId, ClientId, DiskIndex, RequestId};

    use super::*;
    use crate::{
        apply::apply,
        command::{Command, Observation, Registration, Seat},
    };

    #[test]
    fn the_bytes_of_the_state_are_pinned() {
        let mut cluster = Cluster::default();
        let registration = Registration {
            id: NodeId(7),
            kind: NodeKind::Storage,
            addresses: vec!["a:1".to_owned()],
            tags: vec!["r".to_owned()],
        };
        let seat = Seat {
            node: NodeId(7),
            disk: DiskIndex(2),
        };
        let commands = [
            Command::RegisterNode(registration),
            Command::CreateChains {
                table: ChainTableId(3),
                chains: vec![vec![seat]],
                asked: Asked {
                    client: ClientId(4),
                    request: RequestId(5),
                },
            },
            Command::Observe(Observation {
                nodes: vec![(NodeId(7), NodeStatus::Failed)],
                created: vec![TargetId(1)],
                chains: Vec::new(),
            }),
        ];
        for command in &commands {
            apply(&mut cluster, command).accepted().unwrap();
        }
        let bytes = codec::encode(&cluster);
        assert_eq!(Cluster::decode(&bytes).unwrap(), cluster);
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        // The part of version 1, then what version 2 appends.
        let pinned = "010003010707000103613a31010172010101010702010101010101010100010101030103010101020201070301040501010101";
        assert_eq!(
            hex,
            format!("02{}0101010000 00", &pinned[2..]).replace(' ', "")
        );
        // A snapshot of version 1 is read as what it means.
        let old: Vec<u8> = (0..pinned.len() / 2)
            .map(|at| u8::from_str_radix(&pinned[2 * at..2 * at + 2], 16).unwrap())
            .collect();
        assert_eq!(Cluster::decode(&old).unwrap(), cluster);
    }
}
