//! What every store must do. Each implementation runs `run_all` in its tests.
//!
//! A check works below a prefix of its own and clears it first, so the suite can also run on a shared store.
//! A check panics when the store does wrong.

mod basics;
mod conflicts;
mod history;

use std::sync::Arc;

use bytes::Bytes;
use common::env::Env;

use crate::{
    error::KvError,
    key::KeyRange,
    transaction::{CommitVersion, Kv, RangeOptions, ReadMode, Transaction},
};

pub use self::history::{HistoryOptions, random_history_is_serializable};

/// Runs every check.
///
/// # Panics
/// When the store does not conform.
pub async fn run_all(env: &Env, kv: &Arc<dyn Kv>) {
    basics::run(kv).await;
    conflicts::run(env, kv).await;
    random_history_is_serializable(env, kv, HistoryOptions::default()).await;
}

/// One check's part of the store.
struct Bench<'a> {
    kv: &'a Arc<dyn Kv>,
    prefix: &'static str,
}

impl<'a> Bench<'a> {
    /// Cleared.
    async fn new(kv: &'a Arc<dyn Kv>, prefix: &'static str) -> Self {
        let bench = Self { kv, prefix };
        let mut txn = kv.begin();
        txn.clear_range(bench.all());
        commit(&mut txn).await;
        bench
    }

    fn all(&self) -> KeyRange {
        KeyRange::prefix(format!("{}/", self.prefix).as_bytes())
    }

    fn key(&self, name: &str) -> Vec<u8> {
        format!("{}/{name}", self.prefix).into_bytes()
    }

    fn range(&self, begin: &str, end: &str) -> KeyRange {
        KeyRange::new(self.key(begin), self.key(end))
    }

    fn begin(&self) -> Txn {
        self.kv.begin()
    }

    /// Sets keys to their own names.
    async fn fill(&self, names: &[&str]) {
        let mut txn = self.begin();
        for name in names {
            txn.set(&self.key(name), name.as_bytes());
        }
        commit(&mut txn).await;
    }

    async fn get(&self, txn: &mut Txn, name: &str) -> Option<Bytes> {
        get(txn, &self.key(name), ReadMode::Serializable).await
    }

    /// The names of the keys that a page holds, and whether there are more.
    async fn page(
        &self,
        txn: &mut Txn,
        range: KeyRange,
        options: RangeOptions,
    ) -> (Vec<String>, bool) {
        let page = txn
            .get_range(range, options, ReadMode::Serializable)
            .await
            .expect("a range can be read");
        let names = page.items.iter().map(|(key, _value)| self.name(key));
        (names.collect(), page.more)
    }

    fn name(&self, key: &[u8]) -> String {
        let name = key.get(self.prefix.len() + 1..).unwrap_or_default();
        String::from_utf8_lossy(name).into_owned()
    }
}

type Txn = Box<dyn Transaction>;

async fn get(txn: &mut Txn, key: &[u8], mode: ReadMode) -> Option<Bytes> {
    txn.get(key, mode).await.expect("a key can be read")
}

async fn commit(txn: &mut Txn) -> CommitVersion {
    txn.commit().await.expect("nothing hinders this commit")
}

async fn assert_conflict(txn: &mut Txn, why: &str) {
    assert_eq!(txn.commit().await, Err(KvError::Conflict), "{why}");
}
