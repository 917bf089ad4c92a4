//! Group files read and written through io_uring.
//!
//! Operations, bounded by permits, go to the kernel from the thread of their caller; one task takes what is done
//! (`ring`). Any number of operations is in flight; none waits for another. The ring owns every buffer from
//! submission to completion: a caller that goes away changes nothing.

mod registered;
mod ring;

use std::{io, sync::Arc};

use async_trait::async_trait;
use common::{
    buf::{RegisteredBuf, SharedBuf},
    env::{Env, Task},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::{
    Device, FileId, check_alignment, closed,
    files::{Files, OpenFile},
};
use crate::device::uring::ring::{Durable, Operation, Ring};

/// Operations in flight at most; half of the ring's entries.
pub(crate) const DEPTH_MAX: u32 = 1024;

/// The files of one disk and the ring that does their I/O.
#[derive(Debug)]
pub struct UringDevice {
    env: Env,
    files: Arc<Files>,
    permits: Arc<Semaphore>,
    depth: u32,
    ring: Arc<Ring>,
    reaper: Task<()>,
}

impl UringDevice {
    /// Makes the ring, within a runtime.
    ///
    /// # Errors
    /// When the kernel has no io_uring or does not allow it.
    pub(crate) fn new(env: &Env, files: Arc<Files>, depth: u32) -> io::Result<Self> {
        let ring = Arc::new(Ring::new(depth)?);
        let completions = ring::completions(ring.clone())?;
        let reaper = env.spawn("disk-uring", ring::reap(completions));
        Ok(Self {
            env: env.clone(),
            files,
            permits: Arc::new(Semaphore::new(depth as usize)),
            depth,
            ring,
            reaper,
        })
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Files) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let files = self.files.clone();
        self.env.blocking(move || work(&files)).await
    }

    async fn file(&self, id: FileId) -> io::Result<Arc<OpenFile>> {
        match self.files.get_open(id) {
            Some(file) => Ok(file),
            None => self.blocking(move |files| files.get(id)).await,
        }
    }

    async fn permit(&self) -> io::Result<OwnedSemaphorePermit> {
        let permit = self.permits.clone().acquire_owned().await;
        permit.map_err(|_| closed())
    }

    async fn write_as(
        &self,
        id: FileId,
        offset: u64,
        data: (SharedBuf, Durable),
    ) -> io::Result<()> {
        check_alignment(offset, &data.0)?;
        let (file, permit) = (self.file(id).await?, self.permit().await?);
        let (done, receiver) = oneshot::channel();
        let operation = Operation::write(file, offset, data, done, permit);
        self.run(operation, receiver).await
    }

    async fn run<T>(
        &self,
        operation: Operation,
        done: oneshot::Receiver<io::Result<T>>,
    ) -> io::Result<T> {
        self.ring.push(operation)?;
        done.await.map_err(|_| closed())?
    }
}

#[async_trait]
impl Device for UringDevice {
    async fn list(&self) -> io::Result<Vec<(FileId, u64)>> {
        self.blocking(Files::list).await
    }

    async fn create(&self, id: FileId) -> io::Result<()> {
        self.blocking(move |files| files.create(id)).await
    }

    async fn reserve(&self, id: FileId, bytes: u64) -> io::Result<()> {
        self.blocking(move |files| files.reserve(id, bytes)).await
    }

    async fn remove(&self, id: FileId) -> io::Result<()> {
        let removed = self.blocking(move |files| files.remove(id)).await;
        // The space of a file comes back when the ring has let go of it, too.
        self.ring.release_files();
        removed
    }

    async fn read(&self, id: FileId, offset: u64, buf: RegisteredBuf) -> io::Result<RegisteredBuf> {
        check_alignment(offset, &buf)?;
        let (file, permit) = (self.file(id).await?, self.permit().await?);
        let (done, receiver) = oneshot::channel();
        let operation = Operation::read(file, offset, buf, done, permit);
        self.run(operation, receiver).await
    }

    async fn write(&self, id: FileId, offset: u64, data: SharedBuf) -> io::Result<()> {
        self.write_as(id, offset, (data, Durable::No)).await
    }

    /// One operation instead of two: a write with RWF_DSYNC (pwritev2(2)), which is durable when it completes.
    async fn write_durably(&self, id: FileId, offset: u64, data: SharedBuf) -> io::Result<()> {
        self.write_as(id, offset, (data, Durable::Yes)).await
    }

    async fn sync(&self, id: FileId) -> io::Result<()> {
        let (file, permit) = (self.file(id).await?, self.permit().await?);
        let (done, receiver) = oneshot::channel();
        let operation = Operation::sync(file, done, permit);
        self.run(operation, receiver).await
    }

    async fn available_bytes(&self) -> io::Result<u64> {
        self.files.available_bytes()
    }

    async fn close(&self) {
        // All permits back means that nothing is under way.
        let all = self.permits.acquire_many(self.depth).await;
        self.permits.close();
        drop(all);
        self.ring.close();
        self.reaper.abort();
    }
}

impl Drop for UringDevice {
    fn drop(&mut self) {
        // Waits for what is in flight: after this no write of ours can touch the files any more.
        self.ring.close();
        self.reaper.abort();
    }
}
