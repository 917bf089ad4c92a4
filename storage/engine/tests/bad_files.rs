//! A disk of which some files cannot be read.

use std::{
    collections::BTreeSet,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use common::{
    buf::{RegisteredBuf, SharedBuf},
    sync::Mutex,
};
use engine::device::{Device, FileId};

const EIO: i32 = 5;

#[derive(Debug)]
pub(crate) struct BadFiles {
    inner: Arc<dyn Device>,
    bad: Mutex<BTreeSet<FileId>>,
    /// Whoever reads the log ends in a panic.
    pub(crate) panics: AtomicBool,
    /// Bytes that were written into the log, and how many may be.
    pub(crate) log_bytes: AtomicU64,
    pub(crate) log_bytes_max: AtomicU64,
}

impl BadFiles {
    pub(crate) fn new(inner: Arc<dyn Device>) -> Arc<Self> {
        Arc::new(Self {
            inner,
            bad: Mutex::default(),
            panics: AtomicBool::new(false),
            log_bytes: AtomicU64::new(0),
            log_bytes_max: AtomicU64::new(u64::MAX),
        })
    }

    /// From now on these files cannot be read, and no others.
    pub(crate) fn set(&self, bad: impl IntoIterator<Item = FileId>) {
        *self.bad.lock() = bad.into_iter().collect();
    }

    pub(crate) async fn log_files(&self) -> usize {
        let files = self.inner.list().await.unwrap();
        let log = files.iter().filter(|(id, _)| matches!(id, FileId::Log(_)));
        log.count()
    }
}

#[async_trait]
impl Device for BadFiles {
    async fn list(&self) -> io::Result<Vec<(FileId, u64)>> {
        self.inner.list().await
    }

    async fn create(&self, id: FileId) -> io::Result<()> {
        self.inner.create(id).await
    }

    async fn reserve(&self, id: FileId, bytes: u64) -> io::Result<()> {
        self.inner.reserve(id, bytes).await
    }

    async fn remove(&self, id: FileId) -> io::Result<()> {
        self.inner.remove(id).await
    }

    async fn read(&self, id: FileId, offset: u64, buf: RegisteredBuf) -> io::Result<RegisteredBuf> {
        let is_log = matches!(id, FileId::Log(_));
        assert!(!(is_log && self.panics.load(Ordering::Relaxed)), "as told");
        if self.bad.lock().contains(&id) {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        self.inner.read(id, offset, buf).await
    }

    async fn write(&self, id: FileId, offset: u64, data: SharedBuf) -> io::Result<()> {
        if matches!(id, FileId::Log(_)) {
            let length = data.len() as u64;
            let before = self.log_bytes.fetch_add(length, Ordering::Relaxed);
            if before + length > self.log_bytes_max.load(Ordering::Relaxed) {
                return Err(io::Error::other("more than was expected"));
            }
        }
        self.inner.write(id, offset, data).await
    }

    async fn sync(&self, id: FileId) -> io::Result<()> {
        self.inner.sync(id).await
    }

    async fn available_bytes(&self) -> io::Result<u64> {
        self.inner.available_bytes().await
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}
