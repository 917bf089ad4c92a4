//! Starts a storage node: directories and disks, the network, the lease, the targets; and ends it.
//!
//! Order of the start: the data directory is locked, the disks open (which checks and repairs them), requests
//! are served (and refused: there is no lease), then heartbeats begin, which tell the manager where this node
//! listens. Order of the end: no new requests, those under way end, heartbeats stop, the disks close.

use std::{io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use client::{MgmtdClient, RoutingCache};
use common::{
    buf::BufPool,
    data_dir::{DataDir, DataDirError},
    env::{Env, Task},
    http::{self, Readiness},
    shutdown::{Shutdown, ShutdownSignal},
    worker::Workers,
};
use engine::{Engine, OpenError};
use futures::future::join_all;
use net::{Endpoint, NetConfig, Server, Transports};
use types::id::{BootId, ClientId, DiskIndex, NodeId};

use crate::{
    config::StorageConfig,
    disk::Disk,
    heartbeat::Heartbeats,
    node::{Node, Parts},
    room::SERVER_BYTES,
    scrub::Scrubber,
    service,
};

/// The version of the layout of a storage node's directory.
const DATA_VERSION: u32 = 1;
/// Disks of one node at most: `DiskIndex` is a byte.
const DISKS_MAX: usize = 256;

/// Why a storage node does not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The data directory is in use, of another version, or not ours.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// A disk's directory is in use, of another version, or not ours.
    #[error("disk {index}: {source}")]
    DiskDir {
        /// Which disk.
        index: usize,
        /// What is wrong.
        source: DataDirError,
    },
    /// No disk could be opened.
    #[error("no disk could be opened; first: {reason}")]
    NoDisk {
        /// What the first said.
        reason: String,
    },
    /// Too many disks are configured.
    #[error("{count} disks are configured; a node has at most 256")]
    TooManyDisks {
        /// How many.
        count: usize,
    },
    /// A limit of resyncs makes no sense.
    #[error("`{key}` is {value}; it must be from 1 to {max}")]
    ResyncLimit {
        /// Which one.
        key: &'static str,
        /// What was given.
        value: u32,
        /// The greatest allowed.
        max: u32,
    },
    /// No manager is configured.
    #[error("no manager is configured; set `mgmtd` to the managers' addresses")]
    NoManager,
    /// The address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] net::ServeError),
    /// The admin address is none.
    #[error("`admin_listen` is not an address: {address}")]
    AdminAddress {
        /// What was given.
        address: String,
    },
    /// The admin address cannot be listened on.
    #[error(
        "cannot listen on the admin address {address}: {source}; choose another with `admin_listen`"
    )]
    AdminListen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

/// A storage node that listens.
#[derive(Debug)]
pub struct RunningStorage {
    address: String,
    admin_address: SocketAddr,
    node: Arc<Node>,
    server: Server,
    tasks: Vec<Task<()>>,
    /// Locked while the node runs; `None` when its disks are the caller's.
    _data: Option<DataDir>,
}

impl RunningStorage {
    /// Where requests are served.
    pub fn address(&self) -> String {
        self.address.clone()
    }

    /// Where `/metrics`, `/healthz` and `/workers` are served.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin_address
    }

    /// Why the node is not ready yet.
    pub fn readiness(&self) -> Readiness {
        self.node.readiness.clone()
    }

    /// Waits for the end that the shutdown asked for.
    pub async fn join(self) {
        self.server.join().await;
        for task in self.tasks {
            // A task that panicked has ended as well; the panic hook has logged it.
            let _ended = task.join().await;
        }
        // One that does not end does not keep the others from it.
        let engines = self.node.disks.iter().filter_map(|disk| disk.engine().ok());
        join_all(engines.map(Engine::close)).await;
    }
}

/// Starts a storage node; returns once it listens.
///
/// # Errors
/// See `ServeError`.
pub async fn serve(
    config: StorageConfig,
    env: Env,
    shutdown: Shutdown,
) -> Result<RunningStorage, ServeError> {
    // Before anything is made or opened.
    admin_address(&config)?;
    let data = DataDir::open(&config.data, "storage", DATA_VERSION)?;
    let buffers = BufPool::new(usize::try_from(config.buffer_bytes).unwrap_or(usize::MAX));
    let disks = open_disks(&env, &config, &buffers).await?;
    let net = NetConfig {
        server_payload_bytes_max: u32::try_from(SERVER_BYTES).unwrap_or(u32::MAX),
        ..NetConfig::default()
    };
    let endpoint = Endpoint::new(&env, Transports::tcp(), buffers, net);
    let mut running = serve_on(config, env, endpoint, disks, shutdown).await?;
    running._data = Some(data);
    Ok(running)
}

/// Starts a storage node on an endpoint and disks of the caller's.
///
/// # Errors
/// See `ServeError`.
pub async fn serve_on(
    config: StorageConfig,
    env: Env,
    endpoint: Endpoint,
    disks: Vec<OpenedDisk>,
    shutdown: Shutdown,
) -> Result<RunningStorage, ServeError> {
    let admin = admin_address(&config)?;
    let disks: Vec<Arc<Disk>> = (0..=u8::MAX)
        .zip(disks)
        .map(|(index, disk)| Disk::new(DiskIndex(index), disk.dir, disk.engine, config.resync()))
        .map(Arc::new)
        .collect();
    let client = ClientId(env.random_u128());
    let mgmtd = MgmtdClient::new(&env, endpoint.clone(), config.mgmtd.clone(), client);
    let routing = RoutingCache::new(&env, mgmtd.clone());
    let node = Arc::new(Node::new(Parts {
        env: env.clone(),
        id: NodeId(config.node_id),
        endpoint: endpoint.clone(),
        routing: routing.clone(),
        disks,
    }));

    let handler = Arc::new(service::router(&node));
    let server = endpoint
        .serve(&config.listen, handler, shutdown.signal())
        .await?;
    let address = server.address();
    let readiness = node.readiness.clone();
    // Whoever asks before the tasks below have said anything.
    for part in ["mgmtd", "targets"] {
        readiness.not_ready(part, "starting");
    }
    let workers = Workers::default();
    let page = {
        let workers = workers.clone();
        let page = axum::routing::get(move || std::future::ready(workers.page()));
        axum::Router::new().route("/workers", page)
    };
    let (admin_address, admin_task) = http::serve(&env, admin, readiness, page, shutdown.signal())
        .await
        .map_err(|source| ServeError::AdminListen {
            address: admin,
            source,
        })?;
    let mut tasks = vec![admin_task];
    tasks.extend(routing.start(shutdown.signal()));
    let follow = node.clone().follow_maps(shutdown.signal());
    tasks.push(env.spawn("targets", follow));
    tasks.extend(start_scrubs(&config, &node, &workers, &shutdown.signal()));
    let heartbeats = Heartbeats {
        node: node.clone(),
        mgmtd,
        boot: BootId(env.random_u64()),
        addresses: advertised(&config, &address),
        tags: config.tags,
    };
    tasks.push(env.spawn("heartbeat", heartbeats.run(shutdown.signal())));
    tracing::info!(node = node.id.0, address, %admin_address, "storage node listens");
    Ok(RunningStorage {
        address,
        admin_address,
        node,
        server,
        tasks,
        _data: None,
    })
}

/// A disk that was opened, or why it was not.
#[derive(Debug)]
pub struct OpenedDisk {
    /// For messages.
    pub dir: PathBuf,
    /// A disk that did not open is reported as failed.
    pub engine: Result<Engine, String>,
}

/// Checks what of the configuration is needed whatever the disks are.
fn admin_address(config: &StorageConfig) -> Result<SocketAddr, ServeError> {
    if config.mgmtd.is_empty() {
        return Err(ServeError::NoManager);
    }
    for (key, value, max) in [
        ("resync_parallel", config.resync_parallel, 256),
        ("resync_percent", config.resync_percent, 100),
    ] {
        if !(1..=max).contains(&value) {
            return Err(ServeError::ResyncLimit { key, value, max });
        }
    }
    let address = config.admin_listen.parse();
    address.map_err(|_| ServeError::AdminAddress {
        address: config.admin_listen.clone(),
    })
}

fn advertised(config: &StorageConfig, address: &str) -> Vec<String> {
    if config.advertise.is_empty() {
        vec![address.to_owned()]
    } else {
        config.advertise.clone()
    }
}

/// One scrub for each disk that opened.
fn start_scrubs(
    config: &StorageConfig,
    node: &Arc<Node>,
    workers: &Workers,
    end: &ShutdownSignal,
) -> Vec<Task<()>> {
    /// Of a day.
    const SECONDS: u64 = 24 * 60 * 60;
    if config.scrub_days == 0 {
        return Vec::new();
    }
    let interval = Duration::from_secs(u64::from(config.scrub_days) * SECONDS);
    let disks = node.disks.iter().filter(|disk| disk.engine().is_ok());
    let start = |disk: &Arc<Disk>| {
        let scrubber = Scrubber::new(node.clone(), disk.clone(), interval);
        workers.start(&node.env, end.clone(), scrubber)
    };
    disks.map(start).collect()
}

/// Opens the disks. One that does not open is reported as failed, and the others serve; a directory that is
/// not ours or in use is a mistake of whoever starts the node, who hears of it.
async fn open_disks(
    env: &Env,
    config: &StorageConfig,
    buffers: &BufPool,
) -> Result<Vec<OpenedDisk>, ServeError> {
    let dirs = config.disk_dirs();
    if dirs.len() > DISKS_MAX {
        return Err(ServeError::TooManyDisks { count: dirs.len() });
    }
    let mut disks = Vec::new();
    for (index, dir) in dirs.into_iter().enumerate() {
        let opened = Engine::open(env, &dir, config.engine(), buffers.clone()).await;
        let engine = match opened {
            Ok(engine) => Ok(engine),
            Err(OpenError::Directory(source)) => {
                return Err(ServeError::DiskDir { index, source });
            }
            Err(error) => {
                tracing::error!(disk = index, dir = %dir.display(), %error, "disk out of service");
                Err(error.to_string())
            }
        };
        disks.push(OpenedDisk { dir, engine });
    }
    if let Some(Err(reason)) = disks.first().map(|disk| &disk.engine)
        && disks.iter().all(|disk| disk.engine.is_err())
    {
        let reason = reason.clone();
        return Err(ServeError::NoDisk { reason });
    }
    Ok(disks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_resyncs_that_make_no_sense_are_refused() {
        let check = |resync_parallel, resync_percent| {
            let config = StorageConfig {
                resync_parallel,
                resync_percent,
                ..StorageConfig::default()
            };
            admin_address(&config).map_err(|error| error.to_string())
        };
        assert!(check(1, 1).is_ok() && check(256, 100).is_ok());
        for (parallel, percent) in [(0, 50), (257, 50), (8, 0), (8, 101)] {
            let refused = check(parallel, percent).unwrap_err();
            assert!(refused.contains("must be from 1 to"), "{refused}");
        }
    }
}
