//! Reads every block of every version, committed and pending, in slots and log, and compares it with its checksum.
//!
//! Unlike a reader, who is content with one bad block, this names all of them.

use std::sync::{Arc, atomic::Ordering};

use common::{buf::BufPool, env::Env};
use futures::{StreamExt as _, stream};
use types::checksum::Checksum;

use super::{CheckError, CheckProgress, DiskProblem, ProblemKind};
use crate::{
    checkpoint,
    checksums::of_whole,
    chunk_meta::{ChunkKey, Content, Detail, Record, Version, checksums_from},
    device::{Device, FileId},
    engine::read::{Run, runs},
    group::{BLOCK_BYTES, block_count},
    meta_store::MetaStore,
};

/// Blocks read at once.
const PIECE_BLOCKS: u32 = (1 << 20) / BLOCK_BYTES;
/// Chunks read at the same time.
const CONCURRENCY: usize = 8;

pub(super) struct Parts {
    pub(super) env: Env,
    pub(super) device: Arc<dyn Device>,
    pub(super) store: Arc<dyn MetaStore>,
    pub(super) buffers: BufPool,
    pub(super) progress: Arc<CheckProgress>,
}

#[derive(Debug, Default)]
pub(super) struct Verified {
    pub(super) bytes: u64,
    pub(super) problems: Vec<DiskProblem>,
}

/// Verifies chunks.
///
/// # Errors
/// `Stopped`.
pub(super) async fn verify(
    parts: &Parts,
    chunks: Vec<(ChunkKey, Record)>,
) -> Result<Verified, CheckError> {
    let length = |version: &Arc<Version>| u64::from(version.head.length);
    let total = chunks
        .iter()
        .flat_map(|(_, record)| record.versions().map(length))
        .sum();
    parts.progress.total_bytes.store(total, Ordering::Relaxed);
    let work = stream::iter(chunks).map(|(key, record)| verify_chunk(parts, key, record));
    let mut work = work.buffered(CONCURRENCY);
    let mut whole = Verified::default();
    while let Some(chunk) = work.next().await {
        let chunk = chunk?;
        whole.bytes += chunk.bytes;
        whole.problems.extend(chunk.problems);
    }
    Ok(whole)
}

async fn verify_chunk(
    parts: &Parts,
    key: ChunkKey,
    record: Record,
) -> Result<Verified, CheckError> {
    let mut verified = Verified::default();
    let versions = [(&record.committed, false), (&record.pending, true)];
    for (version, pending) in versions {
        let Some(version) = version else { continue };
        let Some(content) = &version.content else {
            continue;
        };
        let mut found = Found {
            key,
            version,
            pending,
            problems: Vec::new(),
        };
        match detail(parts, key, version, content).await {
            Ok(detail) => {
                let position = content.slot.position();
                let slot = (FileId::Group(position.group), position.offset());
                read_version(parts, slot, &detail, &mut found).await?;
                verified.bytes += u64::from(version.head.length);
            }
            Err(reason) => found.add(ProblemKind::Record, None, &reason),
        }
        verified.problems.extend(found.problems);
    }
    Ok(verified)
}

/// The checksums of a version, from memory or store, and whether they are those of its content.
async fn detail(
    parts: &Parts,
    key: ChunkKey,
    version: &Version,
    content: &Content,
) -> Result<Arc<Detail>, String> {
    let head = &version.head;
    let detail = match content.detail.load_full() {
        Some(detail) => detail,
        None => {
            let store = parts.store.clone();
            let load = move || checkpoint::load_sums(&*store, key);
            let stored = parts.env.blocking(load).await;
            let stored = stored.map_err(|error| error.to_string())?;
            let sums = stored.of(head, content.slot.position());
            let sums = sums.ok_or("the checksums of its blocks are missing")?;
            Arc::new(Detail::in_slot(checksums_from(&sums.sums)))
        }
    };
    let blocks = block_count(head.length) as usize;
    if detail.sums.len() != blocks {
        let count = detail.sums.len();
        return Err(format!("{count} checksums for {blocks} blocks"));
    }
    if of_whole(&detail.sums, head.length) != head.checksum {
        return Err("the checksums of its blocks do not make that of the whole".to_owned());
    }
    Ok(detail)
}

/// What was found in one version.
struct Found<'a> {
    key: ChunkKey,
    version: &'a Version,
    pending: bool,
    problems: Vec<DiskProblem>,
}

impl Found<'_> {
    fn add(&mut self, kind: ProblemKind, block: Option<u32>, reason: &str) {
        let ChunkKey { target, chunk } = self.key;
        let which = if self.pending { "pending" } else { "committed" };
        let version = self.version.head.version;
        let at = block.map_or_else(String::new, |block| format!(", block {block}"));
        let text =
            format!("chunk {chunk} of target {target}, {which} version {version}{at}: {reason}");
        self.problems.push(DiskProblem {
            version: Some(version),
            pending: self.pending,
            block,
            ..DiskProblem::new(kind, Some(self.key), text)
        });
    }
}

/// Blocks that lie side by side in a file.
#[derive(Clone, Copy)]
struct Piece {
    file: FileId,
    offset: u64,
    first: u32,
    count: u32,
}

impl Piece {
    fn part(self, from: u32, count: u32) -> Self {
        let skipped = u64::from(from) * u64::from(BLOCK_BYTES);
        Self {
            offset: self.offset + skipped,
            first: self.first + from,
            count,
            ..self
        }
    }
}

async fn read_version(
    parts: &Parts,
    (slot, slot_offset): (FileId, u64),
    detail: &Detail,
    found: &mut Found<'_>,
) -> Result<(), CheckError> {
    let blocks = 0..block_count(found.version.head.length);
    for (run, first, count) in runs(detail, blocks) {
        let (file, block, base) = match run {
            Run::Slot => (slot, first, slot_offset),
            Run::Log { segment, at } => (segment.file(), at, 0),
            // Only a running engine has blocks that are not written yet.
            Run::Memory(_) => continue,
        };
        let run = Piece {
            file,
            offset: base + u64::from(block) * u64::from(BLOCK_BYTES),
            first,
            count,
        };
        let mut from = 0;
        while from < count {
            if parts.progress.is_stopped() {
                return Err(CheckError::Stopped);
            }
            let piece = run.part(from, PIECE_BLOCKS.min(count - from));
            read_piece(parts, piece, detail, found).await;
            from += piece.count;
        }
    }
    Ok(())
}

async fn read_piece(parts: &Parts, piece: Piece, detail: &Detail, found: &mut Found<'_>) {
    if compare(parts, piece, detail, found).await.is_err() {
        // One by one, to know which.
        for from in 0..piece.count {
            let block = piece.part(from, 1);
            if let Err(error) = compare(parts, block, detail, found).await {
                let reason = format!("cannot read {}: {error}", block.file);
                found.add(ProblemKind::Read, Some(block.first), &reason);
            }
        }
    }
    let bytes = u64::from(piece.count) * u64::from(BLOCK_BYTES);
    parts
        .progress
        .done_bytes
        .fetch_add(bytes, Ordering::Relaxed);
}

async fn compare(
    parts: &Parts,
    piece: Piece,
    detail: &Detail,
    found: &mut Found<'_>,
) -> std::io::Result<()> {
    let buf = parts.buffers.allocate((piece.count * BLOCK_BYTES) as usize);
    let buf = parts.device.read(piece.file, piece.offset, buf).await?;
    let length = found.version.head.length;
    for (block, stored) in (piece.first..).zip(buf.chunks(BLOCK_BYTES as usize)) {
        let content = (length - block * BLOCK_BYTES).min(BLOCK_BYTES) as usize;
        if detail.sums.get(block as usize) != Some(&Checksum::of(&stored[..content])) {
            let reason = format!("the bytes in {} do not match their checksum", piece.file);
            found.add(ProblemKind::Checksum, Some(block), &reason);
        }
    }
    Ok(())
}
