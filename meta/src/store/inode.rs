//! `INOD` + inode id -> `Inode`.

use kv::{ReadMode, Transaction};
use types::{codec, id::InodeId, inode::Inode};

use super::{decode, inode_key};
use crate::error::MetaError;

const PREFIX: [u8; 4] = *b"INOD";

/// The key of an inode.
pub fn key(inode: InodeId) -> [u8; 12] {
    inode_key(PREFIX, inode)
}

/// The inode as it is stored: without the times of its content when it is a directory (`directory_times`).
pub async fn load(
    txn: &mut dyn Transaction,
    inode: InodeId,
    mode: ReadMode,
) -> Result<Option<Inode>, MetaError> {
    let key = key(inode);
    let value = txn.get(&key, mode).await?;
    value.map(|value| decode(&key, &value)).transpose()
}

/// The inode, which must exist.
pub async fn require(
    txn: &mut dyn Transaction,
    inode: InodeId,
    mode: ReadMode,
) -> Result<Inode, MetaError> {
    let found = load(txn, inode, mode).await?;
    found.ok_or(MetaError::Stale { inode })
}

/// Writes an inode.
pub fn store(txn: &mut dyn Transaction, inode: &Inode) {
    txn.set(&key(inode.id), &codec::encode(inode));
}

/// Removes an inode.
pub fn clear(txn: &mut dyn Transaction, inode: InodeId) {
    txn.clear(&key(inode));
}

#[cfg(test)]
mod tests {
    use kv::{Kv, mem::MemKv};
    use types::inode::{InodeData, Times};

    use super::*;

    #[test]
    fn the_key_is_the_written_one() {
        assert_eq!(key(InodeId(0x0102)), *b"INOD\x02\x01\0\0\0\0\0\0");
    }

    #[tokio::test]
    async fn what_is_stored_is_loaded() {
        let kv = MemKv::new();
        let inode = Inode {
            id: InodeId(7),
            uid: 1,
            gid: 2,
            mode: 0o644,
            nlink: 1,
            times: Times::default(),
            data: InodeData::Symlink {
                target: b"x".to_vec(),
            },
        };
        let mut txn = kv.begin();
        store(&mut *txn, &inode);
        let mode = ReadMode::Serializable;
        assert_eq!(
            load(&mut *txn, inode.id, mode).await,
            Ok(Some(inode.clone()))
        );
        clear(&mut *txn, inode.id);
        let gone = require(&mut *txn, inode.id, mode).await;
        assert_eq!(gone, Err(MetaError::Stale { inode: inode.id }));
        txn.set(&key(inode.id), b"\x09\x00");
        let damaged = load(&mut *txn, inode.id, mode).await;
        assert!(matches!(damaged, Err(MetaError::Corrupt { .. })));
    }
}
