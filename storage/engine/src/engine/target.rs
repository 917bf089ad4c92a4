//! Targets: made, listed, removed. Their chunks go with them, page by page.

use types::{
    chunk::ChunkId,
    id::{ChainId, InodeId, TargetId},
};

use super::{ChunkKey, Engine, NewRecord, state::TargetState};
use crate::{
    chunk_meta::RecordKey,
    committer::{Entry, Urgency, Value},
    error::EngineError,
    log::entry::LogEntry,
};

/// Chunks removed at a time.
const REMOVAL_PAGE: usize = 1024;

impl Engine {
    /// The targets on this disk.
    pub fn targets(&self) -> Vec<TargetId> {
        self.inner.state.lock().targets.keys().copied().collect()
    }

    /// The chain that a target was made for.
    pub fn chain_of(&self, target: TargetId) -> Option<ChainId> {
        let state = self.inner.state.lock();
        state.targets.get(&target).map(|target| target.chain)
    }

    /// How many chunks a target has, version floors among them; 0 for a target that is not here.
    pub fn chunk_count(&self, target: TargetId) -> u64 {
        let state = self.inner.state.lock();
        let chunks = state.targets.get(&target).map(|target| target.chunks.len());
        chunks.map_or(0, |count| count as u64)
    }

    /// Makes a target, durably. One that is there for the same chain is fine.
    ///
    /// # Errors
    /// `TargetExists` when it is there for another chain or being removed, `Failed`.
    pub async fn create_target(&self, target: TargetId, chain: ChainId) -> Result<(), EngineError> {
        self.inner.health.check()?;
        {
            let mut state = self.inner.state.lock();
            match state.targets.get(&target) {
                Some(existing) if existing.chain == chain && !existing.removing => {}
                Some(existing) => {
                    let chain = existing.chain;
                    return Err(EngineError::TargetExists { target, chain });
                }
                None => {
                    state.targets.insert(target, TargetState::new(chain));
                    let entry = LogEntry::Target { target, chain };
                    let after = vec![(RecordKey::Target(target), Value::Target(chain))];
                    self.enqueue_plain(after, &entry);
                }
            }
        }
        self.sync().await
    }

    /// Removes a target and all its chunks. When this is interrupted the target is still there, with a part of
    /// its chunks: call again.
    ///
    /// # Errors
    /// `UnknownTarget`, `Failed`.
    pub async fn remove_target(&self, target: TargetId) -> Result<(), EngineError> {
        self.inner.health.check()?;
        match self.inner.state.lock().targets.get_mut(&target) {
            Some(state) => state.removing = true,
            None => return Err(EngineError::UnknownTarget { target }),
        }
        while self.remove_page(target) {
            self.sync().await?;
        }
        {
            let mut state = self.inner.state.lock();
            // Its table goes with it, and the log need not say so.
            let mut after = state.clear_channels(target);
            state.targets.remove(&target);
            after.push((RecordKey::Target(target), Value::Gone));
            self.enqueue_plain(after, &LogEntry::TargetGone { target });
        }
        self.sync().await
    }

    /// Removes some chunks; false when there were none.
    fn remove_page(&self, target: TargetId) -> bool {
        let first = ChunkId {
            inode: InodeId(0),
            index: 0,
        };
        let mut state = self.inner.state.lock();
        let page: Vec<ChunkId> = match state.targets.get(&target) {
            Some(target) => target
                .from(first)
                .take(REMOVAL_PAGE)
                .map(|(chunk, _)| chunk),
            None => return false,
        }
        .collect();
        for &chunk in &page {
            let key = ChunkKey { target, chunk };
            let change = NewRecord::dropped(key);
            // The sync that follows waits for all of them.
            drop(self.inner.install(&mut state, key, change, Urgency::Later));
        }
        !page.is_empty()
    }

    /// Puts a change that is about no chunk into the queue. The caller holds the lock of `state`.
    pub(super) fn enqueue_plain(&self, after: Vec<(RecordKey, Value)>, entry: &LogEntry) {
        let entry = Entry {
            encoded: entry.encode(),
            payload: None,
            after,
            dirty: None,
            replaced: None,
        };
        // The sync that follows waits for it.
        drop(self.inner.committer.enqueue(entry, Urgency::Later));
    }
}
