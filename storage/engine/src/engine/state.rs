//! What is on the disk, as memory has it: targets, and the record of each chunk.

use std::{collections::BTreeMap, sync::Arc};

use types::{
    chunk::ChunkId,
    id::{ChainId, InodeId, TargetId},
};

use crate::{
    chunk_meta::{ChunkKey, Record},
    error::EngineError,
    recovery::referenced,
    slots::SlotPool,
};

#[derive(Debug)]
pub(crate) struct TargetState {
    pub(crate) chain: ChainId,
    /// The sum over the slots of its chunks.
    pub(crate) used_bytes: u64,
    /// Set while its chunks are being removed with it.
    pub(crate) removing: bool,
}

impl TargetState {
    pub(crate) fn new(chain: ChainId) -> Self {
        Self {
            chain,
            used_bytes: 0,
            removing: false,
        }
    }
}

/// What `Engine::check` found in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckReport {
    /// Targets.
    pub targets: u64,
    /// Records of chunks, version floors among them.
    pub chunks: u64,
    /// Slots that records refer to.
    pub slots: u64,
    /// Slots taken by reads, updates and replaced records that are not durable yet.
    pub held_slots: u64,
    /// Group files.
    pub groups: u64,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) targets: BTreeMap<TargetId, TargetState>,
    pub(crate) chunks: BTreeMap<ChunkKey, Arc<Record>>,
}

impl State {
    /// The target, if chunks may be read and changed there.
    pub(crate) fn target(&self, target: TargetId) -> Result<&TargetState, EngineError> {
        let state = self.targets.get(&target).filter(|state| !state.removing);
        state.ok_or(EngineError::UnknownTarget { target })
    }

    /// Puts a record in place, or removes it; returns the one before.
    pub(crate) fn replace(
        &mut self,
        key: ChunkKey,
        record: Option<Arc<Record>>,
    ) -> Option<Arc<Record>> {
        let added = record.as_ref().map_or(0, |record| record.slot_bytes());
        let before = match record {
            Some(record) => self.chunks.insert(key, record),
            None => self.chunks.remove(&key),
        };
        let removed = before.as_ref().map_or(0, |record| record.slot_bytes());
        if let Some(target) = self.targets.get_mut(&key.target) {
            target.used_bytes = target.used_bytes + added - removed;
        }
        before
    }

    /// The chunks of a target from `from` on, in order.
    pub(crate) fn from(
        &self,
        target: TargetId,
        from: ChunkId,
    ) -> impl Iterator<Item = (ChunkId, &Arc<Record>)> {
        let chunks = self.chunks.range(
            ChunkKey {
                target,
                chunk: from,
            }..,
        );
        chunks
            .take_while(move |(key, _)| key.target == target)
            .map(|(key, record)| (key.chunk, record))
    }

    /// The chunks of one file, last first.
    pub(crate) fn of_inode(
        &self,
        target: TargetId,
        inode: InodeId,
    ) -> impl Iterator<Item = (ChunkId, &Arc<Record>)> {
        let chunk = |index| ChunkKey {
            target,
            chunk: ChunkId { inode, index },
        };
        let chunks = self.chunks.range(chunk(0)..=chunk(u32::MAX)).rev();
        chunks.map(|(key, record)| (key.chunk, record))
    }

    /// Checks that marked slots = slots referred to + slots held, and that every chunk fits where it is.
    pub(crate) fn check(&self, slots: &SlotPool, problems: &mut Vec<String>) -> CheckReport {
        let referenced = referenced(self.chunks.iter(), problems);
        let (held_slots, groups) = slots.check(&referenced, problems);
        let mut used: BTreeMap<TargetId, u64> = BTreeMap::new();
        for (key, record) in &self.chunks {
            *used.entry(key.target).or_default() += record.slot_bytes();
        }
        for (&target, state) in &self.targets {
            let sum = used.remove(&target).unwrap_or(0);
            if sum != state.used_bytes {
                let counted = state.used_bytes;
                problems.push(format!("target {target} counts {counted} bytes, has {sum}"));
            }
        }
        for target in used.into_keys() {
            problems.push(format!("chunks of target {target}, which is not here"));
        }
        CheckReport {
            targets: self.targets.len() as u64,
            chunks: self.chunks.len() as u64,
            slots: referenced.len() as u64,
            held_slots,
            groups,
        }
    }
}
