//! The encoding of records: golden bytes and round trips.

use proptest::prelude::*;
use types::id::{ChannelId, ChannelSeq, ClientId, InodeId};

use super::*;

fn record() -> StoredRecord {
    let committed = StoredVersion {
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
        time: WallTime(1),
        position: Some(StoredPosition {
            class: 1,
            group: 130,
            slot: 255,
        }),
        blocks: Bytes::from_static(&[1, 2, 3, 4, 0xff, 0xfe, 0xfd, 0xfc]),
    };
    let pending = StoredVersion {
        version: ChunkVersion(8),
        exists: false,
        length: 0,
        checksum: Checksum(0),
        tag: None,
        position: None,
        blocks: Bytes::new(),
        ..committed.clone()
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
        1, 0,                            // version of the encoding
        1,                               // committed: some
        7, 3, 1, 0x90, 0x4e,             // version, chain version, exists, length 10000
        0x81, 0x84, 0x8c, 0x20,          // checksum 0x04030201
        1, 5, 2, 0xac, 0x02,             // tag: client 5, channel 2, seq 300
        1,                               // time
        1, 1, 0x82, 0x01, 255,           // position: class 1, group 130, slot 255
        8, 1, 2, 3, 4, 0xff, 0xfe, 0xfd, 0xfc,
        1,                               // pending: some
        8, 3, 0, 0, 0, 0, 1, 0, 0,       // version .. no tag, time, no position, no blocks
    ];
    assert_eq!(codec::encode(&record()), expected);
    assert_eq!(decode_record(&expected), Ok(record()));
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
    for key in keys.into_iter().chain([RecordKey::Target(TargetId(9))]) {
        assert_eq!(RecordKey::from_bytes(&key.to_bytes()), Some(key));
    }
    assert_eq!(key(1, 2, 3).to_bytes().len(), 21);
    for wrong in [&b""[..], b"C", b"T1234567", b"X12345678", b"T123456789"] {
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
