//! The newest snapshot of one member, in one file that is replaced by a rename.
//!
//! ```text
//! file = "PNSTSNAP" | u32 crc32c(body), little-endian | body (postcard: openraft's meta, then the state's bytes)
//! ```
//!
//! Invariant: an older snapshot never replaces a newer one, whoever finishes writing last.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use common::{env::Env, sync::Mutex};
use openraft::{BasicNode, SnapshotMeta};
use serde::{Deserialize, Serialize};
use types::codec;

use super::log_file::sync_dir_of;

const MAGIC: [u8; 8] = *b"PNSTSNAP";
const HEADER: usize = 12;

pub(crate) type Meta = SnapshotMeta<u64, BasicNode>;

/// A snapshot as it is stored.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Saved {
    pub(crate) meta: Meta,
    /// The encoded state.
    pub(crate) state: Vec<u8>,
}

/// See the module's text.
#[derive(Clone, Debug)]
pub(crate) struct SnapshotStore {
    env: Env,
    path: PathBuf,
    /// Held while the file is replaced, in blocking threads only.
    current: Arc<Mutex<Option<Meta>>>,
}

impl SnapshotStore {
    /// The store of `dir`.
    pub(crate) async fn open(env: &Env, dir: &Path) -> io::Result<Self> {
        let store = Self {
            env: env.clone(),
            path: dir.join("raft.snapshot"),
            current: Arc::default(),
        };
        let found = store.load().await?.map(|saved| saved.meta);
        *store.current.lock() = found;
        Ok(store)
    }

    /// The newest snapshot.
    pub(crate) async fn load(&self) -> io::Result<Option<Saved>> {
        let path = self.path.clone();
        self.env.blocking(move || read(&path)).await
    }

    /// Stores a snapshot, unless there is a newer one.
    pub(crate) async fn save(&self, saved: Saved) -> io::Result<()> {
        let (path, current) = (self.path.clone(), self.current.clone());
        self.env
            .blocking(move || {
                let mut current = current.lock();
                let newer = |meta: &Meta| meta.last_log_id > saved.meta.last_log_id;
                if current.as_ref().is_some_and(newer) {
                    return Ok(());
                }
                write(&path, &saved)?;
                *current = Some(saved.meta);
                Ok(())
            })
            .await
    }
}

fn read(path: &Path) -> io::Result<Option<Saved>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let damage = |what: &str| {
        let text = format!(
            "{}: {what}; restore the file, or empty this member's data directory so that the others fill it anew",
            path.display()
        );
        io::Error::new(io::ErrorKind::InvalidData, text)
    };
    let (Some(header), Some(body)) = (bytes.first_chunk::<HEADER>(), bytes.get(HEADER..)) else {
        return Err(damage("cut short"));
    };
    if header[..8] != MAGIC || header[8..] != crc32c::crc32c(body).to_le_bytes() {
        return Err(damage("damaged, or not of this release"));
    }
    let saved = codec::decode_body(body).map_err(|error| damage(&error.to_string()))?;
    Ok(Some(saved))
}

fn write(path: &Path, saved: &Saved) -> io::Result<()> {
    let body = codec::encode_body(saved);
    let temporary = path.with_extension("snapshot-new");
    let mut file = fs::File::create(&temporary)?;
    file.write_all(&MAGIC)?;
    file.write_all(&crc32c::crc32c(&body).to_le_bytes())?;
    file.write_all(&body)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    sync_dir_of(path)
}

#[cfg(test)]
mod tests {
    use openraft::{CommittedLeaderId, LogId};

    use super::*;

    fn saved(index: u64) -> Saved {
        Saved {
            meta: Meta {
                last_log_id: Some(LogId::new(CommittedLeaderId::new(1, 1), index)),
                snapshot_id: index.to_string(),
                ..Meta::default()
            },
            state: vec![7; 100],
        }
    }

    #[tokio::test]
    async fn an_older_snapshot_does_not_replace_a_newer_one() {
        let (dir, env) = (tempfile::tempdir().unwrap(), Env::real());
        let store = SnapshotStore::open(&env, dir.path()).await.unwrap();
        store.save(saved(5)).await.unwrap();
        store.save(saved(4)).await.unwrap();
        let again = SnapshotStore::open(&env, dir.path()).await.unwrap();
        again.save(saved(3)).await.unwrap();
        let loaded = again.load().await.unwrap().unwrap();
        assert_eq!(loaded.meta.snapshot_id, "5");
        assert_eq!(loaded.state, [7; 100]);
    }

    #[tokio::test]
    async fn a_damaged_snapshot_refuses_to_start() {
        let (dir, env) = (tempfile::tempdir().unwrap(), Env::real());
        let store = SnapshotStore::open(&env, dir.path()).await.unwrap();
        store.save(saved(5)).await.unwrap();
        let mut bytes = fs::read(&store.path).unwrap();
        for at in 0..bytes.len() {
            bytes[at] ^= 1;
            fs::write(&store.path, &bytes).unwrap();
            assert!(
                SnapshotStore::open(&env, dir.path()).await.is_err(),
                "byte {at}"
            );
            bytes[at] ^= 1;
        }
    }
}
