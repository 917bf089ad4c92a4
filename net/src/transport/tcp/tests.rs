//! What only tcp can get wrong: bytes that are no frames, peers that stall, versions, limits of a server.

mod hostile;
mod limits;

use std::net::SocketAddr;

use common::{env::Instant, shutdown::Shutdown};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use types::{
    id::{ClientId, RequestId},
    rpc::{BulkIndex, Caller, Rpc, Service},
    status::{Status, StatusCode},
    user::Identity,
};

use super::*;
use crate::{
    BufPool, Bulk, Endpoint, NetConfig, Router, Server, Transports,
    frame::{self, HEADER_LENGTH, Header, Hello, Kind, Lane},
};

enum Length {}

/// Pulls its source and says how long it is, after a pause in ms.
impl Rpc for Length {
    const SERVICE: Service = Service::Test;
    const METHOD: u16 = 1;
    const NAME: &'static str = "test.Length";
    type Request = u64;
    type Response = u64;
}

enum Produce {}

/// Pushes zeros until the destination is full.
impl Rpc for Produce {
    const SERVICE: Service = Service::Test;
    const METHOD: u16 = 2;
    const NAME: &'static str = "test.Produce";
    type Request = ();
    type Response = ();
}

struct Fixture {
    env: Env,
    config: NetConfig,
    shutdown: Shutdown,
}

impl Fixture {
    fn new(config: NetConfig) -> Self {
        Self {
            env: Env::real(),
            config,
            shutdown: Shutdown::new(),
        }
    }

    fn endpoint(&self) -> Endpoint {
        let buffers = BufPool::new(16 << 20);
        Endpoint::new(&self.env, Transports::tcp(), buffers, self.config.clone())
    }

    async fn serve(&self, listen: &str) -> (Server, String) {
        let endpoint = self.endpoint();
        let (env, buffers) = (self.env.clone(), endpoint.buffers().clone());
        let router = Router::new()
            .on::<Length, _, _>(move |pause, incoming| {
                let env = env.clone();
                async move {
                    let length = match incoming.source_length(BulkIndex(0)) {
                        Some(_) => incoming.pull(BulkIndex(0)).await?.len(),
                        None => 0,
                    };
                    env.sleep(Duration::from_millis(pause)).await;
                    Ok(length as u64)
                }
            })
            .on::<Produce, _, _>(move |(), incoming| {
                let buffers = buffers.clone();
                async move {
                    let length = incoming.destination_length(BulkIndex(0)).unwrap_or(0);
                    let data = buffers.allocate_zeroed(length).freeze();
                    incoming.push(BulkIndex(0), 0, data).await
                }
            });
        let signal = self.shutdown.signal();
        let server = endpoint
            .serve(listen, Arc::new(router), signal)
            .await
            .unwrap();
        let address = server.address();
        (server, address)
    }

    fn deadline(&self) -> Instant {
        self.env.now() + Duration::from_secs(20)
    }

    async fn length(
        &self,
        client: &Endpoint,
        address: &str,
        pause: u64,
        bulk: Bulk,
    ) -> Result<u64, Status> {
        let deadline = self.deadline();
        let caller = caller();
        let call = client.call::<Length>(address, &caller, &pause, bulk, deadline);
        call.await.result
    }

    async fn is_serving(&self, client: &Endpoint, address: &str) -> bool {
        self.length(client, address, 0, Bulk::default()).await == Ok(0)
    }

    /// Reads until the peer closes; panics when it does not.
    async fn is_closed(&self, stream: &mut TcpStream, within: Duration) {
        let mut rest = Vec::new();
        let read = stream.read_to_end(&mut rest);
        // A reset is an end as well.
        let _end = self
            .env
            .timeout(within, read)
            .await
            .expect("the connection is closed");
    }
}

fn caller() -> Caller {
    Caller {
        client: ClientId(1),
        request: RequestId(1),
        identity: Identity::root(),
    }
}

fn hello(lane: Lane) -> Vec<u8> {
    client::hello_frame(&Hello {
        version_min: 1,
        version_max: 1,
        lane,
        outstanding_max: 0,
    })
}

fn with_body(mut header: Header, body: &[u8]) -> Vec<u8> {
    header.body_length = u32::try_from(body.len()).unwrap();
    header.body_checksum = frame::body_checksum(body);
    [&header.encode(), body].concat()
}

/// What a hostile or broken peer may send; the second part says whether a Hello goes before it.
fn malformed() -> Vec<(&'static str, bool, Vec<u8>)> {
    let honest = with_body(Header::new(Kind::Request), b"x");
    let mut wrong_checksum = honest.clone();
    wrong_checksum[HEADER_LENGTH] ^= 1;
    let mut bad_header = honest.clone();
    bad_header[20] ^= 1;
    let mut huge_body = Header::new(Kind::Request);
    huge_body.body_length = u32::MAX;
    let mut huge_payload = Header::new(Kind::Request);
    huge_payload.payload_length = u64::MAX;
    let mut huge_table = Header::new(Kind::Request);
    (huge_table.source_count, huge_table.destination_count) = (u16::MAX, u16::MAX);
    let mut unannounced = Header::new(Kind::Request);
    unannounced.payload_length = 5;
    let noise: Vec<u8> = (0..500_u32)
        .map(|i| ((i * i * 31) >> 3).to_le_bytes()[0])
        .collect();
    let http =
        b"GET /metrics HTTP/1.1\r\nHost: example\r\nUser-Agent: a browser of some length\r\n\r\n";
    vec![
        ("noise", false, noise.clone()),
        ("noise after Hello", true, noise),
        ("an HTTP request", false, http.to_vec()),
        ("a request before Hello", false, honest),
        ("a damaged body", true, wrong_checksum),
        ("a damaged header", true, bad_header),
        ("a body of 4 GiB", true, huge_body.encode().to_vec()),
        (
            "a payload of 2^64 bytes",
            true,
            huge_payload.encode().to_vec(),
        ),
        (
            "a table of 131070 buffers",
            true,
            huge_table.encode().to_vec(),
        ),
        (
            "payload without sources",
            true,
            with_body(unannounced, b"x"),
        ),
        ("a reply", true, with_body(Header::new(Kind::Reply), b"x")),
        ("a second Hello", true, hello(Lane::Calls)),
        (
            "a short Hello",
            false,
            with_body(Header::new(Kind::Hello), b"x"),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_frames_close_their_connection_and_nothing_else() {
    let fixture = Fixture::new(NetConfig::default());
    let (_server, address) = fixture.serve("127.0.0.1:0").await;
    let client = fixture.endpoint();
    assert!(fixture.is_serving(&client, &address).await);
    for (what, after_hello, bytes) in malformed() {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        if after_hello {
            stream.write_all(&hello(Lane::Calls)).await.unwrap();
        }
        stream.write_all(&bytes).await.unwrap();
        println_claim(what);
        fixture.is_closed(&mut stream, Duration::from_secs(2)).await;
        assert!(fixture.is_serving(&client, &address).await, "after {what}");
    }
}

/// Shown only when the test fails: which case was the one.
#[expect(
    clippy::print_stdout,
    reason = "the harness shows it when a test fails"
)]
fn println_claim(what: &str) {
    println!("{what}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_well_framed_request_that_makes_no_sense_is_answered() {
    let fixture = Fixture::new(NetConfig::default());
    let (_server, address) = fixture.serve("127.0.0.1:0").await;
    let mut stream = TcpStream::connect(&address).await.unwrap();
    stream.write_all(&hello(Lane::Bulk)).await.unwrap();
    let mut greeting = [0; HEADER_LENGTH + 16];
    stream.read_exact(&mut greeting).await.unwrap();
    let mut request = Header::new(Kind::Request);
    request.deadline_ms = 10_000;
    for (service, method_version, body, code) in [
        (999, 1, &b"x"[..], StatusCode::Unsupported),
        (Service::Test as u16, 2, b"x", StatusCode::Unsupported),
        (Service::Test as u16, 1, b"\xff\xff", StatusCode::Malformed),
    ] {
        request.request_id += 1;
        (request.service, request.method_version) = (service, method_version);
        request.method = Length::METHOD;
        stream.write_all(&with_body(request, body)).await.unwrap();
        let mut header = [0; HEADER_LENGTH];
        stream.read_exact(&mut header).await.unwrap();
        let header = Header::decode(&header).unwrap();
        assert_eq!(
            (header.kind, header.flags),
            (Kind::Reply, frame::FLAG_FAILED)
        );
        assert_eq!(header.request_id, request.request_id);
        let mut body = vec![0; header.body_length as usize];
        stream.read_exact(&mut body).await.unwrap();
        let status: Status = types::codec::decode_body(&body).unwrap();
        assert_eq!(status.code, code);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_stalls_is_closed() {
    let config = NetConfig {
        handshake_ms_max: 150,
        stall_ms_max: 150,
        ..NetConfig::default()
    };
    let fixture = Fixture::new(config);
    let (_server, address) = fixture.serve("127.0.0.1:0").await;
    let within = Duration::from_secs(2);
    // Says nothing at all.
    let mut silent = TcpStream::connect(&address).await.unwrap();
    fixture.is_closed(&mut silent, within).await;
    // Stops in the middle of a header, of a body.
    let mut body_missing = Header::new(Kind::Request);
    body_missing.body_length = 100;
    let header = body_missing.encode();
    for sent in [&header[..10], &header[..]] {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        stream
            .write_all(&[&hello(Lane::Calls), sent].concat())
            .await
            .unwrap();
        fixture.is_closed(&mut stream, within).await;
    }
    // Idle between frames is no stall.
    let mut idle = TcpStream::connect(&address).await.unwrap();
    idle.write_all(&hello(Lane::Calls)).await.unwrap();
    let mut greeting = [0; HEADER_LENGTH + 16];
    idle.read_exact(&mut greeting).await.unwrap();
    let more = fixture
        .env
        .timeout(Duration::from_millis(500), idle.read_u8())
        .await;
    assert!(more.is_err(), "still open and silent");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_without_a_common_version_part_with_a_reason() {
    let fixture = Fixture::new(NetConfig::default());
    let (_server, address) = fixture.serve("127.0.0.1:0").await;
    let newer = Hello {
        version_min: 7,
        version_max: 9,
        lane: Lane::Calls,
        outstanding_max: 8,
    };
    // A newer client is told by our server.
    let mut stream = TcpStream::connect(&address).await.unwrap();
    stream
        .write_all(&client::hello_frame(&newer))
        .await
        .unwrap();
    let mut header = [0; HEADER_LENGTH];
    stream.read_exact(&mut header).await.unwrap();
    let header = Header::decode(&header).unwrap();
    assert_eq!(header.kind, Kind::Goodbye);
    let mut reason = vec![0; header.body_length as usize];
    stream.read_exact(&mut reason).await.unwrap();
    let reason = String::from_utf8(reason).unwrap();
    assert!(reason.contains("the client 7 to 9"), "{reason}");
    // Our client is told by a newer server: with a Hello of its own, or with a Goodbye.
    let (header, body) = server::goodbye("this server speaks protocol versions 7 to 9");
    let farewell = [&header.encode()[..], &body].concat();
    for answer in [client::hello_frame(&newer), farewell] {
        let (address, _accepting) = scripted(&fixture.env, answer, Vec::new()).await;
        let client = fixture.endpoint();
        let status = fixture
            .length(&client, &address, 0, Bulk::default())
            .await
            .unwrap_err();
        assert_eq!(status.code, StatusCode::Unsupported, "{status}");
        assert!(status.message.contains("7 to 9"), "{status}");
    }
}

/// A server that reads a Hello, sends `greeting`, reads a bit of a request and sends `answer`.
async fn scripted(
    env: &Env,
    greeting: Vec<u8>,
    answer: Vec<u8>,
) -> (String, common::env::Task<()>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    let task = env.spawn("scripted-server", async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut bytes = [0; HEADER_LENGTH + 16];
            stream.read_exact(&mut bytes).await.unwrap();
            stream.write_all(&greeting).await.unwrap();
            if !answer.is_empty() {
                stream
                    .read_exact(&mut bytes[..HEADER_LENGTH])
                    .await
                    .unwrap();
                stream.write_all(&answer).await.unwrap();
            }
            let mut rest = Vec::new();
            let _end = stream.read_to_end(&mut rest).await.is_ok();
        }
    });
    (address.to_string(), task)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_pushes_outside_is_not_believed() {
    let fixture = Fixture::new(NetConfig::default());
    let greeting = client::hello_frame(&Hello {
        version_min: 1,
        version_max: 1,
        lane: Lane::Calls,
        outstanding_max: 8,
    });
    let push = |index, offset, length| {
        let mut header = Header::new(Kind::Push);
        header.request_id = 1;
        (header.bulk_index, header.bulk_offset) = (index, offset);
        header.payload_length = length;
        [&header.encode()[..], &[1; 64]].concat()
    };
    for answer in [
        push(0, 90, 11),
        push(0, u64::MAX, 2),
        push(1, 0, 1),
        push(0, 0, 1 << 20),
        vec![b'x'; 200],
    ] {
        let (address, _accepting) = scripted(&fixture.env, greeting.clone(), answer).await;
        let client = fixture.endpoint();
        let mut buf = client.buffers().allocate(200);
        let mut buf = buf.split_to(100);
        buf.fill(0xee);
        let (bulk, deadline) = (Bulk::destination(buf), fixture.deadline());
        let reply = client
            .call::<Produce>(&address, &caller(), &(), bulk, deadline)
            .await;
        assert_eq!(reply.result.unwrap_err().code, StatusCode::Unreachable);
        assert!(reply.destinations[0].iter().all(|byte| *byte == 0xee));
    }
}
