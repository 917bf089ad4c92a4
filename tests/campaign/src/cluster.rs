//! The cluster under test: its network, disks and processes, and how an operator sees it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use ::tests::run;
use client::{ClusterConfig, MgmtdClient, RoutingCache};
use common::{
    buf::BufPool,
    env::{Env, Instant},
    health::{self, Health},
    shutdown::Shutdown,
};
use net::{Endpoint, NetConfig, Transports};
use sim::load::TABLE;
use types::{
    id::{ClientId, NodeId},
    node::NodeKind,
    routing::RoutingInfo,
    rpc::mgmtd::{
        CreateChains, CreateChainsRequest, GetManagers, WatchRouting, WatchRoutingRequest,
    },
    target::PublicState,
    version::{ChainTableVersion, RoutingVersion},
};

use crate::{
    disk::Disk,
    host::{Host, STORAGE},
    network::Network,
    service::Service,
};

/// Two for each storage node.
pub(crate) const CHAINS: u32 = 2 * STORAGE as u32;
/// Copies of each chunk.
const REPLICAS: u32 = 3;
/// How long a new cluster may take until it is whole, and a mended one until it is again.
const RECOVERY_LIMIT: Duration = Duration::from_secs(60);
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long managers may take to answer.
const ASK_LIMIT: Duration = Duration::from_secs(10);
/// A node with space again that does not come back within this time has given up its disk: somebody has to start it again.
const PATIENCE: Duration = Duration::from_secs(6);

/// See the module's text.
pub(crate) struct Cluster {
    pub(crate) env: Env,
    pub(crate) network: Network,
    pub(crate) disks: BTreeMap<Host, Disk>,
    pub(crate) services: BTreeMap<Host, Service>,
    /// The operator's map.
    pub(crate) routing: RoutingCache,
    pub(crate) mount: PathBuf,
    mgmtd: MgmtdClient,
    /// Storage nodes whose disks were full since everything was whole.
    pub(crate) filled: BTreeSet<Host>,
    /// How often one was started again because it had given up its disk.
    pub(crate) reopened: u32,
    _shutdown: Shutdown,
}

/// Where the managers are.
pub(crate) fn managers() -> Vec<String> {
    Host::managers().map(Host::address).collect()
}

impl Cluster {
    /// Makes everything below `work` and starts it; no chains yet.
    ///
    /// # Errors
    /// What does not work here.
    pub(crate) fn make(env: &Env, work: &Path) -> Result<Self, String> {
        let network = Network::make()?;
        let disks = Host::storage().map(|host| Ok((host, Disk::make(work, host)?)));
        let disks: BTreeMap<Host, Disk> = disks.collect::<Result<_, String>>()?;
        let mount = work.join("mnt");
        let logs = work.join("logs");
        for dir in [&mount, &logs] {
            fs::create_dir_all(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
        }
        let config = ClusterConfig { mgmtd: managers() };
        let cluster = work.join("cluster.toml");
        let saved = config.save(&cluster);
        saved.map_err(|error| format!("{}: {error}", cluster.display()))?;
        let mut services = BTreeMap::new();
        for host in Host::servers() {
            let data = match disks.get(&host) {
                Some(disk) => disk.data(),
                None => work.join(host.to_string()),
            };
            let path = work.join(format!("{host}.toml"));
            let written = fs::write(&path, config_of(host, &data));
            written.map_err(|error| format!("{}: {error}", path.display()))?;
            let args = vec![
                host.role().to_owned(),
                "--config".to_owned(),
                path.display().to_string(),
            ];
            services.insert(host, Service::new(env, host, args, &logs));
        }
        let args = [
            "mount".to_owned(),
            mount.display().to_string(),
            "--cluster".to_owned(),
            cluster.display().to_string(),
            "--foreground".to_owned(),
            "--admin-listen".to_owned(),
            Host::Mount.admin_address(),
        ];
        let service = Service::new(env, Host::Mount, args.to_vec(), &logs);
        services.insert(Host::Mount, service);
        let endpoint = Endpoint::new(
            env,
            Transports::tcp(),
            BufPool::new(1 << 20),
            NetConfig::default(),
        );
        let id = ClientId(env.random_u128());
        let mgmtd = MgmtdClient::new(env, endpoint, config.mgmtd, id);
        let routing = RoutingCache::new(env, mgmtd.clone());
        let shutdown = Shutdown::new();
        drop(routing.start(shutdown.signal()));
        Ok(Self {
            env: env.clone(),
            network,
            disks,
            services,
            routing,
            mount,
            mgmtd,
            filled: BTreeSet::new(),
            reopened: 0,
            _shutdown: shutdown,
        })
    }

    /// Starts the servers, makes chains, mounts; returns once all is whole.
    ///
    /// # Errors
    /// What does not start.
    pub(crate) async fn up(&mut self) -> Result<ChainTableVersion, String> {
        for host in Host::servers() {
            self.service(host)?.start()?;
        }
        let deadline = self.env.now() + RECOVERY_LIMIT;
        let mut maps = self.routing.subscribe();
        let registered = maps.wait_for(|map| {
            let nodes = map.nodes.values();
            let storage = nodes.filter(|node| node.kind == NodeKind::Storage);
            storage.count() == usize::from(STORAGE)
        });
        let registered = self.env.timeout_at(deadline, registered).await.is_ok();
        if !registered {
            return Err("the managers do not know all storage nodes".to_owned());
        }
        let request = CreateChainsRequest {
            table: TABLE,
            count: CHAINS,
            replicas: REPLICAS,
        };
        let made = self.mgmtd.call::<CreateChains>(&request, deadline).await;
        let made = made.map_err(|status| format!("the managers made no chains: {status}"))?;
        self.service(Host::Mount)?.start()?;
        self.wait_until_whole().await?;
        Ok(made.version)
    }

    /// The service of a host.
    ///
    /// # Errors
    /// When the host has none.
    pub(crate) fn service(&mut self, host: Host) -> Result<&mut Service, String> {
        let service = self.services.get_mut(&host);
        service.ok_or_else(|| format!("{host} runs no service"))
    }

    /// Who leads the managers.
    ///
    /// # Errors
    /// When nobody says in time.
    pub(crate) async fn leader(&self) -> Result<Host, String> {
        let deadline = self.env.now() + ASK_LIMIT;
        loop {
            let asked = self.mgmtd.call::<GetManagers>(&(), deadline).await;
            let reply = asked.map_err(|status| format!("who leads the managers: {status}"))?;
            let leads = |host: &Host| reply.leader == Some(NodeId(host.node()));
            if let Some(leader) = Host::managers().find(leads) {
                return Ok(leader);
            }
            if self.env.now() >= deadline {
                return Err("the managers have no leader".to_owned());
            }
            self.env.sleep(LOOK_EVERY).await;
        }
    }

    /// Waits until every service is ready and every target of every chain serves; tells how long it took.
    ///
    /// # Errors
    /// What is not, after the time it may take; a process that ended by itself at once.
    pub(crate) async fn wait_until_whole(&mut self) -> Result<Duration, String> {
        let begun = self.env.now();
        loop {
            for service in self.services.values_mut() {
                service.check()?;
            }
            let waited = self.env.now() - begun;
            let missing = self.missing(begun + RECOVERY_LIMIT).await?;
            if missing.is_empty() {
                self.filled.clear();
                return Ok(waited);
            }
            if waited > RECOVERY_LIMIT {
                return Err(format!("not whole after {RECOVERY_LIMIT:?}: {missing:#?}"));
            }
            for (host, reason) in missing {
                let given_up = waited > PATIENCE && !reason.contains("Syncing");
                if given_up && self.filled.remove(&host) {
                    self.reopened += 1;
                    let service = self.service(host)?;
                    service.kill()?;
                    service.start()?;
                }
            }
            self.env.sleep(LOOK_EVERY).await;
        }
    }

    /// What does not work yet. The managers are asked after the services: a node that was away and is ready again has been seen
    /// dead by them, which the map that is known here need not show.
    async fn missing(&self, deadline: Instant) -> Result<Vec<(Host, String)>, String> {
        let mut missing = Vec::new();
        for service in self
            .services
            .values()
            .filter(|service| service.is_running())
        {
            match health::ask(&self.env, &service.host.admin_address()).await {
                Health::Ready => {}
                Health::NotReady(reason) | Health::Silent(reason) => {
                    missing.push((service.host, reason));
                }
            }
        }
        if missing.is_empty() {
            let request = WatchRoutingRequest {
                known: RoutingVersion(0),
                wait_ms: 0,
            };
            let asked = self.mgmtd.call::<WatchRouting>(&request, deadline).await;
            let reply = asked.map_err(|status| format!("the managers tell no map: {status}"))?;
            let map = reply.routing.unwrap_or_default();
            missing = not_serving(&map);
            self.routing.offer(map);
        }
        Ok(missing)
    }

    /// Asks every process to end, users first.
    ///
    /// # Errors
    /// When one does not end in order.
    pub(crate) fn down(&mut self) -> Result<(), String> {
        let users_first = Host::all().collect::<Vec<_>>().into_iter().rev();
        for host in users_first {
            if let Some(service) = self.services.get_mut(&host) {
                service.end()?;
            }
        }
        Ok(())
    }

    /// Mounts anew, so that no cache holds anything.
    ///
    /// # Errors
    /// When it does not end or start.
    pub(crate) async fn remount(&mut self) -> Result<(), String> {
        let ended = run::penstock(["umount".as_ref(), self.mount.as_os_str()]);
        if ended.code != Some(0) {
            return Err(format!("it cannot be unmounted: {}", ended.stderr));
        }
        self.service(Host::Mount)?.end()?;
        self.service(Host::Mount)?.start()?;
        self.wait_until_whole().await?;
        Ok(())
    }
}

/// The configuration of a host's service.
fn config_of(host: Host, data: &Path) -> String {
    let mut text = format!(
        "node_id = {}\nlisten = {:?}\nadmin_listen = {:?}\ndata = {:?}\n",
        host.node(),
        host.address(),
        host.admin_address(),
        data.display().to_string()
    );
    match host {
        Host::Manager(_) => {
            text.push_str("[members]\n");
            for manager in Host::managers() {
                text.push_str(&format!("{} = {:?}\n", manager.node(), manager.address()));
            }
        }
        Host::Storage(_) => {
            // The disks are small.
            text.push_str(&format!(
                "mgmtd = {:?}\nreserve_bytes = {}\n",
                managers(),
                64 << 20
            ));
        }
        _ => text.push_str(&format!("mgmtd = {:?}\n", managers())),
    }
    text
}

fn not_serving(map: &RoutingInfo) -> Vec<(Host, String)> {
    let mut missing = Vec::new();
    for chain in map.chains.values() {
        for target in &chain.targets {
            let node = map.targets.get(&target.id).map(|target| target.node.0);
            let host = Host::storage().find(|host| Some(host.node()) == node);
            if target.state != PublicState::Serving {
                let reason = format!(
                    "target {} of chain {} is {:?}",
                    target.id, chain.id, target.state
                );
                missing.push((host.unwrap_or(Host::Storage(0)), reason));
            }
        }
    }
    if map.chains.len() != CHAINS as usize {
        let reason = format!("{} chains", map.chains.len());
        missing.push((Host::Manager(0), reason));
    }
    missing
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_host_has_its_part_of_the_configuration() {
        let storage = config_of(Host::Storage(2), Path::new("/d"));
        assert!(
            storage.starts_with("node_id = 2\nlisten = \"10.77.2.2:7400\"\n"),
            "{storage}"
        );
        assert!(
            storage.contains("mgmtd = [\"10.77.1.1:7400\", "),
            "{storage}"
        );
        let manager = config_of(Host::Manager(3), Path::new("/d"));
        assert!(manager.ends_with("203 = \"10.77.1.3:7400\"\n"), "{manager}");
    }
}
