//! Peers that send frames which no peer of ours sends, in both directions: calls end by their deadlines, servers serve on.
//!
//! On one thread, so that every panic is seen.

use common::panics;
use tokio::net::TcpListener;

use super::*;
use crate::hostile::{Hostile, peak_memory};

/// Connections of one test.
const ROUNDS: u64 = 250;
/// How long a call may take.
const LIMIT: Duration = Duration::from_millis(200);
/// What a slow machine may add.
const SLACK: Duration = Duration::from_secs(3);
/// A peer that believed what is announced would hold gigabytes.
const GROWTH_MAX: u64 = 256 << 20;
/// Bytes that the caller offers room for.
const ROOM: usize = 4096;

fn config() -> NetConfig {
    NetConfig {
        stall_ms_max: 300,
        connect_ms_max: 200,
        handshake_ms_max: 300,
        reconnect_ms_max: 5,
        ..NetConfig::default()
    }
}

/// A frame that makes some sense: the right kinds, ids near those in use, lengths at edges, checksums that fit.
fn frame_of(hostile: &Hostile, kinds: &[Kind]) -> Vec<u8> {
    let edges = [
        0,
        1,
        8,
        64,
        4095,
        4096,
        4097,
        1 << 20,
        u64::from(u32::MAX),
        u64::MAX,
    ];
    let edge = || edges[usize::try_from(hostile.below(edges.len() as u64)).unwrap()];
    let small = |limit: u64| u16::try_from(hostile.below(limit)).unwrap();
    let kind = kinds[usize::try_from(hostile.below(kinds.len() as u64)).unwrap()];
    let mut header = Header::new(kind);
    header.flags = small(3);
    header.request_id = hostile.below(4);
    (header.service, header.method) = (Service::Test as u16, small(4));
    header.method_version = 1;
    (header.source_count, header.destination_count) = (small(3), small(3));
    if kind != Kind::Request {
        (header.source_count, header.destination_count) = (0, 0);
    }
    header.bulk_index = small(2);
    header.deadline_ms = 1000;
    (header.bulk_offset, header.payload_length) = (edge(), edge());
    let mut body = match hostile.below(3) {
        0 => hostile.random(60),
        1 => types::codec::encode_body(&caller()),
        _ => vec![0],
    };
    header.body_length = u32::try_from(body.len()).unwrap();
    let tables = usize::from(header.source_count + header.destination_count) * 16;
    body.resize(body.len() + tables, 0);
    if hostile.below(8) == 0 {
        header.body_length = u32::try_from(edge().min(u64::from(u32::MAX))).unwrap();
    }
    header.body_checksum = frame::body_checksum(&body);
    let payload = usize::try_from(header.payload_length)
        .unwrap_or(0)
        .min(ROOM);
    let mut bytes = [&header.encode()[..], &body].concat();
    bytes.resize(bytes.len() + payload, 7);
    bytes
}

/// Some frames, perhaps damaged, cut, or sent once more.
fn stream_of(hostile: &Hostile, kinds: &[Kind]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..=hostile.below(4) {
        let frame = frame_of(hostile, kinds);
        bytes.extend(&frame);
        if hostile.below(6) == 0 {
            bytes.extend(frame);
        }
    }
    match hostile.below(4) {
        0 => hostile.damaged(&bytes),
        _ => bytes,
    }
}

/// Says Hello, mostly, then sends `bytes`; then it is silent or hangs up.
async fn answer(mut stream: TcpStream, greeting: Vec<u8>, bytes: Vec<u8>, silent: bool) {
    let sent = async {
        stream.write_all(&greeting).await?;
        // Whoever asks has said so before.
        let mut asked = [0; 2048];
        let _length = stream.read(&mut asked).await?;
        stream.write_all(&bytes).await
    };
    // The peer may hang up at any point.
    if sent.await.is_ok() && silent {
        std::future::pending::<()>().await;
    }
}

#[tokio::test]
async fn a_server_that_answers_nonsense_ends_no_caller_and_delays_it_no_longer_than_its_deadline() {
    panics::watch();
    let before = peak_memory();
    let fixture = Fixture::new(config());
    let hostile = Hostile::new(17);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (env, drawn) = (fixture.env.clone(), hostile.clone());
    let server = fixture.env.spawn("hostile-server", async move {
        let answers = [
            Kind::Reply,
            Kind::Reply,
            Kind::Push,
            Kind::Push,
            Kind::Goodbye,
            Kind::Hello,
        ];
        while let Ok((stream, _)) = listener.accept().await {
            let greeting = match drawn.below(6) {
                0 => drawn.damaged(&hello(Lane::Calls)),
                1 => stream_of(&drawn, &[Kind::Hello, Kind::Goodbye]),
                _ => hello(Lane::Calls),
            };
            let bytes = stream_of(&drawn, &answers);
            let silent = drawn.below(2) == 0;
            drop(env.spawn("hostile-answer", answer(stream, greeting, bytes, silent)));
        }
    });
    let client = fixture.endpoint();
    let (caller, mut failed) = (caller(), 0);
    for round in 0..ROUNDS {
        let room = client.buffers().allocate_zeroed(ROOM);
        let bulk = Bulk::destination(room);
        let deadline = fixture.env.now() + LIMIT;
        let call = client.call::<Length>(&address, &caller, &0, bulk, deadline);
        let reply = fixture.env.timeout_at(deadline + SLACK, call).await;
        let reply = reply.unwrap_or_else(|_| panic!("round {round} goes on after its deadline"));
        for buf in &reply.destinations {
            assert_eq!(buf.len(), ROOM);
        }
        if let Err(status) = reply.result {
            assert!(!status.message.is_empty());
            failed += 1;
        }
        assert_eq!(panics::take(), Vec::<String>::new(), "round {round}");
    }
    assert!(failed > ROUNDS / 2, "{failed}");
    server.abort();
    let growth = peak_memory().saturating_sub(before);
    assert!(growth < GROWTH_MAX, "grew by {growth} bytes");
}

#[tokio::test]
async fn a_client_that_sends_nonsense_harms_no_other() {
    panics::watch();
    let before = peak_memory();
    let fixture = Fixture::new(config());
    let (_server, address) = fixture.serve("127.0.0.1:0").await;
    let client = fixture.endpoint();
    let hostile = Hostile::new(18);
    let kinds = [
        Kind::Request,
        Kind::Request,
        Kind::Request,
        Kind::Push,
        Kind::Hello,
    ];
    let mut open = Vec::new();
    for round in 0..ROUNDS {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        let greeting = match hostile.below(8) {
            0 => hostile.damaged(&hello(Lane::Bulk)),
            1 => Vec::new(),
            2..5 => hello(Lane::Bulk),
            _ => hello(Lane::Calls),
        };
        let bytes = [greeting, stream_of(&hostile, &kinds)].concat();
        // It may hang up in the middle.
        let _sent = stream.write_all(&bytes).await.is_ok();
        if hostile.below(3) == 0 {
            // Stays, and says nothing more.
            open.push(stream);
        }
        assert!(fixture.is_serving(&client, &address).await, "round {round}");
        assert_eq!(panics::take(), Vec::<String>::new(), "round {round}");
    }
    let growth = peak_memory().saturating_sub(before);
    assert!(growth < GROWTH_MAX, "grew by {growth} bytes");
}
