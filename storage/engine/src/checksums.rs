//! Checksums of blocks, and the checksum of the whole content made of them.
//!
//! Content is hashed once, block by block; the checksum of the whole follows by combining, which with the tables
//! below costs a few nanoseconds per block instead of another pass over the bytes (the general
//! `crc32c_combine` takes microseconds).
//!
//! Appending `n` bytes to some content multiplies its CRC by x^(8n) modulo the polynomial. That map is
//! linear, so four tables of 256 entries apply it, one table set for each power of two.

use std::{
    ops::Deref,
    sync::{Arc, LazyLock},
};

use common::buf::SharedBuf;
use types::checksum::Checksum;

use crate::group::{BLOCK_BYTES, block_count};

/// Table sets for 1, 2, 4, ... bytes, up to the largest chunk.
const LEVELS: usize = CHUNK_BYTES_MAX.trailing_zeros() as usize + 1;
const CHUNK_BYTES_MAX: u32 = 64 << 20;

type ShiftTable = [[u32; 256]; 4];

static SHIFTS: LazyLock<Vec<ShiftTable>> = LazyLock::new(|| (0..LEVELS).map(shift_table).collect());

fn shift_table(level: usize) -> ShiftTable {
    // Combining with "no change" is the linear map itself; a linear map is known by what it does to single bits.
    let image: Vec<u32> = (0..32)
        .map(|bit| Checksum(1 << bit).combine(Checksum(0), 1 << level).0)
        .collect();
    let mut table = [[0; 256]; 4];
    for (byte, entries) in table.iter_mut().enumerate() {
        for (value, entry) in entries.iter_mut().enumerate() {
            let bits = (0..8).filter(|bit| value >> bit & 1 == 1);
            *entry = bits.fold(0, |sum, bit| sum ^ image[byte * 8 + bit]);
        }
    }
    table
}

fn shift(crc: u32, table: &ShiftTable) -> u32 {
    let bytes = crc.to_le_bytes();
    let looked_up = bytes
        .iter()
        .zip(table)
        .map(|(&byte, entries)| entries[usize::from(byte)]);
    looked_up.fold(0, |sum, entry| sum ^ entry)
}

/// What `length` more bytes make of a checksum, but for their own part.
fn shift_by(crc: u32, length: u32) -> u32 {
    let levels = SHIFTS.iter().enumerate();
    let needed = levels.filter(|(level, _)| length >> level & 1 == 1);
    needed.fold(crc, |crc, (_, table)| shift(crc, table))
}

/// The checksum of what `first` covers followed by the `length` bytes that `next` covers; at most one block.
pub(crate) fn append_block(first: Checksum, next: Checksum, length: u32) -> Checksum {
    debug_assert!(length <= BLOCK_BYTES);
    Checksum(shift_by(first.0, length) ^ next.0)
}

/// The checksum of some content of which a part changes from `old` to `new`; `after` bytes follow it. Its length
/// stays.
pub(crate) fn replace_block(whole: Checksum, old: Checksum, new: Checksum, after: u32) -> Checksum {
    Checksum(whole.0 ^ shift_by(old.0 ^ new.0, after))
}

/// The checksums of the blocks of some content.
pub(crate) fn of_blocks(content: &[u8]) -> impl Iterator<Item = Checksum> {
    content.chunks(BLOCK_BYTES as usize).map(Checksum::of)
}

/// The checksum of `length` bytes of content, from those of its blocks.
pub(crate) fn of_whole(blocks: &[Checksum], length: u32) -> Checksum {
    debug_assert_eq!(blocks.len(), block_count(length) as usize);
    let mut left = length;
    blocks.iter().fold(Checksum::default(), |whole, &block| {
        let block_length = left.min(BLOCK_BYTES);
        left -= block_length;
        append_block(whole, block, block_length)
    })
}

/// A payload that was hashed block by block when it came in, so that nobody has to go over its bytes again: what is
/// stored beside the bytes are these checksums, whatever happens to the memory meanwhile.
#[derive(Clone, Debug)]
pub struct Hashed {
    bytes: SharedBuf,
    blocks: Arc<[Checksum]>,
}

impl Hashed {
    /// Goes over the bytes once.
    pub fn new(bytes: SharedBuf) -> Self {
        let blocks = of_blocks(&bytes).collect();
        Self { bytes, blocks }
    }

    /// The checksum of all of it.
    pub fn whole(&self) -> Checksum {
        let length = u32::try_from(self.bytes.len()).expect("no payload has 4 GiB");
        of_whole(&self.blocks, length)
    }

    /// The payload itself.
    pub fn bytes(&self) -> &SharedBuf {
        &self.bytes
    }

    pub(crate) fn blocks(&self) -> &[Checksum] {
        &self.blocks
    }
}

impl Deref for Hashed {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(length: usize) -> Vec<u8> {
        (0..length)
            .map(|index| (index * 7 + index / 251) as u8)
            .collect()
    }

    #[test]
    fn blocks_combine_to_the_whole() {
        for length in [0, 1, 4095, 8191, 8192, 8193, 20_000, 65_536, 100_001] {
            let content = bytes(length);
            let blocks: Vec<Checksum> = of_blocks(&content).collect();
            let whole = of_whole(&blocks, u32::try_from(length).unwrap());
            assert_eq!(whole, Checksum::of(&content), "{length} bytes");
        }
    }

    #[test]
    fn a_replaced_block_replaces_its_part() {
        let mut content = bytes(3 * 4096 + 100);
        let before = Checksum::of(&content);
        let old = Checksum::of(&content[4096..8192]);
        content[4096..8192].fill(7);
        let new = Checksum::of(&content[4096..8192]);
        let replaced = replace_block(before, old, new, 4096 + 100);
        assert_eq!(replaced, Checksum::of(&content));
    }

    #[test]
    fn every_length_of_a_last_block_combines() {
        let content = bytes(4096);
        let first = Checksum::of(b"first");
        for length in 0..=4096 {
            let next = &content[..length];
            let combined = append_block(first, Checksum::of(next), length as u32);
            assert_eq!(combined, first.append(next), "{length} bytes");
        }
    }

    #[test]
    fn a_payload_hashed_by_blocks_has_the_checksum_of_its_bytes() {
        let pool = common::buf::BufPool::new(0);
        for length in [0, 1, 4095, 4096, 4097, 8192, 100_000] {
            let content = bytes(length);
            let hashed = Hashed::new(pool.copy_from(&content).freeze());
            assert_eq!(hashed.whole(), Checksum::of(&content), "{length}");
            assert_eq!(hashed.blocks().len(), length.div_ceil(4096), "{length}");
        }
    }
}
