//! What the namespace needs of chunk storage: three calls, behind a trait so that tests need no storage.

use std::{collections::BTreeMap, fmt};

use async_trait::async_trait;
use common::sync::Mutex;
use types::{
    chunk::ChunkId,
    id::InodeId,
    layout::Layout,
    rpc::storage::LastChunk,
    status::{Status, StatusCode},
};

/// The chunks of files.
#[async_trait]
pub trait Chunks: Send + Sync + fmt::Debug + 'static {
    /// Removes the chunks of a file from `from_index` on; returns how many there were.
    async fn remove(&self, inode: InodeId, layout: &Layout, from_index: u32)
    -> Result<u64, Status>;

    /// Cuts a chunk to at most `length` bytes; a missing one is fine.
    async fn truncate_chunk(
        &self,
        layout: &Layout,
        chunk: ChunkId,
        length: u32,
    ) -> Result<(), Status>;

    /// The last chunk of a file.
    async fn last_chunk(
        &self,
        inode: InodeId,
        layout: &Layout,
    ) -> Result<Option<LastChunk>, Status>;
}

/// Chunks in memory, without content. Can be told to fail.
#[derive(Debug, Default)]
pub struct MemChunks {
    lengths: Mutex<BTreeMap<ChunkId, u32>>,
    broken: Mutex<bool>,
}

impl MemChunks {
    /// A writer wrote the bytes up to `end`.
    ///
    /// # Panics
    /// When that is more than chunk indexes can name.
    pub fn write(&self, inode: InodeId, layout: &Layout, end: u64) {
        let mut lengths = self.lengths.lock();
        for part in layout.split(inode, 0, end) {
            let length = lengths.entry(part.chunk).or_default();
            *length = (*length).max(part.offset + part.length);
        }
    }

    /// How many bytes of a file there are.
    pub fn bytes_of(&self, inode: InodeId) -> u64 {
        let first = ChunkId { inode, index: 0 };
        let last = ChunkId {
            inode,
            index: u32::MAX,
        };
        let lengths = self.lengths.lock();
        lengths
            .range(first..=last)
            .map(|(_, length)| u64::from(*length))
            .sum()
    }

    /// How many chunks there are.
    pub fn count(&self) -> usize {
        self.lengths.lock().len()
    }

    /// Whether every call fails from now on.
    pub fn set_broken(&self, broken: bool) {
        *self.broken.lock() = broken;
    }

    fn check(&self) -> Result<(), Status> {
        if *self.broken.lock() {
            return Err(Status::new(StatusCode::Unreachable, "storage is away"));
        }
        Ok(())
    }
}

#[async_trait]
impl Chunks for MemChunks {
    async fn remove(
        &self,
        inode: InodeId,
        _layout: &Layout,
        from_index: u32,
    ) -> Result<u64, Status> {
        self.check()?;
        let mut lengths = self.lengths.lock();
        let before = lengths.len();
        lengths.retain(|chunk, _| chunk.inode != inode || chunk.index < from_index);
        Ok((before - lengths.len()) as u64)
    }

    async fn truncate_chunk(
        &self,
        _layout: &Layout,
        chunk: ChunkId,
        length: u32,
    ) -> Result<(), Status> {
        self.check()?;
        if let Some(old) = self.lengths.lock().get_mut(&chunk) {
            *old = (*old).min(length);
        }
        Ok(())
    }

    async fn last_chunk(
        &self,
        inode: InodeId,
        _layout: &Layout,
    ) -> Result<Option<LastChunk>, Status> {
        self.check()?;
        let lengths = self.lengths.lock();
        let mut of_file = lengths.iter().filter(|(chunk, _)| chunk.inode == inode);
        Ok(of_file.next_back().map(|(chunk, length)| LastChunk {
            index: chunk.index,
            length: *length,
        }))
    }
}
