//! What every transport must do, as claims that each of them runs (`tests/main.rs`).
//!
//! A claim gets a `Subject`: a way to make endpoints that reach each other. It panics when it does not hold.

use std::{sync::Arc, time::Duration};

use common::{
    buf::{BUF_ALIGN, BufPool, RegisteredBuf},
    env::{Env, Instant},
    shutdown::Shutdown,
};
use futures::future::join_all;
use serde::{Deserialize, Serialize};
use tokio::sync::{Barrier, Semaphore};
use types::{
    checksum::Checksum,
    id::{ClientId, RequestId},
    rpc::{BulkIndex, Caller, Rpc, Service},
    status::{Status, StatusCode},
    user::Identity,
};

use crate::{Bulk, Endpoint, MemNetwork, NetConfig, Reply, Router, ServeError, Server, Transports};

mod bulk;
mod calls;
mod failures;

pub use bulk::{
    a_cancelled_call_with_a_late_push_harms_nobody, a_push_outside_is_refused_and_nothing_else,
    a_reply_follows_the_pushes_before_it, pushes_land_at_their_offsets,
    sources_arrive_equal_and_aligned,
};
pub use calls::{
    a_deadline_ends_the_call_but_not_the_handler, a_panicking_handler_is_an_internal_error,
    a_request_carries_caller_and_deadline, a_thousand_calls_are_under_way_at_once,
    an_endpoint_calls_itself, an_unknown_method_is_unsupported, echo_returns_the_request,
    what_is_too_large_is_refused_and_nothing_else,
};
pub use failures::{
    a_dead_peer_costs_little, a_killed_server_makes_its_calls_unreachable,
    a_stopping_server_answers_what_is_under_way, a_taken_address_is_refused_by_name,
    calls_reach_a_server_that_came_back,
};

/// A transport under test.
#[derive(Debug)]
pub struct Subject {
    transports: Transports,
    listen: &'static str,
    dead: &'static str,
}

impl Subject {
    /// tcp on the loopback interface.
    pub fn tcp() -> Self {
        Self {
            transports: Transports::tcp(),
            listen: "127.0.0.1:0",
            // The discard port: nobody listens there.
            dead: "127.0.0.1:9",
        }
    }

    /// A network inside the process.
    pub fn mem() -> Self {
        Self {
            transports: Transports::with_mem(MemNetwork::new()),
            listen: "mem://server",
            dead: "mem://nobody",
        }
    }
}

macro_rules! methods {
    ($($name:ident = $number:literal, $request:ty => $response:ty;)*) => {$(
        enum $name {}

        impl Rpc for $name {
            const SERVICE: Service = Service::Test;
            const METHOD: u16 = $number;
            const NAME: &'static str = concat!("test.", stringify!($name));
            type Request = $request;
            type Response = $response;
        }
    )*};
}

methods! {
    Echo = 1, Vec<u8> => Vec<u8>;
    Fill = 2, Vec<Piece> => Vec<Result<(), Status>>;
    Measure = 3, u16 => Vec<Measured>;
    Gather = 4, () => ();
    Sleep = 5, u64 => ();
    Panic = 6, () => ();
    Produce = 7, u64 => Vec<u8>;
    FillLate = 8, Piece => Result<(), Status>;
    WhoAndWhen = 9, () => (Caller, u64);
    Unserved = 10, () => ();
}

/// Bytes to push.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Piece {
    destination: BulkIndex,
    offset: u32,
    length: u32,
    byte: u8,
}

/// A source as the server found it.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Measured {
    length: u64,
    checksum: Checksum,
    aligned: bool,
}

/// How many calls `Gather` brings together.
const GATHERED: usize = 1000;

/// How long a claim may take at most on a slow machine.
const LIMIT: Duration = Duration::from_secs(20);

struct Fixture {
    env: Env,
    subject: Subject,
    config: NetConfig,
    /// A permit for each `Sleep` or `FillLate` that ran to its end.
    finished: Arc<Semaphore>,
    shutdown: Shutdown,
}

impl Fixture {
    fn new(subject: Subject) -> Self {
        Self {
            env: Env::real(),
            subject,
            config: NetConfig::default(),
            finished: Arc::new(Semaphore::new(0)),
            shutdown: Shutdown::new(),
        }
    }

    fn endpoint(&self) -> Endpoint {
        let buffers = BufPool::new(64 << 20);
        let transports = self.subject.transports.clone();
        Endpoint::new(&self.env, transports, buffers, self.config.clone())
    }

    async fn serve_at(&self, endpoint: &Endpoint, listen: &str) -> Result<Server, ServeError> {
        let router = router(&self.env, endpoint, &self.finished);
        let signal = self.shutdown.signal();
        endpoint.serve(listen, Arc::new(router), signal).await
    }

    async fn serve(&self, endpoint: &Endpoint) -> Server {
        let served = self.serve_at(endpoint, self.subject.listen).await;
        served.expect("the address is free")
    }

    fn deadline(&self) -> Instant {
        self.env.now() + LIMIT
    }

    async fn ask<M: Rpc>(
        &self,
        endpoint: &Endpoint,
        address: &str,
        request: &M::Request,
    ) -> Result<M::Response, Status> {
        let deadline = self.deadline();
        endpoint
            .ask::<M>(address, &caller(), request, deadline)
            .await
    }

    async fn call<M: Rpc>(
        &self,
        endpoint: &Endpoint,
        address: &str,
        request: &M::Request,
        bulk: Bulk,
    ) -> Reply<M::Response> {
        let deadline = self.deadline();
        endpoint
            .call::<M>(address, &caller(), request, bulk, deadline)
            .await
    }

    /// Waits until this many handlers have run to their ends.
    async fn finished(&self, count: u32) {
        let finished = self.env.timeout(LIMIT, self.finished.acquire_many(count));
        let permits = finished.await.expect("handlers end").expect("never closed");
        permits.forget();
    }
}

fn caller() -> Caller {
    Caller {
        client: ClientId(0xabcd_0000_0000_0000_0000),
        request: RequestId(77),
        identity: Identity {
            uid: 1000,
            gid: 100,
            groups: vec![4, 20],
        },
    }
}

/// A buffer in which no byte is one that the pieces bring.
fn marked(endpoint: &Endpoint, length: usize) -> RegisteredBuf {
    let mut buf = endpoint.buffers().allocate(length);
    buf.fill(0xee);
    buf
}

fn router(env: &Env, endpoint: &Endpoint, finished: &Arc<Semaphore>) -> Router {
    let gathered = Arc::new(Barrier::new(GATHERED));
    let timers = [env.clone(), env.clone(), env.clone()];
    let [sleep_timer, late_timer, clock] = timers;
    let pools = [endpoint.buffers().clone(), endpoint.buffers().clone()];
    let [fill_pool, late_pool] = pools;
    let [slept, filled] = [finished.clone(), finished.clone()];
    Router::new()
        .on::<Echo, _, _>(async |bytes, _| Ok(bytes))
        .on::<Panic, _, _>(async |(), _| panic!("this panic belongs to a test"))
        .on::<Produce, _, _>(async |length, _| Ok(vec![7; usize::try_from(length).unwrap_or(0)]))
        .on::<Gather, _, _>(move |(), _| {
            let gathered = gathered.clone();
            async move {
                gathered.wait().await;
                Ok(())
            }
        })
        .on::<Sleep, _, _>(move |ms, _| {
            let (timer, slept) = (sleep_timer.clone(), slept.clone());
            async move {
                timer.sleep(Duration::from_millis(ms)).await;
                slept.add_permits(1);
                Ok(())
            }
        })
        .on::<WhoAndWhen, _, _>(move |(), incoming| {
            let left = incoming.deadline.saturating_duration_since(clock.now());
            async move { Ok((incoming.caller.clone(), left.as_secs())) }
        })
        .on::<Measure, _, _>(async |count, incoming| {
            let mut measured = Vec::new();
            for index in 0..count {
                let data = incoming.pull(BulkIndex(index)).await?;
                assert_eq!(Some(data.len()), incoming.source_length(BulkIndex(index)));
                measured.push(Measured {
                    length: data.len() as u64,
                    checksum: Checksum::of(&data),
                    aligned: (data.as_ptr() as usize).is_multiple_of(BUF_ALIGN),
                });
            }
            Ok(measured)
        })
        .on::<Fill, _, _>(move |pieces, incoming| {
            let pool = fill_pool.clone();
            async move {
                let pushes = pieces.iter().map(|piece| push(&pool, &incoming, *piece));
                Ok(join_all(pushes).await)
            }
        })
        .on::<FillLate, _, _>(move |piece, incoming| {
            let (timer, pool, filled) = (late_timer.clone(), late_pool.clone(), filled.clone());
            async move {
                timer.sleep(Duration::from_millis(100)).await;
                let pushed = push(&pool, &incoming, piece).await;
                filled.add_permits(1);
                Ok(pushed)
            }
        })
}

async fn push(pool: &BufPool, incoming: &crate::Incoming, piece: Piece) -> Result<(), Status> {
    let mut data = pool.allocate(piece.length as usize);
    data.fill(piece.byte);
    let offset = piece.offset as usize;
    incoming
        .push(piece.destination, offset, data.freeze())
        .await
}
