//! Compaction: groups with few chunks are emptied, so that their files can be given back.
//!
//! The committed content of a chunk is copied, verified, to a slot of a fuller group. Then, in one step under the lock,
//! the committed version gets the new slot, if it is still the same version and nothing is pending: else its new slot is
//! given up. The change is written to the log after the group it was copied to is synced, as with any other; until it
//! is durable the old slot is held (E5), so whatever a crash leaves refers to bytes that are there. An update that began with the
//! old slot finds it changed when it wants to become pending, and begins anew.
//!
//! Some groups are emptied in one pass over all records, a step at a time; whatever else the background has to do goes first.
//! Chunks that cannot be moved are passed over. At the end of a pass its groups rest, so that one that could not be
//! emptied is tried again, but not all the time.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use common::{env::Instant, sync::Mutex};

use crate::{
    chunk_meta::{ChunkKey, Content, Detail, Record, StoredPosition, Version},
    committer::Urgency,
    engine::{Inner, NewRecord},
    error::EngineError,
    group::{BLOCK_BYTES, GroupId, block_count},
    log::entry::LogEntry,
    slots::{Purpose, Slot},
};

/// Slots of so many bytes are copied in one step: until it is durable they are taken twice.
const SLOT_BYTES_MAX: u64 = 64 << 20;
/// Records looked at before others get the lock.
const RECORDS_MAX: usize = 4096;
/// Groups emptied in one pass.
const GROUPS_MAX: usize = 16;
/// How long the groups of a pass are let be after it.
const REST: Duration = Duration::from_secs(60);

/// What is remembered from step to step. Only the background uses it.
#[derive(Debug, Default)]
pub(crate) struct Compaction(Mutex<Progress>);

#[derive(Debug, Default)]
struct Progress {
    pass: Option<Pass>,
    /// Groups that are not tried before that time.
    resting: BTreeMap<GroupId, Instant>,
    /// Groups of which something could not be read. No chunk is moved into them.
    unreadable: BTreeSet<GroupId>,
}

/// A pass over all records.
#[derive(Debug)]
struct Pass {
    /// The groups it began with.
    groups: Vec<GroupId>,
    /// Those of them that are still to be emptied.
    leaving: BTreeSet<GroupId>,
    /// The last chunk that was looked at.
    after: Option<ChunkKey>,
}

/// What a look at some records found.
enum Next {
    Movable(ChunkKey, Arc<Version>),
    /// Nothing so far.
    GoOn,
    End,
}

impl Pass {
    /// On a full file system there may be space only in the groups that are to be emptied: one of them is to be filled instead,
    /// the fullest. False when there is none but this one.
    fn give_up_another(&mut self, group: GroupId) -> bool {
        let is_another = |other: &&GroupId| other.class == group.class && **other != group;
        let mut others = self.groups.iter().rev().filter(is_another);
        others.any(|other| self.leaving.remove(other))
    }
}

impl Inner {
    /// Empties groups that are worth it, as far as one step goes, and ends early when `interrupted`. Returns whether to go on
    /// after a look at what else there is to do.
    pub(crate) async fn compact(
        &self,
        interrupted: impl Fn() -> bool,
    ) -> Result<bool, EngineError> {
        let Some(mut pass) = self.take_pass() else {
            return Ok(false);
        };
        let mut copied_bytes = 0;
        let mut ended = false;
        while copied_bytes < SLOT_BYTES_MAX && !ended && !interrupted() {
            match self.next_in(&mut pass) {
                Next::Movable(key, version) => {
                    copied_bytes += self.move_out(key, version, &mut pass).await?;
                }
                Next::GoOn => tokio::task::yield_now().await,
                Next::End => ended = true,
            }
        }
        if copied_bytes > 0 {
            // The old slots are free when that is durable.
            self.committer.flush().wait(&self.health).await?;
        }
        let mut progress = self.compaction.0.lock();
        if ended {
            tracing::debug!(groups = ?pass.groups, "compacted");
            let until = self.env.now() + REST;
            let groups = pass.groups.into_iter().map(|group| (group, until));
            progress.resting.extend(groups);
        } else {
            progress.pass = Some(pass);
        }
        Ok(ended || copied_bytes > 0)
    }

    /// The pass that is under way, or a new one if there is something to do.
    fn take_pass(&self) -> Option<Pass> {
        let worth = self.slots.worth_emptying();
        let now = self.env.now();
        let mut progress = self.compaction.0.lock();
        if let Some(mut pass) = progress.pass.take() {
            pass.leaving.retain(|group| worth.contains(group));
            return Some(pass);
        }
        progress.resting.retain(|_, until| *until > now);
        let groups = worth.into_iter();
        let groups: Vec<GroupId> = groups
            .filter(|group| !progress.resting.contains_key(group))
            .take(GROUPS_MAX)
            .collect();
        (!groups.is_empty()).then(|| Pass {
            leaving: groups.iter().copied().collect(),
            groups,
            after: None,
        })
    }

    /// Looks for the next chunk that can be moved, among a bounded number of records.
    fn next_in(&self, pass: &mut Pass) -> Next {
        if pass.leaving.is_empty() {
            return Next::End;
        }
        let state = self.state.lock();
        let mut looked_at = 0;
        for (key, record) in state.all_after(pass.after).take(RECORDS_MAX) {
            looked_at += 1;
            pass.after = Some(key);
            let committed = record.committed.as_ref();
            if record.pending.is_none()
                && let Some(version) = committed
                && let Some(slot) = version.slot()
                && pass.leaving.contains(&slot.position().group)
            {
                return Next::Movable(key, version.clone());
            }
        }
        if looked_at < RECORDS_MAX {
            Next::End
        } else {
            Next::GoOn
        }
    }

    /// Moves a chunk out of the groups of a pass, or passes it over. Returns the bytes of the slot it was copied to.
    async fn move_out(
        &self,
        key: ChunkKey,
        version: Arc<Version>,
        pass: &mut Pass,
    ) -> Result<u64, EngineError> {
        let Some(group) = version.slot().map(|slot| slot.position().group) else {
            return Ok(0);
        };
        let taken = loop {
            let mut closed = self.compaction.0.lock().unreadable.clone();
            closed.extend(&pass.leaving);
            let taken = self.slots.take_outside(group.class, &closed).await;
            let no_space = matches!(taken, Err(EngineError::NoSpace { .. }));
            if !no_space || !pass.give_up_another(group) {
                break taken;
            }
        };
        let moved = match taken {
            Ok(slot) => self.copy_to(key, &version, slot).await,
            Err(error) => Err(error),
        };
        match moved {
            // Also when it was changed meanwhile: the work was done.
            Ok(_) => Ok(u64::from(group.class.slot_bytes())),
            Err(EngineError::NoSpace { .. }) => {
                pass.leaving.retain(|other| other.class != group.class);
                Ok(0)
            }
            Err(error @ EngineError::ChunkCorrupt { .. }) => {
                // Whoever reads it gets the error too, and scrub reports it.
                tracing::warn!(%error, %group, "a damaged chunk stays in a group that was to be emptied");
                Ok(0)
            }
            Err(error @ EngineError::ReadFailed { .. }) => {
                tracing::warn!(%error, %group, "a group that was to be emptied cannot be read");
                // More reads there may each take long.
                pass.leaving.remove(&group);
                self.compaction.0.lock().unreadable.insert(group);
                Ok(0)
            }
            Err(error) => Err(error),
        }
    }

    /// Moves one chunk, whatever its group looks like.
    pub(crate) async fn relocate(&self, key: ChunkKey) -> Result<bool, EngineError> {
        let version = {
            let state = self.state.lock();
            let record = state.target(key.target)?.chunks.get(&key.chunk);
            record.and_then(|record| record.committed.clone())
        };
        let Some(version) = version else {
            return Ok(false);
        };
        let Some(class) = version.slot().map(|slot| slot.position().group.class) else {
            return Ok(false);
        };
        match self.slots.allocate(class, Purpose::NewVersion).await {
            Ok(slot) => self.copy_to(key, &version, slot).await,
            Err(EngineError::NoSpace { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Copies a version, and lets the chunk have the copy if that version is still the committed one and nothing is
    /// pending.
    async fn copy_to(
        &self,
        key: ChunkKey,
        version: &Arc<Version>,
        slot: Arc<Slot>,
    ) -> Result<bool, EngineError> {
        let Some(source) = self.source(key, version).await? else {
            return Ok(false);
        };
        let blocks = block_count(source.length());
        let mut buf = self.buffers.allocate((blocks * BLOCK_BYTES) as usize);
        buf = self.read_blocks(&source, 0..blocks, buf).await?;
        // What follows the content in its last block may be old bytes: zeros are written there.
        buf[source.length() as usize..].fill(0);
        let claimed = slot.claim(0, blocks * BLOCK_BYTES);
        assert!(claimed, "a new slot has not been written");
        self.write_image(&slot, 0, vec![buf.freeze()]).await?;
        let position = slot.position();
        let entry = LogEntry::Relocated {
            key: key.into(),
            version: version.head.version,
            position: StoredPosition::of(position),
        };
        let detail = Arc::new(Detail::in_slot(source.detail.sums.clone()));
        let moved = Version {
            head: version.head,
            content: Some(Content::new(slot, Some(detail))),
        };
        let mut state = self.state.lock();
        let unchanged = state.record(key).is_some_and(|record| {
            let committed = record.committed.as_ref();
            record.pending.is_none()
                && committed.is_some_and(|committed| Arc::ptr_eq(committed, version))
        });
        if !unchanged {
            return Ok(false);
        }
        let record = Record {
            committed: Some(Arc::new(moved)),
            pending: None,
        };
        let change = NewRecord {
            dirty: Some(position.group),
            ..NewRecord::plain(Some(record), &entry)
        };
        drop(self.install(&mut state, key, change, Urgency::Later));
        Ok(true)
    }
}
