//! Inodes: what a file, directory or symlink is, apart from its names.

use serde::{Deserialize, Serialize};

use crate::{id::InodeId, layout::Layout, version::TruncateVersion};

/// The kind of an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
}

/// Times in nanoseconds since 1970-01-01 UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Times {
    /// Last access.
    pub atime_ns: u64,
    /// Last change of content.
    pub mtime_ns: u64,
    /// Last change of the inode.
    pub ctime_ns: u64,
    /// Birth.
    pub btime_ns: u64,
}

/// A truncate under way: a server-side intent that survives crashes (protocol L5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TruncateIntent {
    /// The length to reach.
    pub length: u64,
}

/// What only one kind of inode has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum InodeData {
    /// A regular file.
    File {
        /// Exact when no write session exists, else a lower bound.
        length: u64,
        /// Rises with each truncate.
        truncate_version: TruncateVersion,
        /// Where its chunks are.
        layout: Layout,
        /// A truncate that has not ended yet.
        truncating: Option<TruncateIntent>,
    },
    /// A directory.
    Directory {
        /// The directory above; the root is its own parent.
        parent: InodeId,
        /// What new files below inherit, when it was set.
        layout: Option<Layout>,
    },
    /// A symbolic link.
    Symlink {
        /// Where it points.
        target: Vec<u8>,
    },
}

/// An inode.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inode {
    /// Its identity.
    pub id: InodeId,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permission bits with setuid, setgid and sticky: `mode & 0o7777`.
    pub mode: u32,
    /// How many names lead here.
    pub nlink: u32,
    /// Its times.
    pub times: Times,
    /// What only its kind has.
    pub data: InodeData,
}

impl Inode {
    /// The kind.
    pub fn kind(&self) -> FileKind {
        match self.data {
            InodeData::File { .. } => FileKind::File,
            InodeData::Directory { .. } => FileKind::Directory,
            InodeData::Symlink { .. } => FileKind::Symlink,
        }
    }

    /// Bytes of content as stat(2) shows it; a truncate under way counts as done.
    pub fn length(&self) -> u64 {
        match &self.data {
            InodeData::File {
                truncating: Some(intent),
                ..
            } => intent.length,
            InodeData::File { length, .. } => *length,
            InodeData::Directory { .. } => 0,
            InodeData::Symlink { target } => target.len() as u64,
        }
    }

    /// The layout of a file.
    pub fn layout(&self) -> Option<&Layout> {
        match &self.data {
            InodeData::File { layout, .. } => Some(layout),
            InodeData::Directory { .. } | InodeData::Symlink { .. } => None,
        }
    }
}
