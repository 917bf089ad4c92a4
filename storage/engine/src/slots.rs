//! Slots in use. Whoever holds an `Arc<Slot>` may use the slot; when the last holder is gone it is free.
//!
//! That is the whole of rule E5: a record in memory holds its slots, a reader holds the one it reads, and the
//! committer holds the record that was replaced until its replacement is durable.
//!
//! Invariant: between being taken and being free, no byte of a slot is written twice (`high_water`), except blocks
//! that every version of the slot has in the log (`fold`). So nothing that is read is ever overwritten.

use std::{
    collections::BTreeSet,
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

use common::{buf::SharedBuf, sync::Mutex};
use futures::future::join_all;
use tokio::sync::Notify;

use crate::{
    allocator::{Allocator, Released},
    device::Device,
    error::EngineError,
    group::{GroupId, Position, SLOTS_PER_GROUP, SizeClass},
    health::Health,
};

/// A slot that is taken.
pub(crate) struct Slot {
    position: Position,
    /// Bytes from the start that were written or are being written.
    high_water: AtomicU32,
    pool: SlotPool,
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Slot({})", self.position)
    }
}

impl Slot {
    pub(crate) fn position(&self) -> Position {
        self.position
    }

    pub(crate) fn bytes(&self) -> u32 {
        self.position.group.class.slot_bytes()
    }

    /// Whether the group's file may end before the slot after a crash. Then it must be synced before a record refers to
    /// the slot, even when nothing was written there.
    pub(crate) fn is_beyond_durable(&self) -> bool {
        let allocation = self.pool.0.allocation.lock();
        let durable = allocation.allocator.durable_bytes(self.position.group);
        durable < Some(self.position.end())
    }

    /// Claims the bytes from `from` to `to` for writing; false when some of them were claimed before. What lies
    /// between the bytes claimed before and these is never claimed any more: it is in the log.
    pub(crate) fn claim(&self, from: u32, to: u32) -> bool {
        assert!(from <= to && to <= self.bytes(), "claim {from}..{to}");
        let claim = |claimed| (claimed <= from).then_some(to);
        self.high_water
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, claim)
            .is_ok()
    }

    /// The bytes up to `to` count as claimed: blocks of the log are going to be folded there.
    pub(crate) fn claim_up_to(&self, to: u32) {
        self.high_water.fetch_max(to, Ordering::Relaxed);
    }

    /// Writes neighbouring pieces from `from` on, which must have been claimed.
    pub(crate) async fn write(&self, from: u32, pieces: Vec<SharedBuf>) -> io::Result<()> {
        let mut offset = self.position.offset() + u64::from(from);
        let writes = pieces.into_iter().map(|piece| {
            let start = offset;
            offset += piece.len() as u64;
            self.pool
                .0
                .device
                .write(self.position.group.into(), start, piece)
        });
        // All of them end before the slot may become free, also when one fails.
        let results = join_all(writes.collect::<Vec<_>>()).await;
        results.into_iter().collect()
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let released = self
            .pool
            .0
            .allocation
            .lock()
            .allocator
            .release(self.position);
        if released != Released::InUse {
            self.pool.0.emptied.notify_one();
        }
    }
}

/// How much chunks may take.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    pub(crate) capacity_bytes: u64,
    /// Of the file system, for records.
    pub(crate) records_reserve: u64,
    /// The same, and what the log may still take. May change.
    pub(crate) reserve_bytes: Arc<AtomicU64>,
    pub(crate) preallocate_bytes: u64,
}

/// New chunks may use this share of the capacity (E8); the rest is for changes of chunks that are there.
const NEW_CHUNK_PERCENT: u64 = 98;

/// A group grows by at most so much at a time.
const GROWTH_BYTES_MAX: u64 = 256 << 20;

/// What a slot is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A chunk that takes no space so far.
    NewChunk,
    /// Another version of a chunk, whose old slot will be free afterwards.
    NewVersion,
}

/// All slots of one disk. Clones are the same pool.
#[derive(Clone)]
pub(crate) struct SlotPool(Arc<Shared>);

struct Shared {
    device: Arc<dyn Device>,
    health: Arc<Health>,
    limits: Limits,
    allocation: Mutex<Allocation>,
    /// Held while groups are made or grown.
    growth: tokio::sync::Mutex<()>,
    /// Told when a group has become empty, or empty enough to be emptied.
    emptied: Arc<Notify>,
}

struct Allocation {
    allocator: Allocator,
    /// Set when what is free here may not be free on the disk: after a failure, at the end.
    frozen: bool,
}

impl SlotPool {
    pub(crate) fn new(
        device: Arc<dyn Device>,
        health: Arc<Health>,
        limits: Limits,
        groups: &[(GroupId, u64)],
        emptied: Arc<Notify>,
    ) -> Self {
        let mut allocator = Allocator::default();
        for &(group, file_bytes) in groups {
            allocator.add_group(group, file_bytes);
        }
        Self(Arc::new(Shared {
            device,
            health,
            limits,
            allocation: Mutex::new(Allocation {
                allocator,
                frozen: false,
            }),
            growth: tokio::sync::Mutex::default(),
            emptied,
        }))
    }

    pub(crate) fn device(&self) -> &Arc<dyn Device> {
        &self.0.device
    }

    pub(crate) fn capacity_bytes(&self) -> u64 {
        self.0.limits.capacity_bytes
    }

    /// Of the file system, so much is not for chunks.
    pub(crate) fn set_reserve(&self, bytes: u64) {
        self.0.limits.reserve_bytes.store(bytes, Ordering::Relaxed);
    }

    pub(crate) fn used_bytes(&self) -> u64 {
        self.0.allocation.lock().allocator.used_bytes()
    }

    /// Takes the slot that a record found at opening refers to; `high_water` bytes of it are in use. Its group was synced before
    /// the record was written, so the file reaches to its end whatever happens. What lies behind may be a process's that was
    /// killed before it could sync.
    pub(crate) fn adopt(&self, position: Position, high_water: u32) -> Result<Arc<Slot>, String> {
        let mut allocation = self.0.allocation.lock();
        let allocator = &mut allocation.allocator;
        let Some(file_bytes) = allocator.file_bytes(position.group) else {
            return Err(format!("group {} is missing", position.group));
        };
        if file_bytes < position.end() {
            return Err(format!("group {} ends at {file_bytes}", position.group));
        }
        if !allocator.take_at(position) {
            return Err(format!("slot {position} is in use twice"));
        }
        allocator.set_durable_bytes(position.group, position.end());
        drop(allocation);
        Ok(self.slot(position, high_water))
    }

    fn slot(&self, position: Position, high_water: u32) -> Arc<Slot> {
        Arc::new(Slot {
            position,
            high_water: AtomicU32::new(high_water),
            pool: self.clone(),
        })
    }

    /// Takes a free slot, making or growing groups as needed.
    pub(crate) async fn allocate(
        &self,
        class: SizeClass,
        purpose: Purpose,
    ) -> Result<Arc<Slot>, EngineError> {
        let take = |allocator: &mut Allocator| allocator.take(class);
        loop {
            if let Some(slot) = self.try_take(class, purpose, take)? {
                self.grow(slot.position).await?;
                return Ok(slot);
            }
            let growth = self.0.growth.lock().await;
            // Someone else may have made a group meanwhile.
            if let Some(slot) = self.try_take(class, purpose, take)? {
                drop(growth);
                self.grow(slot.position).await?;
                return Ok(slot);
            }
            let group = self.0.allocation.lock().allocator.new_group(class);
            let group = group.ok_or_else(|| {
                let reason = format!("no numbers are left for groups of {class}");
                self.0.health.fail(reason)
            })?;
            let created = self.0.device.create(group.into()).await;
            created.map_err(|error| self.failed(class, "make a group", &error))?;
            self.0.allocation.lock().allocator.add_group(group, 0);
        }
    }

    /// Groups to be emptied (`compact`), emptiest first.
    pub(crate) fn worth_emptying(&self) -> Vec<GroupId> {
        let allocation = self.0.allocation.lock();
        if allocation.frozen {
            return Vec::new();
        }
        allocation.allocator.worth_emptying()
    }

    /// Takes a free slot of a group that is in use, and not one of these; `NoSpace` when there is none. The chunk will have two for a
    /// moment, which must not stand in the way of a new version: so the limit is that of new chunks.
    pub(crate) async fn take_outside(
        &self,
        class: SizeClass,
        groups: &BTreeSet<GroupId>,
    ) -> Result<Arc<Slot>, EngineError> {
        let take = |allocator: &mut Allocator| allocator.take_outside(class, groups);
        let slot = self.try_take(class, Purpose::NewChunk, take)?;
        let slot = slot.ok_or_else(|| self.no_space(class, self.used_bytes()))?;
        self.grow(slot.position).await?;
        Ok(slot)
    }

    /// Takes the slot that `take` finds, within the limit for this purpose.
    fn try_take(
        &self,
        class: SizeClass,
        purpose: Purpose,
        take: impl FnOnce(&mut Allocator) -> Option<Position>,
    ) -> Result<Option<Arc<Slot>>, EngineError> {
        let mut allocation = self.0.allocation.lock();
        let capacity = self.0.limits.capacity_bytes;
        let limit = match purpose {
            Purpose::NewChunk => capacity / 100 * NEW_CHUNK_PERCENT,
            Purpose::NewVersion => capacity,
        };
        let used = allocation.allocator.used_bytes();
        if used + u64::from(class.slot_bytes()) > limit {
            return Err(self.no_space(class, used));
        }
        let position = take(&mut allocation.allocator);
        drop(allocation);
        Ok(position.map(|position| self.slot(position, 0)))
    }

    /// Sees to it that the slot has space on the disk.
    async fn grow(&self, position: Position) -> Result<(), EngineError> {
        let Position { group, .. } = position;
        let reaches = |allocation: &Allocation| allocation.allocator.file_bytes(group);
        if reaches(&self.0.allocation.lock()) >= Some(position.end()) {
            return Ok(());
        }
        let _growth = self.0.growth.lock().await;
        let file_bytes = reaches(&self.0.allocation.lock()).unwrap_or(0);
        if file_bytes >= position.end() {
            return Ok(());
        }
        let group_bytes = u64::from(SLOTS_PER_GROUP) * u64::from(group.class.slot_bytes());
        let limits = &self.0.limits;
        let reserve = limits.reserve_bytes.load(Ordering::Relaxed);
        // A group that grows fast grows in larger steps.
        let step = file_bytes.clamp(
            limits.preallocate_bytes,
            limits.preallocate_bytes.max(GROWTH_BYTES_MAX),
        );
        let step = (file_bytes + step).min(group_bytes).max(position.end());
        let available = self.0.device.available_bytes().await;
        let available =
            available.map_err(|error| self.failed(group.class, "ask for space", &error))?;
        let fits = |bytes: u64| available >= bytes - file_bytes + reserve;
        let Some(bytes) = [step, position.end()]
            .into_iter()
            .find(|&bytes| fits(bytes))
        else {
            return Err(self.no_space(group.class, self.used_bytes()));
        };
        let reserved = self.0.device.reserve(group.into(), bytes).await;
        reserved.map_err(|error| self.failed(group.class, "grow a group", &error))?;
        self.0
            .allocation
            .lock()
            .allocator
            .set_file_bytes(group, bytes);
        Ok(())
    }

    /// Makes what was written to a group durable, and its size.
    pub(crate) async fn sync(&self, group: GroupId) -> Result<(), EngineError> {
        let file_bytes = self.0.allocation.lock().allocator.file_bytes(group);
        let synced = self.0.device.sync(group.into()).await;
        synced.map_err(|error| self.0.health.fail(format!("cannot sync a group: {error}")))?;
        let allocator = &mut self.0.allocation.lock().allocator;
        allocator.set_durable_bytes(group, file_bytes.unwrap_or(0));
        Ok(())
    }

    fn no_space(&self, class: SizeClass, used_bytes: u64) -> EngineError {
        EngineError::NoSpace {
            slot_bytes: u64::from(class.slot_bytes()),
            used_bytes,
            capacity_bytes: self.0.limits.capacity_bytes,
        }
    }

    /// What a failed operation on the files means: a full disk is an error of this update only.
    pub(crate) fn failed(&self, class: SizeClass, action: &str, error: &io::Error) -> EngineError {
        if matches!(
            error.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        ) {
            return self.no_space(class, self.used_bytes());
        }
        self.0.health.fail(format!("cannot {action}: {error}"))
    }

    /// Gives the space of empty groups back, except a small one of each class.
    pub(crate) async fn give_back_empty(&self) {
        let retired = {
            let mut allocation = self.0.allocation.lock();
            if allocation.frozen {
                return;
            }
            allocation.allocator.retire_empty()
        };
        for group in retired {
            match self.0.device.remove(group.into()).await {
                Ok(()) => tracing::debug!(%group, "gave an empty group back"),
                // The file stays until the disk is opened again.
                Err(error) => tracing::warn!(%group, %error, "cannot remove an empty group"),
            }
        }
    }

    /// From now on no group is given back: slots become free because their holders go, not because records say so.
    pub(crate) fn freeze(&self) {
        self.0.allocation.lock().frozen = true;
    }

    /// Checks that so many slots are taken.
    pub(crate) fn check_taken(&self, expected: u64, problems: &mut Vec<String>) {
        let allocation = self.0.allocation.lock();
        allocation.allocator.check(problems);
        let (taken, _) = allocation.allocator.counts();
        if taken != expected {
            problems.push(format!(
                "{taken} slots are marked, {expected} are referred to"
            ));
        }
    }

    /// Compares the taken slots with those referred to; returns how many more are taken, by readers and updates
    /// under way, and how many groups there are.
    pub(crate) fn check(
        &self,
        referenced: &BTreeSet<Position>,
        problems: &mut Vec<String>,
    ) -> (u64, u64) {
        let allocation = self.0.allocation.lock();
        allocation.allocator.check(problems);
        for &position in referenced {
            if !allocation.allocator.is_taken(position) {
                problems.push(format!("slot {position} is in use but not marked"));
            }
        }
        let (taken, groups) = allocation.allocator.counts();
        (taken.saturating_sub(referenced.len() as u64), groups)
    }
}

#[cfg(test)]
mod tests {
    use common::env::Env;

    use super::*;
    use crate::device::mem::{MemDevice, PowerSwitch};

    /// Slots that become free because the engine goes away must not look like empty groups: their records stand.
    #[tokio::test]
    async fn a_frozen_pool_gives_no_group_back() {
        let limits = Limits {
            capacity_bytes: 1 << 30,
            records_reserve: 0,
            reserve_bytes: Arc::default(),
            preallocate_bytes: 1 << 20,
        };
        let class = SizeClass::holding(1).unwrap();
        for (freeze, groups_left) in [(true, 2), (false, 1)] {
            let device = Arc::new(MemDevice::new(&Env::seeded(1), PowerSwitch::lasting()));
            let pool = SlotPool::new(device, Arc::default(), limits.clone(), &[], Arc::default());
            let mut slots = Vec::new();
            for _ in 0..=SLOTS_PER_GROUP {
                slots.push(pool.allocate(class, Purpose::NewChunk).await.unwrap());
            }
            if freeze {
                pool.freeze();
            }
            drop(slots);
            pool.give_back_empty().await;
            assert_eq!(pool.device().list().await.unwrap().len(), groups_left);
        }
    }
}
