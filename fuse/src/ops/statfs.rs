//! statfs.

use types::{
    rpc::meta::{StatFs, StatFsReply},
    status::Status,
    user::Identity,
};

use crate::core::Core;

/// The unit in which space is told.
pub(crate) const FRAGMENT: u32 = 4096;
/// Inodes that can still be made: ids are never used up.
const INODES_FREE: u64 = 1 << 48;

/// What the kernel is told, in fragments.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Space {
    pub(crate) blocks: u64,
    pub(crate) free: u64,
    pub(crate) inodes: u64,
    pub(crate) inodes_free: u64,
}

impl Core {
    pub(crate) async fn stat_fs(&self, who: &Identity) -> Result<Space, Status> {
        self.ask::<StatFs>(who, &())
            .await
            .map(|reply| space(&reply))
    }
}

fn space(reply: &StatFsReply) -> Space {
    Space {
        blocks: reply.capacity_bytes / u64::from(FRAGMENT),
        free: reply.free_bytes / u64::from(FRAGMENT),
        inodes: reply.inode_count.saturating_add(INODES_FREE),
        inodes_free: INODES_FREE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn space_is_told_in_fragments() {
        let reply = StatFsReply {
            capacity_bytes: 1 << 30,
            free_bytes: (1 << 20) + 5,
            inode_count: 3,
        };
        let space = space(&reply);
        assert_eq!((space.blocks, space.free), (1 << 18, 256));
        assert_eq!(space.inodes - space.inodes_free, 3);
    }
}
