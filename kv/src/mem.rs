//! The store in memory: for tests and simulation. Serializable like the others, gone with the process.
//!
//! Each key keeps its versions as far back as a transaction may read, so that snapshots cost nothing.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    ops::Bound::{Excluded, Included},
    sync::Arc,
};

use async_trait::async_trait;
use bytes::Bytes;
use common::{env::Env, sync::Mutex};

use crate::{
    error::KvError,
    group::{Base, CommitRequest, Group},
    key::KeyRange,
    limits,
    optimistic::{Backend, OptimisticTransaction, Snapshot},
    resolver::{ENTRIES_MAX, Resolver},
    transaction::{CommitVersion, Kv, RangeOptions, RangePage, Transaction},
};

/// The store in memory.
pub struct MemKv(Arc<Shared>);

struct Shared {
    env: Env,
    state: Mutex<State>,
}

struct State {
    keys: BTreeMap<Bytes, Versions>,
    current: CommitVersion,
    resolver: Resolver,
    /// What changed when, to find what can be dropped.
    log: VecDeque<(CommitVersion, Bytes)>,
}

/// The values of a key, oldest first; `None` where it was removed.
type Versions = Vec<(CommitVersion, Option<Bytes>)>;

impl MemKv {
    /// An empty store.
    pub fn new() -> Arc<Self> {
        let state = State {
            keys: BTreeMap::new(),
            current: CommitVersion(0),
            resolver: Resolver::new(CommitVersion(0), ENTRIES_MAX),
            log: VecDeque::new(),
        };
        Arc::new(Self(Arc::new(Shared {
            // Only its clock is used, and all worlds share tokio's.
            env: Env::real(),
            state: Mutex::new(state),
        })))
    }
}

impl fmt::Debug for MemKv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.0.state.lock();
        f.debug_struct("MemKv")
            .field("keys", &state.keys.len())
            .field("current", &state.current)
            .finish()
    }
}

#[async_trait]
impl Kv for MemKv {
    fn begin(&self) -> Box<dyn Transaction> {
        Box::new(OptimisticTransaction::new(self.0.clone()))
    }

    async fn sync(&self) -> Result<(), KvError> {
        Ok(())
    }
}

struct MemSnapshot {
    shared: Arc<Shared>,
    version: CommitVersion,
}

impl MemSnapshot {
    fn check(&self, state: &State) -> Result<(), KvError> {
        if self.version < state.resolver.oldest() {
            return Err(KvError::TooOld);
        }
        Ok(())
    }
}

impl Snapshot for MemSnapshot {
    fn version(&self) -> CommitVersion {
        self.version
    }

    async fn get(&self, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        let state = self.shared.state.lock();
        self.check(&state)?;
        Ok(state.keys.get(key).and_then(|v| value_at(v, self.version)))
    }

    async fn page(&self, range: &KeyRange, options: RangeOptions) -> Result<RangePage, KvError> {
        let state = self.shared.state.lock();
        self.check(&state)?;
        let bounds = (Included(range.begin.as_ref()), Excluded(range.end.as_ref()));
        let present = |(key, versions): (&Bytes, &Versions)| {
            value_at(versions, self.version).map(|value| (key.clone(), value))
        };
        let keys = state.keys.range::<[u8], _>(bounds);
        Ok(if options.reverse {
            fill_page(keys.rev().filter_map(present), options.limit)
        } else {
            fill_page(keys.filter_map(present), options.limit)
        })
    }
}

/// Takes items up to the limits of a page.
fn fill_page(items: impl Iterator<Item = (Bytes, Bytes)>, limit: usize) -> RangePage {
    let mut page = RangePage::default();
    let mut bytes = 0;
    for (key, value) in items {
        if page.items.len() == limit || bytes >= limits::PAGE_BYTES_MAX {
            page.more = true;
            break;
        }
        bytes += key.len() + value.len();
        page.items.push((key, value));
    }
    page
}

fn value_at(versions: &Versions, version: CommitVersion) -> Option<Bytes> {
    let after = versions.partition_point(|(written, _value)| *written <= version);
    versions[..after]
        .last()
        .and_then(|(_v, value)| value.clone())
}

struct Latest<'a>(&'a BTreeMap<Bytes, Versions>);

impl Base for Latest<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        let versions = self.0.get(key);
        Ok(versions.and_then(|v| value_at(v, CommitVersion(u64::MAX))))
    }

    fn keys(&self, range: &KeyRange) -> Result<Vec<Bytes>, KvError> {
        let bounds = (Included(range.begin.as_ref()), Excluded(range.end.as_ref()));
        let keys = self.0.range::<[u8], _>(bounds);
        Ok(keys.map(|(key, _versions)| key.clone()).collect())
    }
}

impl Backend for Shared {
    type Snapshot = MemSnapshot;

    fn env(&self) -> &Env {
        &self.env
    }

    fn snapshot(self: &Arc<Self>) -> Result<MemSnapshot, KvError> {
        Ok(MemSnapshot {
            version: self.state.lock().current,
            shared: self.clone(),
        })
    }

    async fn commit(&self, request: CommitRequest) -> Result<CommitVersion, KvError> {
        self.state.lock().commit(&self.env, &request)
    }
}

impl State {
    fn commit(&mut self, env: &Env, request: &CommitRequest) -> Result<CommitVersion, KvError> {
        let version = CommitVersion(self.current.0 + 1);
        let latest = Latest(&self.keys);
        let mut group = Group::new(&latest);
        group.admit(&mut self.resolver, version, request)?;
        for (key, change) in group.into_changes() {
            self.log.push_back((version, key.clone()));
            self.keys.entry(key).or_default().push((version, change));
        }
        self.current = version;
        self.resolver.advance(env.now(), version);
        self.drop_old();
        Ok(version)
    }

    /// Drops the versions that nobody may read any more.
    fn drop_old(&mut self) {
        let oldest = self.resolver.oldest();
        while let Some((written, _key)) = self.log.front()
            && *written <= oldest
            && let Some((_version, key)) = self.log.pop_front()
        {
            let Some(versions) = self.keys.get_mut(&key) else {
                continue;
            };
            let readable = versions.partition_point(|(written, _value)| *written <= oldest);
            versions.drain(..readable.saturating_sub(1));
            if matches!(versions.as_slice(), [(written, None)] if *written <= oldest) {
                self.keys.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transaction::ReadMode;

    async fn set(kv: &MemKv, key: &[u8], value: Option<&[u8]>) {
        let mut txn = kv.begin();
        match value {
            Some(value) => txn.set(key, value),
            None => txn.clear(key),
        }
        txn.commit().await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn old_versions_are_dropped_when_nobody_may_read_them() {
        let kv = MemKv::new();
        let env = Env::seeded(1);
        for _ in 0..10 {
            set(&kv, b"kept", Some(b"x")).await;
            set(&kv, b"removed", Some(b"x")).await;
        }
        set(&kv, b"removed", None).await;
        let mut old = kv.begin();
        assert_eq!(old.get(b"removed", ReadMode::Snapshot).await, Ok(None));
        for _ in 0..3 {
            env.sleep(limits::TRANSACTION_AGE_MAX).await;
            set(&kv, b"other", Some(b"x")).await;
        }
        let state = kv.0.state.lock();
        assert_eq!(state.keys[&b"kept"[..]].len(), 1);
        assert!(!state.keys.contains_key(&b"removed"[..]));
    }
}
