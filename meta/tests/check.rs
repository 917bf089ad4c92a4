//! What must hold in the store whatever happened before.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use kv::{KeyRange, Kv, RangeOptions, ReadMode};
use meta::store::{
    self,
    garbage::{Garbage, SHARDS},
};
use types::{
    codec,
    dentry::Dentry,
    id::{InodeId, ROOT_INODE},
    inode::{FileKind, Inode, InodeData},
    session::FileSession,
};

/// Everything whose key starts with `prefix`, without the prefix.
pub(crate) async fn scan(kv: &dyn Kv, prefix: &[u8]) -> Vec<(Vec<u8>, Bytes)> {
    let mut txn = kv.begin();
    let mut found = Vec::new();
    let mut left = Some(KeyRange::prefix(prefix));
    while let Some(range) = left {
        let options = RangeOptions::default();
        let page = txn
            .get_range(range.clone(), options, ReadMode::Snapshot)
            .await
            .unwrap();
        left = page.rest(&range, false);
        let items = page.items.into_iter();
        found.extend(items.map(|(key, value)| (key[prefix.len()..].to_vec(), value)));
    }
    found
}

fn inode_of(key: &[u8]) -> InodeId {
    InodeId(u64::from_le_bytes(key[..8].try_into().unwrap()))
}

/// Panics when something does not hold.
pub(crate) async fn check(kv: &dyn Kv) {
    let inodes = inodes(kv).await;
    let sessions = sessions(kv, &inodes).await;
    let garbage = garbage(kv).await;
    check_names(kv, &inodes).await;
    for inode in inodes.values() {
        if inode.nlink == 0 {
            assert_eq!(inode.kind(), FileKind::File);
            let kept =
                sessions.contains(&inode.id) || garbage.contains(&(inode.id, Garbage::Remove));
            assert!(kept, "inode {} is lost", inode.id);
        }
        if let InodeData::File {
            truncating: Some(_),
            ..
        } = inode.data
        {
            let queued = garbage.contains(&(inode.id, Garbage::Truncate));
            assert!(queued, "the truncate of {} is lost", inode.id);
        }
    }
    for (key, _) in scan(kv, b"DTIM").await {
        assert_eq!(inodes[&inode_of(&key)].kind(), FileKind::Directory);
    }
    for (key, _) in scan(kv, b"UNRP").await {
        assert_eq!(inodes[&inode_of(&key)].kind(), FileKind::File);
    }
    let records = scan(kv, b"IDEM").await.len();
    assert_eq!(records, scan(kv, b"IDET").await.len());
    let counted = store::counters::inode_count(&mut *kv.begin()).await;
    assert_eq!(counted, Ok(inodes.len() as u64));
}

async fn inodes(kv: &dyn Kv) -> BTreeMap<InodeId, Inode> {
    let mut inodes = BTreeMap::new();
    for (key, value) in scan(kv, b"INOD").await {
        let inode: Inode = codec::decode(&value).unwrap();
        assert_eq!(inode.id, inode_of(&key));
        inodes.insert(inode.id, inode);
    }
    inodes
}

async fn sessions(kv: &dyn Kv, inodes: &BTreeMap<InodeId, Inode>) -> BTreeSet<InodeId> {
    let mut sessions = BTreeSet::new();
    for (key, value) in scan(kv, b"INOS").await {
        let session: FileSession = codec::decode(&value).unwrap();
        assert_eq!(session.inode, inode_of(&key));
        assert_eq!(inodes[&session.inode].kind(), FileKind::File);
        sessions.insert(session.inode);
    }
    sessions
}

async fn garbage(kv: &dyn Kv) -> BTreeSet<(InodeId, Garbage)> {
    let mut garbage = BTreeSet::new();
    for shard in 0..SHARDS {
        let range = store::garbage::range(shard);
        let page = kv
            .begin()
            .get_range(range, RangeOptions::default(), ReadMode::Snapshot)
            .await
            .unwrap();
        for (key, _) in &page.items {
            let entry = store::garbage::read(key).unwrap();
            garbage.insert((entry.inode, entry.garbage));
        }
    }
    garbage
}

/// Names lead to inodes, link counts are right, directories know where they are.
async fn check_names(kv: &dyn Kv, inodes: &BTreeMap<InodeId, Inode>) {
    let mut names: BTreeMap<InodeId, u32> = BTreeMap::new();
    for (key, value) in scan(kv, b"DENT").await {
        let parent = inode_of(&key);
        assert_eq!(inodes[&parent].kind(), FileKind::Directory);
        let dentry: Dentry = codec::decode(&value).unwrap();
        let inode = &inodes[&dentry.inode];
        assert_eq!(inode.kind(), dentry.kind);
        if let InodeData::Directory { parent: above, .. } = inode.data {
            assert_eq!(above, parent);
        }
        *names.entry(dentry.inode).or_default() += 1;
    }
    assert!(!names.contains_key(&ROOT_INODE));
    for inode in inodes.values() {
        let found = names.get(&inode.id).copied().unwrap_or(0);
        let expected = match inode.id {
            ROOT_INODE => 0,
            _ => inode.nlink,
        };
        assert_eq!(found, expected, "names of {inode:?}");
    }
}
