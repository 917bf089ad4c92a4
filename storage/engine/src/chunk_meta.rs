//! What is known of a chunk: in memory a `Record` that holds its slots, on disk the bytes of `docs/format/disk.md`.
//!
//! Every chunk of the disk has its record in memory, so it is kept small: about 180 bytes for a chunk with one version,
//! its key and its slot with it. The checksums of blocks, 1 KiB for a chunk of 1 MiB, are there only while they are
//! used or not in the record store yet (`sums_cache`).

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use common::env::WallTime;
use serde::{Deserialize, Serialize};
use types::{
    checksum::Checksum,
    chunk::{ChunkId, ChunkMeta, PendingMeta, UpdateTag},
    codec::{self, DecodeError, Versioned},
    id::{ChainId, ChannelId, ChannelSeq, ClientId, TargetId},
    version::{ChainVersion, ChunkVersion},
};

use crate::{
    blocks::Blocks,
    channels::ChannelKey,
    group::{GroupId, Position, SizeClass, SlotIndex},
    log::{LogData, LogStart, entry::LogRef},
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

const EXISTS: u8 = 1;
const HAS_TAG: u8 = 2;

/// What is known of a version besides where its bytes are. Packed: there is one for each chunk.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    /// Low and high half: a u128 would be aligned to 16 bytes.
    client: [u64; 2],
    seq: u64,
    pub(crate) version: ChunkVersion,
    pub(crate) chain_version: ChainVersion,
    pub(crate) length: u32,
    /// Of the whole content.
    pub(crate) checksum: Checksum,
    seconds: u32,
    channel: u16,
    flags: u8,
}

impl std::fmt::Debug for Head {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        StoredHead::from(*self).fmt(f)
    }
}

impl Head {
    /// False for a removal.
    pub(crate) fn exists(&self) -> bool {
        self.flags & EXISTS != 0
    }

    pub(crate) fn tag(&self) -> Option<UpdateTag> {
        (self.flags & HAS_TAG != 0).then_some(UpdateTag {
            client: ClientId(u128::from(self.client[1]) << 64 | u128::from(self.client[0])),
            channel: ChannelId(self.channel),
            seq: ChannelSeq(self.seq),
        })
    }
}

/// A head as it stands on disk. The order of fields is the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredHead {
    pub(crate) version: ChunkVersion,
    pub(crate) chain_version: ChainVersion,
    pub(crate) exists: bool,
    pub(crate) length: u32,
    pub(crate) checksum: Checksum,
    pub(crate) tag: Option<UpdateTag>,
    /// Since 1970, for people.
    pub(crate) seconds: u32,
}

impl StoredHead {
    /// The seconds of a time.
    pub(crate) fn seconds_of(time: WallTime) -> u32 {
        const NANOS: u64 = 1_000_000_000;
        u32::try_from(time.0 / NANOS).unwrap_or(u32::MAX)
    }
}

impl From<StoredHead> for Head {
    fn from(stored: StoredHead) -> Self {
        let tag = stored.tag;
        let client = tag.map_or(0, |tag| tag.client.0);
        let half = |shift: u32| {
            let half = client >> shift & u128::from(u64::MAX);
            u64::try_from(half).expect("it was masked")
        };
        let exists = if stored.exists { EXISTS } else { 0 };
        Self {
            client: [half(0), half(64)],
            seq: tag.map_or(0, |tag| tag.seq.0),
            version: stored.version,
            chain_version: stored.chain_version,
            length: stored.length,
            checksum: stored.checksum,
            seconds: stored.seconds,
            channel: tag.map_or(0, |tag| tag.channel.0),
            flags: exists | if tag.is_some() { HAS_TAG } else { 0 },
        }
    }
}

impl From<Head> for StoredHead {
    fn from(head: Head) -> Self {
        Self {
            version: head.version,
            chain_version: head.chain_version,
            exists: head.exists(),
            length: head.length,
            checksum: head.checksum,
            tag: head.tag(),
            seconds: head.seconds,
        }
    }
}

/// One version of a chunk.
#[derive(Debug)]
pub(crate) struct Version {
    pub(crate) head: Head,
    /// Where the bytes are; `None` when there are none.
    pub(crate) content: Option<Content>,
}

impl Version {
    pub(crate) fn slot(&self) -> Option<&Arc<Slot>> {
        Some(&self.content.as_ref()?.slot)
    }

    /// The same version in the same slot. Blocks may have been folded from the log into the slot meanwhile, which changes
    /// no byte.
    pub(crate) fn is_same(&self, other: &Version) -> bool {
        self.head == other.head && self.slot().map(Arc::as_ptr) == other.slot().map(Arc::as_ptr)
    }
}

/// The bytes of a version, from the start of a slot.
#[derive(Debug)]
pub(crate) struct Content {
    pub(crate) slot: Arc<Slot>,
    /// `None` when the record store has them, and nothing lies in the log.
    pub(crate) detail: ArcSwapOption<Detail>,
}

/// The blocks of a version in memory.
pub(crate) type Detail = Blocks<Logged>;

/// A block in the log.
#[derive(Clone, Debug)]
pub(crate) struct Logged {
    pub(crate) data: Arc<LogData>,
    /// Which block of the data.
    pub(crate) at: u32,
}

impl Logged {
    fn log_ref(&self) -> Option<LogRef> {
        Some(self.data.log_ref()?.plus(self.at))
    }
}

impl Content {
    pub(crate) fn new(slot: Arc<Slot>, detail: Option<Arc<Detail>>) -> Self {
        Self {
            slot,
            detail: ArcSwapOption::new(detail),
        }
    }

    /// The same bytes once more.
    pub(crate) fn share(&self) -> Self {
        Self::new(self.slot.clone(), self.detail.load_full())
    }
}

/// A chunk. Two versions may share a slot: the pending one then adds bytes behind the committed ones, has some of
/// its own in the log, or is a part of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Record {
    /// `None` when nothing was ever committed.
    pub(crate) committed: Option<Arc<Version>>,
    pub(crate) pending: Option<Arc<Version>>,
}

impl Record {
    pub(crate) fn versions(&self) -> impl Iterator<Item = &Arc<Version>> {
        self.committed.iter().chain(&self.pending)
    }

    /// The slots in use, each once.
    pub(crate) fn slots(&self) -> impl Iterator<Item = &Arc<Slot>> {
        fn slot(version: &Option<Arc<Version>>) -> Option<&Arc<Slot>> {
            version.as_ref()?.slot()
        }
        let (committed, pending) = (slot(&self.committed), slot(&self.pending));
        let shared = match (committed, pending) {
            (Some(committed), Some(pending)) => Arc::ptr_eq(committed, pending),
            _ => false,
        };
        committed.into_iter().chain(pending.filter(|_| !shared))
    }

    /// Bytes of the slots in use.
    pub(crate) fn slot_bytes(&self) -> u64 {
        self.slots().map(|slot| u64::from(slot.bytes())).sum()
    }

    pub(crate) fn meta(&self, id: ChunkId) -> ChunkMeta {
        let committed = self.committed.as_deref().map(|version| version.head);
        ChunkMeta {
            id,
            exists: committed.is_some_and(|head| head.exists()),
            length: committed.map_or(0, |head| head.length),
            commit_version: committed.map_or_else(ChunkVersion::default, |head| head.version),
            chain_version: committed.map_or_else(ChainVersion::default, |head| head.chain_version),
            checksum: committed.map_or_else(Checksum::default, |head| head.checksum),
            tag: committed.and_then(|head| head.tag()),
            pending: self.pending.as_deref().map(|pending| PendingMeta {
                update_version: pending.head.version,
                exists: pending.head.exists(),
                length: pending.head.length,
                chain_version: pending.head.chain_version,
                checksum: pending.head.checksum,
                tag: pending.head.tag(),
            }),
        }
    }

    /// The record as it stands in the store. All its blocks in the log have been written.
    pub(crate) fn stored(&self) -> StoredRecord {
        let stored = |version: &Option<Arc<Version>>| version.as_deref().map(StoredVersion::of);
        StoredRecord {
            committed: stored(&self.committed),
            pending: stored(&self.pending),
        }
    }
}

/// A record as it stands on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredRecord {
    pub(crate) committed: Option<StoredVersion>,
    pub(crate) pending: Option<StoredVersion>,
}

/// A version as it stands on disk. The order of fields is the format.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredVersion {
    pub(crate) head: StoredHead,
    pub(crate) position: Option<StoredPosition>,
    /// Blocks that lie in the log, in order.
    pub(crate) overlay: Vec<(u32, LogRef)>,
}

/// A position as it stands on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredPosition {
    class: u8,
    group: u32,
    slot: u8,
}

/// The checksums of a record's blocks as they stand on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredSums {
    pub(crate) versions: Vec<StoredVersionSums>,
}

/// Those of one version, with what tells it from others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredVersionSums {
    pub(crate) version: ChunkVersion,
    pub(crate) checksum: Checksum,
    pub(crate) length: u32,
    pub(crate) position: StoredPosition,
    /// Four bytes, little-endian, for each block.
    pub(crate) sums: Bytes,
}

impl StoredSums {
    /// The checksums of this version.
    pub(crate) fn of(&self, head: &Head, position: Position) -> Option<&StoredVersionSums> {
        let position = StoredPosition::of(position);
        self.versions.iter().find(|stored| {
            stored.version == head.version
                && stored.checksum == head.checksum
                && stored.length == head.length
                && stored.position == position
        })
    }
}

/// A target as it stands on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredTarget {
    pub(crate) chain: ChainId,
}

/// Where a replay of the log begins, as it stands on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct StoredLogStart {
    disk: u64,
    segment: u64,
    batch: u64,
}

impl Versioned for StoredRecord {
    const VERSION: u16 = 2;
}

impl Versioned for StoredSums {
    const VERSION: u16 = 1;
}

impl Versioned for StoredTarget {
    const VERSION: u16 = 1;
}

impl Versioned for StoredLogStart {
    const VERSION: u16 = 1;
}

pub(crate) fn checksums_to(sums: &[Checksum]) -> Bytes {
    sums.iter().flat_map(|sum| sum.0.to_le_bytes()).collect()
}

pub(crate) fn checksums_from(bytes: &[u8]) -> Vec<Checksum> {
    let sums = bytes.as_chunks::<4>().0.iter();
    sums.map(|&bytes| Checksum(u32::from_le_bytes(bytes)))
        .collect()
}

impl StoredVersion {
    fn of(version: &Version) -> Self {
        let content = version.content.as_ref();
        let detail = content.and_then(|content| content.detail.load_full());
        let overlay = detail.iter().flat_map(|detail| &detail.overlay);
        Self {
            head: version.head.into(),
            position: content.map(|content| StoredPosition::of(content.slot.position())),
            overlay: overlay
                .map(|(block, logged)| {
                    let place = logged.log_ref();
                    (*block, place.expect("what is durable lies in the log"))
                })
                .collect(),
        }
    }
}

impl StoredPosition {
    pub(crate) fn of(position: Position) -> Self {
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
    /// The checksums of a chunk.
    Sums(ChunkKey),
    /// What came of the last update of a channel.
    Channel(ChannelKey),
    LogStart,
}

pub(crate) const TARGET_PREFIX: u8 = b'T';
pub(crate) const CHUNK_PREFIX: u8 = b'C';
const SUMS_PREFIX: u8 = b'S';
pub(crate) const CHANNEL_PREFIX: u8 = b'D';
const LOG_START_PREFIX: u8 = b'L';

impl RecordKey {
    pub(crate) fn to_bytes(self) -> Vec<u8> {
        let of_chunk = |prefix, key: ChunkKey| {
            let mut bytes = vec![prefix];
            bytes.extend(key.target.0.to_be_bytes());
            bytes.extend(key.chunk.to_bytes());
            bytes
        };
        match self {
            Self::Target(target) => {
                let mut bytes = vec![TARGET_PREFIX];
                bytes.extend(target.0.to_be_bytes());
                bytes
            }
            Self::Chunk(key) => of_chunk(CHUNK_PREFIX, key),
            Self::Sums(key) => of_chunk(SUMS_PREFIX, key),
            Self::Channel(key) => {
                let mut bytes = vec![CHANNEL_PREFIX];
                bytes.extend(key.target.0.to_be_bytes());
                bytes.extend(key.client.0.to_be_bytes());
                bytes.extend(key.channel.0.to_be_bytes());
                bytes
            }
            Self::LogStart => vec![LOG_START_PREFIX],
        }
    }

    /// `None` for bytes that are no key.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (&prefix, rest) = bytes.split_first()?;
        if prefix == LOG_START_PREFIX {
            return rest.is_empty().then_some(Self::LogStart);
        }
        let (target, rest) = rest.split_first_chunk::<8>()?;
        let target = TargetId(u64::from_be_bytes(*target));
        let key = || {
            let chunk = ChunkId::from_bytes(rest)?;
            Some(ChunkKey { target, chunk })
        };
        match prefix {
            TARGET_PREFIX if rest.is_empty() => Some(Self::Target(target)),
            CHUNK_PREFIX => Some(Self::Chunk(key()?)),
            SUMS_PREFIX => Some(Self::Sums(key()?)),
            CHANNEL_PREFIX => {
                let (client, channel) = rest.split_first_chunk::<16>()?;
                Some(Self::Channel(ChannelKey {
                    target,
                    client: ClientId(u128::from_be_bytes(*client)),
                    channel: ChannelId(u16::from_be_bytes(channel.try_into().ok()?)),
                }))
            }
            _ => None,
        }
    }
}

pub(crate) fn decode_record(bytes: &[u8]) -> Result<StoredRecord, DecodeError> {
    codec::decode(bytes)
}

pub(crate) fn decode_sums(bytes: &[u8]) -> Result<StoredSums, DecodeError> {
    codec::decode(bytes)
}

pub(crate) fn decode_target(bytes: &[u8]) -> Result<StoredTarget, DecodeError> {
    codec::decode(bytes)
}

pub(crate) fn encode_target(chain: ChainId) -> Vec<u8> {
    codec::encode(&StoredTarget { chain })
}

/// No disk lives to write so many batches; so none of the numbers that follow overflows.
const LOG_NUMBER_MAX: u64 = 1 << 62;

pub(crate) fn decode_log_start(bytes: &[u8]) -> Result<LogStart, DecodeError> {
    let stored: StoredLogStart = codec::decode(bytes)?;
    // Disk 0 is what a new file of the log holds.
    if stored.disk == 0 || stored.segment.max(stored.batch) > LOG_NUMBER_MAX {
        return Err(DecodeError::Body {
            reason: format!("{stored:?} cannot be"),
        });
    }
    Ok(LogStart {
        disk: stored.disk,
        segment: stored.segment,
        batch: stored.batch,
    })
}

pub(crate) fn encode_log_start(start: LogStart) -> Vec<u8> {
    codec::encode(&StoredLogStart {
        disk: start.disk,
        segment: start.segment,
        batch: start.batch,
    })
}

#[cfg(test)]
mod tests;
