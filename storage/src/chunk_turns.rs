//! Updates of one chunk take turns (protocol W3): a lock per chunk that exists only while someone wants it.

use std::{collections::BTreeMap, sync::Arc};

use common::sync::Mutex;
use tokio::sync::{Mutex as TurnLock, OwnedMutexGuard};
use types::chunk::ChunkId;

type Locks = Arc<Mutex<BTreeMap<ChunkId, Arc<TurnLock<()>>>>>;

/// The turns of one target's chunks. First come, first served.
#[derive(Clone, Debug, Default)]
pub(crate) struct ChunkTurns(Locks);

/// A chunk's turn; the next one's comes when it is dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    // Dropped before the place: the place looks whether anybody else still wants the lock.
    _held: OwnedMutexGuard<()>,
    _place: Place,
}

/// Someone who waits for a turn or has it; the last one takes the lock away. A waiter that gives up is one too.
#[derive(Debug)]
struct Place {
    id: ChunkId,
    locks: Locks,
    lock: Option<Arc<TurnLock<()>>>,
}

impl ChunkTurns {
    /// Waits for the chunk's turn.
    pub(crate) async fn take(&self, id: ChunkId) -> Turn {
        let lock = self.0.lock().entry(id).or_default().clone();
        let place = Place {
            id,
            locks: self.0.clone(),
            lock: Some(lock.clone()),
        };
        let held = lock.lock_owned().await;
        Turn {
            _held: held,
            _place: place,
        }
    }

    /// How many have the turn or wait for it: each counts twice, as a place and at the lock.
    #[cfg(test)]
    pub(crate) fn wanted(&self, id: ChunkId) -> usize {
        let locks = self.0.lock();
        locks.get(&id).map_or(0, |lock| Arc::strong_count(lock) / 2)
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.0.lock().len()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut locks = self.locks.lock();
        self.lock = None;
        if locks
            .get(&self.id)
            .is_some_and(|lock| Arc::strong_count(lock) == 1)
        {
            locks.remove(&self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use common::env::Env;
    use types::id::InodeId;

    use super::*;

    fn id(index: u32) -> ChunkId {
        ChunkId {
            inode: InodeId(1),
            index,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_chunk_takes_turns_and_others_do_not_wait() {
        let (env, turns) = (Env::seeded(1), ChunkTurns::default());
        let first = turns.take(id(1)).await;
        let _other = turns.take(id(2)).await;
        let wait = env.timeout(Duration::from_secs(1), turns.take(id(1))).await;
        assert!(wait.is_err());
        drop(first);
        let second = env.timeout(Duration::from_secs(1), turns.take(id(1))).await;
        assert!(second.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_left_behind_by_holders_or_waiters_that_gave_up() {
        let (env, turns) = (Env::seeded(1), ChunkTurns::default());
        let held = turns.take(id(1)).await;
        let gave_up = env.timeout(Duration::from_millis(1), turns.take(id(1)));
        assert!(gave_up.await.is_err());
        assert_eq!(turns.len(), 1);
        drop(held);
        assert_eq!(turns.len(), 0);
    }
}
