//! A predecessor's change at its successor (protocol W5, W8, W9, S2, S3).

use common::{buf::SharedBuf, env::Instant};
use types::{
    chunk::Update,
    rpc::storage::{ForwardKind, ForwardReply, ForwardRequest},
    status::{Status, StatusCode},
    target::PublicState,
};

use crate::{
    change::{self, Change},
    node::Node,
    replica::{
        forward::{Follow, on_forward, reply},
        role::Standing,
    },
    target::Target,
    write::check_payload,
};

/// Does what the predecessor says. Returns when this replica and all behind it have committed it.
///
/// # Errors
/// See `replica::commit::classify` for what they mean to the predecessor.
pub(crate) async fn forward(
    node: &Node,
    request: ForwardRequest,
    payload: Option<SharedBuf>,
    deadline: Instant,
) -> Result<ForwardReply, Status> {
    check_shape(&request, payload.as_ref())?;
    let payload = check_payload(payload, request.checksum)?;
    let target = node.target_of(request.chain)?;
    let version = request.chain_version;
    let view = node.catch_up(&target, version, deadline).await;
    let follower = |standing: &Standing<'_>| standing.check_follower(request.from, version);
    node.check(&target, &view, follower)?;

    let bytes = payload.as_ref().map_or(0, |payload| payload.len());
    let _place = node.room.take(view.behind(target.id), bytes)?;
    let _entered = target.enter(&node.env, request.chunk, deadline).await?;
    let state = node.check(&target, &target.view(), follower)?;
    let engine = target.disk.engine()?;
    let key = target.key(request.chunk);
    let meta = engine.get(key)?;
    let mut had_pending = meta.as_ref().is_some_and(|meta| meta.pending.is_some());
    match on_forward(state, &request, meta.as_ref()) {
        Follow::AlreadyDone(reply) => {
            learn(node, &target, meta.as_ref(), &request);
            return Ok(reply);
        }
        Follow::Missing => {
            let held = meta.map_or(0, |meta| meta.commit_version.0);
            let why = format!(
                "chunk {}: version {} came, target {} holds {held}",
                request.chunk, request.update_version, target.id
            );
            return Err(Status::new(StatusCode::MissingUpdate, why));
        }
        Follow::Refuse => {
            let why = format!("{:?} is not for a target that is {state:?}", request.kind);
            return Err(Status::new(StatusCode::InvalidArgument, why));
        }
        Follow::Drop => {
            engine.drop_chunk(key).await?;
            target.mark_repaired(request.chunk);
            return Ok(reply(None, version));
        }
        Follow::ReplaceEarlierLife => {
            engine.drop_chunk(key).await?;
            had_pending = false;
        }
        Follow::Run => {}
    }
    let change = Change {
        chunk: request.chunk,
        chunk_size: request.chunk_size,
        kind: request.kind,
        update_version: request.update_version,
        tag: request.tag,
        payload,
        checksum: request.checksum,
    };
    let made = change::make(node, &target, &change, had_pending, deadline).await;
    let done = made.map_err(|status| full_while_syncing(node, &target, state, status))?;
    Ok(ForwardReply {
        length: done.length,
        commit_version: done.commit_version,
        chain_version: done.chain_version,
        checksum: done.checksum,
    })
}

/// Remembers whose update it was, in case this replica becomes the head and the client asks again.
fn learn(
    node: &Node,
    target: &Target,
    meta: Option<&types::chunk::ChunkMeta>,
    request: &ForwardRequest,
) {
    if let (Some(tag), Some(meta)) = (request.tag, meta)
        && meta.tag == Some(tag)
    {
        let now = node.env.now();
        let done = crate::replica::update::done(meta);
        let mut dedup = target.dedup.lock();
        dedup.record(tag, request.chunk, done, now);
    }
}

/// A syncing target without room must not keep the chain from writing: it leaves, and the predecessor goes
/// on without it.
fn full_while_syncing(node: &Node, target: &Target, state: PublicState, status: Status) -> Status {
    if state != PublicState::Syncing || status.code != StatusCode::NoSpace {
        return status;
    }
    if target.take_out_full(node.env.now()) {
        tracing::error!(target = target.id.0, %status, "no space for the resync: target leaves its chain");
        node.report_soon();
    }
    Status {
        code: StatusCode::NotReady,
        ..status
    }
}

/// Whether kind and payload fit together.
fn check_shape(request: &ForwardRequest, payload: Option<&SharedBuf>) -> Result<(), Status> {
    let payload = payload.map(|payload| payload.len());
    let expected = match request.kind {
        ForwardKind::Update(Update::Write { length, .. }) | ForwardKind::Replace { length } => {
            Some(length as usize)
        }
        ForwardKind::Update(_) | ForwardKind::Drop => None,
    };
    if payload == expected {
        return Ok(());
    }
    let why = format!("{:?} with a payload of {payload:?} bytes", request.kind);
    Err(Status::new(StatusCode::InvalidArgument, why))
}
