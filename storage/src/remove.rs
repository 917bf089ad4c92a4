//! Removing a file's chunks (protocol W12, K5): each one an update of its own through the chain.

use common::env::Instant;
use futures::{FutureExt, StreamExt, stream};
use types::{
    checksum::Checksum,
    chunk::{ChunkId, ChunkMeta, Update},
    layout::CHUNK_SIZE_MAX,
    rpc::storage::{RemoveChunksReply, RemoveChunksRequest},
    status::Status,
};

use crate::{
    node::Node,
    replica::{role::Standing, sync::following},
    target::Target,
    write::{self, Order},
};

/// Removals under way at once for one request.
const PARALLEL: usize = 8;
/// Chunks removed by one request at most, so that it ends well before its deadline.
const LIMIT_MAX: usize = 1024;
/// Records looked at together.
const PAGE: usize = 1024;

/// Removes chunks of a file, up to a number.
///
/// # Errors
/// When this is not the head; the first failed removal.
pub(crate) async fn remove_chunks(
    node: &Node,
    request: &RemoveChunksRequest,
    deadline: Instant,
) -> Result<RemoveChunksReply, Status> {
    let target = node.target_of(request.chain)?;
    let version = request.chain_version;
    let view = node.catch_up(&target, version, deadline).await;
    let head = |standing: &Standing<'_>| standing.check_head(version);
    node.check(&target, &view, head)?;
    let limit = (request.limit as usize).clamp(1, LIMIT_MAX);
    let mut found = find(&target, request, limit + 1)?;
    let more = found.len() > limit;
    found.truncate(limit);
    let removals = found.into_iter().map(|chunk| {
        let order = Order {
            chunk,
            chunk_size: CHUNK_SIZE_MAX,
            chain_version: version,
            update: Update::Remove,
            payload: None,
            checksum: Checksum::default(),
            tag: None,
        };
        let target = &target;
        async move { write::run(node, target, &order, deadline).await }.boxed()
    });
    let results: Vec<_> = stream::iter(removals)
        .buffer_unordered(PARALLEL)
        .collect()
        .await;
    let mut removed = 0;
    for result in results {
        result?;
        removed += 1;
    }
    Ok(RemoveChunksReply { removed, more })
}

/// The file's chunks that exist, or will when their pending version is committed.
fn find(
    target: &Target,
    request: &RemoveChunksRequest,
    limit: usize,
) -> Result<Vec<ChunkId>, Status> {
    let engine = target.disk.engine()?;
    let mut found = Vec::new();
    let mut from = Some(ChunkId {
        inode: request.inode,
        index: request.from_index,
    });
    while let Some(start) = from {
        let page = engine.list(target.id, start, PAGE)?;
        let mine = page
            .iter()
            .take_while(|meta| meta.id.inode == request.inode);
        found.extend(mine.filter(|meta| exists(meta)).map(|meta| meta.id));
        if found.len() >= limit {
            found.truncate(limit);
            break;
        }
        from = page
            .last()
            .filter(|last| page.len() >= PAGE && last.id.inode == request.inode)
            .and_then(|last| following(last.id));
    }
    Ok(found)
}

fn exists(meta: &ChunkMeta) -> bool {
    meta.exists || meta.pending.as_ref().is_some_and(|pending| pending.exists)
}
