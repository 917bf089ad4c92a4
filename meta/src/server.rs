//! A running metadata server: opens the store, serves, ends in order.
//!
//! Order of start: data directory, store, root directory, admin port, listen, then the background tasks.
//! Order of end: the server drains, the tasks stop, the store closes.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use client::{MgmtdClient, RoutingCache, StorageClient, StorageOptions};
use common::{
    buf::BufPool,
    data_dir::{DataDir, DataDirError},
    env::{Env, Task},
    http::{self, Readiness},
    shutdown::{Shutdown, ShutdownSignal},
    worker::{Next, Worker, Workers},
};
use kv::{Kv, ReadMode, embedded::EmbeddedKv};
use net::{Endpoint, NetConfig, Server, Transports};
use types::id::{ClientId, NodeId, ROOT_INODE};

use crate::{
    bootstrap,
    chain_picker::ChainPicker,
    config::MetaConfig,
    error::MetaError,
    gc::{Collector, Patience},
    heartbeat::Heartbeats,
    prune::{ResultPruner, SessionPruner},
    remote::{CHUNKS_LIMIT, RemoteCluster},
    service::{self, Namespace},
    store,
};

/// Format of the data directory.
const DATA_FORMAT: u32 = 1;
/// Free buffers kept: no bulk passes through here.
const BUFFER_BYTES: usize = 1 << 20;
/// How long background tasks have to end before they are cut off; each of them can be.
const END_TIME: Duration = Duration::from_secs(2);
/// How often the store is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Why a metadata server does not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The settings do not make sense.
    #[error("the configuration is not valid: {reason}")]
    Config {
        /// Which and why.
        reason: String,
    },
    /// A store that this program does not have.
    #[error("the key-value store `{kind}` is not built yet; use `kv = \"embedded\"`")]
    KvNotBuilt {
        /// Its name.
        kind: &'static str,
    },
    /// The data directory was refused.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The store was refused.
    #[error(transparent)]
    Kv(#[from] kv::embedded::OpenError),
    /// The root directory could not be made.
    #[error("cannot make the root directory: {0}")]
    Root(MetaError),
    /// The address for requests.
    #[error(transparent)]
    Listen(#[from] net::ServeError),
    /// The admin port.
    #[error("cannot serve the admin port at {address}: {source}")]
    Admin {
        /// The address.
        address: String,
        /// What the system said.
        source: io::Error,
    },
}

/// A metadata server that listens.
#[derive(Debug)]
pub struct RunningMeta {
    address: String,
    admin_address: SocketAddr,
    readiness: Readiness,
    workers: Workers,
    done: Task<()>,
}

impl RunningMeta {
    /// Where other processes reach it.
    pub fn address(&self) -> String {
        self.address.clone()
    }

    /// Where `/metrics` and `/healthz` are.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin_address
    }

    /// Why it is not ready, when it is not.
    pub fn readiness(&self) -> &Readiness {
        &self.readiness
    }

    /// What runs in the background.
    pub fn workers(&self) -> &Workers {
        &self.workers
    }

    /// Waits for its end, which the shutdown asks for.
    pub async fn join(self) {
        // A panic was logged by the panic hook; it is an end as well.
        let _ended = self.done.join().await;
    }
}

/// Starts a metadata server on tcp; returns once it listens.
///
/// # Errors
/// See `ServeError`.
pub async fn serve(
    config: MetaConfig,
    env: Env,
    shutdown: Shutdown,
) -> Result<RunningMeta, ServeError> {
    let buffers = BufPool::new(BUFFER_BYTES);
    let endpoint = Endpoint::new(&env, Transports::tcp(), buffers, NetConfig::default());
    serve_on(config, env, endpoint, shutdown).await
}

/// Starts a metadata server on an endpoint of the caller's.
///
/// # Errors
/// See `ServeError`.
pub async fn serve_on(
    config: MetaConfig,
    env: Env,
    endpoint: Endpoint,
    shutdown: Shutdown,
) -> Result<RunningMeta, ServeError> {
    config.check()?;
    let path = config.data.clone();
    let data = env
        .blocking(move || DataDir::open(&path, "meta", DATA_FORMAT))
        .await?;
    let kv_path = data.path().join("kv");
    let kv = EmbeddedKv::open(&env, &kv_path, config.embedded.clone(), shutdown.signal())?;
    let started = start(&config, &env, endpoint, kv.clone(), shutdown).await;
    let parts = match started {
        Ok(parts) => parts,
        Err(error) => {
            close(&kv).await;
            return Err(error);
        }
    };
    let (address, admin_address) = (parts.server.address(), parts.admin_address);
    let (readiness, workers) = (parts.readiness.clone(), parts.workers.clone());
    let ending = env.clone();
    let done = env.spawn("meta", async move {
        parts.run_to_end(&ending).await;
        close(&kv).await;
        drop(data);
    });
    Ok(RunningMeta {
        address,
        admin_address,
        readiness,
        workers,
        done,
    })
}

async fn close(kv: &EmbeddedKv) {
    if let Err(error) = kv.close().await {
        tracing::error!(%error, "the key-value store did not close cleanly");
    }
}

/// What ends with the server.
struct Parts {
    server: Server,
    admin: Task<()>,
    admin_address: SocketAddr,
    readiness: Readiness,
    workers: Workers,
    tasks: Vec<Task<()>>,
}

impl Parts {
    async fn run_to_end(self, env: &Env) {
        self.server.join().await;
        let ends = env.now() + END_TIME;
        for task in self.tasks.into_iter().chain([self.admin]) {
            while !task.is_finished() && env.now() < ends {
                env.sleep(Duration::from_millis(5)).await;
            }
            task.abort();
            let _ended = task.join().await;
        }
    }
}

async fn start(
    config: &MetaConfig,
    env: &Env,
    endpoint: Endpoint,
    kv: Arc<EmbeddedKv>,
    shutdown: Shutdown,
) -> Result<Parts, ServeError> {
    let signal = shutdown.signal();
    let kv: Arc<dyn Kv> = kv;
    bootstrap::ensure_root(env, &*kv)
        .await
        .map_err(ServeError::Root)?;
    let readiness = Readiness::default();
    readiness.not_ready("mgmtd", "starting");
    let (admin_address, admin) =
        serve_admin(env, &config.admin_listen, &readiness, signal.clone()).await?;

    let id = ClientId(env.random_u128());
    let mgmtd = MgmtdClient::new(env, endpoint.clone(), config.mgmtd.clone(), id);
    let routing = RoutingCache::new(env, mgmtd.clone());
    let namespace = namespace(config, env, &endpoint, kv.clone(), (&mgmtd, &routing, id));
    let routes = Arc::new(service::router(&namespace));
    let server = endpoint
        .serve(&config.listen, routes, signal.clone())
        .await?;

    let node = (NodeId(config.node_id), advertised(config, &server));
    let heartbeats = Heartbeats::new(env, mgmtd, routing.clone(), readiness.clone(), node);
    let patience = Patience {
        grace: Duration::from_millis(config.garbage_grace_ms),
        scan: Duration::from_millis(config.garbage_scan_ms),
    };
    let collector = Collector::new(namespace.clone(), patience, signal.clone());
    let look = StoreLook {
        kv,
        readiness: readiness.clone(),
    };
    let workers = Workers::default();
    let mut tasks = vec![
        workers.start(env, signal.clone(), heartbeats),
        workers.start(env, signal.clone(), collector),
        workers.start(env, signal.clone(), SessionPruner::new(namespace.clone())),
        workers.start(env, signal.clone(), ResultPruner::new(namespace)),
        workers.start(env, signal.clone(), look),
    ];
    tasks.extend(routing.start(signal));
    Ok(Parts {
        server,
        admin,
        admin_address,
        readiness,
        workers,
        tasks,
    })
}

fn namespace(
    config: &MetaConfig,
    env: &Env,
    endpoint: &Endpoint,
    kv: Arc<dyn Kv>,
    (mgmtd, routing, id): (&MgmtdClient, &RoutingCache, ClientId),
) -> Arc<Namespace> {
    let options = StorageOptions {
        operation_limit: CHUNKS_LIMIT,
        ..StorageOptions::default()
    };
    let storage = StorageClient::new(env, endpoint.clone(), routing.clone(), id, options);
    let cluster = RemoteCluster {
        mgmtd: mgmtd.clone(),
        routing: routing.clone(),
    };
    // Servers that start together do not put their first files on one chain.
    let first_base = u32::try_from(env.random_below(1 << 16)).expect("below a u32");
    let picker = ChainPicker::new(config.chunk_size, config.stripe_size, first_base);
    Namespace::new(env, kv, Arc::new(storage), Arc::new(cluster), picker)
}

fn advertised(config: &MetaConfig, server: &Server) -> Vec<String> {
    if config.advertise.is_empty() {
        vec![server.address()]
    } else {
        config.advertise.clone()
    }
}

async fn serve_admin(
    env: &Env,
    listen: &str,
    readiness: &Readiness,
    signal: ShutdownSignal,
) -> Result<(SocketAddr, Task<()>), ServeError> {
    let fail = |source| ServeError::Admin {
        address: listen.to_owned(),
        source,
    };
    let address: SocketAddr = listen
        .parse()
        .map_err(|error| fail(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
    http::serve(env, address, readiness.clone(), Default::default(), signal)
        .await
        .map_err(fail)
}

/// Looks whether the store still works: one that failed stays so until it is opened again.
struct StoreLook {
    kv: Arc<dyn Kv>,
    readiness: Readiness,
}

impl Worker for StoreLook {
    fn name(&self) -> &'static str {
        "store-look"
    }

    async fn step(&mut self) -> Next {
        let mut txn = self.kv.begin();
        match store::inode::require(&mut *txn, ROOT_INODE, ReadMode::Snapshot).await {
            Ok(_root) => self.readiness.ready("kv"),
            Err(error) => self.readiness.not_ready("kv", error.to_string()),
        }
        Next::Wait(LOOK_EVERY)
    }

    fn status(&self) -> String {
        "looking".to_owned()
    }
}
