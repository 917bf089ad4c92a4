//! `GCQU` + shard + time (big-endian) + inode id (big-endian) -> `Garbage`: work that must be done outside
//! the transaction that made it necessary (protocol N6, L5). Ordered by time within a shard.

use kv::{KeyRange, Transaction, key};
use serde::{Deserialize, Serialize};
use types::{
    codec::{self, Versioned},
    id::InodeId,
};

use super::decode;
use crate::error::MetaError;

const PREFIX: [u8; 4] = *b"GCQU";

/// The parts of the queue. Each will belong to one meta server at a time (protocol N7).
pub const SHARDS: u8 = 16;

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Garbage {
    /// The inode has neither names nor sessions: remove its chunks, then itself.
    Remove,
    /// A truncate was begun: finish it, unless that was done.
    Truncate,
}

impl Versioned for Garbage {
    const VERSION: u16 = 1;
}

/// An entry's place in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Nanoseconds since 1970; for order and for patience, never for a decision.
    pub queued_ns: u64,
    /// The inode.
    pub inode: InodeId,
}

impl Place {
    fn shard(self) -> u8 {
        u8::try_from(self.inode.0 % u64::from(SHARDS)).expect("a remainder of a u8")
    }

    /// The entry's key.
    pub fn key(self) -> Vec<u8> {
        let mut bytes = PREFIX.to_vec();
        bytes.push(self.shard());
        key::push_u64(&mut bytes, self.queued_ns);
        key::push_u64(&mut bytes, self.inode.0);
        bytes
    }
}

/// All entries of a shard.
pub fn range(shard: u8) -> KeyRange {
    let [a, b, c, d] = PREFIX;
    KeyRange::prefix(&[a, b, c, d, shard])
}

/// Queues an entry.
pub fn store(txn: &mut dyn Transaction, place: Place, garbage: Garbage) {
    txn.set(&place.key(), &codec::encode(&garbage));
}

/// Takes an entry off the queue.
pub fn clear(txn: &mut dyn Transaction, place: Place) {
    txn.clear(&place.key());
}

/// Reads an item of a shard's range.
pub fn read(bytes: &[u8], value: &[u8]) -> Result<(Place, Garbage), MetaError> {
    let place = parse(bytes).ok_or_else(|| super::bad_key(bytes))?;
    Ok((place, decode(bytes, value)?))
}

fn parse(bytes: &[u8]) -> Option<Place> {
    let (_shard, rest) = bytes.strip_prefix(&PREFIX)?.split_first()?;
    let (queued_ns, rest) = key::split_u64(rest)?;
    let (inode, rest) = key::split_u64(rest)?;
    let inode = InodeId(inode);
    rest.is_empty().then_some(Place { queued_ns, inode })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_survive_their_keys_and_keep_their_order() {
        let place = |queued_ns, inode| Place {
            queued_ns,
            inode: InodeId(inode),
        };
        let early = place(255, 32);
        let late = place(256, 16);
        assert!(early.key() < late.key());
        let value = codec::encode(&Garbage::Truncate);
        assert_eq!(read(&late.key(), &value), Ok((late, Garbage::Truncate)));
        assert!(range(0).contains(&late.key()) && !range(1).contains(&late.key()));
        assert!(read(&late.key()[..20], &value).is_err());
        assert_eq!(value, [1, 0, 1]);
    }
}
