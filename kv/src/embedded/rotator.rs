//! Seals the table in memory when it has grown to its size, so that fjall's workers write it to disk.
//!
//! fjall would do this itself, but it asks its workers again with every batch, by a queue of 1,000 places
//! that the workers write to as well: while all of them are busy the queue fills up and they wait for
//! each other for ever (seen with 3.1.13 and one worker: the table grew without bound). So fjall is
//! told of a table without limit, and we seal it. That takes 10 ms and more, of which commits wait only for
//! a small part, hence a task of its own.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::SeqCst},
};

use tokio::sync::Notify;

use super::{
    Shared,
    engine::{Engine, MEMTABLE_BYTES, write_failure},
};

/// At this many times its size the table is sealed by the committer itself: the task cannot keep up.
const OVERSIZE: u64 = 2;

#[derive(Default)]
pub(super) struct RotationState {
    closing: AtomicBool,
    wanted: Notify,
}

impl RotationState {
    /// The committer has written a batch.
    pub(super) fn written(&self, engine: &Engine) -> Result<(), fjall::Error> {
        let bytes = engine.memtable_bytes();
        if bytes >= OVERSIZE * MEMTABLE_BYTES {
            return engine.rotate();
        }
        if bytes >= MEMTABLE_BYTES {
            self.wanted.notify_one();
        }
        Ok(())
    }

    pub(super) fn close(&self) {
        self.closing.store(true, SeqCst);
        self.wanted.notify_one();
    }
}

/// The task. Ends after `close` or a failure.
pub(super) async fn run(shared: Arc<Shared>) {
    loop {
        shared.rotation.wanted.notified().await;
        if shared.rotation.closing.load(SeqCst) || shared.failure.check().is_err() {
            return;
        }
        let worker = shared.clone();
        let rotate = move || {
            if worker.engine.memtable_bytes() >= MEMTABLE_BYTES {
                worker.engine.rotate()?;
            }
            Ok(())
        };
        if let Err(error) = shared.env.blocking(rotate).await {
            stop(&shared, &error);
        }
    }
}

/// Stops the store.
pub(super) fn stop(shared: &Shared, error: &fjall::Error) {
    let free_bytes = shared.space.room().free_bytes();
    let reason = write_failure("seal the table in memory", error, free_bytes);
    shared.failure.set(reason);
    shared.sync.wake();
}
