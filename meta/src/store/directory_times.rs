//! `DTIM` + inode id -> when a directory's content last changed, nanoseconds since 1970, little-endian.
//!
//! Apart from the inode so that changes of one directory do not conflict (ADR 0004): it is raised without
//! being read. Where it exists it is the directory's mtime, and its ctime unless that is later; utimensat
//! stores its time in the inode and clears this key.

use kv::{ReadMode, Transaction};
use types::{
    id::InodeId,
    inode::{FileKind, Inode},
};

use super::{bad_key, inode_key};
use crate::error::MetaError;

const PREFIX: [u8; 4] = *b"DTIM";

/// The key of a directory's times.
pub fn key(directory: InodeId) -> [u8; 12] {
    inode_key(PREFIX, directory)
}

/// Notes that a directory's content changed. Of concurrent changes the latest time stays.
pub fn raise(txn: &mut dyn Transaction, directory: InodeId, now_ns: u64) {
    txn.atomic_max(&key(directory), now_ns);
}

/// Forgets the time: the directory is removed, or its mtime stands in its inode.
pub fn clear(txn: &mut dyn Transaction, directory: InodeId) {
    txn.clear(&key(directory));
}

/// The inode with its true times. Reads without conflict, and only for directories.
pub async fn merge(txn: &mut dyn Transaction, mut inode: Inode) -> Result<Inode, MetaError> {
    if inode.kind() != FileKind::Directory {
        return Ok(inode);
    }
    let key = key(inode.id);
    let Some(value) = txn.get(&key, ReadMode::Snapshot).await? else {
        return Ok(inode);
    };
    let bytes = value.as_ref().try_into().map_err(|_| bad_key(&key))?;
    let changed_ns = u64::from_le_bytes(bytes);
    inode.times.mtime_ns = changed_ns;
    inode.times.ctime_ns = inode.times.ctime_ns.max(changed_ns);
    Ok(inode)
}

#[cfg(test)]
mod tests {
    use kv::{ConflictSets, KeyRange, Kv, mem::MemKv};
    use types::inode::{InodeData, Times};

    use super::*;

    fn directory() -> Inode {
        let data = InodeData::Directory {
            parent: InodeId(1),
            layout: None,
        };
        Inode {
            id: InodeId(9),
            uid: 0,
            gid: 0,
            mode: 0o755,
            nlink: 1,
            times: Times {
                mtime_ns: 50,
                ctime_ns: 80,
                ..Times::default()
            },
            data,
        }
    }

    #[tokio::test]
    async fn a_raised_time_is_the_mtime_and_reads_nothing_for_conflict() {
        let kv = MemKv::new();
        let mut txn = kv.begin();
        assert_eq!(merge(&mut *txn, directory()).await, Ok(directory()));
        raise(&mut *txn, InodeId(9), 70);
        raise(&mut *txn, InodeId(9), 60);
        let times = merge(&mut *txn, directory()).await.unwrap().times;
        assert_eq!((times.mtime_ns, times.ctime_ns), (70, 80));
        let expected = ConflictSets {
            reads: Vec::new(),
            writes: vec![KeyRange::single(b"DTIM\x09\0\0\0\0\0\0\0")],
        };
        assert_eq!(txn.conflicts(), expected);
        clear(&mut *txn, InodeId(9));
        assert_eq!(merge(&mut *txn, directory()).await, Ok(directory()));
    }
}
