//! `DENT` + directory's inode id + name -> `Dentry`. Names stand last, so a directory is a range of keys in
//! byte order of its names.

use kv::{KeyRange, RangeOptions, ReadMode, Transaction, key::successor};
use types::{codec, dentry::Dentry, id::InodeId};

use super::{bad_key, decode, inode_key, split_inode_key};
use crate::error::MetaError;

const PREFIX: [u8; 4] = *b"DENT";

/// A name with where it leads.
pub type Named = (Vec<u8>, Dentry);

/// The key of a name.
pub fn key(parent: InodeId, name: &[u8]) -> Vec<u8> {
    let mut key = inode_key(PREFIX, parent).to_vec();
    key.extend_from_slice(name);
    key
}

/// All names of a directory.
pub fn range(parent: InodeId) -> KeyRange {
    KeyRange::prefix(&inode_key(PREFIX, parent))
}

/// Where a name leads.
pub async fn load(
    txn: &mut dyn Transaction,
    parent: InodeId,
    name: &[u8],
    mode: ReadMode,
) -> Result<Option<Dentry>, MetaError> {
    let key = key(parent, name);
    let value = txn.get(&key, mode).await?;
    value.map(|value| decode(&key, &value)).transpose()
}

/// Writes a name.
pub fn store(txn: &mut dyn Transaction, parent: InodeId, name: &[u8], dentry: &Dentry) {
    txn.set(&key(parent, name), &codec::encode(dentry));
}

/// Removes a name.
pub fn clear(txn: &mut dyn Transaction, parent: InodeId, name: &[u8]) {
    txn.clear(&key(parent, name));
}

/// Whether a directory has no names. A name that appears meanwhile conflicts.
pub async fn is_empty(txn: &mut dyn Transaction, parent: InodeId) -> Result<bool, MetaError> {
    let options = RangeOptions {
        limit: 1,
        reverse: false,
    };
    let page = txn
        .get_range(range(parent), options, ReadMode::Serializable)
        .await?;
    Ok(page.items.is_empty())
}

/// A page of the names after `after` (from the start when that is empty), and whether there are more.
/// Conflicts with nothing.
pub async fn list(
    txn: &mut dyn Transaction,
    parent: InodeId,
    after: &[u8],
    limit: usize,
) -> Result<(Vec<Named>, bool), MetaError> {
    let mut range = range(parent);
    if !after.is_empty() {
        range.begin = successor(&key(parent, after));
    }
    let options = RangeOptions {
        limit,
        reverse: false,
    };
    let page = txn.get_range(range, options, ReadMode::Snapshot).await?;
    let mut named = Vec::with_capacity(page.items.len());
    for (key, value) in &page.items {
        let (_parent, name) = split_inode_key(PREFIX, key).ok_or_else(|| bad_key(key))?;
        named.push((name.to_vec(), decode(key, value)?));
    }
    Ok((named, page.more))
}

#[cfg(test)]
mod tests {
    use kv::{Kv, mem::MemKv};
    use types::inode::FileKind;

    use super::*;

    #[test]
    fn the_key_is_the_written_one() {
        assert_eq!(key(InodeId(1), b"a"), b"DENT\x01\0\0\0\0\0\0\0a");
    }

    #[tokio::test]
    async fn pages_follow_each_other_in_byte_order() {
        let kv = MemKv::new();
        let mut txn = kv.begin();
        let dentry = |inode| Dentry {
            inode: InodeId(inode),
            kind: FileKind::File,
        };
        // \xff ends no range early, and the names of the next directory are not ours.
        let names: [&[u8]; 4] = [b"a", b"a\0", b"b", b"\xff\xff"];
        for (number, name) in (10..).zip(names) {
            store(&mut *txn, InodeId(5), name, &dentry(number));
        }
        store(&mut *txn, InodeId(6), b"other", &dentry(1));
        let mut seen = Vec::new();
        let mut after = Vec::new();
        loop {
            let (page, more) = list(&mut *txn, InodeId(5), &after, 1).await.unwrap();
            seen.extend(page.iter().map(|(name, _)| name.clone()));
            if !more {
                break;
            }
            after.clone_from(seen.last().unwrap());
        }
        assert_eq!(seen, names);
        assert_eq!(is_empty(&mut *txn, InodeId(5)).await, Ok(false));
        assert_eq!(is_empty(&mut *txn, InodeId(7)).await, Ok(true));
    }
}
