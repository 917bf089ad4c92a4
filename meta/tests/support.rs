//! A namespace with everything around it in memory.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use common::{
    env::{Env, Instant},
    shutdown::Shutdown,
    sync::Mutex,
};
use kv::{Kv, mem::MemKv};
use meta::{
    MetaError, bootstrap,
    chain_picker::{ChainPicker, DEFAULT_TABLE},
    chunks::MemChunks,
    cluster::Cluster,
    gc::{Collector, Patience},
    ops::Operation,
    service::Namespace,
};
use types::{
    chain::ChainTable,
    id::{ChainId, ClientId, InodeId, ROOT_INODE, RequestId, SessionId},
    inode::Inode,
    routing::RoutingInfo,
    rpc::{
        Caller,
        meta::{
            AttrChange, Close, CloseRequest, Create, CreateReply, CreateRequest, GetAttr,
            InodeRequest, LengthReport, Lookup, Mkdir, MkdirRequest, NameRequest, Open,
            OpenRequest, ReadDir, ReadDirReply, ReadDirRequest, Rename, RenameMode, RenameRequest,
            SetAttrRequest, Unlink, UnlinkRequest,
        },
        mgmtd::SpaceReply,
    },
    session::ClientSession,
    status::{Status, StatusCode},
    user::Identity,
    version::ChainTableVersion,
};

/// The client of requests that name none.
pub(crate) const CLIENT: ClientId = ClientId(77);
/// Small, so that files have several chunks.
pub(crate) const CHUNK_SIZE: u32 = 64 << 10;

/// A cluster that is only what the test says.
#[derive(Debug, Default)]
pub(crate) struct FakeCluster {
    pub(crate) routing: Mutex<Arc<RoutingInfo>>,
    pub(crate) space: Mutex<SpaceReply>,
    pub(crate) clients: Mutex<Vec<ClientId>>,
}

#[async_trait]
impl Cluster for FakeCluster {
    fn routing(&self) -> Arc<RoutingInfo> {
        self.routing.lock().clone()
    }

    async fn space(&self, _deadline: Instant) -> Result<SpaceReply, Status> {
        Ok(self.space.lock().clone())
    }

    async fn clients(&self, _deadline: Instant) -> Result<Vec<ClientSession>, Status> {
        let clients = self.clients.lock().clone();
        let session = |client| ClientSession {
            client,
            description: String::new(),
        };
        Ok(clients.into_iter().map(session).collect())
    }
}

/// A map with one table of three chains.
pub(crate) fn routing() -> RoutingInfo {
    let table = ChainTable {
        id: DEFAULT_TABLE,
        version: ChainTableVersion(1),
        chains: vec![ChainId(1), ChainId(2), ChainId(3)],
    };
    RoutingInfo {
        tables: BTreeMap::from([((table.id, table.version), table)]),
        ..RoutingInfo::default()
    }
}

/// A namespace with everything around it.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) env: Env,
    pub(crate) kv: Arc<dyn Kv>,
    pub(crate) chunks: Arc<MemChunks>,
    pub(crate) cluster: Arc<FakeCluster>,
    pub(crate) namespace: Arc<Namespace>,
    next: AtomicU64,
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::on(MemKv::new()).await
    }

    pub(crate) async fn on(kv: Arc<dyn Kv>) -> Self {
        let env = Env::seeded(1);
        let cluster = Arc::new(FakeCluster::default());
        *cluster.routing.lock() = Arc::new(routing());
        let chunks = Arc::new(MemChunks::default());
        let namespace = Namespace::new(
            &env,
            kv.clone(),
            chunks.clone(),
            cluster.clone(),
            ChainPicker::new(CHUNK_SIZE, 16, 0),
        );
        bootstrap::ensure_root(&env, &*kv).await.unwrap();
        Self {
            env,
            kv,
            chunks,
            cluster,
            namespace,
            next: AtomicU64::new(1),
        }
    }

    pub(crate) fn deadline(&self) -> Instant {
        self.env.now() + Duration::from_secs(20)
    }

    /// A new request of `who`.
    pub(crate) fn caller(&self, who: &Identity) -> Caller {
        Caller {
            client: CLIENT,
            request: RequestId(self.next.fetch_add(1, Ordering::Relaxed)),
            identity: who.clone(),
        }
    }

    pub(crate) fn session(&self) -> SessionId {
        SessionId(self.env.random_u128())
    }

    /// Runs one request as root.
    pub(crate) async fn run<M: Operation>(
        &self,
        request: M::Request,
    ) -> Result<M::Response, StatusCode> {
        self.run_as::<M>(&Identity::root(), request).await
    }

    /// Runs one request.
    pub(crate) async fn run_as<M: Operation>(
        &self,
        who: &Identity,
        request: M::Request,
    ) -> Result<M::Response, StatusCode> {
        let caller = self.caller(who);
        let result = self
            .namespace
            .run::<M>(&caller, self.deadline(), &request)
            .await;
        result.map_err(code)
    }

    pub(crate) async fn mkdir(&self, parent: InodeId, name: &str) -> InodeId {
        self.mkdir_as(&Identity::root(), parent, name, 0o755).await
    }

    pub(crate) async fn mkdir_as(
        &self,
        who: &Identity,
        parent: InodeId,
        name: &str,
        mode: u32,
    ) -> InodeId {
        let request = MkdirRequest {
            parent,
            name: name.into(),
            mode,
        };
        self.run_as::<Mkdir>(who, request).await.unwrap().id
    }

    /// A file without session.
    pub(crate) async fn file(&self, parent: InodeId, name: &str) -> Inode {
        let reply = self.create(create(parent, name)).await.unwrap();
        assert!(reply.created);
        reply.inode
    }

    pub(crate) async fn create(&self, request: CreateRequest) -> Result<CreateReply, StatusCode> {
        self.run::<Create>(request).await
    }

    pub(crate) async fn lookup(&self, parent: InodeId, name: &str) -> Result<Inode, StatusCode> {
        self.run::<Lookup>(named(parent, name)).await
    }

    pub(crate) async fn get(&self, inode: InodeId) -> Result<Inode, StatusCode> {
        self.run::<GetAttr>(InodeRequest { inode }).await
    }

    pub(crate) async fn unlink(&self, parent: InodeId, name: &str) -> Result<(), StatusCode> {
        self.run::<Unlink>(unlink(parent, name)).await
    }

    pub(crate) async fn rename(
        &self,
        from: (InodeId, &str),
        to: (InodeId, &str),
        mode: RenameMode,
    ) -> Result<(), StatusCode> {
        self.run::<Rename>(rename(from, to, mode)).await
    }

    pub(crate) async fn set_attr(
        &self,
        who: &Identity,
        request: SetAttrRequest,
    ) -> Result<Inode, StatusCode> {
        let caller = self.caller(who);
        let result = self
            .namespace
            .set_attr(&caller, self.deadline(), &request)
            .await;
        result.map_err(code)
    }

    pub(crate) async fn truncate(&self, inode: InodeId, length: u64) -> Result<Inode, StatusCode> {
        let change = AttrChange {
            length: Some(length),
            ..AttrChange::default()
        };
        self.set_attr(&Identity::root(), set_attr(inode, change))
            .await
    }

    /// Opens for writing; returns the session and the inode.
    pub(crate) async fn open(&self, inode: InodeId) -> Result<(SessionId, Inode), StatusCode> {
        let session = self.session();
        let request = OpenRequest {
            inode,
            read: false,
            session: Some(session),
        };
        Ok((session, self.run::<Open>(request).await?))
    }

    pub(crate) async fn close(
        &self,
        inode: InodeId,
        session: SessionId,
        length: Option<LengthReport>,
    ) -> Result<Inode, StatusCode> {
        self.run::<Close>(CloseRequest {
            inode,
            session,
            length,
        })
        .await
    }

    pub(crate) async fn names(&self, inode: InodeId) -> Vec<String> {
        let reply = self.list(inode).await.unwrap();
        assert!(!reply.more);
        reply
            .entries
            .into_iter()
            .map(|entry| String::from_utf8(entry.name).unwrap())
            .collect()
    }

    pub(crate) async fn list(&self, inode: InodeId) -> Result<ReadDirReply, StatusCode> {
        self.run::<ReadDir>(ReadDirRequest {
            inode,
            after: Vec::new(),
            limit: u32::MAX,
            attributes: true,
        })
        .await
    }

    /// A collector without patience.
    pub(crate) fn collector(&self) -> Collector {
        let patience = Patience {
            grace: Duration::ZERO,
            scan: Duration::from_secs(5),
        };
        Collector::new(self.namespace.clone(), patience, Shutdown::new().signal())
    }
}

pub(crate) fn code(error: MetaError) -> StatusCode {
    Status::from(error).code
}

pub(crate) fn user(uid: u32) -> Identity {
    Identity {
        uid,
        gid: uid,
        groups: Vec::new(),
    }
}

pub(crate) fn named(parent: InodeId, name: &str) -> NameRequest {
    NameRequest {
        parent,
        name: name.into(),
    }
}

pub(crate) fn create(parent: InodeId, name: &str) -> CreateRequest {
    CreateRequest {
        parent,
        name: name.into(),
        mode: 0o644,
        exclusive: false,
        session: None,
        layout: None,
    }
}

pub(crate) fn unlink(parent: InodeId, name: &str) -> UnlinkRequest {
    UnlinkRequest {
        parent,
        name: name.into(),
        hold: None,
    }
}

pub(crate) fn rename(
    from: (InodeId, &str),
    to: (InodeId, &str),
    mode: RenameMode,
) -> RenameRequest {
    RenameRequest {
        parent: from.0,
        name: from.1.into(),
        new_parent: to.0,
        new_name: to.1.into(),
        mode,
        hold: None,
    }
}

pub(crate) fn set_attr(inode: InodeId, change: AttrChange) -> SetAttrRequest {
    SetAttrRequest {
        inode,
        change,
        session: None,
    }
}

/// What a writer says who wrote up to `end` and saw `inode`.
pub(crate) fn report(end: u64, inode: &Inode) -> LengthReport {
    LengthReport {
        end,
        truncate_version: truncate_version(inode),
    }
}

pub(crate) fn truncate_version(inode: &Inode) -> types::version::TruncateVersion {
    match inode.data {
        types::inode::InodeData::File {
            truncate_version, ..
        } => truncate_version,
        _ => panic!("{inode:?} is no file"),
    }
}

pub(crate) const ROOT: InodeId = ROOT_INODE;
