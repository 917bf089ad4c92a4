//! Changing chunks: a new version is written where nothing that is referred to stands, and becomes pending.
//!
//! 1. `Shape`: what the new content consists of. Pure.
//! 2. `Plan`: where its bytes go. Pure.
//! 3. `Inner::write_content`: puts the bytes there, or into memory when they go into the log.
//! 4. `Inner::publish`: the record changes in memory and goes to the committer, which makes it durable.
//!
//! An update runs in a task of its own to its end, also when its caller goes away: its slot must not become free
//! while the device still writes to it.

mod content;
mod plan;
mod shape;

use std::sync::Arc;

use types::{chunk::ChunkMeta, version::ChainVersion, version::ChunkVersion};

use self::{
    content::{Base, Written},
    shape::Shape,
};
use super::{ChunkKey, Engine, Inner, NewRecord, UpdateRequest, Updated};
use crate::{
    blocks::Blocks,
    channels::StoredDone,
    checksums::Hashed,
    chunk_meta::{Content, Head, Logged, Record, StoredHead, Version},
    committer::{Durability, Urgency},
    error::EngineError,
    log::{LogData, entry::LogEntry},
};

impl Engine {
    /// Makes an update durable as the pending version, in place of one that may be pending. It applies to the
    /// committed content.
    ///
    /// # Errors
    /// `NoSpace`, `OutOfRange`, `InvalidRequest`, `PayloadMismatch`, `UnknownTarget`; `ChunkCorrupt` and
    /// `ReadFailed` when bytes that stay cannot be read; `VersionMismatch` when another version was committed
    /// meanwhile; `Failed`. After all but the last nothing has changed.
    pub async fn update(&self, request: UpdateRequest) -> Result<Updated, EngineError> {
        self.update_hashed(request, None).await
    }

    /// The same for a payload of which the caller has the checksums; they must be those of the request's payload.
    ///
    /// # Errors
    /// As `update`.
    pub async fn update_hashed(
        &self,
        request: UpdateRequest,
        hashed: Option<Hashed>,
    ) -> Result<Updated, EngineError> {
        self.inner.health.check()?;
        let inner = self.inner.clone();
        self.to_its_end(async move { inner.update(request, hashed).await })
            .await
    }

    /// Moves the committed bytes of a chunk to another slot, as compaction does by itself; false when there are none, something
    /// is pending or there is no slot. It is durable soon, or with the next `sync`.
    ///
    /// # Errors
    /// `ChunkCorrupt` and `ReadFailed` when the bytes cannot be read, `UnknownTarget`, `Failed`.
    pub async fn relocate(&self, key: ChunkKey) -> Result<bool, EngineError> {
        self.inner.health.check()?;
        let inner = self.inner.clone();
        self.to_its_end(async move { inner.relocate(key).await })
            .await
    }

    /// Runs work on slots in a task of its own. It goes on when the caller goes away.
    async fn to_its_end<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, EngineError>> + Send + 'static,
    ) -> Result<T, EngineError> {
        let result = self.inner.env.spawn("engine-update", work).join().await;
        result.unwrap_or_else(|| {
            let reason = "a change of a chunk ended in the middle".to_owned();
            Err(self.inner.health.fail(reason))
        })
    }

    /// Makes the pending version the committed one, under this chain version. Fine when it is committed already.
    /// It is durable soon, or with the next `sync`.
    ///
    /// # Errors
    /// `VersionMismatch` when another version or none is pending, `UnknownTarget`, `Failed`.
    pub async fn commit(
        &self,
        key: ChunkKey,
        update_version: ChunkVersion,
        chain_version: ChainVersion,
    ) -> Result<ChunkMeta, EngineError> {
        self.inner.health.check()?;
        self.inner.committer.room().await?;
        let mut state = self.inner.state.lock();
        let record = state.target(key.target)?.chunks.get(&key.chunk).cloned();
        let record = record.unwrap_or_default();
        match (&record.committed, &record.pending) {
            (_, Some(pending)) if pending.head.version == update_version => {
                let head = StoredHead {
                    chain_version,
                    ..pending.head.into()
                };
                let committed = Version {
                    head: head.into(),
                    content: pending.content.as_ref().map(Content::share),
                };
                let record = Record {
                    committed: Some(Arc::new(committed)),
                    pending: None,
                };
                let meta = record.meta(key.chunk);
                let entry = LogEntry::Commit {
                    key: key.into(),
                    version: update_version,
                    chain_version,
                };
                // Nobody waits: the record of the pending version is durable, and that is enough (W6).
                let mut change = NewRecord::plain(Some(record), &entry);
                let done = StoredDone::of(key.chunk, &head);
                change.channels = state.put_channels(key.target, done);
                drop(self.inner.install(&mut state, key, change, Urgency::Later));
                Ok(meta)
            }
            (Some(committed), _) if committed.head.version == update_version => {
                Ok(record.meta(key.chunk))
            }
            _ => Err(mismatch(key, update_version, Some(&record))),
        }
    }

    /// Drops the pending version, durably. Fine when nothing is pending.
    ///
    /// # Errors
    /// `UnknownTarget`, `Failed`.
    pub async fn discard_pending(&self, key: ChunkKey) -> Result<(), EngineError> {
        self.inner.health.check()?;
        let durability = {
            let mut state = self.inner.state.lock();
            match state.target(key.target)?.chunks.get(&key.chunk) {
                Some(record) if record.pending.is_some() => {
                    let committed = record.committed.clone();
                    let record = committed.map(|committed| Record {
                        committed: Some(committed),
                        pending: None,
                    });
                    let entry = LogEntry::Discard { key: key.into() };
                    let change = NewRecord::plain(record, &entry);
                    self.inner
                        .install(&mut state, key, change, Urgency::Awaited)
                }
                _ => return Ok(()),
            }
        };
        durability.wait(&self.inner.health).await
    }

    /// Forgets a chunk and all its versions, durably. Fine when it was never heard of.
    ///
    /// # Errors
    /// `UnknownTarget`, `Failed`.
    pub async fn drop_chunk(&self, key: ChunkKey) -> Result<(), EngineError> {
        self.inner.health.check()?;
        let durability = {
            let mut state = self.inner.state.lock();
            if !state.target(key.target)?.chunks.contains_key(&key.chunk) {
                return Ok(());
            }
            self.inner
                .install(&mut state, key, NewRecord::dropped(key), Urgency::Awaited)
        };
        durability.wait(&self.inner.health).await
    }
}

impl Inner {
    async fn update(
        &self,
        request: UpdateRequest,
        hashed: Option<Hashed>,
    ) -> Result<Updated, EngineError> {
        self.log_room().await?;
        self.committer.room().await?;
        loop {
            if let Some(updated) = self.try_update(&request, hashed.as_ref()).await? {
                return Ok(updated);
            }
            // The chunk was moved to another slot meanwhile, which happens to a chunk now and then.
        }
    }

    /// `None` when the chunk was moved to another slot meanwhile.
    async fn try_update(
        &self,
        request: &UpdateRequest,
        hashed: Option<&Hashed>,
    ) -> Result<Option<Updated>, EngineError> {
        let base = self.committed(request.key)?;
        let mut shape = Shape::of(base.as_ref().map(|base| &base.head), request)?;
        let payload = request.payload.as_ref().map(|payload| payload.len());
        shape.hashed = hashed
            .filter(|hashed| payload == Some(hashed.len()))
            .cloned();
        let mut written = self.write(request, base.as_ref(), &shape).await;
        if matches!(written, Err(EngineError::NoSpace { .. })) && !self.committer.is_idle() {
            // Slots become free once what replaced them is durable.
            self.committer.flush().wait(&self.health).await?;
            written = self.write(request, base.as_ref(), &shape).await;
        }
        let Some(written) = written? else {
            return Ok(None);
        };
        let updated = Updated {
            length: shape.length,
            checksum: written.checksum,
        };
        let published = self.publish(request, base.as_ref(), &shape, written)?;
        let Some(durability) = published else {
            return Ok(None);
        };
        durability.wait(&self.health).await?;
        Ok(Some(updated))
    }

    fn committed(&self, key: ChunkKey) -> Result<Option<Arc<Version>>, EngineError> {
        let state = self.state.lock();
        let record = state.target(key.target)?.chunks.get(&key.chunk);
        Ok(record.and_then(|record| record.committed.clone()))
    }

    /// `None` when the chunk was moved to another slot meanwhile.
    async fn write(
        &self,
        request: &UpdateRequest,
        base: Option<&Arc<Version>>,
        shape: &Shape,
    ) -> Result<Option<Written>, EngineError> {
        let existing = base.filter(|base| base.content.is_some());
        let source = match existing {
            None => None,
            Some(version) => match self.source(request.key, version).await? {
                Some(source) => Some((version.head.checksum, source)),
                // It was replaced or moved, and that is in the store already.
                None => {
                    let current = self.committed(request.key)?;
                    let moved = current.is_some_and(|current| {
                        current.head == version.head && !Arc::ptr_eq(&current, version)
                    });
                    let mismatch = || mismatch(request.key, request.update_version, None);
                    return if moved { Ok(None) } else { Err(mismatch()) };
                }
            },
        };
        let base = source.as_ref().map(|(checksum, source)| Base {
            checksum: *checksum,
            source,
        });
        self.write_content(request, base, shape).await.map(Some)
    }

    /// `None` when the chunk was moved to another slot meanwhile.
    fn publish(
        &self,
        request: &UpdateRequest,
        base: Option<&Arc<Version>>,
        shape: &Shape,
        written: Written,
    ) -> Result<Option<Durability>, EngineError> {
        let key = request.key;
        let head = StoredHead {
            version: request.update_version,
            chain_version: request.chain_version,
            exists: shape.exists,
            length: shape.length,
            checksum: written.checksum,
            tag: request.tag,
            seconds: StoredHead::seconds_of(self.env.wall()),
        };
        let entry = LogEntry::Update {
            key: key.into(),
            head,
            body: written.body,
        };
        let encoded = entry.encode();
        let content = written.content.as_ref();
        let dirty = content.filter(|content| written.in_slot || content.slot.is_beyond_durable());
        let dirty = dirty.map(|content| content.slot.position().group);
        let pending = Arc::new(Version {
            head: head.into(),
            content: written.content,
        });
        let mut state = self.state.lock();
        let current = state.target(key.target)?.chunks.get(&key.chunk);
        let committed = current.and_then(|record| record.committed.clone());
        match Applies::of(committed.as_deref(), base.map(|base| &**base)) {
            Applies::Yes => {
                let own = written.payload.as_ref().map(|(data, _)| data);
                forget_folded(&pending, committed.as_ref(), base, own);
            }
            Applies::ToMoved => return Ok(None),
            Applies::No => return Err(mismatch(key, request.update_version, current)),
        }
        let record = Record {
            committed,
            pending: Some(pending),
        };
        let change = NewRecord {
            record: Some(record),
            encoded,
            payload: written.payload,
            dirty,
            channels: Vec::new(),
        };
        Ok(Some(self.install(
            &mut state,
            key,
            change,
            Urgency::Awaited,
        )))
    }
}

/// Blocks of the base may have been folded since the update began. The log says so before it says what the update made, so
/// after a replay the new version has them in the slot; and so it has here. `own` are its own blocks in the log.
fn forget_folded(
    pending: &Version,
    committed: Option<&Arc<Version>>,
    base: Option<&Arc<Version>>,
    own: Option<&Arc<LogData>>,
) {
    if committed.map(Arc::as_ptr) == base.map(Arc::as_ptr) {
        return;
    }
    let detail = |version: &Version| version.content.as_ref()?.detail.load_full();
    let (Some(content), Some(made)) = (&pending.content, detail(pending)) else {
        return;
    };
    let still_logged = committed.and_then(|committed| detail(committed));
    let still_logged = still_logged.as_ref().map_or(&[][..], |left| &left.overlay);
    let mut overlay = made.overlay.clone();
    overlay.retain(|(block, logged)| {
        let is_here = |left: &Logged| Arc::ptr_eq(&left.data, &logged.data) && left.at == logged.at;
        let at = still_logged.binary_search_by_key(block, |(block, _)| *block);
        own.is_some_and(|own| Arc::ptr_eq(own, &logged.data))
            || at.is_ok_and(|at| is_here(&still_logged[at].1))
    });
    if overlay.len() < made.overlay.len() {
        let sums = made.sums.clone();
        content
            .detail
            .store(Some(Arc::new(Blocks { sums, overlay })));
    }
}

/// Whether an update that was made for one version may be applied to the committed one.
enum Applies {
    /// They are the same version in the same slot.
    Yes,
    /// The same version, moved to another slot.
    ToMoved,
    No,
}

impl Applies {
    fn of(committed: Option<&Version>, base: Option<&Version>) -> Self {
        match (committed, base) {
            (None, None) => Self::Yes,
            (Some(committed), Some(base)) if committed.is_same(base) => Self::Yes,
            (Some(committed), Some(base)) if committed.head == base.head => Self::ToMoved,
            _ => Self::No,
        }
    }
}

fn mismatch(key: ChunkKey, wanted: ChunkVersion, record: Option<&Record>) -> EngineError {
    let version = |version: &Option<Arc<Version>>| {
        let head: Option<Head> = version.as_ref().map(|version| version.head);
        head.map(|head| head.version)
    };
    EngineError::VersionMismatch {
        chunk: key.chunk,
        wanted,
        committed: record
            .and_then(|record| version(&record.committed))
            .unwrap_or_default(),
        pending: record.and_then(|record| version(&record.pending)),
    }
}

#[cfg(test)]
mod tests {
    use common::{buf::BufPool, env::Env};
    use types::{
        checksum::Checksum,
        chunk::{ChunkId, Update},
        id::{ChainId, InodeId, TargetId},
    };

    use super::*;
    use crate::{
        config::EngineConfig,
        device::mem::{MemDevice, PowerSwitch},
        engine::Change,
        meta_store::mem::MemStore,
    };

    fn write(key: ChunkKey, version: u32, offset: u32, bytes: &[u8]) -> UpdateRequest {
        UpdateRequest {
            key,
            chunk_size: 1 << 20,
            change: Change::Update(Update::Write {
                offset,
                length: u32::try_from(bytes.len()).unwrap(),
            }),
            update_version: ChunkVersion(version),
            chain_version: ChainVersion(1),
            tag: None,
            payload: Some(BufPool::new(0).copy_from(bytes).freeze()),
            payload_checksum: Checksum::of(bytes),
        }
    }

    /// An update that began before blocks were folded is published after it.
    #[tokio::test]
    async fn what_was_folded_meanwhile_lies_in_the_slot_in_a_new_version_too() {
        let (env, power) = (Env::seeded(1), PowerSwitch::lasting());
        let device = Arc::new(MemDevice::new(&env, power.clone()));
        let (store, pool) = (Arc::new(MemStore::new(power)), BufPool::new(1 << 20));
        let config = EngineConfig {
            log_bytes: 1 << 20,
            preallocate_bytes: 1 << 20,
            ..EngineConfig::default()
        };
        let opened = Engine::open_on(&env, device, store, config, pool).await;
        let (engine, target) = (opened.unwrap(), TargetId(1));
        engine.create_target(target, ChainId(1)).await.unwrap();
        let chunk = ChunkId {
            inode: InodeId(1),
            index: 0,
        };
        let key = ChunkKey { target, chunk };
        for (version, bytes) in [(1, &[1; 100_000][..]), (2, &[2; 4096])] {
            let request = write(key, version, 0, bytes);
            engine.update(request).await.unwrap();
            let committed = engine.commit(key, ChunkVersion(version), ChainVersion(1));
            committed.await.unwrap();
        }
        let inner = &engine.inner;
        let request = write(key, 3, 5 * 4096, &[3; 4096]);
        let base = inner.committed(key).unwrap();
        let folded = inner.fold(&inner.log.needed()).await.unwrap();
        assert_eq!(folded.blocks, 1);
        let shape = Shape::of(base.as_ref().map(|base| &base.head), &request).unwrap();
        let written = inner.write(&request, base.as_ref(), &shape).await.unwrap();
        let published = inner.publish(&request, base.as_ref(), &shape, written.unwrap());
        let durability = published.unwrap().unwrap();
        durability.wait(&inner.health).await.unwrap();
        let state = inner.state.lock();
        let pending = state.record(key).unwrap().pending.as_ref().unwrap();
        let detail = pending.content.as_ref().unwrap().detail.load_full();
        let blocks: Vec<u32> = detail
            .unwrap()
            .overlay
            .iter()
            .map(|&(block, _)| block)
            .collect();
        assert_eq!(blocks, [5]);
    }
}
