//! A segment, one use of a file of the log, and the places of blocks in it.
//!
//! Invariant: what lies in a segment and is still needed is listed there, and holds the segment.

use std::{
    fmt,
    sync::{Arc, Weak},
};

use common::{buf::SharedBuf, sync::Mutex};

use super::{Shared, entry::LogRef};
use crate::{chunk_meta::ChunkKey, device::FileId, group::BLOCK_BYTES};

/// One use of a file.
pub(crate) struct Segment {
    pub(crate) number: u64,
    pub(super) file: u32,
    /// Whether the file has the size that segments have now: else it is not written again.
    pub(super) reusable: bool,
    /// Blocks of the file.
    pub(crate) blocks: u32,
    /// What was written here, for those who want to empty it.
    pub(super) data: Mutex<Vec<Weak<LogData>>>,
    pub(super) log: Weak<Shared>,
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

    /// How many blocks here someone still needs.
    pub(crate) fn live_blocks(&self) -> u64 {
        let live = self.live_data();
        live.iter().map(|(data, _)| u64::from(data.blocks)).sum()
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
                state.give_back(self.file);
            } else {
                state.odd_in_use -= 1;
                state.unwanted.push(self.file);
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
        let place = Place::Log {
            segment: segment.clone(),
            at,
        };
        let before = {
            // Whoever looks at the segment finds the data there with its place, or finds none of both: what is listed there
            // and has another place is taken for data that was moved away, and forgotten. The same order as in `live_data`.
            let mut listed = segment.data.lock();
            listed.push(Arc::downgrade(self));
            std::mem::replace(&mut *self.place.lock(), place)
        };
        // Not under a lock: the segment may go with it.
        drop(before);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use common::{buf::BufPool, env::Env};
    use types::{
        chunk::ChunkId,
        id::{InodeId, TargetId},
    };

    use super::*;

    /// While someone looks at the segment all the time.
    #[test]
    fn data_that_comes_to_a_segment_is_not_forgotten() {
        const COUNT: u32 = 3000;
        let segment = Arc::new(Segment {
            number: 1,
            file: 0,
            reusable: true,
            blocks: COUNT,
            data: Mutex::default(),
            log: Weak::new(),
        });
        let ended = Arc::new(AtomicBool::new(false));
        let watching = {
            let (segment, ended) = (segment.clone(), ended.clone());
            let watch = move || {
                while !ended.load(Ordering::Relaxed) {
                    segment.live_data();
                }
            };
            Env::real().spawn_thread("watch", watch).unwrap()
        };
        let key = ChunkKey {
            target: TargetId(1),
            chunk: ChunkId {
                inode: InodeId(1),
                index: 0,
            },
        };
        let bytes = BufPool::new(0).allocate(BLOCK_BYTES as usize).freeze();
        let come = |at| {
            let data = LogData::new(key, bytes.clone());
            data.put(&segment, at);
            data
        };
        let held: Vec<Arc<LogData>> = (0..COUNT).map(come).collect();
        ended.store(true, Ordering::Relaxed);
        watching.join().unwrap();
        assert_eq!(segment.live_data().len(), held.len());
    }
}
