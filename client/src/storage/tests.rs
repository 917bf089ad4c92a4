//! The storage client against nodes that fail on purpose.

mod batches;
mod hedging;

use std::{
    collections::{BTreeMap, VecDeque},
    future::ready,
    sync::Arc,
    time::Duration,
};

use common::{buf::BufPool, env::Env, shutdown::Shutdown, sync::Mutex};
use net::{Endpoint, Incoming, MemNetwork, NetConfig, Router, Transports};
use types::{
    chain::{Chain, ChainTable, ChainTarget},
    checksum::Checksum,
    chunk::{ChunkId, Update, UpdateTag},
    id::{ChainId, ChainTableId, ClientId, DiskIndex, InodeId, NodeId, TargetId},
    layout::Layout,
    node::{Node, NodeKind, NodeStatus},
    routing::RoutingInfo,
    rpc::storage::{
        LastChunk, QueryLastChunk, QueryLastChunkRequest, ReadChunks, ReadDone, ReadItem,
        ReadReply, ReadRequest, RemoveChunks, RemoveChunksReply, RemoveChunksRequest, UpdateChunks,
        UpdateDone, UpdateItem, UpdateReply, UpdateRequest,
    },
    status::{Status, StatusCode},
    target::{PublicState, Target},
    version::{ChainTableVersion, ChainVersion, ChunkVersion, RoutingVersion},
};

use super::{StorageClient, StorageOptions};
use crate::routing_cache::RoutingCache;

const CHUNK: u32 = 64 << 10;
const INODE: InodeId = InodeId(77);
const NODES: u32 = 3;

/// What a node does instead of answering well, once each.
#[derive(Clone, Debug)]
enum Fault {
    Refuse(StatusCode),
    /// Does the work and never answers.
    LoseReply,
    /// Answers with other bytes than the checksum says.
    Corrupt,
}

/// What all nodes hold: they are perfect replicas of each other.
#[derive(Default)]
struct Disk {
    chunks: BTreeMap<ChunkId, Vec<u8>>,
    /// Every update that arrived, also the ones that failed.
    arrived: Vec<(NodeId, UpdateTag, Vec<u8>)>,
    read_from: Vec<NodeId>,
    /// How many updates, and how many ranges, each request had.
    update_requests: Vec<usize>,
    read_requests: Vec<(NodeId, usize)>,
    /// How long a node takes before it reads.
    slow: BTreeMap<NodeId, Duration>,
    faults: BTreeMap<NodeId, VecDeque<Fault>>,
}

struct Fixture {
    env: Env,
    disk: Arc<Mutex<Disk>>,
    routing: RoutingCache,
    client: StorageClient,
    pool: BufPool,
    layout: Layout,
    _shutdown: Shutdown,
}

impl Fixture {
    async fn new() -> Self {
        Self::with(StorageOptions::default()).await
    }

    async fn with(options: StorageOptions) -> Self {
        let env = Env::seeded(5);
        let pool = BufPool::new(8 << 20);
        let transports = Transports::with_mem(MemNetwork::new());
        let endpoint = Endpoint::new(&env, transports, pool.clone(), NetConfig::default());
        let disk = Arc::new(Mutex::new(Disk::default()));
        let shutdown = Shutdown::new();
        for id in 1..=NODES {
            let handler = Arc::new(router(&env, NodeId(id), &disk));
            let name = format!("mem://n{id}");
            let served = endpoint.serve(&name, handler, shutdown.signal()).await;
            drop(served.unwrap());
        }
        let routing = RoutingCache::detached(&env);
        routing.offer(map(1, 1));
        let client = StorageClient::new(&env, endpoint, routing.clone(), ClientId(3), options);
        let layout = Layout {
            table: ChainTableId(1),
            table_version: ChainTableVersion(1),
            chunk_size: CHUNK,
            stripe_size: 2,
            base: 0,
            seed: 1,
        };
        Self {
            env,
            disk,
            routing,
            client,
            pool,
            layout,
            _shutdown: shutdown,
        }
    }

    fn fault(&self, node: u32, fault: Fault) {
        let mut disk = self.disk.lock();
        disk.faults
            .entry(NodeId(node))
            .or_default()
            .push_back(fault);
    }

    async fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), Status> {
        let data = self.pool.copy_from(bytes).freeze();
        self.client.write(INODE, &self.layout, offset, data).await
    }

    async fn read(&self, offset: u64, length: usize) -> Vec<u8> {
        let mut buf = self.pool.allocate(length);
        buf.fill(0xee);
        let (result, buf) = self.client.read(INODE, &self.layout, offset, buf).await;
        result.unwrap();
        buf.to_vec()
    }
}

/// Two chains over the nodes; `head` is the first node of both.
fn map(version: u64, head: u32) -> RoutingInfo {
    let mut map = RoutingInfo {
        version: RoutingVersion(version),
        ..Default::default()
    };
    for id in 1..=NODES {
        let node = Node {
            id: NodeId(id),
            kind: NodeKind::Storage,
            addresses: vec![format!("mem://n{id}")],
            tags: Vec::new(),
            status: NodeStatus::Alive,
        };
        map.nodes.insert(node.id, node);
    }
    for chain in [ChainId(1), ChainId(2)] {
        let targets = (0..NODES).map(|place| {
            let node = (head - 1 + place) % NODES + 1;
            let id = TargetId(u64::from(chain.0 * 10 + node));
            let target = Target {
                id,
                node: NodeId(node),
                disk: DiskIndex(0),
                chain,
                created: true,
            };
            map.targets.insert(id, target);
            ChainTarget {
                id,
                state: PublicState::Serving,
            }
        });
        let chain = Chain {
            id: chain,
            version: ChainVersion(u32::try_from(version).unwrap()),
            targets: targets.collect(),
            preferred: Vec::new(),
        };
        map.chains.insert(chain.id, chain);
    }
    let table = ChainTable {
        id: ChainTableId(1),
        version: ChainTableVersion(1),
        chains: vec![ChainId(1), ChainId(2)],
    };
    map.tables.insert((table.id, table.version), table);
    map
}

fn router(env: &Env, node: NodeId, disk: &Arc<Mutex<Disk>>) -> Router {
    let (update_env, update_disk) = (env.clone(), disk.clone());
    let (read_env, read_disk) = (env.clone(), disk.clone());
    let (last_disk, remove_disk) = (disk.clone(), disk.clone());
    Router::new()
        .on::<UpdateChunks, _, _>(move |request: UpdateRequest, incoming| {
            update(
                update_env.clone(),
                node,
                update_disk.clone(),
                request,
                incoming,
            )
        })
        .on::<ReadChunks, _, _>(move |request: ReadRequest, incoming| {
            read(read_env.clone(), node, read_disk.clone(), request, incoming)
        })
        .on::<QueryLastChunk, _, _>(move |request, _| ready(Ok(last(&last_disk, &request))))
        .on::<RemoveChunks, _, _>(move |request, _| ready(Ok(remove(&remove_disk, &request))))
}

async fn update(
    env: Env,
    node: NodeId,
    disk: Arc<Mutex<Disk>>,
    request: UpdateRequest,
    incoming: Arc<Incoming>,
) -> Result<UpdateReply, Status> {
    let (mut results, mut lost) = (Vec::new(), false);
    disk.lock().update_requests.push(request.updates.len());
    for item in &request.updates {
        let payload = match item.payload {
            Some(source) => incoming.pull(source).await?.to_vec(),
            None => Vec::new(),
        };
        let mut disk = disk.lock();
        disk.arrived.push((node, item.tag, payload.clone()));
        let fault = disk.faults.get_mut(&node).and_then(VecDeque::pop_front);
        lost |= matches!(fault, Some(Fault::LoseReply));
        results.push(match fault {
            Some(Fault::Refuse(code)) => Err(Status::new(code, "on purpose")),
            Some(Fault::LoseReply | Fault::Corrupt) | None => {
                assert_eq!(Checksum::of(&payload), item.checksum);
                apply(&mut disk, item, &payload)
            }
        });
    }
    if lost {
        env.sleep(Duration::from_secs(3600)).await;
    }
    Ok(UpdateReply { results })
}

fn apply(disk: &mut Disk, item: &UpdateItem, payload: &[u8]) -> Result<UpdateDone, Status> {
    let content = match item.update {
        Update::Write { offset, .. } => {
            let content = disk.chunks.entry(item.chunk).or_default();
            let end = offset as usize + payload.len();
            if content.len() < end {
                content.resize(end, 0);
            }
            content[offset as usize..end].copy_from_slice(payload);
            content
        }
        Update::Truncate { length } => {
            let Some(content) = disk.chunks.get_mut(&item.chunk) else {
                return Err(Status::new(StatusCode::ChunkNotFound, "no such chunk"));
            };
            content.truncate(length as usize);
            content
        }
        Update::Extend { .. } | Update::Remove => unreachable!("not sent by this client"),
    };
    Ok(UpdateDone {
        length: u32::try_from(content.len()).unwrap(),
        commit_version: ChunkVersion(1),
        chain_version: item.chain_version,
        checksum: Checksum::of(content),
    })
}

async fn read(
    env: Env,
    node: NodeId,
    disk: Arc<Mutex<Disk>>,
    request: ReadRequest,
    incoming: Arc<Incoming>,
) -> Result<ReadReply, Status> {
    let (mut results, mut lost) = (Vec::new(), false);
    disk.lock().read_requests.push((node, request.reads.len()));
    let slow = disk.lock().slow.get(&node).copied();
    if let Some(slow) = slow {
        env.sleep(slow).await;
    }
    for item in &request.reads {
        let (fault, content) = {
            let mut disk = disk.lock();
            disk.read_from.push(node);
            let fault = disk.faults.get_mut(&node).and_then(VecDeque::pop_front);
            (fault, disk.chunks.get(&item.chunk).cloned())
        };
        lost |= matches!(fault, Some(Fault::LoseReply));
        results.push(match fault {
            Some(Fault::Refuse(code)) => Err(Status::new(code, "on purpose")),
            Some(Fault::Corrupt) => place(&incoming, item, content, true).await,
            Some(Fault::LoseReply) | None => place(&incoming, item, content, false).await,
        });
    }
    if lost {
        env.sleep(Duration::from_secs(3600)).await;
    }
    Ok(ReadReply { results })
}

async fn place(
    incoming: &Incoming,
    item: &ReadItem,
    content: Option<Vec<u8>>,
    corrupt: bool,
) -> Result<ReadDone, Status> {
    let content = content.ok_or_else(|| Status::new(StatusCode::ChunkNotFound, "no such chunk"))?;
    let start = content.len().min(item.offset as usize);
    let end = content.len().min((item.offset + item.length) as usize);
    let mut bytes = content[start..end].to_vec();
    let checksum = Checksum::of(&bytes);
    if corrupt {
        bytes[0] ^= 1;
    }
    let data = BufPool::new(0).copy_from(&bytes).freeze();
    let at = item.destination_offset as usize;
    incoming.push(item.destination, at, data).await?;
    Ok(ReadDone {
        length: u32::try_from(bytes.len()).unwrap(),
        chunk_length: u32::try_from(content.len()).unwrap(),
        commit_version: ChunkVersion(1),
        checksum,
    })
}

fn last(disk: &Mutex<Disk>, request: &QueryLastChunkRequest) -> Option<LastChunk> {
    let disk = disk.lock();
    let mut mine = disk
        .chunks
        .iter()
        .filter(|(id, _)| chain_of(**id) == request.chain);
    mine.next_back().map(|(id, content)| LastChunk {
        index: id.index,
        length: u32::try_from(content.len()).unwrap(),
    })
}

fn remove(disk: &Mutex<Disk>, request: &RemoveChunksRequest) -> RemoveChunksReply {
    let mut disk = disk.lock();
    let mine: Vec<_> = disk
        .chunks
        .keys()
        .filter(|id| id.index >= request.from_index && chain_of(**id) == request.chain)
        .copied()
        .collect();
    // Two at a time, so that a client which stops early is seen.
    let now = mine.iter().take(2);
    for id in now.clone() {
        disk.chunks.remove(id);
    }
    RemoveChunksReply {
        removed: u32::try_from(now.count()).unwrap(),
        more: mine.len() > 2,
    }
}

/// The chain of a chunk in the fixture's layout.
fn chain_of(chunk: ChunkId) -> ChainId {
    let order = types::layout::permutation(1, 2);
    ChainId(1 + order[chunk.index as usize % 2] % 2)
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length)
        .map(|i| u8::try_from(i % 251).unwrap())
        .collect()
}

#[tokio::test(start_paused = true)]
async fn what_was_written_over_chunk_borders_is_read_back() {
    let fixture = Fixture::new().await;
    let bytes = pattern(200_000);
    fixture.write(60_000, &bytes).await.unwrap();
    assert_eq!(fixture.read(60_000, bytes.len()).await, bytes);
    assert_eq!(fixture.read(100_000, 70_000).await, bytes[40_000..110_000]);
    assert_eq!(fixture.disk.lock().chunks.len(), 4);
}

#[tokio::test(start_paused = true)]
async fn missing_and_short_chunks_read_as_zeros() {
    let fixture = Fixture::new().await;
    fixture.write(0, b"head").await.unwrap();
    fixture.write(3 * u64::from(CHUNK), b"tail").await.unwrap();
    let read = fixture.read(2, 3 * CHUNK as usize + 2).await;
    assert_eq!(&read[..2], b"ad");
    assert!(
        read[2..3 * CHUNK as usize - 2]
            .iter()
            .all(|byte| *byte == 0)
    );
    assert_eq!(&read[3 * CHUNK as usize - 2..], b"tail");
    assert!(fixture.read(10, 500).await.iter().all(|byte| *byte == 0));
}

#[tokio::test(start_paused = true)]
async fn an_update_refused_by_a_former_head_goes_to_the_new_one() {
    let fixture = Fixture::new().await;
    for _ in 0..50 {
        fixture.fault(1, Fault::Refuse(StatusCode::WrongRole));
    }
    let routing = fixture.routing.clone();
    let env = fixture.env.clone();
    let change = fixture.env.spawn("change", async move {
        env.sleep(Duration::from_millis(1500)).await;
        routing.offer(map(2, 2));
    });
    let started = fixture.env.now();
    fixture.write(0, b"abc").await.unwrap();
    let took = fixture.env.now() - started;
    change.join().await.unwrap();
    assert!(took < Duration::from_millis(1700), "{took:?}");
    let disk = fixture.disk.lock();
    assert!(
        (2..20).contains(&disk.arrived.len()),
        "{}",
        disk.arrived.len()
    );
    assert_eq!(disk.arrived.last().unwrap().0, NodeId(2));
    let (_, tag, content) = disk.arrived[0].clone();
    assert!(
        disk.arrived
            .iter()
            .all(|other| (other.1, &other.2) == (tag, &content))
    );
}

#[tokio::test(start_paused = true)]
async fn a_lost_reply_is_repeated_under_the_same_tag() {
    let fixture = Fixture::new().await;
    fixture.fault(1, Fault::LoseReply);
    fixture.fault(1, Fault::Refuse(StatusCode::ChannelBusy));
    fixture.write(5, b"once").await.unwrap();
    fixture.write(5, b"next").await.unwrap();
    let disk = fixture.disk.lock();
    let tags: Vec<_> = disk.arrived.iter().map(|(_, tag, _)| *tag).collect();
    assert_eq!(tags.len(), 4);
    assert!(tags[0] == tags[1] && tags[1] == tags[2]);
    assert_eq!(disk.arrived[0].2, disk.arrived[2].2);
    assert_eq!(
        (tags[3].channel, tags[3].seq.0),
        (tags[0].channel, tags[0].seq.0 + 1)
    );
}

#[tokio::test(start_paused = true)]
async fn an_update_without_an_outcome_retires_its_channel() {
    let fixture = Fixture::new().await;
    for _ in 0..1000 {
        fixture.fault(1, Fault::Refuse(StatusCode::ChannelBusy));
    }
    let started = fixture.env.now();
    let status = fixture.write(0, b"abc").await.unwrap_err();
    assert_eq!(status.code, StatusCode::ChannelBusy);
    let took = fixture.env.now() - started;
    assert!((60..62).contains(&took.as_secs()), "{took:?}");
    fixture.disk.lock().faults.clear();
    fixture.write(0, b"abc").await.unwrap();
    let disk = fixture.disk.lock();
    let (first, last) = (disk.arrived[0].1, disk.arrived.last().unwrap().1);
    assert_ne!(first.channel, last.channel);
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_is_an_error_at_once() {
    let fixture = Fixture::new().await;
    fixture.fault(1, Fault::Refuse(StatusCode::NoSpace));
    let status = fixture.write(0, b"abc").await.unwrap_err();
    assert_eq!(status.code, StatusCode::NoSpace);
    assert_eq!(fixture.disk.lock().arrived.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn bytes_that_do_not_match_are_read_from_another_replica() {
    let fixture = Fixture::new().await;
    fixture.write(0, &pattern(5000)).await.unwrap();
    for node in 1..NODES {
        fixture.fault(node, Fault::Corrupt);
    }
    for _ in 0..4 {
        assert_eq!(fixture.read(0, 5000).await, pattern(5000));
    }
    let disk = fixture.disk.lock();
    assert_eq!(disk.read_from.len(), 6, "{:?}", disk.read_from);
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_hangs_costs_one_attempt() {
    let fixture = Fixture::new().await;
    let bytes = pattern(2 * CHUNK as usize);
    fixture.write(0, &bytes).await.unwrap();
    for node in 1..=NODES {
        fixture.fault(node, Fault::LoseReply);
    }
    let started = fixture.env.now();
    assert_eq!(fixture.read(0, bytes.len()).await, bytes);
    let took = fixture.env.now() - started;
    assert!(took < Duration::from_secs(10), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn the_last_chunk_is_the_highest_of_all_chains() {
    let fixture = Fixture::new().await;
    let (client, layout) = (&fixture.client, &fixture.layout);
    assert_eq!(client.last_chunk(INODE, layout).await.unwrap(), None);
    for index in [0_u64, 3, 6] {
        let offset = index * u64::from(CHUNK);
        fixture
            .write(offset, &pattern(index as usize + 1))
            .await
            .unwrap();
    }
    let last = client.last_chunk(INODE, layout).await.unwrap().unwrap();
    assert_eq!((last.index, last.length), (6, 7));
}

#[tokio::test(start_paused = true)]
async fn removing_goes_on_until_nothing_is_left() {
    let fixture = Fixture::new().await;
    let (client, layout) = (&fixture.client, &fixture.layout);
    for index in 0..11_u64 {
        fixture.write(index * u64::from(CHUNK), b"x").await.unwrap();
    }
    let removed = client.remove_chunks(INODE, layout, 2).await.unwrap();
    assert_eq!(removed, 9);
    let left: Vec<_> = fixture
        .disk
        .lock()
        .chunks
        .keys()
        .map(|id| id.index)
        .collect();
    assert_eq!(left, [0, 1]);
}

#[tokio::test(start_paused = true)]
async fn truncating_a_missing_chunk_is_fine() {
    let fixture = Fixture::new().await;
    let (client, layout) = (&fixture.client, &fixture.layout);
    fixture.write(0, b"abcdef").await.unwrap();
    for index in [0, 1] {
        let chunk = ChunkId {
            inode: INODE,
            index,
        };
        client.truncate_chunk(layout, chunk, 2).await.unwrap();
    }
    assert_eq!(fixture.read(0, 4).await, b"ab\0\0");
}

#[tokio::test(start_paused = true)]
async fn offsets_beyond_the_longest_file_are_refused() {
    let fixture = Fixture::new().await;
    for offset in [u64::MAX, u64::MAX - 3, types::layout::FILE_LENGTH_MAX] {
        let status = fixture.write(offset, b"abcd").await.unwrap_err();
        assert_eq!(status.code, StatusCode::FileTooLarge);
    }
    let buf = fixture.pool.allocate(8);
    let at = types::layout::FILE_LENGTH_MAX;
    let (result, buf) = fixture.client.read(INODE, &fixture.layout, at, buf).await;
    assert_eq!(result.unwrap_err().code, StatusCode::FileTooLarge);
    assert_eq!(buf.len(), 8);
}

/// Compiles only if everything a caller awaits can run on any thread.
#[test]
fn operations_can_be_spawned() {
    fn check<F: Future + Send>(_: impl Fn(StorageClient, Layout, BufPool) -> F) {}
    check(|client, layout, pool| async move {
        let data = pool.copy_from(b"x").freeze();
        client.write(INODE, &layout, 0, data).await.unwrap();
        let (result, _) = client.read(INODE, &layout, 0, pool.allocate(1)).await;
        result.unwrap();
        client.last_chunk(INODE, &layout).await.unwrap();
        client.remove_chunks(INODE, &layout, 0).await.unwrap();
    });
}
