//! This crate's metrics: their names, each once, and how they are counted.

use std::time::Duration;

use crate::error::{ErrorClass, KvError};

/// Transactions committed.
const COMMITS: &str = "kv_commits_total";
/// Transactions refused because they conflicted or were too old.
const CONFLICTS: &str = "kv_conflicts_total";
/// Transactions per write to the journal.
const GROUP_SIZE: &str = "kv_group_transactions";
/// How long it took to bring the journal onto stable storage.
const SYNC_SECONDS: &str = "kv_sync_seconds";

/// Counts a group that was written.
pub(crate) fn count_group(transactions: usize) {
    let transactions = transactions as u64;
    metrics::counter!(COMMITS).increment(transactions);
    metrics::histogram!(GROUP_SIZE).record(transactions as f64);
}

/// Counts a transaction that was not.
pub(crate) fn count_refusal(error: &KvError) {
    if error.class() == ErrorClass::Retryable {
        metrics::counter!(CONFLICTS).increment(1);
    }
}

/// Counts a sync.
pub(crate) fn count_sync(took: Duration) {
    metrics::histogram!(SYNC_SECONDS).record(took.as_secs_f64());
}
