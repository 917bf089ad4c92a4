//! The only file that calls fjall: reads of a snapshot, one batch at a time, and syncs of the journal.
//!
//! Users' keys stand in one keyspace as they are. The store's own keys start with 0xFF, which users' keys
//! never do. The version of the last commit is written with every batch, so it survives with exactly
//! the data that it belongs to.

use std::{io, path::Path, sync::Arc};

use bytes::Bytes;
use fjall::{
    AbstractTree, Database, Keyspace, KeyspaceCreateOptions, LsmError, PersistMode, Readable,
    compaction::Leveled,
};

use super::{config::EmbeddedConfig, journal::Journal};
use crate::{
    error::KvError,
    group::{Base, Changes},
    key::KeyRange,
    limits,
    transaction::{CommitVersion, RangeOptions, RangePage},
};

const KEYSPACE: &str = "data";
/// Where the last commit's version stands, as a little-endian u64.
const VERSION_KEY: &[u8] = b"\xff/version";
/// A table in memory is sealed at this size (see `rotator`). Some more wait to be written to disk under load.
pub(super) const MEMTABLE_BYTES: u64 = 8 << 20;
/// The size of a file. fjall's own choice of 64 MiB makes merges that need more than `space` keeps free.
const TABLE_BYTES: u64 = 16 << 20;
/// The journals of unwritten tables; fjall's smallest bound is 64 MiB.
const JOURNAL_BYTES_MAX: u64 = 128 << 20;

pub(super) struct Engine {
    database: Database,
    data: Keyspace,
    journal: Journal,
}

/// What to wait for when a batch is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Durability {
    OperatingSystem,
    StableStorage,
}

impl Engine {
    pub(super) fn open(path: &Path, config: &EmbeddedConfig) -> Result<Self, fjall::Error> {
        let database = Database::builder(path)
            .cache_size(config.cache_bytes)
            .worker_threads(config.worker_threads.max(1))
            .max_journaling_size(JOURNAL_BYTES_MAX)
            .open()?;
        let options = || {
            let merges = Leveled::default().with_table_target_size(TABLE_BYTES);
            KeyspaceCreateOptions::default()
                .max_memtable_size(u64::MAX)
                .compaction_strategy(Arc::new(merges))
        };
        let data = database.keyspace(KEYSPACE, options)?;
        Ok(Self {
            database,
            data,
            journal: Journal::new(path),
        })
    }

    /// Only the one who writes may call this, between two batches.
    pub(super) fn snapshot(&self) -> fjall::Snapshot {
        self.database.snapshot()
    }

    /// The version of the last commit; 0 in an empty store.
    pub(super) fn last_version(
        &self,
        snapshot: &fjall::Snapshot,
    ) -> Result<CommitVersion, KvError> {
        let Some(bytes) = self.get(snapshot, VERSION_KEY)? else {
            return Ok(CommitVersion(0));
        };
        let bytes = bytes.as_ref().try_into().map_err(|_| KvError::Corrupt {
            detail: format!("the version takes {} bytes instead of 8", bytes.len()),
        })?;
        Ok(CommitVersion(u64::from_le_bytes(bytes)))
    }

    pub(super) fn get(
        &self,
        snapshot: &fjall::Snapshot,
        key: &[u8],
    ) -> Result<Option<Bytes>, KvError> {
        let value = snapshot.get(&self.data, key).map_err(read_error)?;
        Ok(value.map(Bytes::from))
    }

    pub(super) fn page(
        &self,
        snapshot: &fjall::Snapshot,
        range: &KeyRange,
        options: RangeOptions,
    ) -> Result<RangePage, KvError> {
        let mut page = RangePage::default();
        let mut items = snapshot.range(&self.data, range.begin.as_ref()..range.end.as_ref());
        let mut bytes = 0;
        while let Some(item) = if options.reverse {
            items.next_back()
        } else {
            items.next()
        } {
            if page.items.len() == options.limit || bytes >= limits::PAGE_BYTES_MAX {
                page.more = true;
                break;
            }
            let (key, value) = item.into_inner().map_err(read_error)?;
            bytes += key.len() + value.len();
            page.items.push((key.into(), value.into()));
        }
        Ok(page)
    }

    /// Writes `changes` as one batch. After an error the engine takes no more writes, and whether this one
    /// took place shows when it is opened again.
    pub(super) fn write(
        &self,
        changes: Changes,
        version: CommitVersion,
        durability: Durability,
    ) -> Result<(), fjall::Error> {
        let mode = match durability {
            Durability::OperatingSystem => PersistMode::Buffer,
            Durability::StableStorage => PersistMode::SyncData,
        };
        let mut batch = self.database.batch().durability(Some(mode));
        for (key, change) in changes {
            match change {
                Some(value) => batch.insert(&self.data, key, value),
                None => batch.remove(&self.data, key),
            }
        }
        batch.insert(&self.data, VERSION_KEY, version.0.to_le_bytes());
        batch.commit()
    }

    /// The size of the table in memory.
    pub(super) fn memtable_bytes(&self) -> u64 {
        self.data.tree.active_memtable().size()
    }

    /// Seals the table in memory and has it written to disk in the background.
    pub(super) fn rotate(&self) -> Result<(), fjall::Error> {
        self.data.rotate_memtable().map(|_rotated| ())
    }

    /// Brings everything written so far onto stable storage.
    pub(super) fn sync(&self) -> Result<(), fjall::Error> {
        self.journal.sync()?;
        // Writes nothing: it tells whether fjall has met an error of its own, which it may have taken from us.
        self.database.persist(PersistMode::Buffer)
    }
}

/// The latest version, as the committer reads it.
pub(super) struct Latest<'a> {
    pub(super) engine: &'a Engine,
    pub(super) snapshot: &'a fjall::Snapshot,
}

impl Base for Latest<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        self.engine.get(self.snapshot, key)
    }

    fn keys(&self, range: &KeyRange) -> Result<Vec<Bytes>, KvError> {
        let bounds = range.begin.as_ref()..range.end.as_ref();
        self.snapshot
            .range(&self.engine.data, bounds)
            .map(|item| item.key().map(Bytes::from).map_err(read_error))
            .collect()
    }
}

fn read_error(error: fjall::Error) -> KvError {
    match error {
        fjall::Error::Io(error) | fjall::Error::Storage(LsmError::Io(error)) => KvError::Io {
            action: "read the key-value store",
            kind: error.kind(),
            detail: error.to_string(),
        },
        error => KvError::Corrupt {
            detail: error.to_string(),
        },
    }
}

/// What a failed write means, in words for an operator.
pub(super) fn write_failure(action: &str, error: &fjall::Error, free_bytes: u64) -> String {
    use io::ErrorKind::{QuotaExceeded, StorageFull};
    match error {
        fjall::Error::Io(error) if matches!(error.kind(), StorageFull | QuotaExceeded) => {
            format!("cannot {action}: {error}; make space and start again")
        }
        fjall::Error::Io(error) => format!("cannot {action}: {error}"),
        // The engine keeps the reason of a failure in the background to its log.
        fjall::Error::Poisoned => format!(
            "cannot {action}: an earlier write in the background failed (see the log); {free_bytes} bytes are free"
        ),
        error => format!("cannot {action}: {error}"),
    }
}
