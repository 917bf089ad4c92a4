//! Reading the log after a crash: every batch that was durable, in order, and no other.
//!
//! A batch is written when the one before is durable. So the first one that is missing or torn was not acknowledged, and
//! nothing of later batches can be there. Should a later one be found all the same, then a part of the log that was
//! acknowledged is damaged, and the disk is not opened: that is for someone to look at.

use std::{collections::BTreeMap, sync::Arc};

use common::buf::BufPool;

use super::{
    LogStart,
    batch::{self, Batch},
    entry::{LogEntry, LogRef},
};
use crate::{
    device::{Device, FileId},
    error::OpenError,
    group::BLOCK_BYTES,
};

const BLOCK: usize = BLOCK_BYTES as usize;

/// What was found in the log.
#[derive(Debug, Default)]
pub(crate) struct Replay {
    /// The entries that the records lack, in order, each with the place of its payload.
    pub(crate) entries: Vec<(LogEntry, LogRef)>,
    /// The files that hold a segment, by its number.
    pub(crate) segments: BTreeMap<u64, u32>,
    /// Above everything that was used.
    pub(crate) next_segment: u64,
    pub(crate) next_batch: u64,
}

/// Reads the files of the log from `start` on.
///
/// # Errors
/// When a file cannot be read, or an acknowledged part of the log is damaged.
pub(crate) async fn replay(
    device: &Arc<dyn Device>,
    buffers: &BufPool,
    files: &[(u32, u64)],
    start: LogStart,
) -> Result<Replay, OpenError> {
    let mut replay = Replay {
        next_segment: start.segment,
        next_batch: start.batch,
        ..Replay::default()
    };
    for &(file, bytes) in files {
        if bytes < u64::from(BLOCK_BYTES) {
            continue;
        }
        let first = read(device, buffers, file, BLOCK as u64).await?;
        if let Some((segment, _)) = batch::peek(&first, start.disk) {
            replay.segments.insert(segment, file);
        }
    }
    // A number that was begun is not used again, even if nothing of it was acknowledged.
    if let Some((&last, _)) = replay.segments.last_key_value() {
        replay.next_segment = replay.next_segment.max(last + 1);
    }
    let sizes: BTreeMap<u32, u64> = files.iter().copied().collect();
    let wanted: Vec<(u64, u32)> = replay
        .segments
        .range(start.segment..)
        .map(|(&segment, &file)| (segment, file))
        .collect();
    for (segment, file) in wanted {
        let content = read(device, buffers, file, sizes[&file]).await?;
        replay.read_segment(&content, start, segment, file)?;
    }
    Ok(replay)
}

async fn read(
    device: &Arc<dyn Device>,
    buffers: &BufPool,
    file: u32,
    bytes: u64,
) -> Result<common::buf::RegisteredBuf, OpenError> {
    let whole = bytes - bytes % u64::from(BLOCK_BYTES);
    let length = usize::try_from(whole).unwrap_or(0);
    let read = device.read(FileId::Log(file), 0, buffers.allocate(length));
    read.await.map_err(|source| OpenError::Device {
        action: "read the log",
        source,
    })
}

impl Replay {
    /// Takes the batches of one segment that come next.
    fn read_segment(
        &mut self,
        content: &[u8],
        start: LogStart,
        segment: u64,
        file: u32,
    ) -> Result<(), OpenError> {
        let expected = self.next_batch;
        let mut at = 0;
        while let Some(batch) = next_batch(content, start.disk, segment, at) {
            at += batch.blocks as usize;
            if batch.batch == self.next_batch {
                self.next_batch += 1;
                self.entries.extend(batch.entries);
            } else if batch.batch > self.next_batch {
                return Err(damaged(file, self.next_batch, batch.batch));
            }
        }
        // Behind the end there may be what an earlier use left, or a torn batch, but nothing that came later.
        for behind in at..content.len() / BLOCK {
            if let Some(batch) = next_batch(content, start.disk, segment, behind)
                && batch.batch > self.next_batch.max(expected)
            {
                return Err(damaged(file, self.next_batch, batch.batch));
            }
        }
        Ok(())
    }
}

fn next_batch(content: &[u8], disk: u64, segment: u64, at: usize) -> Option<Batch> {
    let rest = content.get(at * BLOCK..)?;
    batch::parse(rest, disk, segment, u32::try_from(at).ok()?).ok()
}

fn damaged(file: u32, missing: u64, found: u64) -> OpenError {
    OpenError::Inconsistent {
        count: 1,
        problems: vec![format!(
            "the log lacks batch {missing}, but batch {found} in {} was written after it",
            FileId::Log(file)
        )],
    }
}
