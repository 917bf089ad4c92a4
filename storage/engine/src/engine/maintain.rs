//! What an engine does in the background: checkpoints, folding, compaction, giving empty groups back, files for the log to come.
//!
//! One task, so that none of these meets another. It looks when it is told to, now and then by itself, and ends with the
//! engine.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use common::{
    env::{Env, Task},
    sync::Mutex,
};

use super::Inner;
use crate::{error::EngineError, log::Segment};

/// Segments folded together, before a checkpoint lets their files go.
const SEGMENTS: usize = 4;
/// Nobody tells when a group that could not be emptied may be tried again.
const LOOK: Duration = Duration::from_secs(60);
/// After a round of folding that freed nothing.
const REST: Duration = Duration::from_millis(10);
/// When the log is full, what cannot be folded is moved on, unless it cannot be read. So often in a row there is no hope.
const ROUNDS_IN_VAIN_MAX: u32 = 1000;

#[derive(Debug)]
pub(super) struct Maintenance {
    stopping: Arc<AtomicBool>,
    wake: Arc<tokio::sync::Notify>,
    task: Mutex<Option<Task<()>>>,
}

impl Maintenance {
    pub(super) fn start(inner: &Arc<Inner>) -> Self {
        let stopping = Arc::new(AtomicBool::new(false));
        let wake = inner.wake.clone();
        let env = inner.env.clone();
        let work = run(env, Arc::downgrade(inner), wake.clone(), stopping.clone());
        let task = inner.env.spawn("engine-maintenance", work);
        Self {
            stopping,
            wake,
            task: Mutex::new(Some(task)),
        }
    }

    /// Ends it after the step it is in.
    pub(super) async fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.wake.notify_one();
        let task = self.task.lock().take();
        if let Some(task) = task {
            task.join().await;
        }
    }
}

impl Drop for Maintenance {
    fn drop(&mut self) {
        if let Some(task) = self.task.lock().take() {
            task.abort();
        }
    }
}

/// The engine is held only during a round, so that it can go.
async fn run(
    env: Env,
    engine: Weak<Inner>,
    wake: Arc<tokio::sync::Notify>,
    stopping: Arc<AtomicBool>,
) {
    loop {
        // Woken or not: it looks.
        let _woken = env.timeout(LOOK, wake.notified()).await;
        let Some(inner) = engine.upgrade() else {
            return;
        };
        if stopping.load(Ordering::Relaxed) {
            return;
        }
        if let Err(error) = inner.maintain(&stopping).await {
            if inner.health.check().is_err() {
                return;
            }
            tracing::warn!(%error, "maintenance of a disk goes on after an error");
        }
    }
}

impl Inner {
    async fn maintain(&self, stopping: &AtomicBool) -> Result<(), EngineError> {
        self.grow_log().await?;
        if self.checkpointer.is_due() {
            self.checkpointer.run(&self.log).await?;
        }
        self.fold_oldest(stopping).await?;
        let interrupted = || {
            stopping.load(Ordering::Relaxed)
                || self.log.fill().wants_folding()
                || self.checkpointer.is_due()
        };
        if self.compact(interrupted).await? {
            // The rest after another look at what cannot wait.
            self.wake.notify_one();
        }
        self.slots.give_back_empty().await;
        Ok(())
    }

    /// Folds until half of the log is free, or what is left is in use.
    async fn fold_oldest(&self, stopping: &AtomicBool) -> Result<(), EngineError> {
        let mut rounds_in_vain = 0;
        while self.log.fill().wants_folding() && !stopping.load(Ordering::Relaxed) {
            let mut segments = self.log.oldest();
            segments.truncate(SEGMENTS);
            let folded = self.fold(&segments).await?;
            tracing::debug!(?folded, ?segments, "folded");
            let emptied: Vec<Weak<Segment>> = segments.iter().map(Arc::downgrade).collect();
            drop(segments);
            self.checkpointer.run(&self.log).await?;
            self.grow_log().await?;
            // Not by how full the log is: others fill what was freed.
            if emptied.iter().any(|segment| segment.strong_count() == 0) {
                rounds_in_vain = 0;
            } else {
                // Chunks are in use, or pending for long. More of the log will be written before the next look.
                if !self.log.fill().is_full() {
                    break;
                }
                rounds_in_vain += 1;
                if rounds_in_vain > ROUNDS_IN_VAIN_MAX {
                    let reason =
                        "the log is full, and what is in it can be neither read nor folded";
                    return Err(self.health.fail(reason.to_owned()));
                }
                self.env.sleep(REST).await;
            }
        }
        Ok(())
    }

    /// Makes a file for the log ahead of its need.
    async fn grow_log(&self) -> Result<(), EngineError> {
        let grown = self.log.grow_ahead().await;
        grown.map_err(|error| self.health.fail(format!("cannot grow the log: {error}")))?;
        self.slots
            .set_reserve(self.reserve_bytes + self.log.unallocated_bytes());
        Ok(())
    }
}
