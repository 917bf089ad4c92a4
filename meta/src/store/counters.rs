//! `CNXT` + shard -> the next block of inode ids; `CNUM` + shard -> how many inodes there are (its share).
//! Both little-endian numbers of 8 bytes, sharded so that busy servers seldom meet.

use kv::{KeyRange, RangeOptions, ReadMode, Transaction};
use types::id::InodeId;

use super::bad_key;
use crate::error::MetaError;

const NEXT_BLOCK: [u8; 4] = *b"CNXT";
const INODE_COUNT: [u8; 4] = *b"CNUM";

/// How many shards each counter has: enough that a few dozen servers seldom meet, few enough to sum up.
pub const SHARDS: u8 = 16;

fn shard_key(prefix: [u8; 4], shard: u8) -> [u8; 5] {
    let [a, b, c, d] = prefix;
    [a, b, c, d, shard]
}

/// The key of a shard's next block.
pub fn next_block_key(shard: u8) -> [u8; 5] {
    shard_key(NEXT_BLOCK, shard)
}

/// The key of an inode's share of the count.
pub fn count_key(inode: InodeId) -> [u8; 5] {
    let shard = u8::try_from(inode.0 % u64::from(SHARDS)).expect("a remainder of a u8");
    shard_key(INODE_COUNT, shard)
}

/// Takes the next block of a shard. Blocks start at 1: the ids of block 0 include the root.
pub async fn take_block(txn: &mut dyn Transaction, shard: u8) -> Result<u64, MetaError> {
    let key = next_block_key(shard);
    let block = match txn.get(&key, ReadMode::Serializable).await? {
        Some(value) => number(&key, &value)?,
        None => 1,
    };
    txn.set(&key, &(block + 1).to_le_bytes());
    Ok(block)
}

/// Counts an inode that was made (1) or removed (-1). Conflicts with nobody.
pub fn count(txn: &mut dyn Transaction, inode: InodeId, change: i64) {
    txn.atomic_add(&count_key(inode), change);
}

/// How many inodes there are.
pub async fn inode_count(txn: &mut dyn Transaction) -> Result<u64, MetaError> {
    let range = KeyRange::prefix(&INODE_COUNT);
    let page = txn
        .get_range(range, RangeOptions::default(), ReadMode::Snapshot)
        .await?;
    let mut sum = 0_u64;
    for (key, value) in &page.items {
        // Shares wrap around below zero; only their sum means something.
        sum = sum.wrapping_add(number(key, value)?);
    }
    Ok(sum)
}

fn number(key: &[u8], value: &[u8]) -> Result<u64, MetaError> {
    let bytes = value.try_into().map_err(|_| bad_key(key))?;
    Ok(u64::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use kv::{Kv, mem::MemKv};

    use super::*;

    #[tokio::test]
    async fn blocks_rise_and_counts_add_up_over_shards() {
        let kv = MemKv::new();
        let mut txn = kv.begin();
        assert_eq!(take_block(&mut *txn, 3).await, Ok(1));
        assert_eq!(take_block(&mut *txn, 3).await, Ok(2));
        assert_eq!(take_block(&mut *txn, 4).await, Ok(1));
        for inode in 1..=20 {
            count(&mut *txn, InodeId(inode), 1);
        }
        count(&mut *txn, InodeId(7), -1);
        assert_eq!(inode_count(&mut *txn).await, Ok(19));
        assert_eq!(next_block_key(3), *b"CNXT\x03");
    }
}
