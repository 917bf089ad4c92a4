//! A whole server on tcp and on disk, with a manager that is only what the test says.

use std::{path::Path, sync::Arc, time::Duration};

use common::{buf::BufPool, env::Env, shutdown::Shutdown, sync::Mutex};
use meta::{KvKind, MetaConfig, RunningMeta, serve};
use net::{Endpoint, NetConfig, Router, Transports};
use types::{
    id::{ClientId, NodeId, RequestId},
    node::NodeKind,
    routing::RoutingInfo,
    rpc::{
        Caller, Rpc,
        meta::{
            Create, Lookup, Mkdir, MkdirRequest, ReadDir, ReadDirRequest, StatFs, Sync, SyncRequest,
        },
        mgmtd::{
            FollowRouting, GetSpace, Heartbeat, HeartbeatReply, ListClientSessions, RoutingNews,
            SendHeartbeat, SpaceReply,
        },
    },
    status::{Status, StatusCode},
    user::Identity,
    version::RoutingVersion,
};

use crate::support::{ROOT, create, named, routing};

/// A manager and a client on one endpoint.
struct Outside {
    env: Env,
    endpoint: Endpoint,
    manager: String,
    heartbeats: Arc<Mutex<Vec<Heartbeat>>>,
    shutdown: Shutdown,
    next: std::sync::atomic::AtomicU64,
}

impl Outside {
    async fn new() -> Self {
        let env = Env::real();
        let buffers = BufPool::new(1 << 20);
        let endpoint = Endpoint::new(&env, Transports::tcp(), buffers, NetConfig::default());
        let heartbeats = Arc::new(Mutex::new(Vec::new()));
        let shutdown = Shutdown::new();
        let routes = Arc::new(manager(&env, heartbeats.clone()));
        let server = endpoint
            .serve("127.0.0.1:0", routes, shutdown.signal())
            .await
            .unwrap();
        Self {
            env,
            manager: server.address(),
            endpoint,
            heartbeats,
            shutdown,
            next: std::sync::atomic::AtomicU64::new(1),
        }
    }

    fn config(&self, data: &Path) -> MetaConfig {
        MetaConfig {
            node_id: 42,
            mgmtd: vec![self.manager.clone()],
            data: data.to_owned(),
            ..MetaConfig::default()
        }
    }

    async fn ask<M: Rpc>(
        &self,
        server: &RunningMeta,
        request: M::Request,
    ) -> Result<M::Response, StatusCode> {
        let number = &self.next;
        let caller = Caller {
            client: ClientId(9),
            request: RequestId(number.fetch_add(1, std::sync::atomic::Ordering::Relaxed)),
            identity: Identity::root(),
        };
        let deadline = self.env.now() + Duration::from_secs(10);
        let address = server.address();
        let asked = self
            .endpoint
            .ask::<M>(&address, &caller, &request, deadline);
        asked.await.map_err(|status| status.code)
    }

    async fn until_ready(&self, server: &RunningMeta) {
        for _ in 0..500 {
            if server.readiness().reasons().is_empty() {
                return;
            }
            self.env.sleep(Duration::from_millis(20)).await;
        }
        panic!("not ready: {:?}", server.readiness().reasons());
    }
}

fn manager(env: &Env, heartbeats: Arc<Mutex<Vec<Heartbeat>>>) -> Router {
    let env = env.clone();
    Router::new()
        .on::<SendHeartbeat, _, _>(move |heartbeat, _| {
            heartbeats.lock().push(heartbeat);
            std::future::ready(Ok(HeartbeatReply {
                lease_ms: 2000,
                routing_version: RoutingVersion(1),
                step_down: Vec::new(),
            }))
        })
        .on::<FollowRouting, _, _>(move |request, _| {
            let env = env.clone();
            async move {
                if request.known >= RoutingVersion(1) {
                    env.sleep(Duration::from_millis(request.wait_ms)).await;
                    return Ok(RoutingNews::Nothing);
                }
                let routing = RoutingInfo {
                    version: RoutingVersion(1),
                    ..routing()
                };
                Ok(RoutingNews::Whole(routing))
            }
        })
        .on::<GetSpace, _, _>(|(), _| {
            std::future::ready(Ok(SpaceReply {
                capacity_bytes: 900,
                used_bytes: 300,
                replicas: 3,
                ..SpaceReply::default()
            }))
        })
        .on::<ListClientSessions, _, _>(|(), _| std::future::ready(Ok::<_, Status>(Vec::new())))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_registers_serves_and_keeps_what_it_acknowledged() {
    let outside = Outside::new().await;
    let dir = tempfile::tempdir().unwrap();
    let shutdown = Shutdown::new();
    let config = outside.config(dir.path());
    let server = serve(config.clone(), outside.env.clone(), shutdown.clone())
        .await
        .unwrap();
    outside.until_ready(&server).await;
    {
        let heartbeats = outside.heartbeats.lock();
        let heartbeat = heartbeats.last().unwrap();
        assert_eq!(heartbeat.node, NodeId(42));
        assert_eq!(heartbeat.kind, NodeKind::Meta);
        assert_eq!(heartbeat.addresses, [server.address()]);
    }
    let mkdir = MkdirRequest {
        parent: ROOT,
        name: b"dir".to_vec(),
        mode: 0o755,
    };
    let made = outside.ask::<Mkdir>(&server, mkdir.clone()).await.unwrap();
    let again = outside.ask::<Mkdir>(&server, mkdir).await;
    assert_eq!(again, Err(StatusCode::Exists));
    let file = outside
        .ask::<Create>(&server, create(made.id, "file"))
        .await
        .unwrap();
    let fsync = SyncRequest {
        inode: file.inode.id,
        session: None,
        length: None,
        durable: true,
    };
    outside.ask::<Sync>(&server, fsync).await.unwrap();
    let space = outside.ask::<StatFs>(&server, ()).await.unwrap();
    assert_eq!((space.capacity_bytes, space.free_bytes), (300, 200));
    assert_eq!(space.inode_count, 3);
    assert_eq!(server.workers().list().len(), 5);
    shutdown.trigger();
    server.join().await;

    let shutdown = Shutdown::new();
    let server = serve(config, outside.env.clone(), shutdown.clone())
        .await
        .unwrap();
    let found = outside
        .ask::<Lookup>(&server, named(made.id, "file"))
        .await
        .unwrap();
    assert_eq!(found, file.inode);
    let list = ReadDirRequest {
        inode: ROOT,
        after: Vec::new(),
        limit: 10,
        attributes: true,
    };
    let listed = outside.ask::<ReadDir>(&server, list).await.unwrap();
    assert_eq!(listed.entries.len(), 1);
    shutdown.trigger();
    server.join().await;
    outside.shutdown.trigger();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_cannot_start_says_why_and_leaves_nothing_behind() {
    let outside = Outside::new().await;
    let dir = tempfile::tempdir().unwrap();
    let config = outside.config(dir.path());
    let shutdown = Shutdown::new();
    let start = async |config| {
        let (env, shutdown) = (outside.env.clone(), shutdown.clone());
        serve(config, env, shutdown).await
    };
    let refused = async |config| start(config).await.unwrap_err().to_string();

    let mut fdb = config.clone();
    fdb.kv = KvKind::Fdb;
    let error = refused(fdb).await;
    assert!(error.contains("`fdb` is not built yet"), "{error}");

    let mut taken = config.clone();
    taken.listen.clone_from(&outside.manager);
    let error = refused(taken).await;
    assert!(error.contains("already in use"), "{error}");

    let mut bad_admin = config.clone();
    bad_admin.admin_listen = "nowhere".to_owned();
    let error = refused(bad_admin).await;
    assert!(error.contains("admin port at nowhere"), "{error}");

    let server = start(config.clone()).await.unwrap();
    let error = refused(config).await;
    let expected = format!("in use by process {}", std::process::id());
    assert!(error.contains(&expected), "{error}");
    shutdown.trigger();
    server.join().await;
    outside.shutdown.trigger();
}
