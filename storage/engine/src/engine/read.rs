//! Reading: whole blocks from the device, each compared with its checksum (D3), then the part asked for.
//!
//! The slot is held from before the read until after it, so its bytes cannot become someone else's meanwhile.

use std::{ops::Range, sync::Arc};

use common::buf::RegisteredBuf;
use types::{checksum::Checksum, chunk::ChunkId};

use super::{ChunkKey, Engine, Inner, ReadOut, ReadVersion};
use crate::{
    checksums::append_block,
    chunk_meta::{Content, Version},
    error::EngineError,
    group::{BLOCK_BYTES, block_count},
};

impl Engine {
    /// Reads up to `length` bytes from `offset` on of one version. There are no bytes behind the chunk's end.
    ///
    /// # Errors
    /// `NotFound` when that version does not exist, `ChunkCorrupt`, `ReadFailed`, `UnknownTarget`, `Failed`.
    pub async fn read(
        &self,
        key: ChunkKey,
        version: ReadVersion,
        offset: u32,
        length: u32,
    ) -> Result<ReadOut, EngineError> {
        self.inner.health.check()?;
        let version = self.inner.version_to_read(key, version)?;
        let end = offset.saturating_add(length).min(version.length);
        let out = |data, checksum| ReadOut {
            data,
            checksum,
            chunk_length: version.length,
            version: version.version,
        };
        let content = match &version.content {
            Some(content) if offset < end => content,
            _ => {
                let nothing = self.inner.buffers.allocate(0).freeze();
                return Ok(out(nothing, Checksum::of(&[])));
            }
        };
        let blocks = offset / BLOCK_BYTES..block_count(end);
        let first_byte = blocks.start * BLOCK_BYTES;
        let buf = self
            .inner
            .buffers
            .allocate(((blocks.end - blocks.start) * BLOCK_BYTES) as usize);
        let source = Source {
            chunk: key.chunk,
            content,
            length: version.length,
        };
        let buf = self.inner.read_blocks(&source, blocks, buf).await?;
        let range = (offset - first_byte) as usize..(end - first_byte) as usize;
        let checksum = checksum_of_range(content, version.length, offset..end, &buf[range.clone()]);
        Ok(out(buf.freeze().slice(range), checksum))
    }
}

/// Stored bytes to read from.
pub(super) struct Source<'a> {
    pub(super) chunk: ChunkId,
    pub(super) content: &'a Content,
    /// Of the whole content.
    pub(super) length: u32,
}

impl Inner {
    fn version_to_read(
        &self,
        key: ChunkKey,
        version: ReadVersion,
    ) -> Result<Arc<Version>, EngineError> {
        let state = self.state.lock();
        state.target(key.target)?;
        let record = state.chunks.get(&key);
        let version = record.and_then(|record| match version {
            ReadVersion::Committed => record.committed.as_ref(),
            ReadVersion::Pending => record.pending.as_ref().or(record.committed.as_ref()),
        });
        let existing = version.filter(|version| version.exists).cloned();
        existing.ok_or(EngineError::NotFound { chunk: key.chunk })
    }

    /// Fills `buf`, which is as long as the blocks, and verifies them. What follows the content in its last
    /// block has any value.
    pub(super) async fn read_blocks(
        &self,
        source: &Source<'_>,
        blocks: Range<u32>,
        buf: RegisteredBuf,
    ) -> Result<RegisteredBuf, EngineError> {
        let Source {
            chunk,
            content,
            length,
        } = *source;
        let position = content.slot.position();
        let offset = position.offset() + u64::from(blocks.start * BLOCK_BYTES);
        let read = self
            .slots
            .device()
            .read(position.group.into(), offset, buf)
            .await;
        let buf = read.map_err(|error| EngineError::ReadFailed {
            chunk,
            reason: error.to_string(),
        })?;
        for (block, stored) in blocks.zip(buf.chunks(BLOCK_BYTES as usize)) {
            let block_length = (length - block * BLOCK_BYTES).min(BLOCK_BYTES) as usize;
            let expected = content.blocks.get(block as usize);
            if expected != Some(&Checksum::of(&stored[..block_length])) {
                tracing::error!(%chunk, block, %position, "stored bytes do not match their checksum");
                return Err(EngineError::ChunkCorrupt { chunk, block });
            }
        }
        Ok(buf)
    }
}

/// The checksum of a range of verified content: known blocks are combined, only parts of blocks are hashed.
fn checksum_of_range(
    content: &Content,
    content_length: u32,
    range: Range<u32>,
    bytes: &[u8],
) -> Checksum {
    let mut checksum = Checksum::default();
    let mut at = range.start;
    while at < range.end {
        let block = at / BLOCK_BYTES;
        let block_end = (block * BLOCK_BYTES + BLOCK_BYTES).min(content_length);
        let end = block_end.min(range.end);
        let whole = at.is_multiple_of(BLOCK_BYTES) && end == block_end;
        checksum = match content.blocks.get(block as usize) {
            Some(&known) if whole => append_block(checksum, known, end - at),
            _ => {
                let part = (at - range.start) as usize..(end - range.start) as usize;
                checksum.append(&bytes[part])
            }
        };
        at = end;
    }
    checksum
}
