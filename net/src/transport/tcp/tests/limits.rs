//! Limits of a server, silent peers, addresses.

use std::time::Duration;

use tokio::{io::AsyncWriteExt, net::TcpStream};
use types::{
    rpc::{Rpc, Service},
    status::{Status, StatusCode},
};

use super::{Fixture, Length, Produce, caller, hello};
use crate::{
    Bulk, NetConfig,
    frame::{self, Header, Hello, Kind, Lane},
    transport::tcp::client,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_stops_reading_is_closed() {
    let config = NetConfig {
        stall_ms_max: 200,
        drain_ms_max: 100,
        ..NetConfig::default()
    };
    let fixture = Fixture::new(config);
    let (server, address) = fixture.serve("127.0.0.1:0").await;
    let mut stream = TcpStream::connect(&address).await.unwrap();
    stream.write_all(&hello(Lane::Bulk)).await.unwrap();
    // Asks for 16 times 16 MiB and takes none of it.
    for request_id in 0..16 {
        let mut request = Header::new(Kind::Request);
        (request.service, request.method) = (Service::Test as u16, Produce::METHOD);
        (request.method_version, request.deadline_ms) = (1, 10_000);
        (request.request_id, request.destination_count) = (request_id, 1);
        let caller = types::codec::encode_body(&caller());
        request.body_length = u32::try_from(caller.len()).unwrap();
        let table = crate::RemoteBuf::new(0, 16 << 20).encode();
        let bytes = [&caller[..], &table].concat();
        request.body_checksum = frame::body_checksum(&bytes);
        stream
            .write_all(&[&request.encode(), &bytes[..]].concat())
            .await
            .unwrap();
    }
    fixture.env.sleep(Duration::from_millis(600)).await;
    fixture.is_closed(&mut stream, Duration::from_secs(5)).await;
    let client = fixture.endpoint();
    assert!(fixture.is_serving(&client, &address).await);
    server.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn payload_beyond_the_servers_memory_is_overloaded_not_stuck() {
    let config = NetConfig {
        server_payload_bytes_max: 2 << 20,
        admission_ms_max: 50,
        ..NetConfig::default()
    };
    let fixture = Fixture::new(config);
    let (_server, address) = fixture.serve("127.0.0.1:0").await;
    let client = fixture.endpoint();
    let payload = client.buffers().allocate_zeroed(1 << 20).freeze();
    let calls = (0..6).map(|_| {
        let bulk = Bulk::source(payload.clone());
        fixture.length(&client, &address, 500, bulk)
    });
    let small = async {
        fixture.env.sleep(Duration::from_millis(100)).await;
        let started = fixture.env.now();
        assert!(fixture.is_serving(&client, &address).await);
        fixture.env.now() - started
    };
    let (answers, small_took) = futures::join!(futures::future::join_all(calls), small);
    let overloaded = |answer: &&Result<u64, Status>| {
        answer
            .as_ref()
            .is_err_and(|status| status.code == StatusCode::Overloaded)
    };
    let served = answers
        .iter()
        .filter(|answer| **answer == Ok(1 << 20))
        .count();
    let refused = answers.iter().filter(overloaded).count();
    // One fits, not two: what stands around the payload counts as well.
    assert_eq!(served + refused, 6, "{answers:?}");
    assert!(
        served >= 1 && refused >= 1,
        "{served} served, {refused} refused"
    );
    assert!(small_took < Duration::from_millis(300), "{small_took:?}");
    // What was refused is served once there is room again.
    let again = fixture
        .length(&client, &address, 0, Bulk::source(payload))
        .await;
    assert_eq!(again, Ok(1 << 20));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_above_the_bound_are_refused() {
    let config = NetConfig {
        connections_max: 2,
        ..NetConfig::default()
    };
    let fixture = Fixture::new(config);
    let (_server, address) = fixture.serve("127.0.0.1:0").await;
    let first = TcpStream::connect(&address).await.unwrap();
    let _second = TcpStream::connect(&address).await.unwrap();
    let mut third = TcpStream::connect(&address).await.unwrap();
    fixture.is_closed(&mut third, Duration::from_secs(2)).await;
    drop(first);
    fixture.env.sleep(Duration::from_millis(50)).await;
    assert!(fixture.is_serving(&fixture.endpoint(), &address).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_and_both_families_are_reached() {
    let fixture = Fixture::new(NetConfig::default());
    let (_server, four) = fixture.serve("127.0.0.1:0").await;
    let client = fixture.endpoint();
    let port = four.rsplit(':').next().unwrap();
    for address in [format!("tcp://{four}"), format!("localhost:{port}")] {
        assert!(fixture.is_serving(&client, &address).await, "{address}");
    }
    if tokio::net::TcpListener::bind("[::1]:0").await.is_ok() {
        let (_server, six) = fixture.serve("[::1]:0").await;
        assert!(six.starts_with("[::1]:"), "{six}");
        assert!(fixture.is_serving(&client, &six).await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_calls_do_not_wait_behind_large_payload() {
    let fixture = Fixture::new(NetConfig::default());
    let (_server, address) = fixture.serve("127.0.0.1:0").await;
    let client = fixture.endpoint();
    let payload = client.buffers().allocate_zeroed(32 << 20).freeze();
    let large = futures::future::join_all((0..6).map(|_| {
        let bulk = Bulk::source(payload.clone());
        fixture.length(&client, &address, 0, bulk)
    }));
    let mut answered = 0;
    let small = async {
        loop {
            assert!(fixture.is_serving(&client, &address).await);
            answered += 1;
        }
    };
    let answers = tokio::select! {
        answers = large => answers,
        () = small => Vec::new(),
    };
    assert!(
        answers.iter().all(|answer| *answer == Ok(32 << 20)),
        "{answers:?}"
    );
    // On the same connection, not one would be answered before the large ones are.
    assert!(answered > 10, "{answered} small calls meanwhile");
}

/// A caller of a peer that greets the first connection and then is deaf gives up every 100 ms; the codes it sees.
async fn ask_a_deaf_peer(deadlines: Deadlines) -> Vec<StatusCode> {
    let config = NetConfig {
        connect_ms_max: 200,
        ..NetConfig::default()
    };
    let fixture = Fixture::new(config);
    // It greets the first connection and is deaf from then on; later ones it does not even greet.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let _deaf = fixture.env.spawn("deaf-server", async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let hello = Hello {
            version_min: 1,
            version_max: 1,
            lane: Lane::Calls,
            outstanding_max: 8,
        };
        stream
            .write_all(&client::hello_frame(&hello))
            .await
            .unwrap();
        let _open = (stream, listener);
        std::future::pending::<()>().await;
    });
    let client = fixture.endpoint();
    let caller = caller();
    let mut codes = Vec::new();
    for _ in 0..8 {
        let (soon, far) = (
            fixture.env.now() + Duration::from_millis(100),
            fixture.deadline(),
        );
        let (deadline, given_up) = match deadlines {
            Deadlines::Missed => (soon, far),
            Deadlines::Far => (far, soon),
        };
        let asked = client.ask::<Length>(&address, &caller, &0, deadline);
        let code = match fixture.env.timeout_at(given_up, asked).await {
            Ok(answer) => answer.unwrap_err().code,
            Err(_) => StatusCode::Cancelled,
        };
        codes.push(code);
    }
    codes
}

/// How a caller gives up.
#[derive(Clone, Copy)]
enum Deadlines {
    Missed,
    /// It drops the call.
    Far,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_connection_is_not_used_for_ever() {
    let codes = ask_a_deaf_peer(Deadlines::Missed).await;
    assert_eq!(codes[0], StatusCode::DeadlineExceeded);
    assert!(codes.contains(&StatusCode::Unreachable), "{codes:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_connection_is_left_also_when_callers_drop_their_calls() {
    let codes = ask_a_deaf_peer(Deadlines::Far).await;
    assert_eq!(codes[0], StatusCode::Cancelled);
    assert!(codes.contains(&StatusCode::Unreachable), "{codes:?}");
}
