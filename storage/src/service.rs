//! What a storage node is asked, and who answers (`types::rpc::storage`).

use std::sync::Arc;

use futures::{FutureExt, StreamExt, future::join_all, stream};
use net::{Incoming, Router, SharedBuf};
use types::{
    rpc::{
        BulkIndex,
        storage::{
            AdoptChannels, BATCH_LENGTH_MAX, FinishSync, ForwardUpdate, ListChunks, QueryLastChunk,
            QueryVersion, ReadChunks, ReadReply, ReadRequest, RemoveChunks, UpdateChunks,
            UpdateReply, UpdateRequest,
        },
    },
    status::{Status, StatusCode},
};

use crate::{follow, node::Node, read, remove, resync, write};

/// Ranges of one request read at once: they hold buffers.
const READS_PARALLEL: usize = 64;

/// The routes of a node.
pub(crate) fn router(node: &Arc<Node>) -> Router {
    let with = || node.clone();
    let (updates, forwards, reads) = (with(), with(), with());
    let (versions, lasts, removals) = (with(), with(), with());
    let (lists, channels, ends) = (with(), with(), with());
    Router::new()
        .on::<UpdateChunks, _, _>(move |request, incoming| {
            update_chunks(updates.clone(), request, incoming)
        })
        .on::<ForwardUpdate, _, _>(move |request, incoming| {
            let node = forwards.clone();
            async move {
                let payload = pull(&incoming, request.payload).await?;
                follow::forward(&node, request, payload, incoming.deadline).await
            }
        })
        .on::<ReadChunks, _, _>(move |request, incoming| {
            read_chunks(reads.clone(), request, incoming)
        })
        .on::<QueryVersion, _, _>(move |request, incoming| {
            let node = versions.clone();
            async move { read::query_version(&node, &request, incoming.deadline).await }
        })
        .on::<QueryLastChunk, _, _>(move |request, incoming| {
            let node = lasts.clone();
            async move { read::last_chunk(&node, &request, incoming.deadline).await }
        })
        .on::<RemoveChunks, _, _>(move |request, incoming| {
            let node = removals.clone();
            async move { remove::remove_chunks(&node, &request, incoming.deadline).await }
        })
        .on::<ListChunks, _, _>(move |request, incoming| {
            let node = lists.clone();
            async move { resync::list_chunks(&node, &request, incoming.deadline).await }
        })
        .on::<AdoptChannels, _, _>(move |request, incoming| {
            let node = channels.clone();
            async move { resync::adopt_channels(&node, &request, incoming.deadline).await }
        })
        .on::<FinishSync, _, _>(move |request, incoming| {
            let node = ends.clone();
            async move { resync::finish_sync(&node, &request, incoming.deadline).await }
        })
}

/// Updates run in parallel, each with its own result (W13).
async fn update_chunks(
    node: Arc<Node>,
    request: UpdateRequest,
    incoming: Arc<Incoming>,
) -> Result<UpdateReply, Status> {
    check_batch(request.updates.len())?;
    let (node, incoming) = (&*node, &*incoming);
    let updates = request.updates.into_iter().map(|item| async move {
        let payload = pull(incoming, item.payload).await?;
        write::update(node, item, payload, incoming.deadline).await
    });
    let results = join_all(updates).await;
    Ok(UpdateReply { results })
}

/// Ranges are read in parallel and placed as they come (D4).
async fn read_chunks(
    node: Arc<Node>,
    request: ReadRequest,
    incoming: Arc<Incoming>,
) -> Result<ReadReply, Status> {
    check_batch(request.reads.len())?;
    let (node, incoming, mode) = (&*node, &*incoming, request.mode);
    if let [item] = &request.reads[..] {
        let read = read::read(node, mode, item, incoming).boxed();
        return Ok(ReadReply {
            results: vec![read.await],
        });
    }
    let reads = request
        .reads
        .into_iter()
        .map(|item| async move { read::read(node, mode, &item, incoming).await }.boxed());
    let results = stream::iter(reads).buffered(READS_PARALLEL).collect().await;
    Ok(ReadReply { results })
}

fn check_batch(length: usize) -> Result<(), Status> {
    if length <= BATCH_LENGTH_MAX {
        return Ok(());
    }
    let why = format!("{length} parts in one request; at most {BATCH_LENGTH_MAX}");
    Err(Status::new(StatusCode::InvalidArgument, why))
}

async fn pull(
    incoming: &Incoming,
    payload: Option<BulkIndex>,
) -> Result<Option<SharedBuf>, Status> {
    match payload {
        Some(source) => incoming.pull(source).await.map(Some),
        None => Ok(None),
    }
}
