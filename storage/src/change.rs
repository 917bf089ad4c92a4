//! Making one version of one chunk: here and at every replica behind, then committing it (protocol W6 to W11).
//!
//! ```text
//!   make:    durable here  ||  passed on      (at the same time when there is room for sure, W7)
//!            passed on, when the successor needs what is pending here, or came up meanwhile
//!            compared (W10), committed
//!   settle:  the same without the first line, for a version that an earlier attempt left pending
//! ```
//!
//! What a failure leaves behind:
//! - not made here, not passed on: nothing; the error says why;
//! - made here, refused for sure by the successor, and nothing of this version was here before: taken
//!   back, so that a full disk somewhere does not leave a version that nobody can finish;
//! - made here, unclear further down: it stays pending, and is settled before the chunk's next change;
//! - not made here, perhaps made further down: this replica is behind, and leaves the chain to be resynced.

use common::env::Instant;
use engine::{Change as EngineChange, EngineError, Hashed, UpdateRequest as EngineUpdate};
use types::{
    checksum::Checksum,
    chunk::{ChunkId, ChunkMeta, Update, UpdateTag},
    layout::CHUNK_SIZE_MIN,
    rpc::storage::{ForwardKind, UpdateDone},
    status::{Status, StatusCode},
    version::ChunkVersion,
};

use crate::{
    metrics,
    node::Node,
    pass_on::{PassOn, Passed},
    repair::Damage,
    replica::{
        commit::{Failure, Outcome, check_agreement, classify},
        read::OnItsWay,
        update,
    },
    target::Target,
};

/// A version to be made.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) chunk: ChunkId,
    pub(crate) chunk_size: u32,
    /// Never `Drop`.
    pub(crate) kind: ForwardKind,
    pub(crate) update_version: ChunkVersion,
    pub(crate) tag: Option<UpdateTag>,
    pub(crate) payload: Option<Hashed>,
    pub(crate) checksum: Checksum,
}

impl Change {
    /// Whether it says itself, without what was there before, what the chunk is afterwards.
    pub(crate) fn is_whole(&self) -> bool {
        match self.kind {
            ForwardKind::Update(Update::Remove) => true,
            ForwardKind::Replace { .. } => self.payload.is_some(),
            ForwardKind::Update(_) | ForwardKind::Drop => false,
        }
    }
}

/// Makes a version and commits it. The caller has the chunk's turn. `had_pending`: some version was
/// pending before.
///
/// # Errors
/// See the module's text. `NoSpace`, `OutOfRange` and `InvalidArgument` mean that nothing of it remains.
pub(crate) async fn make(
    node: &Node,
    target: &Target,
    change: &Change,
    had_pending: bool,
    deadline: Instant,
) -> Result<UpdateDone, Status> {
    let engine = target.disk.engine()?;
    let chain_version = target.view().chain.version;
    let announced = target.announce(
        change.chunk,
        OnItsWay {
            update_version: change.update_version,
            chain_version,
        },
    );
    let request = EngineUpdate {
        key: target.key(change.chunk),
        chunk_size: change.chunk_size,
        change: engine_change(&change.kind)?,
        update_version: change.update_version,
        chain_version,
        tag: change.tag,
        payload: change.payload.as_ref().map(|hashed| hashed.bytes().clone()),
        payload_checksum: change.checksum,
    };
    let here = async {
        let made = engine.update_hashed(request, change.payload.clone()).await;
        // When it was made readers see it pending from now on. When it was not, it may have been made
        // further down: readers must go on asking until that is settled.
        let unsettled = made.is_err().then_some(announced);
        (made, unsettled)
    };
    let mut pass = PassOn::new(node, target, change, deadline);
    let ((made, _unsettled), passed) = if target.disk.has_room() {
        futures::join!(here, pass.run(false))
    } else {
        (here.await, Passed::Later)
    };
    let made = match made {
        Ok(made) => made,
        Err(error) => return Err(not_made(node, target, change, &error, pass.maybe_made)),
    };
    let outcome = Outcome {
        version: change.update_version,
        length: made.length,
        checksum: made.checksum,
    };
    let passed = match passed {
        Passed::Later | Passed::Tail => pass.run(true).await,
        // Under a newer map the successor may be another one, and its resync may have walked past this
        // chunk before the version was pending here. Asking again is cheap: who has it says so.
        Passed::Done(_) if pass.done_under != Some(target.view().chain.version) => {
            pass.run(true).await
        }
        passed => passed,
    };
    if let Passed::Failed(status) = &passed
        && classify(status.code) == Failure::Final
    {
        if had_pending || pass.maybe_made {
            return Err(unclear(status.clone()));
        }
        engine.discard_pending(target.key(change.chunk)).await?;
        return Err(status.clone());
    }
    let done = finish(node, target, change, outcome, passed).await?;
    if change.is_whole() {
        target.mark_repaired(change.chunk);
    }
    Ok(done)
}

/// Finishes the version that an earlier attempt left pending. The caller has the chunk's turn.
///
/// # Errors
/// It stays pending then.
pub(crate) async fn settle(
    node: &Node,
    target: &Target,
    meta: &ChunkMeta,
    deadline: Instant,
) -> Result<(), Status> {
    let Some(pending) = &meta.pending else {
        return Ok(());
    };
    metrics::settled();
    let change = Change {
        chunk: meta.id,
        chunk_size: size_class(pending.length),
        kind: if pending.exists {
            ForwardKind::Replace {
                length: pending.length,
            }
        } else {
            ForwardKind::Update(Update::Remove)
        },
        update_version: pending.update_version,
        tag: pending.tag,
        payload: None,
        checksum: pending.checksum,
    };
    let outcome = Outcome {
        version: pending.update_version,
        length: pending.length,
        checksum: pending.checksum,
    };
    let passed = PassOn::new(node, target, &change, deadline).run(true).await;
    finish(node, target, &change, outcome, passed).await?;
    Ok(())
}

/// The smallest chunk size that holds this many bytes, for a chunk whose file is not known here.
pub(crate) fn size_class(length: u32) -> u32 {
    length.max(CHUNK_SIZE_MIN).next_power_of_two()
}

/// Compares with the successor and commits.
async fn finish(
    node: &Node,
    target: &Target,
    change: &Change,
    outcome: Outcome,
    passed: Passed,
) -> Result<UpdateDone, Status> {
    match passed {
        Passed::Tail => {}
        Passed::Done(reply) => {
            if let Err(divergence) = check_agreement(outcome, &reply) {
                metrics::diverged();
                let message = format!("chunk {}: {divergence}", change.chunk);
                node.take_out(target, &message);
                return Err(Status::new(StatusCode::ReplicaDiverged, message));
            }
        }
        Passed::Failed(status) => return Err(status),
        Passed::Later => {
            let message = format!("chunk {}: the change was not passed on", change.chunk);
            return Err(Status::new(StatusCode::Internal, message));
        }
    }
    let engine = target.disk.engine()?;
    let version = target.view().chain.version;
    let committed = engine
        .commit(target.key(change.chunk), change.update_version, version)
        .await;
    let meta = committed.inspect_err(|error| fail_disk(node, target, error))?;
    let done = update::done(&meta);
    if let Some(tag) = change.tag {
        let now = node.env.now();
        let mut dedup = target.dedup.lock();
        dedup.record(tag, change.chunk, done.clone(), now);
    }
    Ok(done)
}

/// The change was not made here. Says what that means for this replica.
fn not_made(
    node: &Node,
    target: &Target,
    change: &Change,
    error: &EngineError,
    maybe_made_behind: bool,
) -> Status {
    fail_disk(node, target, error);
    let status = Status::from(error.clone());
    let damaged = matches!(
        error,
        EngineError::ChunkCorrupt { .. } | EngineError::ReadFailed { .. }
    );
    if damaged {
        damage(node, target, change.chunk, &status);
    }
    if maybe_made_behind {
        let reason = format!("a successor may hold a change that failed here: {status}");
        node.take_out(target, &reason);
        return unclear(status);
    }
    if damaged && target.is_follower() {
        // The predecessor then sends the whole chunk, which needs nothing of the damaged one.
        return Status::new(StatusCode::MissingUpdate, status.message);
    }
    status
}

/// Stored bytes are damaged: says so once, and asks for their repair.
pub(crate) fn damage(node: &Node, target: &Target, chunk: ChunkId, status: &Status) {
    if target.mark_damaged(chunk) {
        metrics::damaged();
        tracing::error!(target = target.id.0, %chunk, %status, "stored bytes are damaged");
        let target_id = target.id;
        let queued = node.repairs.try_send(Damage {
            target: target_id,
            chunk,
        });
        if queued.is_err() {
            // The next reader finds it again.
            target.mark_repaired(chunk);
        }
    }
}

/// A disk that failed takes its targets out.
fn fail_disk(node: &Node, target: &Target, error: &EngineError) {
    if matches!(error, EngineError::Failed { .. }) {
        node.take_out(target, &error.to_string());
    }
}

/// The same failure for a caller who must not take it for "nothing happened".
fn unclear(status: Status) -> Status {
    if classify(status.code) == Failure::Unknown {
        return status;
    }
    let message = format!("not finished: {}", status.message);
    Status {
        code: StatusCode::Unreachable,
        message,
        ..status
    }
}

fn engine_change(kind: &ForwardKind) -> Result<EngineChange, Status> {
    match kind {
        ForwardKind::Update(update) => Ok(EngineChange::Update(*update)),
        ForwardKind::Replace { length } => Ok(EngineChange::Replace { length: *length }),
        ForwardKind::Drop => Err(Status::new(StatusCode::Internal, "a drop is not a change")),
    }
}
