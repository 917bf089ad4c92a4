//! The garbage collector: does what transactions queued (`store::garbage`), outside of them.
//!
//! An inode without names and without sessions stays so (`ops::open::begin_session`), so between looking at
//! it and removing it nothing can happen to it: first its chunks go, then itself with its entry. Each step
//! can be repeated; a crash between them leaves the entry, and the next round begins again.
//!
//! It looks when somebody queued something here, and every few seconds for what others left.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use common::{
    backoff::Backoff,
    env::Instant,
    shutdown::ShutdownSignal,
    worker::{Next, Worker},
};
use futures::{StreamExt, stream};
use kv::{Kv, RangeOptions, ReadMode, Transaction, transact};
use types::{
    inode::Inode,
    status::{Status, StatusCode},
};

use crate::{
    error::MetaError,
    metrics,
    service::Namespace,
    store::{
        self,
        garbage::{Entry, Garbage, SHARDS},
    },
};

/// Entries worked on at a time: enough to keep several chains busy, few beside what users do.
const CONCURRENCY: usize = 8;
/// Entries taken in one round.
const ROUND_MAX: usize = 64;
/// Entries read in one transaction.
const PAGE: usize = 256;
/// For each transaction.
const TRANSACTION_TIME: Duration = Duration::from_secs(10);
/// For the chunks of one inode in one round, so that a chain that is away does not hold up all others.
/// Removing goes on where it was cut off.
const CHUNKS_TIME: Duration = Duration::from_secs(10);
/// A truncate is finished by who began it; this long he is left alone.
const TRUNCATE_GRACE: Duration = Duration::from_secs(5);
/// Waits after failures, from the first to the longest: storage that is away comes back in seconds.
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// How patient the collector is.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// How long an inode that lost its last name is left to readers elsewhere.
    pub grace: Duration,
    /// How often it looks without being asked.
    pub scan: Duration,
}

/// The worker.
#[derive(Debug)]
pub struct Collector {
    namespace: Arc<Namespace>,
    shutdown: ShutdownSignal,
    patience: Patience,
    failed: BTreeMap<Entry, Failed>,
    removed: u64,
    backlog: usize,
    /// Set between a round and the next.
    wait: Option<Duration>,
}

#[derive(Debug)]
struct Failed {
    again: Instant,
    backoff: Backoff,
    reason: String,
}

/// What a look at the queue brought.
#[derive(Debug, Default)]
struct Round {
    due: Vec<Entry>,
    /// When the next entry is due, if one is not yet.
    wait: Option<Duration>,
    seen: usize,
    failed: BTreeMap<Entry, Failed>,
}

impl Collector {
    /// Collects for `namespace` until shutdown.
    pub fn new(namespace: Arc<Namespace>, patience: Patience, shutdown: ShutdownSignal) -> Self {
        Self {
            namespace,
            shutdown,
            patience,
            failed: BTreeMap::new(),
            removed: 0,
            backlog: 0,
            wait: None,
        }
    }

    /// Does everything that is due; returns how long there is nothing more to do.
    pub async fn collect(&mut self) -> Duration {
        loop {
            let round = match self.look().await {
                Ok(round) => round,
                Err(error) => {
                    tracing::warn!(%error, "cannot read the garbage queue");
                    return self.patience.scan;
                }
            };
            self.failed = round.failed;
            self.backlog = round.seen;
            if round.due.is_empty() {
                metrics::garbage_backlog(self.backlog);
                let wait = round.wait.unwrap_or(self.patience.scan);
                return wait.clamp(Duration::from_millis(1), self.patience.scan);
            }
            self.work(round.due).await;
            if self.shutdown.is_triggered() {
                return Duration::ZERO;
            }
        }
    }

    async fn work(&mut self, due: Vec<Entry>) {
        let namespace = &self.namespace;
        let mut results = stream::iter(due)
            .map(|entry| async move { (entry, handle(namespace, entry).await) })
            .buffer_unordered(CONCURRENCY);
        while let Some((entry, result)) = results.next().await {
            match result {
                Ok(chunks) => {
                    self.removed += 1;
                    self.failed.remove(&entry);
                    metrics::garbage_done(chunks);
                }
                Err(error) => note_failure(&self.namespace, &mut self.failed, entry, &error),
            }
        }
    }

    /// Reads the queue.
    async fn look(&mut self) -> Result<Round, MetaError> {
        let mut round = Round::default();
        let mut known = std::mem::take(&mut self.failed);
        let looked = self.look_at_shards(&mut round, &mut known).await;
        // Entries that were not reached keep their waits.
        round.failed.append(&mut known);
        if let Err(error) = looked {
            self.failed = round.failed;
            return Err(error);
        }
        Ok(round)
    }

    async fn look_at_shards(
        &self,
        round: &mut Round,
        known: &mut BTreeMap<Entry, Failed>,
    ) -> Result<(), MetaError> {
        for shard in 0..SHARDS {
            let mut left = Some(store::garbage::range(shard));
            while let Some(range) = left {
                let mut txn = self.namespace.kv.begin();
                let options = RangeOptions {
                    limit: PAGE,
                    reverse: false,
                };
                let page = txn
                    .get_range(range.clone(), options, ReadMode::Snapshot)
                    .await?;
                for (key, _) in &page.items {
                    self.sort_in(round, known, store::garbage::read(key)?);
                }
                left = page.rest(&range, false);
                if round.due.len() >= ROUND_MAX {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Whether an entry is due, or when.
    fn sort_in(&self, round: &mut Round, known: &mut BTreeMap<Entry, Failed>, entry: Entry) {
        round.seen += 1;
        let env = &self.namespace.env;
        let grace = match entry.garbage {
            Garbage::Remove => self.patience.grace,
            Garbage::Truncate => TRUNCATE_GRACE,
        };
        let age = Duration::from_nanos(env.wall().0.saturating_sub(entry.queued_ns));
        let mut wait = grace.saturating_sub(age);
        if let Some(failed) = known.remove(&entry) {
            wait = wait.max(failed.again.saturating_duration_since(env.now()));
            round.failed.insert(entry, failed);
        }
        if wait.is_zero() {
            round.due.push(entry);
        } else {
            round.wait = Some(round.wait.map_or(wait, |known| known.min(wait)));
        }
    }
}

impl Worker for Collector {
    fn name(&self) -> &'static str {
        "garbage-collector"
    }

    /// A round and the wait after it are two steps, so that the status is shown in between.
    async fn step(&mut self) -> Next {
        let Some(wait) = self.wait.take() else {
            self.wait = Some(self.collect().await);
            return Next::Again;
        };
        let mut shutdown = self.shutdown.clone();
        tokio::select! {
            () = self.namespace.garbage.notified() => {}
            () = self.namespace.env.sleep(wait) => {}
            () = shutdown.wait() => {}
        }
        Next::Again
    }

    fn status(&self) -> String {
        let mut text = format!("{} collected, {} in the queue", self.removed, self.backlog);
        if let Some((entry, failed)) = self.failed.first_key_value() {
            let (count, inode, reason) = (self.failed.len(), entry.inode, &failed.reason);
            text.push_str(&format!(", {count} failed, inode {inode} because {reason}"));
        }
        text
    }
}

fn note_failure(
    namespace: &Namespace,
    failed: &mut BTreeMap<Entry, Failed>,
    entry: Entry,
    error: &MetaError,
) {
    tracing::info!(inode = entry.inode.0, %error, "garbage is left for later");
    let env = &namespace.env;
    let failed = failed.entry(entry).or_insert_with(|| Failed {
        again: env.now(),
        backoff: Backoff::new(RETRY_FIRST, RETRY_MAX),
        reason: String::new(),
    });
    failed.again = env.now() + failed.backoff.next_delay(env);
    failed.reason = error.to_string();
}

/// Does one entry; returns how many chunks were removed.
async fn handle(namespace: &Namespace, entry: Entry) -> Result<u64, MetaError> {
    match entry.garbage {
        Garbage::Remove => remove(namespace, entry).await,
        Garbage::Truncate => {
            match namespace.truncates.finish(entry.inode, Some(entry)).await {
                Ok(_inode) => {}
                // Removed meanwhile: there is nothing to cut.
                Err(MetaError::Stale { .. }) => forget_entry(namespace, entry).await?,
                Err(error) => return Err(error),
            }
            Ok(0)
        }
    }
}

async fn remove(namespace: &Namespace, entry: Entry) -> Result<u64, MetaError> {
    let (env, kv) = (&namespace.env, &*namespace.kv);
    let doomed = transact(env, kv, env.now() + TRANSACTION_TIME, |txn| {
        Box::pin(judge(txn, entry))
    })
    .await?;
    let Some(inode) = doomed else {
        return Ok(0);
    };
    let removed = match inode.layout() {
        Some(layout) => {
            let removal = namespace.chunks.remove(inode.id, layout, 0);
            let removed = env.timeout(CHUNKS_TIME, removal).await;
            removed.unwrap_or_else(|_| {
                Err(Status::new(
                    StatusCode::DeadlineExceeded,
                    "the chunks were not removed in time",
                ))
            })?
        }
        None => 0,
    };
    transact(env, kv, env.now() + TRANSACTION_TIME, |txn| {
        Box::pin(forget_inode(txn, entry))
    })
    .await?;
    Ok(removed)
}

/// The inode, if it is garbage; else clears the entry.
async fn judge(txn: &mut dyn Transaction, entry: Entry) -> Result<Option<Inode>, MetaError> {
    let found = store::inode::load(txn, entry.inode, ReadMode::Serializable).await?;
    if let Some(inode) = found
        && inode.nlink == 0
        && !store::session::any(txn, inode.id, None).await?
    {
        return Ok(Some(inode));
    }
    store::garbage::clear(txn, entry);
    Ok(None)
}

/// The chunks are gone: now the inode and the entry.
async fn forget_inode(txn: &mut dyn Transaction, entry: Entry) -> Result<(), MetaError> {
    let found = store::inode::load(txn, entry.inode, ReadMode::Serializable).await?;
    if found.is_some() {
        store::inode::clear(txn, entry.inode);
        store::unreported::clear(txn, entry.inode);
        store::counters::count(txn, entry.inode, -1);
    }
    store::garbage::clear(txn, entry);
    Ok(())
}

async fn forget_entry(namespace: &Namespace, entry: Entry) -> Result<(), MetaError> {
    let env = &namespace.env;
    let kv: &dyn Kv = &*namespace.kv;
    transact(env, kv, env.now() + TRANSACTION_TIME, |txn| {
        Box::pin(async move {
            store::garbage::clear(txn, entry);
            Ok(())
        })
    })
    .await
}
