//! Puts the bytes of a new version where they will stay.
//!
//! Every write starts at a block and is filled up with zeros to the end of one. So an append to content that ends
//! at a block needs no byte of it, and a slot is written strictly forward (`Slot::claim`).

use std::{ops::Range, sync::Arc};

use common::buf::{RegisteredBuf, SharedBuf};
use types::checksum::Checksum;

use super::{super::read::Source, Shape};
use crate::{
    checksums::{append_block, of_blocks, of_whole},
    chunk_meta::{Content, Version},
    engine::{Inner, UpdateRequest},
    error::EngineError,
    group::{BLOCK_BYTES, DEVICE_BLOCK_BYTES, SizeClass, block_count, round_down, round_up},
    slots::{Purpose, Slot},
};

/// A new version's bytes, on their way to being durable.
pub(super) struct Written {
    pub(super) content: Option<Content>,
    /// Of the whole content.
    pub(super) checksum: Checksum,
}

/// Bytes to write, in memory.
struct Image {
    /// Neighbouring pieces, whole blocks together.
    pieces: Vec<SharedBuf>,
    /// Of the blocks of the pieces, without the zeros at the end.
    blocks: Vec<Checksum>,
}

impl Inner {
    pub(super) async fn write_content(
        &self,
        request: &UpdateRequest,
        base: Option<&Version>,
        shape: &Shape,
    ) -> Result<Written, EngineError> {
        if shape.length == 0 {
            return Ok(Written {
                content: None,
                checksum: Checksum::of(&[]),
            });
        }
        let old = base.and_then(|base| Some((base, base.content.as_ref()?)));
        if let Some((base, old)) = old {
            if shape.payload.is_none() && shape.length == base.length {
                return Ok(Written {
                    content: Some(old.clone()),
                    checksum: base.checksum,
                });
            }
            if shape.payload.is_none()
                && shape.length < base.length
                && SizeClass::holding(shape.length) == Some(old.slot.position().group.class)
            {
                return self.cut(request, base, old, shape.length).await;
            }
            if let Some(from) = append_start(base, old, shape) {
                return self.append(request, base, old, shape, from).await;
            }
        }
        self.copy(request, old, shape).await
    }

    /// The head of the old bytes, where they are.
    async fn cut(
        &self,
        request: &UpdateRequest,
        base: &Version,
        old: &Content,
        length: u32,
    ) -> Result<Written, EngineError> {
        let mut blocks: Vec<Checksum> = old.blocks[..block_count(length) as usize].to_vec();
        let last = round_down(length) / BLOCK_BYTES;
        if !length.is_multiple_of(BLOCK_BYTES) {
            let source = Source {
                chunk: request.key.chunk,
                content: old,
                length: base.length,
            };
            let buf = self.buffers.allocate(BLOCK_BYTES as usize);
            let buf = self.read_blocks(&source, last..last + 1, buf).await?;
            let rest = (length % BLOCK_BYTES) as usize;
            blocks[last as usize] = Checksum::of(&buf[..rest]);
        }
        let checksum = of_whole(&blocks, length);
        Ok(Written {
            content: Some(Content {
                slot: old.slot.clone(),
                blocks: blocks.into(),
            }),
            checksum,
        })
    }

    /// New bytes behind the old ones, in their slot. `from` is where they start, claimed.
    async fn append(
        &self,
        request: &UpdateRequest,
        base: &Version,
        old: &Content,
        shape: &Shape,
        from: u32,
    ) -> Result<Written, EngineError> {
        let image = match &request.payload {
            Some(payload) if shape.payload.as_ref().is_some_and(|at| at.start == from) => {
                self.payload_image(request, payload)?
            }
            _ => {
                let mut buf = self
                    .buffers
                    .allocate(round_up(shape.length - from) as usize);
                buf.fill(0);
                place_payload(&mut buf, from, request, shape);
                image_of(buf, shape.length - from)
            }
        };
        let mut checksum = base.checksum;
        let mut left = shape.length - from;
        for &block in &image.blocks {
            checksum = append_block(checksum, block, left.min(BLOCK_BYTES));
            left -= left.min(BLOCK_BYTES);
        }
        self.write_image(&old.slot, from, image.pieces).await?;
        let blocks = old.blocks.iter().copied().chain(image.blocks);
        Ok(Written {
            content: Some(Content {
                slot: old.slot.clone(),
                blocks: blocks.collect(),
            }),
            checksum,
        })
    }

    /// All bytes into a new slot.
    async fn copy(
        &self,
        request: &UpdateRequest,
        old: Option<(&Version, &Content)>,
        shape: &Shape,
    ) -> Result<Written, EngineError> {
        let class = SizeClass::holding(shape.length);
        let class = class.expect("the shape was checked against the largest class");
        let purpose = match old {
            Some((_, old)) if old.slot.position().group.class >= class => Purpose::NewVersion,
            _ => Purpose::NewChunk,
        };
        let slot = self.slots.allocate(class, purpose).await?;
        let image = match &request.payload {
            Some(payload) if shape.payload == Some(0..shape.length) => {
                self.payload_image(request, payload)?
            }
            _ => self.merge(request, old, shape).await?,
        };
        let checksum = of_whole(&image.blocks, shape.length);
        let claimed = slot.claim(0, round_up(shape.length));
        assert!(claimed, "a new slot has not been written");
        self.write_image(&slot, 0, image.pieces).await?;
        Ok(Written {
            content: Some(Content {
                slot,
                blocks: image.blocks.into(),
            }),
            checksum,
        })
    }

    async fn write_image(
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
    ) -> Result<Image, EngineError> {
        let length = length_of(payload);
        let blocks: Vec<Checksum> = of_blocks(payload).collect();
        if of_whole(&blocks, length) != request.payload_checksum {
            return Err(EngineError::PayloadMismatch {
                chunk: request.key.chunk,
            });
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
        Ok(Image { pieces, blocks })
    }

    /// Old bytes, zeros and payload in one buffer.
    async fn merge(
        &self,
        request: &UpdateRequest,
        old: Option<(&Version, &Content)>,
        shape: &Shape,
    ) -> Result<Image, EngineError> {
        let mut buf = self.buffers.allocate(round_up(shape.length) as usize);
        if let Some((base, content)) = old {
            let source = Source {
                chunk: request.key.chunk,
                content,
                length: base.length,
            };
            buf = self.read_kept(&source, shape, buf).await?;
        }
        let payload = shape.payload.clone().unwrap_or(shape.kept..shape.kept);
        let (kept, total) = (shape.kept as usize, buf.len());
        if kept < payload.start as usize {
            buf[kept..payload.start as usize].fill(0);
        }
        buf[kept.max(payload.end as usize)..total].fill(0);
        place_payload(&mut buf, 0, request, shape);
        let block_range = |block: u32| {
            let start = block * BLOCK_BYTES;
            start..(start + BLOCK_BYTES).min(shape.length)
        };
        let blocks = (0..block_count(shape.length)).map(|block| {
            let range = block_range(block);
            match old {
                Some((base, content)) if is_untouched(&range, base.length, shape) => {
                    content.blocks[block as usize]
                }
                _ => Checksum::of(&buf[range.start as usize..range.end as usize]),
            }
        });
        let blocks = blocks.collect();
        Ok(Image {
            pieces: vec![buf.freeze()],
            blocks,
        })
    }

    /// Reads the old blocks of which bytes stay, to their places.
    async fn read_kept(
        &self,
        source: &Source<'_>,
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

/// Where an append starts when it may go behind the committed bytes: they end at a block, and nobody has written
/// or is writing there. Claims the bytes.
fn append_start(base: &Version, old: &Content, shape: &Shape) -> Option<u32> {
    let from = base.length;
    let behind = shape
        .payload
        .as_ref()
        .is_none_or(|payload| payload.start >= from);
    let append = shape.kept == from
        && behind
        && shape.length > from
        && from.is_multiple_of(BLOCK_BYTES)
        && shape.length <= old.slot.bytes();
    (append && old.slot.claim(from, round_up(shape.length))).then_some(from)
}

/// The old blocks of which bytes stay: those before the payload, and those after it. The second range starts at
/// or behind the end of the first.
fn kept_blocks(shape: &Shape) -> [Range<u32>; 2] {
    let end = block_count(shape.kept);
    let Some(payload) = &shape.payload else {
        return [0..end, end..end];
    };
    let before = block_count(payload.start.min(shape.kept));
    if payload.end >= shape.kept {
        return [0..before, before..before];
    }
    let after = (payload.end / BLOCK_BYTES).max(before);
    [0..before, after..end]
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

/// Puts the payload to its place in a buffer that starts at byte `from` of the content.
fn place_payload(buf: &mut [u8], from: u32, request: &UpdateRequest, shape: &Shape) {
    if let (Some(range), Some(payload)) = (&shape.payload, &request.payload) {
        buf[(range.start - from) as usize..(range.end - from) as usize].copy_from_slice(payload);
    }
}

/// A filled buffer of whole blocks, of which `length` bytes are content.
fn image_of(buf: RegisteredBuf, length: u32) -> Image {
    let blocks = of_blocks(&buf[..length as usize]).collect();
    Image {
        pieces: vec![buf.freeze()],
        blocks,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const B: u32 = BLOCK_BYTES;

    fn shape(kept: u32, payload: Option<Range<u32>>) -> Shape {
        let length = payload
            .as_ref()
            .map_or(kept, |payload| payload.end.max(kept));
        Shape {
            exists: true,
            length,
            kept,
            payload,
        }
    }

    #[test]
    fn only_blocks_of_which_bytes_stay_are_read() {
        let ranges = |kept, payload| kept_blocks(&shape(kept, payload));
        assert_eq!(ranges(10 * B, None), [0..10, 10..10]);
        assert_eq!(ranges(10 * B, Some(2 * B..4 * B)), [0..2, 4..10]);
        assert_eq!(ranges(10 * B, Some(2 * B + 1..4 * B + 1)), [0..3, 4..10]);
        assert_eq!(ranges(10 * B, Some(2 * B + 1..2 * B + 9)), [0..3, 3..10]);
        assert_eq!(ranges(10 * B, Some(0..10 * B)), [0..0, 0..0]);
        assert_eq!(ranges(10 * B, Some(8 * B..12 * B)), [0..8, 8..8]);
        let within_the_last = ranges(10 * B - 5, Some(9 * B + 1..10 * B - 7));
        assert_eq!(within_the_last, [0..10, 10..10]);
        assert_eq!(ranges(3, Some(9 * B..10 * B)), [0..1, 1..1]);
    }

    /// For all small shapes: each old byte that stays lies in a block that is read.
    #[test]
    fn every_byte_that_stays_is_read() {
        let edges = [0, 1, B - 1, B, B + 1, 2 * B, 3 * B - 1, 3 * B];
        for kept in edges {
            for start in edges {
                for end in edges.into_iter().filter(|&end| end > start) {
                    let [before, after] = kept_blocks(&shape(kept, Some(start..end)));
                    assert!(before.end <= after.start && after.end <= block_count(kept));
                    for byte in edges.into_iter().filter(|&byte| byte < kept) {
                        let stays = byte < start || byte >= end;
                        let block = byte / B;
                        let read = before.contains(&block) || after.contains(&block);
                        assert!(read || !stays, "{kept} {start}..{end}: byte {byte}");
                    }
                }
            }
        }
    }
}
