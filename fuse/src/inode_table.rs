//! Which inodes the kernel remembers, and which state of each its page cache was filled from.
//!
//! The kernel counts every answer that names an inode as one lookup, and tells us later how many it forgets. At zero
//! it holds nothing of the inode, and so do we.

use std::collections::HashMap;

use common::sync::Mutex;
use types::{
    id::InodeId,
    inode::{Inode, InodeData},
    version::TruncateVersion,
};

/// See the module's text.
#[derive(Debug, Default)]
pub(crate) struct InodeTable(Mutex<HashMap<InodeId, Remembered>>);

#[derive(Clone, Copy, Debug, Default)]
struct Remembered {
    lookups: u64,
    /// The content that cached pages are at least as new as.
    cached: Option<ContentStamp>,
}

/// Tells one content of a file from another: any change made through a mount changes one of these. The time is
/// the inode's change time, because programs set the modification time back (`rsync --inplace -t`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ContentStamp {
    ctime_ns: u64,
    length: u64,
    truncate_version: TruncateVersion,
}

impl ContentStamp {
    pub(crate) fn of(inode: &Inode) -> Self {
        let truncate_version = match inode.data {
            InodeData::File {
                truncate_version, ..
            } => truncate_version,
            InodeData::Directory { .. } | InodeData::Symlink { .. } => TruncateVersion::default(),
        };
        Self {
            ctime_ns: inode.times.ctime_ns,
            length: inode.length(),
            truncate_version,
        }
    }
}

impl InodeTable {
    /// The kernel was told of the inode once more.
    pub(crate) fn remember(&self, inode: InodeId) {
        self.0.lock().entry(inode).or_default().lookups += 1;
    }

    /// The kernel forgot `count` of the times it was told.
    pub(crate) fn forget(&self, inode: InodeId, count: u64) {
        let mut table = self.0.lock();
        if let Some(remembered) = table.get_mut(&inode) {
            remembered.lookups = remembered.lookups.saturating_sub(count);
            if remembered.lookups == 0 {
                table.remove(&inode);
            }
        }
    }

    /// The file is being opened with this content: returns whether what the kernel has cached of it is as new. If
    /// not, the caller makes the kernel drop it, so that from now on it is.
    pub(crate) fn is_cached(&self, inode: InodeId, now: ContentStamp) -> bool {
        let mut table = self.0.lock();
        let Some(remembered) = table.get_mut(&inode) else {
            return false;
        };
        remembered.cached.replace(now) == Some(now)
    }

    /// How many inodes the kernel remembers.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.0.lock().len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: InodeId = InodeId(5);

    fn stamp(length: u64) -> ContentStamp {
        ContentStamp {
            ctime_ns: 1,
            length,
            truncate_version: TruncateVersion(0),
        }
    }

    #[test]
    fn an_inode_is_kept_until_every_lookup_is_forgotten() {
        let table = InodeTable::default();
        for _ in 0..3 {
            table.remember(FILE);
        }
        table.forget(FILE, 2);
        assert_eq!(table.len(), 1);
        table.forget(FILE, 1);
        assert_eq!(table.len(), 0);
        table.forget(FILE, 1);
        assert_eq!(table.len(), 0);
    }

    #[test]
    fn pages_are_kept_only_while_the_content_is_the_same() {
        let table = InodeTable::default();
        table.remember(FILE);
        assert!(!table.is_cached(FILE, stamp(1)));
        assert!(table.is_cached(FILE, stamp(1)));
        assert!(!table.is_cached(FILE, stamp(2)));
        assert!(table.is_cached(FILE, stamp(2)));
        assert!(!table.is_cached(FILE, stamp(1)));
    }

    #[test]
    fn a_forgotten_inode_has_no_cached_pages() {
        let table = InodeTable::default();
        table.remember(FILE);
        table.is_cached(FILE, stamp(1));
        table.forget(FILE, 1);
        table.remember(FILE);
        assert!(!table.is_cached(FILE, stamp(1)));
        assert!(!table.is_cached(InodeId(6), stamp(1)));
        assert!(!table.is_cached(InodeId(6), stamp(1)));
    }
}
