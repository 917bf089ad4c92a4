//! The limits of the transport (protocol T3: everything is bounded). Each has the reason for its default.

use std::time::Duration;

use common::config::Config;
use serde::{Deserialize, Serialize};

/// Limits of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NetConfig {
    /// The largest body of a request or reply. Batches and raft snapshots' pieces stay far below.
    pub body_bytes_max: u32,
    /// The most payload of one request or push: the largest chunk (64 MiB), twice.
    pub payload_bytes_max: u32,
    /// Payload that requests under way may hold in a server.
    pub server_payload_bytes_max: u32,
    /// Buffers of one request: twice the largest batch.
    pub buffers_max: u16,
    /// Requests under way on one connection.
    pub outstanding_max: u32,
    /// Connections a server holds.
    pub connections_max: u32,
    /// Frames waiting to be written on one connection.
    pub queue_frames_max: u32,
    /// Payload waiting to be written on one connection.
    pub queue_bytes_max: u32,
    /// Calls with more bulk bytes than this use the bulk connections, so that they do not delay small ones.
    pub bulk_threshold_bytes: u32,
    /// Bulk connections to one peer; 0 puts everything on one connection.
    pub bulk_connections: u8,
    /// How long a peer may take to be connected, and again to say Hello.
    pub connect_ms_max: u64,
    /// The longest pause between attempts to connect to a dead peer; calls in a pause fail at once.
    pub reconnect_ms_max: u64,
    /// How long a client may take to say Hello to a server.
    pub handshake_ms_max: u64,
    /// How long a peer may read or send nothing in the middle of a frame.
    pub stall_ms_max: u64,
    /// How long a request waits for room under `server_payload_bytes_max` before it is answered Overloaded.
    pub admission_ms_max: u64,
    /// How long a server that stops waits for requests under way.
    pub drain_ms_max: u64,
}

impl Default for NetConfig {
    fn default() -> Self {
        Self {
            body_bytes_max: 16 << 20,
            payload_bytes_max: 128 << 20,
            server_payload_bytes_max: 256 << 20,
            buffers_max: 512,
            outstanding_max: 1024,
            connections_max: 4096,
            queue_frames_max: 256,
            queue_bytes_max: 64 << 20,
            bulk_threshold_bytes: 64 << 10,
            bulk_connections: 2,
            connect_ms_max: 1000,
            reconnect_ms_max: 200,
            handshake_ms_max: 5000,
            stall_ms_max: 30_000,
            admission_ms_max: 200,
            drain_ms_max: 2000,
        }
    }
}

impl NetConfig {
    pub(crate) fn stall(&self) -> Duration {
        Duration::from_millis(self.stall_ms_max)
    }
}

impl Config for NetConfig {
    fn docs() -> &'static [(&'static str, &'static str)] {
        &[
            ("body_bytes_max", "largest body of a request or reply"),
            (
                "payload_bytes_max",
                "largest payload of one request or push",
            ),
            (
                "server_payload_bytes_max",
                "payload that requests under way may hold in a server",
            ),
            ("buffers_max", "buffers of one request"),
            ("outstanding_max", "requests under way on one connection"),
            ("connections_max", "connections a server holds"),
            (
                "queue_frames_max",
                "frames waiting to be written on one connection",
            ),
            (
                "queue_bytes_max",
                "payload waiting to be written on one connection",
            ),
            (
                "bulk_threshold_bytes",
                "calls with more bulk bytes than this use the bulk connections",
            ),
            (
                "bulk_connections",
                "bulk connections to one peer; 0 puts everything on one connection",
            ),
            (
                "connect_ms_max",
                "how long a peer may take to be connected, and again to say Hello",
            ),
            (
                "reconnect_ms_max",
                "longest pause between attempts to connect to a dead peer",
            ),
            (
                "handshake_ms_max",
                "how long a client may take to say Hello to a server",
            ),
            (
                "stall_ms_max",
                "how long a peer may read or send nothing in the middle of a frame",
            ),
            (
                "admission_ms_max",
                "how long a request waits for payload memory before it is answered Overloaded",
            ),
            (
                "drain_ms_max",
                "how long a server that stops waits for requests under way",
            ),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_documented() {
        assert!(common::config::undocumented_keys::<NetConfig>().is_empty());
    }
}
