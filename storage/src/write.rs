//! A client's update at the head (protocol W1 to W3).

use std::sync::Arc;

use common::{buf::SharedBuf, env::Instant};
use engine::Hashed;
use types::{
    checksum::Checksum,
    chunk::{ChunkId, Update, UpdateTag},
    rpc::storage::{ForwardKind, UpdateDone, UpdateItem},
    status::{Status, StatusCode},
    version::ChainVersion,
};

use crate::{
    change::{self, Change},
    metrics,
    node::Node,
    replica::{
        dedup::Admission,
        role::Standing,
        update::{Turn, at_turn, check_update},
    },
    target::Target,
};

/// An update without its transport.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    pub(crate) chunk: ChunkId,
    pub(crate) chunk_size: u32,
    pub(crate) chain_version: ChainVersion,
    pub(crate) update: Update,
    pub(crate) payload: Option<Hashed>,
    pub(crate) checksum: Checksum,
    /// `None` for removals of this node's own, which may run any number of times.
    pub(crate) tag: Option<UpdateTag>,
}

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
    item: UpdateItem,
    payload: Option<SharedBuf>,
    deadline: Instant,
) -> Result<UpdateDone, Status> {
    let target = node.target_of(item.chain)?;
    let view = node.catch_up(&target, item.chain_version, deadline).await;
    let head = |standing: &Standing<'_>| standing.check_head(item.chain_version);
    node.check(&target, &view, head)?;
    check_update(
        item.update,
        item.chunk_size,
        payload.as_ref().map(|p| p.len()),
    )?;
    let payload = check_payload(payload, item.checksum)?;
    let bytes = payload.as_ref().map_or(0, |payload| payload.len());
    let _place = node.room.take(view.behind(target.id), bytes)?;
    let (tag, chunk) = (item.tag, item.chunk);
    let forgets = node.env.makes_mistake("forget-channels");
    let admission = if forgets {
        Admission::Run
    } else {
        target.dedup.lock().begin(tag, chunk, node.env.now())
    };
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
    let order = Order {
        chunk,
        chunk_size: item.chunk_size,
        chain_version: item.chain_version,
        update: item.update,
        payload,
        checksum: item.checksum,
        tag: (!forgets).then_some(tag),
    };
    let done = run(node, &target, &order, deadline).await?;
    let now = node.env.now();
    target.dedup.lock().record(tag, chunk, done.clone(), now);
    drop(admitted);
    Ok(done)
}

/// Runs an update when it is the chunk's turn.
///
/// # Errors
/// See `update`.
pub(crate) async fn run(
    node: &Node,
    target: &Target,
    order: &Order,
    deadline: Instant,
) -> Result<UpdateDone, Status> {
    let _entered = target.enter(&node.env, order.chunk, deadline).await?;
    // Whoever had the turn before may have taken long: the map may be another one now (W3).
    let head = |standing: &Standing<'_>| standing.check_head(order.chain_version);
    node.check(target, &target.view(), head)?;
    let engine = target.disk.engine()?;
    let key = target.key(order.chunk);
    let mut settled = false;
    loop {
        let known = order.tag.and_then(|tag| target.dedup.lock().done(tag));
        if let Some(done) = known {
            return Ok(done);
        }
        let meta = engine.get(key)?;
        let (tag, version) = (order.tag, order.chain_version);
        let update_version = match at_turn(order.update, tag, meta.as_ref(), version) {
            Turn::Answer(done) => return Ok(done),
            Turn::SettleFirst if settled => {
                let why = format!("chunk {} has a pending version again", order.chunk);
                return Err(Status::new(StatusCode::Internal, why));
            }
            Turn::SettleFirst => {
                if let Some(meta) = &meta {
                    change::settle(node, target, meta, deadline).await?;
                }
                settled = true;
                continue;
            }
            Turn::Run(update_version) => update_version,
            Turn::VersionsExhausted => {
                let why = format!(
                    "chunk {} has used up its versions; copy the file",
                    order.chunk
                );
                return Err(Status::new(StatusCode::Internal, why));
            }
        };
        let change = Change {
            chunk: order.chunk,
            chunk_size: order.chunk_size,
            kind: ForwardKind::Update(order.update),
            update_version,
            tag: order.tag,
            payload: order.payload.clone(),
            checksum: order.checksum,
        };
        let had_pending = meta.is_some_and(|meta| meta.pending.is_some());
        return change::make(node, target, &change, had_pending, deadline).await;
    }
}

/// Whether the payload came as it was sent (W1). Done once per replica; nothing behind checks again.
pub(crate) fn check_payload(
    payload: Option<SharedBuf>,
    checksum: Checksum,
) -> Result<Option<Hashed>, Status> {
    let Some(payload) = payload else {
        return Ok(None);
    };
    let hashed = Hashed::new(payload);
    let found = hashed.whole();
    if found == checksum {
        return Ok(Some(hashed));
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
