//! What a storage node is asked, and who answers (`types::rpc::storage`).

use std::{panic::AssertUnwindSafe, sync::Arc};

use futures::{FutureExt, StreamExt, future::BoxFuture, stream};
use net::{Incoming, Router, SharedBuf};
use types::{
    rpc::{
        BulkIndex,
        storage::{
            AdoptChannels, BATCH_LENGTH_MAX, FinishSync, ForwardUpdate, ListChunks, QueryLastChunk,
            QueryVersion, ReadChunks, ReadItem, ReadReply, ReadRequest, RemoveChunks, UpdateChunks,
            UpdateItem, UpdateReply, UpdateRequest,
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

/// Updates run in parallel, each with its own result (W13). All of them at once: whether there is room for a change is
/// decided for each (`room`), and one that waits for its chunk's turn must not keep another from its own.
async fn update_chunks(
    node: Arc<Node>,
    request: UpdateRequest,
    incoming: Arc<Incoming>,
) -> Result<UpdateReply, Status> {
    check_batch(request.updates.len())?;
    let (node, incoming) = (&*node, &*incoming);
    let update = |item: UpdateItem| async move {
        let payload = pull(incoming, item.payload).await?;
        write::update(node, item, payload, incoming.deadline).await
    };
    let updates = request.updates.into_iter();
    let updates = updates.map(|item| part("storage.update", update(item)));
    let results = run_parts(updates.collect(), BATCH_LENGTH_MAX).await;
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
    let read = |item: ReadItem| async move { read::read(node, mode, &item, incoming).await };
    let reads = request.reads.into_iter();
    let reads = reads.map(|item| part("storage.read", read(item)));
    let results = run_parts(reads.collect(), READS_PARALLEL).await;
    Ok(ReadReply { results })
}

/// A part of a request. When it panics, that is a failure of its own: without this it would cut the others short
/// wherever they are.
fn part<'a, T>(
    method: &'static str,
    part: impl Future<Output = Result<T, Status>> + Send + 'a,
) -> BoxFuture<'a, Result<T, Status>> {
    let ended = AssertUnwindSafe(part).catch_unwind();
    let result = ended.map(move |ended| match ended {
        Ok(result) => result,
        Err(_) => {
            let why = format!("a part of {method} failed with a bug; see the server's log");
            Err(Status::new(StatusCode::Internal, why))
        }
    });
    result.boxed()
}

/// Runs the parts of a request in parallel, a bounded number at once; the results in their order.
async fn run_parts<T>(
    parts: Vec<BoxFuture<'_, Result<T, Status>>>,
    parallel: usize,
) -> Vec<Result<T, Status>> {
    stream::iter(parts).buffered(parallel).collect().await
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn a_part_that_panics_fails_alone() {
        let ended = &AtomicUsize::new(0);
        let run = |n: i32| async move {
            tokio::task::yield_now().await;
            assert_ne!(n, 2, "on purpose");
            for _ in 0..n {
                tokio::task::yield_now().await;
            }
            ended.fetch_add(1, Ordering::Relaxed);
            Ok(n)
        };
        let parts = (0..4).map(|n| part("test", run(n)));
        let results = run_parts(parts.collect(), 4).await;
        let results: Vec<_> = results
            .into_iter()
            .map(|result| result.map_err(|status| status.code))
            .collect();
        assert_eq!(results, [Ok(0), Ok(1), Err(StatusCode::Internal), Ok(3)]);
        assert_eq!(ended.load(Ordering::Relaxed), 3);
    }
}
