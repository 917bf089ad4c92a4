//! The settings of the embedded store.

use serde::{Deserialize, Serialize};

/// When a commit reaches stable storage. In every case it has reached the operating system before it is
/// acknowledged, so that no death of a process loses it, and `Kv::sync` waits for stable storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SyncPolicy {
    /// Before it is acknowledged.
    Always,
    /// Within this many milliseconds.
    Interval(u64),
}

/// The settings. All have defaults.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EmbeddedConfig {
    /// `"always"` or `{ interval = milliseconds }`.
    pub sync: SyncPolicy,
    /// Memory for blocks read from disk.
    pub cache_bytes: u64,
    /// Threads that write memory out and merge files.
    pub worker_threads: usize,
    /// Commits are refused when less than this is free on the device; 0 means 2 % of the device, within
    /// 128 MiB and 256 MiB (a quarter of a small device). Transactions that remove something may go down to a quarter of it.
    pub space_reserve_bytes: u64,
}

impl Default for EmbeddedConfig {
    fn default() -> Self {
        Self {
            sync: SyncPolicy::Interval(10),
            cache_bytes: 16 << 20,
            worker_threads: 2,
            space_reserve_bytes: 0,
        }
    }
}

impl EmbeddedConfig {
    /// One line on each key, for a configuration that contains this one as `prefix`.
    pub const DOCS: &[(&str, &str)] = &[
        (
            "sync",
            "when commits reach stable storage: \"always\" (before they are acknowledged) or { interval = milliseconds }",
        ),
        ("cache_bytes", "memory for blocks read from disk"),
        (
            "worker_threads",
            "threads that write memory out and merge files",
        ),
        (
            "space_reserve_bytes",
            "free space below which commits are refused; 0 = 2 % of the device, within 128 and 256 MiB",
        ),
    ];
}
