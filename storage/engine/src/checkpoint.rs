//! Brings the records that the log made durable into the record store, so that the log need not be kept for ever.
//!
//! Invariant: after a checkpoint the store is exactly the state after one batch of the log, and says which; a replay
//! begins with the next one.
//!
//! The store's records may refer to blocks in the log that no record in memory refers to any more. So each checkpoint
//! holds the segments that records needed at its moment, until the next one is done.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use common::{env::Env, sync::Mutex};
use tokio::sync::Notify;
use types::codec;

use crate::{
    chunk_meta::{
        ChunkKey, Record, RecordKey, StoredPosition, StoredSums, StoredVersionSums, checksums_to,
        decode_sums, encode_log_start, encode_target,
    },
    committer::Value,
    config::EngineConfig,
    error::EngineError,
    health::Health,
    log::{Appended, Log, LogStart, Segment},
    meta_store::{MetaStore, MetaStoreError, RecordChange},
    sums_cache::SumsCache,
};

/// A checkpoint is due after this part of the log was written.
const LOG_PARTS: u64 = 8;
/// Or after so many records changed: bounds the memory and the size of the store's batch.
const RECORDS_MAX: usize = 32_768;

pub(crate) struct Checkpointer {
    store: Arc<dyn MetaStore>,
    health: Arc<Health>,
    sums: SumsCache,
    due_bytes: u64,
    /// How long the store may take.
    limit: Duration,
    env: Env,
    changed: Mutex<Changed>,
    /// What the records of the last checkpoint may refer to.
    needed: Mutex<Vec<Arc<Segment>>>,
    /// Told when a checkpoint is due.
    pub(crate) wake: Arc<Notify>,
}

#[derive(Default)]
struct Changed {
    records: BTreeMap<RecordKey, Value>,
    /// Bytes of the log since the last checkpoint.
    bytes: u64,
    start: Option<LogStart>,
}

impl std::fmt::Debug for Checkpointer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let records = self.changed.lock().records.len();
        f.debug_struct("Checkpointer")
            .field("records", &records)
            .finish_non_exhaustive()
    }
}

impl Checkpointer {
    pub(crate) fn new(
        env: &Env,
        store: Arc<dyn MetaStore>,
        health: Arc<Health>,
        config: &EngineConfig,
        wake: Arc<Notify>,
    ) -> Self {
        Self {
            store,
            health,
            sums: SumsCache::new(config.sums_cache_bytes),
            due_bytes: config.log_bytes / LOG_PARTS,
            limit: config.hang_limit(),
            env: env.clone(),
            changed: Mutex::default(),
            needed: Mutex::default(),
            wake,
        }
    }

    pub(crate) fn sums(&self) -> &SumsCache {
        &self.sums
    }

    /// A batch has become durable.
    pub(crate) fn add(&self, changes: Vec<(RecordKey, Value)>, at: &Appended) {
        let mut changed = self.changed.lock();
        changed.records.extend(changes);
        changed.bytes += at.bytes;
        changed.start = Some(at.next());
        if changed.is_due(self.due_bytes) {
            self.wake.notify_one();
        }
    }

    /// Changes that were found in the log when the disk was opened, and the segments that records refer to.
    pub(crate) fn add_found(
        &self,
        changes: Vec<(RecordKey, Value)>,
        start: LogStart,
        needed: Vec<Arc<Segment>>,
    ) {
        let mut changed = self.changed.lock();
        changed.records.extend(changes);
        changed.start = Some(start);
        *self.needed.lock() = needed;
    }

    pub(crate) fn is_due(&self) -> bool {
        self.changed.lock().is_due(self.due_bytes)
    }

    /// Writes what has changed into the store. One call at a time.
    pub(crate) async fn run(&self, log: &Log) -> Result<(), EngineError> {
        self.health.check()?;
        let (mut changed, needed) = {
            let mut changed = self.changed.lock();
            // Under the lock: what a batch replaces is let go only after `add`.
            (std::mem::take(&mut *changed), log.needed())
        };
        let Some(start) = changed.start else {
            // The store has what memory has, and needs no more than that.
            self.hold(needed);
            return Ok(());
        };
        let records = std::mem::take(&mut changed.records);
        let store = self.store.clone();
        let encoded = self.env.blocking(move || encode(&*store, records, start));
        let written = async {
            let (records, changes) = encoded.await?;
            self.store.write(changes).await?;
            Ok::<_, MetaStoreError>(records)
        };
        let written = self.env.timeout(self.limit, written).await;
        let result = written.unwrap_or_else(|_| {
            Err(MetaStoreError {
                action: "write",
                path: "meta".into(),
                reason: format!("the store has not answered for {:?}", self.limit),
            })
        });
        let records = result.map_err(|error| self.health.fail(error.to_string()))?;
        for value in records.values() {
            if let Value::Chunk(record) = value
                && let Some(committed) = &record.committed
            {
                self.sums.note(committed);
            }
        }
        self.hold(needed);
        log.release_before(start);
        Ok(())
    }

    fn hold(&self, needed: Vec<Arc<Segment>>) {
        let before = std::mem::replace(&mut *self.needed.lock(), needed);
        // Not under the lock: segments may go.
        drop(before);
    }
}

impl Changed {
    fn is_due(&self, due_bytes: u64) -> bool {
        self.bytes > due_bytes || self.records.len() > RECORDS_MAX
    }
}

type Records = BTreeMap<RecordKey, Value>;

/// The changes as the store takes them. Blocks.
fn encode(
    store: &dyn MetaStore,
    records: Records,
    start: LogStart,
) -> Result<(Records, Vec<RecordChange>), MetaStoreError> {
    let mut changes = vec![(
        RecordKey::LogStart.to_bytes(),
        Some(encode_log_start(start)),
    )];
    for (&key, value) in &records {
        let stored = match value {
            Value::Chunk(record) => Some(codec::encode(&record.stored())),
            Value::Target(chain) => Some(encode_target(*chain)),
            Value::Channel(channel) => Some(codec::encode(channel)),
            Value::Gone => None,
        };
        changes.push((key.to_bytes(), stored));
        if let RecordKey::Chunk(key) = key {
            let sums = match value {
                Value::Chunk(record) => sums_of(store, key, record)?,
                Value::Target(_) | Value::Channel(_) | Value::Gone => None,
            };
            let sums = sums.map(|sums| codec::encode(&sums));
            changes.push((RecordKey::Sums(key).to_bytes(), sums));
        }
    }
    Ok((records, changes))
}

/// The checksums of a record. Those that are not in memory stand in the store already.
fn sums_of(
    store: &dyn MetaStore,
    key: ChunkKey,
    record: &Record,
) -> Result<Option<StoredSums>, MetaStoreError> {
    let mut sums = StoredSums::default();
    for version in record.versions() {
        let Some(content) = &version.content else {
            continue;
        };
        let position = content.slot.position();
        let stored = match content.detail.load_full() {
            Some(detail) => StoredVersionSums {
                version: version.head.version,
                checksum: version.head.checksum,
                length: version.head.length,
                position: StoredPosition::of(position),
                sums: checksums_to(&detail.sums),
            },
            None => {
                let before = load_sums(store, key)?;
                let found = before.of(&version.head, position);
                found.cloned().ok_or_else(|| missing(key))?
            }
        };
        sums.versions.push(stored);
    }
    Ok((!sums.versions.is_empty()).then_some(sums))
}

/// The checksums of a chunk in the store. Blocks.
pub(crate) fn load_sums(
    store: &dyn MetaStore,
    key: ChunkKey,
) -> Result<StoredSums, MetaStoreError> {
    match store.get(&RecordKey::Sums(key).to_bytes())? {
        None => Ok(StoredSums::default()),
        Some(bytes) => decode_sums(&bytes).map_err(|error| MetaStoreError {
            action: "read",
            path: "meta".into(),
            reason: format!("the checksums of chunk {}: {error}", key.chunk),
        }),
    }
}

fn missing(key: ChunkKey) -> MetaStoreError {
    MetaStoreError {
        action: "read",
        path: "meta".into(),
        reason: format!("the checksums of chunk {} are missing", key.chunk),
    }
}
