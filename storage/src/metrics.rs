//! The names of this crate's metrics, declared once.

use ::metrics::SharedString;
use types::{id::DiskIndex, status::StatusCode};

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

/// Scrub has read and compared so much of a disk.
pub(crate) fn scrubbed(disk: DiskIndex, chunks: u64, bytes: u64) {
    let label = disk.to_string();
    metrics::counter!("penstock_storage_scrub_chunks_total", "disk" => label.clone())
        .increment(chunks);
    metrics::counter!("penstock_storage_scrub_bytes_total", "disk" => label).increment(bytes);
}

/// Scrub found a damaged chunk.
pub(crate) fn scrub_damaged(disk: DiskIndex) {
    metrics::counter!("penstock_storage_scrub_damaged_total", "disk" => disk.to_string())
        .increment(1);
}

/// What became of a damaged chunk that scrub had found.
pub(crate) fn scrub_settled(disk: DiskIndex, repaired: bool) {
    let name = if repaired {
        "penstock_storage_scrub_repaired_total"
    } else {
        "penstock_storage_scrub_unrepaired_total"
    };
    metrics::counter!(name, "disk" => disk.to_string()).increment(1);
}

/// Scrub has seen all of a disk.
pub(crate) fn scrub_round_ended(disk: DiskIndex) {
    metrics::counter!("penstock_storage_scrub_rounds_total", "disk" => disk.to_string())
        .increment(1);
}

/// Resync looked at chunks and sent some.
pub(crate) fn resynced(compared: usize, sent: usize) {
    metrics::counter!("penstock_storage_resync_compared_total").increment(compared as u64);
    metrics::counter!("penstock_storage_resync_sent_total").increment(sent as u64);
}

fn label(code: Option<StatusCode>) -> SharedString {
    match code {
        None => SharedString::const_str("ok"),
        Some(code) => format!("{code:?}").into(),
    }
}
