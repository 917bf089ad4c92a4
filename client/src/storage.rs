//! Chunks: reads and writes of file ranges, striped over chains, retried until they are done.
//!
//! A write is acknowledged once it is durable and committed on every serving replica. Each update runs exactly once
//! however often it is sent (`channel`). A read takes any serving replica (`target_choice`), asks a second one when the
//! first is late (`hedge`), and is checked against the checksum that came with it. Many small pieces for one node
//! travel in one request (`batch`), each with a result of its own.

mod batch;
mod channel;
mod hedge;
mod query;
mod read;
mod read_request;
mod target_choice;
#[cfg(test)]
mod tests;
mod write;

pub use self::{
    read::{RangeRead, ReadRange, Reads},
    target_choice::ReplicaChoice,
    write::{RangeWritten, WriteRange, Writes},
};

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use common::env::{Env, Instant};
use net::Endpoint;
use types::{
    id::{ClientId, RequestId},
    rpc::Caller,
    user::Identity,
};

use crate::{
    retry::{OPERATION_LIMIT, Retries},
    routing_cache::RoutingCache,
    storage::{channel::ChannelPool, hedge::Hedging, target_choice::TargetChoice},
};

/// Requests of one operation that are under way at a time: enough to keep every chain of a stripe busy.
const PARTS_MAX: usize = 16;

/// Time limits, and how replicas are chosen. The defaults are right for nearly everything but tests.
#[derive(Clone, Debug)]
pub struct StorageOptions {
    /// An operation fails after this long (protocol F3).
    pub operation_limit: Duration,
    /// A head that does not answer for this long is left: it may be waiting for a change of its chain.
    pub write_attempt: Duration,
    /// A replica that does not answer a read for this long is left for another.
    pub read_attempt: Duration,
    /// Which replica a read asks.
    pub replica_choice: ReplicaChoice,
    /// How many of a hundred ranges may be read at a second replica as well, when the first is later than 95 of a hundred
    /// recent reads of the size. 0: none.
    pub hedge_percent: u32,
    /// No read is late before this.
    pub hedge_delay_min: Duration,
}

impl Default for StorageOptions {
    fn default() -> Self {
        Self {
            operation_limit: OPERATION_LIMIT,
            write_attempt: Duration::from_secs(10),
            read_attempt: Duration::from_secs(3),
            replica_choice: ReplicaChoice::default(),
            hedge_percent: 5,
            hedge_delay_min: Duration::from_millis(5),
        }
    }
}

/// See the module's text. Cheap to clone; clones share channels and what is known of replicas.
#[derive(Clone, Debug)]
pub struct StorageClient(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    env: Env,
    endpoint: Endpoint,
    routing: RoutingCache,
    client: ClientId,
    options: StorageOptions,
    next_request: AtomicU64,
    channels: ChannelPool,
    choice: TargetChoice,
    hedging: Hedging,
}

impl StorageClient {
    /// A client of the storage nodes in the map. `client` must be one that no other process uses, ever: it is the
    /// name under which updates are told apart.
    pub fn new(
        env: &Env,
        endpoint: Endpoint,
        routing: RoutingCache,
        client: ClientId,
        options: StorageOptions,
    ) -> Self {
        Self(Arc::new(Shared {
            env: env.clone(),
            endpoint,
            routing,
            client,
            next_request: AtomicU64::new(1),
            channels: ChannelPool::default(),
            choice: TargetChoice::new(options.replica_choice),
            hedging: Hedging::new(options.hedge_percent, options.hedge_delay_min),
            options,
        }))
    }
}

impl Shared {
    fn caller(&self) -> Caller {
        Caller {
            client: self.client,
            request: RequestId(self.next_request.fetch_add(1, Ordering::Relaxed)),
            identity: Identity::root(),
        }
    }

    fn deadline(&self) -> Instant {
        self.env.now() + self.options.operation_limit
    }

    fn retries(&self, operation: &'static str, deadline: Instant) -> Retries<'_> {
        Retries::new(&self.env, &self.routing, operation, deadline)
    }
}
