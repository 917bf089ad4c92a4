//! Reads and the questions that go with them (protocol D1, D2, D4, D6).

use std::time::Duration;

use common::env::Instant;
use engine::{EngineError, ReadVersion};
use net::Incoming;
use types::{
    checksum::Checksum,
    chunk::ChunkId,
    id::TargetId,
    rpc::storage::{
        LastChunk, QueryLastChunkRequest, QueryVersion, QueryVersionRequest, ReadDone, ReadItem,
        ReadMode,
    },
    status::{Detail, Status, StatusCode},
    version::{ChainVersion, ChunkVersion},
};

use crate::{
    change, metrics,
    node::Node,
    replica::{
        read::{Choice, Reader, Side, after_answer, choose},
        role::{Standing, address_of},
    },
    target::Target,
};

/// How often a read looks for a version that has just moved from pending to committed or on.
const LOOKS_MAX: u32 = 16;
/// The pause before the second look; grows by itself each time.
const LOOK_PAUSE: Duration = Duration::from_millis(1);
/// How long the last serving target may take to answer which version it has.
const QUERY_LIMIT: Duration = Duration::from_secs(2);

/// Reads one range and places it.
///
/// # Errors
/// Why not; the caller asks another replica or again.
pub(crate) async fn read(
    node: &Node,
    mode: ReadMode,
    item: &ReadItem,
    incoming: &Incoming,
) -> Result<ReadDone, Status> {
    let result = read_range(node, mode, item, incoming).await;
    let bytes = result.as_ref().map_or(0, |done| u64::from(done.length));
    metrics::read(result.as_ref().err().map(|status| status.code), bytes);
    result
}

async fn read_range(
    node: &Node,
    mode: ReadMode,
    item: &ReadItem,
    incoming: &Incoming,
) -> Result<ReadDone, Status> {
    let target = node.target_of(item.chain)?;
    check_named(node, &target, item.target)?;
    let (version, deadline) = (item.chain_version, incoming.deadline);
    let view = node.catch_up(&target, version, deadline).await;
    let serving = |standing: &Standing<'_>| standing.check_serving(version);
    let mode = if node.env.makes_mistake("serve-pending") {
        ReadMode::Uncommitted
    } else {
        mode
    };
    for look in 0..LOOKS_MAX {
        // Each look is a read of its own: it needs the lease and the chain at its start.
        let now = if look == 0 {
            view.clone()
        } else {
            target.view()
        };
        node.check(&target, &now, serving)?;
        let choice = match choose_version(&target, mode, item.chunk, version) {
            Ok(Choice::AskLast) => ask_last(node, &target, item.chunk, version, deadline).await?,
            Ok(Choice::Settle) => {
                settle(node, &target, item.chunk, version, deadline).await?;
                Choice::LookAgain
            }
            choice => choice?,
        };
        match choice {
            Choice::NotFound => {
                let why = format!("chunk {} does not exist", item.chunk);
                return Err(Status::new(StatusCode::ChunkNotFound, why));
            }
            Choice::Take {
                side,
                version,
                length,
            } => {
                if let Some(done) =
                    take(node, &target, item, incoming, (side, version, length)).await?
                {
                    return Ok(done);
                }
            }
            Choice::AskLast | Choice::Settle | Choice::LookAgain => {}
        }
        if node.env.now() >= deadline {
            break;
        }
        node.env.sleep(LOOK_PAUSE * look).await;
    }
    let why = format!("chunk {} changes faster than it can be read", item.chunk);
    Err(Status::new(StatusCode::VersionGone, why))
}

fn choose_version(
    target: &Target,
    mode: ReadMode,
    chunk: ChunkId,
    chain_version: ChainVersion,
) -> Result<Choice, Status> {
    let view = target.view();
    let reader = Reader {
        mode,
        is_last_serving: view.chain.last_serving() == Some(target.id),
        chain_version,
    };
    // The order matters: see `choose`.
    let on_its_way = target.on_its_way(chunk);
    let meta = target.disk.engine()?.get(target.key(chunk))?;
    Ok(choose(reader, meta.as_ref(), on_its_way))
}

/// Reads the chosen version and places it; `None` when it is not there any more.
async fn take(
    node: &Node,
    target: &Target,
    item: &ReadItem,
    incoming: &Incoming,
    (side, version, length): (Side, ChunkVersion, u32),
) -> Result<Option<ReadDone>, Status> {
    let nothing = item.offset >= length || item.length == 0;
    if nothing {
        return Ok(Some(ReadDone {
            length: 0,
            chunk_length: length,
            commit_version: version,
            checksum: Checksum::default(),
        }));
    }
    let engine = target.disk.engine()?;
    let key = target.key(item.chunk);
    let read_version = match side {
        Side::Committed => ReadVersion::Committed,
        Side::Pending => ReadVersion::Pending,
    };
    let read = engine.read(key, read_version, item.offset, item.length);
    let out = match read.await {
        Ok(out) if out.version == version => out,
        Ok(_)
        | Err(
            EngineError::NotFound { .. }
            | EngineError::VersionMismatch { .. }
            | EngineError::OutOfRange { .. },
        ) => return Ok(None),
        Err(error) => {
            let damaged = matches!(
                error,
                EngineError::ChunkCorrupt { .. } | EngineError::ReadFailed { .. }
            );
            let status = Status::from(error);
            if damaged {
                change::damage(node, target, item.chunk, &status);
            }
            return Err(status);
        }
    };
    let done = ReadDone {
        length: u32::try_from(out.data.len()).unwrap_or(u32::MAX),
        chunk_length: out.chunk_length,
        commit_version: out.version,
        checksum: out.checksum,
    };
    let offset = item.destination_offset as usize;
    incoming.push(item.destination, offset, out.data).await?;
    Ok(Some(done))
}

/// Asks the last serving target what it has committed, and decides by its answer.
async fn ask_last(
    node: &Node,
    target: &Target,
    chunk: ChunkId,
    chain_version: ChainVersion,
    deadline: Instant,
) -> Result<Choice, Status> {
    let view = target.view();
    let Some(last) = view.chain.last_serving() else {
        return Ok(Choice::LookAgain);
    };
    metrics::version_asked();
    let address = address_of(&node.routing.current(), last)?;
    let request = QueryVersionRequest {
        chain: target.chain,
        chain_version,
        chunk,
    };
    let until = deadline.min(node.env.now() + QUERY_LIMIT);
    let caller = node.caller();
    let asked = node
        .endpoint
        .ask::<QueryVersion>(&address, &caller, &request, until);
    let mut views = target.subscribe();
    let moved = views.wait_for(|now| now.chain.version != view.chain.version);
    let version = tokio::select! {
        version = asked => version?,
        // The chain has changed, perhaps because that one hangs: the next look says so.
        _ = moved => return Ok(Choice::LookAgain),
    };
    let meta = target.disk.engine()?.get(target.key(chunk))?;
    Ok(after_answer(meta.as_ref(), version))
}

/// Which version is committed here, for a reader at another target.
///
/// # Errors
/// When this is not the last serving target.
pub(crate) async fn query_version(
    node: &Node,
    request: &QueryVersionRequest,
    deadline: Instant,
) -> Result<ChunkVersion, Status> {
    let target = node.target_of(request.chain)?;
    let version = request.chain_version;
    let view = node.catch_up(&target, version, deadline).await;
    let last = |standing: &Standing<'_>| standing.check_last_serving(version);
    node.check(&target, &view, last)?;
    let linear = ReadMode::Linearizable;
    if choose_version(&target, linear, request.chunk, version)? == Choice::Settle {
        settle(node, &target, request.chunk, version, deadline).await?;
        node.check(&target, &target.view(), last)?;
    }
    let meta = target.disk.engine()?.get(target.key(request.chunk))?;
    Ok(meta.map_or(ChunkVersion(0), |meta| meta.commit_version))
}

/// Waits for the chunk's turn and finishes what is pending: this target has become the last serving one.
async fn settle(
    node: &Node,
    target: &Target,
    chunk: ChunkId,
    chain_version: ChainVersion,
    deadline: Instant,
) -> Result<(), Status> {
    let _entered = target.enter(&node.env, chunk, deadline).await?;
    let last = |standing: &Standing<'_>| standing.check_last_serving(chain_version);
    node.check(target, &target.view(), last)?;
    match target.disk.engine()?.get(target.key(chunk))? {
        Some(meta) => change::settle(node, target, &meta, deadline).await,
        None => Ok(()),
    }
}

/// The highest chunk of a file on a chain (D6).
///
/// # Errors
/// When this target does not serve.
pub(crate) async fn last_chunk(
    node: &Node,
    request: &QueryLastChunkRequest,
    deadline: Instant,
) -> Result<Option<LastChunk>, Status> {
    let target = node.target_of(request.chain)?;
    check_named(node, &target, request.target)?;
    let version = request.chain_version;
    let view = node.catch_up(&target, version, deadline).await;
    let serving = |standing: &Standing<'_>| standing.check_serving(version);
    node.check(&target, &view, serving)?;
    let last = target.disk.engine()?.last_chunk(target.id, request.inode)?;
    Ok(last.map(|(index, length)| LastChunk { index, length }))
}

/// Whether the target that the caller named is the one this node has for the chain.
pub(crate) fn check_named(node: &Node, target: &Target, named: TargetId) -> Result<(), Status> {
    if target.id == named {
        return Ok(());
    }
    let why = format!("target {named} is not on node {}", node.id);
    Err(Status::new(StatusCode::UnknownTarget, why)
        .with_detail(Detail::Routing(node.routing.current().version)))
}
