//! The names of this crate's metrics, and the only functions that record them.

use ::metrics::counter;
use types::status::StatusCode;

/// Attempts that failed and were repeated, by operation and status code.
const RETRIES: &str = "client_retries_total";
/// Bytes read and written by applications through this client, by direction.
const BYTES: &str = "client_bytes_total";
/// Read parts whose bytes did not match their checksum and were read from another replica.
const CORRUPT_READS: &str = "client_corrupt_reads_total";
/// Read parts for which a second replica was asked because the first was late.
const HEDGED_READS: &str = "client_hedged_reads_total";
/// Those of them that the second replica answered first.
const HEDGES_WON: &str = "client_hedged_reads_won_total";
/// Exactly-once channels given up because the outcome of their last update is unknown.
const RETIRED_CHANNELS: &str = "client_retired_channels_total";

pub(crate) fn retried(operation: &'static str, code: StatusCode) {
    counter!(RETRIES, "operation" => operation, "code" => format!("{code:?}")).increment(1);
}

pub(crate) fn bytes_read(count: usize) {
    counter!(BYTES, "direction" => "read").increment(count as u64);
}

pub(crate) fn bytes_written(count: usize) {
    counter!(BYTES, "direction" => "written").increment(count as u64);
}

pub(crate) fn corrupt_read() {
    counter!(CORRUPT_READS).increment(1);
}

pub(crate) fn hedged_read() {
    counter!(HEDGED_READS).increment(1);
}

pub(crate) fn hedges_won(count: usize) {
    counter!(HEDGES_WON).increment(count as u64);
}

pub(crate) fn retired_channel() {
    counter!(RETIRED_CHANNELS).increment(1);
}
