//! Puts the bytes of a new version where they will stay: into the log, behind the committed bytes, or into a new slot.
//!
//! Every write starts at a block and is filled up with zeros to the end of one. A slot is written strictly forward
//! (`Slot::claim`). Bytes that stay are verified when they are read, and blocks that stay keep their checksums.

use std::{ops::Range, sync::Arc};

use common::buf::{RegisteredBuf, SharedBuf};
use types::checksum::Checksum;

use super::{
    super::read::Source,
    Shape,
    plan::{Plan, kept_blocks},
};
use crate::{
    blocks::{Blocks, Patch, Places},
    checksums::{of_blocks, of_whole, replace_block},
    chunk_meta::{Content, Detail, Logged, StoredPosition, checksums_to},
    engine::{Inner, UpdateRequest},
    error::EngineError,
    group::{BLOCK_BYTES, DEVICE_BLOCK_BYTES, SizeClass, block_count, round_down, round_up},
    log::{
        LogData,
        entry::{StoredBody, StoredPatch},
    },
    slots::{Purpose, Slot},
};

/// A new version's bytes, on their way to being durable.
pub(super) struct Written {
    pub(super) content: Option<Content>,
    /// Of the whole content.
    pub(super) checksum: Checksum,
    /// The same for the log.
    pub(super) body: StoredBody,
    /// Blocks that go into the log.
    pub(super) payload: Option<(Arc<LogData>, SharedBuf)>,
    /// Whether bytes were written to the slot.
    pub(super) in_slot: bool,
}

/// Bytes to write, in memory.
struct Image {
    /// Neighbouring pieces, whole blocks together.
    pieces: Vec<SharedBuf>,
    /// Of the blocks of the pieces, without the zeros at the end.
    sums: Vec<Checksum>,
}

/// The committed version an update applies to.
#[derive(Clone, Copy)]
pub(super) struct Base<'a> {
    pub(super) checksum: Checksum,
    pub(super) source: &'a Source,
}

impl Inner {
    pub(super) async fn write_content(
        &self,
        request: &UpdateRequest,
        base: Option<Base<'_>>,
        shape: &Shape,
    ) -> Result<Written, EngineError> {
        let old = base.map(|base| (base.source.length(), &**base.source.slot()));
        match (Plan::of(shape, old, self.small_update_bytes), base) {
            (Plan::Empty, _) => Ok(Written {
                content: None,
                checksum: Checksum::of(&[]),
                body: StoredBody::Empty,
                payload: None,
                in_slot: false,
            }),
            (Plan::Same, Some(base)) => Ok(Written {
                content: Some(Content::new(
                    base.source.slot().clone(),
                    Some(base.source.detail.clone()),
                )),
                checksum: base.checksum,
                body: StoredBody::Same,
                payload: None,
                in_slot: false,
            }),
            (Plan::Cut, Some(base)) => self.cut(base, shape.length).await,
            (Plan::Log(blocks), Some(base)) => self.log(request, base, shape, blocks).await,
            (Plan::Append(from), Some(base)) => self.append(request, base, shape, from).await,
            (Plan::Copy, base) => {
                self.copy(request, base.map(|base| base.source), shape)
                    .await
            }
            (Plan::Same | Plan::Cut | Plan::Log(_) | Plan::Append(_), None) => {
                unreachable!("plans for old content are made only when there is some")
            }
        }
    }

    /// The head of the old bytes, where they are.
    async fn cut(&self, base: Base<'_>, length: u32) -> Result<Written, EngineError> {
        let mut patches = Vec::new();
        let last = round_down(length) / BLOCK_BYTES;
        if !length.is_multiple_of(BLOCK_BYTES) {
            let buf = self.buffers.allocate(BLOCK_BYTES as usize);
            let buf = self.read_blocks(base.source, last..last + 1, buf).await?;
            let rest = (length % BLOCK_BYTES) as usize;
            patches.push(Patch {
                first: last,
                sums: vec![Checksum::of(&buf[..rest])],
                places: Places::Kept,
            });
        }
        let keep = block_count(length);
        Ok(patched(base, length, keep, &patches, None))
    }

    /// The changed blocks into the log.
    async fn log(
        &self,
        request: &UpdateRequest,
        base: Base<'_>,
        shape: &Shape,
        blocks: Range<u32>,
    ) -> Result<Written, EngineError> {
        let bytes = self
            .changed_blocks(request, base.source, shape, blocks.clone())
            .await?;
        let content = (shape.length - blocks.start * BLOCK_BYTES) as usize;
        let sums: Vec<Checksum> = match shape.hashed_at(&blocks) {
            Some(hashed) => hashed.blocks().to_vec(),
            None => of_blocks(&bytes[..content.min(bytes.len())]).collect(),
        };
        let data = LogData::new(request.key, bytes.clone());
        let patch = logged(blocks.start, sums, &data, 0);
        let keep = block_count(base.source.length());
        let payload = Some((data, bytes));
        Ok(patched(base, shape.length, keep, &[patch], payload))
    }

    /// Whole blocks of new content: the payload, zeros, and what stays of old blocks that change in part.
    async fn changed_blocks(
        &self,
        request: &UpdateRequest,
        source: &Source,
        shape: &Shape,
        blocks: Range<u32>,
    ) -> Result<SharedBuf, EngineError> {
        let bytes = blocks.start * BLOCK_BYTES..blocks.end * BLOCK_BYTES;
        if let (Some(payload), Some(range)) = (&request.payload, &shape.payload)
            && *range == bytes
        {
            let checksum = match &shape.hashed {
                Some(hashed) => hashed.whole(),
                None => Checksum::of(payload),
            };
            if checksum != request.payload_checksum {
                return Err(payload_mismatch(request));
            }
            return Ok(payload.clone());
        }
        let mut buf = self
            .buffers
            .allocate_zeroed((bytes.end - bytes.start) as usize);
        let mut stays: Vec<u32> = [blocks.start, blocks.end - 1]
            .into_iter()
            .filter(|&block| shape.keeps_part_of(block))
            .collect();
        stays.dedup();
        for block in stays {
            let old = self.buffers.allocate(BLOCK_BYTES as usize);
            let old = self.read_blocks(source, block..block + 1, old).await?;
            let kept = shape
                .kept
                .saturating_sub(block * BLOCK_BYTES)
                .min(BLOCK_BYTES) as usize;
            let to = ((block - blocks.start) * BLOCK_BYTES) as usize;
            buf[to..to + kept].copy_from_slice(&old[..kept]);
        }
        place_payload(&mut buf, bytes.start, request, shape);
        Ok(buf.freeze())
    }

    /// New bytes behind the old ones, in their slot. `from` is the block where they start, claimed; what the last old
    /// block gets goes into the log.
    async fn append(
        &self,
        request: &UpdateRequest,
        base: Base<'_>,
        shape: &Shape,
        from: u32,
    ) -> Result<Written, EngineError> {
        let start = from * BLOCK_BYTES;
        let mut patches = Vec::new();
        let mut payload = None;
        if !base.source.length().is_multiple_of(BLOCK_BYTES) {
            let changed = self.changed_blocks(request, base.source, shape, from - 1..from);
            let bytes = changed.await?;
            let data = LogData::new(request.key, bytes.clone());
            patches.push(logged(from - 1, of_blocks(&bytes).collect(), &data, 0));
            payload = Some((data, bytes));
        }
        let image = match &request.payload {
            Some(payload) if shape.payload.as_ref().is_some_and(|at| at.start == start) => {
                self.payload_image(request, payload, shape)?
            }
            _ => {
                let mut buf = self
                    .buffers
                    .allocate_zeroed(round_up(shape.length - start) as usize);
                place_payload(&mut buf, start, request, shape);
                image_of(buf, shape.length - start)
            }
        };
        patches.push(Patch {
            first: from,
            sums: image.sums,
            places: Places::Slot,
        });
        self.write_image(base.source.slot(), start, image.pieces)
            .await?;
        let keep = block_count(base.source.length());
        let mut written = patched(base, shape.length, keep, &patches, payload);
        written.in_slot = true;
        Ok(written)
    }

    /// All bytes into a new slot.
    async fn copy(
        &self,
        request: &UpdateRequest,
        old: Option<&Source>,
        shape: &Shape,
    ) -> Result<Written, EngineError> {
        let class = SizeClass::holding(shape.length);
        let class = class.expect("the shape was checked against the largest class");
        let purpose = match old {
            Some(old) if old.slot().position().group.class >= class => Purpose::NewVersion,
            _ => Purpose::NewChunk,
        };
        let slot = self.slots.allocate(class, purpose).await?;
        let image = match &request.payload {
            Some(payload) if shape.payload == Some(0..shape.length) => {
                self.payload_image(request, payload, shape)?
            }
            _ => self.merge(request, old, shape).await?,
        };
        let checksum = of_whole(&image.sums, shape.length);
        let position = StoredPosition::of(slot.position());
        let sums = checksums_to(&image.sums);
        if round_up(shape.length) <= self.small_update_bytes {
            // One sync instead of two; the bytes go to the slot later.
            let bytes = self.in_one_piece(image.pieces);
            let data = LogData::new(request.key, bytes.clone());
            let detail = Blocks::in_slot(Vec::new()).patched(0, &[logged(0, image.sums, &data, 0)]);
            let detail = detail.expect("a patch of all blocks fits");
            return Ok(Written {
                content: Some(Content::new(slot, Some(Arc::new(detail)))),
                checksum,
                body: StoredBody::Logged { position, sums },
                payload: Some((data, bytes)),
                in_slot: false,
            });
        }
        let claimed = slot.claim(0, round_up(shape.length));
        assert!(claimed, "a new slot has not been written");
        self.write_image(&slot, 0, image.pieces).await?;
        let detail = Arc::new(Blocks::in_slot(image.sums));
        Ok(Written {
            content: Some(Content::new(slot, Some(detail))),
            checksum,
            body: StoredBody::Whole { position, sums },
            payload: None,
            in_slot: true,
        })
    }

    pub(crate) fn in_one_piece(&self, pieces: Vec<SharedBuf>) -> SharedBuf {
        if let [piece] = &pieces[..] {
            return piece.clone();
        }
        let mut buf = self
            .buffers
            .allocate(pieces.iter().map(|piece| piece.len()).sum());
        let mut at = 0;
        for piece in pieces {
            buf[at..at + piece.len()].copy_from_slice(&piece);
            at += piece.len();
        }
        buf.freeze()
    }

    pub(crate) async fn write_image(
        &self,
        slot: &Arc<Slot>,
        from: u32,
        pieces: Vec<SharedBuf>,
    ) -> Result<(), EngineError> {
        let class = slot.position().group.class;
        let written = slot.write(from, pieces).await;
        written.map_err(|error| self.slots.failed(class, "write a chunk", &error))
    }

    /// A payload that starts at a block: written from where it lies; only a last, partial block is copied.
    fn payload_image(
        &self,
        request: &UpdateRequest,
        payload: &SharedBuf,
        shape: &Shape,
    ) -> Result<Image, EngineError> {
        let length = length_of(payload);
        let sums: Vec<Checksum> = match &shape.hashed {
            Some(hashed) => hashed.blocks().to_vec(),
            None => of_blocks(payload).collect(),
        };
        if of_whole(&sums, length) != request.payload_checksum {
            return Err(payload_mismatch(request));
        }
        let aligned = payload
            .as_ptr()
            .addr()
            .is_multiple_of(DEVICE_BLOCK_BYTES as usize);
        let whole = if aligned { round_down(length) } else { 0 } as usize;
        let mut pieces = Vec::with_capacity(2);
        if whole > 0 {
            pieces.push(payload.slice(0..whole));
        }
        if whole < payload.len() {
            let rest = &payload[whole..];
            let mut buf = self.buffers.allocate(round_up(length_of(rest)) as usize);
            buf[..rest.len()].copy_from_slice(rest);
            buf[rest.len()..].fill(0);
            pieces.push(buf.freeze());
        }
        Ok(Image { pieces, sums })
    }

    /// Old bytes, zeros and payload in one buffer.
    async fn merge(
        &self,
        request: &UpdateRequest,
        old: Option<&Source>,
        shape: &Shape,
    ) -> Result<Image, EngineError> {
        let mut buf = self.buffers.allocate(round_up(shape.length) as usize);
        if let Some(source) = old {
            buf = self.read_kept(source, shape, buf).await?;
        }
        let payload = shape.payload.clone().unwrap_or(shape.kept..shape.kept);
        let (kept, total) = (shape.kept as usize, buf.len());
        if kept < payload.start as usize {
            buf[kept..payload.start as usize].fill(0);
        }
        buf[kept.max(payload.end as usize)..total].fill(0);
        place_payload(&mut buf, 0, request, shape);
        let sums = (0..block_count(shape.length)).map(|block| {
            let start = block * BLOCK_BYTES;
            let range = start..(start + BLOCK_BYTES).min(shape.length);
            match old {
                Some(old) if is_untouched(&range, old.length(), shape) => {
                    old.detail.sums[block as usize]
                }
                _ => Checksum::of(&buf[range.start as usize..range.end as usize]),
            }
        });
        let sums = sums.collect();
        Ok(Image {
            pieces: vec![buf.freeze()],
            sums,
        })
    }

    /// Reads the old blocks of which bytes stay, to their places.
    async fn read_kept(
        &self,
        source: &Source,
        shape: &Shape,
        mut buf: RegisteredBuf,
    ) -> Result<RegisteredBuf, EngineError> {
        let [before, after] = kept_blocks(shape);
        let bytes = |blocks: u32| (blocks * BLOCK_BYTES) as usize;
        let mut head = buf.split_to(bytes(before.end));
        let gap = buf.split_to(bytes(after.start - before.end));
        let tail = buf.split_to(bytes(after.end - after.start));
        let read = async |blocks: Range<u32>, buf: RegisteredBuf| {
            if blocks.is_empty() {
                Ok(buf)
            } else {
                self.read_blocks(source, blocks, buf).await
            }
        };
        let (read_head, read_tail) = futures::join!(read(before, head), read(after, tail));
        head = read_head?;
        for part in [gap, read_tail?, buf] {
            let joined = head.unsplit(part);
            assert!(joined.is_ok(), "the parts were neighbours");
        }
        Ok(head)
    }
}

/// Blocks that lie in the log, from the block `at` of the data on.
fn logged(first: u32, sums: Vec<Checksum>, data: &Arc<LogData>, at: u32) -> Patch<Logged> {
    let places = (at..at + length_of_blocks(&sums)).map(|at| Logged {
        data: data.clone(),
        at,
    });
    Patch {
        first,
        places: Places::Log(places.collect()),
        sums,
    }
}

/// The first `keep` blocks of the old content, patched.
fn patched(
    base: Base<'_>,
    length: u32,
    keep: u32,
    patches: &[Patch<Logged>],
    payload: Option<(Arc<LogData>, SharedBuf)>,
) -> Written {
    let old = &base.source.detail;
    let detail: Detail = old
        .patched(keep, patches)
        .expect("the patches were made for this content");
    let checksum = if length == base.source.length() {
        let changed = patches
            .iter()
            .flat_map(|patch| (patch.first..).zip(&patch.sums));
        changed.fold(base.checksum, |whole, (block, &new)| {
            let end = ((block + 1) * BLOCK_BYTES).min(length);
            replace_block(whole, old.sums[block as usize], new, length - end)
        })
    } else {
        of_whole(&detail.sums, length)
    };
    Written {
        content: Some(Content::new(
            base.source.slot().clone(),
            Some(Arc::new(detail)),
        )),
        checksum,
        body: StoredBody::Patched {
            keep,
            patches: patches.iter().map(StoredPatch::new).collect(),
        },
        payload,
        in_slot: false,
    }
}

fn payload_mismatch(request: &UpdateRequest) -> EngineError {
    EngineError::PayloadMismatch {
        chunk: request.key.chunk,
    }
}

/// Whether a block of the new content is the old one.
fn is_untouched(block: &Range<u32>, old_length: u32, shape: &Shape) -> bool {
    let same_length = block.end == (block.start + BLOCK_BYTES).min(old_length);
    let covered = shape
        .payload
        .as_ref()
        .is_some_and(|payload| payload.start < block.end && block.start < payload.end);
    block.end <= shape.kept && same_length && !covered
}

fn length_of(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).expect("the shape was checked against the size of chunks")
}

fn length_of_blocks(sums: &[Checksum]) -> u32 {
    u32::try_from(sums.len()).expect("the shape was checked against the size of chunks")
}

/// Puts the part of the payload that falls into a buffer, which starts at byte `from` of the content, to its place.
fn place_payload(buf: &mut [u8], from: u32, request: &UpdateRequest, shape: &Shape) {
    if let (Some(range), Some(payload)) = (&shape.payload, &request.payload) {
        let end = from.saturating_add(length_of(buf));
        let (start, end) = (range.start.max(from), range.end.min(end));
        if start < end {
            let part = &payload[(start - range.start) as usize..(end - range.start) as usize];
            buf[(start - from) as usize..(end - from) as usize].copy_from_slice(part);
        }
    }
}

/// A filled buffer of whole blocks, of which `length` bytes are content.
fn image_of(buf: RegisteredBuf, length: u32) -> Image {
    let sums = of_blocks(&buf[..length as usize]).collect();
    Image {
        pieces: vec![buf.freeze()],
        sums,
    }
}
