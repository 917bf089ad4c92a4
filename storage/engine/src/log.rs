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

use self::{batch::BatchId, entry::LogRef};
use crate::{
    chunk_meta::ChunkKey,
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
const FILES_MIN: usize = 3;
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

/// One use of a file.
pub(crate) struct Segment {
    pub(crate) number: u64,
    file: u32,
    /// Whether the file has the size that segments have now: else it is not written again.
    reusable: bool,
    /// Blocks of the file.
    pub(crate) blocks: u32,
    /// What was written here, for those who want to empty it.
    data: Mutex<Vec<Weak<LogData>>>,
    log: Weak<Shared>,
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Segment({} in file {})", self.number, self.file)
    }
}

impl Segment {
    pub(crate) fn file(&self) -> FileId {
        FileId::Log(self.file)
    }

    /// The blocks here that someone still needs, with their places.
    pub(crate) fn live_data(&self) -> Vec<(Arc<LogData>, LogRef)> {
        let mut data = self.data.lock();
        let mut live = Vec::new();
        data.retain(|data| {
            let data = data.upgrade();
            // Others were moved to another segment.
            let here = data.and_then(|data| {
                let place = data.log_ref()?;
                (place.segment == self.number).then_some((data, place))
            });
            let is_here = here.is_some();
            live.extend(here);
            is_here
        });
        live
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        if let Some(log) = self.log.upgrade() {
            let mut state = log.state.lock();
            state.alive.remove(&self.number);
            if self.reusable {
                state.free.push_back(self.file);
            } else {
                state.files -= 1;
                state.odd.push(self.file);
            }
            drop(state);
            log.freed.notify_waiters();
        }
    }
}

/// Where neighbouring blocks in the log are. Shared by every version whose content they are part of.
#[derive(Debug)]
pub(crate) struct LogData {
    /// Whose blocks they are.
    pub(crate) key: ChunkKey,
    pub(crate) blocks: u32,
    place: Mutex<Place>,
}

#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// Not written yet.
    Memory(SharedBuf),
    Log {
        segment: Arc<Segment>,
        at: u32,
    },
}

impl LogData {
    /// Blocks that are going to be written.
    pub(crate) fn new(key: ChunkKey, bytes: SharedBuf) -> Arc<Self> {
        let blocks = bytes.len() / BLOCK_BYTES as usize;
        Arc::new(Self {
            key,
            blocks: u32::try_from(blocks).expect("small updates are small"),
            place: Mutex::new(Place::Memory(bytes)),
        })
    }

    /// One block found when the disk was opened.
    pub(crate) fn found(key: ChunkKey, segment: &Arc<Segment>, at: u32) -> Arc<Self> {
        let place = Place::Log {
            segment: segment.clone(),
            at,
        };
        let data = Arc::new(Self {
            key,
            blocks: 1,
            place: Mutex::new(place),
        });
        segment.data.lock().push(Arc::downgrade(&data));
        data
    }

    pub(crate) fn place(&self) -> Place {
        self.place.lock().clone()
    }

    /// Where the blocks are in the log, once they are.
    pub(crate) fn log_ref(&self) -> Option<LogRef> {
        match &*self.place.lock() {
            Place::Memory(_) => None,
            Place::Log { segment, at } => Some(LogRef {
                segment: segment.number,
                at: *at,
            }),
        }
    }

    /// The blocks are in the log now, durably.
    pub(crate) fn put(self: &Arc<Self>, segment: &Arc<Segment>, at: u32) {
        segment.data.lock().push(Arc::downgrade(self));
        let place = Place::Log {
            segment: segment.clone(),
            at,
        };
        let before = std::mem::replace(&mut *self.place.lock(), place);
        // Not under a lock: the segment may go with it.
        drop(before);
    }
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
    state: Mutex<State>,
    /// Told when a file can be used again.
    freed: Notify,
}

struct State {
    /// Files that nobody needs.
    free: VecDeque<u32>,
    /// All files.
    files: u64,
    files_max: u64,
    next_file: u32,
    next_segment: u64,
    next_batch: u64,
    /// The segment that is written, and the next block in it.
    current: Option<(Arc<Segment>, u32)>,
    /// Those that a replay would read.
    retained: BTreeMap<u64, Arc<Segment>>,
    /// All that someone needs.
    alive: BTreeMap<u64, Weak<Segment>>,
    /// Files of another size, to be removed.
    odd: Vec<u32>,
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
        let (free, odd): (Vec<u32>, Vec<u32>) = sizes
            .keys()
            .filter(|file| !holding.contains(file))
            .partition(|&&file| reusable(file));
        let log = Self(Arc::new(Shared {
            device: parts.device,
            buffers: parts.buffers,
            disk: parts.start.disk,
            segment_bytes,
            state: Mutex::new(State {
                files: (free.len() + holding.len()) as u64,
                files_max: (parts.log_bytes / segment_bytes).max(FILES_MIN as u64 + 1),
                next_file: sizes.keys().next_back().map_or(0, |file| file + 1),
                free: free.into(),
                next_segment: parts.next_segment,
                next_batch: parts.next_batch,
                current: None,
                retained: BTreeMap::new(),
                alive: BTreeMap::new(),
                odd,
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

    /// Sees to it that the files that must always be there are.
    pub(crate) async fn prepare(&self) -> io::Result<()> {
        self.remove_odd().await?;
        while self.0.state.lock().files < FILES_MIN as u64 {
            let file = self.make_file().await?;
            self.0.state.lock().free.push_back(file);
        }
        Ok(())
    }

    async fn remove_odd(&self) -> io::Result<()> {
        let odd = std::mem::take(&mut self.0.state.lock().odd);
        for file in odd {
            self.0.device.remove(FileId::Log(file)).await?;
        }
        Ok(())
    }

    pub(crate) fn fill(&self) -> Fill {
        let state = self.0.state.lock();
        Fill {
            used_segments: state.files - state.free.len() as u64,
            segments_max: state.files_max,
        }
    }

    /// Bytes that the log may still take from the file system.
    pub(crate) fn unallocated_bytes(&self) -> u64 {
        let state = self.0.state.lock();
        state.files_max.saturating_sub(state.files) * self.0.segment_bytes
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
            state.next_file += 1;
            state.next_file - 1
        };
        let (file, bytes) = (FileId::Log(number), self.0.segment_bytes);
        let device = &self.0.device;
        device.create(file).await?;
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
        device.sync(file).await?;
        self.0.state.lock().files += 1;
        Ok(number)
    }

    /// Makes a file ahead of its use when there is none left and the log may grow. Files of another size that nobody needs
    /// any more go.
    pub(crate) async fn grow_ahead(&self) -> io::Result<()> {
        if let Err(error) = self.remove_odd().await {
            tracing::warn!(%error, "a file of a log of another size stays until the disk is opened again");
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
                    state.files_max = state.files;
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
