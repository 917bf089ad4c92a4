//! The loads on a chain: reads and writes of one file through the client library.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use client::StorageClient;
use common::buf::{BufPool, RegisteredBuf};
use measure::{
    Failure, LARGE_BYTES,
    load::{Payloads, Random, Work},
};
use types::{id::InodeId, layout::Layout};

/// A file without a name: storage knows inodes by their numbers only.
const INODE: InodeId = InodeId(1);

/// The file that is read and written.
#[derive(Clone, Debug)]
pub(crate) struct File {
    pub(crate) storage: StorageClient,
    pub(crate) layout: Layout,
    /// Of `LARGE_BYTES` each.
    pub(crate) chunks: u32,
}

impl File {
    /// A place for `length` bytes, aligned to `length`.
    fn random_offset(&self, length: u32, random: &mut Random) -> u64 {
        let chunk = random.below(self.chunks);
        let inside = random.below(LARGE_BYTES / length) * length;
        u64::from(chunk) * u64::from(LARGE_BYTES) + u64::from(inside)
    }
}

/// Reads at random places.
pub(crate) struct Reader {
    file: File,
    /// As an application has its own; lost only with a read that fails.
    buf: Option<RegisteredBuf>,
    length: u32,
    random: Random,
}

impl Reader {
    pub(crate) fn new(file: &File, buffers: &BufPool, length: u32, random: Random) -> Self {
        Self {
            file: file.clone(),
            buf: Some(buffers.allocate(length as usize)),
            length,
            random,
        }
    }
}

impl Work for Reader {
    async fn step(&mut self) -> Result<bool, Failure> {
        let offset = self.file.random_offset(self.length, &mut self.random);
        let buf = self.buf.take().ok_or("an earlier read failed")?;
        let File {
            storage, layout, ..
        } = &self.file;
        let (result, buf) = storage.read(INODE, layout, offset, buf).await;
        result?;
        self.buf = Some(buf);
        Ok(true)
    }
}

/// Where writes go.
#[derive(Clone, Debug)]
pub(crate) enum Order {
    /// To one place after the other, from a counter that all tasks share; the end is followed by the start.
    Forward {
        next: Arc<AtomicU32>,
        /// Writes in all.
        end: u32,
    },
    Random,
}

/// Writes; each is durable on all replicas when it is done.
pub(crate) struct Writer {
    pub(crate) file: File,
    pub(crate) payloads: Payloads,
    pub(crate) length: u32,
    pub(crate) order: Order,
    pub(crate) random: Random,
}

impl Work for Writer {
    async fn step(&mut self) -> Result<bool, Failure> {
        let offset = match &self.order {
            Order::Random => self.file.random_offset(self.length, &mut self.random),
            Order::Forward { next, end } => {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= *end {
                    return Ok(false);
                }
                u64::from(number % self.file.chunks) * u64::from(LARGE_BYTES)
            }
        };
        let (payload, _checksum) = self.payloads.choose(self.length, &mut self.random);
        let File {
            storage, layout, ..
        } = &self.file;
        storage.write(INODE, layout, offset, payload).await?;
        Ok(true)
    }
}
