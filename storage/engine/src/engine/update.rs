//! Changing chunks: a new version is written where nothing that is referred to stands, and becomes pending.
//!
//! 1. `Shape`: what the new content consists of. Pure.
//! 2. `Inner::write_content`: puts the bytes into a slot. Nothing to write for a removal or when the
//!    old bytes serve as they are; behind the committed bytes for an append that starts at a block; else into a new
//!    slot, copying what stays. Bytes that stay are verified when read and keep their checksums.
//! 3. `Inner::publish`: the record changes in memory and goes to the committer.
//!
//! An update runs in a task of its own to its end, also when its caller goes away: its slot must not become free
//! while the device still writes to it.

mod content;
mod shape;

use std::sync::Arc;

use types::{chunk::ChunkMeta, version::ChainVersion, version::ChunkVersion};

use self::{content::Written, shape::Shape};
use super::{ChunkKey, Engine, Inner, UpdateRequest, Updated};
use crate::{
    chunk_meta::{Record, Version},
    committer::{Durability, Urgency},
    error::EngineError,
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
        self.inner.health.check()?;
        let inner = self.inner.clone();
        let task = async move { inner.update(request).await };
        let result = self.inner.env.spawn("engine-update", task).join().await;
        result.unwrap_or_else(|| {
            let reason = "an update ended in the middle".to_owned();
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
        state.target(key.target)?;
        let record = state.chunks.get(&key).cloned();
        let versions = record
            .as_deref()
            .map(|record| (&record.committed, &record.pending));
        match versions {
            Some((_, Some(pending))) if pending.version == update_version => {
                let record = Arc::new(Record {
                    committed: Some(Arc::new(Version {
                        chain_version,
                        ..(**pending).clone()
                    })),
                    pending: None,
                });
                let meta = record.meta(key.chunk);
                // Nobody waits: the record of the pending version is durable, and that is enough (W6).
                drop(
                    self.inner
                        .install(&mut state, key, Some(record), None, Urgency::Later),
                );
                Ok(meta)
            }
            Some((Some(committed), _)) if committed.version == update_version => {
                let record = record.as_ref().expect("its committed version was matched");
                Ok(record.meta(key.chunk))
            }
            _ => Err(mismatch(key, update_version, record.as_deref())),
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
            state.target(key.target)?;
            match state.chunks.get(&key) {
                Some(record) if record.pending.is_some() => {
                    let committed = record.committed.clone();
                    let record = committed.map(|committed| {
                        Arc::new(Record {
                            committed: Some(committed),
                            pending: None,
                        })
                    });
                    self.inner
                        .install(&mut state, key, record, None, Urgency::Awaited)
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
            state.target(key.target)?;
            if !state.chunks.contains_key(&key) {
                return Ok(());
            }
            self.inner
                .install(&mut state, key, None, None, Urgency::Awaited)
        };
        durability.wait(&self.inner.health).await
    }
}

impl Inner {
    async fn update(&self, request: UpdateRequest) -> Result<Updated, EngineError> {
        let base = self.committed(request.key)?;
        let shape = Shape::of(base.as_deref(), &request)?;
        let mut written = self.write_content(&request, base.as_deref(), &shape).await;
        if matches!(written, Err(EngineError::NoSpace { .. })) && !self.committer.is_idle() {
            // Slots become free once what replaced them is durable.
            self.committer.flush().wait(&self.health).await?;
            written = self.write_content(&request, base.as_deref(), &shape).await;
        }
        let written = written?;
        let updated = Updated {
            length: shape.length,
            checksum: written.checksum,
        };
        let durability = self.publish(&request, base.as_ref(), &shape, written)?;
        durability.wait(&self.health).await?;
        Ok(updated)
    }

    fn committed(&self, key: ChunkKey) -> Result<Option<Arc<Version>>, EngineError> {
        let state = self.state.lock();
        state.target(key.target)?;
        let record = state.chunks.get(&key);
        Ok(record.and_then(|record| record.committed.clone()))
    }

    fn publish(
        &self,
        request: &UpdateRequest,
        base: Option<&Arc<Version>>,
        shape: &Shape,
        written: Written,
    ) -> Result<Durability, EngineError> {
        let key = request.key;
        let content = written.content.as_ref();
        // Syncing a group whose bytes did not change costs little and is rare.
        let dirty = content.map(|content| content.slot.position().group);
        let pending = Arc::new(Version {
            version: request.update_version,
            chain_version: request.chain_version,
            exists: shape.exists,
            length: shape.length,
            checksum: written.checksum,
            tag: request.tag,
            time: self.env.wall(),
            content: written.content,
        });
        let mut state = self.state.lock();
        state.target(key.target)?;
        let current = state.chunks.get(&key);
        let committed = current.and_then(|record| record.committed.as_ref());
        if committed.map(Arc::as_ptr) != base.map(Arc::as_ptr) {
            return Err(mismatch(
                key,
                request.update_version,
                current.map(|record| &**record),
            ));
        }
        let record = Arc::new(Record {
            committed: committed.cloned(),
            pending: Some(pending),
        });
        Ok(self.install(&mut state, key, Some(record), dirty, Urgency::Awaited))
    }
}

fn mismatch(key: ChunkKey, wanted: ChunkVersion, record: Option<&Record>) -> EngineError {
    let version = |version: &Option<Arc<Version>>| version.as_ref().map(|version| version.version);
    EngineError::VersionMismatch {
        chunk: key.chunk,
        wanted,
        committed: record
            .and_then(|record| version(&record.committed))
            .unwrap_or_default(),
        pending: record.and_then(|record| version(&record.pending)),
    }
}
