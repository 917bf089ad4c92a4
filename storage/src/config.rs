//! The settings of a storage node.

use std::path::PathBuf;

use common::{config::Config, logging::LogFormat};
use engine::{DeviceKind, EngineConfig, SyncPolicy};
use serde::{Deserialize, Serialize};

use crate::resync::pace::ResyncLimits;

/// Settings of a storage node. Every key has a default; `node_id` and `mgmtd` are rarely right by default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StorageConfig {
    /// The node's identity in the cluster.
    pub node_id: u32,
    /// Where requests are served.
    pub listen: String,
    /// Addresses told to others.
    pub advertise: Vec<String>,
    /// Where `/metrics` and `/healthz` are served.
    pub admin_listen: String,
    /// The managers.
    pub mgmtd: Vec<String>,
    /// The node's directory.
    pub data: PathBuf,
    /// The disks' directories.
    pub disks: Vec<PathBuf>,
    /// Failure domains.
    pub tags: Vec<String>,
    /// Bytes that chunks may take on each disk.
    pub capacity_bytes: u64,
    /// Bytes of each disk's file system that chunks never take.
    pub reserve_bytes: u64,
    /// When an update counts as durable.
    pub sync: SyncPolicy,
    /// How disks are read and written.
    pub device: DeviceKind,
    /// Within so many days every chunk is read and verified.
    pub scrub_days: u32,
    /// Chunks that each disk sends at once to refill other targets.
    pub resync_parallel: u32,
    /// Percent of the time that a disk works on refilling others while clients use it.
    pub resync_percent: u32,
    /// Bytes per second that each disk sends at most to refill others; 0: no limit.
    pub resync_bytes_per_second: u64,
    /// Unused buffers kept for the next request.
    pub buffer_bytes: u64,
    /// Log filter.
    pub log: String,
    /// Log format.
    pub log_format: LogFormat,
}

impl Default for StorageConfig {
    fn default() -> Self {
        let engine = EngineConfig::default();
        Self {
            node_id: 1,
            listen: "127.0.0.1:0".to_owned(),
            advertise: Vec::new(),
            admin_listen: "127.0.0.1:0".to_owned(),
            mgmtd: vec!["127.0.0.1:7400".to_owned()],
            data: PathBuf::from("storage"),
            disks: Vec::new(),
            tags: Vec::new(),
            capacity_bytes: engine.capacity_bytes,
            reserve_bytes: engine.reserve_bytes,
            sync: engine.sync,
            device: engine.device,
            scrub_days: 14,
            resync_parallel: 8,
            resync_percent: 50,
            resync_bytes_per_second: 0,
            buffer_bytes: 64 << 20,
            log: "info".to_owned(),
            log_format: LogFormat::Text,
        }
    }
}

impl StorageConfig {
    /// The disks' directories, in the order of their indexes.
    pub(crate) fn disk_dirs(&self) -> Vec<PathBuf> {
        if self.disks.is_empty() {
            vec![self.data.join("disk-0")]
        } else {
            self.disks.clone()
        }
    }

    /// What each disk may spend on refilling others.
    pub(crate) fn resync(&self) -> ResyncLimits {
        let rate = self.resync_bytes_per_second;
        ResyncLimits {
            parallel: self.resync_parallel,
            percent: self.resync_percent,
            bytes_per_second: (rate > 0).then_some(rate),
        }
    }

    /// What each disk's engine is told.
    pub(crate) fn engine(&self) -> EngineConfig {
        EngineConfig {
            capacity_bytes: self.capacity_bytes,
            reserve_bytes: self.reserve_bytes,
            sync: self.sync,
            device: self.device,
            ..EngineConfig::default()
        }
    }
}

impl Config for StorageConfig {
    fn docs() -> &'static [(&'static str, &'static str)] {
        &[
            (
                "node_id",
                "the node's identity in the cluster; no two nodes may share one",
            ),
            ("listen", "address for requests; port 0 takes a free one"),
            (
                "advertise",
                "addresses told to others, best first; empty: the one listened on",
            ),
            ("admin_listen", "address of /metrics and /healthz"),
            ("mgmtd", "addresses of the managers"),
            ("data", "the node's directory"),
            (
                "disks",
                "one directory per disk, in a fixed order; empty: disk-0 in `data`",
            ),
            (
                "tags",
                "failure domains from outer to inner, for example \"rack=3\"",
            ),
            (
                "capacity_bytes",
                "bytes that chunks may take on each disk; 0: what the file system has",
            ),
            (
                "reserve_bytes",
                "bytes of each disk's file system that chunks never take",
            ),
            (
                "sync",
                "\"always\": an acknowledged write survives loss of power; \"on_fsync\": only after a sync",
            ),
            (
                "device",
                "\"uring\" (io_uring, falls back to direct) or \"direct\" (threads)",
            ),
            (
                "scrub_days",
                "within so many days every chunk is read and verified, and repaired if need be; 0: never",
            ),
            (
                "resync_parallel",
                "chunks that each disk sends at once to refill other targets, 1 to 256; one at a time while clients use the disk",
            ),
            (
                "resync_percent",
                "percent of the time that a disk works on refilling others while clients use it, 1 to 100",
            ),
            (
                "resync_bytes_per_second",
                "bytes per second that each disk sends at most to refill others; 0: no limit",
            ),
            ("buffer_bytes", "unused buffers kept for the next request"),
            (
                "log",
                "what is logged, for example \"info\" or \"storage=debug,info\"",
            ),
            ("log_format", "\"text\" or \"json\""),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_documented() {
        assert!(common::config::undocumented_keys::<StorageConfig>().is_empty());
    }

    #[test]
    fn without_disks_there_is_one_in_the_data_directory() {
        let config = StorageConfig {
            data: PathBuf::from("/x"),
            ..StorageConfig::default()
        };
        assert_eq!(config.disk_dirs(), [PathBuf::from("/x/disk-0")]);
    }
}
