//! Opening a disk: reads every record, takes the slots they refer to, and lets everything else go (E6).
//!
//! Data that was written for a record that never became durable lies in slots nobody refers to, so it is gone;
//! pending versions are kept. Records that contradict each other or the files stop the disk: someone
//! must look before more is lost.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    chunk_meta::{
        ChunkKey, Content, Record, RecordKey, StoredRecord, StoredVersion, Version, decode_record,
        decode_target,
    },
    engine::state::{State, TargetState},
    error::OpenError,
    group::{Position, SizeClass, block_count, round_up},
    meta_store::MetaStore,
    slots::{Slot, SlotPool},
};

/// Contradictions that are listed; the rest is counted.
const PROBLEMS_SHOWN: usize = 16;

/// Rebuilds the state from the records. Blocks: not for async threads.
pub(crate) fn rebuild(store: &dyn MetaStore, slots: &SlotPool) -> Result<State, OpenError> {
    let mut rebuild = Rebuild {
        slots,
        targets: BTreeMap::new(),
        chunks: BTreeMap::new(),
        problems: Vec::new(),
        count: 0,
    };
    store.scan(&mut |key, value| rebuild.visit(key, value))?;
    rebuild.finish()
}

struct Rebuild<'a> {
    slots: &'a SlotPool,
    targets: BTreeMap<types::id::TargetId, TargetState>,
    chunks: BTreeMap<ChunkKey, Arc<Record>>,
    problems: Vec<String>,
    count: usize,
}

impl Rebuild<'_> {
    fn problem(&mut self, text: String) {
        self.count += 1;
        if self.problems.len() < PROBLEMS_SHOWN {
            self.problems.push(text);
        }
    }

    fn visit(&mut self, key: &[u8], value: &[u8]) {
        match RecordKey::from_bytes(key) {
            None => self.problem(format!("key {key:02x?} is no key")),
            Some(RecordKey::Target(target)) => match decode_target(value) {
                Ok(stored) => {
                    self.targets.insert(target, TargetState::new(stored.chain));
                }
                Err(error) => self.problem(format!("target {target}: {error}")),
            },
            Some(RecordKey::Chunk(key)) => {
                let record = decode_record(value).map_err(|error| error.to_string());
                match record.and_then(|stored| self.adopt(stored)) {
                    Ok(record) => {
                        self.chunks.insert(key, Arc::new(record));
                    }
                    Err(reason) => self.problem(format!(
                        "chunk {} of target {}: {reason}",
                        key.chunk, key.target
                    )),
                }
            }
        }
    }

    /// Takes the slots of a record.
    fn adopt(&self, stored: StoredRecord) -> Result<Record, String> {
        let StoredRecord { committed, pending } = stored;
        let mut slots: BTreeMap<Position, Arc<Slot>> = BTreeMap::new();
        let mut high_water: BTreeMap<Position, u32> = BTreeMap::new();
        for version in committed.iter().chain(&pending) {
            if let Some(position) = check_version(version)? {
                let end = high_water.entry(position).or_default();
                *end = round_up(version.length).max(*end);
            }
        }
        for (position, end) in high_water {
            slots.insert(position, self.slots.adopt(position, end)?);
        }
        let version = |stored: StoredVersion| -> Arc<Version> {
            let position = stored.position.and_then(|position| position.position());
            let slot = position.and_then(|position| slots.get(&position));
            let content = slot.map(|slot| Content {
                slot: slot.clone(),
                blocks: stored.block_checksums(),
            });
            Arc::new(stored.into_version(content))
        };
        Ok(Record {
            committed: committed.map(version),
            pending: pending.map(version),
        })
    }

    fn finish(mut self) -> Result<State, OpenError> {
        let mut state = State::default();
        for (target, target_state) in std::mem::take(&mut self.targets) {
            state.targets.insert(target, target_state);
        }
        for (key, record) in std::mem::take(&mut self.chunks) {
            if state.targets.contains_key(&key.target) {
                state.replace(key, Some(record));
            } else {
                self.problem(format!(
                    "chunk {} belongs to target {}, which is not here",
                    key.chunk, key.target
                ));
            }
        }
        let mut problems = Vec::new();
        state.check(self.slots, &mut problems);
        for problem in problems {
            self.problem(problem);
        }
        if self.count == 0 {
            Ok(state)
        } else {
            Err(OpenError::Inconsistent {
                count: self.count,
                problems: self.problems,
            })
        }
    }
}

/// What a version says of itself. Returns its position.
fn check_version(version: &StoredVersion) -> Result<Option<Position>, String> {
    let blocks = version.blocks.len();
    let Some(stored) = version.position else {
        return if version.length == 0 && blocks == 0 {
            Ok(None)
        } else {
            Err(format!("{} bytes without a slot", version.length))
        };
    };
    let position = stored.position().ok_or("its size class does not exist")?;
    if !version.exists || version.length == 0 {
        return Err(format!("a slot, {position}, without bytes"));
    }
    if SizeClass::holding(version.length) != Some(position.group.class) {
        return Err(format!("{} bytes in slot {position}", version.length));
    }
    if blocks != block_count(version.length) as usize * 4 {
        return Err(format!(
            "{blocks} bytes of checksums for {} bytes",
            version.length
        ));
    }
    Ok(Some(position))
}

/// The slots that records refer to, for `check`.
pub(crate) fn referenced<'a>(
    chunks: impl Iterator<Item = (&'a ChunkKey, &'a Arc<Record>)>,
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
        for version in record.committed.iter().chain(&record.pending) {
            let problem = match &version.content {
                None => (version.length > 0).then_some("bytes without a slot"),
                Some(content) => {
                    let class = content.slot.position().group.class;
                    let fits = SizeClass::holding(version.length) == Some(class);
                    let blocks = content.blocks.len() == block_count(version.length) as usize;
                    (!fits || !blocks).then_some("bytes that do not fit their slot or checksums")
                }
            };
            if let Some(problem) = problem {
                problems.push(format!("chunk {}: {problem}", key.chunk));
            }
        }
    }
    referenced
}
