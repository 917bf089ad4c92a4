//! Directory entries: (parent, name) -> inode.

use serde::{Deserialize, Serialize};

use crate::{id::InodeId, inode::FileKind};

/// The longest name, in bytes (Linux NAME_MAX).
pub const NAME_LENGTH_MAX: usize = 255;

/// What a name leads to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dentry {
    /// The inode.
    pub inode: InodeId,
    /// Its kind, so that a listing needs no inode.
    pub kind: FileKind,
}
