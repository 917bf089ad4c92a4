//! `GCQU` + shard + time (big-endian) + inode id (big-endian) + kind -> nothing: work that must be done
//! outside the transaction that made it necessary (protocol N6, L5). Ordered by time within a shard.

use kv::{KeyRange, Transaction, key};
use types::id::InodeId;

use super::bad_key;
use crate::error::MetaError;

const PREFIX: [u8; 4] = *b"GCQU";

/// The parts of the queue. Each will belong to one meta server at a time (protocol N7).
pub const SHARDS: u8 = 16;

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Garbage {
    /// The inode has neither names nor sessions: remove its chunks, then itself.
    Remove = 0,
    /// A truncate was begun: finish it, unless that was done.
    Truncate = 1,
}

impl Garbage {
    fn from_number(number: u8) -> Option<Self> {
        [Self::Remove, Self::Truncate]
            .into_iter()
            .find(|garbage| *garbage as u8 == number)
    }
}

/// An entry of the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// Nanoseconds since 1970; for order and for patience, never for a decision.
    pub queued_ns: u64,
    /// The inode.
    pub inode: InodeId,
    /// What is to be done with it.
    pub garbage: Garbage,
}

impl Entry {
    fn shard(self) -> u8 {
        u8::try_from(self.inode.0 % u64::from(SHARDS)).expect("a remainder of a u8")
    }

    /// The entry's key.
    pub fn key(self) -> Vec<u8> {
        let mut bytes = PREFIX.to_vec();
        bytes.push(self.shard());
        key::push_u64(&mut bytes, self.queued_ns);
        key::push_u64(&mut bytes, self.inode.0);
        bytes.push(self.garbage as u8);
        bytes
    }
}

/// All entries of a shard.
pub fn range(shard: u8) -> KeyRange {
    let [a, b, c, d] = PREFIX;
    KeyRange::prefix(&[a, b, c, d, shard])
}

/// Queues an entry.
pub fn store(txn: &mut dyn Transaction, entry: Entry) {
    txn.set(&entry.key(), b"");
}

/// Takes an entry off the queue.
pub fn clear(txn: &mut dyn Transaction, entry: Entry) {
    txn.clear(&entry.key());
}

/// Reads a key of a shard's range.
pub fn read(bytes: &[u8]) -> Result<Entry, MetaError> {
    parse(bytes).ok_or_else(|| bad_key(bytes))
}

fn parse(bytes: &[u8]) -> Option<Entry> {
    let (_shard, rest) = bytes.strip_prefix(&PREFIX)?.split_first()?;
    let (queued_ns, rest) = key::split_u64(rest)?;
    let (inode, rest) = key::split_u64(rest)?;
    let [garbage] = rest else {
        return None;
    };
    Some(Entry {
        queued_ns,
        inode: InodeId(inode),
        garbage: Garbage::from_number(*garbage)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_survive_their_keys_and_keep_their_order() {
        let entry = |queued_ns, inode, garbage| Entry {
            queued_ns,
            inode: InodeId(inode),
            garbage,
        };
        let early = entry(255, 32, Garbage::Truncate);
        let late = entry(256, 16, Garbage::Remove);
        assert!(early.key() < late.key());
        for entry in [early, late] {
            assert_eq!(read(&entry.key()), Ok(entry));
        }
        assert!(range(0).contains(&late.key()) && !range(1).contains(&late.key()));
        assert!(read(&late.key()[..21]).is_err());
        let mut unknown = late.key();
        unknown[21] = 7;
        assert!(read(&unknown).is_err());
        assert_eq!(
            early.key(),
            b"GCQU\0\0\0\0\0\0\0\0\xff\0\0\0\0\0\0\0\x20\x01"
        );
    }
}
