//! Works a target through the maps: makes it, opens it, settles it, publishes its view (protocol C5, C6).
//!
//! One task per target, so that one which has much to settle does not hold up the others.

use std::{sync::Arc, time::Duration};

use common::shutdown::ShutdownSignal;
use engine::Engine;
use types::{
    chunk::{ChunkId, ChunkMeta},
    id::InodeId,
    routing::RoutingInfo,
    rpc::storage::ChannelDone,
    status::Status,
    target::{LocalState, PublicState},
    version::ChainVersion,
};

use super::{
    Target, View,
    local_state::{Step, may_create, step},
};
use crate::{
    node::Node,
    replica::{dedup::DedupTable, sync::following, update},
};

/// Chunks read from the engine at once.
const PAGE: usize = 1024;
/// How long to wait after a step failed.
const RETRY: Duration = Duration::from_millis(200);
/// The least chunk id.
pub(crate) const FIRST_CHUNK: ChunkId = ChunkId {
    inode: InodeId(0),
    index: 0,
};

/// Follows the maps until shutdown.
pub(crate) async fn follow_maps(node: Arc<Node>, target: Arc<Target>, mut end: ShutdownSignal) {
    let mut maps = node.routing.subscribe();
    loop {
        let map = maps.borrow_and_update().clone();
        let applied = tokio::select! {
            applied = apply(&node, &target, &map) => applied,
            () = end.wait() => return,
        };
        let again = match applied {
            Ok(()) => Duration::MAX,
            Err(status) => {
                tracing::warn!(target = target.id.0, %status, "cannot follow the map yet");
                RETRY
            }
        };
        tokio::select! {
            changed = maps.changed() => if changed.is_err() { return },
            () = node.env.sleep(again.min(Duration::from_secs(3600))) => {}
            () = end.wait() => return,
        }
    }
}

/// Takes all steps that the map asks for.
async fn apply(node: &Node, target: &Target, map: &RoutingInfo) -> Result<(), Status> {
    let Some(chain) = map.chains.get(&target.chain) else {
        return Ok(());
    };
    if !map.targets.contains_key(&target.id) {
        // Removed; the node ends this target in a moment.
        return Ok(());
    }
    let chain = Arc::new(chain.clone());
    let public = chain.state_of(target.id).unwrap_or(PublicState::Offline);
    loop {
        let view = target.view();
        if view.chain.version > chain.version {
            return Ok(());
        }
        let next = |local| View {
            chain: chain.clone(),
            local,
            routing: map.version,
        };
        if target.disk.failure().is_some() {
            if publish(node, target, view.local, next(LocalState::Offline)) {
                return Ok(());
            }
            continue;
        }
        let engine = target.disk.engine()?;
        if !engine.targets().contains(&target.id) {
            let created = map.targets.get(&target.id).is_none_or(|t| t.created);
            if !may_create(created, public) {
                tracing::error!(
                    target = target.id.0,
                    disk = target.disk.index.0,
                    ?public,
                    "this target is lost: the cluster counts on its data and the disk does not have it"
                );
                if publish(node, target, view.local, next(LocalState::Offline)) {
                    return Ok(());
                }
                continue;
            }
            engine.create_target(target.id, target.chain).await?;
            tracing::info!(target = target.id.0, chain = target.chain.0, "target made");
            // Nothing is in it: there is nothing to settle or to reopen.
            publish(node, target, view.local, next(LocalState::Online));
            continue;
        }
        // What was before counts only if no version was missed: the target may have been something else since.
        let (seen, newest) = (view.chain.version, chain.version);
        let contiguous = seen == newest || seen.is_followed_by(newest);
        let before = contiguous.then(|| view.public(target.id));
        match step(view.local, before, public) {
            Step::Stay => {
                if publish(node, target, view.local, next(view.local)) {
                    return Ok(());
                }
            }
            Step::Reopen => {
                publish(node, target, view.local, next(LocalState::Offline));
                reopen(node, target, engine, public).await?;
                publish(node, target, LocalState::Offline, next(LocalState::Online));
            }
            Step::Settle => {
                // The old view stays until everything is settled: nothing is answered meanwhile.
                settle_all(node, target, engine, chain.version).await?;
                publish(node, target, LocalState::Online, next(LocalState::UpToDate));
            }
        }
    }
}

/// Publishes a view; false when the local state changed meanwhile and the step must be thought over.
fn publish(node: &Node, target: &Target, expected: LocalState, next: View) -> bool {
    let published = target.publish(expected, next);
    if published == Some(true) {
        node.report_soon();
    }
    published.is_some()
}

/// Waits for changes under way to end and reads what the replica must remember from the records again.
///
/// A target that served last keeps what it knows of channels: its data is what the chain goes on with. Any other is filled
/// by a resync, which may take away what was done here; so nothing of it counts any more, and that is durable before the
/// target can be filled. Should it fail, the target stays Offline.
async fn reopen(
    node: &Node,
    target: &Target,
    engine: &Engine,
    public: PublicState,
) -> Result<(), Status> {
    let pause = target.reopen_after.lock().take();
    if let Some(until) = pause {
        node.env.sleep_until(until).await;
    }
    let _alone = target.gate.write().await;
    if public != PublicState::LastServing {
        engine.clear_channels(target.id).await?;
        *target.dedup.lock() = DedupTable::default();
    }
    let mut from = Some(FIRST_CHUNK);
    while let Some(start) = from {
        let page = engine.list(target.id, start, PAGE)?;
        remember(node, target, &page);
        from = next_page(&page, PAGE);
        tokio::task::yield_now().await;
    }
    Ok(())
}

/// Fills the table of channels from the tags of records.
fn remember(node: &Node, target: &Target, page: &[ChunkMeta]) {
    let now = node.env.now();
    let mut dedup = target.dedup.lock();
    for meta in page {
        // Open, not done: a resync may still replace the record. See `believe`.
        if let Some(tag) = meta.tag {
            dedup.record_pending(tag, meta.id, now);
        }
        if let Some(tag) = meta.pending.as_ref().and_then(|pending| pending.tag) {
            dedup.record_pending(tag, meta.id, now);
        }
    }
}

/// Takes the tags of committed records for done: these records are what the chain goes on with.
fn believe(node: &Node, target: &Target, page: &[ChunkMeta]) {
    let now = node.env.now();
    let mut dedup = target.dedup.lock();
    for meta in page {
        if let Some(tag) = meta.tag {
            dedup.record(tag, meta.id, update::done(meta), now);
        }
    }
}

/// Takes what the disk says of channels for done.
fn believe_channels(node: &Node, target: &Target, engine: &Engine) -> Result<(), Status> {
    let channels = engine.channels(target.id)?;
    let now = node.env.now();
    let mut dedup = target.dedup.lock();
    for ChannelDone { tag, chunk, done } in channels {
        dedup.record(tag, chunk, done, now);
    }
    Ok(())
}

/// The same for every record and channel, when a resync has made them all equal to the predecessor's.
pub(crate) async fn believe_all(node: &Node, target: &Target) -> Result<(), Status> {
    let engine = target.disk.engine()?;
    let mut from = Some(FIRST_CHUNK);
    while let Some(start) = from {
        let page = engine.list(target.id, start, PAGE)?;
        believe(node, target, &page);
        from = next_page(&page, PAGE);
        tokio::task::yield_now().await;
    }
    believe_channels(node, target, engine)
}

/// Commits every pending version: this target alone decides now what was acknowledged (C6, W6).
async fn settle_all(
    node: &Node,
    target: &Target,
    engine: &Engine,
    version: ChainVersion,
) -> Result<(), Status> {
    let _alone = target.gate.write().await;
    let (mut from, mut count) = (Some(FIRST_CHUNK), 0_usize);
    while let Some(start) = from {
        let page = engine.list(target.id, start, PAGE)?;
        // What was committed before counts now, and so does what is committed next.
        believe(node, target, &page);
        for meta in &page {
            let Some(pending) = &meta.pending else {
                continue;
            };
            let key = target.key(meta.id);
            let meta = engine.commit(key, pending.update_version, version).await?;
            believe(node, target, std::slice::from_ref(&meta));
            count += 1;
        }
        from = next_page(&page, PAGE);
        tokio::task::yield_now().await;
    }
    believe_channels(node, target, engine)?;
    if count > 0 {
        tracing::info!(target = target.id.0, count, "pending versions committed");
    }
    Ok(())
}

/// Where the page after this one starts.
pub(crate) fn next_page(page: &[ChunkMeta], limit: usize) -> Option<ChunkId> {
    let last = page.last().filter(|_| page.len() >= limit)?;
    following(last.id)
}
