//! What a peer that is broken, of another release or hostile sends: for the tests of everything that listens or asks.
//!
//! Three kinds of bodies, all drawn from a seed (`draw`): well-formed ones whose values make no sense, damaged ones, random
//! bytes. `send` puts any of them into a request with a correct frame, past everything that checksums would catch; `assault`
//! sends many, and holds every server to the same rules. `Relay` stands between a caller and a server and changes what is said.

use std::time::Duration;

use bytes::Bytes;
use common::env::{Env, Instant};
use futures::future::join_all;
use types::{
    codec,
    id::RequestId,
    rpc::Caller,
    status::{Status, StatusCode},
};

use crate::{Bulk, Endpoint, Reply, rpc::METHOD_VERSION, transport::Outgoing};

mod draw;
mod encoder;
mod relay;

pub use draw::{Case, Hostile};
pub use relay::{Change, Relay};

/// Requests under way at once: their deadlines pass together.
const TOGETHER: usize = 64;
/// Drawn bodies for each method, unless `PENSTOCK_HOSTILE` says another number.
const DRAWN: usize = 100;

/// A method by its numbers, which need not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Method {
    /// The service's number.
    pub service: u16,
    /// The method's number.
    pub method: u16,
}

impl Method {
    /// The numbers of a method.
    pub fn of<M: types::rpc::Rpc>() -> Self {
        Self {
            service: M::SERVICE as u16,
            method: M::METHOD,
        }
    }
}

/// Sends a request whose body is any bytes. The reply is not decoded.
pub async fn send(
    endpoint: &Endpoint,
    address: &str,
    (caller, method): (&Caller, Method),
    body: &[u8],
    bulk: Bulk,
    deadline: Instant,
) -> Reply<Bytes> {
    let mut whole = codec::encode_body(caller);
    whole.extend(body);
    let outgoing = Outgoing {
        service: method.service,
        method: method.method,
        method_version: METHOD_VERSION,
        deadline,
        body: whole,
        bulk,
    };
    let reply = endpoint.exchange(address, outgoing).await;
    Reply {
        result: reply.result,
        destinations: reply.destinations,
    }
}

/// The most memory that this process ever held, in bytes; 0 where the system does not tell.
pub fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kilobytes.unwrap_or(0) * 1024
}

/// Whom an assault is on.
#[derive(Clone, Copy, Debug)]
pub struct Victim<'a> {
    /// The clock.
    pub env: &'a Env,
    /// The way there.
    pub endpoint: &'a Endpoint,
    /// Where it listens.
    pub address: &'a str,
    /// Who asks; the ids of requests go on from its own.
    pub caller: &'a Caller,
    /// How long each request may take.
    pub limit: Duration,
}

/// What came of an assault.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Requests that succeeded: nonsense that happens to be legal.
    pub served: usize,
    /// Requests that were refused, by code.
    pub refused: std::collections::BTreeMap<StatusCode, usize>,
}

/// Sends every case cut at each byte and with each bit flipped (a sample when it is long), and many drawn bodies of it; `bulk`
/// makes the buffers that go along.
///
/// # Panics
/// When an answer breaks the rules: each is a success, or a refusal with a reason that is not a panic of the handler; none comes
/// later than its deadline.
pub async fn assault(
    victim: &Victim<'_>,
    cases: &[Case],
    hostile: &Hostile,
    bulk: &(dyn Fn(&Hostile) -> Bulk + Sync),
) -> Tally {
    let drawn = std::env::var("PENSTOCK_HOSTILE").ok();
    let drawn = drawn.map_or(DRAWN, |count| {
        count.parse().expect("PENSTOCK_HOSTILE is a number")
    });
    let mut tally = Tally::default();
    let mut callers = Callers::new(victim.caller);
    for case in cases {
        let mut bodies = hostile.cuts_and_flips(&case.plain);
        bodies.extend((0..drawn).map(|_| case.draw(hostile)));
        for together in bodies.chunks(TOGETHER) {
            let asked = together.iter().map(|body| {
                let (caller, bulk) = (callers.next(hostile), bulk(hostile));
                async move { (body, one(victim, (&caller, case.method), body, bulk).await) }
            });
            for (body, answer) in join_all(asked).await {
                match answer {
                    Ok(()) => tally.served += 1,
                    Err(status) => {
                        check_refusal(case.method, body, &status);
                        *tally.refused.entry(status.code).or_default() += 1;
                    }
                }
            }
        }
    }
    tally
}

/// Mostly requests with an id of their own, sometimes one that was used before.
struct Callers {
    caller: Caller,
    newest: u64,
}

impl Callers {
    fn new(caller: &Caller) -> Self {
        Self {
            caller: caller.clone(),
            newest: caller.request.0,
        }
    }

    fn next(&mut self, hostile: &Hostile) -> Caller {
        let number = if hostile.below(16) == 0 {
            self.newest.saturating_sub(hostile.below(50))
        } else {
            self.newest += 1;
            self.newest
        };
        Caller {
            request: RequestId(number),
            ..self.caller.clone()
        }
    }
}

async fn one(
    victim: &Victim<'_>,
    (caller, method): (&Caller, Method),
    body: &[u8],
    bulk: Bulk,
) -> Result<(), Status> {
    let deadline = victim.env.now() + victim.limit;
    let (endpoint, address) = (victim.endpoint, victim.address);
    let sent = send(endpoint, address, (caller, method), body, bulk, deadline);
    let reply = sent.await;
    let late = victim.env.now().saturating_duration_since(deadline);
    assert!(late < LATE_MAX, "{method:?}: {late:?} after its deadline");
    reply.result.map(drop)
}

/// What a busy machine may add to a deadline.
const LATE_MAX: Duration = Duration::from_secs(5);

fn check_refusal(method: Method, body: &[u8], status: &Status) {
    let body = &body[..body.len().min(200)];
    assert!(
        !status.message.is_empty(),
        "{method:?} {body:02x?}: no reason"
    );
    let panicked = status.message.contains("failed with a bug");
    assert!(!panicked, "{method:?} {body:02x?}: {status}");
}

#[cfg(test)]
mod tests {
    use types::rpc::{BulkIndex, storage::ReadRequest};

    use super::*;

    fn request() -> ReadRequest {
        let item = types::rpc::storage::ReadItem {
            chain: types::id::ChainId(300),
            chain_version: types::version::ChainVersion(7),
            target: types::id::TargetId(1 << 40),
            chunk: types::chunk::ChunkId {
                inode: types::id::InodeId(9),
                index: 3,
            },
            offset: 0,
            length: 4096,
            destination: BulkIndex(0),
            destination_offset: 0,
        };
        ReadRequest {
            reads: vec![item; 2],
            mode: types::rpc::storage::ReadMode::Linearizable,
        }
    }

    #[tokio::test]
    async fn without_nonsense_the_encoding_is_the_usual_one() {
        let status = Status::new(types::status::StatusCode::Internal, "why")
            .with_detail(types::status::Detail::Leader("a:1".to_owned()));
        let hostile = Hostile::new(1);
        assert_eq!(
            hostile.nonsense(&request(), 0),
            codec::encode_body(&request())
        );
        let results: Vec<Result<Option<u128>, Status>> = vec![Ok(Some(1 << 100)), Err(status)];
        assert_eq!(hostile.nonsense(&results, 0), codec::encode_body(&results));
        let map: std::collections::BTreeMap<(u32, i16), String> =
            [((1, -300), "x".to_owned()), ((200, 5), String::new())].into();
        assert_eq!(hostile.nonsense(&map, 0), codec::encode_body(&map));
    }

    #[tokio::test]
    async fn most_nonsense_is_well_formed_and_a_seed_repeats_it() {
        let draw = |seed| -> Vec<Vec<u8>> {
            let hostile = Hostile::new(seed);
            (0..500)
                .map(|_| hostile.nonsense(&request(), 100))
                .collect()
        };
        let bodies = draw(3);
        assert_eq!(bodies, draw(3));
        assert_ne!(bodies, draw(4));
        let decoded = bodies
            .iter()
            .map(|body| codec::decode_body::<ReadRequest>(body));
        let decoded: Vec<ReadRequest> = decoded.filter_map(Result::ok).collect();
        assert!(decoded.len() > 300, "{}", decoded.len());
        let has = |test: &dyn Fn(&ReadRequest) -> bool| decoded.iter().any(test);
        assert!(has(&|request| request.reads.len() > 256));
        assert!(has(&|request| request
            .reads
            .iter()
            .any(|read| read.length == u32::MAX)));
        assert!(has(&|request| *request == self::request()));
    }
}
