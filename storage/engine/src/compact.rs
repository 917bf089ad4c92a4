//! Compaction: groups with few chunks are emptied, so that their files can be given back.
//!
//! The committed content of a chunk is copied, verified, to a slot of a fuller group. Then, in one step under the lock,
//! the committed version gets the new slot, if it is still the same version and nothing is pending: else its new slot is
//! given up. The change is written to the log after the group it was copied to is synced, as with any other; until it
//! is durable the old slot is held (E5), so whatever a crash leaves refers to bytes that are there. An update that began with the
//! old slot finds it changed when it wants to become pending, and begins anew.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use common::sync::Mutex;

use crate::{
    chunk_meta::{ChunkKey, Content, Detail, Record, StoredPosition, Version},
    committer::Urgency,
    engine::{Inner, NewRecord},
    error::EngineError,
    group::{BLOCK_BYTES, GroupId, block_count},
    log::entry::LogEntry,
    slots::{Purpose, Slot},
};

/// Chunks moved before the background looks after other things.
const CHUNKS_MAX: usize = 256;
/// And so many bytes of slots: until the step is durable they are taken twice.
const SLOT_BYTES_MAX: u64 = 256 << 20;
/// Records looked at before others get the lock.
const RECORDS_MAX: usize = 4096;
/// Groups that are emptied together: their chunks are found by looking at all records once.
const GROUPS_MAX: usize = 16;

/// Groups that could not be emptied, with the slots taken then: not tried again before that changes.
#[derive(Debug, Default)]
pub(crate) struct Compaction {
    in_vain: Mutex<BTreeMap<GroupId, u16>>,
}

/// What one step did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Compacted {
    pub(crate) chunks: u64,
    /// Whether there may be more to do.
    pub(crate) more: bool,
}

impl Inner {
    /// Empties some groups, if there are any that are worth it, as far as one step goes.
    pub(crate) async fn compact(&self) -> Result<Compacted, EngineError> {
        let mut groups = self.slots.worth_emptying();
        {
            let in_vain = self.compaction.in_vain.lock();
            groups.retain(|(group, taken)| in_vain.get(group) != Some(taken));
        }
        groups.truncate(GROUPS_MAX);
        let mut compacted = Compacted::default();
        if groups.is_empty() {
            return Ok(compacted);
        }
        let leaving: BTreeSet<GroupId> = groups.iter().map(|(group, _)| *group).collect();
        let (keys, found_all) = self.chunks_in(&leaving);
        for (key, version) in keys {
            if self.relocate(key, version, &leaving).await? {
                compacted.chunks += 1;
            }
        }
        // The old slots are free when that is durable.
        self.committer.flush().wait(&self.health).await?;
        compacted.more = compacted.chunks > 0;
        if found_all {
            let now: BTreeMap<GroupId, u16> = self.slots.worth_emptying().into_iter().collect();
            let mut in_vain = self.compaction.in_vain.lock();
            in_vain.retain(|group, _| now.contains_key(group));
            let left = leaving.iter().filter_map(|group| now.get_key_value(group));
            in_vain.extend(left);
        }
        tracing::debug!(?compacted, ?leaving, "compacted");
        Ok(compacted)
    }

    /// Chunks in these groups of which nothing is pending, and whether these are all.
    fn chunks_in(&self, groups: &BTreeSet<GroupId>) -> (Vec<(ChunkKey, Arc<Version>)>, bool) {
        let mut found = Vec::new();
        let mut slot_bytes = 0;
        let mut after = None;
        loop {
            let state = self.state.lock();
            let mut looked = 0;
            for (key, record) in state.all_after(after).take(RECORDS_MAX) {
                looked += 1;
                after = Some(key);
                if let Some(version) = movable(record, groups) {
                    found.push((key, version.clone()));
                    slot_bytes += record.slot_bytes();
                    if found.len() == CHUNKS_MAX || slot_bytes >= SLOT_BYTES_MAX {
                        return (found, false);
                    }
                }
            }
            if looked < RECORDS_MAX {
                return (found, true);
            }
        }
    }

    /// Copies the committed content of a chunk to a slot outside of these groups; false when it stays where it is: it is in use,
    /// damaged, or there is no such slot.
    async fn relocate(
        &self,
        key: ChunkKey,
        version: Arc<Version>,
        leaving: &BTreeSet<GroupId>,
    ) -> Result<bool, EngineError> {
        let Some(content) = &version.content else {
            return Ok(false);
        };
        let class = content.slot.position().group.class;
        let slot = match self.slots.take_outside(class, leaving).await {
            Ok(Some(slot)) => slot,
            Ok(None) | Err(EngineError::NoSpace { .. }) => return Ok(false),
            Err(error) => return Err(error),
        };
        match self.copy_to(key, &version, slot).await {
            Ok(moved) => Ok(moved),
            // Whoever reads it gets the error too, and scrub reports it.
            Err(
                error @ (EngineError::ChunkCorrupt { .. }
                | EngineError::ReadFailed { .. }
                | EngineError::NoSpace { .. }),
            ) => {
                tracing::warn!(%error, chunk = %key.chunk, "a chunk stays in a group that was to be emptied");
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Copies a version, and lets the chunk have the copy if that version is still the committed one.
    async fn copy_to(
        &self,
        key: ChunkKey,
        version: &Arc<Version>,
        slot: Arc<Slot>,
    ) -> Result<bool, EngineError> {
        let Some(source) = self.source(key, version).await? else {
            return Ok(false);
        };
        let blocks = block_count(source.length());
        let mut buf = self.buffers.allocate((blocks * BLOCK_BYTES) as usize);
        buf = self.read_blocks(&source, 0..blocks, buf).await?;
        // What follows the content in its last block may be old bytes: zeros are written there.
        buf[source.length() as usize..].fill(0);
        let claimed = slot.claim(0, blocks * BLOCK_BYTES);
        assert!(claimed, "a new slot has not been written");
        self.write_image(&slot, 0, vec![buf.freeze()]).await?;
        let position = slot.position();
        let entry = LogEntry::Relocated {
            key: key.into(),
            version: version.head.version,
            position: StoredPosition::of(position),
        };
        let detail = Arc::new(Detail::in_slot(source.detail.sums.clone()));
        let moved = Version {
            head: version.head,
            content: Some(Content::new(slot, Some(detail))),
        };
        let mut state = self.state.lock();
        let current = state.record(key);
        let unchanged = current.is_some_and(|record| {
            let committed = record.committed.as_ref();
            record.pending.is_none()
                && committed.is_some_and(|committed| Arc::ptr_eq(committed, version))
        });
        if !unchanged {
            return Ok(false);
        }
        let record = Record {
            committed: Some(Arc::new(moved)),
            pending: None,
        };
        let change = NewRecord {
            dirty: Some(position.group),
            ..NewRecord::plain(Some(record), &entry)
        };
        drop(self.install(&mut state, key, change, Urgency::Later));
        Ok(true)
    }

    /// Moves one chunk, whatever its group looks like.
    pub(crate) async fn relocate_one(&self, key: ChunkKey) -> Result<bool, EngineError> {
        let version = {
            let state = self.state.lock();
            let record = state.target(key.target)?.chunks.get(&key.chunk);
            record.and_then(|record| record.committed.clone())
        };
        let Some((version, class)) = version.and_then(|version| {
            let class = version.content.as_ref()?.slot.position().group.class;
            Some((version, class))
        }) else {
            return Ok(false);
        };
        let slot = match self.slots.allocate(class, Purpose::NewVersion).await {
            Ok(slot) => slot,
            Err(EngineError::NoSpace { .. }) => return Ok(false),
            Err(error) => return Err(error),
        };
        self.copy_to(key, &version, slot).await
    }
}

/// The committed version of a chunk in these groups of which nothing is pending.
fn movable<'a>(record: &'a Record, groups: &BTreeSet<GroupId>) -> Option<&'a Arc<Version>> {
    let version = record.committed.as_ref()?;
    let group = version.content.as_ref()?.slot.position().group;
    (record.pending.is_none() && groups.contains(&group)).then_some(version)
}
