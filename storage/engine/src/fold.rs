//! Empties the oldest segments of the log: blocks of small updates are folded into the slots they belong to.
//!
//! A block may be written over in its slot when nobody can read what stood there: every version that uses the slot has
//! that block in the log. That holds when the committed version is the only one that uses the slot (nothing is pending
//! there, no reader holds an older version) and is durable as committed: whatever a crash leaves then reads the block
//! from the log. Updates made meanwhile start from the committed version and have the block in the log too.
//!
//! For some segments together:
//! 1. Find the blocks in them that are still needed, and their chunks; note the chunks' committed versions.
//! 2. Flush the log: what is committed in memory is committed on the disk.
//! 3. Read the segments, window by window; write the blocks to their slots, verified; sync the groups.
//! 4. Let the committed versions have these blocks in their slots: also one that was committed meanwhile, if it still
//!    has the very block in the log.
//! 5. Chunks that were in use are tried again. If the log is full, what is left in segments that are less than half in use is
//!    copied to the end of the log. Fuller ones stay as they are: two of them would not fit into one.
//!
//! After the next checkpoint no record refers to the segments, and their files are free.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use common::buf::SharedBuf;
use futures::{StreamExt as _, stream};
use types::checksum::Checksum;

use crate::{
    blocks::Blocks,
    chunk_meta::{ChunkKey, Content, Detail, Logged, Record, RecordKey, Version},
    committer::{Entry, Urgency, Value},
    engine::{Inner, NewRecord},
    error::EngineError,
    group::{BLOCK_BYTES, GroupId},
    log::{
        LogData, Segment,
        entry::{BlockRun, LogEntry, LogRef},
    },
};

/// Blocks read from a segment at a time.
const WINDOW_BLOCKS: u32 = 256;
/// Blocks on their way to slots at the same time. With more, batches of the log wait behind them on the device: of
/// 8, 16, 24, 32 and 64 the most overwrites were done with 24.
const WRITES: usize = 24;
/// Windows read at the same time.
const READS: usize = 4;
/// How often chunks are tried that were in use.
const TRIES: u32 = 3;

/// What was done with some segments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Folded {
    pub(crate) chunks: u64,
    pub(crate) blocks: u64,
    /// Blocks copied inside the log.
    pub(crate) moved: u64,
    /// Something could not be read, was damaged, or had no space in its slot.
    pub(crate) stuck: bool,
}

/// A committed version with blocks to fold.
struct Candidate {
    key: ChunkKey,
    version: Arc<Version>,
    detail: Arc<Detail>,
    blocks: Vec<Block>,
}

/// A block to fold: which of the content, and where in the log.
struct Block {
    index: u32,
    logged: Logged,
    place: LogRef,
}

/// The content of segments that is needed, by segment and window.
struct Windows(BTreeMap<(u64, u32), SharedBuf>);

impl Inner {
    /// Folds what is in these segments as far as may be.
    pub(crate) async fn fold(&self, segments: &[Arc<Segment>]) -> Result<Folded, EngineError> {
        let mut folded = Folded::default();
        if !self.can_fold(segments) && self.sparse(segments).is_empty() {
            return Ok(folded);
        }
        let windows = self.read_windows(segments, &mut folded).await;
        for _ in 0..TRIES {
            let keys = live_keys(segments);
            if keys.is_empty() {
                return Ok(folded);
            }
            let before = folded.blocks;
            self.fold_chunks(keys, &windows, &mut folded).await?;
            // What was folded is let go when that is durable.
            self.committer.flush().wait(&self.health).await?;
            if folded.blocks == before {
                break;
            }
        }
        let sparse = self.sparse(segments);
        self.move_on(&sparse, &windows, &mut folded).await?;
        Ok(folded)
    }

    /// Whether it is worth while to read the segments: not when all that is in them is pending, or lies below what is pending,
    /// which may be so for long.
    fn can_fold(&self, segments: &[Arc<Segment>]) -> bool {
        let numbers: BTreeSet<u64> = segments.iter().map(|segment| segment.number).collect();
        let lies_there = |logged: &Logged| {
            let place = logged.data.log_ref();
            place.is_some_and(|place| numbers.contains(&place.segment))
        };
        let keys = live_keys(segments);
        let state = self.state.lock();
        let mut records = keys.into_iter().filter_map(|key| state.record(key));
        records.any(|record| {
            let committed = record.committed.as_ref();
            let Some(content) = committed.and_then(|version| version.content.as_ref()) else {
                return false;
            };
            let pending = record.pending.as_ref().and_then(|version| version.slot());
            let is_below = pending.is_some_and(|slot| Arc::ptr_eq(slot, &content.slot));
            let detail = content.detail.load_full();
            let mut overlay = detail.iter().flat_map(|detail| &detail.overlay);
            !is_below && overlay.any(|(_, logged)| lies_there(logged))
        })
    }

    /// Those of the segments that are to be moved if the log is full: so little is in each that fewer are in use afterwards.
    fn sparse(&self, segments: &[Arc<Segment>]) -> Vec<Arc<Segment>> {
        if !self.log.fill().is_full() {
            return Vec::new();
        }
        let mut room = self.log.room_for_moving();
        let sparse = segments.iter().filter(|segment| {
            let live = segment.live_blocks();
            let fits = live > 0 && live * 2 < u64::from(segment.blocks) && live <= room;
            if fits {
                room -= live;
            }
            fits
        });
        sparse.cloned().collect()
    }

    /// Reads the parts of segments in which there is something.
    async fn read_windows(&self, segments: &[Arc<Segment>], folded: &mut Folded) -> Windows {
        let mut wanted = Vec::new();
        for segment in segments {
            let live = segment.live_data().into_iter();
            let windows: BTreeSet<u32> = live
                .flat_map(|(data, place)| {
                    place.at / WINDOW_BLOCKS..=(place.at + data.blocks - 1) / WINDOW_BLOCKS
                })
                .collect();
            wanted.extend(windows.into_iter().map(|window| (segment.clone(), window)));
        }
        let reads = stream::iter(wanted.into_iter().map(|(segment, window)| async move {
            let first = window * WINDOW_BLOCKS;
            let count = WINDOW_BLOCKS.min(segment.blocks.saturating_sub(first));
            let buf = self.buffers.allocate((count * BLOCK_BYTES) as usize);
            let offset = u64::from(first) * u64::from(BLOCK_BYTES);
            let read = self.slots.device().read(segment.file(), offset, buf).await;
            match read {
                Ok(buf) => Some(((segment.number, window), buf.freeze())),
                Err(error) => {
                    // Its blocks stay where they are. Whoever reads them gets the error and asks another replica.
                    tracing::warn!(%error, ?segment, window, "cannot read the log");
                    None
                }
            }
        }));
        let reads: Vec<_> = reads.buffer_unordered(READS).collect().await;
        folded.stuck |= reads.iter().any(Option::is_none);
        Windows(reads.into_iter().flatten().collect())
    }

    /// Folds the blocks that these chunks have in the windows.
    async fn fold_chunks(
        &self,
        keys: BTreeSet<ChunkKey>,
        windows: &Windows,
        folded: &mut Folded,
    ) -> Result<(), EngineError> {
        let chosen: Vec<(ChunkKey, Arc<Version>)> = {
            let state = self.state.lock();
            keys.into_iter()
                .filter_map(|key| Some((key, state.record(key)?.committed.clone()?)))
                .collect()
        };
        self.committer.flush().wait(&self.health).await?;
        let candidates: Vec<Candidate> = {
            let state = self.state.lock();
            let alone = chosen
                .into_iter()
                .filter(|(key, version)| is_alone(state.record(*key), version));
            alone
                .filter_map(|(key, version)| Candidate::of(key, version, windows))
                .collect()
        };
        let writes = candidates
            .iter()
            .enumerate()
            .flat_map(|(index, candidate)| {
                let runs = candidate.runs(windows).into_iter();
                runs.map(move |run| async move { (index, self.write_run(candidate, run).await) })
            });
        let written: Vec<_> = stream::iter(writes.collect::<Vec<_>>())
            .buffer_unordered(WRITES)
            .collect()
            .await;
        let mut damaged = BTreeSet::new();
        for (index, written) in written {
            if !written? {
                damaged.insert(index);
            }
        }
        folded.stuck |= !damaged.is_empty();
        let sound = candidates
            .iter()
            .enumerate()
            .filter(|(index, _)| !damaged.contains(index))
            .map(|(_, candidate)| candidate);
        let groups: BTreeSet<GroupId> = sound.clone().filter_map(Candidate::group).collect();
        let synced = stream::iter(groups.into_iter().map(|group| self.slots.sync(group)));
        let synced: Vec<_> = synced.buffer_unordered(WRITES).collect().await;
        synced.into_iter().collect::<Result<(), _>>()?;
        for candidate in sound {
            self.put_folded(candidate, folded);
        }
        Ok(())
    }

    /// Writes neighbouring blocks to the slot; false when they are damaged: they stay where they are, for a reader to
    /// find and to repair.
    async fn write_run(
        &self,
        candidate: &Candidate,
        (first, pieces): (u32, Vec<SharedBuf>),
    ) -> Result<bool, EngineError> {
        let Some(content) = &candidate.version.content else {
            return Ok(false);
        };
        let length = candidate.version.head.length;
        let mut whole = Vec::with_capacity(pieces.len());
        for (block, piece) in (first..).zip(pieces) {
            let start = block * BLOCK_BYTES;
            let rest = length.saturating_sub(start).min(BLOCK_BYTES) as usize;
            let expected = candidate.detail.sums.get(block as usize);
            if expected != Some(&Checksum::of(&piece[..rest])) {
                tracing::error!(chunk = %candidate.key.chunk, block, "a block in the log is damaged");
                return Ok(false);
            }
            if rest == piece.len() {
                whole.push(piece);
            } else {
                // What follows the content in its last block may be old bytes: zeros are written there.
                let mut padded = self.buffers.allocate_zeroed(BLOCK_BYTES as usize);
                padded[..rest].copy_from_slice(&piece[..rest]);
                whole.push(padded.freeze());
            }
        }
        let count = u32::try_from(whole.len()).expect("a window is small");
        content.slot.claim_up_to((first + count) * BLOCK_BYTES);
        let bytes = vec![self.in_one_piece(whole)];
        let written = self.write_image(&content.slot, first * BLOCK_BYTES, bytes);
        match written.await {
            Ok(()) => Ok(true),
            // A file system that gives space only when it is written: the blocks stay where they are.
            Err(EngineError::NoSpace { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The slot holds these blocks now: the committed version need not have them in the log.
    fn put_folded(&self, candidate: &Candidate, folded: &mut Folded) {
        let Some(before) = &candidate.version.content else {
            return;
        };
        let key = candidate.key;
        let mut state = self.state.lock();
        let Some(record) = state.record(key).cloned() else {
            return;
        };
        let committed = record.committed.as_ref();
        let Some((version, content, detail)) = committed.and_then(|version| {
            let content = version.content.as_ref()?;
            Some((version, content, content.detail.load_full()?))
        }) else {
            return;
        };
        if !Arc::ptr_eq(&content.slot, &before.slot) {
            return;
        }
        let (gone, left): (Vec<_>, Vec<_>) = detail
            .overlay
            .iter()
            .cloned()
            .partition(|(index, logged)| candidate.has(*index, logged));
        if gone.is_empty() {
            return;
        }
        let rest = Blocks {
            sums: detail.sums.clone(),
            overlay: left,
        };
        let entry = LogEntry::Folded {
            key: key.into(),
            version: version.head.version,
            blocks: BlockRun::of(gone.iter().map(|(index, _)| *index)),
        };
        let committed = Version {
            head: version.head,
            content: Some(Content::new(content.slot.clone(), Some(Arc::new(rest)))),
        };
        let record = Record {
            committed: Some(Arc::new(committed)),
            pending: record.pending,
        };
        let change = NewRecord::plain(Some(record), &entry);
        drop(self.install(&mut state, key, change, Urgency::Later));
        folded.chunks += 1;
        folded.blocks += gone.len() as u64;
    }

    /// Copies what is still needed in segments to the end of the log.
    async fn move_on(
        &self,
        segments: &[Arc<Segment>],
        windows: &Windows,
        folded: &mut Folded,
    ) -> Result<(), EngineError> {
        for (data, from) in segments.iter().flat_map(|segment| segment.live_data()) {
            // Not verified here: whoever reads the blocks compares them with their checksums, wherever they are.
            let pieces = (0..data.blocks).map(|block| windows.block(from.plus(block)));
            let Some(pieces) = pieces.collect::<Option<Vec<_>>>() else {
                continue;
            };
            folded.moved += u64::from(data.blocks);
            self.move_data(data, from, self.in_one_piece(pieces));
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
            after: record
                .map(|record| (RecordKey::Chunk(key), Value::Chunk(record)))
                .into_iter()
                .collect(),
            dirty: None,
            replaced: None,
        };
        // The flush that follows waits for it. Under the lock: records change in the order of the log.
        drop(self.committer.enqueue(entry, Urgency::Later));
    }
}

impl Windows {
    fn block(&self, place: LogRef) -> Option<SharedBuf> {
        let window = self.0.get(&(place.segment, place.at / WINDOW_BLOCKS))?;
        let start = (place.at % WINDOW_BLOCKS * BLOCK_BYTES) as usize;
        let end = start + BLOCK_BYTES as usize;
        (end <= window.len()).then(|| window.slice(start..end))
    }

    fn contains(&self, place: LogRef) -> bool {
        self.0
            .contains_key(&(place.segment, place.at / WINDOW_BLOCKS))
    }
}

impl Candidate {
    /// The blocks of a version in the windows; `None` when there are none.
    fn of(key: ChunkKey, version: Arc<Version>, windows: &Windows) -> Option<Self> {
        let detail = version.content.as_ref()?.detail.load_full()?;
        let blocks: Vec<Block> = detail
            .overlay
            .iter()
            .filter_map(|(index, logged)| {
                let place = logged.data.log_ref()?.plus(logged.at);
                windows.contains(place).then(|| Block {
                    index: *index,
                    logged: logged.clone(),
                    place,
                })
            })
            .collect();
        (!blocks.is_empty()).then_some(Self {
            key,
            version,
            detail,
            blocks,
        })
    }

    /// Whether this very block of the log is among the blocks.
    fn has(&self, index: u32, logged: &Logged) -> bool {
        let at = self
            .blocks
            .binary_search_by_key(&index, |block| block.index);
        at.is_ok_and(|at| {
            let own = &self.blocks[at].logged;
            Arc::ptr_eq(&own.data, &logged.data) && own.at == logged.at
        })
    }

    fn group(&self) -> Option<GroupId> {
        Some(self.version.slot()?.position().group)
    }

    /// The bytes of blocks that lie side by side in the slot: the first block, and the bytes of each.
    fn runs(&self, windows: &Windows) -> Vec<(u32, Vec<SharedBuf>)> {
        let mut runs: Vec<(u32, Vec<SharedBuf>)> = Vec::new();
        for block in &self.blocks {
            let Some(bytes) = windows.block(block.place) else {
                continue;
            };
            match runs.last_mut() {
                Some((first, pieces)) if *first as usize + pieces.len() == block.index as usize => {
                    pieces.push(bytes);
                }
                _ => runs.push((block.index, vec![bytes])),
            }
        }
        runs
    }
}

/// The chunks that need what is in segments.
fn live_keys(segments: &[Arc<Segment>]) -> BTreeSet<ChunkKey> {
    let live = segments.iter().flat_map(|segment| segment.live_data());
    live.map(|(data, _)| data.key).collect()
}

/// Whether this is what is committed, nothing is pending in its slot, and nobody holds another version in its slot.
fn is_alone(record: Option<&Record>, version: &Arc<Version>) -> bool {
    let alone = version
        .content
        .as_ref()
        .is_some_and(|content| Arc::strong_count(&content.slot) == 1);
    let committed = record.and_then(|record| record.committed.as_ref());
    alone && committed.is_some_and(|committed| Arc::ptr_eq(committed, version))
}
