//! Opening a disk: the records of the last checkpoint, changed by what the log holds since, taken into memory; slots
//! they refer to are taken, everything else is let go (E6).
//!
//! Data that was written for a record that never became durable lies in slots nobody refers to, so it is gone;
//! pending versions are kept. Records that contradict each other or the files stop the disk: someone
//! must look before more is lost.

mod replayed;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use types::{chunk::ChunkId, id::TargetId};

use self::replayed::{PlainRecord, PlainVersion};
pub(crate) use self::replayed::{Replayed, apply};
use crate::{
    blocks::Blocks,
    channels::ChannelTable,
    chunk_meta::{
        CHUNK_PREFIX, ChunkKey, Content, Detail, Logged, Record, RecordKey, StoredHead,
        StoredPosition, StoredRecord, StoredVersion, TARGET_PREFIX, Version, decode_record,
        decode_target,
    },
    engine::state::{State, TargetState},
    error::OpenError,
    group::{Position, SizeClass, block_count, round_up},
    log::{LogData, Segment, entry::LogRef},
    meta_store::MetaStore,
    slots::{Slot, SlotPool},
};

/// Contradictions that are listed; the rest is counted.
const PROBLEMS_SHOWN: usize = 16;

/// One contradiction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Contradiction {
    /// The chunk whose record cannot be used because of it; `None` when it is about more than one chunk.
    pub(crate) key: Option<ChunkKey>,
    pub(crate) text: String,
}

/// Contradictions that were found.
#[derive(Debug, Default)]
pub(crate) struct Problems(Vec<Contradiction>);

impl Problems {
    pub(crate) fn add(&mut self, text: String) {
        self.0.push(Contradiction { key: None, text });
    }

    fn add_of(&mut self, key: ChunkKey, reason: &str) {
        let ChunkKey { target, chunk } = key;
        self.0.push(Contradiction {
            key: Some(key),
            text: format!("chunk {chunk} of target {target}: {reason}"),
        });
    }

    pub(crate) fn list(&self) -> &[Contradiction] {
        &self.0
    }

    /// Takes those out that are about one chunk each, and names the chunks.
    pub(crate) fn take_chunks(&mut self) -> BTreeSet<ChunkKey> {
        let keys = self.0.iter().filter_map(|problem| problem.key).collect();
        self.0.retain(|problem| problem.key.is_none());
        keys
    }

    pub(crate) fn into_result(self) -> Result<(), OpenError> {
        let count = self.0.len();
        if count == 0 {
            return Ok(());
        }
        let shown = self.0.into_iter().take(PROBLEMS_SHOWN);
        Err(OpenError::Inconsistent {
            count,
            problems: shown.map(|problem| problem.text).collect(),
        })
    }
}

/// A disk taken into memory.
pub(crate) struct Rebuilt {
    pub(crate) state: State,
    /// What the store does not hold yet, in the form of the next checkpoint.
    pub(crate) changed: Vec<RecordKey>,
}

/// Rebuilds the state from store and log, without what contradicts something: that is listed. Blocks: not for async
/// threads.
///
/// # Errors
/// When the store cannot be read.
pub(crate) fn rebuild(
    store: &dyn MetaStore,
    slots: &SlotPool,
    replayed: Replayed,
    segments: BTreeMap<u64, Arc<Segment>>,
) -> Result<(Rebuilt, Problems), OpenError> {
    let mut rebuild = Rebuild {
        slots,
        moved: replayed.moved,
        moves_met: 0,
        data: BTreeMap::new(),
        segments,
        state: State::default(),
        chunks: BTreeMap::new(),
        problems: replayed.problems,
    };
    store.scan(TARGET_PREFIX, &mut |key, value| {
        rebuild.target(key, value);
    })?;
    let mut changed = Vec::new();
    for (target, chain) in replayed.targets {
        changed.push(RecordKey::Target(target));
        let targets = &mut rebuild.state.targets;
        match chain {
            Some(chain) => drop(targets.insert(target, TargetState::new(chain))),
            None => drop(targets.remove(&target)),
        }
    }
    changed.extend(
        replayed
            .changed_channels
            .into_iter()
            .map(RecordKey::Channel),
    );
    rebuild.channels(replayed.channels);
    let (touched, spoiled) = (replayed.chunks, replayed.spoiled);
    let mut overlaid = Vec::new();
    store.scan(CHUNK_PREFIX, &mut |key, value| {
        let is_touched = |key| touched.contains_key(&key) || spoiled.contains(&key);
        if let Some(key) = rebuild.chunk(key, value, is_touched) {
            overlaid.push((key, value.to_vec()));
        }
    })?;
    for (key, value) in overlaid {
        let sums = store.get(&RecordKey::Sums(key).to_bytes())?;
        match PlainRecord::decode(Some(&value), sums.as_deref()) {
            Ok(record) => {
                // What was moved in the log must stand in the store before the log may forget it.
                if rebuild.plain(key, &record) {
                    changed.push(RecordKey::Chunk(key));
                }
            }
            Err(reason) => rebuild.insert(key, Err(reason)),
        }
    }
    for (key, record) in touched {
        changed.push(RecordKey::Chunk(key));
        if !record.is_empty() {
            // It is in the list already.
            let _moved = rebuild.plain(key, &record);
        }
    }
    let (state, problems) = rebuild.finish();
    Ok((Rebuilt { state, changed }, problems))
}

struct Rebuild<'a> {
    slots: &'a SlotPool,
    moved: BTreeMap<LogRef, LogRef>,
    /// How often a block was met that was moved.
    moves_met: u64,
    /// The blocks in the log that were met.
    data: BTreeMap<LogRef, Arc<LogData>>,
    segments: BTreeMap<u64, Arc<Segment>>,
    state: State,
    /// The chunks of each target, most of them in order: a map is built densely from that.
    chunks: BTreeMap<TargetId, Vec<(ChunkId, Record)>>,
    problems: Problems,
}

impl Rebuild<'_> {
    fn target(&mut self, key: &[u8], value: &[u8]) {
        match (RecordKey::from_bytes(key), decode_target(value)) {
            (Some(RecordKey::Target(target)), Ok(stored)) => {
                self.state
                    .targets
                    .insert(target, TargetState::new(stored.chain));
            }
            (_, Err(error)) => self.problems.add(format!("target {key:02x?}: {error}")),
            (_, Ok(_)) => self.problems.add(format!("key {key:02x?} is no key")),
        }
    }

    /// Gives the tables of channels to their targets.
    fn channels(&mut self, tables: BTreeMap<TargetId, ChannelTable>) {
        for (target, table) in tables {
            match self.state.targets.get_mut(&target) {
                Some(state) => state.channels = table,
                None if table.is_empty() => {}
                None => {
                    let reason =
                        format!("there are channels of target {target}, which is not here");
                    self.problems.add(reason);
                }
            }
        }
    }

    /// Takes a record of the store. Returns its key when blocks of it lie in the log: then its checksums are wanted too.
    fn chunk(
        &mut self,
        key: &[u8],
        value: &[u8],
        is_touched: impl Fn(ChunkKey) -> bool,
    ) -> Option<ChunkKey> {
        let Some(RecordKey::Chunk(key)) = RecordKey::from_bytes(key) else {
            self.problems.add(format!("key {key:02x?} is no key"));
            return None;
        };
        if is_touched(key) {
            return None;
        }
        let record = match decode_record(value) {
            Ok(stored) => {
                let versions = [&stored.committed, &stored.pending];
                let mut versions = versions.into_iter().flatten();
                if versions.any(|version| !version.overlay.is_empty()) {
                    return Some(key);
                }
                self.adopt(key, &stored, |_| None)
            }
            Err(error) => Err(error.to_string()),
        };
        self.insert(key, record);
        None
    }

    /// Takes a record with the blocks of its versions. True when some of them were moved.
    fn plain(&mut self, key: ChunkKey, record: &PlainRecord) -> bool {
        let version = |version: &Option<PlainVersion>| version.as_ref().map(PlainVersion::stored);
        let stored = StoredRecord {
            committed: version(&record.committed),
            pending: version(&record.pending),
        };
        let versions = [record.committed.as_ref(), record.pending.as_ref()];
        let blocks = |head: &StoredHead| {
            let mut versions = versions.into_iter().flatten();
            let version = versions.find(|version| version.head == *head)?;
            Some(&version.content.as_ref()?.1)
        };
        let moves_met = self.moves_met;
        let record = self.adopt(key, &stored, blocks);
        self.insert(key, record);
        self.moves_met > moves_met
    }

    fn insert(&mut self, key: ChunkKey, record: Result<Record, String>) {
        match record {
            Ok(record) if self.state.targets.contains_key(&key.target) => {
                let chunks = self.chunks.entry(key.target).or_default();
                chunks.push((key.chunk, record));
            }
            Ok(_) => self.problems.add_of(key, "its target is not here"),
            Err(reason) => self.problems.add_of(key, &reason),
        }
    }

    /// Puts the chunks into their targets, and checks that the slots taken are those of the records (E6): each was taken
    /// for one record, or that was a problem.
    fn finish(mut self) -> (State, Problems) {
        let mut taken = 0;
        for (target, chunks) in std::mem::take(&mut self.chunks) {
            let state = self.state.targets.get_mut(&target);
            let state = state.expect("chunks were kept only for targets that are there");
            for (_, record) in &chunks {
                state.used_bytes += record.slot_bytes();
                taken += record.slots().count() as u64;
            }
            state.chunks = chunks.into_iter().collect();
        }
        let mut problems = Vec::new();
        self.slots.check_taken(taken, &mut problems);
        for problem in problems {
            self.problems.add(problem);
        }
        (self.state, self.problems)
    }

    /// Takes the slots of a record. `blocks` are those of a version that the store does not have.
    fn adopt<'b>(
        &mut self,
        key: ChunkKey,
        stored: &StoredRecord,
        blocks: impl Fn(&StoredHead) -> Option<&'b Blocks<LogRef>>,
    ) -> Result<Record, String> {
        let mut slots: BTreeMap<Position, (Option<Arc<Slot>>, u32)> = BTreeMap::new();
        let versions = || stored.committed.iter().chain(&stored.pending);
        for version in versions() {
            if let Some(position) = check_version(version)? {
                let (_, end) = slots.entry(position).or_default();
                *end = round_up(version.head.length).max(*end);
            }
        }
        for (position, (slot, end)) in &mut slots {
            *slot = Some(self.slots.adopt(*position, *end)?);
        }
        let mut version = |stored: &Option<StoredVersion>| -> Result<Option<Arc<Version>>, String> {
            let Some(stored) = stored else {
                return Ok(None);
            };
            let position = stored.position.and_then(StoredPosition::position);
            let slot = position.and_then(|position| slots.get(&position)?.0.clone());
            let content = match slot {
                None => None,
                Some(slot) => {
                    let detail = self.detail(key, stored, blocks(&stored.head))?;
                    Some(Content::new(slot, detail))
                }
            };
            Ok(Some(Arc::new(Version {
                head: stored.head.into(),
                content,
            })))
        };
        Ok(Record {
            committed: version(&stored.committed)?,
            pending: version(&stored.pending)?,
        })
    }

    /// The blocks of a version in memory; nothing when they can be loaded from the store.
    fn detail(
        &mut self,
        key: ChunkKey,
        stored: &StoredVersion,
        blocks: Option<&Blocks<LogRef>>,
    ) -> Result<Option<Arc<Detail>>, String> {
        let Some(blocks) = blocks else {
            return Ok(None);
        };
        let detail = blocks.map(|&place| self.logged(key, place))?;
        if detail.sums.len() != block_count(stored.head.length) as usize {
            return Err(format!(
                "{} checksums for {} bytes",
                detail.sums.len(),
                stored.head.length
            ));
        }
        Ok(Some(Arc::new(detail)))
    }

    fn logged(&mut self, key: ChunkKey, place: LogRef) -> Result<Logged, String> {
        let mut place = place;
        // A block may have been moved more than once; to an end, because moves only go forward.
        while let Some(&moved) = self.moved.get(&place) {
            place = moved;
            self.moves_met += 1;
        }
        if let Some(data) = self.data.get(&place) {
            return Ok(Logged {
                data: data.clone(),
                at: 0,
            });
        }
        let segment = self.segments.get(&place.segment).ok_or_else(|| {
            format!(
                "a block lies in segment {} of the log, which is gone",
                place.segment
            )
        })?;
        if place.at >= segment.blocks {
            return Err(format!(
                "a block lies behind the end of segment {} of the log",
                place.segment
            ));
        }
        let data = LogData::found(key, segment, place.at);
        self.data.insert(place, data.clone());
        Ok(Logged { data, at: 0 })
    }
}

/// What a version says of itself. Returns its position.
fn check_version(version: &StoredVersion) -> Result<Option<Position>, String> {
    let head = &version.head;
    let Some(stored) = version.position else {
        return if head.length == 0 && version.overlay.is_empty() {
            Ok(None)
        } else {
            Err(format!("{} bytes without a slot", head.length))
        };
    };
    let position = stored.position().ok_or("its size class does not exist")?;
    if !head.exists || head.length == 0 {
        return Err(format!("a slot, {position}, without bytes"));
    }
    if SizeClass::holding(head.length) != Some(position.group.class) {
        return Err(format!("{} bytes in slot {position}", head.length));
    }
    let end = block_count(head.length);
    let mut last = None;
    for &(block, _) in &version.overlay {
        if block >= end || last >= Some(block) {
            return Err(format!("block {block} of {end} lies in the log"));
        }
        last = Some(block);
    }
    Ok(Some(position))
}

/// The slots that records refer to, for `check`.
pub(crate) fn referenced<'a>(
    chunks: impl Iterator<Item = (ChunkKey, &'a Record)>,
    problems: &mut Vec<String>,
) -> BTreeSet<Position> {
    let mut referenced = BTreeSet::new();
    for (key, record) in chunks {
        for slot in record.slots() {
            if !referenced.insert(slot.position()) {
                problems.push(format!(
                    "slot {} belongs to chunk {} of target {} and to another",
                    slot.position(),
                    key.chunk,
                    key.target
                ));
            }
        }
        for version in record.versions() {
            if let Some(problem) = misfit(version) {
                problems.push(format!("chunk {}: {problem}", key.chunk));
            }
        }
    }
    referenced
}

/// What does not fit in a version.
fn misfit(version: &Version) -> Option<&'static str> {
    let length = version.head.length;
    let Some(content) = &version.content else {
        return (length > 0).then_some("bytes without a slot");
    };
    if SizeClass::holding(length) != Some(content.slot.position().group.class) {
        return Some("bytes that do not fit their slot");
    }
    let detail = content.detail.load_full()?;
    let blocks = block_count(length);
    let beyond = detail
        .overlay
        .last()
        .is_some_and(|(block, _)| *block >= blocks);
    (beyond || detail.sums.len() != blocks as usize).then_some("bytes that do not fit their blocks")
}
