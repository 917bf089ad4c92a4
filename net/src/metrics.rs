//! The names of this crate's metrics, and the only functions that record them.

use std::time::Duration;

use ::metrics::{counter, gauge, histogram};

/// Requests answered by a server, by method and result (`ok` or the name of the status code).
const REQUESTS: &str = "net_requests_total";
/// Time from a request's arrival to its reply, by method.
const REQUEST_SECONDS: &str = "net_request_seconds";
/// Time of a call as the caller sees it, by method.
const CALL_SECONDS: &str = "net_call_seconds";
/// Failed calls, by method and status code.
const CALL_FAILURES: &str = "net_call_failures_total";
/// Payload bytes, by direction: `pulled` and `pushed` by this server.
const PAYLOAD_BYTES: &str = "net_payload_bytes_total";
/// Connections that ended, by reason.
const CLOSED: &str = "net_connections_closed_total";
/// Connections a server holds now.
const CONNECTIONS: &str = "net_server_connections";

pub(crate) fn request(
    method: &'static str,
    code: Option<types::status::StatusCode>,
    took: Duration,
) {
    match code {
        None => counter!(REQUESTS, "method" => method, "code" => "ok").increment(1),
        Some(code) => {
            counter!(REQUESTS, "method" => method, "code" => format!("{code:?}")).increment(1);
        }
    }
    histogram!(REQUEST_SECONDS, "method" => method).record(took.as_secs_f64());
}

pub(crate) fn call(method: &'static str, code: Option<types::status::StatusCode>, took: Duration) {
    if let Some(code) = code {
        counter!(CALL_FAILURES, "method" => method, "code" => format!("{code:?}")).increment(1);
    }
    histogram!(CALL_SECONDS, "method" => method).record(took.as_secs_f64());
}

pub(crate) fn pulled(bytes: usize) {
    counter!(PAYLOAD_BYTES, "direction" => "pulled").increment(bytes as u64);
}

pub(crate) fn pushed(bytes: usize) {
    counter!(PAYLOAD_BYTES, "direction" => "pushed").increment(bytes as u64);
}

pub(crate) fn closed(reason: &'static str) {
    counter!(CLOSED, "reason" => reason).increment(1);
}

pub(crate) fn connection_opened() {
    gauge!(CONNECTIONS).increment(1);
}

pub(crate) fn connection_closed() {
    gauge!(CONNECTIONS).decrement(1);
}
