//! Settings of one disk.

use std::time::Duration;

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
    /// Memory for checksums of blocks that can be loaded again.
    pub sums_cache_bytes: u64,
    /// Size of the log, from which small updates are folded into their slots.
    pub log_bytes: u64,
    /// Updates that change at most so many bytes go into the log with them; 0: none do.
    pub small_update_bytes: u32,
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
            sums_cache_bytes: 64 << 20,
            log_bytes: 128 << 20,
            small_update_bytes: 64 << 10,
            preallocate_bytes: 16 << 20,
            reserve_bytes: 256 << 20,
            hang_seconds: 60,
        }
    }
}

impl EngineConfig {
    /// How long device or store may take to answer.
    pub(crate) fn hang_limit(&self) -> Duration {
        Duration::from_secs(self.hang_seconds.max(1))
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
                "sums_cache_bytes",
                "memory for checksums of blocks, 1 KiB for each MiB of chunks in use",
            ),
            (
                "log_bytes",
                "size of the log; when half of it is in use, small updates are folded into their slots",
            ),
            (
                "small_update_bytes",
                "updates that change at most so many bytes are written into the log first; 0: none are",
            ),
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
