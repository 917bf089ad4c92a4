//! The one writer of the log. Changes queue up in order; a batch of them becomes durable at once (group commit):
//! first the data of every group they touch, then one batch of the log, then everyone who waits is told (E4).
//!
//! Two tasks, so that the data of the next batch become durable while the log is written: `gather` takes the queue and
//! syncs groups, `write` appends to the log. A batch that waits for the log takes in what came meanwhile, as far as
//! that needs no sync: fewer, larger writes.
//!
//! Changes that nobody waits for (commits, W6) go along with the next batch, or alone after a moment. With
//! `SyncPolicy::OnFsync` nobody waits for anything and the batch is written when someone asks for it: data
//! and records become durable in the same order as always, so a crash never shows a mixture.
//!
//! Each change carries the record it replaces. That record, and so its slots, is let go only when the batch is
//! durable (E5). After a failure it is never let go: what the disk refers to is unknown then.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use common::{
    buf::SharedBuf,
    env::{Env, Instant, Task},
    sync::Mutex,
};
use futures::future::join_all;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use types::id::ChainId;

use crate::{
    channels::StoredChannel,
    checkpoint::Checkpointer,
    chunk_meta::{Record, RecordKey},
    config::SyncPolicy,
    error::EngineError,
    group::{BLOCK_BYTES, GroupId},
    health::Health,
    log::{Appended, Log, LogData},
    slots::SlotPool,
};

/// A change that nobody waits for is durable after about this time.
const LINGER: Duration = Duration::from_millis(100);

/// Changes in one batch at most: bounds the memory and the time of a batch.
const BATCH_LENGTH_MAX: usize = 4096;
/// Bytes of one batch, but for one entry, at most; and at most half a segment.
const BATCH_BYTES_MAX: u64 = 1 << 20;

/// Changes that may queue up without anyone waiting for them. They hold memory, and slots that cannot be reused.
const QUEUE_LENGTH_MAX: usize = 8192;
/// So many bytes of them.
const QUEUE_BYTES_MAX: u64 = 8 << 20;

/// One change, of one record of a chunk or target or of some of channels.
pub(crate) struct Entry {
    pub(crate) encoded: Vec<u8>,
    /// Blocks that go into the log with it.
    pub(crate) payload: Option<(Arc<LogData>, SharedBuf)>,
    /// What the records are afterwards; nothing for entries that only say where blocks are.
    pub(crate) after: Vec<(RecordKey, Value)>,
    /// The group whose data must be durable before.
    pub(crate) dirty: Option<GroupId>,
    /// What this change replaces: held until the change is durable.
    #[expect(dead_code, reason = "it is only held, for its slots")]
    pub(crate) replaced: Option<Record>,
}

impl Entry {
    fn bytes(&self) -> u64 {
        let payload = self.payload.as_ref().map_or(0, |(_, bytes)| bytes.len());
        (self.encoded.len() + payload) as u64
    }
}

/// What a record becomes.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    Chunk(Record),
    Target(ChainId),
    Channel(StoredChannel),
    Gone,
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
    log: Log,
    slots: SlotPool,
    checkpointer: Arc<Checkpointer>,
    health: Arc<Health>,
    wake: Notify,
    /// Batches never have more bytes than this, but for one entry.
    batch_bytes_max: u64,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    items: VecDeque<Item>,
    bytes: u64,
    /// Taken from the queue and not durable yet.
    under_way: usize,
    /// Someone waits.
    urgent: bool,
    /// When the first of the items came.
    since: Option<Instant>,
    closing: bool,
    /// Nobody takes from the queue any more.
    ended: bool,
    /// What was replaced by batches that failed: held for good.
    never_released: Vec<Entry>,
}

impl Queue {
    /// Moves items from the front to a batch, up to the first that is not wanted or not fitting.
    fn take(&mut self, batch: &mut Batch, bytes_max: u64, wanted: impl Fn(&Item) -> bool) {
        while batch.items.len() < BATCH_LENGTH_MAX
            && let Some(item) = self.items.front()
            && wanted(item)
        {
            let bytes = item.entry.as_ref().map_or(0, Entry::bytes);
            if !batch.items.is_empty() && batch.bytes + bytes > bytes_max {
                break;
            }
            batch.bytes += bytes;
            batch.items.extend(self.items.pop_front());
            self.bytes -= bytes;
            self.under_way += 1;
        }
    }
}

struct Item {
    entry: Option<Entry>,
    waiting: Option<oneshot::Sender<Result<(), EngineError>>>,
}

/// A batch whose data are durable, or why they are not.
struct Gathered {
    batch: Batch,
    synced: Result<(), EngineError>,
    /// One batch at a time is written.
    turn: OwnedSemaphorePermit,
}

/// Items taken from the queue, in its order.
#[derive(Default)]
struct Batch {
    items: Vec<Item>,
    bytes: u64,
}

/// The queue and the tasks that empty it. Dropping it ends the tasks without writing anything more.
pub(crate) struct Committer {
    shared: Arc<Shared>,
    tasks: Mutex<Vec<Task<()>>>,
}

impl Committer {
    pub(crate) fn start(
        env: &Env,
        policy: SyncPolicy,
        log: Log,
        slots: SlotPool,
        checkpointer: Arc<Checkpointer>,
        health: Arc<Health>,
    ) -> Self {
        let shared = Arc::new(Shared {
            env: env.clone(),
            policy,
            batch_bytes_max: BATCH_BYTES_MAX.min(log.segment_bytes() / 2),
            log,
            slots,
            checkpointer,
            health,
            wake: Notify::new(),
            queue: Mutex::default(),
        });
        let (sender, receiver) = mpsc::channel(1);
        let tasks = vec![
            env.spawn("engine-gather", gather(shared.clone(), sender)),
            env.spawn("engine-log", write(shared.clone(), receiver)),
        ];
        Self {
            shared,
            tasks: Mutex::new(tasks),
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
        let crowded = {
            let queue = self.shared.queue.lock();
            queue.items.len() > QUEUE_LENGTH_MAX || queue.bytes > QUEUE_BYTES_MAX
        };
        if crowded {
            self.flush().wait(&self.shared.health).await?;
        }
        Ok(())
    }

    /// Whether nothing is queued or under way: then a flush frees no slots.
    pub(crate) fn is_idle(&self) -> bool {
        let queue = self.shared.queue.lock();
        queue.items.is_empty() && queue.under_way == 0
    }

    /// Writes what is queued and ends the tasks.
    pub(crate) async fn close(&self) {
        self.shared.queue.lock().closing = true;
        self.shared.wake.notify_one();
        let tasks = std::mem::take(&mut *self.tasks.lock());
        for task in tasks {
            task.join().await;
        }
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        for task in self.tasks.lock().drain(..) {
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
                Err(_) => Err(health.fail("the disk was closed meanwhile".to_owned())),
            },
        }
    }
}

enum Step {
    Write(Batch),
    WaitUntil(Instant),
    Wait,
    End,
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
            if queue.ended {
                // The sender goes, and with it the hope of who waits.
                queue.never_released.extend(entry);
                return Durability(receiver);
            }
            let first = queue.items.is_empty();
            if first {
                queue.since = Some(self.env.now());
            }
            queue.bytes += entry.as_ref().map_or(0, Entry::bytes);
            queue.items.push_back(Item { entry, waiting });
            queue.urgent |= awaited
                || queue.items.len() > QUEUE_LENGTH_MAX / 2
                || queue.bytes > QUEUE_BYTES_MAX / 2;
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
            if queue.closing {
                queue.ended = true;
                return Step::End;
            }
            return Step::Wait;
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
        let mut batch = Batch::default();
        queue.take(&mut batch, self.batch_bytes_max, |_| true);
        Step::Write(batch)
    }

    /// Adds what came meanwhile and needs no sync.
    fn top_up(&self, batch: &mut Batch) {
        let needs_no_sync = |item: &Item| {
            item.entry
                .as_ref()
                .is_none_or(|entry| entry.dirty.is_none())
        };
        self.queue
            .lock()
            .take(batch, self.batch_bytes_max, needs_no_sync);
    }

    async fn sync_groups(&self, items: &[Item]) -> Result<(), EngineError> {
        self.health.check()?;
        let entries = items.iter().filter_map(|item| item.entry.as_ref());
        let groups: BTreeSet<GroupId> = entries.filter_map(|entry| entry.dirty).collect();
        let synced = join_all(groups.iter().map(|&group| self.slots.sync(group))).await;
        synced.into_iter().collect()
    }

    async fn write(&self, gathered: Gathered) {
        let Gathered {
            batch: Batch { items, .. },
            synced,
            turn,
        } = gathered;
        let count = items.len();
        let mut entries = Vec::with_capacity(count);
        let mut waiting = Vec::new();
        for item in items {
            entries.extend(item.entry);
            waiting.extend(item.waiting);
        }
        let result = match synced {
            Ok(()) if entries.is_empty() => self.health.check(),
            Ok(()) => self.append(&mut entries).await,
            Err(error) => Err(error),
        };
        // The next batch takes in what has come, before those who are told now bring more.
        drop(turn);
        if result.is_err() {
            self.slots.freeze();
            self.queue.lock().never_released.append(&mut entries);
        }
        // Before anyone is told: who waited for a flush counts on free slots.
        drop(entries);
        self.queue.lock().under_way -= count;
        for sender in waiting {
            // Who went away wants no answer.
            drop(sender.send(result.clone()));
        }
    }

    async fn append(&self, entries: &mut [Entry]) -> Result<(), EngineError> {
        self.health.check()?;
        let encoded: Vec<Vec<u8>> = entries
            .iter_mut()
            .map(|entry| std::mem::take(&mut entry.encoded))
            .collect();
        let payload = entries.iter().filter_map(|entry| entry.payload.as_ref());
        let payload: Vec<SharedBuf> = payload.map(|(_, bytes)| bytes.clone()).collect();
        let appended = self.log.append(&encoded, &payload).await;
        let appended =
            appended.map_err(|error| self.health.fail(format!("cannot write the log: {error}")))?;
        self.settle(entries, &appended);
        if self.log.fill().is_full() {
            // Also when nobody waits for room: what needs none goes on.
            self.checkpointer.wake.notify_one();
        }
        Ok(())
    }

    /// The batch is durable: its blocks lie in the log, and its records go with the next checkpoint.
    fn settle(&self, entries: &mut [Entry], appended: &Appended) {
        let mut at = appended.payload_at;
        let mut changes = Vec::with_capacity(entries.len());
        for entry in entries {
            if let Some((data, bytes)) = entry.payload.take() {
                data.put(&appended.segment, at);
                at += u32::try_from(bytes.len() / BLOCK_BYTES as usize).unwrap_or(0);
            }
            changes.append(&mut entry.after);
        }
        // Before what was replaced is let go: the checkpointer looks at what is still needed.
        self.checkpointer.add(changes, appended);
    }
}

/// Takes batches from the queue and makes their data durable.
async fn gather(shared: Arc<Shared>, sender: mpsc::Sender<Gathered>) {
    let turns = Arc::new(Semaphore::new(1));
    loop {
        match shared.next() {
            Step::Write(mut batch) => {
                let synced = shared.sync_groups(&batch.items).await;
                let Ok(turn) = turns.clone().acquire_owned().await else {
                    return;
                };
                shared.top_up(&mut batch);
                let gathered = Gathered {
                    batch,
                    synced,
                    turn,
                };
                if sender.send(gathered).await.is_err() {
                    return;
                }
            }
            Step::WaitUntil(due) => {
                // Woken or due: `next` finds out.
                let _woken = shared.env.timeout_at(due, shared.wake.notified()).await;
            }
            Step::Wait => shared.wake.notified().await,
            Step::End => return,
        }
    }
}

/// Writes batches into the log.
async fn write(shared: Arc<Shared>, mut receiver: mpsc::Receiver<Gathered>) {
    while let Some(gathered) = receiver.recv().await {
        shared.write(gathered).await;
    }
}
