//! Any device under a watchdog: an operation that takes too long ends with an error (E10).
//!
//! The operation itself cannot be called back: it keeps its buffer, and the engine stops using the disk.

use std::{io, sync::Arc, time::Duration};

use async_trait::async_trait;
use common::{
    buf::{RegisteredBuf, SharedBuf},
    env::Env,
};

use super::{Device, FileId};

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
    async fn list(&self) -> io::Result<Vec<(FileId, u64)>> {
        self.inner.list().await
    }

    async fn create(&self, id: FileId) -> io::Result<()> {
        self.watch(self.inner.create(id)).await
    }

    async fn reserve(&self, id: FileId, bytes: u64) -> io::Result<()> {
        self.watch(self.inner.reserve(id, bytes)).await
    }

    async fn remove(&self, id: FileId) -> io::Result<()> {
        self.watch(self.inner.remove(id)).await
    }

    async fn read(&self, id: FileId, offset: u64, buf: RegisteredBuf) -> io::Result<RegisteredBuf> {
        self.watch(self.inner.read(id, offset, buf)).await
    }

    async fn write(&self, id: FileId, offset: u64, data: SharedBuf) -> io::Result<()> {
        self.watch(self.inner.write(id, offset, data)).await
    }

    async fn write_durably(&self, id: FileId, offset: u64, data: SharedBuf) -> io::Result<()> {
        self.watch(self.inner.write_durably(id, offset, data)).await
    }

    async fn sync(&self, id: FileId) -> io::Result<()> {
        self.watch(self.inner.sync(id)).await
    }

    async fn available_bytes(&self) -> io::Result<u64> {
        self.inner.available_bytes().await
    }

    async fn close(&self) {
        // An operation that hangs must not keep the engine from its end for ever.
        let closed = self.watch(async {
            self.inner.close().await;
            Ok(())
        });
        if let Err(error) = closed.await {
            tracing::error!(%error, "a disk does not end what is under way");
        }
    }
}
