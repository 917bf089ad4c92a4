//! What a repair does, and what it leaves alone.
//!
//! Safe, and lost is nothing: the log is replayed into the records, as every opening does; files that nobody refers to go.
//!
//! Not safe, and done only when asked for: a version that cannot be read is dropped. On a replica that comes back beside
//! others that serve, a resync sends it again. On the last replica of a chain it is gone for good, and where it was, files
//! read as zeros or as shorter. A damaged committed version stays while a sound pending one stands above it: the chain
//! finishes that one first, and then nobody needs the other.
//!
//! A log without its acknowledged part, or records that cannot be read as a whole, are left as they are: what is missing is
//! unknown, so whatever one did about it would be a guess.

use std::{collections::BTreeSet, path::Path, sync::Arc};

use common::{buf::BufPool, data_dir::DataDir, env::Env};
use futures::{StreamExt as _, stream};

use super::{CheckError, CheckProgress, DiskReport, ProblemKind, Repair, damaged};
use crate::{
    chunk_meta::ChunkKey,
    config::EngineConfig,
    device::{FileId, files::Files},
    engine::Engine,
    error::{EngineError, OpenError},
    open::Contradictions,
};

/// Chunks dropped at the same time: they share the writes of the log.
const CONCURRENCY: usize = 64;
/// Memory kept for buffers.
const BUFFER_BYTES: usize = 16 << 20;

/// Repairs what the report lists, and notes in it what was done.
///
/// # Errors
/// When the disk does not open; then nothing was dropped.
pub(super) async fn repair(
    env: &Env,
    data_dir: DataDir,
    config: &EngineConfig,
    (repair, progress): (Repair, &Arc<CheckProgress>),
    report: &mut DiskReport,
) -> Result<(), CheckError> {
    report.refusal = refusal(report, repair);
    if report.refusal.is_some() {
        return Ok(());
    }
    if progress.is_stopped() {
        return Err(CheckError::Stopped);
    }
    let dir = data_dir.path().to_owned();
    let before = list(env, &dir).await?;
    let contradictions = match repair {
        Repair::No | Repair::Safe => Contradictions::Refuse,
        Repair::DropDamaged => Contradictions::Drop,
    };
    let buffers = BufPool::new(BUFFER_BYTES);
    let engine = Engine::open_in(env, data_dir, config, buffers, contradictions).await?;
    if report.log_entries > 0 {
        let entries = report.log_entries;
        let done = format!("brought {entries} entries of the log into the records");
        report.actions.push(done);
    }
    if repair == Repair::DropDamaged {
        note_dropped_records(report);
        drop_damaged(&engine, progress, report).await;
    }
    engine.close().await;
    drop(engine);
    for file in before.difference(&list(env, &dir).await?) {
        let done = format!("removed {file}: nothing refers to it");
        report.actions.push(done);
    }
    Ok(())
}

/// Why nothing can be done.
fn refusal(report: &DiskReport, repair: Repair) -> Option<String> {
    let has = |kind| report.problems.iter().any(|problem| problem.kind == kind);
    let instead = "nothing was changed. Put this directory away and start the node with an empty one in its place: a resync \
                   fills it from the other replicas. If no other replica serves, keep this directory, it is the last copy";
    if has(ProblemKind::Log) {
        return Some(format!(
            "the log lacks a part that was acknowledged, and what stood there is unknown; {instead}"
        ));
    }
    if has(ProblemKind::Records) {
        return Some(format!(
            "the records as a whole cannot be used, and what they said is unknown; {instead}"
        ));
    }
    let unusable = unusable(report).len();
    (unusable > 0 && repair != Repair::DropDamaged).then(|| {
        format!(
            "the disk does not open, because the records of {unusable} chunks cannot be used, and a safe repair does not drop \
             them; nothing was changed"
        )
    })
}

/// Chunks whose record contradicts something: they are not taken into memory.
fn unusable(report: &DiskReport) -> BTreeSet<ChunkKey> {
    let problems = report.problems.iter();
    problems
        .filter(|problem| problem.kind == ProblemKind::Record && problem.version.is_none())
        .filter_map(super::DiskProblem::key)
        .collect()
}

/// Opening the disk has dropped these.
fn note_dropped_records(report: &mut DiskReport) {
    for key in unusable(report) {
        let ChunkKey { target, chunk } = key;
        settle(report, key, |_| true);
        report.actions.push(format!(
            "dropped chunk {chunk} of target {target}: its record could not be used"
        ));
    }
}

/// What is done about one chunk.
#[derive(Clone, Copy)]
enum Drop {
    Chunk,
    Pending,
    /// A sound pending version stands above the damaged one.
    Nothing,
}

async fn drop_damaged(engine: &Engine, progress: &CheckProgress, report: &mut DiskReport) {
    let left = damaged(report).into_iter().filter(|(key, _)| {
        // Those that were dropped already are not there.
        matches!(engine.get(*key), Ok(Some(_)))
    });
    let plans = left.map(|(key, (committed, pending))| {
        let has_pending = matches!(engine.get(key), Ok(Some(meta)) if meta.pending.is_some());
        let plan = match (committed, pending) {
            (true, false) if has_pending => Drop::Nothing,
            (true, _) => Drop::Chunk,
            (false, _) => Drop::Pending,
        };
        (key, plan)
    });
    let plans: Vec<(ChunkKey, Drop)> = plans.collect();
    let work = stream::iter(plans).map(|(key, plan)| async move {
        if progress.is_stopped() {
            return (key, plan, Ok(false));
        }
        let done = match plan {
            Drop::Chunk => engine.drop_chunk(key).await,
            Drop::Pending => engine.discard_pending(key).await,
            Drop::Nothing => Ok(()),
        };
        (key, plan, done.map(|()| true))
    });
    let mut work = work.buffered(CONCURRENCY);
    while let Some((key, plan, done)) = work.next().await {
        note(report, key, plan, done);
    }
}

fn note(report: &mut DiskReport, key: ChunkKey, plan: Drop, done: Result<bool, EngineError>) {
    let ChunkKey { target, chunk } = key;
    match (done, plan) {
        (Ok(true), Drop::Chunk) => {
            settle(report, key, |_| true);
            report.actions.push(format!(
                "dropped chunk {chunk} of target {target}, all versions: its bytes could not be read as they were written"
            ));
        }
        (Ok(true), Drop::Pending) => {
            settle(report, key, |pending| pending);
            report.actions.push(format!(
                "dropped the pending version of chunk {chunk} of target {target}; the committed one stays"
            ));
        }
        (Ok(true), Drop::Nothing) => report.actions.push(format!(
            "left chunk {chunk} of target {target} as it is: its pending version is sound and takes the place of the damaged \
             one when the chain goes on"
        )),
        (Ok(false), _) => {
            report.refusal = Some("the repair was stopped before its end; run it again".to_owned());
        }
        (Err(error), _) => {
            report.refusal = Some(format!("the repair ended before its end: {error}"));
        }
    }
}

/// The problems of a chunk, in the versions that are meant, are done away with.
fn settle(report: &mut DiskReport, key: ChunkKey, is_meant: impl Fn(bool) -> bool) {
    for problem in &mut report.problems {
        if problem.key() == Some(key) && is_meant(problem.pending) {
            problem.repaired = true;
        }
    }
}

async fn list(env: &Env, dir: &Path) -> Result<BTreeSet<FileId>, OpenError> {
    let owned = dir.to_owned();
    let listed = env.blocking(move || Files::open_to_read(&owned)?.list());
    let listed = listed.await.map_err(|source| OpenError::Io {
        action: "list the files of the disk in",
        path: dir.to_owned(),
        source,
    })?;
    Ok(listed.into_iter().map(|(file, _)| file).collect())
}
