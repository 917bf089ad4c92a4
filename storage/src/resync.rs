//! Refilling a returning target (protocol section 8): done by its predecessor, which is the last serving one.
//!
//! Both lists of chunks are walked in order, page by page. Each chunk that differs is sent whole under its
//! turn, so it meets the writes of clients in one order; writes that come meanwhile reach the syncing target
//! by themselves (W9). When the end is reached the target gets the table of channels (W2): chunks carry only their last tag.
//! Then it is told that it holds everything.
//!
//! A change of the chain stops the walk. It goes on where it was only if the very next version of the chain
//! still has the same target syncing: if any version was missed, the target may have been empty in between.

use std::{sync::Arc, time::Duration};

use common::{backoff::Backoff, env::Instant, shutdown::ShutdownSignal};
use engine::ReadVersion;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use net::Bulk;
use tokio::sync::RwLockReadGuard;
use types::{
    chunk::{ChunkId, ChunkMeta, Update},
    id::{ChainId, TargetId},
    rpc::{
        BulkIndex, Rpc,
        storage::{
            AdoptChannels, AdoptChannelsRequest, CHANNELS_LENGTH_MAX, FinishSync,
            FinishSyncRequest, ForwardKind, ForwardRequest, ForwardUpdate, ListChunks,
            ListChunksReply, ListChunksRequest,
        },
    },
    status::{Status, StatusCode},
    target::{LocalState, PublicState},
    version::ChainVersion,
};

use crate::{
    change::{self, size_class},
    metrics,
    node::Node,
    read::check_named,
    replica::{
        role::{Standing, address_of},
        sync::{Page, compare},
    },
    target::{
        Target, View,
        driver::{FIRST_CHUNK, believe_all, next_page},
    },
};

/// Chunks in a page.
const PAGE: usize = 1024;
/// Chunks sent at once, as long as they are small.
const PARALLEL: usize = 8;
/// Bytes sent at once; one chunk always is.
const PARALLEL_BYTES: usize = 64 << 20;
/// How long one question or one chunk may take.
const STEP_LIMIT: Duration = Duration::from_secs(10);

/// How far a walk came.
#[derive(Clone, Debug)]
struct Progress {
    successor: TargetId,
    version: ChainVersion,
    cursor: ChunkId,
    /// The successor was told that it holds everything.
    finished: bool,
    compared: usize,
    sent: usize,
}

impl Progress {
    /// The walk for `successor` at `version`: a new one, or the old one when nothing was missed.
    fn resume(old: Option<Progress>, successor: TargetId, version: ChainVersion) -> Self {
        match old {
            Some(old)
                if old.successor == successor
                    && (old.version == version || old.version.is_followed_by(version)) =>
            {
                let finished = old.finished && old.version == version;
                Self {
                    version,
                    finished,
                    ..old
                }
            }
            _ => Self {
                successor,
                version,
                cursor: FIRST_CHUNK,
                finished: false,
                compared: 0,
                sent: 0,
            },
        }
    }
}

/// Fills the target's successor whenever it is syncing, until shutdown.
pub(crate) async fn fill_successors(node: Arc<Node>, target: Arc<Target>, mut end: ShutdownSignal) {
    let mut views = target.subscribe();
    let mut progress: Option<Progress> = None;
    loop {
        let view = views.borrow_and_update().clone();
        let version = view.chain.version;
        if let Some(successor) = to_fill(&target, &view) {
            let walk = Progress::resume(progress.take(), successor, version);
            let walk = progress.insert(walk);
            let changed =
                views.wait_for(|now| now.chain.version != version || !now.local.is_alive());
            tokio::select! {
                () = fill(&node, &target, walk) => {}
                _ = changed => continue,
                () = end.wait() => return,
            }
        } else {
            progress = None;
        }
        tokio::select! {
            changed = views.changed() => if changed.is_err() { return },
            () = end.wait() => return,
        }
    }
}

/// The target that this one has to fill now.
fn to_fill(target: &Target, view: &View) -> Option<TargetId> {
    let serves = view.local == LocalState::UpToDate
        && view.public(target.id) == PublicState::Serving
        && view.chain.last_serving() == Some(target.id);
    let successor = view.chain.successor(target.id).filter(|_| serves)?;
    (successor.state == PublicState::Syncing).then_some(successor.id)
}

/// Walks to the end and tells the successor; tries again until that is done.
async fn fill(node: &Node, target: &Target, walk: &mut Progress) {
    let (successor, version) = (walk.successor.0, walk.version.0);
    if walk.finished {
        return;
    }
    tracing::info!(
        target = target.id.0,
        successor,
        version,
        from = %walk.cursor,
        "resync begins"
    );
    let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));
    loop {
        match step(node, target, walk).await {
            Ok(true) => break,
            Ok(false) => {}
            Err(status) => {
                tracing::warn!(target = target.id.0, successor, %status, "resync waits");
                backoff.wait(&node.env).await;
            }
        }
    }
    tracing::info!(
        target = target.id.0,
        successor,
        version,
        compared = walk.compared,
        sent = walk.sent,
        "resync is done"
    );
}

/// One page, or the end; true at the end.
async fn step(node: &Node, target: &Target, walk: &mut Progress) -> Result<bool, Status> {
    let chunks = target.disk.engine()?.list(target.id, walk.cursor, PAGE)?;
    let mine = Page {
        complete_below: next_page(&chunks, PAGE),
        chunks,
    };
    let theirs = list_at(node, target, walk).await?;
    let differences = compare(&mine, &theirs);
    let sent = differences.chunks.len();
    let longest = mine.chunks.iter().map(|meta| meta.length as usize).max();
    let parallel = (PARALLEL_BYTES / longest.unwrap_or(0).max(1)).clamp(1, PARALLEL);
    let walked = &*walk;
    let sends = differences
        .chunks
        .into_iter()
        .map(|chunk| send_chunk(node, target, walked, chunk).boxed());
    stream::iter(sends)
        .buffer_unordered(parallel)
        .try_collect::<()>()
        .await?;
    metrics::resynced(differences.compared, sent);
    walk.compared += differences.compared;
    walk.sent += sent;
    if let Some(next) = differences.next {
        walk.cursor = next;
        return Ok(false);
    }
    send_channels(node, target, walk).await?;
    let request = FinishSyncRequest {
        chain: target.chain,
        chain_version: walk.version,
        target: walk.successor,
    };
    ask::<FinishSync>(node, walk, &request).await?;
    walk.finished = true;
    Ok(true)
}

/// Asks the successor.
async fn ask<M: Rpc>(
    node: &Node,
    walk: &Progress,
    request: &M::Request,
) -> Result<M::Response, Status> {
    let address = address_of(&node.routing.current(), walk.successor)?;
    let until = node.env.now() + STEP_LIMIT;
    let caller = node.caller();
    let endpoint = &node.endpoint;
    endpoint.ask::<M>(&address, &caller, request, until).await
}

/// Sends the table of channels. At the end of the walk, while the successor is syncing: every update that is not in the
/// table yet reaches it by being passed on.
async fn send_channels(node: &Node, target: &Target, walk: &Progress) -> Result<(), Status> {
    let channels = target.disk.engine()?.channels(target.id)?;
    for page in channels.chunks(CHANNELS_LENGTH_MAX) {
        let request = AdoptChannelsRequest {
            chain: target.chain,
            chain_version: walk.version,
            target: walk.successor,
            channels: page.to_vec(),
        };
        ask::<AdoptChannels>(node, walk, &request).await?;
    }
    Ok(())
}

/// The successor's page from the cursor on.
async fn list_at(node: &Node, target: &Target, walk: &Progress) -> Result<Page, Status> {
    let request = ListChunksRequest {
        chain: target.chain,
        chain_version: walk.version,
        target: walk.successor,
        from: walk.cursor,
        limit: u32::try_from(PAGE).unwrap_or(u32::MAX),
    };
    let reply = ask::<ListChunks>(node, walk, &request).await?;
    let in_order = reply.chunks.windows(2).all(|pair| pair[0].id < pair[1].id);
    if !in_order || reply.next.is_some_and(|next| next <= walk.cursor) {
        let why = format!("target {} lists its chunks out of order", walk.successor);
        return Err(Status::new(StatusCode::Malformed, why));
    }
    Ok(Page {
        chunks: reply.chunks,
        complete_below: reply.next,
    })
}

/// Makes one chunk of the successor equal, under its turn.
async fn send_chunk(
    node: &Node,
    target: &Target,
    walk: &Progress,
    chunk: ChunkId,
) -> Result<(), Status> {
    let deadline = node.env.now() + STEP_LIMIT;
    let _entered = target.enter(&node.env, chunk, deadline).await?;
    let serving = |standing: &Standing<'_>| standing.check_serving(walk.version);
    node.check(target, &target.view(), serving)?;
    let meta = target.disk.engine()?.get(target.key(chunk))?;
    if let Some(meta) = meta.as_ref().filter(|meta| meta.pending.is_some()) {
        // Finishing it sends it whole.
        return change::settle(node, target, meta, deadline).await.map(drop);
    }
    let (request, bulk) = whole_chunk(node, target, walk, (chunk, meta.as_ref())).await?;
    let address = address_of(&node.routing.current(), walk.successor)?;
    let caller = node.caller();
    let call = node
        .endpoint
        .call::<ForwardUpdate>(&address, &caller, &request, bulk, deadline);
    let reply = call.await.result?;
    let expected = meta.map_or((types::version::ChunkVersion(0), 0), |meta| {
        (meta.commit_version, meta.length)
    });
    if (reply.commit_version, reply.length) != expected && request.kind != ForwardKind::Drop {
        let why = format!("chunk {chunk}: sent {expected:?}, the successor holds {reply:?}");
        return Err(Status::new(StatusCode::ReplicaDiverged, why));
    }
    Ok(())
}

/// The request that carries a chunk as it is committed here.
async fn whole_chunk(
    node: &Node,
    target: &Target,
    walk: &Progress,
    (chunk, meta): (ChunkId, Option<&ChunkMeta>),
) -> Result<(ForwardRequest, Bulk), Status> {
    let mut request = ForwardRequest {
        chain: target.chain,
        chain_version: walk.version,
        from: target.id,
        chunk,
        chunk_size: size_class(meta.map_or(0, |meta| meta.length)),
        update_version: types::version::ChunkVersion(0),
        kind: ForwardKind::Drop,
        payload: None,
        checksum: types::checksum::Checksum::default(),
        tag: None,
    };
    let mut bulk = Bulk::default();
    if let Some(meta) = meta {
        request.update_version = meta.commit_version;
        request.tag = meta.tag;
        request.kind = ForwardKind::Update(Update::Remove);
        if meta.exists {
            let engine = target.disk.engine()?;
            let read = engine.read(target.key(chunk), ReadVersion::Committed, 0, u32::MAX);
            let out = read.await.map_err(Status::from).inspect_err(|status| {
                if status.code == StatusCode::ChunkCorrupt {
                    change::damage(node, target, chunk, status);
                }
            })?;
            request.kind = ForwardKind::Replace {
                length: meta.length,
            };
            request.checksum = out.checksum;
            request.payload = Some(BulkIndex(0));
            bulk.sources.push(out.data);
        }
    }
    Ok((request, bulk))
}

/// The target of this node that a predecessor means.
///
/// # Errors
/// When it is not syncing at that version of the chain.
async fn syncing_target(
    node: &Node,
    (chain, named, version): (ChainId, TargetId, ChainVersion),
    deadline: Instant,
) -> Result<Arc<Target>, Status> {
    let target = node.target_of(chain)?;
    check_named(node, &target, named)?;
    let view = node.catch_up(&target, version, deadline).await;
    let syncing = |standing: &Standing<'_>| standing.check_syncing(version);
    node.check(&target, &view, syncing)?;
    Ok(target)
}

/// Keeps a syncing target from being reopened: what is learned of channels meanwhile must not get into a table that was
/// emptied for another resync.
///
/// # Errors
/// When it is not syncing any more.
async fn keep_syncing<'a>(
    node: &Node,
    target: &'a Target,
    version: ChainVersion,
    deadline: Instant,
) -> Result<RwLockReadGuard<'a, ()>, Status> {
    let open = target.open(&node.env, deadline).await?;
    let syncing = |standing: &Standing<'_>| standing.check_syncing(version);
    node.check(target, &target.view(), syncing)?;
    Ok(open)
}

/// A page of this target's chunks, for its predecessor.
///
/// # Errors
/// When this target is not syncing.
pub(crate) async fn list_chunks(
    node: &Node,
    request: &ListChunksRequest,
    deadline: Instant,
) -> Result<ListChunksReply, Status> {
    let asked = (request.chain, request.target, request.chain_version);
    let target = syncing_target(node, asked, deadline).await?;
    let limit = (request.limit as usize).clamp(1, PAGE);
    let mut chunks = target.disk.engine()?.list(target.id, request.from, limit)?;
    let next = next_page(&chunks, limit);
    // A damaged chunk is as good as none: the predecessor sends it.
    chunks.retain(|meta| !target.is_damaged(meta.id));
    Ok(ListChunksReply { chunks, next })
}

/// The predecessor says which updates are done (W2). Durable on return; believed with everything else in `finish_sync`.
///
/// # Errors
/// When this target is not syncing at that version of the chain.
pub(crate) async fn adopt_channels(
    node: &Node,
    request: &AdoptChannelsRequest,
    deadline: Instant,
) -> Result<(), Status> {
    let count = request.channels.len();
    if count > CHANNELS_LENGTH_MAX {
        let why = format!("{count} channels in one request; at most {CHANNELS_LENGTH_MAX}");
        return Err(Status::new(StatusCode::InvalidArgument, why));
    }
    let asked = (request.chain, request.target, request.chain_version);
    let target = syncing_target(node, asked, deadline).await?;
    let _open = keep_syncing(node, &target, request.chain_version, deadline).await?;
    let engine = target.disk.engine()?;
    engine.adopt_channels(target.id, &request.channels).await?;
    Ok(())
}

/// The predecessor says that this target holds everything now (S5).
///
/// # Errors
/// When this target is not syncing at that version of the chain.
pub(crate) async fn finish_sync(
    node: &Node,
    request: &FinishSyncRequest,
    deadline: Instant,
) -> Result<(), Status> {
    let version = request.chain_version;
    let asked = (request.chain, request.target, version);
    let target = syncing_target(node, asked, deadline).await?;
    let _open = keep_syncing(node, &target, version, deadline).await?;
    believe_all(node, &target).await?;
    if !target.finish_sync(version) {
        let why = format!("target {} is not syncing any more", target.id);
        return Err(Status::new(StatusCode::WrongRole, why));
    }
    tracing::info!(target = target.id.0, version = version.0, "up to date");
    node.report_soon();
    Ok(())
}
