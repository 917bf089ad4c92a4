//! Managers and storage nodes as a test starts, stops and asks them.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use common::{
    buf::BufPool,
    env::{Env, Instant, Task},
    shutdown::Shutdown,
    sync::Mutex,
};
use mgmtd::{MgmtdConfig, RunningMgmtd};
use net::{Endpoint, MemNetwork, NetConfig, Transports};
use tempfile::TempDir;
use types::{
    chain::Chain,
    id::{BootId, ChainId, ChainTableId, ClientId, DiskIndex, NodeId, RequestId, TargetId},
    node::NodeKind,
    routing::RoutingInfo,
    rpc::{
        Caller, Rpc,
        mgmtd::{
            CreateChains, CreateChainsReply, CreateChainsRequest, DiskReport, Heartbeat,
            HeartbeatReply, SendHeartbeat, TargetReport, WatchRouting, WatchRoutingRequest,
        },
    },
    status::{Detail, Status, StatusCode},
    target::{LocalState, PublicState},
    user::Identity,
    version::{ChainVersion, HeartbeatNumber, RoutingVersion},
};

/// Node ids of managers start here.
const FIRST: u32 = 201;

/// A manager group and the way to it.
pub(crate) struct Group {
    pub(crate) env: Env,
    pub(crate) network: MemNetwork,
    dir: TempDir,
    size: u32,
    snapshot_entries: u64,
    running: BTreeMap<u32, (RunningMgmtd, Shutdown)>,
    pub(crate) caller: Arc<Asker>,
}

/// Finds the leader and asks it.
pub(crate) struct Asker {
    env: Env,
    endpoint: Endpoint,
    addresses: Vec<String>,
    leader: Mutex<Option<String>>,
}

pub(crate) fn address(index: u32) -> String {
    format!("mem://manager-{index}")
}

fn endpoint(env: &Env, network: &MemNetwork) -> Endpoint {
    let transports = Transports::with_mem(network.clone());
    Endpoint::new(env, transports, BufPool::new(1 << 20), NetConfig::default())
}

impl Group {
    pub(crate) async fn start(size: u32) -> Self {
        Self::start_with(size, 1000).await
    }

    pub(crate) async fn start_with(size: u32, snapshot_entries: u64) -> Self {
        let env = Env::seeded(11);
        let network = MemNetwork::new();
        let caller = Arc::new(Asker {
            env: env.clone(),
            endpoint: endpoint(&env, &network),
            addresses: (0..size).map(address).collect(),
            leader: Mutex::default(),
        });
        let mut group = Self {
            env,
            network,
            dir: tempfile::tempdir().unwrap(),
            size,
            snapshot_entries,
            running: BTreeMap::new(),
            caller,
        };
        for index in 0..size {
            group.start_manager(index).await;
        }
        group
    }

    pub(crate) fn config(&self, index: u32) -> MgmtdConfig {
        let members = (0..self.size).map(|i| ((FIRST + i).to_string(), address(i)));
        let mut config = MgmtdConfig {
            node_id: FIRST + index,
            listen: address(index),
            admin_listen: "127.0.0.1:0".to_owned(),
            members: if self.size == 1 {
                BTreeMap::new()
            } else {
                members.collect()
            },
            data: self.data(index),
            ..MgmtdConfig::default()
        };
        config.raft.snapshot_entries = self.snapshot_entries;
        config
    }

    pub(crate) fn data(&self, index: u32) -> PathBuf {
        self.dir.path().join(index.to_string())
    }

    pub(crate) async fn start_manager(&mut self, index: u32) {
        let shutdown = Shutdown::new();
        let endpoint = endpoint(&self.env, &self.network);
        let started = mgmtd::serve_on(
            self.config(index),
            self.env.clone(),
            endpoint,
            shutdown.clone(),
        )
        .await;
        self.running.insert(index, (started.unwrap(), shutdown));
    }

    pub(crate) async fn stop_manager(&mut self, index: u32) {
        let (running, shutdown) = self.running.remove(&index).unwrap();
        shutdown.trigger();
        running.join().await;
    }

    pub(crate) fn manager(&self, index: u32) -> &RunningMgmtd {
        &self.running[&index].0
    }

    /// Which manager leads, once one does.
    pub(crate) async fn leader(&self) -> u32 {
        self.caller.routing().await;
        let leader = self.caller.leader.lock().clone().unwrap();
        (0..self.size)
            .find(|index| address(*index) == leader)
            .unwrap()
    }

    pub(crate) async fn create_chains(
        &self,
        count: u32,
        replicas: u32,
    ) -> Result<CreateChainsReply, Status> {
        let request = CreateChainsRequest {
            table: ChainTableId(1),
            count,
            replicas,
        };
        self.caller.ask::<CreateChains>(&request).await
    }
}

impl Asker {
    pub(crate) fn endpoint(&self) -> Endpoint {
        self.endpoint.clone()
    }

    fn caller(&self) -> Caller {
        Caller {
            client: ClientId(1),
            request: RequestId(1),
            identity: Identity::root(),
        }
    }

    /// Asks one manager.
    pub(crate) async fn ask_at<M: Rpc>(
        &self,
        address: &str,
        request: &M::Request,
    ) -> Result<M::Response, Status> {
        let deadline = self.env.now() + Duration::from_secs(5);
        self.endpoint
            .ask::<M>(address, &self.caller(), request, deadline)
            .await
    }

    /// Asks the leader, waiting for one up to 10 s.
    pub(crate) async fn ask<M: Rpc>(&self, request: &M::Request) -> Result<M::Response, Status> {
        let give_up = self.env.now() + Duration::from_secs(10);
        let mut turn = 0;
        loop {
            let known = self.leader.lock().clone();
            let address =
                known.unwrap_or_else(|| self.addresses[turn % self.addresses.len()].clone());
            let reply = self.ask_at::<M>(&address, request).await;
            let retry = match &reply {
                Err(status) => matches!(
                    status.code,
                    StatusCode::NotLeader
                        | StatusCode::Unreachable
                        | StatusCode::NoQuorum
                        | StatusCode::DeadlineExceeded
                        | StatusCode::Cancelled
                ),
                Ok(_) => false,
            };
            if !retry || self.env.now() > give_up {
                *self.leader.lock() = Some(address);
                return reply;
            }
            turn += 1;
            *self.leader.lock() = match reply {
                Err(status) => match status.detail {
                    Detail::Leader(address) => Some(address),
                    _ => None,
                },
                Ok(_) => None,
            };
            self.env.sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) async fn routing(&self) -> RoutingInfo {
        let request = WatchRoutingRequest {
            known: RoutingVersion(0),
            wait_ms: 5000,
        };
        let reply = self.ask::<WatchRouting>(&request).await.unwrap();
        reply.routing.expect("a group that has a member has a map")
    }

    /// The first map, from now on, that fulfils `wanted`.
    pub(crate) async fn routing_when(&self, wanted: impl Fn(&RoutingInfo) -> bool) -> RoutingInfo {
        let give_up = self.env.now() + Duration::from_secs(30);
        let mut known = RoutingVersion(0);
        while self.env.now() < give_up {
            let request = WatchRoutingRequest {
                known,
                wait_ms: 1000,
            };
            let Ok(reply) = self.ask::<WatchRouting>(&request).await else {
                continue;
            };
            let Some(routing) = reply.routing else {
                continue;
            };
            assert!(routing.version > known, "the map went back");
            known = routing.version;
            if wanted(&routing) {
                return routing;
            }
        }
        panic!("the map never became as wanted; last {known}");
    }
}

pub(crate) fn states(chain: &Chain) -> Vec<(TargetId, PublicState)> {
    chain
        .targets
        .iter()
        .map(|target| (target.id, target.state))
        .collect()
}

/// A storage node that behaves as the protocol wants it (C5, C6): it follows the map.
pub(crate) struct FakeNode {
    task: Task<()>,
    pub(crate) last_reply: Arc<Mutex<Option<(Instant, HeartbeatReply)>>>,
}

impl FakeNode {
    pub(crate) fn start(group: &Group, id: u32) -> Self {
        let last_reply = Arc::default();
        let mut heart = Heart {
            env: group.env.clone(),
            asker: group.caller.clone(),
            id: NodeId(id),
            boot: BootId(group.env.random_u64()),
            number: 0,
            routing: RoutingInfo::default(),
            reopened: BTreeSet::new(),
            last_reply: Arc::clone(&last_reply),
        };
        let task = group.env.spawn("fake-node", async move {
            loop {
                heart.beat().await;
                heart.env.sleep(Duration::from_millis(500)).await;
            }
        });
        Self { task, last_reply }
    }

    /// Dies without a word.
    pub(crate) fn kill(self) {
        self.task.abort();
    }
}

struct Heart {
    env: Env,
    asker: Arc<Asker>,
    id: NodeId,
    boot: BootId,
    number: u64,
    routing: RoutingInfo,
    /// Targets that were out of service in this boot and were reopened.
    reopened: BTreeSet<TargetId>,
    last_reply: Arc<Mutex<Option<(Instant, HeartbeatReply)>>>,
}

impl Heart {
    async fn beat(&mut self) {
        self.number += 1;
        let heartbeat = Heartbeat {
            node: self.id,
            kind: NodeKind::Storage,
            boot: self.boot,
            number: HeartbeatNumber(self.number),
            addresses: vec![format!("mem://storage-{}", self.id)],
            tags: Vec::new(),
            disks: vec![DiskReport {
                disk: DiskIndex(0),
                capacity_bytes: 1000,
                used_bytes: 10,
                failure: None,
            }],
            targets: self.reports(),
            routing_version: self.routing.version,
        };
        let sent = self.env.now();
        let Ok(reply) = self.asker.ask::<SendHeartbeat>(&heartbeat).await else {
            return;
        };
        *self.last_reply.lock() = Some((sent, reply.clone()));
        if reply.routing_version > self.routing.version {
            let routing = self.asker.routing().await;
            self.follow(routing);
        }
    }

    fn reports(&self) -> Vec<TargetReport> {
        let targets = self
            .routing
            .targets
            .values()
            .filter(|target| target.node == self.id);
        targets
            .map(|target| {
                let chain = &self.routing.chains[&target.chain];
                let state = chain.state_of(target.id).unwrap();
                TargetReport {
                    target: target.id,
                    chain_version: chain.version,
                    state: self.local(target.id, state, target.created),
                    used_bytes: 1,
                }
            })
            .collect()
    }

    fn local(&self, target: TargetId, public: PublicState, created: bool) -> LocalState {
        let seen = self.reopened.contains(&target);
        match public {
            PublicState::Serving if seen || !created => LocalState::UpToDate,
            // The refill is over at once.
            PublicState::Syncing if seen => LocalState::UpToDate,
            PublicState::Serving | PublicState::Syncing => LocalState::Offline,
            PublicState::Waiting | PublicState::LastServing | PublicState::Offline => {
                LocalState::Online
            }
        }
    }

    fn follow(&mut self, routing: RoutingInfo) {
        for target in routing
            .targets
            .values()
            .filter(|target| target.node == self.id)
        {
            let state = routing.chains[&target.chain].state_of(target.id).unwrap();
            let out = matches!(
                state,
                PublicState::Offline | PublicState::LastServing | PublicState::Waiting
            );
            if out || !target.created {
                self.reopened.insert(target.id);
            }
        }
        self.routing = routing;
    }
}

/// A heartbeat of a storage node without targets.
pub(crate) fn plain_heartbeat(id: u32, boot: u64, number: u64) -> Heartbeat {
    Heartbeat {
        node: NodeId(id),
        kind: NodeKind::Storage,
        boot: BootId(boot),
        number: HeartbeatNumber(number),
        addresses: vec![format!("mem://storage-{id}")],
        tags: Vec::new(),
        disks: Vec::new(),
        targets: Vec::new(),
        routing_version: RoutingVersion(0),
    }
}

/// Every chain serves with all of its targets, and all have been created.
pub(crate) fn all_serve(routing: &RoutingInfo) -> bool {
    !routing.chains.is_empty()
        && routing.targets.values().all(|target| target.created)
        && routing.chains.values().all(|chain| {
            chain
                .targets
                .iter()
                .all(|t| t.state == PublicState::Serving)
        })
}

pub(crate) fn chain(routing: &RoutingInfo, id: u32) -> &Chain {
    &routing.chains[&ChainId(id)]
}

pub(crate) const FIRST_VERSION: ChainVersion = ChainVersion(1);
