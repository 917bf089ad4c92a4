//! Which chunks a file has on a chain (protocol K5), for a client that removes them: each removal is then an update of its own.

use common::env::Instant;
use types::{
    chunk::{ChunkId, ChunkMeta},
    rpc::storage::{QueryChunksReply, QueryChunksRequest},
    status::Status,
};

use crate::{
    node::Node,
    replica::{role::Standing, sync::following},
    target::Target,
};

/// Chunks in one answer at most.
const LIMIT_MAX: usize = 1024;
/// Records looked at together.
const PAGE: usize = 1024;

/// A page of a file's chunks. The head is asked, because every update begins there: what it does not hold yet has not begun.
///
/// # Errors
/// When this is not the head.
pub(crate) async fn query_chunks(
    node: &Node,
    request: &QueryChunksRequest,
    deadline: Instant,
) -> Result<QueryChunksReply, Status> {
    let target = node.target_of(request.chain)?;
    let version = request.chain_version;
    let view = node.catch_up(&target, version, deadline).await;
    let head = |standing: &Standing<'_>| standing.check_head(version);
    node.check(&target, &view, head)?;
    let limit = (request.limit as usize).clamp(1, LIMIT_MAX);
    let mut indices = find(&target, request, limit + 1)?;
    let next = indices.get(limit).copied();
    indices.truncate(limit);
    Ok(QueryChunksReply { indices, next })
}

/// The file's chunks that exist, or will when their pending version is committed.
fn find(target: &Target, request: &QueryChunksRequest, limit: usize) -> Result<Vec<u32>, Status> {
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
        found.extend(mine.filter(|meta| exists(meta)).map(|meta| meta.id.index));
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
