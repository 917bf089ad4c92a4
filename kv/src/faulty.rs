//! A store that fails on purpose, over any other: for tests of those who must survive it.
//!
//! Faults are those that a real store may show at a commit. After an unknown result the commit took place
//! or not, and the caller cannot tell: both are here.

use std::{collections::VecDeque, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use common::{env::Env, sync::Mutex};

use crate::{
    error::KvError,
    key::KeyRange,
    transaction::{
        CommitVersion, ConflictSets, Kv, RangeOptions, RangePage, ReadMode, Transaction,
    },
};

/// What happens at a commit that writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is refused with `Conflict`.
    Conflict,
    /// It is refused with `TooOld`.
    TooOld,
    /// It takes place, and the caller gets `CommitUnknown`.
    UnknownCommitted,
    /// It does not take place, and the caller gets `CommitUnknown`.
    UnknownLost,
}

const FAULTS: [Fault; 4] = [
    Fault::Conflict,
    Fault::TooOld,
    Fault::UnknownCommitted,
    Fault::UnknownLost,
];

/// The store that fails.
#[derive(Debug)]
pub struct FaultyKv {
    inner: Arc<dyn Kv>,
    plan: Arc<Plan>,
}

#[derive(Debug)]
struct Plan {
    env: Env,
    /// One commit in this many fails at random; 0 = none.
    one_in: u64,
    /// What the next commits meet; `None` is a commit without a fault.
    script: Mutex<VecDeque<Option<Fault>>>,
}

impl FaultyKv {
    /// Over `inner`, with a fault at random in one of `one_in` commits (0 = none), drawn from `env`.
    pub fn new(env: &Env, inner: Arc<dyn Kv>, one_in: u64) -> Arc<Self> {
        let plan = Plan {
            env: env.clone(),
            one_in,
            script: Mutex::default(),
        };
        Arc::new(Self {
            inner,
            plan: Arc::new(plan),
        })
    }

    /// What the next commits that write meet, one after the other, before chance rules again.
    pub fn script(&self, faults: impl IntoIterator<Item = Option<Fault>>) {
        self.plan.script.lock().extend(faults);
    }
}

impl Plan {
    fn next(&self) -> Option<Fault> {
        if let Some(scripted) = self.script.lock().pop_front() {
            return scripted;
        }
        if self.one_in == 0 || self.env.random_below(self.one_in) != 0 {
            return None;
        }
        let choice = self.env.random_below(FAULTS.len() as u64);
        usize::try_from(choice)
            .ok()
            .and_then(|choice| FAULTS.get(choice))
            .copied()
    }
}

#[async_trait]
impl Kv for FaultyKv {
    fn begin(&self) -> Box<dyn Transaction> {
        Box::new(FaultyTransaction {
            inner: self.inner.begin(),
            plan: self.plan.clone(),
        })
    }

    async fn sync(&self) -> Result<(), KvError> {
        self.inner.sync().await
    }
}

struct FaultyTransaction {
    inner: Box<dyn Transaction>,
    plan: Arc<Plan>,
}

#[async_trait]
impl Transaction for FaultyTransaction {
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
        if self.inner.conflicts().writes.is_empty() {
            return self.inner.commit().await;
        }
        match self.plan.next() {
            None => self.inner.commit().await,
            Some(Fault::Conflict) => Err(KvError::Conflict),
            Some(Fault::TooOld) => Err(KvError::TooOld),
            Some(Fault::UnknownLost) => Err(KvError::CommitUnknown),
            Some(Fault::UnknownCommitted) => {
                self.inner.commit().await?;
                Err(KvError::CommitUnknown)
            }
        }
    }
}
