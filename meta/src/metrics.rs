//! The metrics of this crate; requests are counted by `net`.

use metrics::{counter, gauge};

/// Entries of the garbage queue at the last look.
pub(crate) fn garbage_backlog(entries: usize) {
    let entries = u32::try_from(entries).unwrap_or(u32::MAX);
    gauge!("penstock_meta_garbage_entries").set(f64::from(entries));
}

/// An entry is done; `chunks` were removed with it.
pub(crate) fn garbage_done(chunks: u64) {
    counter!("penstock_meta_garbage_done_total").increment(1);
    counter!("penstock_meta_garbage_chunks_total").increment(chunks);
}

/// A session of a client that is gone was ended.
pub(crate) fn session_pruned() {
    counter!("penstock_meta_sessions_pruned_total").increment(1);
}
