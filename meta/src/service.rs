//! Runs operations: transactions, retries, stored results, and what operations need from outside.

use std::sync::{Arc, atomic::AtomicBool};

use common::env::{Env, Instant};
use kv::{Kv, Transaction, transact};
use net::Router;
use tokio::sync::Notify;
use types::{
    id::{InodeId, SessionId},
    inode::{Inode, InodeData},
    rpc::{
        Caller,
        meta::{
            Close, Create, GetAttr, Link, Lookup, Mkdir, Open, ReadDir, Rename, Rmdir, SetAttr,
            SetAttrRequest, StatFs, StatFsReply, Symlink, Sync, SyncRequest, Unlink,
        },
    },
    status::Status,
};

use crate::{
    chain_picker::ChainPicker,
    chunks::Chunks,
    cluster::Cluster,
    error::{MetaError, Need},
    inode_ids::InodeIds,
    length,
    ops::{AskedLength, Context, Operation, close},
    store::{
        self,
        garbage::{Entry, Garbage},
    },
    truncate::Truncates,
};

/// The namespace, as far as this server is concerned.
#[derive(Debug)]
pub struct Namespace {
    pub(crate) env: Env,
    pub(crate) kv: Arc<dyn Kv>,
    pub(crate) chunks: Arc<dyn Chunks>,
    pub(crate) cluster: Arc<dyn Cluster>,
    pub(crate) truncates: Truncates,
    /// Wakes the garbage collector.
    pub(crate) garbage: Notify,
    ids: InodeIds,
    picker: ChainPicker,
}

impl Namespace {
    /// The namespace in `kv`, with its data in `chunks`.
    pub fn new(
        env: &Env,
        kv: Arc<dyn Kv>,
        chunks: Arc<dyn Chunks>,
        cluster: Arc<dyn Cluster>,
        picker: ChainPicker,
    ) -> Arc<Self> {
        Arc::new(Self {
            env: env.clone(),
            truncates: Truncates::new(env, kv.clone(), chunks.clone()),
            garbage: Notify::new(),
            ids: InodeIds::new(env, kv.clone()),
            picker,
            kv,
            chunks,
            cluster,
        })
    }

    /// Runs an operation until it succeeds, fails for good, or the deadline passes.
    ///
    /// # Errors
    /// What the operation says.
    pub async fn run<M: Operation>(
        &self,
        caller: &Caller,
        deadline: Instant,
        request: &M::Request,
    ) -> Result<M::Response, MetaError> {
        let fresh = match M::MAKES_INODE {
            true => self.ids.next(deadline).await?,
            false => InodeId(0),
        };
        let mut ctx = self.context(caller, fresh);
        loop {
            let result = {
                let ctx = &ctx;
                transact(&self.env, &*self.kv, deadline, |txn| {
                    Box::pin(attempt::<M>(txn, ctx, request))
                })
                .await
            };
            match result {
                Err(MetaError::Needs(need)) => self.satisfy(&mut ctx, need, deadline).await?,
                result => {
                    self.wake_collector(&ctx);
                    return result;
                }
            }
        }
    }

    /// Sets attributes, and finishes the truncate if that is one.
    ///
    /// # Errors
    /// What the operation says, or storage.
    pub async fn set_attr(
        &self,
        caller: &Caller,
        deadline: Instant,
        request: &SetAttrRequest,
    ) -> Result<Inode, MetaError> {
        let inode = self.run::<SetAttr>(caller, deadline, request).await?;
        if let InodeData::File {
            truncating: Some(_),
            ..
        } = inode.data
        {
            // The operation queued the entry at the time it stored as ctime.
            let entry = Entry {
                queued_ns: inode.times.ctime_ns,
                inode: inode.id,
                garbage: Garbage::Truncate,
            };
            return self.truncates.finish(inode.id, Some(entry)).await;
        }
        Ok(inode)
    }

    /// Takes a report of a length; for fsync waits until everything so far is on stable storage.
    ///
    /// # Errors
    /// What the operation says, or the store's sync.
    pub async fn sync(
        &self,
        caller: &Caller,
        deadline: Instant,
        request: &SyncRequest,
    ) -> Result<Inode, MetaError> {
        let inode = self.run::<Sync>(caller, deadline, request).await?;
        if request.durable {
            self.kv.sync().await?;
        }
        Ok(inode)
    }

    /// Space for statfs(2), divided by the replica count.
    ///
    /// # Errors
    /// What the manager says.
    pub async fn stat_fs(
        &self,
        caller: &Caller,
        deadline: Instant,
    ) -> Result<StatFsReply, MetaError> {
        let counted = self.run::<StatFs>(caller, deadline, &()).await?;
        let space = self.cluster.space(deadline).await?;
        let replicas = u64::from(space.replicas.max(1));
        Ok(StatFsReply {
            capacity_bytes: space.capacity_bytes / replicas,
            free_bytes: space.capacity_bytes.saturating_sub(space.used_bytes) / replicas,
            inode_count: counted.inode_count,
        })
    }

    /// Ends the session of a client that is gone (protocol M7).
    ///
    /// # Errors
    /// When the store or storage fails.
    pub async fn end_lost_session(
        &self,
        caller: &Caller,
        deadline: Instant,
        inode: InodeId,
        session: SessionId,
    ) -> Result<(), MetaError> {
        let mut ctx = self.context(caller, InodeId(0));
        loop {
            let result = {
                let ctx = &ctx;
                transact(&self.env, &*self.kv, deadline, |txn| {
                    Box::pin(end_lost(txn, ctx, inode, session))
                })
                .await
            };
            match result {
                Err(MetaError::Needs(need)) => self.satisfy(&mut ctx, need, deadline).await?,
                result => {
                    self.wake_collector(&ctx);
                    return result;
                }
            }
        }
    }

    fn context<'a>(&'a self, caller: &'a Caller, fresh: InodeId) -> Context<'a> {
        Context {
            caller,
            now_ns: self.env.wall().0,
            fresh,
            seed: self.env.random_u64(),
            routing: self.cluster.routing(),
            picker: &self.picker,
            asked: None,
            queued: AtomicBool::new(false),
        }
    }

    /// Gets what an operation needs, so that it can be run again.
    async fn satisfy(
        &self,
        ctx: &mut Context<'_>,
        need: Need,
        deadline: Instant,
    ) -> Result<(), MetaError> {
        if self.env.now() >= deadline {
            return Err(MetaError::Needs(need));
        }
        match need {
            Need::FinishTruncate(inode) => {
                self.truncates.finish(inode, None).await?;
            }
            Need::AskLength {
                inode,
                layout,
                truncate_version,
            } => {
                let last = self.chunks.last_chunk(inode, &layout).await?;
                ctx.asked = Some(AskedLength {
                    inode,
                    truncate_version,
                    length: length::from_last_chunk(last.as_ref(), &layout),
                });
            }
        }
        Ok(())
    }

    fn wake_collector(&self, ctx: &Context<'_>) {
        if ctx.queued.load(std::sync::atomic::Ordering::Relaxed) {
            self.garbage.notify_one();
        }
    }
}

/// One try of an operation. A request that already took effect gets the answer it got then.
async fn attempt<M: Operation>(
    txn: &mut dyn Transaction,
    ctx: &Context<'_>,
    request: &M::Request,
) -> Result<M::Response, MetaError> {
    if !M::RECORDED {
        return M::run(txn, ctx, request).await;
    }
    if let Some(response) = store::idempotency::replay::<M>(txn, ctx.caller).await? {
        return Ok(response);
    }
    let response = M::run(txn, ctx, request).await?;
    store::idempotency::record::<M>(txn, ctx.caller, ctx.now_ns, &response);
    Ok(response)
}

async fn end_lost(
    txn: &mut dyn Transaction,
    ctx: &Context<'_>,
    inode: InodeId,
    session: SessionId,
) -> Result<(), MetaError> {
    let found = store::inode::load(txn, inode, kv::ReadMode::Serializable).await?;
    match found {
        Some(inode) => {
            close::end(txn, ctx, inode, session, close::Ending::Lost).await?;
        }
        None => store::session::clear(txn, inode, session),
    }
    Ok(())
}

/// The methods, for the network.
pub fn router(namespace: &Arc<Namespace>) -> Router {
    let router = Router::new();
    let router = on::<Lookup>(router, namespace);
    let router = on::<GetAttr>(router, namespace);
    let router = on::<Create>(router, namespace);
    let router = on::<Open>(router, namespace);
    let router = on::<Close>(router, namespace);
    let router = on::<Mkdir>(router, namespace);
    let router = on::<Symlink>(router, namespace);
    let router = on::<Link>(router, namespace);
    let router = on::<Unlink>(router, namespace);
    let router = on::<Rmdir>(router, namespace);
    let router = on::<Rename>(router, namespace);
    let router = on::<ReadDir>(router, namespace);
    let (set_attr, sync, stat_fs) = (namespace.clone(), namespace.clone(), namespace.clone());
    router
        .on::<SetAttr, _, _>(move |request, incoming| {
            let namespace = set_attr.clone();
            async move {
                let (caller, deadline) = (&incoming.caller, incoming.deadline);
                let result = namespace.set_attr(caller, deadline, &request).await;
                result.map_err(Status::from)
            }
        })
        .on::<Sync, _, _>(move |request, incoming| {
            let namespace = sync.clone();
            async move {
                let (caller, deadline) = (&incoming.caller, incoming.deadline);
                let result = namespace.sync(caller, deadline, &request).await;
                result.map_err(Status::from)
            }
        })
        .on::<StatFs, _, _>(move |(), incoming| {
            let namespace = stat_fs.clone();
            async move {
                let (caller, deadline) = (&incoming.caller, incoming.deadline);
                let result = namespace.stat_fs(caller, deadline).await;
                result.map_err(Status::from)
            }
        })
}

fn on<M: Operation>(router: Router, namespace: &Arc<Namespace>) -> Router {
    let namespace = namespace.clone();
    router.on::<M, _, _>(move |request, incoming| {
        let namespace = namespace.clone();
        async move {
            let (caller, deadline) = (&incoming.caller, incoming.deadline);
            let result = namespace.run::<M>(caller, deadline, &request).await;
            result.map_err(Status::from)
        }
    })
}
