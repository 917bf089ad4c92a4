//! Layouts: which chain holds which chunk of a file.
//!
//! Chunk `i` lies on the chain at table position `(base + p[i mod stripe]) mod table length`, where `p` is
//! the permutation of `0..stripe` that `permutation` makes from the seed. The permutation is written
//! down in `docs/format/layout.md` with test vectors: it is part of the format and never a library's shuffle.

use serde::{Deserialize, Serialize};

use crate::{
    chain::Chain,
    chunk::ChunkId,
    id::{ChainTableId, InodeId},
    routing::RoutingInfo,
    version::ChainTableVersion,
};

/// The smallest and the largest chunk.
pub const CHUNK_SIZE_MIN: u32 = 64 << 10;
/// See `CHUNK_SIZE_MIN`.
pub const CHUNK_SIZE_MAX: u32 = 64 << 20;
/// The longest file: what u32 chunk indexes of the smallest chunk can reach, and far below i64::MAX.
pub const FILE_LENGTH_MAX: u64 = (CHUNK_SIZE_MIN as u64) << 32;
/// The widest stripe; bounds the permutation that readers compute.
pub const STRIPE_SIZE_MAX: u32 = 4096;

/// Where the chunks of a file are. Fixed when the file is made.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Layout {
    /// The chain table.
    pub table: ChainTableId,
    /// The version of the table: later versions do not move the file.
    pub table_version: ChainTableVersion,
    /// Bytes per chunk, a power of two.
    pub chunk_size: u32,
    /// Over how many chains the file spreads.
    pub stripe_size: u32,
    /// Table position of the stripe's start.
    pub base: u32,
    /// Seed of the permutation.
    pub seed: u64,
}

/// A part of a chunk that a byte range of a file covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkRange {
    /// Which chunk.
    pub chunk: ChunkId,
    /// First byte inside the chunk.
    pub offset: u32,
    /// How many bytes.
    pub length: u32,
}

impl Layout {
    /// Whether the numbers make sense; a layout from outside is checked before use.
    pub fn is_valid(&self) -> bool {
        self.chunk_size.is_power_of_two()
            && (CHUNK_SIZE_MIN..=CHUNK_SIZE_MAX).contains(&self.chunk_size)
            && (1..=STRIPE_SIZE_MAX).contains(&self.stripe_size)
    }

    /// The table position of a chunk's chain, in a table of `table_length` chains.
    pub fn chain_position(&self, index: u32, table_length: usize) -> usize {
        let column = (index % self.stripe_size) as usize;
        let shift = permutation(self.seed, self.stripe_size)[column] as usize;
        (self.base as usize + shift) % table_length.max(1)
    }

    /// The chain of a chunk; `None` when the map does not know the table or the chain.
    pub fn chain_of<'a>(&self, routing: &'a RoutingInfo, index: u32) -> Option<&'a Chain> {
        let table = routing.tables.get(&(self.table, self.table_version))?;
        let position = self.chain_position(index, table.chains.len());
        routing.chains.get(table.chains.get(position)?)
    }

    /// The chunk parts that cover `length` bytes from `offset`, in order.
    pub fn split(
        &self,
        inode: InodeId,
        offset: u64,
        length: u64,
    ) -> impl Iterator<Item = ChunkRange> + use<> {
        let size = u64::from(self.chunk_size);
        let end = offset.saturating_add(length);
        let mut at = offset;
        std::iter::from_fn(move || {
            if at >= end {
                return None;
            }
            let index = u32::try_from(at / size).ok()?;
            let inside = at % size;
            let take = (size - inside).min(end - at);
            at += take;
            Some(ChunkRange {
                chunk: ChunkId { inode, index },
                offset: u32::try_from(inside).ok()?,
                length: u32::try_from(take).ok()?,
            })
        })
    }
}

/// The permutation of `0..count`: Fisher-Yates from the top, with the numbers of SplitMix64.
pub fn permutation(seed: u64, count: u32) -> Vec<u32> {
    let mut state = seed;
    let mut order: Vec<u32> = (0..count).collect();
    for last in (1..order.len()).rev() {
        let pick = splitmix64(&mut state) % (last as u64 + 1);
        order.swap(last, usize::try_from(pick).unwrap_or(last));
    }
    order
}

/// Steele, Lea, Flood: Fast splittable pseudorandom number generators (OOPSLA 2014).
fn splitmix64(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(chunk_size: u32) -> Layout {
        Layout {
            table: ChainTableId(1),
            table_version: ChainTableVersion(1),
            chunk_size,
            stripe_size: 4,
            base: 2,
            seed: 7,
        }
    }

    #[test]
    fn splitmix64_matches_its_published_vector() {
        let mut state = 1_234_567;
        assert_eq!(splitmix64(&mut state), 6_457_827_717_110_365_317);
        assert_eq!(splitmix64(&mut state), 3_203_168_211_198_807_973);
    }

    #[test]
    fn the_permutation_is_the_written_one() {
        // The vectors of docs/format/layout.md.
        assert_eq!(permutation(0, 1), [0]);
        assert_eq!(permutation(0, 8), VECTOR_0_8);
        assert_eq!(permutation(7, 4), VECTOR_7_4);
    }

    const VECTOR_0_8: [u32; 8] = [2, 5, 0, 3, 4, 6, 1, 7];
    const VECTOR_7_4: [u32; 4] = [1, 2, 0, 3];

    #[test]
    fn a_range_is_cut_at_chunk_borders() {
        let parts: Vec<_> = layout(64 << 10).split(InodeId(9), 65_000, 70_000).collect();
        let flat: Vec<_> = parts
            .iter()
            .map(|p| (p.chunk.index, p.offset, p.length))
            .collect();
        assert_eq!(flat, [(0, 65_000, 536), (1, 0, 65_536), (2, 0, 3_928)]);
    }

    #[test]
    fn a_stripe_visits_each_of_its_chains_once() {
        let layout = layout(1 << 20);
        let mut seen: Vec<_> = (0..4).map(|i| layout.chain_position(i, 6)).collect();
        seen.sort_unstable();
        assert_eq!(seen, [2, 3, 4, 5]);
        assert_eq!(layout.chain_position(5, 6), layout.chain_position(1, 6));
    }
}
