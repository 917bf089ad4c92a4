//! The files of one disk, slots and log, behind one trait.
//!
//! `uring` and `direct` are real, `mem` models what a loss of power leaves, `faulty` makes any of them fail.
//! All of them pass `conformance`.
//!
//! Contract: offsets, lengths and memory are multiples of `DEVICE_BLOCK_BYTES`. A write is durable once a `sync`
//! of its file, started after the write ended, has ended well. A file is durable once `create` returned.
//! An operation owns its buffer to its end, also when its future is dropped.

pub mod direct;
pub mod faulty;
pub(crate) mod files;
pub mod mem;
pub mod uring;
pub mod watched;

#[cfg(test)]
mod conformance;

use std::{fmt, fmt::Debug, io, path::Path, sync::Arc};

use async_trait::async_trait;
use common::{
    buf::{RegisteredBuf, SharedBuf},
    env::Env,
};

use crate::{
    config::{DeviceKind, EngineConfig},
    device::{direct::DirectDevice, files::Files, uring::UringDevice},
    group::{DEVICE_BLOCK_BYTES, GroupId},
};

/// One file of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FileId {
    /// Slots of chunks.
    Group(GroupId),
    /// A segment of the log.
    Log(u32),
}

impl From<GroupId> for FileId {
    fn from(group: GroupId) -> Self {
        Self::Group(group)
    }
}

impl fmt::Display for FileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Group(group) => write!(f, "group {group}"),
            Self::Log(number) => write!(f, "log {number:08}"),
        }
    }
}

/// The files of one disk.
#[async_trait]
pub trait Device: Debug + Send + Sync + 'static {
    /// All files, in order, with the bytes they reach.
    async fn list(&self) -> io::Result<Vec<(FileId, u64)>>;

    /// Makes an empty file, durably.
    async fn create(&self, id: FileId) -> io::Result<()>;

    /// Sees to it that the first `bytes` of a file are there and have space on the disk. New bytes have any value.
    /// Durable with the next `sync`.
    async fn reserve(&self, id: FileId, bytes: u64) -> io::Result<()>;

    /// Gives a file's space back.
    async fn remove(&self, id: FileId) -> io::Result<()>;

    /// Fills `buf` from `offset` on.
    async fn read(&self, id: FileId, offset: u64, buf: RegisteredBuf) -> io::Result<RegisteredBuf>;

    /// Writes all of `data` at `offset`, which must have been reserved.
    async fn write(&self, id: FileId, offset: u64, data: SharedBuf) -> io::Result<()>;

    /// Writes all of `data` at `offset`, where bytes were written before; it is durable on return.
    async fn write_durably(&self, id: FileId, offset: u64, data: SharedBuf) -> io::Result<()> {
        self.write(id, offset, data).await?;
        self.sync(id).await
    }

    /// Makes every write that has ended durable.
    async fn sync(&self, id: FileId) -> io::Result<()>;

    /// Bytes that the file system still has for anyone.
    async fn available_bytes(&self) -> io::Result<u64>;

    /// Ends what is under way and stops. Later operations fail.
    async fn close(&self);
}

/// Opens the real device over the files of the disk in `dir`.
pub(crate) async fn open(
    env: &Env,
    dir: &Path,
    config: &EngineConfig,
) -> io::Result<Arc<dyn Device>> {
    let depth = config.queue_depth.clamp(1, uring::DEPTH_MAX);
    let files = {
        let dir = dir.to_owned();
        env.blocking(move || Files::open(&dir)).await?
    };
    let files = Arc::new(files);
    if config.device == DeviceKind::Uring {
        match UringDevice::new(env, files.clone(), depth) {
            Ok(device) => return Ok(Arc::new(device)),
            Err(error) => {
                tracing::warn!(%error, dir = %dir.display(), "no io_uring here, threads do the I/O");
            }
        }
    }
    Ok(Arc::new(DirectDevice::new(env, files, depth)))
}

/// Refuses what the contract forbids, so that all devices agree on it.
fn check_alignment(offset: u64, memory: &[u8]) -> io::Result<()> {
    let unit = DEVICE_BLOCK_BYTES as usize;
    let aligned = offset.is_multiple_of(u64::from(DEVICE_BLOCK_BYTES))
        && memory.len().is_multiple_of(unit)
        && memory.as_ptr().addr().is_multiple_of(unit)
        && !memory.is_empty();
    if aligned {
        Ok(())
    } else {
        Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("I/O at {offset} of {} bytes is not aligned", memory.len()),
        ))
    }
}

fn closed() -> io::Error {
    io::Error::other("the device is closed")
}
