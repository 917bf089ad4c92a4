//! The cluster of one run: managers, storage nodes, clients, and the network between them.

use std::time::Duration;

use client::{MgmtdClient, RoutingCache};
use common::{
    env::{Env, Instant},
    shutdown::Shutdown,
};
use tempfile::TempDir;
use types::{
    node::NodeKind,
    routing::RoutingInfo,
    rpc::mgmtd::{CreateChains, CreateChainsRequest, WatchRouting, WatchRoutingRequest},
    target::PublicState,
    version::{ChainTableVersion, RoutingVersion},
};

use crate::{
    context::Context,
    host::Host,
    load::{Placement, SimClient, TABLE, view_of},
    manager::{self, Manager},
    scenario::Scenario,
};

/// Between two looks at whether it is so far, unless a new map comes before.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How long a new cluster may take until its chains serve, and an old one until they do again.
const RECOVERY_LIMIT: Duration = Duration::from_secs(180);
/// The file of the first chunk.
const FIRST_INODE: u64 = 1000;

pub(crate) struct World {
    pub(crate) context: Context,
    pub(crate) scenario: Scenario,
    pub(crate) managers: Vec<Manager>,
    pub(crate) hosts: Vec<Host>,
    pub(crate) clients: Vec<SimClient>,
    /// An operator's view of the cluster.
    pub(crate) routing: RoutingCache,
    mgmtd: MgmtdClient,
    _shutdown: Shutdown,
    /// The managers' directories; in memory, where the system has that.
    _dir: TempDir,
}

impl World {
    /// A cluster with all its chains in service.
    ///
    /// # Errors
    /// What did not start.
    pub(crate) async fn start(env: &Env, scenario: Scenario) -> Result<Self, String> {
        let context = Context::new(env, manager::addresses(scenario.managers));
        let dir = memory_dir().map_err(|error| format!("no directory for managers: {error}"))?;
        let (mgmtd, routing) = view_of(&context, context.endpoint("operator"));
        let shutdown = Shutdown::new();
        drop(routing.start(shutdown.signal()));
        let managers = (0..scenario.managers).map(|index| {
            let data = dir.path().join(index.to_string());
            Manager::new(&context, index, data)
        });
        let hosts = (1..=scenario.storage).map(|id| {
            // Its own clock, faster or slower than the managers'.
            let rate = 1_000_000 - scenario.drift_max + drawn(env, 2 * scenario.drift_max);
            Host::new(context.with_drift(rate), id, scenario.disk_latency_max)
        });
        let mut world = Self {
            managers: managers.collect(),
            hosts: hosts.collect(),
            clients: Vec::new(),
            context,
            scenario,
            routing,
            mgmtd,
            _shutdown: shutdown,
            _dir: dir,
        };
        for manager in &mut world.managers {
            manager.start().await?;
        }
        for host in &mut world.hosts {
            host.start().await?;
        }
        let version = world.make_chains().await?;
        let placement = Placement {
            version,
            chains: world.scenario.chains,
            chunks: world.scenario.chunks,
            first_inode: FIRST_INODE,
        };
        world.clients = (1..=world.scenario.clients)
            .map(|number| SimClient::simulated(&world.context, number, placement))
            .collect();
        world.wait_until_whole().await?;
        Ok(world)
    }

    async fn make_chains(&self) -> Result<ChainTableVersion, String> {
        let (needed, env) = (self.hosts.len(), &self.context.env);
        let deadline = env.now() + RECOVERY_LIMIT;
        let mut maps = self.routing.subscribe();
        let registered = maps.wait_for(|map| {
            let nodes = map.nodes.values();
            nodes.filter(|node| node.kind == NodeKind::Storage).count() == needed
        });
        let registered = env.timeout_at(deadline, registered).await;
        registered
            .map_err(|_| format!("{needed} storage nodes are not known to the managers"))?
            .map_err(|error| error.to_string())?;
        let request = CreateChainsRequest {
            table: TABLE,
            count: self.scenario.chains,
            replicas: self.scenario.replicas,
        };
        let made = self.mgmtd.call::<CreateChains>(&request, deadline).await;
        let reply = made.map_err(|status| format!("the managers made no chains: {status}"))?;
        Ok(reply.version)
    }

    /// Waits until every storage node is ready and every target of every chain serves.
    ///
    /// # Errors
    /// Which do not, after the time it may take.
    pub(crate) async fn wait_until_whole(&self) -> Result<(), String> {
        let env = &self.context.env;
        let end = env.now() + RECOVERY_LIMIT;
        let mut maps = self.routing.subscribe();
        loop {
            let missing = self.missing(end).await?;
            if missing.is_empty() {
                return Ok(());
            }
            if env.now() > end {
                return Err(format!("not whole after {RECOVERY_LIMIT:?}: {missing:?}"));
            }
            // A node may become ready without a new map, so it looks again also without one.
            let _changed = env.timeout(LOOK_EVERY, maps.changed()).await;
        }
    }

    /// What does not work yet. The managers are asked after the nodes: a node that was away and is ready again has been seen
    /// dead by them, which the map that is known here need not show.
    async fn missing(&self, deadline: Instant) -> Result<Vec<String>, String> {
        let mut missing: Vec<String> = self.hosts.iter().filter_map(Host::obstacle).collect();
        if missing.is_empty() {
            let request = WatchRoutingRequest {
                known: RoutingVersion(0),
                wait_ms: 0,
            };
            let asked = self.mgmtd.call::<WatchRouting>(&request, deadline).await;
            let reply = asked.map_err(|status| format!("the managers tell no map: {status}"))?;
            let map = reply.routing.unwrap_or_default();
            missing = not_serving(&map);
            if map.chains.len() != self.scenario.chains as usize {
                missing.push(format!("{} chains", map.chains.len()));
            }
            self.routing.offer(map);
        }
        Ok(missing)
    }

    /// The names at which somebody is, or will be, on the network.
    pub(crate) fn names(&self) -> Vec<String> {
        let managers = (0..self.scenario.managers).map(manager::name);
        let hosts = self.hosts.iter().filter_map(Host::name).map(str::to_owned);
        let clients = (1..=self.scenario.clients).map(crate::load::name);
        managers.chain(hosts).chain(clients).collect()
    }
}

/// A directory whose files need no disk.
fn memory_dir() -> std::io::Result<TempDir> {
    let mut builder = tempfile::Builder::new();
    builder.prefix("penstock-sim-");
    let in_memory = builder.tempdir_in("/dev/shm");
    in_memory.or_else(|_| builder.tempdir())
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
