//! Any device under a watchdog: an operation that takes too long ends with an error (E10).
//!
//! The operation itself cannot be called back: it keeps its buffer, and the engine stops using the disk.

use std::{io, sync::Arc, time::Duration};

use async_trait::async_trait;
use common::{
    buf::{RegisteredBuf, SharedBuf},
    env::Env,
};

use super::Device;
use crate::group::GroupId;

/// A device whose operations end within a limit.
#[derive(Debug)]
pub struct WatchedDevice {
    env: Env,
    inner: Arc<dyn Device>,
    limit: Duration,
}

impl WatchedDevice {
    /// Puts `inner` under the watchdog.
    pub fn new(env: &Env, inner: Arc<dyn Device>, limit: Duration) -> Self {
        Self {
            env: env.clone(),
            inner,
            limit,
        }
    }

    async fn watch<T>(&self, operation: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        let result = self.env.timeout(self.limit, operation).await;
        result.unwrap_or_else(|_| {
            Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("the disk has not answered for {:?}", self.limit),
            ))
        })
    }
}

#[async_trait]
impl Device for WatchedDevice {
    async fn list(&self) -> io::Result<Vec<(GroupId, u64)>> {
        self.inner.list().await
    }

    async fn create(&self, group: GroupId) -> io::Result<()> {
        self.watch(self.inner.create(group)).await
    }

    async fn reserve(&self, group: GroupId, bytes: u64) -> io::Result<()> {
        self.watch(self.inner.reserve(group, bytes)).await
    }

    async fn remove(&self, group: GroupId) -> io::Result<()> {
        self.watch(self.inner.remove(group)).await
    }

    async fn read(
        &self,
        group: GroupId,
        offset: u64,
        buf: RegisteredBuf,
    ) -> io::Result<RegisteredBuf> {
        self.watch(self.inner.read(group, offset, buf)).await
    }

    async fn write(&self, group: GroupId, offset: u64, data: SharedBuf) -> io::Result<()> {
        self.watch(self.inner.write(group, offset, data)).await
    }

    async fn sync(&self, group: GroupId) -> io::Result<()> {
        self.watch(self.inner.sync(group)).await
    }

    async fn available_bytes(&self) -> io::Result<u64> {
        self.inner.available_bytes().await
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}
