//! The files that hold the slots of one disk, behind one trait.
//!
//! `uring` and `direct` are real, `mem` models what a loss of power leaves, `faulty` makes any of them fail.
//! All of them pass `conformance`.
//!
//! Contract: offsets, lengths and memory are multiples of `DEVICE_BLOCK_BYTES`. A write is durable once a `sync`
//! of its group, started after the write ended, has ended well. A group is durable once `create` returned.
//! An operation owns its buffer to its end, also when its future is dropped.

pub mod direct;
pub mod faulty;
pub(crate) mod files;
pub mod mem;
pub mod uring;
pub mod watched;

#[cfg(test)]
mod conformance;

use std::{fmt::Debug, io, path::Path, sync::Arc};

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

/// The group files of one disk.
#[async_trait]
pub trait Device: Debug + Send + Sync + 'static {
    /// All groups, with the bytes their files reach.
    async fn list(&self) -> io::Result<Vec<(GroupId, u64)>>;

    /// Makes an empty group, durably.
    async fn create(&self, group: GroupId) -> io::Result<()>;

    /// Sees to it that the first `bytes` of a group are there and have space on the disk. New bytes have any value.
    /// Durable with the next `sync`.
    async fn reserve(&self, group: GroupId, bytes: u64) -> io::Result<()>;

    /// Gives a group's space back.
    async fn remove(&self, group: GroupId) -> io::Result<()>;

    /// Fills `buf` from `offset` on.
    async fn read(
        &self,
        group: GroupId,
        offset: u64,
        buf: RegisteredBuf,
    ) -> io::Result<RegisteredBuf>;

    /// Writes all of `data` at `offset`, which must have been reserved.
    async fn write(&self, group: GroupId, offset: u64, data: SharedBuf) -> io::Result<()>;

    /// Makes every write that has ended durable.
    async fn sync(&self, group: GroupId) -> io::Result<()>;

    /// Bytes that the file system still has for anyone.
    async fn available_bytes(&self) -> io::Result<u64>;

    /// Ends what is under way and stops. Later operations fail.
    async fn close(&self);
}

/// Opens the real device over the group files below `dir`.
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
