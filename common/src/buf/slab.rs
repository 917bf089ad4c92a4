//! Where buffers are cut from: slabs of equal pieces, from huge pages where that is possible.
//!
//! A device moves 1 MiB in one request only when its pages lie side by side: a request has few segments (virtio: 254),
//! and 1 MiB of scattered pages has 256. A slab is also what a transport or a ring registers, so that one
//! registration serves many small buffers.
//!
//! A slab of which all is free is idle; of idle slabs a pool keeps so many bytes, those that were used last. The oldest slab
//! with a free piece is used first: after a burst the others become idle.

use std::{
    alloc::{Layout, alloc, dealloc, handle_alloc_error},
    collections::BTreeMap,
    ptr::NonNull,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use rustix::mm::{Advice, madvise};

use super::{BUF_ALIGN, RegionHandle, RegionLife};

/// The huge page of x86-64 and of aarch64 with pages of 4 KiB.
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// A slab of small pieces has so many.
const PIECES: usize = 16;

static NEXT_SLAB: AtomicU64 = AtomicU64::new(1);

/// One allocation. Transports register it by `id` once and keep it registered while it lives.
pub(super) struct Slab {
    id: u64,
    start: NonNull<u8>,
    layout: Layout,
    piece_bytes: usize,
    life: Arc<RegionLife>,
}

// SAFETY: the memory is plain bytes; who may touch which part is settled by the views of its pieces.
unsafe impl Send for Slab {}
// SAFETY: as for Send.
unsafe impl Sync for Slab {}

impl Slab {
    /// Zeroed memory for pieces of this size, a power of two that is at least `BUF_ALIGN`.
    fn allocate(bytes: usize, piece_bytes: usize) -> Self {
        let huge = bytes >= HUGE_PAGE_BYTES;
        let align = if huge { HUGE_PAGE_BYTES } else { BUF_ALIGN };
        let layout = Layout::from_size_align(bytes, align)
            .expect("sizes of buffers are far below isize::MAX");
        // SAFETY: the layout has a size above zero: pieces have at least BUF_ALIGN bytes.
        let start = unsafe { alloc(layout) };
        let Some(start) = NonNull::new(start) else {
            handle_alloc_error(layout)
        };
        if huge {
            // SAFETY: the range is memory that was just allocated, and advice changes no content.
            let advised = unsafe { madvise(start.as_ptr().cast(), bytes, Advice::LinuxHugepage) };
            if let Err(error) = advised {
                // A kernel without huge pages: only slower.
                tracing::debug!(%error, "no huge pages for buffers");
            }
        }
        // SAFETY: the allocation has this many bytes. The first touch, after the advice.
        unsafe { start.as_ptr().write_bytes(0, bytes) };
        Self {
            id: NEXT_SLAB.fetch_add(1, Ordering::Relaxed),
            start,
            layout,
            piece_bytes,
            life: Arc::new(RegionLife(())),
        }
    }

    fn bytes(&self) -> usize {
        self.layout.size()
    }

    fn pieces(&self) -> usize {
        self.bytes() / self.piece_bytes
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }

    pub(super) fn handle(&self) -> RegionHandle<'_> {
        RegionHandle {
            id: self.id,
            start: self.start,
            length: self.bytes(),
            life: &self.life,
        }
    }

    /// The memory `offset` bytes from the start.
    pub(super) fn at(&self, offset: usize) -> NonNull<u8> {
        debug_assert!(offset <= self.bytes(), "outside of the slab");
        // SAFETY: callers stay inside their piece, so inside the allocation.
        unsafe { self.start.add(offset) }
    }
}

impl Drop for Slab {
    fn drop(&mut self) {
        // SAFETY: allocated in `allocate` with this layout and freed only here.
        unsafe { dealloc(self.start.as_ptr(), self.layout) };
    }
}

/// A part of a slab that has one user.
pub(super) struct Piece {
    pub(super) slab: Arc<Slab>,
    /// Where it starts in the slab.
    pub(super) offset: usize,
}

/// The free pieces of a slab that has some.
struct FreeSlab {
    slab: Arc<Slab>,
    offsets: Vec<usize>,
    /// When it became idle, in turns, if all of it is free.
    idle_since: Option<u64>,
}

/// The size of pieces and the id of the slab.
type Key = (usize, u64);

/// The free pieces of a pool.
#[derive(Default)]
pub(super) struct FreePieces {
    slabs: BTreeMap<Key, FreeSlab>,
    /// Slabs of which all is free, the longest unused first.
    idle: BTreeMap<u64, Key>,
    pub(super) idle_bytes: usize,
    /// Rises each time that a slab becomes idle.
    turn: u64,
}

impl FreePieces {
    pub(super) fn take(&mut self, piece_bytes: usize) -> Option<Piece> {
        let range = (piece_bytes, 0)..=(piece_bytes, u64::MAX);
        let (&key, free) = self.slabs.range_mut(range).next()?;
        if let Some(turn) = free.idle_since.take() {
            self.idle.remove(&turn);
            self.idle_bytes -= free.slab.bytes();
        }
        let piece = Piece {
            offset: free.offsets.pop()?,
            slab: free.slab.clone(),
        };
        if free.offsets.is_empty() {
            self.slabs.remove(&key);
        }
        Some(piece)
    }

    pub(super) fn give_back(&mut self, piece: Piece) {
        let Piece { slab, offset } = piece;
        let key = (slab.piece_bytes, slab.id);
        let free = self.slabs.entry(key).or_insert_with(|| FreeSlab {
            slab,
            offsets: Vec::new(),
            idle_since: None,
        });
        free.offsets.push(offset);
        if free.offsets.len() == free.slab.pieces() {
            self.turn += 1;
            free.idle_since = Some(self.turn);
            self.idle.insert(self.turn, key);
            self.idle_bytes += free.slab.bytes();
        }
    }

    /// Takes out idle slabs, of whatever size, that are more than the pool may keep. They are to be freed outside of any lock.
    pub(super) fn take_surplus(&mut self, idle_bytes_max: usize) -> Vec<Arc<Slab>> {
        let mut surplus = Vec::new();
        while self.idle_bytes > idle_bytes_max
            && let Some((_, key)) = self.idle.pop_first()
            && let Some(FreeSlab { slab, .. }) = self.slabs.remove(&key)
        {
            self.idle_bytes -= slab.bytes();
            surplus.push(slab);
        }
        surplus
    }
}

/// A new slab, as large as is useful and as may be kept: its first piece, and the others.
pub(super) fn cut(piece_bytes: usize, idle_bytes_max: usize) -> (Piece, Vec<Piece>) {
    let bytes = (piece_bytes * PIECES).min(HUGE_PAGE_BYTES).max(piece_bytes);
    let bytes = if bytes <= idle_bytes_max {
        bytes
    } else {
        piece_bytes
    };
    let slab = Arc::new(Slab::allocate(bytes, piece_bytes));
    let rest = (1..slab.pieces()).map(|index| Piece {
        slab: slab.clone(),
        offset: index * piece_bytes,
    });
    let rest = rest.collect();
    (Piece { slab, offset: 0 }, rest)
}
