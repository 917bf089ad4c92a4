//! The encoding of records: golden bytes and round trips.

use proptest::prelude::*;
use types::id::{ChannelId, ChannelSeq, ClientId, InodeId};

use super::*;

fn record() -> StoredRecord {
    let head = StoredHead {
        version: ChunkVersion(7),
        chain_version: ChainVersion(3),
        exists: true,
        length: 10_000,
        checksum: Checksum(0x0403_0201),
        tag: Some(UpdateTag {
            client: ClientId(5),
            channel: ChannelId(2),
            seq: ChannelSeq(300),
        }),
        seconds: 1,
    };
    let committed = StoredVersion {
        head,
        position: Some(StoredPosition {
            class: 1,
            group: 130,
            slot: 255,
        }),
        overlay: vec![(
            2,
            LogRef {
                segment: 9,
                at: 200,
            },
        )],
    };
    let pending = StoredVersion {
        head: StoredHead {
            version: ChunkVersion(8),
            exists: false,
            length: 0,
            checksum: Checksum(0),
            tag: None,
            ..head
        },
        position: None,
        overlay: Vec::new(),
    };
    StoredRecord {
        committed: Some(committed),
        pending: Some(pending),
    }
}

/// The bytes of docs/format/disk.md: a change here is a new version of the format.
#[test]
fn the_bytes_of_a_record() {
    #[rustfmt::skip]
    let expected = [
        2, 0,                            // version of the encoding
        1,                               // committed: some
        7, 3, 1, 0x90, 0x4e,             // version, chain version, exists, length 10000
        0x81, 0x84, 0x8c, 0x20,          // checksum 0x04030201
        1, 5, 2, 0xac, 0x02,             // tag: client 5, channel 2, seq 300
        1,                               // seconds
        1, 1, 0x82, 0x01, 255,           // position: class 1, group 130, slot 255
        1, 2, 9, 0xc8, 0x01,             // one block in the log: block 2, segment 9, at 200
        1,                               // pending: some
        8, 3, 0, 0, 0, 0, 1, 0, 0,       // version .. no tag, seconds, no position, nothing in the log
    ];
    assert_eq!(codec::encode(&record()), expected);
    assert_eq!(decode_record(&expected), Ok(record()));
}

#[test]
fn the_bytes_of_checksums() {
    let sums = StoredSums {
        versions: vec![StoredVersionSums {
            version: ChunkVersion(7),
            checksum: Checksum(1),
            length: 5000,
            position: StoredPosition {
                class: 0,
                group: 1,
                slot: 2,
            },
            sums: checksums_to(&[Checksum(0x0403_0201), Checksum(0xfcfd_feff)]),
        }],
    };
    #[rustfmt::skip]
    let expected = [
        1, 0,                            // version of the encoding
        1,                               // one version
        7, 1, 0x88, 0x27, 0, 1, 2,       // version, checksum, length, position
        8, 1, 2, 3, 4, 0xff, 0xfe, 0xfd, 0xfc,
    ];
    assert_eq!(codec::encode(&sums), expected);
    assert_eq!(decode_sums(&expected), Ok(sums));
}

#[test]
fn the_bytes_of_where_the_log_begins() {
    let start = LogStart {
        disk: 300,
        segment: 2,
        batch: 3,
    };
    let bytes = encode_log_start(start);
    assert_eq!(bytes, [1, 0, 0xac, 0x02, 2, 3]);
    assert_eq!(decode_log_start(&bytes), Ok(start));
    // Found by fuzzing: zeros in new files passed for batches of disk 0.
    let absurd = [
        LogStart { disk: 0, ..start },
        LogStart {
            segment: u64::MAX,
            ..start
        },
        LogStart {
            batch: u64::MAX,
            ..start
        },
    ];
    for start in absurd {
        assert!(decode_log_start(&encode_log_start(start)).is_err());
    }
}

#[test]
fn a_head_keeps_what_it_is_made_of() {
    let stored = record().committed.unwrap().head;
    assert_eq!(StoredHead::from(Head::from(stored)), stored);
    let tag = UpdateTag {
        client: ClientId(u128::MAX - 7),
        channel: ChannelId(u16::MAX),
        seq: ChannelSeq(u64::MAX),
    };
    for tag in [None, Some(tag)] {
        let stored = StoredHead { tag, ..stored };
        let head = Head::from(stored);
        assert_eq!((head.tag(), StoredHead::from(head)), (tag, stored));
    }
    // There is one in memory for each chunk.
    assert_eq!(size_of::<Version>(), 64);
}

#[test]
fn the_bytes_of_a_target() {
    let bytes = encode_target(ChainId(300));
    assert_eq!(bytes, [1, 0, 0xac, 0x02]);
    assert_eq!(decode_target(&bytes).unwrap().chain, ChainId(300));
}

#[test]
fn keys_are_ordered_and_read_back() {
    let key = |target, inode, index| {
        let inode = InodeId(inode);
        RecordKey::Chunk(ChunkKey {
            target: TargetId(target),
            chunk: ChunkId { inode, index },
        })
    };
    let keys = [key(1, 5, 0), key(1, 5, 256), key(1, 256, 0), key(256, 0, 0)];
    let bytes: Vec<_> = keys.iter().map(|key| key.to_bytes()).collect();
    assert!(bytes.is_sorted());
    let channel = RecordKey::Channel(ChannelKey {
        target: TargetId(9),
        client: ClientId(u128::MAX - 1),
        channel: ChannelId(300),
    });
    assert_eq!(channel.to_bytes().len(), 27);
    let others = [RecordKey::Target(TargetId(9)), channel];
    for key in keys.into_iter().chain(others) {
        assert_eq!(RecordKey::from_bytes(&key.to_bytes()), Some(key));
    }
    assert_eq!(key(1, 2, 3).to_bytes().len(), 21);
    for wrong in [
        &b""[..],
        b"C",
        b"T1234567",
        b"X12345678",
        b"T123456789",
        &[b'D'; 26],
        &[b'D'; 28],
    ] {
        assert_eq!(RecordKey::from_bytes(wrong), None);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn damaged_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..80), at in 0..40_usize, by in any::<u8>()) {
        drop(decode_record(&bytes));
        bytes = codec::encode(&record());
        if let Some(byte) = bytes.get_mut(at) {
            *byte ^= by;
        }
        drop(decode_record(&bytes));
    }
}
