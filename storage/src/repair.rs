//! Stored bytes that do not match their checksum are fetched from another replica (protocol D3, E10).
//!
//! Whoever reads such bytes gets an error and asks another replica; the chunk is queued here. One chunk at
//! a time is fetched whole, at the very version that is committed here, and written to a new place. Until then
//! every reader of it is sent away. A chunk that nobody else has at that version waits: its next change or a
//! resync may cure it, and the next read queues it again.

use std::sync::Arc;
use std::time::Duration;

use common::{buf::SharedBuf, shutdown::ShutdownSignal};
use engine::{Change, UpdateRequest};
use net::Bulk;
use tokio::sync::mpsc;
use types::{
    checksum::Checksum,
    chunk::{ChunkId, ChunkMeta},
    id::TargetId,
    rpc::{
        BulkIndex,
        storage::{ReadChunks, ReadItem, ReadMode, ReadRequest},
    },
    status::{Status, StatusCode},
};

use crate::{
    change::size_class,
    metrics,
    node::Node,
    replica::role::{Standing, address_of},
    target::{Target, View},
};

/// Damaged chunks that wait; more are queued again when they are read again.
pub(crate) const QUEUE_LENGTH: usize = 1024;
/// How often a chunk is tried.
const TRIES: u32 = 5;
/// The pause before trying again.
const PAUSE: Duration = Duration::from_millis(500);
/// How long one try may take.
const LIMIT: Duration = Duration::from_secs(10);

/// Asks for the repair of one chunk.
#[derive(Debug)]
pub(crate) struct Damage {
    pub(crate) target: TargetId,
    pub(crate) chunk: ChunkId,
}

/// Repairs what is queued, until shutdown.
pub(crate) async fn run(
    node: Arc<Node>,
    mut queue: mpsc::Receiver<Damage>,
    mut end: ShutdownSignal,
) {
    loop {
        let damage = tokio::select! {
            damage = queue.recv() => damage,
            () = end.wait() => return,
        };
        let Some(damage) = damage else { return };
        let Some(target) = node.target(damage.target) else {
            continue;
        };
        tokio::select! {
            () = repair(&node, &target, damage.chunk) => {}
            () = end.wait() => return,
        }
        target.mark_repaired(damage.chunk);
    }
}

async fn repair(node: &Node, target: &Target, chunk: ChunkId) {
    for _ in 0..TRIES {
        match try_once(node, target, chunk).await {
            Ok(()) => {
                metrics::repaired();
                tracing::info!(target = target.id.0, %chunk, "damaged chunk repaired");
                return;
            }
            Err(status) => {
                tracing::warn!(target = target.id.0, %chunk, %status, "damaged chunk not repaired yet");
            }
        }
        node.env.sleep(PAUSE).await;
    }
}

async fn try_once(node: &Node, target: &Target, chunk: ChunkId) -> Result<(), Status> {
    let deadline = node.env.now() + LIMIT;
    let _entered = target.enter(&node.env, chunk, deadline).await?;
    let view = target.view();
    let serving = |standing: &Standing<'_>| standing.check_serving(view.chain.version);
    node.check(target, &view, serving)?;
    let engine = target.disk.engine()?;
    let Some(meta) = engine.get(target.key(chunk))? else {
        return Ok(());
    };
    if !meta.exists || meta.pending.is_some() {
        // A removed chunk needs no bytes, and a pending version may replace the damaged one.
        return Ok(());
    }
    let mut last = Status::new(StatusCode::ChunkCorrupt, "no other target serves");
    for other in view.chain.serving().filter(|other| *other != target.id) {
        match fetch(node, &view, other, &meta).await {
            Ok(content) => return put(target, &view, &meta, content).await,
            Err(status) => last = status,
        }
    }
    Err(last)
}

/// The whole chunk from another target, at the version that is committed here.
async fn fetch(
    node: &Node,
    view: &View,
    other: TargetId,
    meta: &ChunkMeta,
) -> Result<SharedBuf, Status> {
    let address = address_of(&node.routing.current(), other)?;
    let item = ReadItem {
        chain: view.chain.id,
        chain_version: view.chain.version,
        target: other,
        chunk: meta.id,
        offset: 0,
        length: meta.length,
        destination: BulkIndex(0),
        destination_offset: 0,
    };
    let request = ReadRequest {
        reads: vec![item],
        mode: ReadMode::Linearizable,
    };
    let length = meta.length as usize;
    let bulk = Bulk {
        destinations: vec![node.endpoint.buffers().allocate(length)],
        ..Bulk::default()
    };
    let (caller, deadline) = (node.caller(), node.env.now() + LIMIT);
    let call = node
        .endpoint
        .call::<ReadChunks>(&address, &caller, &request, bulk, deadline);
    let mut reply = call.await;
    let done = reply.result?.results.pop();
    let done = done.unwrap_or_else(|| Err(Status::new(StatusCode::Malformed, "no result")))?;
    let content = reply
        .destinations
        .pop()
        .map(common::buf::RegisteredBuf::freeze);
    let content = content.filter(|content| content.len() == length);
    match content {
        Some(content)
            if done.commit_version == meta.commit_version
                && Checksum::of(&content) == meta.checksum =>
        {
            Ok(content)
        }
        _ => {
            let why = format!("target {other} has another version of chunk {}", meta.id);
            Err(Status::new(StatusCode::VersionGone, why))
        }
    }
}

/// Writes the same version once more, to another place.
async fn put(
    target: &Target,
    view: &View,
    meta: &ChunkMeta,
    content: SharedBuf,
) -> Result<(), Status> {
    let engine = target.disk.engine()?;
    let key = target.key(meta.id);
    let request = UpdateRequest {
        key,
        chunk_size: size_class(meta.length),
        change: Change::Replace {
            length: meta.length,
        },
        update_version: meta.commit_version,
        chain_version: view.chain.version,
        tag: meta.tag,
        payload: Some(content),
        payload_checksum: meta.checksum,
    };
    engine.update(request).await?;
    engine
        .commit(key, meta.commit_version, view.chain.version)
        .await?;
    Ok(())
}
