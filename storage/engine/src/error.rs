//! What can go wrong, for callers of one engine.

use std::{io, path::PathBuf};

use common::data_dir::DataDirError;
use types::{
    chunk::ChunkId,
    id::{ChainId, TargetId},
    status::{Status, StatusCode},
    version::ChunkVersion,
};

use crate::meta_store::MetaStoreError;

/// Why an operation on chunks failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// The disk is full. Nothing changed; removing chunks helps.
    #[error(
        "no space for a slot of {slot_bytes} bytes: {used_bytes} of {capacity_bytes} bytes are used"
    )]
    NoSpace {
        /// What was asked for.
        slot_bytes: u64,
        /// What is taken.
        used_bytes: u64,
        /// What there is.
        capacity_bytes: u64,
    },
    /// Stored bytes do not match their checksum.
    #[error("chunk {chunk} is damaged: block {block} does not match its checksum")]
    ChunkCorrupt {
        /// The chunk.
        chunk: ChunkId,
        /// The block of 4 KiB.
        block: u32,
    },
    /// The device could not read. Another replica can.
    #[error("cannot read chunk {chunk}: {reason}")]
    ReadFailed {
        /// The chunk.
        chunk: ChunkId,
        /// What the device said.
        reason: String,
    },
    /// The update leaves the chunk.
    #[error("chunk {chunk}: {end} bytes do not fit into chunks of {chunk_size} bytes")]
    OutOfRange {
        /// The chunk.
        chunk: ChunkId,
        /// Where the update ends.
        end: u64,
        /// The limit.
        chunk_size: u32,
    },
    /// The chunk has other versions than the caller thinks.
    #[error(
        "chunk {chunk}: version {wanted} is not there (committed {committed}, pending {pending:?})"
    )]
    VersionMismatch {
        /// The chunk.
        chunk: ChunkId,
        /// What the caller named.
        wanted: ChunkVersion,
        /// What is committed.
        committed: ChunkVersion,
        /// What is pending.
        pending: Option<ChunkVersion>,
    },
    /// Payload and checksum differ, so the payload was damaged on its way here.
    #[error("chunk {chunk}: the payload does not match its checksum")]
    PayloadMismatch {
        /// The chunk.
        chunk: ChunkId,
    },
    /// The request contradicts itself.
    #[error("chunk {chunk}: {reason}")]
    InvalidRequest {
        /// The chunk.
        chunk: ChunkId,
        /// How.
        reason: &'static str,
    },
    /// The target is not on this disk.
    #[error("target {target} is not on this disk")]
    UnknownTarget {
        /// The target.
        target: TargetId,
    },
    /// The target is there already, for another chain.
    #[error("target {target} belongs to chain {chain} already")]
    TargetExists {
        /// The target.
        target: TargetId,
        /// Its chain.
        chain: ChainId,
    },
    /// There is no such chunk, or only its version floor.
    #[error("chunk {chunk} does not exist")]
    NotFound {
        /// The chunk.
        chunk: ChunkId,
    },
    /// The disk is out of service until it is opened again (E10).
    #[error("the disk is out of service: {reason}")]
    Failed {
        /// What happened first.
        reason: String,
    },
}

impl From<EngineError> for Status {
    fn from(error: EngineError) -> Self {
        let code = match &error {
            EngineError::NoSpace { .. } => StatusCode::NoSpace,
            EngineError::ChunkCorrupt { .. } | EngineError::ReadFailed { .. } => {
                StatusCode::ChunkCorrupt
            }
            EngineError::OutOfRange { .. } => StatusCode::OutOfRange,
            EngineError::VersionMismatch { .. } => StatusCode::VersionGone,
            EngineError::PayloadMismatch { .. } => StatusCode::ChecksumMismatch,
            EngineError::InvalidRequest { .. } => StatusCode::InvalidArgument,
            EngineError::UnknownTarget { .. } => StatusCode::UnknownTarget,
            EngineError::TargetExists { .. } => StatusCode::Conflict,
            EngineError::NotFound { .. } => StatusCode::ChunkNotFound,
            EngineError::Failed { .. } => StatusCode::DiskFailed,
        };
        Status::new(code, error.to_string())
    }
}

/// Why a disk could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory is in use, of another version, or not ours.
    #[error(transparent)]
    Directory(#[from] DataDirError),
    /// The system refused something.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A group file could not be listed, made or removed.
    #[error("cannot {action}: {source}")]
    Device {
        /// What was tried.
        action: &'static str,
        /// What the device said.
        source: io::Error,
    },
    /// The record store does not open.
    #[error(transparent)]
    Records(#[from] MetaStoreError),
    /// What was found in the log could not be brought into the record store.
    #[error("cannot bring what the log holds into the records: {reason}")]
    Checkpoint {
        /// Why.
        reason: String,
    },
    /// Records and group files contradict each other; the disk is not used before someone has looked (E6).
    #[error("the disk contradicts itself in {count} places, first: {}", problems.join("; "))]
    Inconsistent {
        /// How many contradictions there are.
        count: usize,
        /// The first of them.
        problems: Vec<String>,
    },
}
