//! The operations on open files against a metadata server and a storage node that keep one file and remember what
//! they were asked, in order.

use std::{future::ready, sync::Arc, time::Duration};

use client::{MetaClient, MgmtdClient, RoutingCache, StorageClient, StorageOptions};
use common::{buf::BufPool, shutdown::Shutdown, sync::Mutex};
use net::{Endpoint, MemNetwork, NetConfig, Router, Transports};
use types::{
    chain::{Chain, ChainTable, ChainTarget},
    checksum::Checksum,
    id::{ChainId, ChainTableId, ClientId, DiskIndex, InodeId, NodeId, ROOT_INODE, TargetId},
    inode::{InodeData, Times},
    layout::Layout,
    node::{Node, NodeKind, NodeStatus},
    routing::RoutingInfo,
    rpc::{
        meta::{
            AttrChange, Close, CloseRequest, Lookup, NameRequest, Open, OpenRequest, SetAttr,
            SetAttrRequest, SetTime, Sync, SyncRequest, Unlink, UnlinkRequest,
        },
        storage::{UpdateChunks, UpdateDone, UpdateReply, UpdateRequest},
    },
    status::StatusCode,
    target::{PublicState, Target},
    version::{ChainTableVersion, ChainVersion, ChunkVersion, RoutingVersion, TruncateVersion},
};

use super::*;

const FILE: InodeId = InodeId(40);

/// What the servers were asked.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Asked {
    GetAttr,
    Lookup,
    Write,
    /// The end that was reported, and under which truncate version.
    Sync(Option<(u64, u64)>),
    Close(SessionId, Option<(u64, u64)>),
    SetAttr(AttrChange),
    Unlink(Option<SessionId>),
}

/// The one file and what happened to it.
struct World {
    length: u64,
    version: u64,
    mtime_ns: u64,
    asked: Vec<Asked>,
    /// How long the storage node takes for a write.
    write_takes: Duration,
}

impl World {
    fn inode(&self) -> Inode {
        Inode {
            id: FILE,
            uid: 0,
            gid: 0,
            mode: 0o644,
            nlink: 1,
            times: Times {
                mtime_ns: self.mtime_ns,
                ..Times::default()
            },
            data: InodeData::File {
                length: self.length,
                truncate_version: TruncateVersion(self.version),
                layout: Layout {
                    table: ChainTableId(1),
                    table_version: ChainTableVersion(1),
                    chunk_size: 1 << 20,
                    stripe_size: 1,
                    base: 0,
                    seed: 0,
                },
                truncating: None,
            },
        }
    }

    /// Takes a report; false when it is of an old truncate version.
    fn report(&mut self, report: Option<(u64, u64)>) -> bool {
        let Some((end, version)) = report else {
            return true;
        };
        if version == self.version {
            self.length = self.length.max(end);
            self.mtime_ns += 1;
        }
        version == self.version
    }

    fn set_attr(&mut self, change: &AttrChange) -> Inode {
        if let Some(length) = change.length {
            self.length = length;
            self.version += 1;
        }
        if let Some(SetTime::At(ns)) = change.mtime {
            self.mtime_ns = ns;
        }
        self.inode()
    }
}

type Shared = Arc<Mutex<World>>;

fn meta(world: &Shared) -> Router {
    let (get, look, open, sync, close, set, unlink) = (
        world.clone(),
        world.clone(),
        world.clone(),
        world.clone(),
        world.clone(),
        world.clone(),
        world.clone(),
    );
    let flat = |report: types::rpc::meta::LengthReport| (report.end, report.truncate_version.0);
    Router::new()
        .on::<GetAttr, _, _>(move |_: InodeRequest, _| {
            let mut world = get.lock();
            world.asked.push(Asked::GetAttr);
            ready(Ok(world.inode()))
        })
        .on::<Lookup, _, _>(move |_: NameRequest, _| {
            let mut world = look.lock();
            world.asked.push(Asked::Lookup);
            ready(Ok(world.inode()))
        })
        .on::<Open, _, _>(move |_: OpenRequest, _| ready(Ok(open.lock().inode())))
        .on::<Sync, _, _>(move |request: SyncRequest, _| {
            let mut world = sync.lock();
            let report = request.length.map(flat);
            world.asked.push(Asked::Sync(report));
            ready(match world.report(report) {
                true => Ok(world.inode()),
                false => Err(Status::new(
                    StatusCode::TruncateVersionMismatch,
                    "truncated",
                )),
            })
        })
        .on::<Close, _, _>(move |request: CloseRequest, _| {
            let mut world = close.lock();
            let report = request.length.map(flat);
            world.asked.push(Asked::Close(request.session, report));
            let _taken = world.report(report);
            ready(Ok(world.inode()))
        })
        .on::<SetAttr, _, _>(move |request: SetAttrRequest, _| {
            let mut world = set.lock();
            world.asked.push(Asked::SetAttr(request.change.clone()));
            ready(Ok(world.set_attr(&request.change)))
        })
        .on::<Unlink, _, _>(move |request: UnlinkRequest, _| {
            let hold = request.hold.map(|hold| hold.session);
            unlink.lock().asked.push(Asked::Unlink(hold));
            ready(Ok(()))
        })
}

fn storage(env: &Env, world: &Shared) -> Router {
    let (env, world) = (env.clone(), world.clone());
    Router::new().on::<UpdateChunks, _, _>(move |_: UpdateRequest, _| {
        let (env, world) = (env.clone(), world.clone());
        async move {
            let takes = world.lock().write_takes;
            env.sleep(takes).await;
            world.lock().asked.push(Asked::Write);
            Ok(UpdateReply {
                results: vec![Ok(UpdateDone {
                    length: 0,
                    commit_version: ChunkVersion(1),
                    chain_version: ChainVersion(1),
                    checksum: Checksum(0),
                })],
            })
        }
    })
}

fn map() -> RoutingInfo {
    let mut map = RoutingInfo {
        version: RoutingVersion(1),
        ..Default::default()
    };
    for (id, kind, name) in [
        (1, NodeKind::Meta, "meta"),
        (2, NodeKind::Storage, "storage"),
    ] {
        let node = Node {
            id: NodeId(id),
            kind,
            addresses: vec![format!("mem://{name}")],
            tags: Vec::new(),
            status: NodeStatus::Alive,
        };
        map.nodes.insert(node.id, node);
    }
    let target = Target {
        id: TargetId(1),
        node: NodeId(2),
        disk: DiskIndex(0),
        chain: ChainId(1),
        created: true,
    };
    map.targets.insert(target.id, target);
    let chain = Chain {
        id: ChainId(1),
        version: ChainVersion(1),
        targets: vec![ChainTarget {
            id: TargetId(1),
            state: PublicState::Serving,
        }],
        preferred: Vec::new(),
    };
    map.chains.insert(chain.id, chain);
    let table = ChainTable {
        id: ChainTableId(1),
        version: ChainTableVersion(1),
        chains: vec![ChainId(1)],
    };
    map.tables.insert((table.id, table.version), table);
    map
}

struct Fixture {
    core: Arc<Core>,
    world: Shared,
    who: Identity,
    _shutdown: Shutdown,
}

async fn fixture() -> Fixture {
    let (env, shutdown) = (Env::seeded(1), Shutdown::new());
    let world = Arc::new(Mutex::new(World {
        length: 10,
        version: 0,
        mtime_ns: 100,
        asked: Vec::new(),
        write_takes: Duration::ZERO,
    }));
    let transports = Transports::with_mem(MemNetwork::new());
    let pool = BufPool::new(1 << 20);
    let endpoint = Endpoint::new(&env, transports, pool, NetConfig::default());
    let routers = [
        ("mem://meta", meta(&world)),
        ("mem://storage", storage(&env, &world)),
    ];
    for (name, router) in routers {
        let served = endpoint.serve(name, Arc::new(router), shutdown.signal());
        drop(served.await.unwrap());
    }
    let routing = RoutingCache::detached(&env);
    routing.offer(map());
    let id = ClientId(1);
    let client = Client {
        mgmtd: MgmtdClient::new(&env, endpoint.clone(), Vec::new(), id),
        meta: MetaClient::new(&env, endpoint.clone(), routing.clone(), id),
        storage: StorageClient::new(
            &env,
            endpoint.clone(),
            routing.clone(),
            id,
            StorageOptions::default(),
        ),
        env,
        endpoint,
        routing,
        id,
    };
    Fixture {
        core: Arc::new(Core::new(client)),
        world,
        who: Identity::root(),
        _shutdown: shutdown,
    }
}

impl Fixture {
    async fn open(&self, flags: i32) -> u64 {
        self.core.open(&self.who, FILE, flags).await.unwrap().handle
    }

    async fn write(&self, handle: u64, offset: u64, bytes: &[u8]) {
        let data = self
            .core
            .client
            .endpoint
            .buffers()
            .copy_from(bytes)
            .freeze();
        self.core.write(handle, offset, data).await.unwrap();
    }

    async fn close(&self, handle: u64) {
        self.core.release(handle);
        self.core.background.idle().await;
    }

    fn session(&self, handle: u64) -> SessionId {
        self.core.handles.file(handle).unwrap().session.unwrap()
    }

    /// What was asked since the last time.
    fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.world.lock().asked)
    }
}

#[tokio::test(start_paused = true)]
async fn attributes_of_a_written_file_are_told_after_its_report() {
    let fixture = fixture().await;
    let handle = fixture.open(libc::O_WRONLY).await;
    fixture.write(handle, 10, b"more").await;
    let inode = fixture.core.get_attr(&fixture.who, FILE).await.unwrap();
    assert_eq!((inode.length(), inode.times.mtime_ns), (14, 101));
    // Nothing new: the time stays as it was told.
    let again = fixture.core.get_attr(&fixture.who, FILE).await.unwrap();
    assert_eq!(again, inode);
    assert_eq!(
        fixture.asked(),
        [Asked::Write, Asked::Sync(Some((14, 0))), Asked::GetAttr]
    );
}

#[tokio::test(start_paused = true)]
async fn a_name_never_leads_to_a_length_from_before_a_write() {
    let fixture = fixture().await;
    let handle = fixture.open(libc::O_RDWR).await;
    fixture.write(handle, 90, b"0123456789").await;
    let name = b"x".to_vec();
    let found = fixture.core.lookup(&fixture.who, ROOT_INODE, name).await;
    assert_eq!(found.unwrap().length(), 100);
}

#[tokio::test(start_paused = true)]
async fn a_time_that_was_set_survives_the_close() {
    let fixture = fixture().await;
    let handle = fixture.open(libc::O_WRONLY).await;
    fixture.write(handle, 0, b"copied").await;
    let change = AttrChange {
        mtime: Some(SetTime::At(7)),
        ..AttrChange::default()
    };
    let core = &fixture.core;
    let set = core.set_attr(&fixture.who, FILE, change.clone(), Some(handle));
    set.await.unwrap();
    core.flush_handle(handle).await.unwrap();
    let session = fixture.session(handle);
    fixture.close(handle).await;
    assert_eq!(fixture.world.lock().mtime_ns, 7);
    assert_eq!(
        fixture.asked(),
        [
            Asked::Write,
            Asked::Sync(Some((6, 0))),
            Asked::SetAttr(change),
            Asked::Close(session, None)
        ]
    );
    assert!(core.files.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_close_brings_the_report_that_is_left() {
    let fixture = fixture().await;
    let handle = fixture.open(libc::O_WRONLY).await;
    fixture.write(handle, 20, b"mapped").await;
    let session = fixture.session(handle);
    fixture.close(handle).await;
    assert_eq!(
        fixture.asked(),
        [Asked::Write, Asked::Close(session, Some((26, 0)))]
    );
}

#[tokio::test(start_paused = true)]
async fn a_report_after_a_truncate_elsewhere_is_sent_under_its_version() {
    let fixture = fixture().await;
    let handle = fixture.open(libc::O_WRONLY).await;
    {
        let mut world = fixture.world.lock();
        (world.length, world.version) = (2, 5);
    }
    fixture.write(handle, 3, b"x").await;
    fixture.core.flush_handle(handle).await.unwrap();
    assert_eq!(
        fixture.asked(),
        [
            Asked::Write,
            Asked::Sync(Some((4, 0))),
            Asked::GetAttr,
            Asked::Sync(Some((4, 5)))
        ]
    );
    assert_eq!(fixture.world.lock().length, 4);
}

#[tokio::test(start_paused = true)]
async fn a_truncate_waits_for_writes_under_way_and_knows_their_end() {
    let fixture = fixture().await;
    let handle = fixture.open(libc::O_RDWR).await;
    fixture.world.lock().write_takes = Duration::from_secs(2);
    let change = AttrChange {
        length: Some(4),
        ..AttrChange::default()
    };
    let core = &fixture.core;
    let truncate = async {
        core.env().sleep(Duration::from_secs(1)).await;
        let set = core.set_attr(&fixture.who, FILE, change.clone(), Some(handle));
        set.await.unwrap()
    };
    let (inode, ()) = futures::join!(truncate, fixture.write(handle, 50, b"late"));
    assert_eq!(inode.length(), 4);
    assert_eq!(
        fixture.asked(),
        [
            Asked::Write,
            Asked::Sync(Some((54, 0))),
            Asked::SetAttr(change)
        ]
    );
    let file = core.files.get(FILE).unwrap();
    assert_eq!((file.length(), file.is_dirty()), (4, false));
}

#[tokio::test(start_paused = true)]
async fn an_open_file_that_loses_its_name_is_held_until_its_last_close() {
    let fixture = fixture().await;
    let unlink = || fixture.core.unlink(&fixture.who, ROOT_INODE, b"x".to_vec());
    unlink().await.unwrap();
    assert_eq!(fixture.asked(), [Asked::Unlink(None)]);

    let handle = fixture.open(libc::O_RDONLY).await;
    unlink().await.unwrap();
    let asked = fixture.asked();
    let [Asked::Lookup, Asked::Unlink(Some(hold))] = asked[..] else {
        panic!("{asked:?}")
    };
    fixture.close(handle).await;
    assert_eq!(fixture.asked(), [Asked::Close(hold, None)]);
    assert!(fixture.core.files.is_empty());
}

#[tokio::test(start_paused = true)]
async fn only_writers_have_something_to_write_and_to_end() {
    let fixture = fixture().await;
    let handle = fixture.open(libc::O_RDONLY).await;
    let data = fixture
        .core
        .client
        .endpoint
        .buffers()
        .copy_from(b"x")
        .freeze();
    let status = fixture.core.write(handle, 0, data).await.unwrap_err();
    assert_eq!(status.code, StatusCode::BadSession);
    assert!(fixture.core.read(handle, 10, 5).await.unwrap().is_none());
    fixture.close(handle).await;
    assert_eq!(fixture.asked(), []);
}
