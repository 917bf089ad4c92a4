//! The log of a disk: every change of a record, and the bytes of small updates, in batches that are durable at once.
//!
//! The log lies in segment files of one size, written round and round. Each use of a file as a segment has a number
//! that is never given out twice; batches carry it, so that what an earlier use left cannot be taken for the present.
//! A file is zeroed when it is made: later writes then change no metadata of the file system, and a sync costs
//! one flush of the device.
//!
//! Who still needs a segment holds an `Arc<Segment>`: the log itself, from the segment where a replay would begin, and
//! every `LogData`, the place of blocks that were not folded into their slots yet. When the last holder is gone, the
//! file may be written again.

pub(crate) mod batch;
pub(crate) mod entry;
pub(crate) mod replay;
mod segment;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt, io,
    sync::{Arc, Weak},
};

use common::{
    buf::{BufPool, SharedBuf},
    sync::Mutex,
};
use tokio::sync::{Notify, futures::Notified};

use self::batch::BatchId;
pub(crate) use self::segment::{LogData, Place, Segment};
use crate::{
    device::{Device, FileId},
    group::BLOCK_BYTES,
};

/// Segments that the log is divided into.
const SEGMENT_COUNT: u64 = 16;
/// A segment holds the largest batch of one entry: the checksums of a chunk of 64 MiB, or a small update.
pub(crate) const SEGMENT_BYTES_MIN: u64 = 256 << 10;
const SEGMENT_BYTES_MAX: u64 = 64 << 20;
/// Files that are there from the start, so that a full file system cannot stop removals: one is written, one waits to
/// be folded, one is for the folding.
const FILES_MIN: u64 = 3;
/// Zeros are written in pieces of this size.
const ZERO_PIECE_BYTES: u64 = 1 << 20;

/// The size of a segment of a log of so many bytes.
pub(crate) fn segment_bytes(log_bytes: u64) -> u64 {
    let bytes = (log_bytes / SEGMENT_COUNT).clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX);
    bytes - bytes % u64::from(BLOCK_BYTES)
}

/// Where a replay begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LogStart {
    /// The number of the disk.
    pub(crate) disk: u64,
    /// The first segment that may hold such batches.
    pub(crate) segment: u64,
    /// The first batch that the records do not contain.
    pub(crate) batch: u64,
}

/// A batch that is durable.
#[derive(Debug)]
pub(crate) struct Appended {
    pub(crate) batch: u64,
    pub(crate) segment: Arc<Segment>,
    /// The first block of the payload.
    pub(crate) payload_at: u32,
    pub(crate) bytes: u64,
    disk: u64,
}

impl Appended {
    /// Where a replay begins that lacks nothing but what comes after.
    pub(crate) fn next(&self) -> LogStart {
        LogStart {
            disk: self.disk,
            segment: self.segment.number,
            batch: self.batch + 1,
        }
    }
}

/// How full the log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fill {
    pub(crate) used_segments: u64,
    pub(crate) segments_max: u64,
}

impl Fill {
    /// From here on the oldest segments are emptied.
    pub(crate) fn wants_folding(self) -> bool {
        self.used_segments * 2 > self.segments_max
    }

    /// From here on updates wait.
    pub(crate) fn is_full(self) -> bool {
        self.used_segments + 1 >= self.segments_max
    }
}

/// See the module's text. Clones are the same log.
#[derive(Clone)]
pub(crate) struct Log(Arc<Shared>);

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log").field("fill", &self.fill()).finish()
    }
}

struct Shared {
    device: Arc<dyn Device>,
    buffers: BufPool,
    disk: u64,
    segment_bytes: u64,
    /// As many files as there may be while the file system has space.
    files_wanted: u64,
    state: Mutex<State>,
    /// Told when a file can be used again.
    freed: Notify,
}

struct State {
    /// Files that nobody needs.
    free: VecDeque<u32>,
    /// All files of the size that segments have now.
    files: u64,
    /// Never below `FILES_MIN`: with fewer nothing could be folded, and who waits for that would wait for ever.
    files_max: u64,
    /// Above the number of every file there is, so wider than that.
    next_file: u64,
    next_segment: u64,
    next_batch: u64,
    /// The segment that is written, and the next block in it.
    current: Option<(Arc<Segment>, u32)>,
    /// Those that a replay would read.
    retained: BTreeMap<u64, Arc<Segment>>,
    /// All that someone needs.
    alive: BTreeMap<u64, Weak<Segment>>,
    /// Segments in files of another size.
    odd_in_use: u64,
    /// Files to be removed: of another size, or more than there may be.
    unwanted: Vec<u32>,
}

impl State {
    /// Nobody needs this file any more. The log may have outgrown its size for a while.
    fn give_back(&mut self, file: u32) {
        if self.files > self.files_max {
            self.files -= 1;
            self.unwanted.push(file);
        } else {
            self.free.push_back(file);
        }
    }

    fn used_segments(&self) -> u64 {
        self.files + self.odd_in_use - self.free.len() as u64
    }
}

/// What a log is opened over.
pub(crate) struct Parts {
    pub(crate) device: Arc<dyn Device>,
    pub(crate) buffers: BufPool,
    pub(crate) log_bytes: u64,
    /// The files there are, with the bytes they reach.
    pub(crate) files: Vec<(u32, u64)>,
    /// Where a replay would begin.
    pub(crate) start: LogStart,
    /// The files that hold segments, by number.
    pub(crate) segments: BTreeMap<u64, u32>,
    /// Above every segment and batch that was ever used.
    pub(crate) next_segment: u64,
    pub(crate) next_batch: u64,
}

impl Log {
    /// A log that goes on in a new segment. Also returns the segments that were found, by number: those that hold
    /// blocks which are still needed must be held until `LogData` of them is made; the others are free then.
    pub(crate) fn new(parts: Parts) -> (Self, BTreeMap<u64, Arc<Segment>>) {
        let segment_bytes = segment_bytes(parts.log_bytes);
        let sizes: BTreeMap<u32, u64> = parts.files.iter().copied().collect();
        let reusable = |file: u32| sizes.get(&file) == Some(&segment_bytes);
        let holding: BTreeSet<u32> = parts.segments.values().copied().collect();
        let (free, unwanted): (Vec<u32>, Vec<u32>) = sizes
            .keys()
            .filter(|file| !holding.contains(file))
            .partition(|&&file| reusable(file));
        let reusable_held = holding.iter().filter(|&&file| reusable(file)).count();
        let files_wanted = (parts.log_bytes / segment_bytes).max(FILES_MIN + 1);
        let log = Self(Arc::new(Shared {
            device: parts.device,
            buffers: parts.buffers,
            disk: parts.start.disk,
            segment_bytes,
            files_wanted,
            state: Mutex::new(State {
                files: (free.len() + reusable_held) as u64,
                files_max: files_wanted,
                next_file: sizes
                    .keys()
                    .next_back()
                    .map_or(0, |&file| u64::from(file) + 1),
                free: free.into(),
                next_segment: parts.next_segment,
                next_batch: parts.next_batch,
                current: None,
                retained: BTreeMap::new(),
                alive: BTreeMap::new(),
                odd_in_use: (holding.len() - reusable_held) as u64,
                unwanted,
            }),
            freed: Notify::new(),
        }));
        let mut found = BTreeMap::new();
        let mut state = log.0.state.lock();
        for (number, file) in parts.segments {
            let segment = Arc::new(Segment {
                number,
                file,
                reusable: reusable(file),
                blocks: blocks_of(sizes.get(&file).copied().unwrap_or(0)),
                data: Mutex::default(),
                log: Arc::downgrade(&log.0),
            });
            state.alive.insert(number, Arc::downgrade(&segment));
            if number >= parts.start.segment {
                state.retained.insert(number, segment.clone());
            }
            found.insert(number, segment);
        }
        drop(state);
        (log, found)
    }

    /// Sees to it that the files that must always be there are, besides those of another size.
    ///
    /// # Errors
    /// When there is no space for them, for example because those of another size take it.
    pub(crate) async fn prepare(&self) -> io::Result<()> {
        self.remove_unwanted().await?;
        while self.0.state.lock().files < FILES_MIN {
            let file = self.make_file().await?;
            self.0.state.lock().free.push_back(file);
        }
        Ok(())
    }

    async fn remove_unwanted(&self) -> io::Result<()> {
        let unwanted = std::mem::take(&mut self.0.state.lock().unwanted);
        for file in unwanted {
            self.0.device.remove(FileId::Log(file)).await?;
        }
        Ok(())
    }

    pub(crate) fn fill(&self) -> Fill {
        let state = self.0.state.lock();
        Fill {
            used_segments: state.used_segments(),
            segments_max: state.files_max,
        }
    }

    /// Bytes that the log may still take from the file system.
    pub(crate) fn unallocated_bytes(&self) -> u64 {
        let state = self.0.state.lock();
        state.files_max.saturating_sub(state.files) * self.0.segment_bytes
    }

    /// How many blocks may be moved to the end of the log: what is written for them fits into the files there are, also when
    /// half of each segment stays empty behind its last batch. At least one segment that is half empty is always moved,
    /// unless the file system is known to have no space for another file.
    pub(crate) fn room_for_moving(&self) -> u64 {
        let capacity = u64::from(self.segment_blocks());
        let state = self.0.state.lock();
        let current = state.current.as_ref();
        let rest = current.map_or(0, |(_, at)| capacity - u64::from(*at));
        let room = (state.free.len() as u64 * capacity + rest) / 2;
        if state.files_max == self.0.files_wanted {
            room.max(capacity / 2)
        } else {
            room
        }
    }

    pub(crate) fn segment_bytes(&self) -> u64 {
        self.0.segment_bytes
    }

    pub(crate) fn segment_blocks(&self) -> u32 {
        blocks_of(self.0.segment_bytes)
    }

    /// Ends when a file may have become free.
    pub(crate) fn freed(&self) -> Notified<'_> {
        self.0.freed.notified()
    }

    /// Where a replay would begin if everything appended so far stood in the records.
    pub(crate) fn end(&self) -> LogStart {
        let state = self.0.state.lock();
        LogStart {
            disk: self.0.disk,
            segment: match &state.current {
                Some((segment, _)) => segment.number,
                None => state.next_segment,
            },
            batch: state.next_batch,
        }
    }

    /// The records hold everything before `start`.
    pub(crate) fn release_before(&self, start: LogStart) {
        let released = {
            let mut state = self.0.state.lock();
            let kept = state.retained.split_off(&start.segment);
            std::mem::replace(&mut state.retained, kept)
        };
        // Not under the lock, which a segment that goes takes itself.
        drop(released);
    }

    /// The segments in use but for the one that is written, oldest first.
    pub(crate) fn oldest(&self) -> Vec<Arc<Segment>> {
        let state = self.0.state.lock();
        let current = state.current.as_ref().map(|(segment, _)| segment.number);
        let alive = state.alive.iter();
        alive
            .filter(|&(&number, _)| Some(number) != current)
            .filter_map(|(_, segment)| segment.upgrade())
            .collect()
    }

    /// The segments in which someone needs blocks.
    pub(crate) fn needed(&self) -> Vec<Arc<Segment>> {
        let alive: Vec<Arc<Segment>> = {
            let state = self.0.state.lock();
            let alive = state.alive.values();
            alive.filter_map(Weak::upgrade).collect()
        };
        let needed = alive.into_iter();
        needed
            .filter(|segment| !segment.live_data().is_empty())
            .collect()
    }

    /// Writes a batch and makes it durable. One call at a time.
    pub(crate) async fn append(
        &self,
        entries: &[Vec<u8>],
        payload: &[SharedBuf],
    ) -> io::Result<Appended> {
        let head_bytes = batch::head_blocks(entries) * BLOCK_BYTES as usize;
        let payload_bytes: usize = payload.iter().map(|piece| piece.len()).sum();
        let total = head_bytes + payload_bytes;
        let blocks = u32::try_from(total / BLOCK_BYTES as usize).map_err(io::Error::other)?;
        let (segment, at) = self.room(blocks).await?;
        let mut buf = self.0.buffers.allocate(total);
        let mut offset = head_bytes;
        for piece in payload {
            buf[offset..offset + piece.len()].copy_from_slice(piece);
            offset += piece.len();
        }
        let batch = self.0.state.lock().next_batch;
        let id = BatchId {
            disk: self.0.disk,
            segment: segment.number,
            batch,
        };
        batch::seal(&mut buf, id, entries);
        let device = &self.0.device;
        let offset = u64::from(at) * u64::from(BLOCK_BYTES);
        let written = device.write_durably(segment.file(), offset, buf.freeze());
        written.await?;
        let mut state = self.0.state.lock();
        state.next_batch += 1;
        if let Some((_, next)) = &mut state.current {
            *next = at + blocks;
        }
        drop(state);
        Ok(Appended {
            batch,
            segment,
            payload_at: at + u32::try_from(head_bytes / BLOCK_BYTES as usize).unwrap_or(0),
            bytes: total as u64,
            disk: self.0.disk,
        })
    }

    /// A segment with room for so many blocks, and where in it.
    async fn room(&self, blocks: u32) -> io::Result<(Arc<Segment>, u32)> {
        let capacity = self.segment_blocks();
        if blocks > capacity {
            return Err(io::Error::other(
                "a batch is longer than a segment of the log",
            ));
        }
        let free = {
            let mut state = self.0.state.lock();
            if let Some((segment, at)) = &state.current
                && at + blocks <= capacity
            {
                return Ok((segment.clone(), *at));
            }
            state.free.pop_front()
        };
        let file = match free {
            Some(file) => file,
            None => self.make_file().await?,
        };
        let mut state = self.0.state.lock();
        let segment = Arc::new(Segment {
            number: state.next_segment,
            file,
            reusable: true,
            blocks: capacity,
            data: Mutex::default(),
            log: Arc::downgrade(&self.0),
        });
        state.next_segment += 1;
        state.alive.insert(segment.number, Arc::downgrade(&segment));
        state.retained.insert(segment.number, segment.clone());
        let before = state.current.replace((segment.clone(), 0));
        drop(state);
        // Not under the lock, which a segment that goes takes itself.
        drop(before);
        Ok((segment, 0))
    }

    /// Makes a file of zeros.
    async fn make_file(&self) -> io::Result<u32> {
        let number = {
            let mut state = self.0.state.lock();
            let number = u32::try_from(state.next_file);
            let number =
                number.map_err(|_| io::Error::other("no numbers are left for files of the log"))?;
            state.next_file += 1;
            number
        };
        let file = FileId::Log(number);
        self.0.device.create(file).await?;
        if let Err(error) = self.fill_with_zeros(file).await {
            // A part of a file takes space and is of no use. If it stays, the next opening removes it.
            if let Err(error) = self.0.device.remove(file).await {
                tracing::warn!(%error, %file, "a file of the log that was not finished stays");
            }
            return Err(error);
        }
        self.0.state.lock().files += 1;
        Ok(number)
    }

    async fn fill_with_zeros(&self, file: FileId) -> io::Result<()> {
        let (device, bytes) = (&self.0.device, self.0.segment_bytes);
        device.reserve(file, bytes).await?;
        let zeros = self
            .0
            .buffers
            .allocate_zeroed(to_usize(ZERO_PIECE_BYTES.min(bytes)));
        let zeros = zeros.freeze();
        let mut offset = 0;
        while offset < bytes {
            let piece = zeros.slice(0..to_usize(ZERO_PIECE_BYTES.min(bytes - offset)));
            offset += piece.len() as u64;
            device
                .write(file, offset - piece.len() as u64, piece)
                .await?;
        }
        device.sync(file).await
    }

    /// Makes a file ahead of its use when there is none left and the log may grow. Files that are not wanted any more go.
    pub(crate) async fn grow_ahead(&self) -> io::Result<()> {
        if let Err(error) = self.remove_unwanted().await {
            tracing::warn!(%error, "a file that the log does not want stays until the disk is opened again");
        }
        let wanted = {
            let state = self.0.state.lock();
            state.free.is_empty() && state.files < state.files_max
        };
        if wanted {
            match self.make_file().await {
                Ok(file) => self.0.state.lock().free.push_back(file),
                Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                    // What there is must do.
                    let mut state = self.0.state.lock();
                    state.files_max = state.files.max(FILES_MIN);
                    tracing::warn!(
                        segments = state.files,
                        "the file system is full, the log does not grow any more"
                    );
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Whole blocks of a file.
fn blocks_of(bytes: u64) -> u32 {
    u32::try_from(bytes / u64::from(BLOCK_BYTES)).unwrap_or(u32::MAX)
}

fn to_usize(bytes: u64) -> usize {
    usize::try_from(bytes).expect("segments have an upper limit")
}
