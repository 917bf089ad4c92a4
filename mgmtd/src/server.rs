//! A running manager: opens the data directory, joins its group, serves, ends in order.
//!
//! Order of start: data directory, log and state, listen, make the group when there is none, then the background tasks
//! (`leadership`, `keeper`, `announce`, readiness). Order of end: the server drains, the tasks stop, the log closes.

use std::{collections::BTreeMap, io, net::SocketAddr, sync::Arc, time::Duration};

use common::{
    buf::BufPool,
    data_dir::{DataDir, DataDirError},
    env::{Env, Task},
    http::{self, Readiness},
    shutdown::{Shutdown, ShutdownSignal},
};
use net::{Endpoint, NetConfig, Server, Transports};
use types::id::{ClientId, NodeId};

use crate::{
    announce::Announcer,
    config::MgmtdConfig,
    keeper,
    leadership::{self, Leadership},
    manager::{Configured, Manager, ManagerTimes},
    metrics,
    raft::{Member, Members, Peers, RaftStartError},
    service::{self, NetPeers},
};

/// Format of the data directory.
const DATA_FORMAT: u32 = 1;
/// Free buffers a manager keeps: it moves no bulk.
const BUFFER_BYTES: usize = 1 << 20;
/// How often readiness and gauges are looked at when nothing changes.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Why a manager does not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The settings do not fit together.
    #[error("the configuration is not valid: {reason}")]
    Config {
        /// Which and why.
        reason: String,
    },
    /// The data directory was refused.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The group's log or core.
    #[error(transparent)]
    Raft(#[from] RaftStartError),
    /// The address for other processes.
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

/// A manager that listens.
#[derive(Debug)]
pub struct RunningMgmtd {
    address: String,
    admin_address: SocketAddr,
    readiness: Readiness,
    done: Task<()>,
}

impl RunningMgmtd {
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

    /// Waits for its end, which the shutdown asks for.
    pub async fn join(self) {
        // A panic was logged by the panic hook; it is an end as well.
        let _ended = self.done.join().await;
    }
}

/// Starts a manager on tcp; returns once it listens.
///
/// # Errors
/// See `ServeError`.
pub async fn serve(
    config: MgmtdConfig,
    env: Env,
    shutdown: Shutdown,
) -> Result<RunningMgmtd, ServeError> {
    let buffers = BufPool::new(BUFFER_BYTES);
    let endpoint = Endpoint::new(&env, Transports::tcp(), buffers, NetConfig::default());
    serve_on(config, env, endpoint, shutdown).await
}

/// Starts a manager on an endpoint of the caller's.
///
/// # Errors
/// See `ServeError`.
pub async fn serve_on(
    config: MgmtdConfig,
    env: Env,
    endpoint: Endpoint,
    shutdown: Shutdown,
) -> Result<RunningMgmtd, ServeError> {
    let members = config.checked_members()?;
    let own = NodeId(config.node_id);
    let dir = config.data.clone();
    let data = env
        .blocking(move || DataDir::open(&dir, "mgmtd", DATA_FORMAT))
        .await?;
    let readiness = Readiness::default();
    readiness.not_ready("raft", "starting");
    let process = ClientId(env.random_u128());
    let peers = Arc::new(NetPeers::new(endpoint.clone(), process, members.clone()));
    let member = Member::start(&env, own, data.path(), peers.clone(), &config.raft).await?;
    let member = Arc::new(member);
    let times = ManagerTimes {
        leases: config.lease_times(),
        client_session: Duration::from_millis(config.client_session_ms),
    };
    let leadership = Leadership::new(config.leadership_time());
    let manager = Manager::new(&env, times, member.clone(), leadership.clone());
    let running = Parts {
        env,
        own,
        data,
        manager: Arc::new(manager),
        member,
        peers,
        leadership,
        readiness,
        shutdown,
    };
    let started = running.start(&config, &endpoint, members).await;
    if started.is_err() {
        running.member.stop().await;
    }
    let (server, admin) = started?;
    Ok(running.run(server, admin))
}

/// What a manager is made of.
struct Parts {
    env: Env,
    own: NodeId,
    data: DataDir,
    manager: Arc<Manager>,
    member: Arc<Member>,
    peers: Arc<dyn Peers>,
    leadership: Leadership,
    readiness: Readiness,
    shutdown: Shutdown,
}

/// The admin port.
type Admin = (SocketAddr, Task<()>);

impl Parts {
    /// Listens, and makes the group when there is none.
    async fn start(
        &self,
        config: &MgmtdConfig,
        endpoint: &Endpoint,
        mut members: BTreeMap<NodeId, String>,
    ) -> Result<(Server, Admin), ServeError> {
        let admin = self.serve_admin(&config.admin_listen).await?;
        let routes = Arc::new(service::routes(&self.manager, &self.member));
        let server = endpoint
            .serve(&config.listen, routes, self.shutdown.signal())
            .await?;
        members.entry(self.own).or_insert_with(|| server.address());
        self.manager.set_configured(Configured {
            addresses: members.clone(),
            joins: config.join,
        });
        let founders = (!config.join).then_some(&members);
        self.member.bootstrap(founders).await?;
        Ok((server, admin))
    }

    async fn serve_admin(&self, listen: &str) -> Result<Admin, ServeError> {
        let fail = |source| ServeError::Admin {
            address: listen.to_owned(),
            source,
        };
        let listen: SocketAddr = listen
            .parse()
            .map_err(|error| fail(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
        let (readiness, signal) = (self.readiness.clone(), self.shutdown.signal());
        http::serve(&self.env, listen, readiness, Default::default(), signal)
            .await
            .map_err(fail)
    }

    /// Starts the background tasks.
    fn run(self, server: Server, (admin_address, admin): Admin) -> RunningMgmtd {
        let address = server.address();
        let env = self.env.clone();
        let announcer = Announcer {
            env: env.clone(),
            id: self.own,
            address: self
                .manager
                .address_of(self.own)
                .unwrap_or_else(|| address.clone()),
            manager: self.manager.clone(),
            member: self.member.clone(),
            peers: self.peers.clone(),
            leadership: self.leadership.clone(),
        };
        let leading = leadership::keep(
            env.clone(),
            self.member.clone(),
            self.leadership.clone(),
            self.shutdown.signal(),
        );
        let keeping = keeper::keep(
            env.clone(),
            self.manager.clone(),
            self.leadership.clone(),
            self.shutdown.signal(),
        );
        let looking = look(
            env.clone(),
            self.manager.clone(),
            self.member.clone(),
            self.leadership.clone(),
            self.readiness.clone(),
            self.shutdown.signal(),
        );
        let tasks = [
            env.spawn("mgmtd-leadership", leading),
            env.spawn("mgmtd-keeper", keeping),
            env.spawn("mgmtd-announce", announcer.run(self.shutdown.signal())),
            env.spawn("mgmtd-look", looking),
        ];
        let readiness = self.readiness.clone();
        let done = env.spawn("mgmtd", self.supervise(server, admin, tasks));
        RunningMgmtd {
            address,
            admin_address,
            readiness,
            done,
        }
    }

    /// Ends everything at shutdown, or when a task ends before: a manager that leads without deciding would be worse
    /// than none.
    async fn supervise<const N: usize>(
        self,
        server: Server,
        admin: Task<()>,
        tasks: [Task<()>; N],
    ) {
        let mut signal = self.shutdown.signal();
        while !signal.is_triggered() {
            if tasks.iter().any(Task::is_finished) && !signal.is_triggered() {
                tracing::error!("a part of this manager ended unexpectedly; it stops");
                self.shutdown.trigger();
            }
            tokio::select! {
                () = self.env.sleep(LOOK_INTERVAL) => {}
                () = signal.wait() => {}
            }
        }
        self.leadership.lose();
        self.member.stop().await;
        server.join().await;
        for task in tasks {
            let _ended = task.join().await;
        }
        let _ended = admin.join().await;
        // The lock of the data directory goes last.
        drop(self.data);
    }
}

/// Keeps readiness and gauges as they are; until shutdown.
async fn look(
    env: Env,
    manager: Arc<Manager>,
    member: Arc<Member>,
    leadership: Leadership,
    readiness: Readiness,
    mut shutdown: ShutdownSignal,
) {
    let mut terms = leadership.subscribe();
    let mut failed = false;
    while !shutdown.is_triggered() {
        let leads = terms.borrow_and_update().is_some();
        metrics::state(leads, manager.cluster().routing.version);
        if let Some(reason) = member.failure().filter(|_| !failed) {
            failed = true;
            tracing::error!(
                reason,
                "this manager is out of service until it is started again"
            );
        }
        match obstacle(&manager, &member, leads) {
            Some(reason) => readiness.not_ready("raft", reason),
            None => readiness.ready("raft"),
        }
        let changed = member.role_changes();
        tokio::select! {
            () = changed => {}
            () = env.sleep(LOOK_INTERVAL) => {}
            changed = terms.changed() => if changed.is_err() { return },
            () = shutdown.wait() => {}
        }
    }
}

/// Why this member cannot serve yet.
fn obstacle(manager: &Manager, member: &Member, leads: bool) -> Option<String> {
    if let Some(failure) = member.failure() {
        return Some(format!("stopped: {failure}"));
    }
    let members = member.members();
    if let Some(reason) = outside(manager, &members, member.id()) {
        return Some(reason);
    }
    let managers = manager.managers().members.len();
    let quorum = managers / 2 + 1;
    match member.leader() {
        None => Some(format!(
            "no leader yet: waiting for {quorum} of {managers} managers"
        )),
        Some(_) if member.believes_to_lead() && !leads => Some(format!(
            "elected, waiting to hear from {quorum} of {managers} managers"
        )),
        Some(_) => None,
    }
}

/// Why this process is no member that votes, when it is none.
fn outside(manager: &Manager, members: &Members, own: NodeId) -> Option<String> {
    let known = !members.is_empty();
    if manager.is_removed() || (known && members.address(own).is_none()) {
        return Some("removed from the manager group; stop this process".to_owned());
    }
    if members.voters.contains_key(&own) {
        return None;
    }
    if known {
        return Some("copying the log; it has no vote yet".to_owned());
    }
    let address = manager.address_of(own).unwrap_or_default();
    manager.waits_to_join().then(|| {
        format!("waiting to join a group: run `penstock admin manager add {own} {address}`")
    })
}
