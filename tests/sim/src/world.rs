//! The cluster of one run: managers, storage nodes, clients, and the network between them.

use std::{sync::Arc, time::Duration};

use client::{MgmtdClient, RoutingCache};
use common::{env::Env, shutdown::Shutdown, sync::Mutex};
use net::MemNetwork;
use tempfile::TempDir;
use types::{
    routing::RoutingInfo,
    rpc::mgmtd::{CreateChains, CreateChainsRequest},
    target::PublicState,
};

use crate::{
    event_log::EventLog,
    history::History,
    host::Host,
    load::{Common, Placement, SimClient, TABLE, process},
    manager::{self, Manager},
    scenario::Scenario,
};

/// How long a new cluster may take until its chains serve, and an old one until they do again.
pub(crate) const RECOVERY_LIMIT: Duration = Duration::from_secs(180);
/// How long one question to the manager may take meanwhile.
const ASK_LIMIT: Duration = Duration::from_secs(5);
/// Between two looks at whether it is so far.
const LOOK_EVERY: Duration = Duration::from_millis(200);

pub(crate) struct World {
    pub(crate) env: Env,
    pub(crate) log: EventLog,
    pub(crate) scenario: Scenario,
    pub(crate) network: MemNetwork,
    pub(crate) managers: Vec<Manager>,
    pub(crate) hosts: Vec<Host>,
    pub(crate) clients: Vec<SimClient>,
    pub(crate) history: History,
    pub(crate) violations: Arc<Mutex<Vec<String>>>,
    /// An operator's view of the cluster.
    pub(crate) routing: RoutingCache,
    mgmtd: MgmtdClient,
    addresses: Vec<String>,
    _shutdown: Shutdown,
    /// The managers' directories; in memory, where the system has that.
    _dir: TempDir,
}

/// A directory whose files need no disk.
fn memory_dir() -> std::io::Result<TempDir> {
    let builder = || {
        let mut builder = tempfile::Builder::new();
        builder.prefix("penstock-sim-");
        builder
    };
    builder()
        .tempdir_in("/dev/shm")
        .or_else(|_| builder().tempdir())
}

impl World {
    /// A cluster with all its chains in service.
    ///
    /// # Errors
    /// What did not start.
    pub(crate) async fn start(env: &Env, scenario: Scenario) -> Result<Self, String> {
        let (log, network) = (EventLog::new(env), MemNetwork::new());
        let dir = memory_dir().map_err(|error| format!("no directory for managers: {error}"))?;
        let (addresses, history) = (manager::addresses(scenario.managers), History::default());
        let violations = Arc::default();
        let common = Common {
            env,
            log: &log,
            network: &network,
            managers: &addresses,
            history: &history,
            violations: &violations,
        };
        let (_, mgmtd, routing) = process(&common, "operator");
        let shutdown = Shutdown::new();
        drop(routing.start(shutdown.signal()));
        let managers = (0..scenario.managers).map(|index| {
            let data = dir.path().join(index.to_string());
            Manager::new(env, &network, (index, scenario.managers), data)
        });
        let hosts = (1..=scenario.storage).map(|id| {
            // Its own clock, faster or slower than the managers'.
            let rate = 1_000_000 - scenario.drift_max + drawn(env, 2 * scenario.drift_max);
            let disk = (id, scenario.disk_latency_max);
            Host::new(&env.with_drift(rate), &network, &addresses, disk)
        });
        let mut world = Self {
            env: env.clone(),
            managers: managers.collect(),
            hosts: hosts.collect(),
            clients: Vec::new(),
            log,
            scenario,
            network,
            history,
            violations,
            routing,
            mgmtd,
            addresses,
            _shutdown: shutdown,
            _dir: dir,
        };
        for manager in &mut world.managers {
            manager.start().await?;
        }
        for host in &mut world.hosts {
            host.start().await?;
        }
        world.make_chains().await?;
        Ok(world)
    }

    async fn make_chains(&mut self) -> Result<(), String> {
        let request = CreateChainsRequest {
            table: TABLE,
            count: self.scenario.chains,
            replicas: self.scenario.replicas,
        };
        let end = self.env.now() + RECOVERY_LIMIT;
        let reply = loop {
            let deadline = self.env.now() + ASK_LIMIT;
            let map = self.routing.current();
            let storage = map.nodes.len() >= self.hosts.len();
            if storage {
                match self.mgmtd.call::<CreateChains>(&request, deadline).await {
                    Ok(reply) => break reply,
                    Err(status) => self.log.add(format_args!("no chains yet: {status}")),
                }
            }
            if self.env.now() > end {
                return Err("the managers made no chains".to_owned());
            }
            self.env.sleep(LOOK_EVERY).await;
        };
        let placement = Placement {
            version: reply.version,
            chains: self.scenario.chains,
            chunks: self.scenario.chunks,
        };
        let common = Common {
            env: &self.env,
            log: &self.log,
            network: &self.network,
            managers: &self.addresses,
            history: &self.history,
            violations: &self.violations,
        };
        let numbers = 1..=self.scenario.clients;
        self.clients = numbers
            .map(|number| SimClient::new(&common, number, placement))
            .collect();
        self.wait_until_whole().await
    }

    /// Waits until every target of every chain serves.
    ///
    /// # Errors
    /// Which do not, after the time it may take.
    pub(crate) async fn wait_until_whole(&self) -> Result<(), String> {
        let end = self.env.now() + RECOVERY_LIMIT;
        loop {
            let map = self.routing.current();
            let missing = not_serving(&map);
            if missing.is_empty() && map.chains.len() == self.scenario.chains as usize {
                return Ok(());
            }
            if self.env.now() > end {
                return Err(format!("not whole after {RECOVERY_LIMIT:?}: {missing:?}"));
            }
            self.env.sleep(LOOK_EVERY).await;
        }
    }

    /// The names at which somebody is, or will be, on the network.
    pub(crate) fn names(&self) -> Vec<String> {
        let managers = (0..self.scenario.managers).map(manager::name);
        let hosts = self.hosts.iter().filter_map(Host::name).map(str::to_owned);
        let clients = (1..=self.scenario.clients).map(crate::load::name);
        managers.chain(hosts).chain(clients).collect()
    }
}

fn drawn(env: &Env, limit: u32) -> u32 {
    u32::try_from(env.random_below(u64::from(limit) + 1)).unwrap_or(0)
}

fn not_serving(map: &RoutingInfo) -> Vec<String> {
    let targets = map.chains.values().flat_map(|chain| {
        let targets = chain.targets.iter();
        let out = targets.filter(|target| target.state != PublicState::Serving);
        out.map(|target| {
            format!(
                "target {} of chain {}: {:?}",
                target.id, chain.id, target.state
            )
        })
    });
    targets.collect()
}
