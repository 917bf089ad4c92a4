//! What stands in the log: each change of a chunk or target, as small as it can be said.
//!
//! Entries are applied in order to the records of the last checkpoint (`replay`), and mean there exactly what they
//! meant in memory when they were written. The order of variants and fields is the format (docs/format/disk.md).

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use types::{
    checksum::Checksum,
    chunk::ChunkId,
    codec::{self, DecodeError},
    id::{ChainId, TargetId},
    version::{ChainVersion, ChunkVersion},
};

use crate::{
    blocks::{Patch, Places},
    channels::StoredDone,
    chunk_meta::{ChunkKey, StoredHead, StoredPosition, checksums_from, checksums_to},
};

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum LogEntry {
    /// A target was made.
    Target { target: TargetId, chain: ChainId },
    /// A target was removed.
    TargetGone { target: TargetId },
    /// A version was made and is pending.
    Update {
        key: StoredKey,
        head: StoredHead,
        body: StoredBody,
    },
    /// The pending version was committed.
    Commit {
        key: StoredKey,
        version: ChunkVersion,
        chain_version: ChainVersion,
    },
    /// The pending version was dropped.
    Discard { key: StoredKey },
    /// All versions were dropped.
    Drop { key: StoredKey },
    /// These blocks of the committed version, which lay in the log, lie in its slot.
    Folded {
        key: StoredKey,
        version: ChunkVersion,
        blocks: Vec<BlockRun>,
    },
    /// Blocks of the log were copied into this entry's payload.
    Moved { from: LogRef, blocks: u32 },
    /// The content of the committed version was copied to another slot.
    Relocated {
        key: StoredKey,
        version: ChunkVersion,
        position: StoredPosition,
    },
    /// Another replica knows what came of these updates.
    ChannelsAdopted {
        target: TargetId,
        done: Vec<StoredDone>,
    },
    /// What is known of a target's channels counts no more.
    ChannelsCleared { target: TargetId },
}

/// A chunk of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredKey {
    pub(crate) target: TargetId,
    pub(crate) chunk: ChunkId,
}

/// A block in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct LogRef {
    /// The number of the segment's use; never given out twice.
    pub(crate) segment: u64,
    /// Which block of the segment's file.
    pub(crate) at: u32,
}

impl LogRef {
    /// The block `count` further on.
    pub(crate) fn plus(self, count: u32) -> Self {
        Self {
            at: self.at.wrapping_add(count),
            ..self
        }
    }
}

/// Neighbouring blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BlockRun {
    pub(crate) first: u32,
    pub(crate) count: u32,
}

impl BlockRun {
    /// Blocks in order, as runs.
    pub(crate) fn of(blocks: impl Iterator<Item = u32>) -> Vec<Self> {
        let mut runs: Vec<Self> = Vec::new();
        for block in blocks {
            match runs.last_mut() {
                Some(run) if run.first + run.count == block => run.count += 1,
                _ => runs.push(Self {
                    first: block,
                    count: 1,
                }),
            }
        }
        runs
    }

    pub(crate) fn contains(self, block: u32) -> bool {
        block
            .checked_sub(self.first)
            .is_some_and(|at| at < self.count)
    }
}

/// What the content of a new version is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum StoredBody {
    /// There are no bytes.
    Empty,
    /// The committed content, unchanged.
    Same,
    /// All in a slot of its own.
    Whole {
        position: StoredPosition,
        sums: Bytes,
    },
    /// A slot of its own, and all blocks in the payload.
    Logged {
        position: StoredPosition,
        sums: Bytes,
    },
    /// The first blocks of the committed content, in its slot, and what changes.
    Patched {
        keep: u32,
        patches: Vec<StoredPatch>,
    },
}

/// Neighbouring blocks that change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredPatch {
    pub(crate) first: u32,
    pub(crate) sums: Bytes,
    pub(crate) place: StoredPlace,
}

/// Where the blocks of a patch lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum StoredPlace {
    /// Where they lay.
    Kept,
    /// In the slot.
    Slot,
    /// In this entry's payload, behind those of earlier patches.
    Payload,
}

impl From<ChunkKey> for StoredKey {
    fn from(key: ChunkKey) -> Self {
        Self {
            target: key.target,
            chunk: key.chunk,
        }
    }
}

impl From<StoredKey> for ChunkKey {
    fn from(key: StoredKey) -> Self {
        Self {
            target: key.target,
            chunk: key.chunk,
        }
    }
}

impl StoredPatch {
    pub(crate) fn new<P>(patch: &Patch<P>) -> Self {
        Self {
            first: patch.first,
            sums: checksums_to(&patch.sums),
            place: match patch.places {
                Places::Kept => StoredPlace::Kept,
                Places::Slot => StoredPlace::Slot,
                Places::Log(_) => StoredPlace::Payload,
            },
        }
    }

    fn block_count(&self) -> u32 {
        count_of(&self.sums)
    }
}

fn count_of(sums: &[u8]) -> u32 {
    u32::try_from(sums.len() / size_of::<Checksum>()).unwrap_or(u32::MAX)
}

/// The patches of an entry whose payload starts at `payload`.
pub(crate) fn patches_at(patches: &[StoredPatch], payload: LogRef) -> Vec<Patch<LogRef>> {
    let mut next = payload;
    let patches = patches.iter().map(|patch| {
        let places = match patch.place {
            StoredPlace::Kept => Places::Kept,
            StoredPlace::Slot => Places::Slot,
            StoredPlace::Payload => {
                let count = patch.block_count();
                let places = (0..count).map(|block| next.plus(block)).collect();
                next = next.plus(count);
                Places::Log(places)
            }
        };
        Patch {
            first: patch.first,
            sums: checksums_from(&patch.sums),
            places,
        }
    });
    patches.collect()
}

impl LogEntry {
    pub(crate) fn encode(&self) -> Vec<u8> {
        codec::encode_body(self)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        codec::decode_body(bytes)
    }

    /// The blocks of payload that belong to it.
    pub(crate) fn payload_blocks(&self) -> u64 {
        match self {
            Self::Moved { blocks, .. } => u64::from(*blocks),
            Self::Update {
                body: StoredBody::Patched { patches, .. },
                ..
            } => patches
                .iter()
                .filter(|patch| patch.place == StoredPlace::Payload)
                .map(|patch| u64::from(patch.block_count()))
                .sum(),
            Self::Update {
                body: StoredBody::Logged { sums, .. },
                ..
            } => u64::from(count_of(sums)),
            Self::Target { .. }
            | Self::TargetGone { .. }
            | Self::Update { .. }
            | Self::Commit { .. }
            | Self::Discard { .. }
            | Self::Drop { .. }
            | Self::Folded { .. }
            | Self::Relocated { .. }
            | Self::ChannelsAdopted { .. }
            | Self::ChannelsCleared { .. } => 0,
        }
    }
}
