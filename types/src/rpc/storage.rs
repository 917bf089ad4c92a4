//! What a storage node is asked: by clients (update, read, query) and by its neighbours in a chain (forward, resync).

use serde::{Deserialize, Serialize};

use crate::{
    checksum::Checksum,
    chunk::{ChunkId, ChunkMeta, Update, UpdateTag},
    id::{ChainId, InodeId, TargetId},
    rpc::{BulkIndex, methods},
    status::Status,
    version::{ChainVersion, ChunkVersion},
};

methods! { Storage:
    /// Client to head: changes of chunks, each with a result of its own (protocol W1, W13).
    UpdateChunks = 1, "storage.update", UpdateRequest => UpdateReply;
    /// Replica to successor: one change, or a whole chunk for a syncing successor (W7 to W10).
    ForwardUpdate = 2, "storage.forward", ForwardRequest => ForwardReply;
    /// Client to any serving target: ranges of chunks (section 7).
    ReadChunks = 3, "storage.read", ReadRequest => ReadReply;
    /// Replica to the last serving target: which version is committed (D2).
    QueryVersion = 4, "storage.query_version", QueryVersionRequest => ChunkVersion;
    /// The highest chunk of a file on a chain (D6). Any serving target answers.
    QueryLastChunk = 5, "storage.query_last_chunk", QueryLastChunkRequest => Option<LastChunk>;
    /// Resync: a page of the successor's chunks (S2).
    ListChunks = 7, "storage.list_chunks", ListChunksRequest => ListChunksReply;
    /// Resync: the syncing target holds everything now (S5).
    FinishSync = 8, "storage.finish_sync", FinishSyncRequest => ();
    /// Resync: what came of the last updates of clients' channels, a page of it (W2).
    AdoptChannels = 9, "storage.adopt_channels", AdoptChannelsRequest => ();
    /// Which chunks of a file there are from an index on, a page of them. To the head.
    QueryChunks = 10, "storage.query_chunks", QueryChunksRequest => QueryChunksReply;
}

/// Ranges, updates or pages in one request at most.
pub const BATCH_LENGTH_MAX: usize = 256;
/// Channels in one `AdoptChannels` at most.
pub const CHANNELS_LENGTH_MAX: usize = 1024;

/// Changes for one node, run in parallel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateRequest {
    /// At most `BATCH_LENGTH_MAX`.
    pub updates: Vec<UpdateItem>,
}

/// One change of one chunk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateItem {
    /// The chain that holds the chunk.
    pub chain: ChainId,
    /// The version of the chain the client knows.
    pub chain_version: ChainVersion,
    /// The chunk.
    pub chunk: ChunkId,
    /// The size of the file's chunks: the update may not leave it.
    pub chunk_size: u32,
    /// The change.
    pub update: Update,
    /// The payload of a write (a source buffer).
    pub payload: Option<BulkIndex>,
    /// The payload's checksum.
    pub checksum: Checksum,
    /// For exactly-once.
    pub tag: UpdateTag,
}

/// One result per update, in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateReply {
    /// Durable and committed on every serving replica, or why not.
    pub results: Vec<Result<UpdateDone, Status>>,
}

/// A change that is durable and committed on every serving replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateDone {
    /// The chunk's length now.
    pub length: u32,
    /// The version it was committed as.
    pub commit_version: ChunkVersion,
    /// The chain version under which it was committed.
    pub chain_version: ChainVersion,
    /// The checksum of the chunk's content.
    pub checksum: Checksum,
}

/// What a successor shall do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ForwardKind {
    /// The same change, as this version.
    Update(Update),
    /// The whole chunk as of this version replaces whatever is there (W9, S3). The payload is the content.
    Replace {
        /// Bytes of content.
        length: u32,
    },
    /// Resync only: the chunk is not there at the predecessor; drop it entirely, with its versions.
    Drop,
}

/// Replica to successor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForwardRequest {
    /// The chain.
    pub chain: ChainId,
    /// The sender's current version; the receiver requires equality (W8).
    pub chain_version: ChainVersion,
    /// Who sends: the receiver's predecessor.
    pub from: TargetId,
    /// The chunk.
    pub chunk: ChunkId,
    /// The size of the file's chunks.
    pub chunk_size: u32,
    /// The version this change makes.
    pub update_version: ChunkVersion,
    /// The change.
    pub kind: ForwardKind,
    /// The payload (a source buffer).
    pub payload: Option<BulkIndex>,
    /// The payload's checksum.
    pub checksum: Checksum,
    /// For exactly-once; `None` for a resync of a chunk that no client tag is known of.
    pub tag: Option<UpdateTag>,
}

/// The successor and everyone behind it hold the change durably and have committed it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForwardReply {
    /// The chunk's length.
    pub length: u32,
    /// The committed version.
    pub commit_version: ChunkVersion,
    /// The chain version.
    pub chain_version: ChainVersion,
    /// The checksum of the chunk's content; a difference is never committed (W10).
    pub checksum: Checksum,
}

/// Which version a read wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReadMode {
    /// The newest acknowledged version (D2).
    Linearizable,
    /// What this replica holds, pending or not.
    Uncommitted,
}

/// Ranges for one node, read in parallel, each placed as soon as it is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadRequest {
    /// At most `BATCH_LENGTH_MAX`.
    pub reads: Vec<ReadItem>,
    /// Which version.
    pub mode: ReadMode,
}

/// One range of one chunk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadItem {
    /// The chain that holds the chunk.
    pub chain: ChainId,
    /// The version of the chain the client knows.
    pub chain_version: ChainVersion,
    /// The target asked.
    pub target: TargetId,
    /// The chunk.
    pub chunk: ChunkId,
    /// First byte inside the chunk.
    pub offset: u32,
    /// How many bytes at most.
    pub length: u32,
    /// Where to put them (a destination buffer), from `destination_offset` on.
    pub destination: BulkIndex,
    /// See `destination`.
    pub destination_offset: u32,
}

/// One result per range, in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadReply {
    /// The bytes are placed when the reply is there.
    pub results: Vec<Result<ReadDone, Status>>,
}

/// A range that was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadDone {
    /// Bytes placed: fewer than asked for when the chunk ends before; 0 when it does not reach the range.
    pub length: u32,
    /// The chunk's length.
    pub chunk_length: u32,
    /// The version the bytes are of.
    pub commit_version: ChunkVersion,
    /// The checksum of the bytes placed.
    pub checksum: Checksum,
}

/// Which version of a chunk is committed at the last serving target?
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueryVersionRequest {
    /// The chain.
    pub chain: ChainId,
    /// The sender's chain version.
    pub chain_version: ChainVersion,
    /// The chunk.
    pub chunk: ChunkId,
}

/// What is the highest chunk of a file on this chain?
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueryLastChunkRequest {
    /// The chain.
    pub chain: ChainId,
    /// The client's chain version.
    pub chain_version: ChainVersion,
    /// The target asked.
    pub target: TargetId,
    /// The file.
    pub inode: InodeId,
}

/// The highest chunk of a file on a chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastChunk {
    /// Its index.
    pub index: u32,
    /// Its length.
    pub length: u32,
}

/// Which chunks of a file are there?
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueryChunksRequest {
    /// The chain.
    pub chain: ChainId,
    /// The client's chain version.
    pub chain_version: ChainVersion,
    /// The file.
    pub inode: InodeId,
    /// Chunks at or after this index.
    pub from_index: u32,
    /// How many at most.
    pub limit: u32,
}

/// Chunks of a file in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueryChunksReply {
    /// The indices of those that exist, or will when what is pending is committed.
    pub indices: Vec<u32>,
    /// Where the next page starts; `None` at the end.
    pub next: Option<u32>,
}

/// Asks a syncing target for a page of its chunks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListChunksRequest {
    /// The chain.
    pub chain: ChainId,
    /// The sender's chain version.
    pub chain_version: ChainVersion,
    /// The target asked.
    pub target: TargetId,
    /// Chunks at or after this one.
    pub from: ChunkId,
    /// How many at most.
    pub limit: u32,
}

/// A page of chunks in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListChunksReply {
    /// What the target knows of them.
    pub chunks: Vec<ChunkMeta>,
    /// Where the next page starts; `None` at the end.
    pub next: Option<ChunkId>,
}

/// Resync is done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FinishSyncRequest {
    /// The chain.
    pub chain: ChainId,
    /// The chain version under which everything was sent.
    pub chain_version: ChainVersion,
    /// The target that is filled.
    pub target: TargetId,
}

/// What came of the last update of a channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelDone {
    /// The update.
    pub tag: UpdateTag,
    /// The chunk it changed.
    pub chunk: ChunkId,
    /// What it made.
    pub done: UpdateDone,
}

/// Tells a syncing target which updates are done: their chunks may have been overwritten since.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdoptChannelsRequest {
    /// The chain.
    pub chain: ChainId,
    /// The sender's chain version.
    pub chain_version: ChainVersion,
    /// The target that is filled.
    pub target: TargetId,
    /// At most `CHANNELS_LENGTH_MAX`, those of longest ago first.
    pub channels: Vec<ChannelDone>,
}
