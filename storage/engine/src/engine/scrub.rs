//! Scrub (protocol E9): the committed version of each chunk is read and compared with its checksums, a bounded step at a
//! time, in the order of keys.
//!
//! A step holds one version and one buffer at a time, so that it gets in nobody's way. What is read is the version that was
//! committed when the chunk's turn came: one that is replaced meanwhile keeps its slot until then, and whatever is wrong with
//! it then, nobody will ever read it again. So only damage of what is still committed afterwards is reported.

use std::sync::Arc;

use super::{ChunkKey, Engine, Inner};
use crate::{
    chunk_meta::Version,
    error::EngineError,
    group::{BLOCK_BYTES, block_count},
};

/// Blocks read at once.
const PIECE_BLOCKS: u32 = (1 << 20) / BLOCK_BYTES;
/// Records looked at in one step: those without bytes cost nothing but the look.
const RECORDS_MAX: u64 = 4096;

/// How much one step may do. It does at least one chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScrubBudget {
    /// Bytes of slots.
    pub slot_bytes: u64,
    /// Chunks with bytes.
    pub chunks: u64,
}

/// A chunk whose stored bytes cannot be read as they were written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScrubDamage {
    /// The chunk.
    pub key: ChunkKey,
    /// `ChunkCorrupt`, with the first such block, or `ReadFailed`.
    pub error: EngineError,
}

/// What one step found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scrubbed {
    /// Chunks with bytes.
    pub chunks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes of their slots: over a whole round, about what is used on the disk.
    pub slot_bytes: u64,
    /// Those of them that are damaged.
    pub damages: Vec<ScrubDamage>,
    /// Where the next step goes on; `None`: this was the last chunk.
    pub next: Option<ChunkKey>,
}

impl Engine {
    /// Verifies chunks behind `after`, or from the first one on.
    ///
    /// # Errors
    /// `Failed`. What was verified in this step is lost then, and so is the disk.
    pub async fn scrub(
        &self,
        after: Option<ChunkKey>,
        budget: ScrubBudget,
    ) -> Result<Scrubbed, EngineError> {
        let mut scrubbed = Scrubbed::default();
        let mut cursor = after;
        for _ in 0..RECORDS_MAX {
            self.inner.health.check()?;
            let Some((key, version)) = self.inner.committed_after(cursor) else {
                scrubbed.next = None;
                return Ok(scrubbed);
            };
            cursor = Some(key);
            scrubbed.next = cursor;
            let content = version
                .as_ref()
                .and_then(|version| version.content.as_ref());
            let (Some(version), Some(content)) = (&version, content) else {
                continue;
            };
            scrubbed.chunks += 1;
            scrubbed.bytes += u64::from(version.head.length);
            scrubbed.slot_bytes += u64::from(content.slot.bytes());
            if let Some(error) = self.inner.verify(key, version).await? {
                scrubbed.damages.push(ScrubDamage { key, error });
            }
            if scrubbed.slot_bytes >= budget.slot_bytes || scrubbed.chunks >= budget.chunks {
                break;
            }
        }
        Ok(scrubbed)
    }

    /// Whether the committed bytes of one chunk cannot be read as they were written, and why. `None` also when it has none.
    ///
    /// # Errors
    /// `Failed`.
    pub async fn scrub_chunk(&self, key: ChunkKey) -> Result<Option<EngineError>, EngineError> {
        self.inner.health.check()?;
        match self.inner.committed_of(key) {
            Some(version) => self.inner.verify(key, &version).await,
            None => Ok(None),
        }
    }
}

impl Inner {
    /// The chunk behind `after`, in the order of keys, and what is committed of it.
    fn committed_after(&self, after: Option<ChunkKey>) -> Option<(ChunkKey, Option<Arc<Version>>)> {
        let state = self.state.lock();
        let (key, record) = state.after(after)?;
        Some((key, record.committed.clone()))
    }

    fn committed_of(&self, key: ChunkKey) -> Option<Arc<Version>> {
        let state = self.state.lock();
        state.record(key)?.committed.clone()
    }

    /// What is wrong with the stored bytes of a version that is still committed afterwards.
    async fn verify(
        &self,
        key: ChunkKey,
        version: &Arc<Version>,
    ) -> Result<Option<EngineError>, EngineError> {
        match self.read_through(key, version).await {
            Ok(()) => Ok(None),
            Err(error @ (EngineError::ChunkCorrupt { .. } | EngineError::ReadFailed { .. })) => {
                let current = self.committed_of(key);
                let is_current = current.is_some_and(|current| current.is_same(version));
                Ok(is_current.then_some(error))
            }
            Err(error) => Err(error),
        }
    }

    async fn read_through(&self, key: ChunkKey, version: &Arc<Version>) -> Result<(), EngineError> {
        let Some(source) = self.source(key, version).await? else {
            let current = self.committed_of(key);
            let is_current = current.is_some_and(|current| Arc::ptr_eq(&current, version));
            // A version that was replaced may have lost its checksums; the committed one must have them.
            return match (&version.content, is_current) {
                (Some(_), true) => Err(self.checksums_missing(key)),
                _ => Ok(()),
            };
        };
        let end = block_count(source.length());
        let mut first = 0;
        while first < end {
            let count = PIECE_BLOCKS.min(end - first);
            let buf = self.buffers.allocate((count * BLOCK_BYTES) as usize);
            drop(self.read_blocks(&source, first..first + count, buf).await?);
            first += count;
        }
        Ok(())
    }
}
