//! Records in fjall, a log-structured tree: one keyspace, one batch and one fdatasync per write.
//!
//! Calls of fjall may block (it busy-waits when its own flushes lag), so each runs on a thread of its own kind.
//! The memory is bounded: a small table in memory, a small cache, one worker thread.
//!
//! fjall stops for good when its journal meets a full disk. So a reserve file stands beside it, and is given up
//! when the file system runs short: then records, and so removals, can still be written.
//! fjall cannot open what it was killed over while making it, so a new store is made under another name first.

mod copy;

use std::{
    fmt,
    fs::{self, File},
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use common::{env::Env, sync::Mutex};
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use rustix::fs::{FallocateFlags, fallocate, statvfs};

use super::{MetaStore, MetaStoreError, RecordChange};

const KEYSPACE: &str = "records";
/// A table in memory is written out at this size.
const MEMTABLE_BYTES: u64 = 4 << 20;
/// fjall's smallest bound for its journals.
const JOURNAL_BYTES_MAX: u64 = 64 << 20;
/// Enough for a journal. Less on disks of which that would be a large part.
const RESERVE_BYTES: u64 = 64 << 20;
const RESERVE_DISK_PARTS: u64 = 50;

/// Records on disk.
#[derive(Debug)]
pub struct FjallStore {
    env: Env,
    inner: Arc<Inner>,
}

struct Inner {
    path: PathBuf,
    /// Taken at close.
    open: Mutex<Option<Open>>,
    reserve: Reserve,
    /// Removed when the store goes.
    _copy: Option<copy::TemporaryDir>,
}

#[derive(Clone)]
struct Open {
    database: Database,
    records: Keyspace,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl FjallStore {
    /// Opens the store `meta` in `dir`, making it when it is missing.
    ///
    /// # Errors
    /// When the file system refuses or what is there cannot be read.
    pub async fn open(env: &Env, dir: &Path, cache_bytes: u64) -> Result<Self, MetaStoreError> {
        let dir = dir.to_owned();
        let inner = env.blocking(move || Inner::open(&dir, cache_bytes)).await?;
        Ok(Self {
            env: env.clone(),
            inner: Arc::new(inner),
        })
    }
}

impl FjallStore {
    /// Opens a copy of the store `meta` in `dir`: fjall writes whenever it opens, and `dir` must not change.
    ///
    /// # Errors
    /// When there is none, it cannot be copied, or what is there cannot be read.
    pub async fn open_copy(
        env: &Env,
        dir: &Path,
        cache_bytes: u64,
    ) -> Result<Self, MetaStoreError> {
        let dir = dir.to_owned();
        let name = format!("penstock-check-{:016x}", env.random_u64());
        let open = move || Inner::open_copy(&dir, &name, cache_bytes);
        let inner = env.blocking(open).await?;
        Ok(Self {
            env: env.clone(),
            inner: Arc::new(inner),
        })
    }
}

impl Inner {
    fn open_copy(dir: &Path, name: &str, cache_bytes: u64) -> Result<Self, MetaStoreError> {
        let path = dir.join("meta");
        let copied = copy::TemporaryDir::new(name).and_then(|temporary| {
            let to = temporary.path().join("meta");
            copy::copy_store(&path, &to)?;
            Ok((temporary, to))
        });
        let (temporary, to) = copied.map_err(|error| failure("copy", &path, error.to_string()))?;
        let open =
            open_database(&to, cache_bytes).map_err(|reason| failure("open", &path, reason))?;
        Ok(Self {
            reserve: Reserve::none(temporary.path()),
            path,
            open: Mutex::new(Some(open)),
            _copy: Some(temporary),
        })
    }

    fn open(dir: &Path, cache_bytes: u64) -> Result<Self, MetaStoreError> {
        let path = dir.join("meta");
        if !path.exists() {
            make(dir, &path, cache_bytes).map_err(|reason| failure("make", &path, reason))?;
        }
        let open =
            open_database(&path, cache_bytes).map_err(|reason| failure("open", &path, reason))?;
        Ok(Self {
            reserve: Reserve::new(dir),
            path,
            open: Mutex::new(Some(open)),
            _copy: None,
        })
    }

    fn write(&self, changes: Vec<RecordChange>) -> Result<(), MetaStoreError> {
        self.reserve.give_up_if_short();
        self.with_open("write", |Open { database, records }| {
            let mut batch = database.batch().durability(Some(PersistMode::SyncData));
            for (key, value) in changes {
                match value {
                    Some(value) => batch.insert(records, key, value),
                    None => batch.remove(records, key),
                }
            }
            batch.commit().map_err(|error| error.to_string())
        })
    }

    fn scan(&self, prefix: u8, visit: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), MetaStoreError> {
        self.with_open("read", |Open { records, .. }| {
            for item in records.prefix([prefix]) {
                let (key, value) = item.into_inner().map_err(|error| error.to_string())?;
                visit(&key, &value);
            }
            Ok(())
        })
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, MetaStoreError> {
        self.with_open("read", |Open { records, .. }| {
            let value = records.get(key).map_err(|error| error.to_string())?;
            Ok(value.map(|value| value.to_vec()))
        })
    }

    fn with_open<T>(
        &self,
        action: &'static str,
        work: impl FnOnce(&Open) -> Result<T, String>,
    ) -> Result<T, MetaStoreError> {
        // Not under the lock: a write may take long, and reads need not wait for it.
        let open = self.open.lock().clone();
        let result = match &open {
            Some(open) => guarded(|| work(open)),
            None => Err("the store is closed".to_owned()),
        };
        result.map_err(|reason| failure(action, &self.path, reason))
    }
}

/// fjall panics over some kinds of damage; to us that is an error like the others.
fn guarded<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(text.unwrap_or_else(|| "unknown damage".to_owned()))
    })
}

#[async_trait]
impl MetaStore for FjallStore {
    fn scan(&self, prefix: u8, visit: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), MetaStoreError> {
        self.inner.scan(prefix, visit)
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, MetaStoreError> {
        self.inner.get(key)
    }

    async fn write(&self, changes: Vec<RecordChange>) -> Result<(), MetaStoreError> {
        let inner = self.inner.clone();
        self.env.blocking(move || inner.write(changes)).await
    }

    async fn close(&self) {
        let inner = self.inner.clone();
        // Dropping the database waits for its threads.
        self.env
            .blocking(move || drop(inner.open.lock().take()))
            .await;
    }
}

fn failure(action: &'static str, path: &Path, reason: String) -> MetaStoreError {
    MetaStoreError {
        action,
        path: path.to_owned(),
        reason,
    }
}

fn make(dir: &Path, path: &Path, cache_bytes: u64) -> Result<(), String> {
    let new_path = dir.join("meta.new");
    let io = |error: io::Error| error.to_string();
    if new_path.exists() {
        fs::remove_dir_all(&new_path).map_err(io)?;
    }
    let open = open_database(&new_path, cache_bytes)?;
    let synced = open.database.persist(PersistMode::SyncAll);
    synced.map_err(|error| error.to_string())?;
    drop(open);
    fs::rename(&new_path, path).map_err(io)?;
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(io)
}

fn open_database(path: &Path, cache_bytes: u64) -> Result<Open, String> {
    let open = || -> Result<Open, ::fjall::Error> {
        let database = Database::builder(path)
            .cache_size(cache_bytes)
            .worker_threads(1)
            .max_journaling_size(JOURNAL_BYTES_MAX)
            .open()?;
        let options = || KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE_BYTES);
        let records = database.keyspace(KEYSPACE, options)?;
        Ok(Open { database, records })
    };
    guarded(|| open().map_err(|error| error.to_string()))
}

/// The reserve file. Having none is no failure: a disk may be full from the start.
struct Reserve {
    dir: PathBuf,
    path: PathBuf,
    bytes: u64,
    /// Whether the file is there.
    held: Mutex<bool>,
}

impl Reserve {
    /// None is held: the store is a copy.
    fn none(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            path: dir.join("reserve"),
            bytes: 0,
            held: Mutex::new(false),
        }
    }

    fn new(dir: &Path) -> Self {
        let disk_bytes = statvfs(dir).map_or(0, |status| status.f_blocks * status.f_frsize);
        let reserve = Self {
            dir: dir.to_owned(),
            path: dir.join("reserve"),
            bytes: RESERVE_BYTES.min(disk_bytes / RESERVE_DISK_PARTS),
            held: Mutex::new(false),
        };
        if let Err(error) = reserve.take_if_plenty() {
            tracing::warn!(%error, path = %reserve.path.display(), "no space for the reserve of the records");
        }
        reserve
    }

    fn available_bytes(&self) -> u64 {
        // Not knowing is no reason to act.
        statvfs(&self.dir).map_or(u64::MAX, |status| status.f_bavail * status.f_frsize)
    }

    /// Makes the file when it is missing and the file system has several times its size.
    fn take_if_plenty(&self) -> io::Result<()> {
        let exists = self.path.exists();
        *self.held.lock() = exists;
        if exists || self.bytes == 0 || self.available_bytes() < 4 * self.bytes {
            return Ok(());
        }
        let file = File::create(&self.path)?;
        match fallocate(&file, FallocateFlags::empty(), 0, self.bytes) {
            Ok(()) => {
                *self.held.lock() = true;
                Ok(())
            }
            Err(error) => {
                fs::remove_file(&self.path)?;
                Err(error.into())
            }
        }
    }

    /// About a microsecond when there is enough space.
    fn give_up_if_short(&self) {
        let mut held = self.held.lock();
        if !*held || self.available_bytes() >= self.bytes / 2 {
            return;
        }
        tracing::warn!(
            path = %self.path.display(),
            "the file system is nearly full; the records use their reserve now, remove something"
        );
        match fs::remove_file(&self.path) {
            Ok(()) => *held = false,
            Err(error) => {
                tracing::error!(%error, path = %self.path.display(), "cannot remove the reserve");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents(store: &FjallStore) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut records = Vec::new();
        let mut visit = |key: &[u8], value: &[u8]| records.push((key.to_vec(), value.to_vec()));
        store.scan(b'a', &mut visit).unwrap();
        records
    }

    #[tokio::test]
    async fn batches_survive_reopening_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let env = Env::real();
        let store = FjallStore::open(&env, dir.path(), 1 << 20).await.unwrap();
        let set = |key: &str, value: &str| (key.into(), Some(value.into()));
        store
            .write(vec![set("a2", "1"), set("a1", "2"), set("b1", "9")])
            .await
            .unwrap();
        store
            .write(vec![("a2".into(), None), set("a3", "3")])
            .await
            .unwrap();
        store.close().await;
        assert!(store.write(vec![set("a4", "4")]).await.is_err());
        let store = FjallStore::open(&env, dir.path(), 1 << 20).await.unwrap();
        let expected: Vec<(Vec<u8>, Vec<u8>)> =
            vec![("a1".into(), "2".into()), ("a3".into(), "3".into())];
        assert_eq!(contents(&store), expected);
        assert_eq!(store.get(b"b1").unwrap(), Some(b"9".to_vec()));
        assert_eq!(store.get(b"a2").unwrap(), None);
    }

    #[tokio::test]
    async fn a_copy_shows_the_same_and_leaves_the_original_alone() {
        let dir = tempfile::tempdir().unwrap();
        let env = Env::real();
        let missing = FjallStore::open_copy(&env, dir.path(), 1 << 20).await;
        assert!(missing.unwrap_err().to_string().contains("meta"));
        let store = FjallStore::open(&env, dir.path(), 1 << 20).await.unwrap();
        // More than a table in memory holds, so that there are tables on disk.
        for batch in 0..9_u32 {
            let key = |index: u32| format!("a{batch}-{index:05}").into_bytes();
            let changes = (0..1000).map(|index| (key(index), Some(vec![b'x'; 1000])));
            store.write(changes.collect()).await.unwrap();
        }
        let expected = contents(&store);
        store.close().await;
        drop(store);
        let before = copy::fingerprint(dir.path());
        let copy = FjallStore::open_copy(&env, dir.path(), 1 << 20)
            .await
            .unwrap();
        let temporary = copy.inner._copy.as_ref().unwrap().path().to_owned();
        assert!(temporary.join("meta").is_dir());
        assert_eq!(contents(&copy), expected);
        let change = (b"a".to_vec(), Some(b"changed".to_vec()));
        copy.write(vec![change]).await.unwrap();
        copy.close().await;
        drop(copy);
        assert!(!temporary.exists());
        assert_eq!(copy::fingerprint(dir.path()), before);
        assert!(before.len() > 4, "{before:?}");
    }

    #[tokio::test]
    async fn a_half_made_store_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("meta.new")).unwrap();
        fs::write(dir.path().join("meta.new/0.jnl"), "torn").unwrap();
        let store = FjallStore::open(&Env::real(), dir.path(), 1 << 20)
            .await
            .unwrap();
        assert!(contents(&store).is_empty());
    }
}
