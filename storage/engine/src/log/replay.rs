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

/// More numbers than are ever given out in vain between two checkpoints: one at each opening.
const SEGMENTS_SPARE: u64 = 1024;

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
    for (segment, claiming) in claims(device, buffers, files, start).await? {
        let file = match &claiming[..] {
            [(file, _)] => *file,
            _ => holder(device, buffers, (segment, &claiming), start.disk).await?,
        };
        replay.segments.insert(segment, file);
    }
    // A number that was begun is not used again, even if nothing of it was acknowledged.
    if let Some((&last, _)) = replay.segments.last_key_value() {
        replay.next_segment = replay.next_segment.max(last + 1);
    }
    // In the order of segments; files that hold none that is news, as far as their first block tells, come last: what they
    // hold all the same would show that a first block is damaged.
    let mut order: Vec<(Option<u64>, u32, u64)> = files
        .iter()
        // A file whose making was interrupted holds nothing.
        .filter(|&&(_, bytes)| bytes >= u64::from(BLOCK_BYTES))
        .map(|&(file, bytes)| {
            let segments = replay.segments.range(start.segment..);
            let segment = segments.clone().find(|&(_, &held)| held == file);
            (segment.map(|(&number, _)| number), file, bytes)
        })
        .collect();
    order.sort_by_key(|&(segment, file, _)| (segment.is_none(), segment, file));
    for (_, file, bytes) in order {
        let content = read(device, buffers, file, bytes).await?;
        replay.read_file(&content, start, file)?;
    }
    Ok(replay)
}

/// The files whose first block says that they are a segment, with their bytes, by its number.
async fn claims(
    device: &Arc<dyn Device>,
    buffers: &BufPool,
    files: &[(u32, u64)],
    start: LogStart,
) -> Result<BTreeMap<u64, Vec<(u32, u64)>>, OpenError> {
    // A header proves nothing. Segments that are news have numbers from the start on, one for each file; a number far beyond
    // is damage, and nothing may be counted on from there.
    let limit = start.segment + files.len() as u64 + SEGMENTS_SPARE;
    let mut claims: BTreeMap<u64, Vec<(u32, u64)>> = BTreeMap::new();
    for &(file, bytes) in files {
        if bytes < u64::from(BLOCK_BYTES) {
            continue;
        }
        let first = read(device, buffers, file, BLOCK as u64).await?;
        if let Some((segment, _)) = batch::peek(&first, start.disk)
            && segment <= limit
        {
            claims.entry(segment).or_default().push((file, bytes));
        }
    }
    Ok(claims)
}

/// Which of some files holds the segment that all of them claim to be: the one with a whole first batch. One flipped bit makes
/// any number of another, in a file that may have been of no use for long.
async fn holder(
    device: &Arc<dyn Device>,
    buffers: &BufPool,
    (segment, claiming): (u64, &[(u32, u64)]),
    disk: u64,
) -> Result<u32, OpenError> {
    let mut holders = Vec::new();
    for &(file, bytes) in claiming {
        let content = read(device, buffers, file, bytes).await?;
        if batch::parse(&content, disk, segment, 0).is_ok() {
            holders.push(file);
        }
    }
    match &holders[..] {
        [holder] => Ok(*holder),
        _ => {
            let names = claiming
                .iter()
                .map(|&(file, _)| FileId::Log(file).to_string());
            let names: Vec<String> = names.collect();
            Err(inconsistent(format!(
                "{} all claim to be segment {segment} of the log, and {} of them begin with a batch of it",
                names.join(", "),
                holders.len()
            )))
        }
    }
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
    /// Takes the batches of one file that come next.
    fn read_file(&mut self, content: &[u8], start: LogStart, file: u32) -> Result<(), OpenError> {
        let mut at = 0;
        while at < content.len() / BLOCK {
            // What is no batch may be torn, what an earlier use left, or damage in what is no news.
            let Some((segment, batch)) = batch_at(content, start.disk, at) else {
                at += 1;
                continue;
            };
            at += batch.blocks as usize;
            if segment < start.segment || batch.batch < self.next_batch {
                continue;
            }
            if batch.batch > self.next_batch {
                return Err(damaged(file, self.next_batch, batch.batch));
            }
            self.next_batch += 1;
            self.entries.extend(batch.entries);
        }
        Ok(())
    }
}

/// The batch at a block, with its segment.
fn batch_at(content: &[u8], disk: u64, at: usize) -> Option<(u64, Batch)> {
    let rest = content.get(at * BLOCK..)?;
    let (segment, _) = batch::peek(rest, disk)?;
    let batch = batch::parse(rest, disk, segment, u32::try_from(at).ok()?).ok()?;
    Some((segment, batch))
}

fn damaged(file: u32, missing: u64, found: u64) -> OpenError {
    inconsistent(format!(
        "the log lacks batch {missing}, but batch {found} in {} was written after it",
        FileId::Log(file)
    ))
}

fn inconsistent(problem: String) -> OpenError {
    OpenError::Inconsistent {
        count: 1,
        problems: vec![problem],
    }
}

#[cfg(test)]
mod tests {
    use common::env::Env;
    use types::id::{ChainId, TargetId};

    use super::*;
    use crate::{
        device::mem::{MemDevice, PowerSwitch},
        log::{Log, Parts, SEGMENT_BYTES_MIN},
    };

    const START: LogStart = LogStart {
        disk: 77,
        segment: 1,
        batch: 1,
    };

    fn entry(number: u64) -> LogEntry {
        LogEntry::Target {
            target: TargetId(number),
            chain: ChainId(1),
        }
    }

    struct Disk {
        device: Arc<MemDevice>,
        buffers: BufPool,
    }

    impl Disk {
        fn new() -> Self {
            Self {
                device: Arc::new(MemDevice::new(&Env::seeded(1), PowerSwitch::lasting())),
                buffers: BufPool::new(1 << 20),
            }
        }

        async fn files(&self) -> Vec<(u32, u64)> {
            let files = self.device.list().await.unwrap();
            let log = files.into_iter().filter_map(|(id, bytes)| match id {
                FileId::Log(number) => Some((number, bytes)),
                FileId::Group(_) => None,
            });
            log.collect()
        }

        async fn replay(&self) -> Result<Replay, OpenError> {
            let device: Arc<dyn Device> = self.device.clone();
            replay(&device, &self.buffers, &self.files().await, START).await
        }

        /// A log that goes on behind what is there.
        async fn open(&self) -> Log {
            let replay = self.replay().await.unwrap();
            let (log, _) = Log::new(Parts {
                device: self.device.clone(),
                buffers: self.buffers.clone(),
                log_bytes: 16 * SEGMENT_BYTES_MIN,
                files: self.files().await,
                start: START,
                segments: replay.segments,
                next_segment: replay.next_segment,
                next_batch: replay.next_batch,
            });
            log.prepare().await.unwrap();
            log
        }

        async fn append(&self, log: &Log, number: u64, blocks: usize) {
            let payload = self.buffers.allocate_zeroed(blocks * BLOCK).freeze();
            let moved = LogEntry::Moved {
                from: LogRef { segment: 0, at: 0 },
                blocks: u32::try_from(blocks).unwrap(),
            };
            let entries = [entry(number).encode(), moved.encode()];
            log.append(&entries, &[payload]).await.unwrap();
        }
    }

    fn numbers(replay: &Replay) -> Vec<u64> {
        let entries = replay.entries.iter();
        let numbers = entries.filter_map(|(entry, _)| match entry {
            LogEntry::Target { target, .. } => Some(target.0),
            _ => None,
        });
        numbers.collect()
    }

    #[tokio::test]
    async fn batches_come_back_in_order_over_segments_and_openings() {
        let disk = Disk::new();
        for life in 0..3_u64 {
            let log = disk.open().await;
            for number in 0..10 {
                disk.append(&log, life * 10 + number, 20).await;
            }
        }
        let replay = disk.replay().await.unwrap();
        assert_eq!(numbers(&replay), (0..30).collect::<Vec<_>>());
        assert_eq!(replay.next_batch, 31);
        // A segment has room for three batches of 21 blocks each.
        assert_eq!(replay.segments.len(), 12);
        assert_eq!(replay.next_segment, 13);
    }

    #[tokio::test]
    async fn a_torn_last_batch_was_not_acknowledged() {
        let disk = Disk::new();
        let log = disk.open().await;
        for number in 0..2 {
            disk.append(&log, number, 1).await;
        }
        disk.device.flip_bit(FileId::Log(0), 2 * BLOCK + 100);
        let replay = disk.replay().await.unwrap();
        assert_eq!(
            numbers(&replay),
            [0, 1],
            "zeros behind the entries do not count"
        );
        disk.device.flip_bit(FileId::Log(0), 3 * BLOCK + 100);
        let replay = disk.replay().await.unwrap();
        assert_eq!((numbers(&replay), replay.next_batch), (vec![0], 2));
        // The number of the torn one is used again, in another segment.
        let log = disk.open().await;
        disk.append(&log, 7, 1).await;
        assert_eq!(numbers(&disk.replay().await.unwrap()), [0, 7]);
    }

    #[tokio::test]
    async fn damage_before_the_end_stops_the_disk() {
        for damaged in 0..5 {
            let disk = Disk::new();
            let log = disk.open().await;
            for number in 0..6 {
                disk.append(&log, number, 20).await;
            }
            let (file, at) = (damaged / 3, damaged % 3 * 21);
            let payload = FileId::Log(u32::try_from(file).unwrap());
            disk.device.flip_bit(payload, (at + 5) * BLOCK);
            let error = disk.replay().await.unwrap_err();
            let text = error.to_string();
            assert!(
                text.contains(&format!("lacks batch {}", damaged + 1)),
                "{text}"
            );
        }
    }

    #[tokio::test]
    async fn damage_in_old_batches_and_first_blocks_hides_nothing() {
        let disk = Disk::new();
        let log = disk.open().await;
        for number in 0..3 {
            disk.append(&log, number, 1).await;
        }
        let start = LogStart { batch: 3, ..START };
        let device: Arc<dyn Device> = disk.device.clone();
        let files = disk.files().await;
        // In the second batch, which is no news.
        disk.device.flip_bit(FileId::Log(0), 2 * BLOCK + 20);
        let found = replay(&device, &disk.buffers, &files, start).await.unwrap();
        assert_eq!((numbers(&found), found.next_batch), (vec![2], 4));
        disk.device.flip_bit(FileId::Log(0), 2 * BLOCK + 20);
        for byte in [0, 8, 15, 20] {
            disk.device.flip_bit(FileId::Log(0), byte);
            let error = disk.replay().await.unwrap_err().to_string();
            assert!(error.contains("lacks batch 1"), "{byte}: {error}");
            disk.device.flip_bit(FileId::Log(0), byte);
        }
        assert_eq!(numbers(&disk.replay().await.unwrap()), [0, 1, 2]);
    }

    /// Found by fuzzing: the number after it overflowed.
    #[tokio::test]
    async fn a_damaged_header_with_the_last_number_is_no_segment() {
        let disk = Disk::new();
        disk.append(&disk.open().await, 5, 1).await;
        let mut block = disk.buffers.allocate_zeroed(BLOCK);
        block[..8].copy_from_slice(&START.disk.to_le_bytes());
        block[8..24].fill(0xff);
        let second = FileId::Log(1);
        disk.device.write(second, 0, block.freeze()).await.unwrap();
        let found = disk.replay().await.unwrap();
        assert_eq!((numbers(&found), found.next_segment), (vec![5], 2));
        disk.append(&disk.open().await, 6, 1).await;
        assert_eq!(numbers(&disk.replay().await.unwrap()), [5, 6]);
    }

    /// Which of them holds what is needed cannot be told, and the other would be written over.
    #[tokio::test]
    async fn two_files_that_claim_one_number_stop_the_disk() {
        let disk = Disk::new();
        disk.append(&disk.open().await, 5, 1).await;
        let whole = disk.device.stored(FileId::Log(0), 0..4 * BLOCK);
        let second = FileId::Log(1);
        let copy = disk.buffers.copy_from(&whole).freeze();
        disk.device.write(second, 0, copy).await.unwrap();
        let error = disk.replay().await.unwrap_err().to_string();
        assert!(error.contains("all claim to be segment 1"), "{error}");
        // Nor can it when neither has a batch.
        for file in [FileId::Log(0), second] {
            disk.device.flip_bit(file, 50);
        }
        let error = disk.replay().await.unwrap_err().to_string();
        assert!(error.contains("and 0 of them begin"), "{error}");
    }

    /// A flipped bit in the header of a file that nobody needs any more.
    #[tokio::test]
    async fn a_file_that_only_claims_a_number_is_no_segment() {
        for forged in [0, 1] {
            let disk = Disk::new();
            let log = disk.open().await;
            for number in 0..4 {
                disk.append(&log, number, 20).await;
            }
            log.release_before(log.end());
            // Files 0 and 1 hold segments 1 and 2: one bit makes 3 of either number.
            let number_at = 8;
            let start = LogStart {
                segment: 2,
                batch: 4,
                ..START
            };
            let (stale, live) = (FileId::Log(0), FileId::Log(1));
            if forged == 1 {
                disk.device.flip_bits(stale, number_at, 3);
            }
            let device: Arc<dyn Device> = disk.device.clone();
            let files = disk.files().await;
            let replay = replay(&device, &disk.buffers, &files, start).await.unwrap();
            assert_eq!(numbers(&replay), [3]);
            assert_eq!(replay.segments.get(&2), Some(&1), "{live}");
            assert_eq!(replay.next_segment, 3);
        }
    }

    #[tokio::test]
    async fn what_an_earlier_use_left_is_not_taken_for_the_present() {
        let disk = Disk::new();
        let log = disk.open().await;
        // Nobody needs the segments, so the three files are written round and round.
        for number in 0..50 {
            disk.append(&log, number, 40).await;
            log.release_before(log.end());
        }
        assert_eq!(disk.files().await.len(), 3);
        let start = LogStart {
            segment: log.end().segment,
            batch: 50,
            ..START
        };
        let device: Arc<dyn Device> = disk.device.clone();
        let files = disk.files().await;
        let replay = replay(&device, &disk.buffers, &files, start).await.unwrap();
        assert_eq!(numbers(&replay), [49]);
        assert_eq!(replay.next_batch, 51);
    }
}
