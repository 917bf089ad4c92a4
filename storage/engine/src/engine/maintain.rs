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
    env::{Env, Instant, Task},
    sync::Mutex,
};

use super::Inner;
use crate::{error::EngineError, health::Health, log::Segment};

/// Segments folded together, before a checkpoint lets their files go.
const SEGMENTS: usize = 4;
/// Nobody tells when a group that could not be emptied may be tried again.
const LOOK: Duration = Duration::from_secs(60);
/// After a turn of folding that brought nothing; twice as long after each further one while the log is full.
const REST: Duration = Duration::from_millis(10);
/// Who waits for the log need not wait much longer than this once a chunk can be folded again.
const REST_MAX: Duration = Duration::from_secs(1);
/// So often in a row, in a minute or more, the log was full and what is in it could not be read: there is no hope.
const TURNS_IN_VAIN_MAX: u32 = 70;

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
        let guard = FailsOnPanic(inner.health.clone());
        let engine = Arc::downgrade(inner);
        let work = run(env, (engine, guard), wake.clone(), stopping.clone());
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

/// One turn over the segments of the log. What cannot be emptied is passed over and tried again in the next turn.
#[derive(Debug, Default)]
struct Turn {
    /// The last segment that was tried, and the last one of the turn. Later ones wait for the next turn.
    tried: u64,
    end: u64,
    /// Blocks were folded or files became free.
    progress: bool,
    /// Something could not be read, or not be written to its slot.
    stuck: bool,
    /// How many turns before this one were in vain because of that.
    in_vain: u32,
    /// How long, and until when, folding rested after the turn before.
    rest: Duration,
    rests_until: Option<Instant>,
}

impl Turn {
    /// The segments that are tried next, out of all that are in use.
    fn next(&mut self, mut segments: Vec<Arc<Segment>>) -> Vec<Arc<Segment>> {
        if self.end == 0 {
            self.end = segments.last().map_or(0, |last| last.number);
        }
        segments.retain(|segment| (self.tried + 1..=self.end).contains(&segment.number));
        segments.truncate(SEGMENTS);
        self.tried = segments.last().map_or(self.tried, |last| last.number);
        segments
    }

    /// The next turn; it begins after a rest if this one brought nothing.
    fn ended(&self, full: bool, now: Instant) -> Self {
        if self.progress {
            return Self::default();
        }
        let rest = if full {
            (self.rest * 2).clamp(REST, REST_MAX)
        } else {
            REST
        };
        Self {
            // Chunks that are only in use, or pending for long, can be folded one day.
            in_vain: if full && self.stuck {
                self.in_vain + 1
            } else {
                0
            },
            rest,
            rests_until: Some(now + rest),
            ..Self::default()
        }
    }
}

/// A task that ends in a panic must not leave a disk behind that looks sound and makes no room any more.
struct FailsOnPanic(Arc<Health>);

impl Drop for FailsOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // The error is for callers, and there are none.
            let _error = self
                .0
                .fail("the maintenance of the disk ended in the middle".to_owned());
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
    (engine, _guard): (Weak<Inner>, FailsOnPanic),
    wake: Arc<tokio::sync::Notify>,
    stopping: Arc<AtomicBool>,
) {
    let mut turn = Turn::default();
    loop {
        // Woken or not: it looks.
        let _woken = env.timeout(LOOK, wake.notified()).await;
        let Some(inner) = engine.upgrade() else {
            return;
        };
        if stopping.load(Ordering::Relaxed) {
            return;
        }
        if let Err(error) = inner.maintain(&mut turn, &stopping).await {
            if inner.health.check().is_err() {
                return;
            }
            tracing::warn!(%error, "maintenance of a disk goes on after an error");
        }
    }
}

impl Inner {
    async fn maintain(&self, turn: &mut Turn, stopping: &AtomicBool) -> Result<(), EngineError> {
        self.grow_log().await?;
        if self.checkpointer.is_due() {
            self.checkpointer.run(&self.log).await?;
        }
        self.fold_oldest(turn, stopping).await?;
        // Not as soon as folding is wanted: it may be wanted all the time.
        let interrupted = || {
            stopping.load(Ordering::Relaxed)
                || self.log.fill().is_full()
                || self.checkpointer.is_due()
        };
        if self.compact(interrupted).await? {
            // The rest after another look at what cannot wait.
            self.wake.notify_one();
        }
        self.slots.give_back_empty().await;
        Ok(())
    }

    /// Folds until half of the log is free, or for one turn over its segments: then others have their turn.
    async fn fold_oldest(&self, turn: &mut Turn, stopping: &AtomicBool) -> Result<(), EngineError> {
        if turn.rests_until.is_some_and(|until| until > self.env.now()) {
            // What needs no room goes on meanwhile, and fills segments that are free again with the next checkpoint.
            if self.log.fill().is_full() {
                self.checkpointer.run(&self.log).await?;
            }
            return Ok(());
        }
        while self.log.fill().wants_folding() && !stopping.load(Ordering::Relaxed) {
            let segments = turn.next(self.log.oldest());
            if segments.is_empty() {
                return self.end_turn(turn);
            }
            let folded = self.fold(&segments).await?;
            tracing::debug!(?folded, ?segments, "folded");
            let tried: Vec<Weak<Segment>> = segments.iter().map(Arc::downgrade).collect();
            drop(segments);
            self.checkpointer.run(&self.log).await?;
            self.grow_log().await?;
            self.slots.give_back_empty().await;
            // Not by how full the log is: others fill what was freed.
            turn.progress |=
                folded.blocks > 0 || tried.iter().any(|segment| segment.strong_count() == 0);
            turn.stuck |= folded.stuck;
        }
        Ok(())
    }

    /// Lets others have their turn; folding comes again at once if this one brought something.
    fn end_turn(&self, turn: &mut Turn) -> Result<(), EngineError> {
        if turn.progress {
            self.wake.notify_one();
        }
        *turn = turn.ended(self.log.fill().is_full(), self.env.now());
        if turn.in_vain > TURNS_IN_VAIN_MAX {
            let reason = "the log is full, and what is in it can be neither read nor folded";
            return Err(self.health.fail(reason.to_owned()));
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
