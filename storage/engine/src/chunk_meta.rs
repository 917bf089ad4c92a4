//! What is known of a chunk: in memory a `Record` that holds its slots, on disk the bytes of `docs/format/disk.md`.
//!
//! Cost in memory: about 300 bytes per chunk, and 4 more per block of 8 KiB of each version, so 800 bytes for a
//! chunk of 1 MiB.

use std::sync::Arc;

use bytes::Bytes;
use common::env::WallTime;
use serde::{Deserialize, Serialize};
use types::{
    checksum::Checksum,
    chunk::{ChunkId, ChunkMeta, PendingMeta, UpdateTag},
    codec::{self, DecodeError, Versioned},
    id::{ChainId, TargetId},
    version::{ChainVersion, ChunkVersion},
};

use crate::{
    group::{GroupId, Position, SizeClass, SlotIndex},
    slots::Slot,
};

/// A chunk of a target: what records are kept for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkKey {
    /// The target.
    pub target: TargetId,
    /// The chunk.
    pub chunk: ChunkId,
}

/// One version of a chunk.
#[derive(Clone, Debug)]
pub(crate) struct Version {
    pub(crate) version: ChunkVersion,
    pub(crate) chain_version: ChainVersion,
    /// False for a removal.
    pub(crate) exists: bool,
    pub(crate) length: u32,
    /// Of the whole content.
    pub(crate) checksum: Checksum,
    pub(crate) tag: Option<UpdateTag>,
    /// When it was made, for people.
    pub(crate) time: WallTime,
    /// Where the bytes are; `None` when there are none.
    pub(crate) content: Option<Content>,
}

/// The bytes of a version, from the start of a slot.
#[derive(Clone, Debug)]
pub(crate) struct Content {
    pub(crate) slot: Arc<Slot>,
    /// One for each block of 8 KiB; the last one covers what is left.
    pub(crate) blocks: Arc<[Checksum]>,
}

/// A chunk. Two versions may share a slot: the pending one then adds bytes behind the committed ones, or is a
/// part of them.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    /// `None` when nothing was ever committed.
    pub(crate) committed: Option<Arc<Version>>,
    pub(crate) pending: Option<Arc<Version>>,
}

impl Record {
    /// The slots in use, each once.
    pub(crate) fn slots(&self) -> impl Iterator<Item = &Arc<Slot>> {
        let slot = |version: &'_ Option<Arc<Version>>| -> Option<*const Slot> {
            let content = version.as_ref()?.content.as_ref()?;
            Some(Arc::as_ptr(&content.slot))
        };
        let shared = slot(&self.committed) == slot(&self.pending);
        let versions = [
            self.committed.as_ref(),
            self.pending.as_ref().filter(|_| !shared),
        ];
        versions
            .into_iter()
            .flatten()
            .filter_map(|version| version.content.as_ref())
            .map(|content| &content.slot)
    }

    /// Bytes of the slots in use.
    pub(crate) fn slot_bytes(&self) -> u64 {
        self.slots().map(|slot| u64::from(slot.bytes())).sum()
    }

    pub(crate) fn meta(&self, id: ChunkId) -> ChunkMeta {
        let committed = self.committed.as_deref();
        ChunkMeta {
            id,
            exists: committed.is_some_and(|version| version.exists),
            length: committed.map_or(0, |version| version.length),
            commit_version: committed.map_or_else(ChunkVersion::default, |version| version.version),
            chain_version: committed
                .map_or_else(ChainVersion::default, |version| version.chain_version),
            checksum: committed.map_or_else(Checksum::default, |version| version.checksum),
            tag: committed.and_then(|version| version.tag),
            pending: self.pending.as_deref().map(|pending| PendingMeta {
                update_version: pending.version,
                exists: pending.exists,
                length: pending.length,
                chain_version: pending.chain_version,
                checksum: pending.checksum,
                tag: pending.tag,
            }),
        }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let stored = |version: &Option<Arc<Version>>| version.as_deref().map(StoredVersion::of);
        codec::encode(&StoredRecord {
            committed: stored(&self.committed),
            pending: stored(&self.pending),
        })
    }
}

/// A record as it stands on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredRecord {
    pub(crate) committed: Option<StoredVersion>,
    pub(crate) pending: Option<StoredVersion>,
}

/// A version as it stands on disk. The order of fields is the format.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredVersion {
    pub(crate) version: ChunkVersion,
    pub(crate) chain_version: ChainVersion,
    pub(crate) exists: bool,
    pub(crate) length: u32,
    pub(crate) checksum: Checksum,
    pub(crate) tag: Option<UpdateTag>,
    pub(crate) time: WallTime,
    pub(crate) position: Option<StoredPosition>,
    /// Four bytes, little-endian, for each block.
    pub(crate) blocks: Bytes,
}

/// A position as it stands on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredPosition {
    class: u8,
    group: u32,
    slot: u8,
}

/// A target as it stands on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredTarget {
    pub(crate) chain: ChainId,
}

impl Versioned for StoredRecord {
    const VERSION: u16 = 1;
}

impl Versioned for StoredTarget {
    const VERSION: u16 = 1;
}

impl StoredVersion {
    fn of(version: &Version) -> Self {
        let content = version.content.as_ref();
        let blocks: Vec<u8> = content
            .iter()
            .flat_map(|content| content.blocks.iter())
            .flat_map(|checksum| checksum.0.to_le_bytes())
            .collect();
        Self {
            version: version.version,
            chain_version: version.chain_version,
            exists: version.exists,
            length: version.length,
            checksum: version.checksum,
            tag: version.tag,
            time: version.time,
            position: content.map(|content| StoredPosition::of(content.slot.position())),
            blocks: blocks.into(),
        }
    }

    pub(crate) fn block_checksums(&self) -> Arc<[Checksum]> {
        let blocks = self.blocks.as_chunks::<4>().0.iter();
        blocks
            .map(|&bytes| Checksum(u32::from_le_bytes(bytes)))
            .collect()
    }

    pub(crate) fn into_version(self, content: Option<Content>) -> Version {
        Version {
            version: self.version,
            chain_version: self.chain_version,
            exists: self.exists,
            length: self.length,
            checksum: self.checksum,
            tag: self.tag,
            time: self.time,
            content,
        }
    }
}

impl StoredPosition {
    fn of(position: Position) -> Self {
        Self {
            class: position.group.class.index(),
            group: position.group.number,
            slot: position.slot.0,
        }
    }

    /// `None` for a class that does not exist.
    pub(crate) fn position(self) -> Option<Position> {
        let group = GroupId {
            class: SizeClass::from_index(self.class)?,
            number: self.group,
        };
        let slot = SlotIndex(self.slot);
        Some(Position { group, slot })
    }
}

/// What a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum RecordKey {
    Target(TargetId),
    Chunk(ChunkKey),
}

const TARGET_PREFIX: u8 = b'T';
const CHUNK_PREFIX: u8 = b'C';

impl RecordKey {
    pub(crate) fn to_bytes(self) -> Vec<u8> {
        match self {
            Self::Target(target) => {
                let mut bytes = vec![TARGET_PREFIX];
                bytes.extend(target.0.to_be_bytes());
                bytes
            }
            Self::Chunk(ChunkKey { target, chunk }) => {
                let mut bytes = vec![CHUNK_PREFIX];
                bytes.extend(target.0.to_be_bytes());
                bytes.extend(chunk.to_bytes());
                bytes
            }
        }
    }

    /// `None` for bytes that are no key.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (&prefix, rest) = bytes.split_first()?;
        let (target, rest) = rest.split_first_chunk::<8>()?;
        let target = TargetId(u64::from_be_bytes(*target));
        match prefix {
            TARGET_PREFIX if rest.is_empty() => Some(Self::Target(target)),
            CHUNK_PREFIX => {
                let chunk = ChunkId::from_bytes(rest)?;
                Some(Self::Chunk(ChunkKey { target, chunk }))
            }
            _ => None,
        }
    }
}

pub(crate) fn decode_record(bytes: &[u8]) -> Result<StoredRecord, DecodeError> {
    codec::decode(bytes)
}

pub(crate) fn decode_target(bytes: &[u8]) -> Result<StoredTarget, DecodeError> {
    codec::decode(bytes)
}

pub(crate) fn encode_target(chain: ChainId) -> Vec<u8> {
    codec::encode(&StoredTarget { chain })
}

#[cfg(test)]
mod tests;
