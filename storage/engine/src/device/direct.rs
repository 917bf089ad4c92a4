//! Group files read and written by a pool of threads, for kernels that have or allow no io_uring.

use std::{fs::File, io, os::unix::fs::FileExt, sync::Arc};

use async_trait::async_trait;
use common::{
    buf::{RegisteredBuf, SharedBuf},
    env::Env,
};
use tokio::sync::Semaphore;

use super::{Device, FileId, check_alignment, closed, files::Files};

/// pread and pwrite on threads, at most `depth` at a time.
#[derive(Debug)]
pub struct DirectDevice {
    env: Env,
    files: Arc<Files>,
    permits: Arc<Semaphore>,
    depth: u32,
}

impl DirectDevice {
    pub(crate) fn new(env: &Env, files: Arc<Files>, depth: u32) -> Self {
        Self {
            env: env.clone(),
            files,
            permits: Arc::new(Semaphore::new(depth as usize)),
            depth,
        }
    }

    /// Runs `work` on a thread with the group's file. The permit goes along: a dropped caller frees nothing early.
    async fn with_file<T: Send + 'static>(
        &self,
        id: FileId,
        work: impl FnOnce(&File) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let permit = self.permits.clone().acquire_owned().await;
        let permit = permit.map_err(|_| closed())?;
        let files = self.files.clone();
        self.env
            .blocking(move || {
                let result = work(&*files.get(id)?);
                drop(permit);
                result
            })
            .await
    }

    async fn with_files<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Files) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let files = self.files.clone();
        self.env.blocking(move || work(&files)).await
    }
}

#[async_trait]
impl Device for DirectDevice {
    async fn list(&self) -> io::Result<Vec<(FileId, u64)>> {
        self.with_files(Files::list).await
    }

    async fn create(&self, id: FileId) -> io::Result<()> {
        self.with_files(move |files| files.create(id)).await
    }

    async fn reserve(&self, id: FileId, bytes: u64) -> io::Result<()> {
        self.with_files(move |files| files.reserve(id, bytes)).await
    }

    async fn remove(&self, id: FileId) -> io::Result<()> {
        self.with_files(move |files| files.remove(id)).await
    }

    async fn read(
        &self,
        id: FileId,
        offset: u64,
        mut buf: RegisteredBuf,
    ) -> io::Result<RegisteredBuf> {
        check_alignment(offset, &buf)?;
        self.with_file(id, move |file| {
            file.read_exact_at(&mut buf, offset)?;
            Ok(buf)
        })
        .await
    }

    async fn write(&self, id: FileId, offset: u64, data: SharedBuf) -> io::Result<()> {
        check_alignment(offset, &data)?;
        self.with_file(id, move |file| file.write_all_at(&data, offset))
            .await
    }

    async fn sync(&self, id: FileId) -> io::Result<()> {
        self.with_file(id, File::sync_data).await
    }

    async fn available_bytes(&self) -> io::Result<u64> {
        self.files.available_bytes()
    }

    async fn close(&self) {
        // All permits back means that nothing is under way.
        let all = self.permits.acquire_many(self.depth).await;
        self.permits.close();
        drop(all);
    }
}
