//! Claims about bulk data.

use super::{
    Bulk, BulkIndex, Checksum, Duration, Echo, Fill, FillLate, Fixture, Measure, Measured, Piece,
    StatusCode, Subject, caller, calls::code, join_all, marked,
};

fn piece(destination: u16, offset: u32, length: u32, byte: u8) -> Piece {
    Piece {
        destination: BulkIndex(destination),
        offset,
        length,
        byte,
    }
}

/// Many pushes at once, into whole buffers and into parts of one region, of no length and of megabytes: each byte
/// is where it was pushed, and no other byte changed.
pub async fn pushes_land_at_their_offsets(subject: Subject) {
    let fixture = Fixture::new(subject);
    let (server, client) = (fixture.endpoint(), fixture.endpoint());
    let address = fixture.serve(&server).await.address();
    let mut tail = marked(&client, 3 << 20);
    let head = tail.split_to(1 << 20);
    let destinations = vec![head, marked(&client, 0), tail, marked(&client, 5000)];
    let mut expected: Vec<Vec<u8>> = destinations.iter().map(|buf| buf.to_vec()).collect();
    let mut pieces: Vec<Piece> = (0..64)
        .map(|i| piece(0, i * 16_384, 16_384, u8::try_from(i).expect("small")))
        .collect();
    pieces.extend([
        piece(1, 0, 0, 1),
        piece(2, 17, 2_000_000, 100),
        piece(3, 4999, 1, 101),
        piece(3, 5000, 0, 102),
        piece(3, 0, 3, 103),
    ]);
    for piece in &pieces {
        let (offset, length) = (piece.offset as usize, piece.length as usize);
        expected[usize::from(piece.destination.0)][offset..offset + length].fill(piece.byte);
    }
    let bulk = Bulk {
        sources: Vec::new(),
        destinations,
    };
    let reply = fixture.call::<Fill>(&client, &address, &pieces, bulk).await;
    let results = reply.result.expect("answered");
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    assert_eq!(reply.destinations.len(), expected.len());
    for (index, (found, expected)) in reply.destinations.iter().zip(&expected).enumerate() {
        assert!(found[..] == expected[..], "destination {index}");
    }
}

/// Small and large sources, none and many, in buffers that O_DIRECT takes.
pub async fn sources_arrive_equal_and_aligned(subject: Subject) {
    let fixture = Fixture::new(subject);
    let (server, client) = (fixture.endpoint(), fixture.endpoint());
    let address = fixture.serve(&server).await.address();
    for lengths in [
        vec![],
        vec![1],
        vec![0, 4096, 5000],
        vec![4 << 20, 3, 1 << 20],
    ] {
        let sources: Vec<_> = lengths
            .iter()
            .map(|length| {
                let mut buf = client.buffers().allocate(*length);
                for (index, byte) in buf.iter_mut().enumerate() {
                    *byte = (index % 251).to_le_bytes()[0];
                }
                buf.freeze()
            })
            .collect();
        let expected: Vec<Measured> = sources
            .iter()
            .map(|source| Measured {
                length: source.len() as u64,
                checksum: Checksum::of(source),
                aligned: true,
            })
            .collect();
        let count = u16::try_from(sources.len()).expect("few");
        let bulk = Bulk {
            sources,
            destinations: Vec::new(),
        };
        let reply = fixture.call::<Measure>(&client, &address, &count, bulk);
        assert_eq!(reply.await.result, Ok(expected));
    }
    let missing = fixture.ask::<Measure>(&client, &address, &1).await;
    assert_eq!(code(&missing), Some(StatusCode::InvalidArgument));
}

/// The handler is told; the destination keeps its bytes; the connection lives.
pub async fn a_push_outside_is_refused_and_nothing_else(subject: Subject) {
    let fixture = Fixture::new(subject);
    let (server, client) = (fixture.endpoint(), fixture.endpoint());
    let address = fixture.serve(&server).await.address();
    let pieces = vec![
        piece(0, 1, 100, 1),
        piece(0, 101, 0, 2),
        piece(1, 0, 1, 3),
        piece(0, u32::MAX, 1, 4),
    ];
    let bulk = Bulk::destination(marked(&client, 100));
    let reply = fixture.call::<Fill>(&client, &address, &pieces, bulk).await;
    for result in reply.result.expect("answered") {
        assert_eq!(code(&result), Some(StatusCode::InvalidArgument));
    }
    assert!(reply.destinations[0].iter().all(|byte| *byte == 0xee));
    assert_eq!(
        fixture.ask::<Echo>(&client, &address, &vec![1]).await,
        Ok(vec![1])
    );
}

/// A push of many megabytes is complete when the reply is there, again and again and side by side.
pub async fn a_reply_follows_the_pushes_before_it(subject: Subject) {
    let fixture = Fixture::new(subject);
    let (server, client) = (fixture.endpoint(), fixture.endpoint());
    let address = fixture.serve(&server).await.address();
    let length: u32 = 8 << 20;
    let calls = (0..6_u8).map(|byte| {
        let (client, address, fixture) = (&client, &address, &fixture);
        async move {
            let bulk = Bulk::destination(marked(client, length as usize));
            let pieces = vec![piece(0, 0, length, byte)];
            let reply = fixture.call::<Fill>(client, address, &pieces, bulk).await;
            assert_eq!(reply.result, Ok(vec![Ok(())]));
            assert!(reply.destinations[0].iter().all(|found| *found == byte));
        }
    });
    join_all(calls).await;
}

/// The server pushes after the caller is gone: neither a recycled buffer nor that of another call changes.
pub async fn a_cancelled_call_with_a_late_push_harms_nobody(subject: Subject) {
    let mut fixture = Fixture::new(subject);
    // Everything on one connection, so that the order of its frames says what has been read.
    fixture.config.bulk_connections = 0;
    let (server, client) = (fixture.endpoint(), fixture.endpoint());
    let address = fixture.serve(&server).await.address();
    let length: u32 = 1 << 20;
    let caller = caller();
    for _ in 0..2 {
        let buf = marked(&client, length as usize);
        let memory = buf.as_ptr().addr();
        let request = piece(0, 0, length, 9);
        let (bulk, deadline) = (Bulk::destination(buf), fixture.deadline());
        let call = client.call::<FillLate>(&address, &caller, &request, bulk, deadline);
        let dropped = fixture.env.timeout(Duration::from_millis(30), call).await;
        assert!(dropped.is_err(), "the call was given up before its reply");
        let recycled = marked(&client, length as usize);
        assert_eq!(
            recycled.as_ptr().addr(),
            memory,
            "the buffer came back to its pool"
        );
        // Another call with that very buffer, while the push is on its way.
        let bulk = Bulk::destination(recycled);
        let pieces = vec![piece(0, 10, 20, 5)];
        let reply = fixture.call::<Fill>(&client, &address, &pieces, bulk).await;
        assert_eq!(reply.result, Ok(vec![Ok(())]));
        fixture.finished(1).await;
        // Whatever was sent late has been read when a later reply of the same lane is there.
        let bulk = Bulk::destination(marked(&client, length as usize));
        let last = fixture.call::<Fill>(&client, &address, &vec![], bulk).await;
        assert_eq!(last.result, Ok(vec![]));
        let found = &reply.destinations[0];
        let is_right =
            |(at, byte): (usize, &u8)| *byte == if (10..30).contains(&at) { 5 } else { 0xee };
        assert!(found.iter().enumerate().all(is_right));
    }
}
