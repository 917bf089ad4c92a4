//! The names of this crate's metrics, declared once.

use types::status::StatusCode;

/// A client's update ended at the head.
pub(crate) fn updated(code: Option<StatusCode>) {
    metrics::counter!("penstock_storage_updates_total", "result" => label(code)).increment(1);
}

/// A range was read, or not.
pub(crate) fn read(code: Option<StatusCode>, bytes: u64) {
    metrics::counter!("penstock_storage_reads_total", "result" => label(code)).increment(1);
    metrics::counter!("penstock_storage_read_bytes_total").increment(bytes);
}

/// A read found a pending version and asked the last serving target.
pub(crate) fn version_asked() {
    metrics::counter!("penstock_storage_version_queries_total").increment(1);
}

/// An attempt to pass a change on failed.
pub(crate) fn pass_on_failed(code: StatusCode) {
    metrics::counter!("penstock_storage_pass_on_failures_total", "result" => label(Some(code)))
        .increment(1);
}

/// A pending version of an earlier attempt was finished.
pub(crate) fn settled() {
    metrics::counter!("penstock_storage_settled_total").increment(1);
}

/// Two replicas made different content of one version.
pub(crate) fn diverged() {
    metrics::counter!("penstock_storage_divergences_total").increment(1);
}

/// Stored bytes did not match their checksum.
pub(crate) fn damaged() {
    metrics::counter!("penstock_storage_damaged_chunks_total").increment(1);
}

/// Damaged bytes were replaced by those of another replica.
pub(crate) fn repaired() {
    metrics::counter!("penstock_storage_repaired_chunks_total").increment(1);
}

/// Resync looked at chunks and sent some.
pub(crate) fn resynced(compared: usize, sent: usize) {
    metrics::counter!("penstock_storage_resync_compared_total").increment(compared as u64);
    metrics::counter!("penstock_storage_resync_sent_total").increment(sent as u64);
}

fn label(code: Option<StatusCode>) -> String {
    code.map_or_else(|| "ok".to_owned(), |code| format!("{code:?}"))
}
