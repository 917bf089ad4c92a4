//! What an engine does in the background: checkpoints, folding, compaction, giving empty groups back, files for the log to come.
//!
//! One task, so that none of these meets another. It looks when it is told to, and ends with the engine.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use common::{env::Task, sync::Mutex};

use super::Inner;
use crate::error::EngineError;

/// Segments folded together, before a checkpoint lets their files go.
const SEGMENTS: usize = 4;
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
        let work = run(Arc::downgrade(inner), wake.clone(), stopping.clone());
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
async fn run(engine: Weak<Inner>, wake: Arc<tokio::sync::Notify>, stopping: Arc<AtomicBool>) {
    loop {
        wake.notified().await;
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
        let mut rounds_in_vain = 0;
        while self.log.fill().wants_folding() && !stopping.load(Ordering::Relaxed) {
            let before = self.log.fill();
            let mut segments = self.log.oldest();
            segments.truncate(SEGMENTS);
            let folded = self.fold(&segments).await?;
            tracing::debug!(?folded, ?segments, "folded");
            drop(segments);
            self.checkpointer.run(&self.log).await?;
            if self.log.fill().used_segments >= before.used_segments {
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
        if !stopping.load(Ordering::Relaxed) && self.compact().await?.more {
            // The rest after another look at what cannot wait.
            self.wake.notify_one();
        }
        self.slots.give_back_empty().await;
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
