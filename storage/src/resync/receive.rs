//! The syncing target's side of a resync: it lists what it has, takes the table of channels, and hears of the end.
//! Its chunks come as changes of its predecessor (`follow`).

use std::sync::Arc;

use common::env::Instant;
use tokio::sync::RwLockReadGuard;
use types::{
    id::{ChainId, TargetId},
    rpc::storage::{
        AdoptChannelsRequest, CHANNELS_LENGTH_MAX, FinishSyncRequest, ListChunksReply,
        ListChunksRequest,
    },
    status::{Status, StatusCode},
    version::ChainVersion,
};

use super::PAGE;
use crate::{
    node::Node,
    read::check_named,
    replica::role::Standing,
    target::{
        Target,
        driver::{believe_all, next_page},
    },
};

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
