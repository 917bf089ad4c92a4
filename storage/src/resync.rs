//! Refilling a returning target (protocol section 8): done by its predecessor, which is the last serving one.
//!
//! Both lists of chunks are walked in order, page by page. Each chunk that differs is sent whole under its
//! turn, so it meets the writes of clients in one order; writes that come meanwhile reach the syncing target
//! by themselves (W9). When the end is reached the target gets the table of channels (W2): chunks carry only their last tag.
//! Then it is told that it holds everything.
//!
//! | file | what |
//! | --- | --- |
//! | `walk` | how far it came, and when it may go on there after the chain changed |
//! | `pace` | how fast it goes: clients come first |
//! | `reach` | a successor that does not answer must leave |
//! | `progress` | what people see of it |
//! | `receive` | the syncing target's side |
//!
//! A chunk that cannot be read here is passed over; reading it has asked for its repair from another serving replica. At the
//! end it is tried again until it is equal. Until then the target is not told that it holds everything: it would answer for
//! a chunk that it does not have. So it stays syncing when no serving replica can read a chunk, and the report says why.

pub(crate) mod pace;
pub(crate) mod progress;
pub(crate) mod reach;
mod receive;
mod walk;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use common::{backoff::Backoff, shutdown::ShutdownSignal};
use engine::ReadVersion;
use futures::{FutureExt, StreamExt, future::BoxFuture, stream};
use net::Bulk;
use types::{
    chunk::{ChunkId, ChunkMeta, Update},
    id::TargetId,
    rpc::{
        BulkIndex, Rpc,
        storage::{
            AdoptChannels, AdoptChannelsRequest, CHANNELS_LENGTH_MAX, FinishSync,
            FinishSyncRequest, ForwardKind, ForwardRequest, ForwardUpdate, ListChunks,
            ListChunksRequest,
        },
    },
    status::{Status, StatusCode},
    target::PublicState,
};

pub(crate) use self::receive::{adopt_channels, finish_sync, list_chunks};
use self::{
    progress::{Amount, Progress},
    walk::{Walk, is_about_one_chunk},
};
use crate::{
    change::{self, size_class},
    metrics,
    node::Node,
    replica::{
        role::{Standing, address_of},
        sync::{Page, compare},
    },
    target::{Target, View, driver::next_page},
};

/// Chunks in a page.
const PAGE: usize = 1024;
/// How long one question or one chunk may take.
const STEP_LIMIT: Duration = Duration::from_secs(10);
/// Pauses between tries of what went wrong.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Pauses between tries of the chunks that were passed over: a repair takes seconds, or somebody who looks.
const LEFT_PAUSE_MIN: Duration = Duration::from_millis(200);
const LEFT_PAUSE_MAX: Duration = Duration::from_secs(30);

/// What a step came to.
enum Stepped {
    /// There are more pages.
    On,
    /// Only chunks that were passed over are not equal; this is what the first of them said.
    Left(Status),
    /// The successor knows that it holds everything.
    End,
}

/// Fills the target's successor whenever it is syncing, until shutdown.
pub(crate) async fn fill_successors(node: Arc<Node>, target: Arc<Target>, mut end: ShutdownSignal) {
    let mut views = target.subscribe();
    let mut walked: Option<Walk> = None;
    loop {
        let view = views.borrow_and_update().clone();
        let version = view.chain.version;
        if let Some(successor) = to_fill(&target, &view) {
            let walk = Walk::resume(walked.take(), successor, version);
            if walk.is_new() {
                *target.resync.lock() = Some(Progress::new(successor));
            }
            let walk = walked.insert(walk);
            let changed =
                views.wait_for(|now| now.chain.version != version || !now.local.is_alive());
            tokio::select! {
                () = fill(&node, &target, walk) => {}
                _ = changed => continue,
                () = end.wait() => return,
            }
        } else {
            walked = None;
            *target.resync.lock() = None;
        }
        tokio::select! {
            changed = views.changed() => if changed.is_err() { return },
            () = end.wait() => return,
        }
    }
}

/// The target that this one has to fill now.
fn to_fill(target: &Target, view: &View) -> Option<TargetId> {
    let successor = view.chain.successor(target.id);
    let successor = successor.filter(|_| reach::fills(target, view))?;
    (successor.state == PublicState::Syncing).then_some(successor.id)
}

/// Walks to the end and tells the successor; tries again until that is done.
async fn fill(node: &Node, target: &Target, walk: &mut Walk) {
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
    let first = || Backoff::new(PAUSE_MIN, PAUSE_MAX);
    let mut backoff = first();
    let mut left_backoff = Backoff::new(LEFT_PAUSE_MIN, LEFT_PAUSE_MAX);
    loop {
        match step(node, target, walk).await {
            Ok(Stepped::End) => break,
            Ok(Stepped::On) => backoff = first(),
            Ok(Stepped::Left(status)) => {
                tracing::error!(
                    target = target.id.0,
                    successor,
                    chunks = walk.left.len(),
                    first = %status,
                    "the resync cannot end: no serving target can read these chunks, or they cannot be sent; \
                     write or remove them, or bring back a target that has them"
                );
                left_backoff.wait(&node.env).await;
            }
            Err(status) => {
                tracing::warn!(target = target.id.0, successor, %status, "resync waits");
                backoff.wait(&node.env).await;
            }
        }
    }
    target.reach.lock().filled(walk.successor);
    let counts = target.resync.lock().as_ref().map(Progress::counts);
    let (compared, sent) = counts.unwrap_or_default();
    tracing::info!(
        target = target.id.0,
        successor,
        version,
        compared,
        sent,
        "resync is done"
    );
}

/// One page, or the end.
async fn step(node: &Node, target: &Target, walk: &mut Walk) -> Result<Stepped, Status> {
    let engine = target.disk.engine()?;
    let chunks = engine.list(target.id, walk.cursor, PAGE)?;
    let mine = Page {
        complete_below: next_page(&chunks, PAGE),
        chunks,
    };
    let theirs = list_at(node, target, walk).await?;
    let differences = compare(&mine, &theirs);
    let total = Amount {
        chunks: engine.chunk_count(target.id),
        bytes: engine.used_by(target.id),
    };
    note(target, |progress| progress.begin_page(total));
    let differing: BTreeSet<ChunkId> = differences.chunks.iter().copied().collect();
    let is_inside = |meta: &&ChunkMeta| differences.next.is_none_or(|next| meta.id < next);
    for meta in mine.chunks.iter().filter(is_inside) {
        if !differing.contains(&meta.id) {
            note(target, |progress| progress.equal(Amount::of(meta)));
        }
    }
    metrics::resync_compared(differences.compared);
    let failed = send_all(node, target, walk, &differences.chunks, &mine.chunks).await?;
    walk.leave(&failed)?;
    note(target, |progress| progress.leave(walk.left.len()));
    if let Some(next) = differences.next {
        note(target, Progress::end_page);
        walk.cursor = next;
        return Ok(Stepped::On);
    }
    if let Some(status) = send_left(node, target, walk).await? {
        return Ok(Stepped::Left(status));
    }
    send_channels(node, target, walk).await?;
    let request = FinishSyncRequest {
        chain: target.chain,
        chain_version: walk.version,
        target: walk.successor,
    };
    ask::<FinishSync>(node, walk, &request).await?;
    walk.finished = true;
    Ok(Stepped::End)
}

fn note(target: &Target, change: impl FnOnce(&mut Progress)) {
    if let Some(progress) = &mut *target.resync.lock() {
        change(progress);
    }
}

/// Sends chunks in parallel; returns those that have to be passed over, each with the reason.
///
/// # Errors
/// The first failure that is about more than one chunk.
async fn send_all(
    node: &Node,
    target: &Target,
    walk: &Walk,
    chunks: &[ChunkId],
    listed: &[ChunkMeta],
) -> Result<Vec<(ChunkId, Status)>, Status> {
    let parallel = target.disk.pace.limits().parallel as usize;
    let send = |chunk: ChunkId| {
        let meta = listed.binary_search_by_key(&chunk, |meta| meta.id);
        let amount = meta.map_or_else(|_| Amount::default(), |at| Amount::of(&listed[at]));
        async move {
            let turn = target.disk.pace.begin(&node.env, amount.bytes).await;
            let sent = send_chunk(node, target, walk, chunk).await;
            if let Ok(bytes) = sent {
                metrics::resync_sent(bytes);
                note(target, |progress| {
                    progress.sent(bytes);
                    progress.equal(amount);
                });
            }
            turn.end().await;
            (chunk, sent)
        }
        .boxed()
    };
    let sends: Vec<BoxFuture<'_, _>> = chunks.iter().map(|chunk| send(*chunk)).collect();
    let mut results = stream::iter(sends).buffer_unordered(parallel);
    let mut failed = Vec::new();
    while let Some((chunk, sent)) = results.next().await {
        match sent {
            Ok(_bytes) => {}
            Err(status) if is_about_one_chunk(status.code) => {
                tracing::warn!(target = target.id.0, %chunk, %status, "passed over by the resync");
                failed.push((chunk, status));
            }
            Err(status) => return Err(status),
        }
    }
    Ok(failed)
}

/// Tries the chunks that were passed over again; when some are left, what the first of them said.
async fn send_left(
    node: &Node,
    target: &Target,
    walk: &mut Walk,
) -> Result<Option<Status>, Status> {
    if walk.left.is_empty() {
        return Ok(None);
    }
    let left: Vec<ChunkId> = walk.left.iter().copied().collect();
    let failed = send_all(node, target, walk, &left, &[]).await?;
    walk.left = failed.iter().map(|(chunk, _)| *chunk).collect();
    note(target, |progress| progress.leave(walk.left.len()));
    Ok(failed.into_iter().next().map(|(_, status)| status))
}

/// Asks the successor.
async fn ask<M: Rpc>(
    node: &Node,
    walk: &Walk,
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
async fn send_channels(node: &Node, target: &Target, walk: &Walk) -> Result<(), Status> {
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
async fn list_at(node: &Node, target: &Target, walk: &Walk) -> Result<Page, Status> {
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

/// Makes one chunk of the successor equal, under its turn. Returns the bytes of content that were sent.
async fn send_chunk(
    node: &Node,
    target: &Target,
    walk: &Walk,
    chunk: ChunkId,
) -> Result<u64, Status> {
    let deadline = node.env.now() + STEP_LIMIT;
    let _entered = target.enter(&node.env, chunk, deadline).await?;
    let serving = |standing: &Standing<'_>| standing.check_serving(walk.version);
    node.check(target, &target.view(), serving)?;
    let meta = target.disk.engine()?.get(target.key(chunk))?;
    if let Some(meta) = &meta
        && let Some(pending) = &meta.pending
    {
        // Finishing it sends it whole.
        let length = u64::from(pending.length);
        change::settle(node, target, meta, None, deadline).await?;
        return Ok(length);
    }
    let (request, bulk) = whole_chunk(node, target, walk, (chunk, meta.as_ref())).await?;
    let bytes = bulk.sources.iter().map(|data| data.len() as u64).sum();
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
    Ok(bytes)
}

/// The request that carries a chunk as it is committed here.
async fn whole_chunk(
    node: &Node,
    target: &Target,
    walk: &Walk,
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
