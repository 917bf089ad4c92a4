//! Reading: whole blocks from the device, each compared with its checksum (D3), then the part asked for.
//!
//! Blocks come from the slot, or from the log where a small update put them. The version is held from before the read
//! until after it, and with it slot and segments: its bytes cannot become someone else's meanwhile.

use std::{ops::Range, sync::Arc};

use common::buf::RegisteredBuf;
use futures::future::try_join_all;
use types::{checksum::Checksum, chunk::ChunkId};

use super::{ChunkKey, Engine, Inner, ReadOut, ReadVersion};
use crate::{
    checkpoint,
    checksums::append_block,
    chunk_meta::{Detail, Version},
    error::EngineError,
    group::{BLOCK_BYTES, block_count},
    log::{Place, Segment},
    slots::Slot,
};

/// A version whose checksums had to go is looked up again; each time somebody else has made a newer one and brought it to
/// the store. So often in a row is a sign of something else.
const LOOKUPS_MAX: usize = 64;

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
        let (version, source) = self.inner.source_to_read(key, version).await?;
        let head = version.head;
        let end = offset.saturating_add(length).min(head.length);
        let out = |data, checksum| ReadOut {
            data,
            checksum,
            chunk_length: head.length,
            version: head.version,
        };
        let source = match source {
            Some(source) if offset < end => source,
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
        let buf = self.inner.read_blocks(&source, blocks, buf).await?;
        let range = (offset - first_byte) as usize..(end - first_byte) as usize;
        let checksum = checksum_of_range(&source, offset..end, &buf[range.clone()]);
        Ok(out(buf.freeze().slice(range), checksum))
    }
}

/// Stored bytes to read from. Holds the version, and so its slot: one more holder of a slot is a sign of another
/// version (`fold`).
pub(crate) struct Source {
    chunk: ChunkId,
    version: Arc<Version>,
    pub(crate) detail: Arc<Detail>,
}

impl Source {
    pub(crate) fn slot(&self) -> &Arc<Slot> {
        let content = self.version.content.as_ref();
        &content.expect("sources are made of content").slot
    }

    /// Of the whole content.
    pub(crate) fn length(&self) -> u32 {
        self.version.head.length
    }
}

/// Neighbouring blocks that lie side by side.
pub(crate) enum Run {
    Slot,
    Log { segment: Arc<Segment>, at: u32 },
    Memory(common::buf::SharedBuf),
}

impl Inner {
    /// A version, and where its bytes are if it has any.
    async fn source_to_read(
        &self,
        key: ChunkKey,
        which: ReadVersion,
    ) -> Result<(Arc<Version>, Option<Source>), EngineError> {
        for _ in 0..LOOKUPS_MAX {
            let version = self.version_to_read(key, which)?;
            if version.content.is_none() {
                return Ok((version, None));
            }
            if let Some(source) = self.source(key, &version).await? {
                return Ok((version, Some(source)));
            }
        }
        Err(self.checksums_missing(key))
    }

    pub(crate) fn checksums_missing(&self, key: ChunkKey) -> EngineError {
        let chunk = key.chunk;
        self.health.fail(format!(
            "the checksums of chunk {chunk} are missing in the record store"
        ))
    }

    fn version_to_read(
        &self,
        key: ChunkKey,
        version: ReadVersion,
    ) -> Result<Arc<Version>, EngineError> {
        let state = self.state.lock();
        let record = state.target(key.target)?.chunks.get(&key.chunk);
        let version = record.and_then(|record| match version {
            ReadVersion::Committed => record.committed.as_ref(),
            ReadVersion::Pending => record.pending.as_ref().or(record.committed.as_ref()),
        });
        let existing = version.filter(|version| version.head.exists()).cloned();
        existing.ok_or(EngineError::NotFound { chunk: key.chunk })
    }

    /// Where the bytes of a version are; `None` when it has none, or its checksums are gone because it was replaced.
    pub(crate) async fn source(
        &self,
        key: ChunkKey,
        version: &Arc<Version>,
    ) -> Result<Option<Source>, EngineError> {
        let Some(content) = &version.content else {
            return Ok(None);
        };
        let detail = match content.detail.load_full() {
            Some(detail) => Some(detail),
            None => self.load_detail(key, version).await?,
        };
        Ok(detail.map(|detail| Source {
            chunk: key.chunk,
            version: version.clone(),
            detail,
        }))
    }

    /// The checksums of a version from the store.
    async fn load_detail(
        &self,
        key: ChunkKey,
        version: &Arc<Version>,
    ) -> Result<Option<Arc<Detail>>, EngineError> {
        let Some(content) = &version.content else {
            return Ok(None);
        };
        let store = self.store.clone();
        let load = self
            .env
            .blocking(move || checkpoint::load_sums(&*store, key));
        let sums = match self.env.timeout(self.store_limit, load).await {
            Ok(Ok(sums)) => sums,
            Ok(Err(error)) => return Err(self.health.fail(error.to_string())),
            Err(_) => {
                let reason = format!(
                    "the record store has not answered for {:?}",
                    self.store_limit
                );
                return Err(self.health.fail(reason));
            }
        };
        let Some(stored) = sums.of(&version.head, content.slot.position()) else {
            return Ok(None);
        };
        let detail = Arc::new(Detail::in_slot(crate::chunk_meta::checksums_from(
            &stored.sums,
        )));
        if detail.sums.len() != block_count(version.head.length) as usize {
            return Err(self.checksums_missing(key));
        }
        content.detail.store(Some(detail.clone()));
        self.checkpointer.sums().note(version);
        Ok(Some(detail))
    }

    /// Fills `buf`, which is as long as the blocks, and verifies them. What follows the content in its last
    /// block has any value.
    pub(crate) async fn read_blocks(
        &self,
        source: &Source,
        blocks: Range<u32>,
        mut buf: RegisteredBuf,
    ) -> Result<RegisteredBuf, EngineError> {
        let detail = &*source.detail;
        let buf = if detail.overlay.is_empty() {
            self.read_run(source, Run::Slot, blocks.start, buf).await?
        } else {
            let mut reads = Vec::new();
            for (run, first, count) in runs(detail, blocks.clone()) {
                let part = buf.split_to((count * BLOCK_BYTES) as usize);
                reads.push(self.read_run(source, run, first, part));
            }
            let mut parts = try_join_all(reads).await?.into_iter();
            let mut whole = parts.next().unwrap_or(buf);
            for part in parts {
                let joined = whole.unsplit(part);
                assert!(joined.is_ok(), "the parts were neighbours");
            }
            whole
        };
        for (block, stored) in blocks.zip(buf.chunks(BLOCK_BYTES as usize)) {
            let block_length = (source.length() - block * BLOCK_BYTES).min(BLOCK_BYTES) as usize;
            let expected = detail.sums.get(block as usize);
            if expected != Some(&Checksum::of(&stored[..block_length])) {
                let (chunk, position) = (source.chunk, source.slot().position());
                tracing::error!(%chunk, block, %position, "stored bytes do not match their checksum");
                return Err(EngineError::ChunkCorrupt { chunk, block });
            }
        }
        Ok(buf)
    }

    async fn read_run(
        &self,
        source: &Source,
        run: Run,
        first: u32,
        mut buf: RegisteredBuf,
    ) -> Result<RegisteredBuf, EngineError> {
        let device = self.slots.device();
        let read = match run {
            Run::Slot => {
                let position = source.slot().position();
                let offset = position.offset() + u64::from(first) * u64::from(BLOCK_BYTES);
                device.read(position.group.into(), offset, buf).await
            }
            Run::Log { segment, at } => {
                let offset = u64::from(at) * u64::from(BLOCK_BYTES);
                device.read(segment.file(), offset, buf).await
            }
            Run::Memory(bytes) => {
                buf.copy_from_slice(&bytes);
                Ok(buf)
            }
        };
        read.map_err(|error| EngineError::ReadFailed {
            chunk: source.chunk,
            reason: error.to_string(),
        })
    }
}

/// The blocks as runs, each with its first block and their number.
pub(crate) fn runs(detail: &Detail, blocks: Range<u32>) -> Vec<(Run, u32, u32)> {
    let mut runs: Vec<(Run, u32, u32)> = Vec::new();
    let mut overlay = detail.overlay.iter().peekable();
    while overlay
        .next_if(|(block, _)| *block < blocks.start)
        .is_some()
    {}
    for block in blocks {
        let logged = overlay.next_if(|(overlaid, _)| *overlaid == block);
        let run = match logged.map(|(_, logged)| (logged.data.place(), logged.at)) {
            None => Run::Slot,
            Some((Place::Log { segment, at }, index)) => Run::Log {
                segment,
                at: at + index,
            },
            Some((Place::Memory(bytes), index)) => {
                let start = (index * BLOCK_BYTES) as usize;
                Run::Memory(bytes.slice(start..start + BLOCK_BYTES as usize))
            }
        };
        match (runs.last_mut(), &run) {
            (Some((Run::Slot, _, count)), Run::Slot) => *count += 1,
            (
                Some((Run::Log { segment, at }, _, count)),
                Run::Log {
                    segment: next,
                    at: to,
                },
            ) if segment.number == next.number && *at + *count == *to => {
                *count += 1;
            }
            _ => runs.push((run, block, 1)),
        }
    }
    runs
}

/// The checksum of a range of verified content: known blocks are combined, only parts of blocks are hashed.
fn checksum_of_range(source: &Source, range: Range<u32>, bytes: &[u8]) -> Checksum {
    let mut checksum = Checksum::default();
    let mut at = range.start;
    while at < range.end {
        let block = at / BLOCK_BYTES;
        let block_end = (block * BLOCK_BYTES + BLOCK_BYTES).min(source.length());
        let end = block_end.min(range.end);
        let whole = at.is_multiple_of(BLOCK_BYTES) && end == block_end;
        checksum = match source.detail.sums.get(block as usize) {
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
