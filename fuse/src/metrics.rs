//! The names of this crate's metrics, and the only functions that record them.

use std::time::Duration;

use ::metrics::{counter, histogram};

/// Time from a request's arrival to its answer, by operation.
const REQUEST_SECONDS: &str = "fuse_request_seconds";
/// Reports of a length that failed and are repeated.
const FAILED_REPORTS: &str = "fuse_failed_reports_total";

pub(crate) fn request(operation: &'static str, took: Duration) {
    histogram!(REQUEST_SECONDS, "operation" => operation).record(took.as_secs_f64());
}

pub(crate) fn failed_report() {
    counter!(FAILED_REPORTS).increment(1);
}
