//! Connections whose bytes the fuzzer has chosen, after `docs/format/wire.md` and not with the encoders of `net`.

use std::{cell::OnceCell, sync::Arc, time::Duration};

use common::{buf::BufPool, env::Env, shutdown::Shutdown};
use net::{Bulk, Endpoint, NetConfig, Router, Transports};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::Runtime,
};
use types::{
    codec,
    id::{ClientId, RequestId},
    rpc::{BulkIndex, Caller, Rpc, Service},
    user::Identity,
};

use crate::Input;

/// How long anything may take; nearly everything ends at once, because the other side hangs up.
const LIMIT: Duration = Duration::from_millis(200);
const ROOM: usize = 4096;

/// Says how long its source is and fills its destination.
enum Exchange {}

impl Rpc for Exchange {
    const SERVICE: Service = Service::Test;
    const METHOD: u16 = 1;
    const NAME: &'static str = "test.Exchange";
    type Request = u64;
    type Response = u64;
}

struct World {
    runtime: Runtime,
    env: Env,
    client: Endpoint,
    server: String,
    liar: TcpListener,
    _end: Shutdown,
}

thread_local! {
    static WORLD: OnceCell<World> = const { OnceCell::new() };
}

fn config() -> NetConfig {
    NetConfig {
        body_bytes_max: 64 << 10,
        payload_bytes_max: 1 << 20,
        server_payload_bytes_max: 4 << 20,
        stall_ms_max: 100,
        handshake_ms_max: 100,
        connect_ms_max: 100,
        reconnect_ms_max: 1,
        ..NetConfig::default()
    }
}

fn endpoint(env: &Env) -> Endpoint {
    Endpoint::new(env, Transports::tcp(), BufPool::new(1 << 20), config())
}

impl World {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        let (env, end) = (Env::real(), Shutdown::new());
        let served = endpoint(&env);
        let buffers = served.buffers().clone();
        let router = Router::new().on::<Exchange, _, _>(move |number, incoming| {
            let buffers = buffers.clone();
            async move {
                let source = match incoming.source_length(BulkIndex(0)) {
                    Some(_) => incoming.pull(BulkIndex(0)).await?.len() as u64,
                    None => number,
                };
                if let Some(length) = incoming.destination_length(BulkIndex(0)) {
                    let data = buffers.allocate_zeroed(length.min(ROOM)).freeze();
                    incoming.push(BulkIndex(0), 0, data).await?;
                }
                Ok(source)
            }
        });
        let (server, liar) = runtime.block_on(async {
            let server = served.serve("127.0.0.1:0", Arc::new(router), end.signal()).await;
            let liar = TcpListener::bind("127.0.0.1:0").await;
            (server.expect("a port"), liar.expect("a port"))
        });
        Self {
            client: endpoint(&env),
            server: server.address(),
            runtime,
            env,
            liar,
            _end: end,
        }
    }

    /// One call; whether it succeeded.
    async fn call(&self, client: &Endpoint, address: &str) -> bool {
        let bulk = Bulk::destination(client.buffers().allocate_zeroed(ROOM));
        let deadline = self.env.now() + LIMIT;
        let caller = caller();
        let call = client.call::<Exchange>(address, &caller, &5, bulk, deadline);
        let reply = self.env.timeout_at(deadline + Duration::from_secs(5), call).await;
        let reply = reply.expect("a call ends by its deadline");
        let whole = reply.destinations.iter().all(|buf| buf.len() == ROOM);
        assert!(whole, "a destination comes back as it was given");
        reply.result == Ok(5)
    }

    async fn to_server(&self, bytes: &[u8]) {
        let mut stream = TcpStream::connect(&self.server).await.expect("the server listens");
        // It may hang up in the middle.
        if stream.write_all(bytes).await.is_ok() && stream.shutdown().await.is_ok() {
            let mut answers = Vec::new();
            let ended = self.env.timeout(Duration::from_secs(5), stream.read_to_end(&mut answers));
            assert!(ended.await.is_ok(), "the server neither answers nor hangs up");
        }
        assert!(self.call(&self.client, &self.server).await, "the server serves others on");
    }

    async fn to_caller(&self, bytes: &[u8]) {
        let client = endpoint(&self.env);
        let address = self.liar.local_addr().expect("it listens").to_string();
        let answering = async {
            let (mut stream, _) = self.liar.accept().await.expect("a connection");
            let mut asked = [0; 1024];
            // Whoever asks may hang up at any point.
            if stream.read(&mut asked).await.is_ok() && stream.write_all(bytes).await.is_ok() {
                let _closed = stream.shutdown().await.is_ok();
            }
        };
        let (_served, ()) = tokio::join!(self.call(&client, &address), answering);
    }
}

/// Runs one input: the lowest bit of `mode` says to whom the frames go, the next one whether a Hello goes before them.
pub fn run(mode: u8, input: &mut Input<'_>) {
    let mut bytes = Vec::new();
    if mode & 2 == 0 {
        bytes = frame(1, Fields::default(), &hello(mode >> 2 & 1));
    }
    script(input, &mut bytes);
    WORLD.with(|world| {
        let world = world.get_or_init(World::new);
        world.runtime.block_on(async {
            if mode & 1 == 0 {
                world.to_server(&bytes).await;
            } else {
                world.to_caller(&bytes).await;
            }
        });
    });
}

/// Frames as the input says: raw bytes, or a kind with fields, whose checksums are right; some twice, some cut.
fn script(input: &mut Input<'_>, bytes: &mut Vec<u8>) {
    while let Some(step) = input.byte() {
        let frame = if step & 7 == 7 {
            input.string().unwrap_or_default().to_vec()
        } else {
            let fields = Fields::from(input);
            let body = input.string().unwrap_or_default();
            frame(step & 7, fields, body)
        };
        let cut = if step & 8 == 0 { frame.len() } else { frame.len() / 2 };
        bytes.extend(&frame[..cut]);
        if step & 16 != 0 {
            bytes.extend(&frame);
        }
    }
}

#[derive(Clone, Copy, Default)]
struct Fields {
    flags: u8,
    id: u8,
    method: u8,
    /// Sources in the low bits, destinations in the high ones.
    buffers: u8,
    index: u8,
    payload: u64,
    offset: u64,
}

impl Fields {
    fn from(input: &mut Input<'_>) -> Self {
        let mut byte = || input.byte().unwrap_or(0);
        let (flags, id, method, buffers, index) = (byte(), byte(), byte(), byte(), byte());
        // Small numbers, and what is far too much.
        let mut length = || match byte() {
            small @ 0..=199 => u64::from(small) * 32,
            large => 1 << (large - 192),
        };
        Self {
            flags,
            id,
            method,
            buffers,
            index,
            payload: length(),
            offset: length(),
        }
    }
}

/// A frame with its payload, as far as that is short.
fn frame(kind: u8, fields: Fields, body: &[u8]) -> Vec<u8> {
    let (sources, destinations) = (fields.buffers & 3, fields.buffers >> 2 & 3);
    let mut content = body.to_vec();
    let mut left = fields.payload;
    for number in 0..sources + destinations {
        // All of the payload in the first source.
        let length = if number == 0 && sources > 0 { std::mem::take(&mut left) } else { 64 };
        let length = if number > 0 && number < sources { 0 } else { length };
        content.extend(u64::from(number).to_le_bytes());
        content.extend(u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
        content.extend([0; 4]);
    }
    let mut header = [0; 64];
    header[..4].copy_from_slice(b"PNST");
    (header[4], header[5], header[6]) = (1, kind, fields.flags);
    header[8] = fields.id;
    (header[16], header[18], header[20]) = (5, fields.method, 1);
    (header[22], header[24], header[26]) = (sources, destinations, fields.index);
    let length = u32::try_from(body.len()).unwrap_or(0);
    header[28..32].copy_from_slice(&length.to_le_bytes());
    header[32..40].copy_from_slice(&fields.payload.to_le_bytes());
    header[40..44].copy_from_slice(&1000_u32.to_le_bytes());
    header[48..56].copy_from_slice(&fields.offset.to_le_bytes());
    header[56..60].copy_from_slice(&crc32c::crc32c(&content).to_le_bytes());
    let sum = crc32c::crc32c(&header[..60]);
    header[60..].copy_from_slice(&sum.to_le_bytes());
    let payload = usize::try_from(fields.payload).unwrap_or(0).min(ROOM * 2);
    [&header[..], &content, &vec![7; payload]].concat()
}

fn hello(lane: u8) -> [u8; 16] {
    [1, 0, 1, 0, lane, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0]
}

fn caller() -> Caller {
    Caller {
        client: ClientId(1),
        request: RequestId(1),
        identity: Identity::root(),
    }
}

/// Inputs for the beginning: a request, a reply, a push, a Goodbye, each in both directions.
pub fn seeds() -> Vec<Vec<u8>> {
    let request = codec::encode_body(&(caller(), 5_u64));
    let reply = codec::encode_body(&5_u64);
    let mut seeds = Vec::new();
    for mode in 0..8 {
        for kind in 1..=5_u8 {
            let body: &[u8] = if kind == 2 { &request } else { &reply };
            let length = u8::try_from(body.len()).unwrap_or(0);
            // Flags, id, method, buffers, index, payload, offset.
            for fields in [[0, 1, 1, 0, 0, 0, 0], [0, 1, 1, 5, 0, 4, 0], [1, 1, 1, 0, 0, 128, 0]] {
                let mut seed = vec![mode, kind];
                seed.extend(fields);
                seed.push(length);
                seed.extend(body);
                seeds.push(seed);
            }
        }
    }
    seeds
}
