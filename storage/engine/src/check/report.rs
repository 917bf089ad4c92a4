//! What a check found.

use serde::Serialize;
use types::{
    chunk::ChunkId,
    id::{InodeId, TargetId},
    version::ChunkVersion,
};

use crate::chunk_meta::ChunkKey;

/// What a problem is about. The words of the JSON form are a contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ProblemKind {
    /// The log lacks a part that was acknowledged.
    Log,
    /// The records as a whole: unreadable, or something that is about no chunk.
    Records,
    /// The record of one chunk contradicts itself, the log, the files or another chunk.
    Record,
    /// Stored bytes do not match their checksum.
    Checksum,
    /// The device cannot read.
    Read,
}

/// One problem. The JSON form is a contract.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DiskProblem {
    /// What it is about.
    pub kind: ProblemKind,
    /// The target of the chunk.
    pub target: Option<TargetId>,
    /// The file of the chunk.
    pub inode: Option<InodeId>,
    /// Which chunk of the file.
    pub index: Option<u32>,
    /// The version, where one is known.
    pub version: Option<ChunkVersion>,
    /// Whether that is the pending version.
    pub pending: bool,
    /// The block of 4 KiB.
    pub block: Option<u32>,
    /// For people.
    pub text: String,
    /// Whether the repair did away with it.
    pub repaired: bool,
}

impl DiskProblem {
    pub(super) fn new(kind: ProblemKind, key: Option<ChunkKey>, text: String) -> Self {
        Self {
            kind,
            target: key.map(|key| key.target),
            inode: key.map(|key| key.chunk.inode),
            index: key.map(|key| key.chunk.index),
            version: None,
            pending: false,
            block: None,
            text,
            repaired: false,
        }
    }

    /// The chunk it is about.
    pub(super) fn key(&self) -> Option<ChunkKey> {
        let chunk = ChunkId {
            inode: self.inode?,
            index: self.index?,
        };
        let target = self.target?;
        Some(ChunkKey { target, chunk })
    }
}

/// The whole of it. The JSON form is a contract.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DiskReport {
    /// Targets.
    pub targets: u64,
    /// Records of chunks that can be used, version floors among them.
    pub chunks: u64,
    /// Chunks with a pending version.
    pub pending: u64,
    /// Bytes of committed content.
    pub bytes: u64,
    /// Bytes that were read and compared: committed and pending versions.
    pub verified_bytes: u64,
    /// Slots that records refer to.
    pub slots: u64,
    /// The other slots of the groups.
    pub free_slots: u64,
    /// Group files.
    pub groups: u64,
    /// Those of them without a slot in use.
    pub unused_groups: u64,
    /// Files of the log.
    pub log_files: u64,
    /// Segments that the next opening reads.
    pub log_segments: u64,
    /// Entries that it replays.
    pub log_entries: u64,
    /// Everything that is wrong.
    pub problems: Vec<DiskProblem>,
    /// What the repair did, one line each.
    pub actions: Vec<String>,
    /// Why the repair did less than it was asked for.
    pub refusal: Option<String>,
}

impl DiskReport {
    /// Whether nothing is wrong, or nothing any more.
    pub fn is_sound(&self) -> bool {
        self.problems.iter().all(|problem| problem.repaired)
    }

    /// A disk of which no more is known than that.
    pub(super) fn unusable(kind: ProblemKind, problems: Vec<String>) -> Self {
        let problems = problems.into_iter();
        Self {
            problems: problems
                .map(|text| DiskProblem::new(kind, None, text))
                .collect(),
            ..Self::default()
        }
    }

    /// The records cannot be read.
    pub(super) fn unreadable(reason: &str) -> Self {
        Self::unusable(ProblemKind::Records, vec![reason.to_owned()])
    }
}
