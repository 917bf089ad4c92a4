//! `UNRP` + inode id -> nothing: a write session of this file ended without a usable report of its length,
//! while others went on. The last session to end asks the chains (protocol L4).

use kv::{ReadMode, Transaction};
use types::id::InodeId;

use super::inode_key;
use crate::error::MetaError;

const PREFIX: [u8; 4] = *b"UNRP";

/// The key of the mark.
pub fn key(inode: InodeId) -> [u8; 12] {
    inode_key(PREFIX, inode)
}

/// Whether the mark is set.
pub async fn is_set(txn: &mut dyn Transaction, inode: InodeId) -> Result<bool, MetaError> {
    Ok(txn
        .get(&key(inode), ReadMode::Serializable)
        .await?
        .is_some())
}

/// Sets the mark.
pub fn set(txn: &mut dyn Transaction, inode: InodeId) {
    txn.set(&key(inode), b"");
}

/// Takes the mark away: the length is known, or the file is gone.
pub fn clear(txn: &mut dyn Transaction, inode: InodeId) {
    txn.clear(&key(inode));
}

#[cfg(test)]
mod tests {
    use kv::{Kv, mem::MemKv};

    use super::*;

    #[tokio::test]
    async fn the_mark_comes_and_goes() {
        let kv = MemKv::new();
        let mut txn = kv.begin();
        assert_eq!(is_set(&mut *txn, InodeId(1)).await, Ok(false));
        set(&mut *txn, InodeId(1));
        assert_eq!(is_set(&mut *txn, InodeId(1)).await, Ok(true));
        assert_eq!(is_set(&mut *txn, InodeId(2)).await, Ok(false));
        clear(&mut *txn, InodeId(1));
        assert_eq!(is_set(&mut *txn, InodeId(1)).await, Ok(false));
    }
}
