//! Memory for bulk data: page-aligned (O_DIRECT and RDMA want that), pooled, never copied on its way.
//!
//! A `RegisteredBuf` is the only owner of its bytes and may be written; `freeze` turns it into a
//! `SharedBuf` that many may read. Both are views of a piece of a slab (`slab`), and slabs are the regions that a
//! transport registers. The uniqueness of `RegisteredBuf` is what makes this sound: two of them never overlap, because
//! the only ways to make one are a piece that has no other user and `split_to`.
//!
//! Recycled pieces keep their old bytes. Whoever fills a buffer partly must `truncate` it.

mod slab;

use std::{
    fmt,
    ops::{Deref, DerefMut, Range},
    ptr::NonNull,
    slice,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use self::slab::{FreePieces, Piece};
use crate::sync::Mutex;

/// Alignment of every buffer, and the unit sizes are rounded up to.
pub const BUF_ALIGN: usize = 4096;

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

/// What views hold on to; gives the memory back to its pool when the last view is gone.
struct Region {
    piece: Option<Piece>,
    pool: Weak<PoolShared>,
}

impl Region {
    fn piece(&self) -> &Piece {
        self.piece.as_ref().expect("taken only in drop")
    }

    fn start(&self, offset: usize) -> NonNull<u8> {
        let piece = self.piece();
        piece.slab.at(piece.offset + offset)
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        if let (Some(piece), Some(pool)) = (self.piece.take(), self.pool.upgrade()) {
            let surplus = {
                let mut free = pool.free.lock();
                free.give_back(piece);
                free.take_surplus(pool.idle_bytes_max)
            };
            drop(surplus);
        }
    }
}

struct PoolShared {
    free: Mutex<FreePieces>,
    idle_bytes_max: usize,
}

/// Where buffers come from and go back to.
#[derive(Clone)]
pub struct BufPool(Arc<PoolShared>);

impl fmt::Debug for BufPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BufPool")
            .field("idle_bytes", &self.0.free.lock().idle_bytes)
            .finish()
    }
}

impl BufPool {
    /// A pool that keeps at most `idle_bytes_max` bytes of memory that nobody uses for the next user. Memory that is cut
    /// into small buffers stays as long as one of them is in use: at most 16 times what those have.
    pub fn new(idle_bytes_max: usize) -> Self {
        Self(Arc::new(PoolShared {
            free: Mutex::default(),
            idle_bytes_max,
        }))
    }

    /// A buffer of `length` bytes with undefined (but initialized) content. The memory behind it is the next power of
    /// two.
    pub fn allocate(&self, length: usize) -> RegisteredBuf {
        let capacity = length.max(BUF_ALIGN).next_power_of_two();
        let recycled = self.0.free.lock().take(capacity);
        let region = Region {
            piece: Some(recycled.unwrap_or_else(|| self.cut(capacity))),
            pool: Arc::downgrade(&self.0),
        };
        RegisteredBuf {
            region: Arc::new(region),
            offset: 0,
            length,
        }
    }

    /// A piece of a new slab; the others are free.
    fn cut(&self, capacity: usize) -> Piece {
        let (first, rest) = slab::cut(capacity, self.0.idle_bytes_max);
        let mut free = self.0.free.lock();
        for piece in rest {
            free.give_back(piece);
        }
        first
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
        self.region.piece().slab.id()
    }

    /// The whole region, for its registration.
    pub fn region(&self) -> RegionHandle<'_> {
        self.region.piece().slab.handle()
    }

    /// Where this view starts in its region.
    pub fn region_offset(&self) -> usize {
        self.region.piece().offset + self.offset
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
        unsafe { slice::from_raw_parts(self.region.start(self.offset).as_ptr(), self.length) }
    }
}

impl DerefMut for RegisteredBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for deref; `&mut self` and the uniqueness of views make the access exclusive.
        unsafe { slice::from_raw_parts_mut(self.region.start(self.offset).as_ptr(), self.length) }
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
        self.region.piece().slab.id()
    }

    /// The whole region, for its registration.
    pub fn region(&self) -> RegionHandle<'_> {
        self.region.piece().slab.handle()
    }

    /// Where this view starts in its region.
    pub fn region_offset(&self) -> usize {
        self.region.piece().offset + self.offset
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
        unsafe { slice::from_raw_parts(self.region.start(self.offset).as_ptr(), self.length) }
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
        let (region, start) = (buf.region_id(), buf.as_ptr());
        assert_eq!((buf.len(), start as usize % BUF_ALIGN), (5000, 0));
        drop(buf);
        let again = pool.allocate(8000);
        assert_eq!((again.region_id(), again.as_ptr()), (region, start));
        assert_eq!(
            again.region_offset() + again.region().start.as_ptr() as usize,
            start as usize
        );
    }

    /// Buffers of one slab are apart from each other.
    #[test]
    fn pieces_of_a_slab_do_not_overlap() {
        let pool = BufPool::new(64 << 20);
        for length in [1, 4096, 65536, 1 << 20, 3 << 20] {
            let mut bufs: Vec<_> = (0..40).map(|_| pool.allocate(length)).collect();
            for (value, buf) in (0..).zip(&mut bufs) {
                buf.fill(value);
            }
            for (value, buf) in (0..).zip(&bufs) {
                assert!(buf.iter().all(|&byte| byte == value), "{length}");
            }
        }
    }

    #[test]
    fn a_large_slab_is_aligned_to_huge_pages() {
        let pool = BufPool::new(8 << 20);
        let (first, second) = (pool.allocate(1 << 20), pool.allocate(1 << 20));
        assert_eq!(first.region_id(), second.region_id());
        assert_eq!(first.region().start.as_ptr() as usize % (2 << 20), 0);
        assert_eq!(first.region().length, 2 << 20);
    }

    #[test]
    fn unused_memory_is_bounded() {
        let pool = BufPool::new(8192);
        drop((pool.allocate(8192), pool.allocate(8192)));
        assert_eq!(pool.0.free.lock().idle_bytes, 8192);
        let pool = BufPool::new(1 << 20);
        for length in [4096, 65536, 1 << 20] {
            let freed = regions_freed();
            let bufs: Vec<_> = (0..100).map(|_| pool.allocate(length)).collect();
            drop(bufs);
            assert!(pool.0.free.lock().idle_bytes <= 1 << 20, "{length}");
            assert!(length == 4096 || regions_freed() > freed, "{length}");
        }
    }

    /// Neither idle memory of another size nor slabs of which a little is in use keep a size from being recycled.
    #[test]
    fn a_size_is_recycled_whatever_was_there_before() {
        for kept in [0, 1] {
            let pool = BufPool::new(4 << 20);
            let burst: Vec<_> = (0..16 * 200).map(|_| pool.allocate(4096)).collect();
            let burst = burst.into_iter().enumerate();
            let stay: Vec<_> = burst.filter(|(at, _)| at % 16 < kept).collect();
            let regions: std::collections::BTreeSet<u64> = (0..100)
                .map(|_| pool.allocate(1 << 20).region_id())
                .collect();
            assert_eq!(regions.len(), 1, "with {} in use", stay.len());
            assert!(pool.0.free.lock().idle_bytes <= 4 << 20);
        }
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
