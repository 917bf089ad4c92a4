//! The encoding of batches: golden bytes, round trips, and bytes that are no batch.

use bytes::Bytes;
use proptest::prelude::*;
use types::{
    chunk::{ChunkId, UpdateTag},
    id::{ChainId, ChannelId, ChannelSeq, ClientId, InodeId, TargetId},
    version::{ChainVersion, ChunkVersion},
};

use super::*;
use crate::{
    channels::StoredDone,
    chunk_meta::StoredHead,
    log::entry::{BlockRun, StoredBody, StoredKey, StoredPatch, StoredPlace},
};

const ID: BatchId = BatchId {
    disk: 0x0807_0605_0403_0201,
    segment: 5,
    batch: 9,
};

fn key() -> StoredKey {
    StoredKey {
        target: TargetId(11),
        chunk: ChunkId {
            inode: InodeId(7),
            index: 300,
        },
    }
}

fn head() -> StoredHead {
    StoredHead {
        version: ChunkVersion(2),
        chain_version: ChainVersion(3),
        exists: true,
        length: 5000,
        checksum: Checksum(1),
        tag: None,
        seconds: 4,
    }
}

/// A small update of block 1.
fn update() -> LogEntry {
    LogEntry::Update {
        key: key(),
        head: head(),
        body: StoredBody::Patched {
            keep: 2,
            patches: vec![StoredPatch {
                first: 1,
                sums: Bytes::from_static(&[1, 2, 3, 4]),
                place: StoredPlace::Payload,
            }],
        },
    }
}

fn commit() -> LogEntry {
    LogEntry::Commit {
        key: key(),
        version: ChunkVersion(2),
        chain_version: ChainVersion(3),
    }
}

fn sealed(entries: &[LogEntry], payload: &[u8]) -> Vec<u8> {
    let encoded: Vec<Vec<u8>> = entries.iter().map(LogEntry::encode).collect();
    let head = head_blocks(&encoded) * BLOCK;
    let mut bytes = vec![0xee; head];
    bytes.extend(payload);
    seal(&mut bytes, ID, &encoded);
    bytes
}

/// The bytes of docs/format/disk.md: a change here is a new version of the format.
#[test]
fn the_bytes_of_a_batch() {
    let bytes = sealed(&[update(), commit()], &[7; BLOCK]);
    assert_eq!(bytes.len(), 2 * BLOCK);
    let entries_end =
        HEADER_BYTES + u32::from_le_bytes([bytes[24], bytes[25], bytes[26], bytes[27]]) as usize;
    assert_eq!(bytes[..8], [1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(
        bytes[8..24],
        [5, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0]
    );
    assert_eq!(bytes[28..36], [1, 0, 0, 0, 2, 0, 0, 0]);
    assert_eq!(bytes[36..40], Checksum::of(&[7; BLOCK]).0.to_le_bytes());
    assert_eq!(bytes[40..44], [1, 0, 0, 0]);
    #[rustfmt::skip]
    let entries = [
        23, 0, 0, 0,                     // the first entry has 23 bytes
        2, 11, 7, 0xac, 0x02,            // update of target 11, inode 7, index 300
        2, 3, 1, 0x88, 0x27, 1, 0, 4,    // version, chain version, exists, length, checksum, no tag, seconds
        4, 2, 1,                         // patched: keeps 2 blocks, one patch
        1, 4, 1, 2, 3, 4, 2,             // from block 1: four bytes of checksums, in the payload
        7, 0, 0, 0,                      // the second entry has 7 bytes
        3, 11, 7, 0xac, 0x02, 2, 3,      // commit: target, inode, index, version, chain version
    ];
    assert_eq!(bytes[HEADER_BYTES..entries_end], entries);
    assert!(bytes[entries_end..BLOCK].iter().all(|&byte| byte == 0));
    let batch = parse(&bytes, ID.disk, ID.segment, 40).unwrap();
    let payload = LogRef {
        segment: ID.segment,
        at: 41,
    };
    assert_eq!((batch.batch, batch.blocks), (9, 2));
    let after = payload.plus(1);
    assert_eq!(batch.entries, [(update(), payload), (commit(), after)]);
}

#[test]
fn the_numbers_of_entries_stay() {
    let of = |entry: LogEntry| entry.encode()[0];
    let target = TargetId(1);
    let chain = ChainId(1);
    let version = ChunkVersion(1);
    let from = LogRef { segment: 1, at: 1 };
    let position = crate::chunk_meta::StoredPosition::of(crate::group::Position {
        group: crate::group::GroupId {
            class: crate::group::SizeClass::from_index(0).unwrap(),
            number: 0,
        },
        slot: crate::group::SlotIndex(0),
    });
    assert_eq!(of(LogEntry::Target { target, chain }), 0);
    assert_eq!(of(LogEntry::TargetGone { target }), 1);
    assert_eq!(of(update()), 2);
    assert_eq!(of(commit()), 3);
    assert_eq!(of(LogEntry::Discard { key: key() }), 4);
    assert_eq!(of(LogEntry::Drop { key: key() }), 5);
    let key = key();
    let blocks = vec![BlockRun { first: 3, count: 2 }];
    let folded = LogEntry::Folded {
        key,
        version,
        blocks,
    };
    assert_eq!(folded.encode(), [6, 11, 7, 0xac, 0x02, 1, 1, 3, 2]);
    assert_eq!(of(LogEntry::Moved { from, blocks: 1 }), 7);
    let relocated = LogEntry::Relocated {
        key,
        version,
        position,
    };
    assert_eq!(of(relocated), 8);
    let head = StoredHead {
        tag: Some(UpdateTag {
            client: ClientId(5),
            channel: ChannelId(2),
            seq: ChannelSeq(300),
        }),
        ..head()
    };
    let done = StoredDone::of(key.chunk, &head).into_iter().collect();
    let adopted = LogEntry::ChannelsAdopted { target, done };
    #[rustfmt::skip]
    let expected = [
        9, 1, 1,                         // adopted by target 1: one
        5, 2, 0xac, 0x02,                // tag: client, channel, seq
        7, 0xac, 0x02,                   // inode, index
        2, 3, 0x88, 0x27, 1,             // version, chain version, length, checksum
    ];
    assert_eq!(adopted.encode(), expected);
    assert_eq!(of(LogEntry::ChannelsCleared { target }), 10);
}

/// Any flipped bit in what a batch uses is found.
#[test]
fn a_flipped_bit_makes_it_no_batch() {
    let bytes = sealed(&[update(), commit()], &[7; BLOCK]);
    let used = HEADER_BYTES + 38;
    for at in (0..used).chain(BLOCK..2 * BLOCK) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1 << (at % 8);
        let parsed = parse(&damaged, ID.disk, ID.segment, 0);
        assert!(parsed.is_err(), "byte {at}");
    }
}

#[test]
fn a_torn_or_foreign_batch_is_no_batch() {
    let bytes = sealed(&[update()], &[7; BLOCK]);
    for length in [0, 10, HEADER_BYTES, BLOCK, 2 * BLOCK - 1] {
        assert!(parse(&bytes[..length], ID.disk, ID.segment, 0).is_err());
    }
    assert_eq!(
        parse(&bytes, ID.disk + 1, ID.segment, 0),
        Err(BatchError::Foreign)
    );
    assert_eq!(
        parse(&bytes, ID.disk, ID.segment + 1, 0),
        Err(BatchError::Foreign)
    );
    assert_eq!(
        parse(&vec![0; BLOCK], ID.disk, 1, 0),
        Err(BatchError::Foreign)
    );
}

/// Bytes with right checksums and wrong content: what only a fault of ours, or malice, could write.
fn forged(entries: &[u8], count: u32, payload_blocks: u32) -> Vec<u8> {
    let mut bytes = vec![0; (HEADER_BYTES + entries.len()).div_ceil(BLOCK) * BLOCK];
    bytes[HEADER_BYTES..HEADER_BYTES + entries.len()].copy_from_slice(entries);
    bytes.resize(bytes.len() + payload_blocks.min(4) as usize * BLOCK, 0);
    bytes[..8].copy_from_slice(&ID.disk.to_le_bytes());
    bytes[8..16].copy_from_slice(&ID.segment.to_le_bytes());
    bytes[24..28].copy_from_slice(&(entries.len() as u32).to_le_bytes());
    bytes[28..32].copy_from_slice(&payload_blocks.to_le_bytes());
    bytes[32..36].copy_from_slice(&count.to_le_bytes());
    bytes[40..42].copy_from_slice(&VERSION.to_le_bytes());
    let sum = Checksum::of(&bytes[..SUM_AT]).append(entries);
    bytes[SUM_AT..HEADER_BYTES].copy_from_slice(&sum.0.to_le_bytes());
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn any_bytes_are_refused_or_read_but_never_panic(
        entries in prop::collection::vec(any::<u8>(), 0..300),
        count in 0..5_u32,
        payload_blocks in prop_oneof![0..4_u32, Just(u32::MAX)],
        cut in 0..9000_usize,
    ) {
        let bytes = forged(&entries, count, payload_blocks);
        let _parsed = parse(&bytes, ID.disk, ID.segment, u32::MAX - 1);
        let _parsed = parse(&bytes, ID.disk, ID.segment, 3);
        let _parsed = parse(&bytes[..cut.min(bytes.len())], ID.disk, ID.segment, 3);
        let _decoded = LogEntry::decode(&entries);
    }

    #[test]
    fn entries_come_back(indexes in prop::collection::vec(0..4_usize, 0..200)) {
        let choice = [
            commit(),
            LogEntry::Drop { key: key() },
            LogEntry::Target { target: TargetId(u64::MAX), chain: ChainId(1) },
            LogEntry::Folded { key: key(), version: ChunkVersion(u32::MAX), blocks: vec![] },
        ];
        let entries: Vec<LogEntry> = indexes.iter().map(|&index| choice[index].clone()).collect();
        let bytes = sealed(&entries, &[]);
        let batch = parse(&bytes, ID.disk, ID.segment, 0).unwrap();
        prop_assert_eq!(batch.blocks as usize * BLOCK, bytes.len());
        let found: Vec<LogEntry> = batch.entries.into_iter().map(|(entry, _)| entry).collect();
        prop_assert_eq!(found, entries);
    }
}

#[test]
fn neighbouring_blocks_are_one_run() {
    let runs = BlockRun::of([1, 2, 5, 7, 8].into_iter());
    let run = |first, count| BlockRun { first, count };
    assert_eq!(runs, [run(1, 2), run(5, 1), run(7, 2)]);
    assert!(run(1, 2).contains(2) && !run(1, 2).contains(3) && !run(1, 2).contains(0));
}
