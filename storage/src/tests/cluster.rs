//! The test's cluster: nodes with one disk each, one chain over them, and a client.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use client::RoutingCache;
use common::{
    buf::{BufPool, RegisteredBuf},
    env::Env,
    logging::LogFormat,
    shutdown::Shutdown,
    sync::Mutex,
};
use engine::{DeviceKind, Engine, EngineConfig, SyncPolicy};
use net::{Bulk, Endpoint, Handler, Incoming, MemNetwork, NetConfig, Router, Server, Transports};
use types::{
    chain::{Chain, ChainTarget},
    checksum::Checksum,
    chunk::{ChunkId, ChunkMeta, Update, UpdateTag},
    id::{
        ChainId, ChannelId, ChannelSeq, ClientId, DiskIndex, InodeId, NodeId, RequestId, TargetId,
    },
    node::{Node as NodeEntry, NodeKind, NodeStatus},
    routing::RoutingInfo,
    rpc::{
        BulkIndex, Caller,
        storage::{
            ReadChunks, ReadDone, ReadItem, ReadMode, ReadRequest, UpdateChunks, UpdateDone,
            UpdateItem, UpdateRequest,
        },
    },
    status::{Status, StatusCode},
    target::{LocalState, PublicState, Target as TargetEntry},
    user::Identity,
    version::{ChainVersion, RoutingVersion},
};

use crate::{
    disk::Disk,
    node::{Node, Parts},
    service,
    target::{Target, View},
};

pub(crate) const CHAIN: ChainId = ChainId(1);
pub(crate) const CHUNK_SIZE: u32 = 64 << 10;
/// Smaller than a chunk, so that tests can have bytes in the log and bytes in slots.
pub(crate) const SMALL_UPDATE_BYTES: u32 = 16 << 10;
pub(crate) use PublicState::{LastServing, Offline, Serving, Syncing, Waiting};

/// A node that runs.
pub(crate) struct TestNode {
    pub(crate) node: Arc<Node>,
    pub(crate) engine: Engine,
    server: Mutex<Option<Server>>,
    shutdown: Shutdown,
    handler: Arc<Switch>,
}

/// Lets go of the node when it is killed: connections to it live on in its peers.
struct Switch(Mutex<Option<Arc<Router>>>);

#[net::async_trait]
impl Handler for Switch {
    async fn handle(&self, request: Incoming) -> Result<Vec<u8>, Status> {
        let router = self.0.lock().clone();
        match router {
            Some(router) => router.handle(request).await,
            None => Err(Status::new(StatusCode::Unreachable, "killed")),
        }
    }
}

/// See the module's text. Node n holds target n.
pub(crate) struct Cluster {
    pub(crate) env: Env,
    network: MemNetwork,
    dir: tempfile::TempDir,
    nodes: Mutex<BTreeMap<u64, Arc<TestNode>>>,
    map: Mutex<RoutingInfo>,
    endpoint: Endpoint,
    next_seq: std::sync::atomic::AtomicU64,
    capacities: Vec<u64>,
}

pub(crate) fn chunk(index: u32) -> ChunkId {
    ChunkId {
        inode: InodeId(7),
        index,
    }
}

pub(crate) fn tag(channel: u16, seq: u64) -> UpdateTag {
    UpdateTag {
        client: ClientId(42),
        channel: ChannelId(channel),
        seq: ChannelSeq(seq),
    }
}

fn buffers() -> BufPool {
    BufPool::new(16 << 20)
}

fn endpoint(env: &Env, network: &MemNetwork) -> Endpoint {
    let transports = Transports::with_mem(network.clone());
    Endpoint::new(env, transports, buffers(), NetConfig::default())
}

impl Cluster {
    /// `count` nodes whose targets all serve.
    pub(crate) async fn start(count: usize) -> Self {
        Self::start_with(&vec![8 << 30; count]).await
    }

    /// Nodes with disks of these capacities.
    pub(crate) async fn start_with(capacities: &[u64]) -> Self {
        let count = capacities.len() as u64;
        if std::env::var_os("PENSTOCK_LOG").is_some() {
            common::logging::init("info", LogFormat::Text).unwrap();
        }
        let env = Env::real();
        let network = MemNetwork::default();
        let cluster = Self {
            endpoint: endpoint(&env, &network),
            dir: tempfile::tempdir().unwrap(),
            capacities: capacities.to_vec(),
            nodes: Mutex::default(),
            map: Mutex::default(),
            next_seq: std::sync::atomic::AtomicU64::new(1),
            env,
            network,
        };
        for id in 1..=count {
            let node = NodeId(id as u32);
            cluster.map.lock().nodes.insert(
                node,
                NodeEntry {
                    id: node,
                    kind: NodeKind::Storage,
                    addresses: vec![format!("mem://node-{id}")],
                    tags: vec![],
                    status: NodeStatus::Alive,
                },
            );
            cluster.map.lock().targets.insert(
                TargetId(id),
                TargetEntry {
                    id: TargetId(id),
                    node,
                    disk: DiskIndex(0),
                    chain: CHAIN,
                    created: false,
                },
            );
            cluster.start_node(id).await;
        }
        let all: Vec<(u64, PublicState)> = (1..=count).map(|id| (id, Serving)).collect();
        cluster.set_chain(&all);
        for id in 1..=count {
            cluster.wait_local(id, LocalState::UpToDate).await;
        }
        for target in cluster.map.lock().targets.values_mut() {
            target.created = true;
        }
        cluster
    }

    /// Starts a node over its directory, as after a restart.
    pub(crate) async fn start_node(&self, id: u64) {
        let dir = self.disk_dir(id);
        let capacity = self.capacities[id as usize - 1];
        let engine = open_engine(&self.env, &dir, capacity).await;
        let disk = Disk::new(DiskIndex(0), dir, Ok(engine.clone()));
        let routing = RoutingCache::detached(&self.env);
        routing.offer(self.map.lock().clone());
        let endpoint = endpoint(&self.env, &self.network);
        let node = Arc::new(Node::new(Parts {
            env: self.env.clone(),
            id: NodeId(id as u32),
            endpoint: endpoint.clone(),
            routing,
            disks: vec![Arc::new(disk)],
        }));
        node.lease.renew(self.env.now(), Duration::from_secs(3600));
        let shutdown = Shutdown::new();
        let handler = Arc::new(Switch(Mutex::new(Some(Arc::new(service::router(&node))))));
        let address = format!("mem://node-{id}");
        let server = endpoint
            .serve(&address, handler.clone(), shutdown.signal())
            .await
            .unwrap();
        let follow = node.clone().follow_maps(shutdown.signal());
        drop(self.env.spawn("targets", follow));
        let running = TestNode {
            node,
            engine,
            server: Mutex::new(Some(server)),
            shutdown,
            handler,
        };
        self.nodes.lock().insert(id, Arc::new(running));
    }

    /// Ends a node at once; its directory stays.
    pub(crate) async fn kill(&self, id: u64) {
        let node = self.nodes.lock().remove(&id).unwrap();
        // Like a process that dies: nothing is made any more, but what was answered before still arrives.
        node.shutdown.trigger();
        *node.handler.0.lock() = None;
        node.engine.close().await;
        let server = node.server.lock().take().unwrap();
        server.kill().await;
    }

    /// The disk of a node that does not run is replaced by an empty one.
    pub(crate) fn lose_disk(&self, id: u64) {
        std::fs::remove_dir_all(self.disk_dir(id)).unwrap();
    }

    pub(crate) fn disk_dir(&self, id: u64) -> PathBuf {
        self.dir.path().join(id.to_string())
    }

    /// The next version of the chain, known to every node that runs.
    pub(crate) fn set_chain(&self, targets: &[(u64, PublicState)]) {
        self.change_chain(targets);
        let map = self.map.lock().clone();
        for node in self.nodes.lock().values() {
            node.node.routing.offer(map.clone());
        }
    }

    /// The next version of the chain, known to these nodes only.
    pub(crate) fn set_chain_at(&self, targets: &[(u64, PublicState)], ids: &[u64]) {
        self.change_chain(targets);
        let map = self.map.lock().clone();
        for &id in ids {
            self.node(id).node.routing.offer(map.clone());
        }
    }

    fn change_chain(&self, targets: &[(u64, PublicState)]) {
        let mut map = self.map.lock();
        map.version = RoutingVersion(map.version.0 + 1);
        let version = map
            .chains
            .get(&CHAIN)
            .map_or(ChainVersion(1), |chain| chain.version.next());
        let targets = targets
            .iter()
            .map(|&(id, state)| ChainTarget {
                id: TargetId(id),
                state,
            })
            .collect();
        let chain = Chain {
            id: CHAIN,
            version,
            targets,
            preferred: vec![],
        };
        map.chains.insert(CHAIN, chain);
    }

    pub(crate) fn node(&self, id: u64) -> Arc<TestNode> {
        self.nodes.lock()[&id].clone()
    }

    pub(crate) fn engine(&self, id: u64) -> Engine {
        self.node(id).engine.clone()
    }

    pub(crate) fn target(&self, id: u64) -> Arc<Target> {
        self.node(id).node.target_of(CHAIN).unwrap()
    }

    pub(crate) fn view(&self, id: u64) -> Arc<View> {
        self.target(id).view()
    }

    pub(crate) fn meta(&self, id: u64, chunk: ChunkId) -> Option<ChunkMeta> {
        self.engine(id).get(self.target(id).key(chunk)).unwrap()
    }

    /// The chunks of a target without what may differ between replicas.
    pub(crate) fn contents(&self, id: u64) -> Vec<(ChunkId, bool, u32, u32, Checksum, bool)> {
        let first = ChunkId {
            inode: InodeId(0),
            index: 0,
        };
        let listed = self.engine(id).list(TargetId(id), first, 100_000).unwrap();
        listed
            .iter()
            .map(|m| {
                let checksum = if m.exists { m.checksum } else { Checksum(0) };
                let version = m.commit_version.0;
                (
                    m.id,
                    m.exists,
                    m.length,
                    version,
                    checksum,
                    m.pending.is_some(),
                )
            })
            .collect()
    }

    pub(crate) async fn wait_local(&self, id: u64, local: LocalState) {
        self.wait(&format!("target {id} to be {local:?}"), || {
            self.node(id).node.target_of(CHAIN).is_ok_and(|target| {
                target.view().local == local && target.view().chain.version.0 > 0
            })
        })
        .await;
    }

    /// Waits until the node's target works by the newest chain.
    pub(crate) async fn wait_chain(&self, id: u64) {
        let version = self.version();
        self.wait(&format!("target {id} to follow the map"), || {
            let target = self.node(id).node.target_of(CHAIN);
            target.is_ok_and(|target| target.view().chain.version == version)
        })
        .await;
    }

    pub(crate) async fn wait(&self, what: &str, condition: impl Fn() -> bool) {
        let deadline = self.env.now() + Duration::from_secs(10);
        while !condition() {
            assert!(self.env.now() < deadline, "waited in vain for {what}");
            self.env.sleep(Duration::from_millis(2)).await;
        }
    }

    pub(crate) fn version(&self) -> ChainVersion {
        self.map.lock().chains[&CHAIN].version
    }

    /// The targets that serve, head first.
    pub(crate) fn serving(&self) -> Vec<u64> {
        let map = self.map.lock();
        map.chains[&CHAIN]
            .serving()
            .map(|target| target.0)
            .collect()
    }

    fn caller(&self) -> Caller {
        Caller {
            client: ClientId(42),
            request: RequestId(1),
            identity: Identity::root(),
        }
    }

    /// A tag nobody has used, on a channel of its own.
    pub(crate) fn fresh_tag(&self) -> UpdateTag {
        let seq = self
            .next_seq
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        tag((seq % 60_000) as u16, seq)
    }

    /// One update to node `to`.
    pub(crate) async fn update(
        &self,
        to: u64,
        item: UpdateItem,
        payload: &[u8],
        limit: Duration,
    ) -> Result<UpdateDone, Status> {
        let results = self.update_many(to, &[(item, payload)], limit).await;
        results?.remove(0)
    }

    /// Updates with their payloads to node `to`, in one request.
    pub(crate) async fn update_many(
        &self,
        to: u64,
        updates: &[(UpdateItem, &[u8])],
        limit: Duration,
    ) -> Result<Vec<Result<UpdateDone, Status>>, Status> {
        let mut bulk = Bulk::default();
        let mut request = UpdateRequest {
            updates: Vec::new(),
        };
        for (item, payload) in updates {
            let index = BulkIndex(bulk.sources.len() as u16);
            request.updates.push(UpdateItem {
                payload: item.payload.map(|_| index),
                ..item.clone()
            });
            if item.payload.is_some() {
                let payload = self.endpoint.buffers().copy_from(payload).freeze();
                bulk.sources.push(payload);
            }
        }
        let address = format!("mem://node-{to}");
        let caller = self.caller();
        let deadline = self.env.now() + limit;
        let call = self
            .endpoint
            .call::<UpdateChunks>(&address, &caller, &request, bulk, deadline);
        Ok(call.await.result?.results)
    }

    pub(crate) fn item(&self, chunk: ChunkId, update: Update, tag: UpdateTag) -> UpdateItem {
        UpdateItem {
            chain: CHAIN,
            chain_version: self.version(),
            chunk,
            chunk_size: CHUNK_SIZE,
            update,
            payload: None,
            checksum: Checksum::default(),
            tag,
        }
    }

    pub(crate) fn write_item(
        &self,
        chunk: ChunkId,
        offset: u32,
        bytes: &[u8],
        tag: UpdateTag,
    ) -> UpdateItem {
        let length = bytes.len() as u32;
        UpdateItem {
            payload: Some(BulkIndex(0)),
            checksum: Checksum::of(bytes),
            ..self.item(chunk, Update::Write { offset, length }, tag)
        }
    }

    /// Writes through node `to` with a fresh tag.
    pub(crate) async fn write(
        &self,
        to: u64,
        chunk: ChunkId,
        offset: u32,
        bytes: &[u8],
    ) -> Result<UpdateDone, Status> {
        let item = self.write_item(chunk, offset, bytes, self.fresh_tag());
        self.update(to, item, bytes, Duration::from_secs(10)).await
    }

    /// Reads from target `at`.
    pub(crate) async fn read(
        &self,
        at: u64,
        chunk: ChunkId,
        mode: ReadMode,
    ) -> Result<(Vec<u8>, ReadDone), Status> {
        let item = self.read_item(at, chunk);
        self.read_many(at, vec![item], mode).await?.remove(0)
    }

    /// A whole chunk, from target `at`.
    pub(crate) fn read_item(&self, at: u64, chunk: ChunkId) -> ReadItem {
        ReadItem {
            chain: CHAIN,
            chain_version: self.version(),
            target: TargetId(at),
            chunk,
            offset: 0,
            length: CHUNK_SIZE,
            destination: BulkIndex(0),
            destination_offset: 0,
        }
    }

    /// Reads from node `at`, in one request, each range into a destination of its own.
    pub(crate) async fn read_many(
        &self,
        at: u64,
        mut reads: Vec<ReadItem>,
        mode: ReadMode,
    ) -> Result<Vec<Result<(Vec<u8>, ReadDone), Status>>, Status> {
        let buffers = self.endpoint.buffers();
        let mut bulk = Bulk::default();
        for item in &mut reads {
            item.destination = BulkIndex(bulk.destinations.len() as u16);
            let destination: RegisteredBuf = buffers.allocate_zeroed(item.length as usize);
            bulk.destinations.push(destination);
        }
        let request = ReadRequest { reads, mode };
        let address = format!("mem://node-{at}");
        let caller = self.caller();
        let deadline = self.env.now() + Duration::from_secs(5);
        let reply = self
            .endpoint
            .call::<ReadChunks>(&address, &caller, &request, bulk, deadline)
            .await;
        let results = reply.result?.results.into_iter().zip(reply.destinations);
        let results = results.map(|(done, buf)| {
            let done = done?;
            let bytes = buf[..done.length as usize].to_vec();
            assert_eq!(done.checksum, Checksum::of(&bytes));
            Ok((bytes, done))
        });
        Ok(results.collect())
    }

    /// Asks node `to` anything.
    pub(crate) async fn ask<M: types::rpc::Rpc>(
        &self,
        to: u64,
        request: &M::Request,
    ) -> Result<M::Response, Status> {
        let address = format!("mem://node-{to}");
        let deadline = self.env.now() + Duration::from_secs(5);
        let caller = self.caller();
        self.endpoint
            .ask::<M>(&address, &caller, request, deadline)
            .await
    }
}

async fn open_engine(env: &Env, dir: &Path, capacity_bytes: u64) -> Engine {
    let config = EngineConfig {
        device: DeviceKind::Direct,
        sync: SyncPolicy::OnFsync,
        capacity_bytes,
        reserve_bytes: 0,
        preallocate_bytes: 1 << 20,
        log_bytes: 4 << 20,
        small_update_bytes: SMALL_UPDATE_BYTES,
        ..EngineConfig::default()
    };
    // A node that was killed holds its directory until its last task has seen the shutdown.
    let deadline = env.now() + Duration::from_secs(10);
    loop {
        match Engine::open(env, dir, config.clone(), buffers()).await {
            Ok(engine) => return engine,
            Err(error) => assert!(env.now() < deadline, "{error}"),
        }
        env.sleep(Duration::from_millis(5)).await;
    }
}
