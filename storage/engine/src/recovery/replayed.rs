//! What the log says on top of the store's records: its entries applied, in order, to plain records.
//!
//! Each entry does here what its change did in memory when it was made; `Blocks::patched` is the same for both.

use std::collections::{BTreeMap, BTreeSet};

use types::{
    id::{ChainId, ChannelId, ClientId, TargetId},
    version::ChunkVersion,
};

use super::Problems;
use crate::{
    blocks::Blocks,
    channels::{ChannelKey, ChannelTable, StoredDone, decode_channel},
    chunk_meta::{
        CHANNEL_PREFIX, ChunkKey, RecordKey, StoredHead, StoredPosition, StoredVersion,
        StoredVersionSums, checksums_from, decode_record, decode_sums,
    },
    error::OpenError,
    log::entry::{LogEntry, LogRef, StoredBody, StoredPatch, StoredPlace, patches_at},
    meta_store::MetaStore,
};

/// What the log changes about the records of the store.
#[derive(Debug, Default)]
pub(crate) struct Replayed {
    /// Targets that were made, or removed.
    pub(super) targets: BTreeMap<TargetId, Option<ChainId>>,
    /// Chunks that were changed; without versions: dropped.
    pub(super) chunks: BTreeMap<ChunkKey, PlainRecord>,
    /// The channels of each target.
    pub(super) channels: BTreeMap<TargetId, ChannelTable>,
    /// Those that the log changes.
    pub(super) changed_channels: BTreeSet<ChannelKey>,
    /// Where blocks went that were moved inside the log, each further on.
    pub(super) moved: BTreeMap<LogRef, LogRef>,
    /// Chunks with entries that do not fit what is there: what they are now is unknown.
    pub(super) spoiled: BTreeSet<ChunkKey>,
    /// Why.
    pub(super) problems: Problems,
}

/// A record between disk and memory.
#[derive(Clone, Debug, Default)]
pub(super) struct PlainRecord {
    pub(super) committed: Option<PlainVersion>,
    pub(super) pending: Option<PlainVersion>,
}

#[derive(Clone, Debug)]
pub(super) struct PlainVersion {
    pub(super) head: StoredHead,
    pub(super) content: Option<(StoredPosition, Blocks<LogRef>)>,
}

/// Applies the entries of the log. Blocks: not for async threads.
///
/// # Errors
/// When the store cannot be read.
pub(crate) fn apply(
    store: &dyn MetaStore,
    entries: Vec<(LogEntry, LogRef)>,
) -> Result<Replayed, OpenError> {
    let mut replayed = Replayed::default();
    store.scan(CHANNEL_PREFIX, &mut |key, value| {
        replayed.channel(key, value);
    })?;
    for (entry, payload) in entries {
        replayed.apply(store, &entry, payload)?;
    }
    Ok(replayed)
}

impl Replayed {
    /// Takes a channel of the store.
    fn channel(&mut self, key: &[u8], value: &[u8]) {
        let Some(RecordKey::Channel(found)) = RecordKey::from_bytes(key) else {
            self.problems.add(format!("key {key:02x?} is no key"));
            return;
        };
        match decode_channel(found, value) {
            Ok(stored) => self
                .channels
                .entry(found.target)
                .or_default()
                .restore(stored),
            Err(error) => self.problems.add(format!("channel {key:02x?}: {error}")),
        }
    }

    fn put_channels(&mut self, target: TargetId, done: impl IntoIterator<Item = StoredDone>) {
        let table = self.channels.entry(target).or_default();
        let changed = done.into_iter().flat_map(|done| table.put(done)).collect();
        self.note_channels(target, changed);
    }

    fn clear_channels(&mut self, target: TargetId) {
        let table = self.channels.get_mut(&target);
        let cleared = table.map_or_else(Vec::new, ChannelTable::clear);
        self.note_channels(target, cleared);
    }

    fn note_channels(&mut self, target: TargetId, channels: Vec<(ClientId, ChannelId)>) {
        let key = |(client, channel)| ChannelKey {
            target,
            client,
            channel,
        };
        self.changed_channels.extend(channels.into_iter().map(key));
    }

    fn apply(
        &mut self,
        store: &dyn MetaStore,
        entry: &LogEntry,
        payload: LogRef,
    ) -> Result<(), OpenError> {
        let key = match entry {
            LogEntry::Target { target, chain } => {
                self.targets.insert(*target, Some(*chain));
                return Ok(());
            }
            LogEntry::TargetGone { target } => {
                self.targets.insert(*target, None);
                self.clear_channels(*target);
                return Ok(());
            }
            LogEntry::ChannelsAdopted { target, done } => {
                self.put_channels(*target, done.iter().copied());
                return Ok(());
            }
            LogEntry::ChannelsCleared { target } => {
                self.clear_channels(*target);
                return Ok(());
            }
            LogEntry::Moved { from, blocks } => {
                // Blocks are moved to the end of the log. Others could lead back to where they came from.
                if *from >= payload {
                    let reason = format!("the log moves blocks from {from:?} back to {payload:?}");
                    self.problems.add(reason);
                    return Ok(());
                }
                for block in 0..*blocks {
                    self.moved.insert(from.plus(block), payload.plus(block));
                }
                return Ok(());
            }
            LogEntry::Update { key, .. }
            | LogEntry::Commit { key, .. }
            | LogEntry::Discard { key }
            | LogEntry::Drop { key }
            | LogEntry::Folded { key, .. }
            | LogEntry::Relocated { key, .. } => ChunkKey::from(*key),
        };
        if self.spoiled.contains(&key) {
            return Ok(());
        }
        let record = self.record(store, key)?;
        let applied = record.and_then(|record| {
            record.apply(entry, payload)?;
            Ok(record.committed.as_ref().map(|committed| committed.head))
        });
        match applied {
            Ok(Some(head)) if matches!(entry, LogEntry::Commit { .. }) => {
                self.put_channels(key.target, StoredDone::of(key.chunk, &head));
            }
            Ok(_) => {}
            Err(reason) => {
                let reason = format!("the log does not fit the records: {reason}: {entry:?}");
                self.problems.add_of(key, &reason);
                self.chunks.remove(&key);
                self.spoiled.insert(key);
            }
        }
        Ok(())
    }

    /// The record as the log has left it so far.
    fn record(
        &mut self,
        store: &dyn MetaStore,
        key: ChunkKey,
    ) -> Result<Result<&mut PlainRecord, String>, OpenError> {
        if let std::collections::btree_map::Entry::Vacant(vacant) = self.chunks.entry(key) {
            let record = store.get(&RecordKey::Chunk(key).to_bytes())?;
            let sums = store.get(&RecordKey::Sums(key).to_bytes())?;
            match PlainRecord::decode(record.as_deref(), sums.as_deref()) {
                Ok(record) => drop(vacant.insert(record)),
                Err(reason) => return Ok(Err(reason)),
            }
        }
        Ok(Ok(self.chunks.get_mut(&key).expect("it was put there")))
    }
}

impl PlainRecord {
    pub(super) fn decode(record: Option<&[u8]>, sums: Option<&[u8]>) -> Result<Self, String> {
        let Some(record) = record else {
            return Ok(Self::default());
        };
        let stored = decode_record(record).map_err(|error| error.to_string())?;
        let sums = match sums {
            None => Vec::new(),
            Some(sums) => {
                let sums = decode_sums(sums).map_err(|error| error.to_string())?;
                sums.versions
            }
        };
        let version = |stored: Option<StoredVersion>| {
            stored
                .map(|stored| PlainVersion::new(stored, &sums))
                .transpose()
        };
        Ok(Self {
            committed: version(stored.committed)?,
            pending: version(stored.pending)?,
        })
    }

    fn apply(&mut self, entry: &LogEntry, payload: LogRef) -> Result<(), String> {
        match entry {
            LogEntry::Update { head, body, .. } => self.update(head, body, payload)?,
            LogEntry::Commit {
                version,
                chain_version,
                ..
            } => {
                let pending = self.pending.take();
                let pending = pending.filter(|pending| pending.head.version == *version);
                let mut pending = pending.ok_or("nothing to commit")?;
                pending.head.chain_version = *chain_version;
                self.committed = Some(pending);
            }
            LogEntry::Discard { .. } => self.pending = None,
            LogEntry::Drop { .. } => *self = Self::default(),
            LogEntry::Folded {
                version,
                blocks: folded,
                ..
            } => {
                let (_, blocks) = self.committed_content(*version)?;
                let is_folded = |block| folded.iter().any(|run| run.contains(block));
                blocks.overlay.retain(|(block, _)| !is_folded(*block));
            }
            LogEntry::Relocated {
                version, position, ..
            } => {
                let (before, blocks) = self.committed_content(*version)?;
                *before = *position;
                blocks.overlay.clear();
            }
            LogEntry::Target { .. }
            | LogEntry::TargetGone { .. }
            | LogEntry::Moved { .. }
            | LogEntry::ChannelsAdopted { .. }
            | LogEntry::ChannelsCleared { .. } => {
                return Err("not about a chunk".to_owned());
            }
        }
        Ok(())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.committed.is_none() && self.pending.is_none()
    }

    fn update(
        &mut self,
        head: &StoredHead,
        body: &StoredBody,
        payload: LogRef,
    ) -> Result<(), String> {
        let base = self.committed.as_ref();
        let base = base.and_then(|version| version.content.as_ref());
        let content = match body {
            StoredBody::Empty => None,
            StoredBody::Same => Some(base.ok_or("no content to keep")?.clone()),
            StoredBody::Whole { position, sums } => {
                Some((*position, Blocks::in_slot(checksums_from(sums))))
            }
            StoredBody::Logged { position, sums } => {
                let whole = StoredPatch {
                    first: 0,
                    sums: sums.clone(),
                    place: StoredPlace::Payload,
                };
                let none = Blocks::in_slot(Vec::new());
                Some((*position, none.patched(0, &patches_at(&[whole], payload))?))
            }
            StoredBody::Patched { keep, patches } => {
                let (position, blocks) = base.ok_or("no content to patch")?;
                let blocks = blocks.patched(*keep, &patches_at(patches, payload))?;
                Some((*position, blocks))
            }
        };
        self.pending = Some(PlainVersion {
            head: *head,
            content,
        });
        Ok(())
    }

    fn committed_content(
        &mut self,
        version: ChunkVersion,
    ) -> Result<&mut (StoredPosition, Blocks<LogRef>), String> {
        let committed = self.committed.as_mut();
        let committed = committed.filter(|committed| committed.head.version == version);
        let content = committed.and_then(|committed| committed.content.as_mut());
        content.ok_or_else(|| "no such committed content".to_owned())
    }
}

impl PlainVersion {
    fn new(stored: StoredVersion, sums: &[StoredVersionSums]) -> Result<Self, String> {
        let content = match stored.position {
            None => None,
            Some(position) => {
                let head = &stored.head;
                let found = sums.iter().find(|sums| {
                    sums.version == head.version
                        && sums.checksum == head.checksum
                        && sums.length == head.length
                        && sums.position == position
                });
                let sums = found.ok_or("the checksums of its blocks are missing")?;
                let blocks = Blocks {
                    sums: checksums_from(&sums.sums).into(),
                    overlay: stored.overlay,
                };
                Some((position, blocks))
            }
        };
        Ok(Self {
            head: stored.head,
            content,
        })
    }

    pub(super) fn stored(&self) -> StoredVersion {
        let content = self.content.as_ref();
        StoredVersion {
            head: self.head,
            position: content.map(|(position, _)| *position),
            overlay: content.map_or_else(Vec::new, |(_, blocks)| blocks.overlay.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{device::mem::PowerSwitch, meta_store::mem::MemStore};

    /// Whoever looks for a block that was moved would go round for ever.
    #[test]
    fn moves_that_lead_back_are_refused() {
        let store = MemStore::new(PowerSwitch::lasting());
        let place = |segment, at| LogRef { segment, at };
        let moved = |from, to| (LogEntry::Moved { from, blocks: 2 }, to);
        let forth = moved(place(1, 5), place(2, 3));
        let replayed = apply(&store, vec![forth.clone()]).unwrap();
        assert_eq!(replayed.moved.len(), 2);
        assert!(replayed.problems.list().is_empty());
        for back in [
            moved(place(2, 3), place(1, 5)),
            moved(place(2, 3), place(2, 3)),
        ] {
            let replayed = apply(&store, vec![forth.clone(), back]).unwrap();
            assert_eq!(replayed.moved.len(), 2);
            assert_eq!(replayed.problems.list().len(), 1);
        }
    }
}
