//! Settings of one disk.

use common::config::Config;
use serde::{Deserialize, Serialize};

/// When an update counts as durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SyncPolicy {
    /// Before it is acknowledged: data on stable storage, then its record (E4).
    Always,
    /// When `Engine::sync` asks. A crash of the machine or of the process loses what came after the last sync,
    /// but never mixes old and new.
    OnFsync,
}

/// How the disk's files are read and written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceKind {
    /// io_uring; falls back to `Direct` where the kernel refuses it.
    Uring,
    /// pread and pwrite on a pool of threads.
    Direct,
}

/// Settings of one disk. Every field has a default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EngineConfig {
    /// Bytes that chunks may take together; 0 means what the file system has.
    pub capacity_bytes: u64,
    /// When an update counts as durable.
    pub sync: SyncPolicy,
    /// How files are read and written.
    pub device: DeviceKind,
    /// Reads and writes in flight on the device at most.
    pub queue_depth: u32,
    /// Memory for blocks of the record store.
    pub cache_bytes: u64,
    /// Group files grow by this much, or by one slot when that is more.
    pub preallocate_bytes: u64,
    /// Bytes of the file system that chunks never take, so that records can always be written.
    pub reserve_bytes: u64,
    /// A device operation that takes longer takes the disk out of service.
    pub hang_seconds: u64,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            capacity_bytes: 0,
            sync: SyncPolicy::Always,
            device: DeviceKind::Uring,
            queue_depth: 128,
            cache_bytes: 4 << 20,
            preallocate_bytes: 16 << 20,
            reserve_bytes: 256 << 20,
            hang_seconds: 60,
        }
    }
}

impl Config for EngineConfig {
    fn docs() -> &'static [(&'static str, &'static str)] {
        &[
            (
                "capacity_bytes",
                "bytes that chunks may take on this disk; 0: what the file system has",
            ),
            (
                "sync",
                "\"always\": an acknowledged update survives loss of power; \"on_fsync\": only after a sync",
            ),
            (
                "device",
                "\"uring\" (io_uring, falls back to direct) or \"direct\" (threads)",
            ),
            ("queue_depth", "reads and writes in flight at most"),
            ("cache_bytes", "memory for blocks of the record store"),
            (
                "preallocate_bytes",
                "group files grow by this much, or by one slot when that is more",
            ),
            (
                "reserve_bytes",
                "bytes of the file system that chunks never take, so that records can always be written",
            ),
            (
                "hang_seconds",
                "a device operation that takes longer takes the disk out of service",
            ),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_documented() {
        assert!(common::config::undocumented_keys::<EngineConfig>().is_empty());
    }
}
