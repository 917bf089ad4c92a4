//! Chains: targets in order, head first.

use serde::{Deserialize, Serialize};

use crate::{
    id::{ChainId, ChainTableId, TargetId},
    target::PublicState,
    version::{ChainTableVersion, ChainVersion},
};

/// A target's place in its chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ChainTarget {
    /// Which target.
    pub id: TargetId,
    /// What mgmtd decided for it.
    pub state: PublicState,
}

/// A replication chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chain {
    /// Its identity.
    pub id: ChainId,
    /// Rises by one with each change below.
    pub version: ChainVersion,
    /// Sorted by state (`PublicState::ALL`), head first.
    pub targets: Vec<ChainTarget>,
    /// The order the operator wants.
    pub preferred: Vec<TargetId>,
}

impl Chain {
    /// The first target, when it serves.
    pub fn head(&self) -> Option<TargetId> {
        self.targets
            .first()
            .filter(|t| t.state == PublicState::Serving)
            .map(|t| t.id)
    }

    /// The last target that serves: it decides what is committed.
    pub fn last_serving(&self) -> Option<TargetId> {
        self.serving().last()
    }

    /// The targets that serve, head first.
    pub fn serving(&self) -> impl Iterator<Item = TargetId> {
        self.targets
            .iter()
            .filter(|t| t.state == PublicState::Serving)
            .map(|t| t.id)
    }

    /// The next target after `target` that takes writes.
    pub fn successor(&self, target: TargetId) -> Option<ChainTarget> {
        let position = self.targets.iter().position(|t| t.id == target)?;
        self.targets
            .get(position + 1)
            .copied()
            .filter(|t| matches!(t.state, PublicState::Serving | PublicState::Syncing))
    }

    /// The target before `target`.
    pub fn predecessor(&self, target: TargetId) -> Option<ChainTarget> {
        let position = self.targets.iter().position(|t| t.id == target)?;
        self.targets.get(position.checked_sub(1)?).copied()
    }

    /// What mgmtd decided for `target`.
    pub fn state_of(&self, target: TargetId) -> Option<PublicState> {
        self.targets
            .iter()
            .find(|t| t.id == target)
            .map(|t| t.state)
    }
}

/// An ordered list of chains that layouts index. Versions are only ever appended: files remember theirs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainTable {
    /// Its identity.
    pub id: ChainTableId,
    /// Its version.
    pub version: ChainTableVersion,
    /// The chains, in order.
    pub chains: Vec<ChainId>,
}
