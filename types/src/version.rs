//! Versions. They never decrease and are never reused.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::ids;

ids! {
    /// Rises by one with each change of one chain.
    ChainVersion(u32);
    /// Rises by one with each appended version of a chain table.
    ChainTableVersion(u32);
    /// Rises with each change of the cluster's state.
    RoutingVersion(u64);
    /// CRAQ's version of one chunk; an update version stands one above the commit version while pending.
    ChunkVersion(u32);
    /// Rises with each truncate of a file.
    TruncateVersion(u64);
    /// Rises with each heartbeat of one boot of a node.
    HeartbeatNumber(u64);
}

impl ChunkVersion {
    /// The version after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl ChainVersion {
    /// The version after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// Whether `later`, which may come from anywhere, is the version after this one.
    pub fn is_followed_by(self, later: Self) -> bool {
        self.0.checked_add(1) == Some(later.0)
    }
}

/// The protocol spoken on the wire. Peers one release apart work together.
pub const PROTOCOL_VERSION: u16 = 1;
