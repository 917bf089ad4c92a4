//! Empties the oldest segments of the log: blocks of small updates are folded into the slots they belong to.
//!
//! A block may be written over in its slot when nobody can read what stood there: every version that uses the slot has
//! that block in the log. That holds when the committed version is the only one that uses the slot (nothing is pending
//! there, no reader holds an older version) and is durable as committed: whatever a crash leaves then reads the block
//! from the log. Updates made meanwhile start from the committed version and have the block in the log too.
//!
//! 1. Choose chunks with blocks in the oldest segments.
//! 2. Flush the log: what is committed in memory is committed on the disk.
//! 3. Copy their blocks from the log to the slots, verified; sync the groups.
//! 4. Put the same version without these blocks in the log in place, unless the chunk has changed.
//! 5. What could not be folded is copied to the end of the log when the log runs full.
//! 6. A checkpoint: after it no record refers to the segments, and their files are free.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use common::buf::{RegisteredBuf, SharedBuf};
use futures::{StreamExt as _, stream};

use crate::{
    blocks::Blocks,
    chunk_meta::{ChunkKey, Content, Detail, Record, RecordKey, Version},
    committer::{Entry, Urgency, Value},
    engine::{Inner, NewRecord, read::Source},
    error::EngineError,
    group::{BLOCK_BYTES, GroupId, block_count},
    log::{
        LogData, Segment,
        entry::{LogEntry, LogRef},
    },
};

/// Segments emptied in one round.
const SEGMENTS: usize = 2;
/// Chunks folded at a time: their group files are synced together.
const CHUNKS: usize = 256;
/// Chunks whose blocks are copied at the same time.
const CONCURRENCY: usize = 16;

/// What one round did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Folded {
    pub(crate) chunks: u64,
    pub(crate) blocks: u64,
    /// Blocks copied inside the log.
    pub(crate) moved: u64,
}

impl Inner {
    /// One round: empties the oldest segments as far as may be.
    pub(crate) async fn fold(&self) -> Result<Folded, EngineError> {
        let segments = self.log.oldest();
        let oldest: BTreeSet<u64> = segments
            .iter()
            .take(SEGMENTS)
            .map(|segment| segment.number)
            .collect();
        let mut folded = Folded::default();
        let Some(&newest) = oldest.last() else {
            return Ok(folded);
        };
        let keys = self.keys_with_blocks_up_to(newest);
        for keys in keys.chunks(CHUNKS) {
            self.fold_chunks(keys, &mut folded).await?;
        }
        if self.log.fill().is_full() {
            // What was folded is let go when that is durable.
            self.committer.flush().wait(&self.health).await?;
            for segment in segments.iter().filter(|segment| segment.number <= newest) {
                self.empty(segment, &mut folded).await?;
            }
        }
        Ok(folded)
    }

    /// Chunks whose committed version has blocks in a segment up to this one.
    fn keys_with_blocks_up_to(&self, newest: u64) -> Vec<ChunkKey> {
        let overlaid = self.overlaid.lock();
        let keys: Vec<ChunkKey> = overlaid.iter().copied().collect();
        drop(overlaid);
        let mut found = Vec::new();
        for key in keys {
            let state = self.state.lock();
            let record = state.record(key);
            let places = record.map(oldest_place);
            match places {
                Some(Some(oldest)) if oldest <= newest => found.push(key),
                Some(Some(_)) => {}
                Some(None) | None => {
                    // Under the lock of the state, under which it would be put there again.
                    self.overlaid.lock().remove(&key);
                }
            }
        }
        found
    }

    /// Copies what the chunks have in the log into their slots.
    async fn fold_chunks(&self, keys: &[ChunkKey], folded: &mut Folded) -> Result<(), EngineError> {
        let chosen: Vec<(ChunkKey, Arc<Version>)> = {
            let state = self.state.lock();
            let records = keys.iter().map(|&key| (key, state.record(key)));
            records
                .filter_map(|(key, record)| Some((key, record?.committed.clone()?)))
                .collect()
        };
        self.committer.flush().wait(&self.health).await?;
        let ready: Vec<(ChunkKey, Arc<Version>)> = {
            let state = self.state.lock();
            let chosen = chosen.into_iter();
            chosen
                .filter(|(key, version)| is_alone(state.record(*key), version))
                .collect()
        };
        let copies = stream::iter(ready.into_iter().map(|(key, version)| async move {
            let copied = self.copy_blocks(key, &version).await?;
            Ok::<_, EngineError>(copied.then_some((key, version)))
        }));
        let copied: Vec<_> = copies.buffer_unordered(CONCURRENCY).collect().await;
        let mut done = Vec::new();
        for copied in copied {
            done.extend(copied?);
        }
        let groups: BTreeSet<GroupId> = done
            .iter()
            .filter_map(|(_, version)| Some(version.content.as_ref()?.slot.position().group))
            .collect();
        for group in groups {
            let synced = self.slots.device().sync(group.into()).await;
            synced.map_err(|error| self.health.fail(format!("cannot sync a group: {error}")))?;
        }
        for (key, version) in done {
            self.put_folded(key, &version, folded);
        }
        Ok(())
    }

    /// Copies the blocks of one version; false when they cannot be read: they stay where they are, for a reader to
    /// find and to repair.
    async fn copy_blocks(
        &self,
        key: ChunkKey,
        version: &Arc<Version>,
    ) -> Result<bool, EngineError> {
        let Some(source) = self.source(key, version).await? else {
            return Ok(false);
        };
        for (first, count) in neighbours(&source.detail) {
            let buf = self.buffers.allocate((count * BLOCK_BYTES) as usize);
            let blocks = first..first + count;
            let mut buf = match self.read_blocks(&source, blocks, buf).await {
                Ok(buf) => buf,
                Err(EngineError::ChunkCorrupt { .. } | EngineError::ReadFailed { .. }) => {
                    return Ok(false);
                }
                Err(error) => return Err(error),
            };
            clear_padding(&source, first, &mut buf);
            source.slot().claim_up_to((first + count) * BLOCK_BYTES);
            self.write_image(source.slot(), first * BLOCK_BYTES, vec![buf.freeze()])
                .await?;
        }
        Ok(true)
    }

    /// Puts the version without blocks in the log in place.
    fn put_folded(&self, key: ChunkKey, version: &Arc<Version>, folded: &mut Folded) {
        let Some((content, detail)) = version
            .content
            .as_ref()
            .and_then(|content| Some((content, content.detail.load_full()?)))
        else {
            return;
        };
        let mut state = self.state.lock();
        let record = state.record(key);
        let record = record.filter(|record| is_current(record, version)).cloned();
        let Some(record) = record else {
            return;
        };
        let committed = Version {
            head: version.head,
            content: Some(Content::new(
                content.slot.clone(),
                Some(Arc::new(Blocks::in_slot(detail.sums.clone()))),
            )),
        };
        let entry = LogEntry::Folded {
            key: key.into(),
            version: version.head.version,
        };
        let record = Record {
            committed: Some(Arc::new(committed)),
            pending: record.pending,
        };
        let change = NewRecord::plain(Some(record), &entry);
        drop(self.install(&mut state, key, change, Urgency::Later));
        folded.chunks += 1;
        folded.blocks += detail.overlay.len() as u64;
    }

    /// Copies what is still needed in a segment to the end of the log.
    async fn empty(&self, segment: &Arc<Segment>, folded: &mut Folded) -> Result<(), EngineError> {
        for (data, from) in segment.live_data() {
            let buf = self.buffers.allocate((data.blocks * BLOCK_BYTES) as usize);
            let offset = u64::from(from.at) * u64::from(BLOCK_BYTES);
            let read = self.slots.device().read(segment.file(), offset, buf).await;
            // Not verified here: whoever reads the blocks compares them with their checksums, wherever they are.
            let bytes = read
                .map_err(|error| self.health.fail(format!("cannot read the log: {error}")))?
                .freeze();
            folded.moved += u64::from(data.blocks);
            self.move_data(data, from, bytes);
        }
        self.committer.flush().wait(&self.health).await
    }

    fn move_data(&self, data: Arc<LogData>, from: LogRef, bytes: SharedBuf) {
        let entry = LogEntry::Moved {
            from,
            blocks: data.blocks,
        };
        let key = data.key;
        let state = self.state.lock();
        // The record goes into the next checkpoint, with the new place.
        let record = state.record(key).cloned();
        let entry = Entry {
            encoded: entry.encode(),
            payload: Some((data, bytes)),
            after: record.map(|record| (RecordKey::Chunk(key), Value::Chunk(record))),
            dirty: None,
            replaced: None,
        };
        // The flush that follows waits for it. Under the lock: records change in the order of the log.
        drop(self.committer.enqueue(entry, Urgency::Later));
    }
}

/// The oldest segment in which the committed version has blocks, once all of them are there.
fn oldest_place(record: &Record) -> Option<u64> {
    let committed = record.committed.as_ref().or(record.pending.as_ref())?;
    let detail = committed.content.as_ref()?.detail.load_full()?;
    let segments: BTreeMap<usize, u64> = detail
        .overlay
        .iter()
        .map(|(_, logged)| {
            let place = logged.data.log_ref();
            let segment = place.map_or(u64::MAX, |place| place.segment);
            (Arc::as_ptr(&logged.data).addr(), segment)
        })
        .collect();
    segments.into_values().min()
}

/// Whether this is what is committed, nothing is pending in its slot, and nobody holds another version in its slot.
fn is_alone(record: Option<&Record>, version: &Arc<Version>) -> bool {
    let Some(content) = &version.content else {
        return false;
    };
    record.is_some_and(|record| is_current(record, version))
        && Arc::strong_count(&content.slot) == 1
        && content
            .detail
            .load()
            .as_ref()
            .is_some_and(|detail| !detail.overlay.is_empty())
}

fn is_current(record: &Record, version: &Arc<Version>) -> bool {
    let committed = record.committed.as_ref();
    committed.is_some_and(|committed| Arc::ptr_eq(committed, version))
}

/// Blocks in the log that lie side by side in the slot: first and number.
fn neighbours(detail: &Detail) -> Vec<(u32, u32)> {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for &(block, _) in &detail.overlay {
        match runs.last_mut() {
            Some((first, count)) if *first + *count == block => *count += 1,
            _ => runs.push((block, 1)),
        }
    }
    runs
}

/// What follows the content in its last block may be old bytes: zeros are written there.
fn clear_padding(source: &Source, first: u32, buf: &mut RegisteredBuf) {
    let start = (first * BLOCK_BYTES) as usize;
    let content = (source.length() as usize)
        .saturating_sub(start)
        .min(buf.len());
    debug_assert!(first < block_count(source.length()));
    buf[content..].fill(0);
}

#[cfg(test)]
mod tests {
    use types::checksum::Checksum;

    use super::*;
    use crate::chunk_meta::Logged;

    #[test]
    fn neighbouring_blocks_are_folded_together() {
        let key = ChunkKey {
            target: types::id::TargetId(1),
            chunk: types::chunk::ChunkId {
                inode: types::id::InodeId(1),
                index: 0,
            },
        };
        let data = LogData::new(key, common::buf::BufPool::new(0).allocate(0).freeze());
        let logged = |block| {
            let data = data.clone();
            (block, Logged { data, at: 0 })
        };
        let detail = Detail {
            sums: vec![Checksum(0); 9].into(),
            overlay: [1, 2, 5, 7, 8].map(logged).into(),
        };
        assert_eq!(neighbours(&detail), [(1, 2), (5, 1), (7, 2)]);
    }
}
