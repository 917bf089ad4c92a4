//! What a syncing successor lacks (protocol S2): two ordered pages of chunks side by side.
//!
//! A comparison may be out of date at once, which does no harm: "equal" stays equal because every later
//! write reaches the successor too (W9), and every difference is looked at again under the chunk's turn.

use std::cmp::Ordering;

use types::chunk::{ChunkId, ChunkMeta};

/// A page of chunks: everything from where it was asked for up to `complete_below`.
#[derive(Clone, Debug)]
pub(crate) struct Page {
    pub(crate) chunks: Vec<ChunkMeta>,
    /// Chunks at or after this one may exist and are not in the page; `None` when it reaches the end.
    pub(crate) complete_below: Option<ChunkId>,
}

/// The chunks that differ, and where the next pages start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Differences {
    pub(crate) chunks: Vec<ChunkId>,
    /// How many were compared.
    pub(crate) compared: usize,
    /// `None` at the end.
    pub(crate) next: Option<ChunkId>,
}

/// Compares two pages that start at the same chunk.
pub(crate) fn compare(mine: &Page, theirs: &Page) -> Differences {
    let next = match (mine.complete_below, theirs.complete_below) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    };
    let inside = |meta: &&ChunkMeta| next.is_none_or(|next| meta.id < next);
    let mut mine = mine.chunks.iter().filter(inside).peekable();
    let mut theirs = theirs.chunks.iter().filter(inside).peekable();
    let (mut chunks, mut compared) = (Vec::new(), 0);
    loop {
        let order = match (mine.peek(), theirs.peek()) {
            (None, None) => break,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(a), Some(b)) => a.id.cmp(&b.id),
        };
        let a = (order != Ordering::Greater).then(|| mine.next()).flatten();
        let b = (order != Ordering::Less).then(|| theirs.next()).flatten();
        compared += 1;
        if let Some(id) = a.or(b).map(|meta| meta.id)
            && !is_equal(a, b)
        {
            chunks.push(id);
        }
    }
    Differences {
        chunks,
        compared,
        next,
    }
}

/// The chunk after this one in order; `None` after the last there can be.
pub(crate) fn following(id: ChunkId) -> Option<ChunkId> {
    if let Some(index) = id.index.checked_add(1) {
        return Some(ChunkId { index, ..id });
    }
    let inode = types::id::InodeId(id.inode.0.checked_add(1)?);
    Some(ChunkId { inode, index: 0 })
}

fn is_equal(mine: Option<&ChunkMeta>, theirs: Option<&ChunkMeta>) -> bool {
    match (mine, theirs) {
        (Some(a), Some(b)) => {
            a.pending.is_none()
                && b.pending.is_none()
                && a.commit_version == b.commit_version
                && a.exists == b.exists
                && (!a.exists || (a.length == b.length && a.checksum == b.checksum))
        }
        (None, None) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;
    use types::{
        checksum::Checksum,
        chunk::PendingMeta,
        id::InodeId,
        version::{ChainVersion, ChunkVersion},
    };

    use super::*;

    fn id(index: u32) -> ChunkId {
        ChunkId {
            inode: InodeId(1),
            index,
        }
    }

    fn meta(index: u32, version: u32) -> ChunkMeta {
        ChunkMeta {
            id: id(index),
            exists: true,
            length: 10,
            commit_version: ChunkVersion(version),
            chain_version: ChainVersion(1),
            checksum: Checksum(version),
            tag: None,
            pending: None,
        }
    }

    fn whole(chunks: Vec<ChunkMeta>) -> Page {
        Page {
            chunks,
            complete_below: None,
        }
    }

    #[test]
    fn every_kind_of_difference_is_seen() {
        let base = meta(1, 5);
        let pending = ChunkMeta {
            pending: Some(PendingMeta {
                update_version: ChunkVersion(6),
                exists: true,
                length: 1,
                chain_version: ChainVersion(1),
                checksum: Checksum(1),
                tag: None,
            }),
            ..base.clone()
        };
        let floor = ChunkMeta {
            exists: false,
            ..base.clone()
        };
        let content = ChunkMeta {
            checksum: Checksum(0),
            ..base.clone()
        };
        let differ = |a: &[&ChunkMeta], b: &[&ChunkMeta]| {
            let page = |metas: &[&ChunkMeta]| whole(metas.iter().map(|m| (*m).clone()).collect());
            !compare(&page(a), &page(b)).chunks.is_empty()
        };
        assert!(!differ(&[&base], &[&base]));
        assert!(!differ(&[&floor], &[&floor]));
        for other in [&meta(1, 6), &pending, &floor, &content] {
            assert!(differ(&[&base], &[other]) && differ(&[other], &[&base]));
        }
        assert!(differ(&[&base], &[]) && differ(&[], &[&base]));
        assert!(differ(&[&pending], &[&pending]));
    }

    #[test]
    fn the_chunk_after_the_last_index_is_in_the_next_file() {
        assert_eq!(following(id(3)), Some(id(4)));
        let last = following(id(u32::MAX)).unwrap();
        assert_eq!((last.inode, last.index), (InodeId(2), 0));
        let end = ChunkId {
            inode: InodeId(u64::MAX),
            index: u32::MAX,
        };
        assert_eq!(following(end), None);
    }

    proptest! {
        /// Whatever the page lengths, walking the pages finds exactly the differences of the whole.
        #[test]
        fn pages_of_any_length_find_all_differences(
            mine in prop::collection::btree_map(0..60_u32, 1..3_u32, 0..40),
            theirs in prop::collection::btree_map(0..60_u32, 1..3_u32, 0..40),
            (a, b) in (1..9_usize, 1..9_usize),
        ) {
            let page = |from: ChunkId, all: &std::collections::BTreeMap<u32, u32>, limit: usize| {
                let mut chunks: Vec<ChunkMeta> = all
                    .range(from.index..)
                    .take(limit)
                    .map(|(&index, &version)| meta(index, version))
                    .collect();
                chunks.truncate(limit);
                let full = chunks.len() == limit;
                let complete_below = chunks.last().filter(|_| full).and_then(|m| following(m.id));
                Page { chunks, complete_below }
            };
            let (mut found, mut from) = (BTreeSet::new(), id(0));
            for _ in 0..200 {
                let step = compare(&page(from, &mine, a), &page(from, &theirs, b));
                found.extend(step.chunks.iter().map(|id| id.index));
                let Some(next) = step.next else { break };
                prop_assert!(next > from);
                from = next;
            }
            let expected: BTreeSet<u32> = (0..60)
                .filter(|index| mine.get(index) != theirs.get(index))
                .collect();
            prop_assert_eq!(found, expected);
        }
    }
}
