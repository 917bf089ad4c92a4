//! Identities. One newtype each, so that no two bare integers ever stand side by side.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident($inner:ty);)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )*};
}
pub(crate) use ids;

ids! {
    /// A registered process: storage, meta or mgmtd.
    NodeId(u32);
    /// One SSD of a node.
    DiskIndex(u8);
    /// One disk's seat in one chain. Never reused.
    TargetId(u64);
    /// A replication chain.
    ChainId(u32);
    /// An ordered list of chains that layouts index.
    ChainTableId(u32);
    /// A file, directory or symlink. Never reused; 0 is not an inode.
    InodeId(u64);
    /// A client process, drawn at random at its start.
    ClientId(u128);
    /// One request of a client; retries carry the same one. Unique per client.
    RequestId(u64);
    /// One open-for-write of a file, drawn at random by the client.
    SessionId(u128);
    /// A client's exactly-once lane for updates of chunks.
    ChannelId(u16);
    /// Position in a channel; rises by one with each update.
    ChannelSeq(u64);
    /// Drawn at random at each start of a process, so that a restart is seen.
    BootId(u64);
}

/// The root directory.
pub const ROOT_INODE: InodeId = InodeId(1);
