//! Group files in memory that forget what was not synced, as a disk does when power fails.
//!
//! Each group has what is durable, what is read now, and the writes that have not been synced. `crash` lets any
//! subset of the sectors of unsynced writes survive, in any order, so that writes are dropped, torn and
//! reordered; growth that was not synced may be lost and removed groups may come back.
//!
//! A `PowerSwitch`, shared with `meta_store::mem`, cuts the power after a number of steps: from then on
//! nothing ever completes.

use std::{
    collections::BTreeMap,
    fmt,
    future::pending,
    io,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use async_trait::async_trait;
use common::{
    buf::{RegisteredBuf, SharedBuf},
    env::Env,
    sync::Mutex,
};
use tokio::{sync::watch, task::yield_now};

use super::{Device, FileId, check_alignment};

/// What a disk writes at once; a crash tears writes at its multiples.
const SECTOR_BYTES: usize = 512;

/// A file system without limit, as far as tests are concerned.
const AVAILABLE_BYTES: u64 = 1 << 50;

/// Counts the steps of devices and stores, and cuts their power at one of them.
#[derive(Debug)]
pub struct PowerSwitch {
    steps_left: AtomicI64,
    off: watch::Sender<bool>,
}

impl PowerSwitch {
    /// Power that lasts.
    pub fn lasting() -> Arc<Self> {
        Self::failing_after(i64::MAX)
    }

    /// Power that fails at this step.
    pub fn failing_after(steps: i64) -> Arc<Self> {
        Arc::new(Self {
            steps_left: AtomicI64::new(steps),
            off: watch::Sender::new(false),
        })
    }

    /// One step of one operation; never returns once the power has failed.
    pub async fn step(&self) {
        if self.steps_left.fetch_sub(1, Ordering::Relaxed) <= 1 {
            self.cut();
            pending::<()>().await;
        }
    }

    /// Cuts the power now.
    pub fn cut(&self) {
        self.steps_left.store(0, Ordering::Relaxed);
        self.off.send_replace(true);
    }

    /// Waits until the power has failed.
    pub async fn failed(&self) {
        let mut off = self.off.subscribe();
        // The sender is ours, so waiting cannot fail.
        drop(off.wait_for(|&off| off).await);
    }
}

/// A disk in memory. Clones are the same disk.
#[derive(Clone, Debug)]
pub struct MemDevice {
    env: Env,
    power: Arc<PowerSwitch>,
    disk: Arc<Mutex<Disk>>,
}

#[derive(Debug, Default)]
struct Disk {
    files: BTreeMap<FileId, MemFile>,
    removed: BTreeMap<FileId, MemFile>,
}

#[derive(Default)]
struct MemFile {
    durable: Vec<u8>,
    current: Vec<u8>,
    unsynced: Vec<(usize, SharedBuf)>,
}

impl fmt::Debug for MemFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (length, unsynced) = (self.current.len(), self.unsynced.len());
        write!(f, "MemFile({length} bytes, {unsynced} unsynced writes)")
    }
}

impl MemDevice {
    /// An empty disk.
    pub fn new(env: &Env, power: Arc<PowerSwitch>) -> Self {
        Self {
            env: env.clone(),
            power,
            disk: Arc::default(),
        }
    }

    /// The disk as it may be found after a loss of power, decided by `env`'s randomness; with new power.
    #[must_use]
    pub fn crash(&self, env: &Env, power: Arc<PowerSwitch>) -> Self {
        let mut disk = std::mem::take(&mut *self.disk.lock());
        for (id, file) in std::mem::take(&mut disk.removed) {
            if env.random_below(2) == 0 {
                disk.files.entry(id).or_insert(file);
            }
        }
        for file in disk.files.values_mut() {
            file.crash(env);
        }
        Self {
            env: env.clone(),
            power,
            disk: Arc::new(Mutex::new(disk)),
        }
    }

    /// The disk as it is found when only the process was killed: everything is there, and not synced if it was not. With new
    /// power; the device before has none any more.
    #[must_use]
    pub fn kill(&self, power: Arc<PowerSwitch>) -> Self {
        self.power.cut();
        Self {
            env: self.env.clone(),
            power,
            disk: Arc::new(Mutex::new(std::mem::take(&mut *self.disk.lock()))),
        }
    }

    /// Flips one bit of what is stored, as aging media do.
    ///
    /// # Panics
    /// When there is no such byte.
    pub fn flip_bit(&self, id: FileId, offset: usize) {
        self.flip_bits(id, offset, 1);
    }

    /// Flips those bits of one byte that are set in `bits`.
    ///
    /// # Panics
    /// When there is no such byte.
    pub fn flip_bits(&self, id: FileId, offset: usize, bits: u8) {
        let mut disk = self.disk.lock();
        let file = disk.files.get_mut(&id).expect("the id exists");
        file.current[offset] ^= bits;
        if let Some(byte) = file.durable.get_mut(offset) {
            *byte ^= bits;
        }
    }

    /// What is stored now in a part of a group.
    ///
    /// # Panics
    /// When there is no such part.
    pub fn stored(&self, id: FileId, range: std::ops::Range<usize>) -> Vec<u8> {
        let disk = self.disk.lock();
        let file = disk.files.get(&id).expect("the id exists");
        file.current[range].to_vec()
    }

    /// Lets other tasks run in between, now and then.
    async fn step(&self) {
        for _ in 0..self.env.random_below(3) {
            yield_now().await;
        }
        self.power.step().await;
    }

    fn with_file<T>(
        &self,
        id: FileId,
        work: impl FnOnce(&mut MemFile) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut disk = self.disk.lock();
        let file = disk.files.get_mut(&id);
        work(file.ok_or(io::ErrorKind::NotFound)?)
    }
}

impl MemFile {
    fn range(&self, offset: u64, length: usize) -> io::Result<std::ops::Range<usize>> {
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let range = start..start + length;
        if range.end > self.current.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(range)
    }

    fn sync(&mut self) {
        self.durable.resize(self.current.len(), 0);
        for (offset, data) in self.unsynced.drain(..) {
            let range = offset..offset + data.len();
            // The current bytes, not the data: a later unsynced write may lie above.
            self.durable[range.clone()].copy_from_slice(&self.current[range]);
        }
    }

    fn crash(&mut self, env: &Env) {
        let grown = self.current.len();
        if env.random_below(2) == 0 {
            self.durable.resize(grown, 0);
        }
        let fate = env.random_below(4);
        while !self.unsynced.is_empty() {
            let count = self.unsynced.len() as u64;
            let pick = usize::try_from(env.random_below(count)).unwrap_or(0);
            let (offset, data) = self.unsynced.swap_remove(pick);
            for (index, sector) in data.chunks(SECTOR_BYTES).enumerate() {
                let survives = match fate {
                    0 => false,
                    1 => true,
                    _ => env.random_below(2) == 0,
                };
                let start = offset + index * SECTOR_BYTES;
                if survives && let Some(durable) = self.durable.get_mut(start..) {
                    let length = sector.len().min(durable.len());
                    durable[..length].copy_from_slice(&sector[..length]);
                }
            }
        }
        self.current.clone_from(&self.durable);
    }
}

#[async_trait]
impl Device for MemDevice {
    async fn list(&self) -> io::Result<Vec<(FileId, u64)>> {
        let disk = self.disk.lock();
        let groups = disk.files.iter();
        Ok(groups
            .map(|(&id, file)| (id, file.current.len() as u64))
            .collect())
    }

    async fn create(&self, id: FileId) -> io::Result<()> {
        self.step().await;
        let mut disk = self.disk.lock();
        if disk.files.contains_key(&id) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        disk.removed.remove(&id);
        disk.files.insert(id, MemFile::default());
        Ok(())
    }

    async fn reserve(&self, id: FileId, bytes: u64) -> io::Result<()> {
        self.step().await;
        let bytes = usize::try_from(bytes).map_err(io::Error::other)?;
        self.with_file(id, |file| {
            let length = file.current.len().max(bytes);
            // Not zeros: nobody may rely on what stands in a slot that was never written.
            file.current.resize(length, 0xA5);
            Ok(())
        })
    }

    async fn remove(&self, id: FileId) -> io::Result<()> {
        self.step().await;
        let mut disk = self.disk.lock();
        let file = disk.files.remove(&id).ok_or(io::ErrorKind::NotFound)?;
        disk.removed.insert(id, file);
        Ok(())
    }

    async fn read(
        &self,
        id: FileId,
        offset: u64,
        mut buf: RegisteredBuf,
    ) -> io::Result<RegisteredBuf> {
        check_alignment(offset, &buf)?;
        self.step().await;
        self.with_file(id, |file| {
            let range = file.range(offset, buf.len())?;
            buf.copy_from_slice(&file.current[range]);
            Ok(())
        })?;
        Ok(buf)
    }

    async fn write(&self, id: FileId, offset: u64, data: SharedBuf) -> io::Result<()> {
        check_alignment(offset, &data)?;
        // Half of the write is there when the power fails in between, hence two steps.
        self.step().await;
        self.with_file(id, |file| {
            let range = file.range(offset, data.len())?;
            file.unsynced.push((range.start, data.clone()));
            file.current[range].copy_from_slice(&data);
            Ok(())
        })?;
        self.step().await;
        Ok(())
    }

    async fn sync(&self, id: FileId) -> io::Result<()> {
        self.step().await;
        self.with_file(id, |file| {
            file.sync();
            Ok(())
        })?;
        self.step().await;
        Ok(())
    }

    async fn available_bytes(&self) -> io::Result<u64> {
        Ok(AVAILABLE_BYTES)
    }

    async fn close(&self) {}
}

#[cfg(test)]
mod tests {
    use common::buf::BufPool;

    use super::*;
    use crate::group::{GroupId, SizeClass};

    /// After a crash: synced bytes stay, sectors of an unsynced write are each old or new, and all fates occur.
    #[tokio::test]
    async fn a_crash_keeps_what_was_synced_and_tears_the_rest() {
        let class = SizeClass::from_index(0).unwrap();
        let group = FileId::Group(GroupId { class, number: 0 });
        let pool = BufPool::new(1 << 20);
        let mut seen_kept = std::collections::BTreeSet::new();
        for seed in 0..60 {
            let env = Env::seeded(seed);
            let device = MemDevice::new(&env, PowerSwitch::lasting());
            device.create(group).await.unwrap();
            device.reserve(group, 65_536).await.unwrap();
            let data = |byte: u8| pool.copy_from(&[byte; 8192]).freeze();
            device.write(group, 0, data(1)).await.unwrap();
            device.sync(group).await.unwrap();
            device.write(group, 4096, data(2)).await.unwrap();
            let device = device.crash(&env, PowerSwitch::lasting());
            let stored = device.stored(group, 0..8192);
            assert!(stored[..4096].iter().all(|&byte| byte == 1));
            let sectors = stored[4096..].chunks(SECTOR_BYTES);
            let new = sectors.filter(|sector| {
                assert!(sector.iter().all(|byte| byte == &sector[0]));
                sector[0] == 2
            });
            seen_kept.insert(new.count());
        }
        assert!(seen_kept.contains(&0) && seen_kept.contains(&8) && seen_kept.len() > 4);
    }

    #[tokio::test]
    async fn nothing_completes_without_power() {
        let env = Env::seeded(1);
        let power = PowerSwitch::failing_after(2);
        let device = MemDevice::new(&env, power.clone());
        let class = SizeClass::from_index(0).unwrap();
        let group = FileId::Group(GroupId { class, number: 0 });
        device.create(group).await.unwrap();
        tokio::select! {
            _ = device.reserve(group, 65_536) => panic!("completed without power"),
            () = power.failed() => {}
        }
    }
}
