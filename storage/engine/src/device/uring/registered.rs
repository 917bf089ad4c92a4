//! What a ring knows beforehand: files by their slot, and the regions that buffers are cut from.
//!
//! A read into a registered region neither pins nor unpins its pages, which saves a third of the processor time of
//! a read of 1 MiB and a tenth of one of 4 KiB. Registering costs more than one I/O wins, so a region has to come
//! back a few times first, and one in steady use is never driven out by another. Nothing here is needed: what has
//! no slot is done by descriptor and address.
//!
//! Invariant: a slot is given to another only while `in_use` is 0, so no entry ever names a slot that changed. What
//! is registered under a region's id is that region's memory: ids are never used twice, and memory keeps its id.
//! The kernel holds registered pages itself, so freed memory is at worst kept until the next turn without work, never written for
//! somebody else.

use std::{
    collections::HashMap,
    io,
    os::fd::{AsRawFd, RawFd},
    sync::{Arc, Weak},
};

use common::buf::{RegionHandle, RegionLife, regions_freed};
use io_uring::IoUring;

use crate::device::files::OpenFile;

/// Slots for files: more than the table of open files has, so that evicted files still in use fit.
const FILES_MAX: u32 = 512;

/// Slots for regions; as many as there can be operations in flight.
const REGIONS_MAX: u32 = 1024;

/// Memory that may be registered for one disk. It cannot be swapped or freed, and is a part of what `BufPool` keeps.
const REGISTERED_BYTES_MAX: usize = 128 << 20;

/// A larger region would drive out too many others.
const REGION_BYTES_MAX: usize = 16 << 20;

/// Uses after which a region is registered.
const USES_BEFORE: u32 = 4;

/// Regions whose uses are counted at a time, by their id's remainder.
const CANDIDATES: usize = 1024;

/// A slot that was not used for so many operations may go to another region.
const IDLE_OPERATIONS: u64 = 65_536;

/// A slot in the kernel's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot(u32);

impl Slot {
    /// As entries of the ring name a file.
    pub(super) fn file(self) -> RawFd {
        RawFd::try_from(self.0).unwrap_or(RawFd::MAX)
    }

    /// As entries of the ring name a buffer.
    pub(super) fn buffer(self) -> u16 {
        u16::try_from(self.0).unwrap_or(u16::MAX)
    }

    fn index(self) -> usize {
        self.0 as usize
    }
}

/// One slot's content. `T` lives as long as what is registered has users besides the kernel.
#[derive(Debug)]
struct Held<T> {
    key: u64,
    life: Weak<T>,
    bytes: usize,
    in_use: u32,
    last_use: u64,
}

impl<T> Held<T> {
    fn is_dead(&self) -> bool {
        self.in_use == 0 && self.life.strong_count() == 0
    }
}

/// Which key has which slot.
#[derive(Debug)]
struct Table<T> {
    held: Vec<Option<Held<T>>>,
    by_key: HashMap<u64, Slot>,
    free: Vec<Slot>,
    bytes: usize,
    /// Rises with each use.
    clock: u64,
}

impl<T> Table<T> {
    fn new(slots: u32) -> Self {
        Self {
            held: (0..slots).map(|_| None).collect(),
            by_key: HashMap::new(),
            free: (0..slots).rev().map(Slot).collect(),
            bytes: 0,
            clock: 0,
        }
    }

    /// The slot of a key, in use from now on.
    fn take(&mut self, key: u64) -> Option<Slot> {
        self.clock += 1;
        let slot = *self.by_key.get(&key)?;
        let held = self.held[slot.index()].as_mut()?;
        held.in_use += 1;
        held.last_use = self.clock;
        Some(slot)
    }

    /// Ends one use.
    fn give_back(&mut self, slot: Slot) {
        if let Some(held) = &mut self.held[slot.index()] {
            held.in_use = held.in_use.saturating_sub(1);
        }
    }

    fn insert(&mut self, slot: Slot, key: u64, life: Weak<T>, bytes: usize) {
        self.by_key.insert(key, slot);
        self.bytes += bytes;
        self.held[slot.index()] = Some(Held {
            key,
            life,
            bytes,
            in_use: 0,
            last_use: self.clock,
        });
    }

    fn forget(&mut self, slot: Slot) {
        if let Some(held) = self.held[slot.index()].take() {
            self.by_key.remove(&held.key);
            self.bytes -= held.bytes;
            self.free.push(slot);
        }
    }

    fn is_dead(&self, slot: Slot) -> bool {
        self.held[slot.index()].as_ref().is_some_and(Held::is_dead)
    }

    fn dead(&self) -> Vec<Slot> {
        let slots = (0..).map(Slot).take(self.held.len());
        slots.filter(|slot| self.is_dead(*slot)).collect()
    }

    /// The slot nobody uses whose last use is longest ago.
    fn oldest(&self) -> Option<(Slot, u64)> {
        let slots = (0..).map(Slot).zip(&self.held);
        let unused = slots.filter_map(|(slot, held)| {
            let held = held.as_ref().filter(|held| held.in_use == 0)?;
            Some((slot, held.last_use))
        });
        unused.min_by_key(|(_, last_use)| *last_use)
    }
}

/// The tables of one ring.
#[derive(Debug)]
pub(super) struct Registered {
    /// None when the kernel has no such table.
    files: Option<Table<OpenFile>>,
    /// None when the kernel has no such table or allows no more locked memory.
    regions: Option<Table<RegionLife>>,
    candidates: Vec<(u64, u32)>,
    /// `regions_freed` when dead regions were last looked for.
    regions_freed: u64,
    /// Before this tick of the regions' clock no slot can be old enough to go to another region.
    full_until: u64,
}

impl Registered {
    pub(super) fn new(ring: &IoUring) -> Self {
        let files = ring.submitter().register_files_sparse(FILES_MAX).is_ok();
        let regions = ring
            .submitter()
            .register_buffers_sparse(REGIONS_MAX)
            .is_ok();
        Self {
            files: files.then(|| Table::new(FILES_MAX)),
            regions: regions.then(|| Table::new(REGIONS_MAX)),
            candidates: vec![(0, 0); CANDIDATES],
            regions_freed: regions_freed(),
            full_until: 0,
        }
    }

    /// The slot of a file, in use until `done`.
    pub(super) fn take_file(&mut self, ring: &IoUring, file: &Arc<OpenFile>) -> Option<Slot> {
        let key = file.number();
        let table = self.files.as_mut()?;
        if let Some(slot) = table.take(key) {
            return Some(slot);
        }
        let slot = match table.free.last() {
            Some(slot) => *slot,
            None => {
                // The update below replaces what stands there.
                let (slot, _) = table.oldest()?;
                table.forget(slot);
                slot
            }
        };
        let update = ring
            .submitter()
            .register_files_update(slot.0, &[file.as_raw_fd()]);
        if let Err(error) = update {
            tracing::debug!(%error, "the ring does not take a file");
            return None;
        }
        table.free.pop();
        table.insert(slot, key, Arc::downgrade(file), 0);
        table.take(key)
    }

    /// The slot of a region, in use until `done`.
    pub(super) fn take_region(
        &mut self,
        ring: &IoUring,
        region: &RegionHandle<'_>,
    ) -> Option<Slot> {
        let table = self.regions.as_mut()?;
        if let Some(slot) = table.take(region.id) {
            return Some(slot);
        }
        if region.length > REGION_BYTES_MAX {
            return None;
        }
        let remainder = usize::try_from(region.id % CANDIDATES as u64).ok()?;
        let (id, uses) = &mut self.candidates[remainder];
        if *id != region.id {
            (*id, *uses) = (region.id, 0);
        }
        *uses += 1;
        if *uses < USES_BEFORE {
            return None;
        }
        *uses = 0;
        self.make_room(ring, region.length)?;
        self.register_region(ring, region)
    }

    /// Sees to a free slot and to the bytes, unless what would have to go is in use.
    fn make_room(&mut self, ring: &IoUring, bytes: usize) -> Option<()> {
        let table = self.regions.as_ref()?;
        if table.clock < self.full_until {
            return None;
        }
        loop {
            let table = self.regions.as_ref()?;
            if !table.free.is_empty() && table.bytes + bytes <= REGISTERED_BYTES_MAX {
                return Some(());
            }
            let (slot, last_use) = table.oldest()?;
            if last_use + IDLE_OPERATIONS > table.clock {
                self.full_until = last_use + IDLE_OPERATIONS;
                return None;
            }
            self.unregister_region(ring, slot);
        }
    }

    fn register_region(&mut self, ring: &IoUring, region: &RegionHandle<'_>) -> Option<Slot> {
        let table = self.regions.as_mut()?;
        let slot = *table.free.last()?;
        let memory = libc::iovec {
            iov_base: region.start.as_ptr().cast(),
            iov_len: region.length,
        };
        if let Err(error) = update_buffer(ring, slot, memory) {
            // Usually a limit on locked memory; it does not go away by trying again.
            tracing::debug!(%error, "the ring takes no more buffers");
            self.full_until = u64::MAX;
            return None;
        }
        table.free.pop();
        table.insert(slot, region.id, Arc::downgrade(region.life), region.length);
        table.take(region.id)
    }

    fn unregister_region(&mut self, ring: &IoUring, slot: Slot) {
        let nothing = libc::iovec {
            iov_base: std::ptr::null_mut(),
            iov_len: 0,
        };
        if let Err(error) = update_buffer(ring, slot, nothing) {
            tracing::warn!(%error, "cannot unregister a buffer, its memory stays locked");
        }
        if let Some(table) = &mut self.regions {
            table.forget(slot);
        }
    }

    fn unregister_file(&mut self, ring: &IoUring, slot: Slot) {
        if let Err(error) = ring.submitter().register_files_update(slot.0, &[-1]) {
            tracing::warn!(%error, "cannot unregister a file, its space stays in use");
        }
        if let Some(table) = &mut self.files {
            table.forget(slot);
        }
    }

    /// Ends the uses of an operation that is over. The last use of a file closed meanwhile ends its registration.
    pub(super) fn done(&mut self, ring: &IoUring, file: Option<Slot>, region: Option<Slot>) {
        if let (Some(slot), Some(table)) = (region, &mut self.regions) {
            table.give_back(slot);
        }
        if let (Some(slot), Some(table)) = (file, &mut self.files) {
            table.give_back(slot);
            if table.is_dead(slot) {
                self.unregister_file(ring, slot);
            }
        }
    }

    /// Unregisters files that nobody has open any more: a registration would keep the space of a removed one.
    pub(super) fn release_files(&mut self, ring: &IoUring) {
        let dead = self.files.as_ref().map(Table::dead).unwrap_or_default();
        for slot in dead {
            self.unregister_file(ring, slot);
        }
    }

    /// Unregisters regions that were freed, if any were.
    pub(super) fn release_regions(&mut self, ring: &IoUring) {
        let freed = regions_freed();
        if freed == self.regions_freed {
            return;
        }
        self.regions_freed = freed;
        let dead = self.regions.as_ref().map(Table::dead).unwrap_or_default();
        for slot in dead {
            self.unregister_region(ring, slot);
            self.full_until = 0;
        }
    }
}

fn update_buffer(ring: &IoUring, slot: Slot, memory: libc::iovec) -> io::Result<()> {
    // SAFETY: the memory is a live region (or nothing). The kernel holds the pages themselves until they are
    // unregistered, and only entries that name this slot, whose operations own the region, make it write to them.
    unsafe {
        ring.submitter()
            .register_buffers_update(slot.0, &[memory], None)
    }
}

#[cfg(test)]
mod tests {
    use common::buf::BufPool;

    use super::*;

    fn ring() -> (IoUring, Registered) {
        let ring = IoUring::new(8).unwrap();
        let registered = Registered::new(&ring);
        assert!(registered.files.is_some() && registered.regions.is_some());
        (ring, registered)
    }

    #[test]
    fn a_file_is_let_go_of_after_its_last_use() {
        let (ring, mut registered) = ring();
        let file = Arc::new(OpenFile::new(tempfile::tempfile().unwrap()));
        let slot = registered.take_file(&ring, &file);
        assert!(slot.is_some());
        assert_eq!(registered.take_file(&ring, &file), slot);
        drop(file);
        registered.done(&ring, slot, None);
        registered.release_files(&ring);
        assert_eq!(registered.files.as_ref().unwrap().by_key.len(), 1);
        registered.done(&ring, slot, None);
        assert!(registered.files.as_ref().unwrap().by_key.is_empty());
    }

    #[test]
    fn more_files_than_slots_take_turns_but_not_from_one_in_use() {
        let (ring, mut registered) = ring();
        let file = || Arc::new(OpenFile::new(tempfile::tempfile().unwrap()));
        let used = file();
        let slot = registered.take_file(&ring, &used);
        for _ in 0..FILES_MAX + 10 {
            let other = file();
            let taken = registered.take_file(&ring, &other);
            assert!(taken.is_some() && taken != slot);
            // Closed while registered, as after an eviction that no release follows.
            registered.files.as_mut().unwrap().give_back(taken.unwrap());
        }
        assert_eq!(registered.take_file(&ring, &used), slot);
    }

    #[test]
    fn a_region_is_registered_when_it_comes_back_and_until_it_is_freed() {
        let (ring, mut registered) = ring();
        let pool = BufPool::new(0);
        let buf = pool.allocate(8192);
        for _ in 1..USES_BEFORE {
            assert_eq!(registered.take_region(&ring, &buf.region()), None);
        }
        let slot = registered.take_region(&ring, &buf.region());
        assert!(slot.is_some());
        assert_eq!(registered.regions.as_ref().unwrap().bytes, 8192);
        drop(buf);
        registered.release_regions(&ring);
        assert_eq!(registered.regions.as_ref().unwrap().bytes, 8192);
        registered.done(&ring, None, slot);
        drop(pool.allocate(4096));
        registered.release_regions(&ring);
        assert_eq!(registered.regions.as_ref().unwrap().bytes, 0);
    }

    #[test]
    fn regions_in_steady_use_keep_their_slots() {
        let (ring, mut registered) = ring();
        let pool = BufPool::new(0);
        let regions: Vec<_> = (0..9).map(|_| pool.allocate(REGION_BYTES_MAX)).collect();
        let mut take = |index: usize| {
            let mut slot = None;
            for _ in 0..USES_BEFORE {
                slot = registered.take_region(&ring, &regions[index].region());
                registered.done(&ring, None, slot);
            }
            slot
        };
        let slots: Vec<_> = (0..8).map(&mut take).collect();
        assert!(slots.iter().all(Option::is_some));
        assert_eq!(take(8), None);
        assert_eq!(take(0), slots[0]);
        for _ in 0..IDLE_OPERATIONS / u64::from(USES_BEFORE) + 1 {
            take(0);
        }
        assert!(take(8).is_some());
        assert_eq!(take(0), slots[0]);
    }
}
