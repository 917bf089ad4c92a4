//! What is on the disk, as memory has it: targets, and the record of each chunk.

use std::{collections::BTreeMap, ops::Bound};

use types::{
    chunk::ChunkId,
    id::{ChainId, ChannelId, ClientId, InodeId, TargetId},
};

use crate::{
    channels::{ChannelKey, ChannelTable, StoredDone},
    chunk_meta::{ChunkKey, Record, RecordKey},
    committer::Value,
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
    pub(crate) chunks: BTreeMap<ChunkId, Record>,
    pub(crate) channels: ChannelTable,
}

impl TargetState {
    pub(crate) fn new(chain: ChainId) -> Self {
        Self {
            chain,
            used_bytes: 0,
            removing: false,
            chunks: BTreeMap::new(),
            channels: ChannelTable::default(),
        }
    }

    /// The chunks from `from` on, in order.
    pub(crate) fn from(&self, from: ChunkId) -> impl Iterator<Item = (ChunkId, &Record)> {
        let chunks = self.chunks.range(from..);
        chunks.map(|(&chunk, record)| (chunk, record))
    }

    /// The chunks of one file, last first.
    pub(crate) fn of_inode(&self, inode: InodeId) -> impl Iterator<Item = (ChunkId, &Record)> {
        let chunk = |index| ChunkId { inode, index };
        let chunks = self.chunks.range(chunk(0)..=chunk(u32::MAX)).rev();
        chunks.map(|(&chunk, record)| (chunk, record))
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

#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) targets: BTreeMap<TargetId, TargetState>,
}

impl State {
    /// The target, if chunks may be read and changed there.
    pub(crate) fn target(&self, target: TargetId) -> Result<&TargetState, EngineError> {
        let state = self.targets.get(&target).filter(|state| !state.removing);
        state.ok_or(EngineError::UnknownTarget { target })
    }

    pub(crate) fn record(&self, key: ChunkKey) -> Option<&Record> {
        self.targets.get(&key.target)?.chunks.get(&key.chunk)
    }

    /// Puts a record in place, or removes it; returns the one before. The target is there.
    pub(crate) fn replace(&mut self, key: ChunkKey, record: Option<Record>) -> Option<Record> {
        let target = self.targets.get_mut(&key.target);
        let target = target.expect("chunks change only in targets that are there");
        let added = record.as_ref().map_or(0, Record::slot_bytes);
        let before = match record {
            Some(record) => target.chunks.insert(key.chunk, record),
            None => target.chunks.remove(&key.chunk),
        };
        let removed = before.as_ref().map_or(0, Record::slot_bytes);
        target.used_bytes = target.used_bytes + added - removed;
        before
    }

    /// Updates of a target's channels are done; returns the records that have changed. The target is there.
    pub(crate) fn put_channels(
        &mut self,
        target: TargetId,
        done: impl IntoIterator<Item = StoredDone>,
    ) -> Vec<(RecordKey, Value)> {
        let state = self.targets.get_mut(&target);
        let state = state.expect("channels change only in targets that are there");
        let put = |done| state.channels.put(done);
        let changed: Vec<_> = done.into_iter().flat_map(put).collect();
        self.channel_records(target, changed)
    }

    /// Forgets a target's channels; returns the records that have changed.
    pub(crate) fn clear_channels(&mut self, target: TargetId) -> Vec<(RecordKey, Value)> {
        let state = self.targets.get_mut(&target);
        let cleared = state.map_or_else(Vec::new, |state| state.channels.clear());
        self.channel_records(target, cleared)
    }

    fn channel_records(
        &self,
        target: TargetId,
        channels: Vec<(ClientId, ChannelId)>,
    ) -> Vec<(RecordKey, Value)> {
        let record = |(client, channel)| {
            let key = ChannelKey {
                target,
                client,
                channel,
            };
            (RecordKey::Channel(key), self.channel_value(key))
        };
        channels.into_iter().map(record).collect()
    }

    /// What the store says of a channel.
    pub(crate) fn channel_value(&self, key: ChannelKey) -> Value {
        let target = self.targets.get(&key.target);
        let stored = target.and_then(|target| target.channels.get(key.client, key.channel));
        stored.map_or(Value::Gone, Value::Channel)
    }

    pub(crate) fn chunks(&self) -> impl Iterator<Item = (ChunkKey, &Record)> {
        self.all_after(None)
    }

    /// The chunk behind `after` in the order of keys, or the first one. Targets that are being removed do not count.
    pub(crate) fn after(&self, after: Option<ChunkKey>) -> Option<(ChunkKey, &Record)> {
        let mut chunks = self.all_after(after);
        chunks.find(|(key, _)| !self.targets[&key.target].removing)
    }

    /// The chunks behind `after` in the order of keys, or all.
    pub(crate) fn all_after(
        &self,
        after: Option<ChunkKey>,
    ) -> impl Iterator<Item = (ChunkKey, &Record)> {
        let from = after.map_or(TargetId(0), |after| after.target);
        let targets = self.targets.range(from..);
        targets.flat_map(move |(&target, state)| {
            let start = match after {
                Some(after) if after.target == target => Bound::Excluded(after.chunk),
                _ => Bound::Unbounded,
            };
            let chunks = state.chunks.range((start, Bound::Unbounded));
            chunks.map(move |(&chunk, record)| (ChunkKey { target, chunk }, record))
        })
    }

    /// Checks that marked slots = slots referred to + slots held, and that every chunk fits where it is.
    pub(crate) fn check(&self, slots: &SlotPool, problems: &mut Vec<String>) -> CheckReport {
        let referenced = referenced(self.chunks(), problems);
        let (held_slots, groups) = slots.check(&referenced, problems);
        let mut chunks = 0;
        for (&target, state) in &self.targets {
            let sum: u64 = state.chunks.values().map(Record::slot_bytes).sum();
            chunks += state.chunks.len() as u64;
            if sum != state.used_bytes {
                let counted = state.used_bytes;
                problems.push(format!("target {target} counts {counted} bytes, has {sum}"));
            }
        }
        CheckReport {
            targets: self.targets.len() as u64,
            chunks,
            slots: referenced.len() as u64,
            held_slots,
            groups,
        }
    }
}
