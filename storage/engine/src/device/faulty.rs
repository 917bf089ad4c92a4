//! Any device, made to fail on demand: errors, full disks, flipped bits, operations that hang.

use std::{
    collections::BTreeSet,
    future::pending,
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use common::{
    buf::{RegisteredBuf, SharedBuf},
    sync::Mutex,
};

use super::{Device, FileId};
use crate::group::DEVICE_BLOCK_BYTES;

/// What to do to operations of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    #[default]
    None,
    /// Fail with this number of the operating system.
    Error(i32),
    /// Never complete.
    Hang,
    /// Reads only: flip a bit of the first byte.
    FlipBit,
    /// Writes only: write the first block, then fail.
    Short,
    /// End the task in a panic.
    Panic,
}

const EIO: i32 = 5;

/// The faults in force.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// On reads.
    pub read: Fault,
    /// On writes.
    pub write: Fault,
    /// On syncs.
    pub sync: Fault,
    /// On growing and making groups.
    pub reserve: Fault,
    /// Nothing of this happens to the log, which has its space since it was made.
    pub spare_log: bool,
    /// What the file system claims to have left; `None`: the truth.
    pub available_bytes: Option<u64>,
    /// So many more bytes may be written into the log; `None`: any number.
    pub log_bytes_left: Option<u64>,
}

/// A device that obeys `Faults`, and counts.
#[derive(Debug)]
pub struct FaultyDevice {
    inner: Arc<dyn Device>,
    faults: Mutex<Faults>,
    unreadable: Mutex<BTreeSet<FileId>>,
    writes: Mutex<Vec<(FileId, u64, usize)>>,
    reads: AtomicU64,
}

impl FaultyDevice {
    /// A device without faults so far.
    pub fn new(inner: Arc<dyn Device>) -> Arc<Self> {
        Arc::new(Self {
            inner,
            faults: Mutex::default(),
            unreadable: Mutex::default(),
            writes: Mutex::default(),
            reads: AtomicU64::new(0),
        })
    }

    /// Changes the faults.
    pub fn set(&self, faults: Faults) {
        *self.faults.lock() = faults;
    }

    /// From now on these files cannot be read, beside what the faults say of all.
    pub fn set_unreadable(&self, files: impl IntoIterator<Item = FileId>) {
        *self.unreadable.lock() = files.into_iter().collect();
    }

    /// Every write so far, group, offset and length, and forgets them.
    pub fn take_writes(&self) -> Vec<(FileId, u64, usize)> {
        std::mem::take(&mut *self.writes.lock())
    }

    /// Reads so far.
    pub fn read_count(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    /// Takes what is written into the log off what may be.
    fn spend(&self, id: FileId, bytes: usize) -> io::Result<()> {
        let mut faults = self.faults.lock();
        if let (FileId::Log(_), Some(left)) = (id, &mut faults.log_bytes_left) {
            let rest = left.checked_sub(bytes as u64);
            *left = rest.ok_or_else(|| io::Error::from_raw_os_error(EIO))?;
        }
        Ok(())
    }

    fn faults(&self, id: FileId) -> Faults {
        let faults = *self.faults.lock();
        if faults.spare_log && matches!(id, FileId::Log(_)) {
            return Faults::default();
        }
        faults
    }
}

async fn suffer(fault: Fault) -> io::Result<()> {
    match fault {
        Fault::None | Fault::FlipBit | Fault::Short => Ok(()),
        Fault::Error(number) => Err(io::Error::from_raw_os_error(number)),
        Fault::Hang => pending().await,
        Fault::Panic => panic!("as told"),
    }
}

#[async_trait]
impl Device for FaultyDevice {
    async fn list(&self) -> io::Result<Vec<(FileId, u64)>> {
        self.inner.list().await
    }

    async fn create(&self, id: FileId) -> io::Result<()> {
        suffer(self.faults(id).reserve).await?;
        self.inner.create(id).await
    }

    async fn reserve(&self, id: FileId, bytes: u64) -> io::Result<()> {
        suffer(self.faults(id).reserve).await?;
        self.inner.reserve(id, bytes).await
    }

    async fn remove(&self, id: FileId) -> io::Result<()> {
        self.inner.remove(id).await
    }

    async fn read(&self, id: FileId, offset: u64, buf: RegisteredBuf) -> io::Result<RegisteredBuf> {
        let fault = self.faults(id).read;
        self.reads.fetch_add(1, Ordering::Relaxed);
        suffer(fault).await?;
        if self.unreadable.lock().contains(&id) {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        let mut buf = self.inner.read(id, offset, buf).await?;
        if fault == Fault::FlipBit {
            buf[0] ^= 1;
        }
        Ok(buf)
    }

    async fn write(&self, id: FileId, offset: u64, data: SharedBuf) -> io::Result<()> {
        let fault = self.faults(id).write;
        suffer(fault).await?;
        self.spend(id, data.len())?;
        self.writes.lock().push((id, offset, data.len()));
        if fault == Fault::Short {
            let first = data.slice(0..DEVICE_BLOCK_BYTES as usize);
            self.inner.write(id, offset, first).await?;
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.inner.write(id, offset, data).await
    }

    async fn sync(&self, id: FileId) -> io::Result<()> {
        suffer(self.faults(id).sync).await?;
        self.inner.sync(id).await
    }

    async fn available_bytes(&self) -> io::Result<u64> {
        let claimed = self.faults.lock().available_bytes;
        match claimed {
            Some(bytes) => Ok(bytes),
            None => self.inner.available_bytes().await,
        }
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}
