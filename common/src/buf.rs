//! Memory for bulk data: page-aligned (O_DIRECT and RDMA want that), pooled, never copied on its way.
//!
//! A `RegisteredBuf` is the only owner of its bytes and may be written; `freeze` turns it into a
//! `SharedBuf` that many may read. Both are views of a `Region`, the unit a transport registers. The
//! uniqueness of `RegisteredBuf` is what makes this sound: two of them never overlap, because the only
//! ways to make one are a fresh region and `split_to`.
//!
//! Recycled regions keep their old bytes. Whoever fills a buffer partly must `truncate` it.

use std::{
    alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error},
    collections::BTreeMap,
    fmt,
    ops::{Deref, DerefMut, Range},
    ptr::NonNull,
    slice,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::sync::Mutex;

/// Alignment of every region, and the unit sizes are rounded up to.
pub const BUF_ALIGN: usize = 4096;

static NEXT_REGION: AtomicU64 = AtomicU64::new(1);

static REGIONS_FREED: AtomicU64 = AtomicU64::new(0);

/// Regions freed so far. Whoever keeps regions registered looks for dead ones when this has changed.
pub fn regions_freed() -> u64 {
    REGIONS_FREED.load(Ordering::Acquire)
}

/// Lives as long as a region's memory. A `Weak` of it tells who has the region registered that it is gone.
#[derive(Debug)]
pub struct RegionLife(());

impl Drop for RegionLife {
    fn drop(&mut self) {
        // Every `Weak` is dead by now: who sees the count change finds the region.
        REGIONS_FREED.fetch_add(1, Ordering::Release);
    }
}

/// What registering a region needs.
#[derive(Debug)]
pub struct RegionHandle<'a> {
    /// Never used for other memory.
    pub id: u64,
    /// Where the region's memory starts.
    pub start: NonNull<u8>,
    /// Its size in bytes.
    pub length: usize,
    /// Stays also while the memory rests in its pool.
    pub life: &'a Arc<RegionLife>,
}

/// One allocation. Transports register regions by `id` once and keep them registered while they live.
struct Memory {
    id: u64,
    start: NonNull<u8>,
    layout: Layout,
    life: Arc<RegionLife>,
}

// SAFETY: the memory is plain bytes; who may touch which part is settled by the views above it.
unsafe impl Send for Memory {}
// SAFETY: as for Send.
unsafe impl Sync for Memory {}

impl Memory {
    fn allocate(capacity: usize) -> Self {
        let layout = Layout::from_size_align(capacity, BUF_ALIGN)
            .expect("capacities are far below isize::MAX");
        // SAFETY: the layout has a size above zero: capacities are rounded up to BUF_ALIGN.
        let start = unsafe { alloc_zeroed(layout) };
        let Some(start) = NonNull::new(start) else {
            handle_alloc_error(layout)
        };
        Self {
            id: NEXT_REGION.fetch_add(1, Ordering::Relaxed),
            start,
            layout,
            life: Arc::new(RegionLife(())),
        }
    }

    fn handle(&self) -> RegionHandle<'_> {
        RegionHandle {
            id: self.id,
            start: self.start,
            length: self.layout.size(),
            life: &self.life,
        }
    }

    fn capacity(&self) -> usize {
        self.layout.size()
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated in `allocate` with this layout and freed only here.
        unsafe { dealloc(self.start.as_ptr(), self.layout) };
    }
}

/// What views hold on to; gives the memory back to its pool when the last view is gone.
struct Region {
    memory: Option<Memory>,
    pool: Weak<PoolShared>,
}

impl Region {
    fn memory(&self) -> &Memory {
        self.memory.as_ref().expect("taken only in drop")
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        if let (Some(memory), Some(pool)) = (self.memory.take(), self.pool.upgrade()) {
            pool.give_back(memory);
        }
    }
}

struct PoolShared {
    free: Mutex<FreeLists>,
    free_bytes_max: usize,
}

#[derive(Default)]
struct FreeLists {
    by_capacity: BTreeMap<usize, Vec<Memory>>,
    bytes: usize,
}

impl PoolShared {
    fn give_back(&self, memory: Memory) {
        let mut free = self.free.lock();
        if free.bytes + memory.capacity() <= self.free_bytes_max {
            free.bytes += memory.capacity();
            free.by_capacity
                .entry(memory.capacity())
                .or_default()
                .push(memory);
        }
    }
}

/// Where buffers come from and go back to.
#[derive(Clone)]
pub struct BufPool(Arc<PoolShared>);

impl fmt::Debug for BufPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BufPool")
            .field("free_bytes", &self.0.free.lock().bytes)
            .finish()
    }
}

impl BufPool {
    /// A pool that keeps at most `free_bytes_max` bytes of unused memory for the next user.
    pub fn new(free_bytes_max: usize) -> Self {
        Self(Arc::new(PoolShared {
            free: Mutex::default(),
            free_bytes_max,
        }))
    }

    /// A buffer of `length` bytes with undefined (but initialized) content. The region behind it is the next power of
    /// two.
    pub fn allocate(&self, length: usize) -> RegisteredBuf {
        let capacity = length.max(BUF_ALIGN).next_power_of_two();
        let recycled = {
            let mut free = self.0.free.lock();
            let memory = free.by_capacity.get_mut(&capacity).and_then(Vec::pop);
            if memory.is_some() {
                free.bytes -= capacity;
            }
            memory
        };
        let memory = recycled.unwrap_or_else(|| Memory::allocate(capacity));
        let region = Region {
            memory: Some(memory),
            pool: Arc::downgrade(&self.0),
        };
        RegisteredBuf {
            region: Arc::new(region),
            offset: 0,
            length,
        }
    }

    /// A buffer of `length` zero bytes.
    pub fn allocate_zeroed(&self, length: usize) -> RegisteredBuf {
        let mut buf = self.allocate(length);
        buf.fill(0);
        buf
    }

    /// A buffer with a copy of `bytes`.
    pub fn copy_from(&self, bytes: &[u8]) -> RegisteredBuf {
        let mut buf = self.allocate(bytes.len());
        buf.copy_from_slice(bytes);
        buf
    }
}

/// Writable bytes with one owner. See the module's text for why it is sound.
pub struct RegisteredBuf {
    region: Arc<Region>,
    offset: usize,
    length: usize,
}

impl RegisteredBuf {
    /// The region's id, the key of its registration with a transport.
    pub fn region_id(&self) -> u64 {
        self.region.memory().id
    }

    /// The whole region, for its registration.
    pub fn region(&self) -> RegionHandle<'_> {
        self.region.memory().handle()
    }

    /// Where this view starts in its region.
    pub fn region_offset(&self) -> usize {
        self.offset
    }

    /// Takes the first `at` bytes off into a buffer of their own; `self` keeps the rest.
    ///
    /// # Panics
    /// When `at` lies beyond the end.
    #[must_use]
    pub fn split_to(&mut self, at: usize) -> RegisteredBuf {
        assert!(at <= self.length, "split at {at} of {}", self.length);
        let head = RegisteredBuf {
            region: self.region.clone(),
            offset: self.offset,
            length: at,
        };
        self.offset += at;
        self.length -= at;
        head
    }

    /// Joins two neighbours again.
    ///
    /// # Errors
    /// Gives `next` back when it does not directly follow `self` in the same region.
    pub fn unsplit(&mut self, next: RegisteredBuf) -> Result<(), RegisteredBuf> {
        if Arc::ptr_eq(&self.region, &next.region) && self.offset + self.length == next.offset {
            self.length += next.length;
            Ok(())
        } else {
            Err(next)
        }
    }

    /// Forgets the bytes from `length` on.
    pub fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
    }

    /// Ends writing: from now on many may read.
    pub fn freeze(self) -> SharedBuf {
        SharedBuf {
            region: self.region,
            offset: self.offset,
            length: self.length,
        }
    }
}

impl Deref for RegisteredBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the view lies inside the region, all of which was initialized, and no other view overlaps it.
        unsafe {
            slice::from_raw_parts(
                self.region.memory().start.as_ptr().add(self.offset),
                self.length,
            )
        }
    }
}

impl DerefMut for RegisteredBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for deref; `&mut self` and the uniqueness of views make the access exclusive.
        unsafe {
            slice::from_raw_parts_mut(
                self.region.memory().start.as_ptr().add(self.offset),
                self.length,
            )
        }
    }
}

impl fmt::Debug for RegisteredBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RegisteredBuf({} bytes)", self.length)
    }
}

/// Bytes that many may read, none may write.
#[derive(Clone)]
pub struct SharedBuf {
    region: Arc<Region>,
    offset: usize,
    length: usize,
}

impl SharedBuf {
    /// The region's id, the key of its registration with a transport.
    pub fn region_id(&self) -> u64 {
        self.region.memory().id
    }

    /// The whole region, for its registration.
    pub fn region(&self) -> RegionHandle<'_> {
        self.region.memory().handle()
    }

    /// Where this view starts in its region.
    pub fn region_offset(&self) -> usize {
        self.offset
    }

    /// A view of a part.
    ///
    /// # Panics
    /// When `range` leaves the buffer.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> SharedBuf {
        assert!(
            range.start <= range.end && range.end <= self.length,
            "slice {range:?} of {}",
            self.length
        );
        SharedBuf {
            region: self.region.clone(),
            offset: self.offset + range.start,
            length: range.end - range.start,
        }
    }
}

impl Deref for SharedBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the view lies inside the region and was frozen: nobody writes to it any more.
        unsafe {
            slice::from_raw_parts(
                self.region.memory().start.as_ptr().add(self.offset),
                self.length,
            )
        }
    }
}

impl AsRef<[u8]> for SharedBuf {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for SharedBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SharedBuf({} bytes)", self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_aligned_and_recycled() {
        let pool = BufPool::new(1 << 20);
        let buf = pool.allocate(5000);
        let id = buf.region_id();
        assert_eq!((buf.len(), buf.as_ptr() as usize % BUF_ALIGN), (5000, 0));
        drop(buf);
        assert_eq!(pool.allocate(8000).region_id(), id);
    }

    #[test]
    fn unused_memory_is_bounded() {
        let pool = BufPool::new(8192);
        drop((pool.allocate(8192), pool.allocate(8192)));
        assert_eq!(pool.0.free.lock().bytes, 8192);
    }

    #[test]
    fn halves_are_written_apart_and_joined() {
        let pool = BufPool::new(0);
        let mut tail = pool.allocate_zeroed(10);
        let mut head = tail.split_to(4);
        head.fill(1);
        tail.fill(2);
        let stranger = pool.allocate(4);
        assert!(head.unsplit(stranger).is_err());
        assert!(head.unsplit(tail).is_ok());
        assert_eq!(&head[..], [1, 1, 1, 1, 2, 2, 2, 2, 2, 2]);
        let shared = head.freeze();
        assert_eq!(&shared.slice(3..5)[..], [1, 2]);
    }

    #[test]
    fn memory_outlives_its_pool() {
        let pool = BufPool::new(1 << 20);
        let shared = pool.copy_from(b"abc").freeze();
        drop(pool);
        assert_eq!(&shared[..], b"abc");
    }
}
