//! Who asks.

use serde::{Deserialize, Serialize};

/// The identity a request acts under (POSIX credentials(7)).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// User.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

impl Identity {
    /// The superuser.
    pub fn root() -> Self {
        Self::default()
    }

    /// Whether `gid` is the primary or a supplementary group.
    pub fn is_member(&self, gid: u32) -> bool {
        self.gid == gid || self.groups.contains(&gid)
    }
}
