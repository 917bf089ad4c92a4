//! Exactly once (protocol W2): what came of the last update of each channel of a client, per target.
//!
//! A record of a chunk knows only who made its last version. This table knows of every channel what its last version was, also
//! when others have written the chunk since. An entry appears when its version is committed: the log need not say so, because
//! the version that a `Commit` is about has the tag. So a replay makes the same table.
//!
//! The table is bounded. When it is full the half that was committed longest ago is forgotten, in memory and in the store.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use types::{
    checksum::Checksum,
    chunk::{ChunkId, UpdateTag},
    codec::{self, DecodeError, Versioned},
    id::{ChannelId, ClientId, TargetId},
    rpc::storage::{ChannelDone, UpdateDone},
    version::{ChainVersion, ChunkVersion},
};

use crate::chunk_meta::StoredHead;

/// Channels of one target at most: all 1,024 channels of 32 clients, or 512 clients with 64 updates each under way. With more, what
/// is forgotten may be younger than a client's last retry. About 150 bytes each.
pub(crate) const CHANNELS_MAX: usize = 32_768;
/// No target lives to commit so many versions, so the number that follows does not overflow.
const ORDER_MAX: u64 = 1 << 62;

/// A channel of a client at a target: what entries are kept for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ChannelKey {
    pub(crate) target: TargetId,
    pub(crate) client: ClientId,
    pub(crate) channel: ChannelId,
}

/// What came of an update, as it stands on disk. The order of fields is the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredDone {
    pub(crate) tag: UpdateTag,
    pub(crate) chunk: ChunkId,
    pub(crate) version: ChunkVersion,
    pub(crate) chain_version: ChainVersion,
    pub(crate) length: u32,
    pub(crate) checksum: Checksum,
}

/// An entry of the table as it stands on disk. The order of fields is the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredChannel {
    /// Rises with each entry that is put into the table: which are the older ones.
    order: u64,
    done: StoredDone,
}

impl Versioned for StoredChannel {
    const VERSION: u16 = 1;
}

impl StoredDone {
    /// What the commit of a version means for its channel; `None` for a version without a tag.
    pub(crate) fn of(chunk: ChunkId, head: &StoredHead) -> Option<Self> {
        Some(Self {
            tag: head.tag?,
            chunk,
            version: head.version,
            chain_version: head.chain_version,
            length: head.length,
            checksum: head.checksum,
        })
    }
}

impl From<&ChannelDone> for StoredDone {
    fn from(channel: &ChannelDone) -> Self {
        let done = &channel.done;
        Self {
            tag: channel.tag,
            chunk: channel.chunk,
            version: done.commit_version,
            chain_version: done.chain_version,
            length: done.length,
            checksum: done.checksum,
        }
    }
}

impl From<StoredDone> for ChannelDone {
    fn from(stored: StoredDone) -> Self {
        Self {
            tag: stored.tag,
            chunk: stored.chunk,
            done: UpdateDone {
                length: stored.length,
                commit_version: stored.version,
                chain_version: stored.chain_version,
                checksum: stored.checksum,
            },
        }
    }
}

/// Reads an entry of the store.
///
/// # Errors
/// When it is none, or one of another channel than the key says.
pub(crate) fn decode_channel(key: ChannelKey, bytes: &[u8]) -> Result<StoredChannel, DecodeError> {
    let stored: StoredChannel = codec::decode(bytes)?;
    let tag = stored.done.tag;
    if (tag.client, tag.channel) != (key.client, key.channel) || stored.order > ORDER_MAX {
        let reason = format!("{stored:?} cannot be");
        return Err(DecodeError::Body { reason });
    }
    Ok(stored)
}

/// The channels of one target.
#[derive(Debug, Default)]
pub(crate) struct ChannelTable {
    entries: BTreeMap<(ClientId, ChannelId), StoredChannel>,
    next_order: u64,
}

impl ChannelTable {
    /// Takes an entry of the store as it is.
    pub(crate) fn restore(&mut self, stored: StoredChannel) {
        let tag = stored.done.tag;
        self.next_order = self.next_order.max(stored.order + 1);
        self.entries.insert((tag.client, tag.channel), stored);
    }

    /// Takes what came of an update, unless the channel has moved past it. Returns the channels whose entries have
    /// changed: its own, and those that were forgotten for want of room.
    pub(crate) fn put(&mut self, done: StoredDone) -> Vec<(ClientId, ChannelId)> {
        let key = (done.tag.client, done.tag.channel);
        let before = self.entries.get(&key);
        if before.is_some_and(|before| before.done.tag.seq > done.tag.seq) {
            return Vec::new();
        }
        let order = self.next_order;
        self.next_order += 1;
        self.entries.insert(key, StoredChannel { order, done });
        let mut changed = vec![key];
        if self.entries.len() > CHANNELS_MAX {
            changed.extend(self.forget_older_half());
        }
        changed
    }

    fn forget_older_half(&mut self) -> Vec<(ClientId, ChannelId)> {
        let mut orders: Vec<u64> = self.entries.values().map(|entry| entry.order).collect();
        orders.sort_unstable();
        let first_kept = orders[orders.len() / 2];
        let older = |stored: &StoredChannel| stored.order < first_kept;
        let entries = self.entries.iter();
        let forgotten: Vec<_> = entries
            .filter(|(_, stored)| older(stored))
            .map(|(&key, _)| key)
            .collect();
        self.entries.retain(|_, stored| !older(stored));
        forgotten
    }

    /// Forgets everything; returns the channels that were there.
    pub(crate) fn clear(&mut self) -> Vec<(ClientId, ChannelId)> {
        std::mem::take(&mut self.entries).into_keys().collect()
    }

    pub(crate) fn get(&self, client: ClientId, channel: ChannelId) -> Option<StoredChannel> {
        self.entries.get(&(client, channel)).copied()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// All entries, those that were committed longest ago first: whoever takes them in this order into an empty table
    /// forgets the same ones.
    pub(crate) fn in_order(&self) -> Vec<ChannelDone> {
        let mut entries: Vec<&StoredChannel> = self.entries.values().collect();
        entries.sort_unstable_by_key(|stored| stored.order);
        entries
            .into_iter()
            .map(|stored| stored.done.into())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use types::id::{ChannelSeq, InodeId};

    use super::*;

    fn done(client: u32, seq: u64) -> StoredDone {
        StoredDone {
            tag: UpdateTag {
                client: ClientId(u128::from(client)),
                channel: ChannelId(2),
                seq: ChannelSeq(seq),
            },
            chunk: ChunkId {
                inode: InodeId(300),
                index: 4,
            },
            version: ChunkVersion(7),
            chain_version: ChainVersion(3),
            length: 10_000,
            checksum: Checksum(1),
        }
    }

    /// The bytes of docs/format/disk.md: a change here is a new version of the format.
    #[test]
    fn the_bytes_of_a_channel() {
        let stored = StoredChannel {
            order: 9,
            done: done(5, 300),
        };
        #[rustfmt::skip]
        let expected = [
            1, 0,                        // version of the encoding
            9,                           // order
            5, 2, 0xac, 0x02,            // tag: client 5, channel 2, seq 300
            0xac, 0x02, 4,               // chunk: inode 300, index 4
            7, 3, 0x90, 0x4e, 1,         // version, chain version, length 10000, checksum
        ];
        assert_eq!(codec::encode(&stored), expected);
        let key = ChannelKey {
            target: TargetId(1),
            client: ClientId(5),
            channel: ChannelId(2),
        };
        assert_eq!(decode_channel(key, &expected), Ok(stored));
        let other = ChannelKey {
            channel: ChannelId(3),
            ..key
        };
        assert!(decode_channel(other, &expected).is_err());
        let order = u64::MAX;
        let absurd = codec::encode(&StoredChannel { order, ..stored });
        assert!(decode_channel(key, &absurd).is_err());
        for end in 0..expected.len() {
            assert!(decode_channel(key, &expected[..end]).is_err());
        }
    }

    #[test]
    fn a_channel_never_goes_back() {
        let mut table = ChannelTable::default();
        assert_eq!(table.put(done(1, 5)).len(), 1);
        assert_eq!(table.put(done(1, 4)), []);
        assert_eq!(table.in_order(), [done(1, 5).into()]);
        assert_eq!(table.put(done(1, 5)).len(), 1);
        assert_eq!(table.put(done(1, 6)).len(), 1);
        assert_eq!(table.in_order(), [done(1, 6).into()]);
    }

    #[test]
    fn a_full_table_forgets_what_was_committed_longest_ago() {
        let mut table = ChannelTable::default();
        let count = u32::try_from(CHANNELS_MAX).unwrap();
        for client in 0..count {
            assert_eq!(table.put(done(client, 1)).len(), 1);
        }
        // The first one is the youngest now.
        table.put(done(0, 2));
        let mut again = ChannelTable::default();
        for stored in table.entries.values() {
            again.restore(*stored);
        }
        for table in [&mut table, &mut again] {
            let changed = table.put(done(count, 1));
            assert_eq!(changed.len(), CHANNELS_MAX / 2 + 1);
            let left = table.in_order();
            assert_eq!(left.len(), CHANNELS_MAX / 2 + 1);
            assert_eq!(left.last(), Some(&done(count, 1).into()));
            assert!(left.contains(&done(0, 2).into()));
            let gone = changed.iter().skip(1);
            assert!(gone.copied().all(|(client, _)| client.0 > 0));
        }
        assert_eq!(table.in_order(), again.in_order());
        assert_eq!(table.clear().len(), CHANNELS_MAX / 2 + 1);
        assert!(table.is_empty());
    }
}
