//! Chunks: fixed-size pieces of files, and what is known about one.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    checksum::Checksum,
    id::{ChannelId, ChannelSeq, ClientId, InodeId},
    version::{ChainVersion, ChunkVersion},
};

/// A piece of a file. Ordered so that a file's chunks are neighbours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ChunkId {
    /// The file.
    pub inode: InodeId,
    /// Which piece.
    pub index: u32,
}

impl ChunkId {
    /// Length of the ordered byte form.
    pub const ENCODED_LENGTH: usize = 12;

    /// The ordered byte form: inode and index, big-endian.
    pub fn to_bytes(self) -> [u8; Self::ENCODED_LENGTH] {
        let mut bytes = [0; Self::ENCODED_LENGTH];
        bytes[..8].copy_from_slice(&self.inode.0.to_be_bytes());
        bytes[8..].copy_from_slice(&self.index.to_be_bytes());
        bytes
    }

    /// Reads the ordered byte form; `None` when the length is wrong.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (inode, index) = bytes.split_at_checked(8)?;
        Some(Self {
            inode: InodeId(u64::from_be_bytes(inode.try_into().ok()?)),
            index: u32::from_be_bytes(index.try_into().ok()?),
        })
    }
}

impl fmt::Display for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.inode, self.index)
    }
}

/// Who made an update, for exactly-once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct UpdateTag {
    /// The client.
    pub client: ClientId,
    /// Its lane.
    pub channel: ChannelId,
    /// The position in the lane.
    pub seq: ChannelSeq,
}

/// A client's change of one chunk. Lengths and offsets are bytes inside the chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Update {
    /// Puts the payload at `offset`; bytes between the old end and `offset` become zero.
    Write {
        /// Where.
        offset: u32,
        /// How much; equals the payload's length.
        length: u32,
    },
    /// Makes the chunk at least this long, with zeros.
    Extend {
        /// The least length afterwards.
        length: u32,
    },
    /// Cuts the chunk to at most this length.
    Truncate {
        /// The greatest length afterwards.
        length: u32,
    },
    /// Removes the chunk; a version floor stays.
    Remove,
}

/// What a replica knows about one chunk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkMeta {
    /// Which chunk.
    pub id: ChunkId,
    /// False when the committed version is a removal: only the version floor is left.
    pub exists: bool,
    /// Bytes of content of the committed version.
    pub length: u32,
    /// The committed version; 0 when nothing was ever committed.
    pub commit_version: ChunkVersion,
    /// The chain version under which it was committed.
    pub chain_version: ChainVersion,
    /// The checksum of the committed content.
    pub checksum: Checksum,
    /// Who made the committed version.
    pub tag: Option<UpdateTag>,
    /// The pending version, when there is one.
    pub pending: Option<PendingMeta>,
}

/// The pending part of a chunk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingMeta {
    /// Its version: the commit version + 1, or above for a replacement.
    pub update_version: ChunkVersion,
    /// False for a pending removal.
    pub exists: bool,
    /// Bytes of content.
    pub length: u32,
    /// The chain version under which it was made.
    pub chain_version: ChainVersion,
    /// The checksum of the content.
    pub checksum: Checksum,
    /// Who made it.
    pub tag: Option<UpdateTag>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_byte_form_is_ordered_like_the_id() {
        let a = ChunkId {
            inode: InodeId(1),
            index: 300,
        };
        let b = ChunkId {
            inode: InodeId(256),
            index: 0,
        };
        assert!(a < b && a.to_bytes() < b.to_bytes());
        assert_eq!(ChunkId::from_bytes(&a.to_bytes()), Some(a));
        assert_eq!(ChunkId::from_bytes(&a.to_bytes()[1..]), None);
        assert_eq!(a.to_bytes(), [0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 1, 44]);
    }
}
