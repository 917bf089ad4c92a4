//! The frame: golden bytes, round trips, and bytes that no peer should send.

use proptest::prelude::*;

use super::*;

fn example() -> Header {
    Header {
        kind: Kind::Request,
        flags: 0x0102,
        request_id: 0x1112_1314_1516_1718,
        service: 3,
        method: 0x2122,
        method_version: 1,
        source_count: 2,
        destination_count: 1,
        bulk_index: 0x3132,
        body_length: 0x4142,
        payload_length: 0x5152_5354,
        deadline_ms: 60_000,
        bulk_offset: 0x6162_6364,
        body_checksum: 0x7172_7374,
    }
}

#[test]
fn the_header_has_the_bytes_of_docs_format_wire() {
    let expected = [
        0x50, 0x4e, 0x53, 0x54, 0x01, 0x02, 0x02, 0x01, // magic, header version, kind, flags
        0x18, 0x17, 0x16, 0x15, 0x14, 0x13, 0x12, 0x11, // request id
        0x03, 0x00, 0x22, 0x21, 0x01, 0x00, 0x02,
        0x00, // service, method, its version, sources
        0x01, 0x00, 0x32, 0x31, 0x42, 0x41, 0x00, 0x00, // destinations, index, body length
        0x54, 0x53, 0x52, 0x51, 0x00, 0x00, 0x00, 0x00, // payload length
        0x60, 0xea, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, // deadline, reserved
        0x64, 0x63, 0x62, 0x61, 0x00, 0x00, 0x00, 0x00, // bulk offset
        0x74, 0x73, 0x72, 0x71, // body checksum
    ];
    let bytes = example().encode();
    assert_eq!(bytes[..60], expected);
    assert_eq!(bytes[60..], crc32c(&expected).to_le_bytes());
}

#[test]
fn a_hello_and_a_table_entry_have_the_bytes_of_docs_format_wire() {
    let hello = Hello {
        version_min: 1,
        version_max: 2,
        lane: Lane::Bulk,
        outstanding_max: 1024,
    };
    let expected = [1, 0, 2, 0, 1, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0];
    assert_eq!(hello.encode(), expected);
    assert_eq!(Hello::decode(&expected), Ok(hello));
    let entry = RemoteBuf::new(0x0102, 0x0304).encode();
    assert_eq!(entry, [2, 1, 0, 0, 0, 0, 0, 0, 4, 3, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn the_highest_common_version_is_used() {
    let agree = |version_min, version_max| {
        let hello = Hello {
            version_min,
            version_max,
            lane: Lane::Calls,
            outstanding_max: 0,
        };
        hello.agree()
    };
    assert_eq!(agree(VERSION_MIN, VERSION_MAX), Some(VERSION_MAX));
    assert_eq!(agree(VERSION_MAX, VERSION_MAX + 5), Some(VERSION_MAX));
    assert_eq!(agree(0, VERSION_MIN), Some(VERSION_MIN));
    assert_eq!(agree(VERSION_MAX + 1, VERSION_MAX + 5), None);
}

#[test]
fn every_flipped_bit_of_a_header_is_noticed() {
    let bytes = example().encode();
    for bit in 0..HEADER_LENGTH * 8 {
        let mut damaged = bytes;
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(Header::decode(&damaged).is_err(), "bit {bit}");
    }
}

#[test]
fn announced_lengths_are_held_against_the_limits() {
    let limits = NetConfig::default();
    let is_too_large =
        |header: Header| matches!(header.check(&limits), Err(FrameError::TooLarge { .. }));
    assert!(is_too_large(Header {
        body_length: u32::MAX,
        ..Header::new(Kind::Request)
    }));
    assert!(is_too_large(Header {
        payload_length: 1 << 32,
        ..Header::new(Kind::Push)
    }));
    assert!(is_too_large(Header {
        source_count: limits.buffers_max,
        destination_count: 1,
        ..Header::new(Kind::Request)
    }));
    assert!(is_too_large(Header {
        payload_length: 1,
        ..Header::new(Kind::Reply)
    }));
    assert!(is_too_large(Header {
        body_length: 257,
        ..Header::new(Kind::Goodbye)
    }));
}

fn request(body: &[u8], lengths: &[u32], payload_length: u64) -> (Header, Bytes) {
    let mut bytes = body.to_vec();
    for (key, length) in (0..).zip(lengths) {
        bytes.extend(RemoteBuf::new(key, *length).encode());
    }
    let header = Header {
        body_length: u32::try_from(body.len()).unwrap(),
        source_count: u16::try_from(lengths.len()).unwrap(),
        payload_length,
        body_checksum: body_checksum(&bytes),
        ..Header::new(Kind::Request)
    };
    (header, bytes.into())
}

#[test]
fn sources_that_do_not_add_up_to_the_payload_are_refused() {
    let (header, bytes) = request(b"body", &[5, 6], 11);
    let (body, table) = BulkTable::split(&header, bytes).unwrap();
    assert_eq!(body, &b"body"[..]);
    assert_eq!(table.sources, [RemoteBuf::new(0, 5), RemoteBuf::new(1, 6)]);
    let (header, bytes) = request(b"body", &[5, 6], 12);
    assert!(BulkTable::split(&header, bytes).is_err());
    let (header, bytes) = request(b"body", &[u32::MAX, u32::MAX], 0);
    assert!(BulkTable::split(&header, bytes).is_err());
}

proptest! {
    #[test]
    fn what_is_encoded_decodes_to_the_same(
        kind in 1_u8..=5,
        words in any::<[u16; 7]>(),
        ints in any::<[u32; 3]>(),
        longs in any::<[u64; 3]>(),
    ) {
        let header = Header {
            kind: Kind::from_number(kind).unwrap(),
            flags: words[0],
            request_id: longs[0],
            service: words[1],
            method: words[2],
            method_version: words[3],
            source_count: words[4],
            destination_count: words[5],
            bulk_index: words[6],
            body_length: ints[0],
            payload_length: longs[1],
            deadline_ms: ints[1],
            bulk_offset: longs[2],
            body_checksum: ints[2],
        };
        prop_assert_eq!(Header::decode(&header.encode()), Ok(header));
    }

    #[test]
    fn random_bytes_never_panic(mut bytes in any::<[u8; HEADER_LENGTH]>(), tail in any::<Vec<u8>>(), honest in any::<bool>()) {
        if honest {
            // Past magic, version and checksum, so that the rest is reached too.
            bytes[..4].copy_from_slice(&MAGIC);
            bytes[4] = HEADER_VERSION;
            let checksum = crc32c(&bytes[..60]);
            bytes[60..].copy_from_slice(&checksum.to_le_bytes());
        }
        if let Ok(mut header) = Header::decode(&bytes) {
            let _verdict = header.check(&NetConfig::default()).is_ok();
            header.body_checksum = body_checksum(&tail);
            let _verdict = BulkTable::split(&header, tail.clone().into()).is_ok();
        }
        let _verdict = Hello::decode(&tail).is_ok();
    }
}
