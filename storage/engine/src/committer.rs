//! The one writer of records. Changes queue up in order; a batch of them becomes durable at once (group commit):
//! first the data of every group they touch, then one batch of records, then everyone who waits is told (E4).
//!
//! Changes that nobody waits for (commits, W6) go along with the next batch, or alone after a moment. With
//! `SyncPolicy::OnFsync` nobody waits for anything and the batch is written when someone asks for it: data
//! and records become durable in the same order as always, so a crash never shows a mixture.
//!
//! Each change carries the record it replaces. That record, and so its slots, is let go only when the batch is
//! durable (E5). After a failure it is never let go: what the disk refers to is unknown then.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use common::{
    env::{Env, Instant, Task},
    sync::Mutex,
};
use futures::future::join_all;
use tokio::sync::{Notify, oneshot};
use types::id::ChainId;

use crate::{
    chunk_meta::{Record, RecordKey, encode_target},
    config::SyncPolicy,
    error::EngineError,
    group::GroupId,
    health::Health,
    meta_store::MetaStore,
    slots::SlotPool,
};

/// A change that nobody waits for is durable after about this time.
const LINGER: Duration = Duration::from_millis(100);

/// Changes in one batch at most: bounds the memory and the time of a batch.
const BATCH_LENGTH_MAX: usize = 4096;

/// Changes that may queue up without anyone waiting for them. They hold memory, and slots that cannot be reused.
const QUEUE_LENGTH_MAX: usize = 8192;

/// One change of one record.
pub(crate) struct Entry {
    pub(crate) key: RecordKey,
    pub(crate) value: Value,
    /// The group whose data must be durable before.
    pub(crate) dirty: Option<GroupId>,
    /// What this change replaces: held until the change is durable.
    #[expect(dead_code, reason = "it is only held, for its slots")]
    pub(crate) replaced: Option<Arc<Record>>,
}

/// What a record becomes.
pub(crate) enum Value {
    Chunk(Arc<Record>),
    Target(ChainId),
    Gone,
}

impl Value {
    fn encode(&self) -> Option<Vec<u8>> {
        match self {
            Self::Chunk(record) => Some(record.encode()),
            Self::Target(chain) => Some(encode_target(*chain)),
            Self::Gone => None,
        }
    }
}

/// Whether someone waits for a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Urgency {
    /// Yes, unless the policy is to wait for nothing.
    Awaited,
    /// No.
    Later,
}

/// Tells when changes are durable.
#[must_use]
pub(crate) struct Durability(Option<oneshot::Receiver<Result<(), EngineError>>>);

struct Shared {
    env: Env,
    policy: SyncPolicy,
    store: Arc<dyn MetaStore>,
    slots: SlotPool,
    health: Arc<Health>,
    wake: Arc<Notify>,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    items: Vec<Item>,
    /// Someone waits.
    urgent: bool,
    /// When the first of the items came.
    since: Option<Instant>,
    closing: bool,
    /// What was replaced by batches that failed: held for good.
    never_released: Vec<Entry>,
}

struct Item {
    entry: Option<Entry>,
    waiting: Option<oneshot::Sender<Result<(), EngineError>>>,
}

/// The queue and the task that empties it. Dropping it ends the task without writing anything more.
pub(crate) struct Committer {
    shared: Arc<Shared>,
    task: Mutex<Option<Task<()>>>,
}

impl Committer {
    /// Starts the task. `wake` is also told by others when there may be empty groups to give back.
    pub(crate) fn start(
        env: &Env,
        policy: SyncPolicy,
        store: Arc<dyn MetaStore>,
        slots: SlotPool,
        health: Arc<Health>,
        wake: Arc<Notify>,
    ) -> Self {
        let shared = Arc::new(Shared {
            env: env.clone(),
            policy,
            store,
            slots,
            health,
            wake,
            queue: Mutex::default(),
        });
        let task = env.spawn("engine-committer", run(shared.clone()));
        Self {
            shared,
            task: Mutex::new(Some(task)),
        }
    }

    /// Puts a change into the queue. Changes take effect in the order of calls.
    pub(crate) fn enqueue(&self, entry: Entry, urgency: Urgency) -> Durability {
        let awaited = urgency == Urgency::Awaited && self.shared.policy == SyncPolicy::Always;
        self.shared.push(Some(entry), awaited)
    }

    /// Everything queued so far, whatever the policy.
    pub(crate) fn flush(&self) -> Durability {
        self.shared.push(None, true)
    }

    /// Waits when too much is queued that nobody waits for.
    pub(crate) async fn room(&self) -> Result<(), EngineError> {
        let crowded = self.shared.queue.lock().items.len() > QUEUE_LENGTH_MAX;
        if crowded {
            self.flush().wait(&self.shared.health).await?;
        }
        Ok(())
    }

    /// Whether something is queued: then a flush may free slots.
    pub(crate) fn is_idle(&self) -> bool {
        self.shared.queue.lock().items.is_empty()
    }

    /// Writes what is queued and ends the task.
    pub(crate) async fn close(&self) {
        self.shared.queue.lock().closing = true;
        self.shared.wake.notify_one();
        let task = self.task.lock().take();
        if let Some(task) = task {
            task.join().await;
        }
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        if let Some(task) = self.task.lock().take() {
            task.abort();
        }
    }
}

impl Durability {
    /// Waits until the change is durable.
    pub(crate) async fn wait(self, health: &Health) -> Result<(), EngineError> {
        match self.0 {
            None => Ok(()),
            Some(receiver) => match receiver.await {
                Ok(result) => result,
                Err(_) => Err(health.fail("the committer has ended".to_owned())),
            },
        }
    }
}

impl Shared {
    fn push(&self, entry: Option<Entry>, awaited: bool) -> Durability {
        let (waiting, receiver) = if awaited {
            let (sender, receiver) = oneshot::channel();
            (Some(sender), Some(receiver))
        } else {
            (None, None)
        };
        let wake = {
            let mut queue = self.queue.lock();
            let first = queue.items.is_empty();
            if first {
                queue.since = Some(self.env.now());
            }
            queue.items.push(Item { entry, waiting });
            queue.urgent |= awaited || queue.items.len() > QUEUE_LENGTH_MAX / 2;
            first || queue.urgent
        };
        if wake {
            self.wake.notify_one();
        }
        Durability(receiver)
    }

    fn next(&self) -> Step {
        let mut queue = self.queue.lock();
        if queue.items.is_empty() {
            queue.urgent = false;
            return if queue.closing { Step::End } else { Step::Wait };
        }
        if !queue.urgent && !queue.closing {
            if self.policy == SyncPolicy::OnFsync {
                return Step::Wait;
            }
            let due = queue.since.unwrap_or_else(|| self.env.now()) + LINGER;
            if due > self.env.now() {
                return Step::WaitUntil(due);
            }
        }
        let length = queue.items.len().min(BATCH_LENGTH_MAX);
        Step::Write(queue.items.drain(..length).collect())
    }

    async fn write(&self, items: Vec<Item>) {
        let mut entries = Vec::with_capacity(items.len());
        let mut waiting = Vec::new();
        for item in items {
            entries.extend(item.entry);
            waiting.extend(item.waiting);
        }
        let result = self.make_durable(&entries).await;
        if result.is_err() {
            self.slots.freeze();
            self.queue.lock().never_released.append(&mut entries);
        }
        // Before anyone is told: who waited for a flush counts on free slots.
        drop(entries);
        for sender in waiting {
            // Who went away wants no answer.
            drop(sender.send(result.clone()));
        }
    }

    async fn make_durable(&self, entries: &[Entry]) -> Result<(), EngineError> {
        self.health.check()?;
        let groups: BTreeSet<GroupId> = entries.iter().filter_map(|entry| entry.dirty).collect();
        let device = self.slots.device();
        let synced = join_all(groups.iter().map(|&group| device.sync(group.into()))).await;
        for result in synced {
            result.map_err(|error| self.health.fail(format!("cannot sync a group: {error}")))?;
        }
        // Only the last change of a record matters.
        let last: BTreeMap<RecordKey, &Value> = entries
            .iter()
            .map(|entry| (entry.key, &entry.value))
            .collect();
        if last.is_empty() {
            return Ok(());
        }
        let changes = last
            .into_iter()
            .map(|(key, value)| (key.to_bytes(), value.encode()))
            .collect();
        let written = self.store.write(changes).await;
        written.map_err(|error| self.health.fail(error.to_string()))
    }
}

enum Step {
    Write(Vec<Item>),
    WaitUntil(Instant),
    Wait,
    End,
}

async fn run(shared: Arc<Shared>) {
    loop {
        match shared.next() {
            Step::Write(items) => shared.write(items).await,
            Step::WaitUntil(due) => {
                // Woken or due: `next` finds out.
                let _woken = shared.env.timeout_at(due, shared.wake.notified()).await;
            }
            Step::Wait => shared.wake.notified().await,
            Step::End => return,
        }
        shared.slots.give_back_empty().await;
    }
}
