//! Everything a client process has: its place on the network, the map, the namespace, the chunks, and its session.
//!
//! The session tells the manager that this client lives (protocol M7); the metadata servers end the write sessions
//! of a client whose session expired.

use std::time::Duration;

use common::{
    buf::BufPool,
    env::{Env, Instant},
    shutdown::ShutdownSignal,
    worker::{Next, Worker, Workers},
};
use net::{Endpoint, NetConfig, Transports};
use types::{
    id::ClientId,
    rpc::mgmtd::{EndClientSession, ExtendClientSession},
    session::ClientSession,
    status::{Status, StatusCode},
    version::RoutingVersion,
};

use crate::{
    cluster_config::ClusterConfig,
    meta::MetaClient,
    mgmtd::MgmtdClient,
    routing_cache::RoutingCache,
    storage::{StorageClient, StorageOptions},
};

/// How often the session is renewed (protocol M7).
const RENEW_EVERY: Duration = Duration::from_secs(10);
/// After a failed renewal the next one comes sooner: six of them fit into the session's 60 s.
const RENEW_AGAIN: Duration = Duration::from_secs(2);
/// How long the manager may take to end a session.
const END_LIMIT: Duration = Duration::from_secs(2);

/// How a client is set up.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// What the manager shows of this client: host, program, mount point.
    pub description: String,
    /// How long the manager may take to give the first map.
    pub connect_limit: Duration,
    /// Memory kept for the next reads and writes.
    pub free_buffer_bytes: usize,
    /// Which transports there are.
    pub transports: Transports,
    /// Limits of the network.
    pub net: NetConfig,
    /// Time limits of reads and writes.
    pub storage: StorageOptions,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            description: String::from("client"),
            connect_limit: Duration::from_secs(30),
            free_buffer_bytes: 32 << 20,
            transports: Transports::tcp(),
            net: NetConfig::default(),
            storage: StorageOptions::default(),
        }
    }
}

/// See the module's text. Cheap to clone; clones share everything.
#[derive(Clone, Debug)]
pub struct Client {
    /// The clock and randomness of the process.
    pub env: Env,
    /// Its place on the network.
    pub endpoint: Endpoint,
    /// The manager.
    pub mgmtd: MgmtdClient,
    /// The map.
    pub routing: RoutingCache,
    /// The namespace.
    pub meta: MetaClient,
    /// The chunks.
    pub storage: StorageClient,
    /// Who this client is; drawn at random.
    pub id: ClientId,
}

impl Client {
    /// Connects to a cluster: waits for a first map and opens a session, which lasts until shutdown.
    ///
    /// # Errors
    /// When no manager gave a map within `options.connect_limit`.
    pub async fn connect(
        env: &Env,
        config: ClusterConfig,
        options: ClientOptions,
        shutdown: ShutdownSignal,
    ) -> Result<Self, Status> {
        let id = ClientId(env.random_u128());
        let buffers = BufPool::new(options.free_buffer_bytes);
        let endpoint = Endpoint::new(env, options.transports, buffers, options.net);
        let mgmtd = MgmtdClient::new(env, endpoint.clone(), config.mgmtd, id);
        let deadline = env.now() + options.connect_limit;
        let session = ClientSession {
            client: id,
            description: options.description,
        };
        mgmtd
            .call::<ExtendClientSession>(&session, deadline)
            .await?;
        let routing = RoutingCache::new(env, mgmtd.clone());
        let _watch = routing.start(shutdown.clone());
        first_map(env, &routing, deadline).await?;
        let renewal = SessionRenewal {
            env: env.clone(),
            mgmtd: mgmtd.clone(),
            session,
            failures: 0,
        };
        let _renewal = Workers::default().start(env, shutdown, renewal);
        let meta = MetaClient::new(env, endpoint.clone(), routing.clone(), id);
        let storage =
            StorageClient::new(env, endpoint.clone(), routing.clone(), id, options.storage);
        Ok(Self {
            env: env.clone(),
            endpoint,
            mgmtd,
            routing,
            meta,
            storage,
            id,
        })
    }

    /// Ends the session at once, so that nothing waits for its expiry. The client must not be used afterwards.
    pub async fn end_session(&self) {
        let deadline = self.env.now() + END_LIMIT;
        let ended = self.mgmtd.call::<EndClientSession>(&self.id, deadline);
        if let Err(status) = ended.await {
            tracing::info!(%status, "the session was not ended; it will expire");
        }
    }
}

async fn first_map(env: &Env, routing: &RoutingCache, deadline: Instant) -> Result<(), Status> {
    while env.now() < deadline {
        let until = deadline.min(env.now() + Duration::from_secs(1));
        if routing.refresh(RoutingVersion(0), until).await.version > RoutingVersion(0) {
            return Ok(());
        }
    }
    Err(Status::new(
        StatusCode::Unreachable,
        "no manager gave a routing map in time",
    ))
}

/// Keeps the session alive.
struct SessionRenewal {
    env: Env,
    mgmtd: MgmtdClient,
    session: ClientSession,
    failures: u64,
}

impl Worker for SessionRenewal {
    fn name(&self) -> &'static str {
        "session-renewal"
    }

    async fn step(&mut self) -> Next {
        let deadline = self.env.now() + RENEW_EVERY;
        let renewed = self
            .mgmtd
            .call::<ExtendClientSession>(&self.session, deadline);
        match renewed.await {
            Ok(()) => {
                self.failures = 0;
                Next::Wait(RENEW_EVERY)
            }
            Err(status) => {
                self.failures += 1;
                tracing::warn!(%status, failures = self.failures, "cannot renew the session");
                Next::Wait(RENEW_AGAIN)
            }
        }
    }

    fn status(&self) -> String {
        match self.failures {
            0 => String::from("renewed"),
            failures => format!("{failures} renewals in a row failed"),
        }
    }
}
