//! A client's update at the head (protocol W1 to W3).

use std::sync::Arc;

use common::{buf::SharedBuf, env::Instant};
use types::{
    checksum::Checksum,
    chunk::{ChunkId, ChunkMeta, UpdateTag},
    id::ClientId,
    rpc::storage::{ForwardKind, UpdateDone, UpdateItem},
    status::{Status, StatusCode},
};

use crate::{
    change::{self, Change},
    metrics,
    node::Node,
    replica::{
        dedup::Admission,
        role::Standing,
        update::{Turn, at_turn, check_update, unsettled},
    },
    target::Target,
};

/// Runs one update of a client. Returns when it is durable and committed on every serving replica.
///
/// # Errors
/// Why not; after some errors it may be all the same, and a retry with the same tag finds out.
pub(crate) async fn update(
    node: &Node,
    item: UpdateItem,
    payload: Option<SharedBuf>,
    deadline: Instant,
) -> Result<UpdateDone, Status> {
    let result = admit(node, item, payload, deadline).await;
    metrics::updated(result.as_ref().err().map(|status| status.code));
    result
}

async fn admit(
    node: &Node,
    mut item: UpdateItem,
    payload: Option<SharedBuf>,
    deadline: Instant,
) -> Result<UpdateDone, Status> {
    if node.env.makes_mistake("forget-channels") {
        item.tag.client = ClientId(node.env.random_u128());
    }
    let target = node.target_of(item.chain)?;
    let _client = target.disk.pace.client(&node.env);
    let view = node.catch_up(&target, item.chain_version, deadline).await;
    let head = |standing: &Standing<'_>| standing.check_head(item.chain_version);
    node.check(&target, &view, head)?;
    check_update(
        item.update,
        item.chunk_size,
        payload.as_ref().map(|p| p.len()),
    )?;
    check_payload(payload.as_ref(), item.checksum)?;
    let bytes = payload.as_ref().map_or(0, |payload| payload.len());
    let _place = node.room.take(view.behind(target.id), bytes)?;
    let (tag, chunk) = (item.tag, item.chunk);
    let admission = target.dedup.lock().begin(tag, chunk, node.env.now());
    match admission {
        Admission::Answer(done) => return Ok(done),
        Admission::Busy => {
            let why = "the channel's last update is still running";
            return Err(Status::new(StatusCode::ChannelBusy, why));
        }
        Admission::Stale => {
            let why = format!("the channel has moved past number {}", tag.seq);
            return Err(Status::new(StatusCode::ChannelStale, why));
        }
        Admission::Reused => {
            let why = format!("number {} of the channel was another chunk's", tag.seq);
            return Err(Status::new(StatusCode::InvalidArgument, why));
        }
        Admission::Run => {}
    }
    let admitted = Admitted {
        node,
        target: target.clone(),
        tag,
        chunk,
    };
    let done = run(node, &target, &item, payload, deadline).await?;
    let now = node.env.now();
    target.dedup.lock().record(tag, chunk, done.clone(), now);
    drop(admitted);
    Ok(done)
}

/// Runs an update when it is the chunk's turn.
async fn run(
    node: &Node,
    target: &Target,
    item: &UpdateItem,
    payload: Option<SharedBuf>,
    deadline: Instant,
) -> Result<UpdateDone, Status> {
    let _entered = target.enter(&node.env, item.chunk, deadline).await?;
    // Whoever had the turn before may have taken long: the map may be another one now (W3).
    let head = |standing: &Standing<'_>| standing.check_head(item.chain_version);
    node.check(target, &target.view(), head)?;
    let engine = target.disk.engine()?;
    let key = target.key(item.chunk);
    let mut settled = false;
    loop {
        let known = target.dedup.lock().done(item.tag);
        if let Some(done) = known {
            return Ok(done);
        }
        let meta = engine.get(key)?;
        let turn = at_turn(item.update, item.tag, meta.as_ref(), item.chain_version);
        let update_version = match turn {
            Turn::Answer(done) => return Ok(done),
            Turn::SettleFirst if settled => {
                let why = format!("chunk {} has a pending version again", item.chunk);
                return Err(Status::new(StatusCode::Internal, why));
            }
            Turn::SettleFirst => {
                let Some(meta) = &meta else { continue };
                let failed = match change::settle(node, target, meta, None, deadline).await {
                    Ok(()) => {
                        settled = true;
                        continue;
                    }
                    Err(status) => status,
                };
                match unsettled(item.update, meta, failed.code) {
                    Some(Turn::Run(update_version)) => update_version,
                    _ => return Err(of_another(item.tag, meta, failed)),
                }
            }
            Turn::Run(update_version) => update_version,
            Turn::VersionsExhausted => {
                let why = format!(
                    "chunk {} has used up its versions; copy the file",
                    item.chunk
                );
                return Err(Status::new(StatusCode::Internal, why));
            }
        };
        let change = Change {
            chunk: item.chunk,
            chunk_size: item.chunk_size,
            kind: ForwardKind::Update(item.update),
            update_version,
            tag: Some(item.tag),
            payload,
            checksum: item.checksum,
        };
        let had_pending = meta.is_some_and(|meta| meta.pending.is_some());
        return change::make(node, target, &change, had_pending, deadline).await;
    }
}

/// Why an update did not run, when it is because what was pending could not be settled. If that was its own earlier attempt, it
/// may still come to something.
fn of_another(tag: UpdateTag, meta: &ChunkMeta, status: Status) -> Status {
    let own = meta.pending.as_ref().and_then(|pending| pending.tag) == Some(tag);
    if own { change::unclear(status) } else { status }
}

/// Whether the payload came as it was sent (W1). Done once per replica; nothing behind checks again.
pub(crate) fn check_payload(payload: Option<&SharedBuf>, checksum: Checksum) -> Result<(), Status> {
    let Some(payload) = payload else {
        return Ok(());
    };
    let found = Checksum::of(payload);
    if found == checksum {
        return Ok(());
    }
    let why = format!("the payload's checksum is {found}, the request says {checksum}");
    Err(Status::new(StatusCode::ChecksumMismatch, why))
}

/// An update that `DedupTable::begin` let in; gives the channel free when it ends without a result, also
/// when it ends by a panic.
struct Admitted<'a> {
    node: &'a Node,
    target: Arc<Target>,
    tag: UpdateTag,
    chunk: ChunkId,
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        let now = self.node.env.now();
        let mut dedup = self.target.dedup.lock();
        dedup.finish(self.tag, self.chunk, None, now);
    }
}
