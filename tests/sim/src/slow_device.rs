//! A disk in memory that takes its time, so that messages, timers and losses of power come in the middle of its operations.

use std::{future::pending, io, sync::Arc, time::Duration};

use common::{
    buf::{RegisteredBuf, SharedBuf},
    env::Env,
};
use engine::device::{
    Device, FileId,
    mem::{MemDevice, PowerSwitch},
};
use net::async_trait;

/// See the module's text.
#[derive(Debug)]
pub(crate) struct SlowDevice {
    env: Env,
    inner: MemDevice,
    power: Arc<PowerSwitch>,
    /// Before an operation, and again after it.
    latency_max: Duration,
}

impl SlowDevice {
    /// `power` is that of `inner`.
    pub(crate) fn new(
        env: &Env,
        inner: MemDevice,
        power: Arc<PowerSwitch>,
        latency_max: Duration,
    ) -> Self {
        Self {
            env: env.clone(),
            inner,
            power,
            latency_max,
        }
    }

    async fn slowly<T>(&self, operation: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        self.wait().await;
        let result = operation.await;
        self.wait().await;
        result
    }

    /// What is under way when the power fails never ends.
    async fn wait(&self) {
        let micros = u64::try_from(self.latency_max.as_micros()).unwrap_or(u64::MAX);
        let latency = Duration::from_micros(self.env.random_below(micros));
        if !latency.is_zero() && self.env.timeout(latency, self.power.failed()).await.is_ok() {
            pending::<()>().await;
        }
    }
}

#[async_trait]
impl Device for SlowDevice {
    async fn list(&self) -> io::Result<Vec<(FileId, u64)>> {
        self.slowly(self.inner.list()).await
    }

    async fn create(&self, id: FileId) -> io::Result<()> {
        self.slowly(self.inner.create(id)).await
    }

    async fn reserve(&self, id: FileId, bytes: u64) -> io::Result<()> {
        self.slowly(self.inner.reserve(id, bytes)).await
    }

    async fn remove(&self, id: FileId) -> io::Result<()> {
        self.slowly(self.inner.remove(id)).await
    }

    async fn read(&self, id: FileId, offset: u64, buf: RegisteredBuf) -> io::Result<RegisteredBuf> {
        self.slowly(self.inner.read(id, offset, buf)).await
    }

    async fn write(&self, id: FileId, offset: u64, data: SharedBuf) -> io::Result<()> {
        self.slowly(self.inner.write(id, offset, data)).await
    }

    async fn sync(&self, id: FileId) -> io::Result<()> {
        self.slowly(self.inner.sync(id)).await
    }

    async fn available_bytes(&self) -> io::Result<u64> {
        self.inner.available_bytes().await
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}
