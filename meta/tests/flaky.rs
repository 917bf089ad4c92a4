//! A store whose commits sometimes fail, before or after they took effect.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use async_trait::async_trait;
use bytes::Bytes;
use common::env::Env;
use kv::{
    CommitVersion, ConflictSets, KeyRange, Kv, KvError, RangeOptions, RangePage, ReadMode,
    Transaction, mem::MemKv,
};

/// See the module's text.
#[derive(Debug)]
pub(crate) struct FlakyKv {
    inner: Arc<MemKv>,
    faults: Arc<Faults>,
}

#[derive(Debug)]
struct Faults {
    env: Env,
    /// Of 100 commits so many take effect and say that nobody knows.
    unknown_percent: AtomicU64,
    /// Of 100 commits so many do not take effect and say the same.
    lost_percent: AtomicU64,
    injected: AtomicU64,
}

impl FlakyKv {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            inner: MemKv::new(),
            faults: Arc::new(Faults {
                env: Env::seeded(5),
                unknown_percent: AtomicU64::new(0),
                lost_percent: AtomicU64::new(0),
                injected: AtomicU64::new(0),
            }),
        })
    }

    /// From now on so many of 100 commits fail after and before they take effect.
    pub(crate) fn set(&self, unknown_percent: u64, lost_percent: u64) {
        let faults = &self.faults;
        faults
            .unknown_percent
            .store(unknown_percent, Ordering::Relaxed);
        faults.lost_percent.store(lost_percent, Ordering::Relaxed);
    }

    /// How many commits failed.
    pub(crate) fn injected(&self) -> u64 {
        self.faults.injected.load(Ordering::Relaxed)
    }
}

#[async_trait]
impl Kv for FlakyKv {
    fn begin(&self) -> Box<dyn Transaction> {
        Box::new(FlakyTransaction {
            inner: self.inner.begin(),
            faults: self.faults.clone(),
        })
    }

    async fn sync(&self) -> Result<(), KvError> {
        self.inner.sync().await
    }
}

struct FlakyTransaction {
    inner: Box<dyn Transaction>,
    faults: Arc<Faults>,
}

#[async_trait]
impl Transaction for FlakyTransaction {
    async fn get(&mut self, key: &[u8], mode: ReadMode) -> Result<Option<Bytes>, KvError> {
        self.inner.get(key, mode).await
    }

    async fn get_range(
        &mut self,
        range: KeyRange,
        options: RangeOptions,
        mode: ReadMode,
    ) -> Result<RangePage, KvError> {
        self.inner.get_range(range, options, mode).await
    }

    fn set(&mut self, key: &[u8], value: &[u8]) {
        self.inner.set(key, value);
    }

    fn clear(&mut self, key: &[u8]) {
        self.inner.clear(key);
    }

    fn clear_range(&mut self, range: KeyRange) {
        self.inner.clear_range(range);
    }

    fn atomic_add(&mut self, key: &[u8], delta: i64) {
        self.inner.atomic_add(key, delta);
    }

    fn atomic_max(&mut self, key: &[u8], value: u64) {
        self.inner.atomic_max(key, value);
    }

    fn set_versionstamped_key(&mut self, prefix: &[u8], suffix: &[u8], value: &[u8]) {
        self.inner.set_versionstamped_key(prefix, suffix, value);
    }

    fn add_read_conflict(&mut self, range: KeyRange) {
        self.inner.add_read_conflict(range);
    }

    fn add_write_conflict(&mut self, range: KeyRange) {
        self.inner.add_write_conflict(range);
    }

    fn conflicts(&self) -> ConflictSets {
        self.inner.conflicts()
    }

    async fn commit(&mut self) -> Result<CommitVersion, KvError> {
        let faults = &self.faults;
        let drawn = faults.env.random_below(100);
        let unknown = faults.unknown_percent.load(Ordering::Relaxed);
        let lost = faults.lost_percent.load(Ordering::Relaxed);
        if drawn < unknown {
            faults.injected.fetch_add(1, Ordering::Relaxed);
            self.inner.commit().await?;
            return Err(KvError::CommitUnknown);
        }
        if drawn < unknown + lost {
            faults.injected.fetch_add(1, Ordering::Relaxed);
            return Err(KvError::CommitUnknown);
        }
        self.inner.commit().await
    }
}
