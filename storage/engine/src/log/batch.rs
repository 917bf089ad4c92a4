//! A batch: what one write puts into the log. All of it is there, or nothing.
//!
//! ```text
//!  0  disk        u64  the number of this disk, so that no content of a file can pass for a batch
//!  8  segment     u64  which use of a segment file
//! 16  batch       u64  rises by one
//! 24  entry bytes u32
//! 28  payload     u32  blocks of 4096 bytes
//! 32  entries     u32
//! 36  payload sum u32  CRC32C of the payload
//! 40  version     u16  1
//! 42  zero        u16
//! 44  sum         u32  CRC32C of bytes 0..44 and of the entries
//! 48  entries: each a u32 of length and so many bytes; zeros to a multiple of 4096; then the payload
//! ```
//!
//! Integers are little-endian. Batches start at multiples of 4096 in a segment. Nothing in here trusts the bytes.

use types::checksum::Checksum;

use super::entry::{LogEntry, LogRef};
use crate::group::BLOCK_BYTES;

const HEADER_BYTES: usize = 48;
const SUM_AT: usize = 44;
const VERSION: u16 = 1;
const BLOCK: usize = BLOCK_BYTES as usize;

/// Which batch of which disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BatchId {
    pub(crate) disk: u64,
    pub(crate) segment: u64,
    pub(crate) batch: u64,
}

/// Why some bytes are no batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BatchError {
    #[error("cut short")]
    Short,
    #[error("of another disk or segment")]
    Foreign,
    #[error("of another version")]
    Version,
    #[error("a checksum does not match")]
    Checksum,
    #[error("an entry does not decode")]
    Entry,
}

/// Blocks that the entries of a batch take, with the header.
pub(crate) fn head_blocks(entries: &[Vec<u8>]) -> usize {
    let bytes: usize = entries.iter().map(|entry| 4 + entry.len()).sum();
    (HEADER_BYTES + bytes).div_ceil(BLOCK)
}

/// Writes header and entries into `buf`, which has the payload in its place already.
pub(crate) fn seal(buf: &mut [u8], id: BatchId, entries: &[Vec<u8>]) {
    let head_bytes = head_blocks(entries) * BLOCK;
    let payload_sum = Checksum::of(&buf[head_bytes..]);
    let payload_blocks = (buf.len() - head_bytes) / BLOCK;
    let head = &mut buf[..head_bytes];
    let mut at = HEADER_BYTES;
    for entry in entries {
        let length = length_of(entry.len()).to_le_bytes();
        head[at..at + 4].copy_from_slice(&length);
        head[at + 4..at + 4 + entry.len()].copy_from_slice(entry);
        at += 4 + entry.len();
    }
    head[at..].fill(0);
    head[..8].copy_from_slice(&id.disk.to_le_bytes());
    head[8..16].copy_from_slice(&id.segment.to_le_bytes());
    head[16..24].copy_from_slice(&id.batch.to_le_bytes());
    head[24..28].copy_from_slice(&length_of(at - HEADER_BYTES).to_le_bytes());
    head[28..32].copy_from_slice(&length_of(payload_blocks).to_le_bytes());
    head[32..36].copy_from_slice(&length_of(entries.len()).to_le_bytes());
    head[36..40].copy_from_slice(&payload_sum.0.to_le_bytes());
    head[40..42].copy_from_slice(&VERSION.to_le_bytes());
    head[42..44].fill(0);
    let sum = Checksum::of(&head[..SUM_AT]).append(&head[HEADER_BYTES..at]);
    head[SUM_AT..HEADER_BYTES].copy_from_slice(&sum.0.to_le_bytes());
}

fn length_of(length: usize) -> u32 {
    u32::try_from(length).expect("a batch is no longer than a segment")
}

/// A batch that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Batch {
    pub(crate) batch: u64,
    /// Blocks in the file.
    pub(crate) blocks: u32,
    /// The entries, each with the place of its payload.
    pub(crate) entries: Vec<(LogEntry, LogRef)>,
}

/// The header at the start of `bytes`, if there is one of this disk: segment and batch. Proves only itself; `parse`
/// looks at the rest.
pub(crate) fn peek(bytes: &[u8], disk: u64) -> Option<(u64, u64)> {
    let head = bytes.first_chunk::<HEADER_BYTES>()?;
    let u64_at = |at: usize| {
        head[at..]
            .first_chunk()
            .map(|&bytes| u64::from_le_bytes(bytes))
    };
    if u64_at(0)? != disk {
        return None;
    }
    Some((u64_at(8)?, u64_at(16)?))
}

/// Reads the batch that starts at block `at` of a segment, of which `bytes` are the rest.
pub(crate) fn parse(bytes: &[u8], disk: u64, segment: u64, at: u32) -> Result<Batch, BatchError> {
    let head = bytes
        .first_chunk::<HEADER_BYTES>()
        .ok_or(BatchError::Short)?;
    let u32_at =
        |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let (found_segment, batch) = peek(bytes, disk).ok_or(BatchError::Foreign)?;
    if found_segment != segment {
        return Err(BatchError::Foreign);
    }
    if u32_at(40) != u32::from(VERSION) {
        return Err(BatchError::Version);
    }
    let (entry_bytes, payload_blocks) = (u32_at(24) as usize, u32_at(28));
    let entries = bytes
        .get(HEADER_BYTES..)
        .and_then(|rest| rest.get(..entry_bytes))
        .ok_or(BatchError::Short)?;
    if Checksum::of(&head[..SUM_AT]).append(entries) != Checksum(u32_at(SUM_AT)) {
        return Err(BatchError::Checksum);
    }
    let head_blocks = (HEADER_BYTES + entry_bytes).div_ceil(BLOCK);
    let payload_start = head_blocks * BLOCK;
    let payload = bytes
        .get(payload_start..)
        .and_then(|rest| rest.get(..payload_blocks as usize * BLOCK))
        .ok_or(BatchError::Short)?;
    if Checksum::of(payload) != Checksum(u32_at(36)) {
        return Err(BatchError::Checksum);
    }
    let head_blocks = u32::try_from(head_blocks).map_err(|_| BatchError::Short)?;
    let payload_at = LogRef {
        segment,
        at: at.checked_add(head_blocks).ok_or(BatchError::Short)?,
    };
    Ok(Batch {
        batch,
        blocks: head_blocks + payload_blocks,
        entries: parse_entries(entries, u32_at(32), payload_at, payload_blocks)?,
    })
}

fn parse_entries(
    mut bytes: &[u8],
    count: u32,
    payload: LogRef,
    payload_blocks: u32,
) -> Result<Vec<(LogEntry, LogRef)>, BatchError> {
    let mut entries = Vec::new();
    let mut used = 0;
    for _ in 0..count {
        let (length, rest) = bytes.split_first_chunk::<4>().ok_or(BatchError::Entry)?;
        let length = u32::from_le_bytes(*length) as usize;
        let (entry, rest) = rest.split_at_checked(length).ok_or(BatchError::Entry)?;
        let entry = LogEntry::decode(entry).map_err(|_| BatchError::Entry)?;
        bytes = rest;
        let place = payload.plus(used);
        let blocks = u32::try_from(entry.payload_blocks()).map_err(|_| BatchError::Entry)?;
        used = used.checked_add(blocks).ok_or(BatchError::Entry)?;
        entries.push((entry, place));
    }
    if bytes.is_empty() && used == payload_blocks {
        Ok(entries)
    } else {
        Err(BatchError::Entry)
    }
}

#[cfg(test)]
mod tests;
