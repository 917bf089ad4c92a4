//! Keeps some space free on the device, so that the engine never meets its end in the middle of a write.

use std::path::{Path, PathBuf};

use crate::write_buffer::WriteBuffer;

/// By default the reserve is this part of the device, one in fifty,
const DEVICE_PARTS: u64 = 50;
/// but at most this,
const RESERVE_BYTES_MAX: u64 = 256 << 20;
/// and at least this: with less, merges of files were seen to run out of space,
const RESERVE_BYTES_MIN: u64 = 128 << 20;
/// or on a small device this part of it.
const SMALL_DEVICE_PARTS: u64 = 4;
/// Transactions that remove something, the only way out of a full device, may use all but a quarter.
const REMOVAL_PARTS: u64 = 4;

pub(super) struct Space {
    dir: PathBuf,
    /// 0 = by default.
    reserve_bytes: u64,
}

/// How much is free at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    free_bytes: u64,
    reserve_bytes: u64,
}

impl Space {
    pub(super) fn new(dir: &Path, reserve_bytes: u64) -> Self {
        Self {
            dir: dir.to_owned(),
            reserve_bytes,
        }
    }

    /// Asks the file system, about 1 us.
    pub(super) fn room(&self) -> Room {
        match rustix::fs::statvfs(&self.dir) {
            Ok(status) => Room {
                free_bytes: status.f_bavail.saturating_mul(status.f_frsize),
                reserve_bytes: self.reserve(status.f_blocks.saturating_mul(status.f_frsize)),
            },
            Err(error) => {
                // Not knowing is no reason to stop; the write itself will tell.
                tracing::warn!(%error, dir = %self.dir.display(), "cannot ask for free space");
                Room {
                    free_bytes: u64::MAX,
                    reserve_bytes: 0,
                }
            }
        }
    }

    fn reserve(&self, device_bytes: u64) -> u64 {
        match self.reserve_bytes {
            0 => (device_bytes / DEVICE_PARTS)
                .max(RESERVE_BYTES_MIN.min(device_bytes / SMALL_DEVICE_PARTS))
                .min(RESERVE_BYTES_MAX),
            bytes => bytes,
        }
    }
}

impl Room {
    pub(super) fn admits(self, writes: &WriteBuffer) -> bool {
        self.free_bytes >= self.reserve_bytes
            || (self.free_bytes >= self.reserve_bytes / REMOVAL_PARTS && writes.removes())
    }

    pub(super) fn free_bytes(self) -> u64 {
        self.free_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn below_the_reserve_only_removals_are_admitted() {
        let (mut adds, mut removes) = (WriteBuffer::default(), WriteBuffer::default());
        adds.set(b"k", b"v");
        removes.set(b"k", b"v");
        removes.clear(b"l");
        for (free_bytes, add, remove) in [(100, true, true), (99, false, true), (24, false, false)]
        {
            let room = Room {
                free_bytes,
                reserve_bytes: 100,
            };
            assert_eq!((room.admits(&adds), room.admits(&removes)), (add, remove));
        }
    }

    #[test]
    fn the_default_reserve_is_a_small_part_of_the_device() {
        let dir = tempfile::tempdir().unwrap();
        let space = Space::new(dir.path(), 0);
        assert!(space.room().free_bytes > 0);
        assert_eq!(space.reserve(40 << 20), 10 << 20);
        assert_eq!(space.reserve(2 << 30), RESERVE_BYTES_MIN);
        assert_eq!(space.reserve(10_000 << 20), 200 << 20);
        assert_eq!(space.reserve(u64::MAX), RESERVE_BYTES_MAX);
        assert_eq!(Space::new(dir.path(), 7).reserve(50 << 20), 7);
    }
}
