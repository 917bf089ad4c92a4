//! The settings of a metadata server.

use std::path::PathBuf;

use common::{config::Config, logging::LogFormat};
use kv::embedded::EmbeddedConfig;
use serde::{Deserialize, Serialize};
use types::layout::{CHUNK_SIZE_MAX, CHUNK_SIZE_MIN, STRIPE_SIZE_MAX};

use crate::server::ServeError;

/// Which key-value store holds the namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KvKind {
    /// A store in the data directory: one metadata server.
    #[default]
    Embedded,
    /// FoundationDB: any number of them.
    Fdb,
}

/// Settings of one metadata server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MetaConfig {
    /// Distinct among all nodes of the cluster, whatever their kind.
    pub node_id: u32,
    /// Where other processes reach it.
    pub listen: String,
    /// Addresses told to others.
    pub advertise: Vec<String>,
    /// Where `/metrics` and `/healthz` are.
    pub admin_listen: String,
    /// The managers.
    pub mgmtd: Vec<String>,
    /// The data directory.
    pub data: PathBuf,
    /// Which store.
    pub kv: KvKind,
    /// Settings of the embedded store.
    pub embedded: EmbeddedConfig,
    /// Bytes per chunk of new files.
    pub chunk_size: u32,
    /// Over how many chains new files spread.
    pub stripe_size: u32,
    /// How long an unlinked file is left to readers elsewhere.
    pub garbage_grace_ms: u64,
    /// How often the collector looks for garbage of others.
    pub garbage_scan_ms: u64,
    /// The log filter.
    pub log: String,
    /// How log lines look.
    pub log_format: LogFormat,
}

impl Default for MetaConfig {
    fn default() -> Self {
        Self {
            node_id: 1,
            listen: "127.0.0.1:0".to_owned(),
            advertise: Vec::new(),
            admin_listen: "127.0.0.1:0".to_owned(),
            mgmtd: vec!["127.0.0.1:7400".to_owned()],
            data: PathBuf::from("meta-data"),
            kv: KvKind::Embedded,
            embedded: EmbeddedConfig::default(),
            chunk_size: 1 << 20,
            stripe_size: 16,
            garbage_grace_ms: 1000,
            garbage_scan_ms: 5000,
            log: "info".to_owned(),
            log_format: LogFormat::Text,
        }
    }
}

impl MetaConfig {
    /// Checks what the types do not.
    pub(crate) fn check(&self) -> Result<(), ServeError> {
        let wrong = |reason: String| Err(ServeError::Config { reason });
        let sizes = CHUNK_SIZE_MIN..=CHUNK_SIZE_MAX;
        if !self.chunk_size.is_power_of_two() || !sizes.contains(&self.chunk_size) {
            return wrong(format!(
                "`chunk_size` is {}; it must be a power of two from {CHUNK_SIZE_MIN} to {CHUNK_SIZE_MAX}",
                self.chunk_size
            ));
        }
        if !(1..=STRIPE_SIZE_MAX).contains(&self.stripe_size) {
            return wrong(format!(
                "`stripe_size` is {}; it must be from 1 to {STRIPE_SIZE_MAX}",
                self.stripe_size
            ));
        }
        if self.mgmtd.is_empty() {
            return wrong("`mgmtd` names no manager".to_owned());
        }
        if self.garbage_scan_ms == 0 {
            return wrong("`garbage_scan_ms` must be above 0".to_owned());
        }
        match self.kv {
            KvKind::Embedded => Ok(()),
            KvKind::Fdb => Err(ServeError::KvNotBuilt { kind: "fdb" }),
        }
    }
}

impl Config for MetaConfig {
    fn docs() -> &'static [(&'static str, &'static str)] {
        &[
            (
                "node_id",
                "id of this node, distinct among all nodes of the cluster of any kind",
            ),
            ("listen", "address for requests; port 0 takes a free one"),
            (
                "advertise",
                "addresses told to others, best first; empty: the one listened on",
            ),
            ("admin_listen", "address of /metrics and /healthz"),
            ("mgmtd", "addresses of the managers, host:port"),
            ("data", "directory of this server, with the embedded store"),
            (
                "kv",
                "key-value store of the namespace: \"embedded\" or \"fdb\"",
            ),
            (
                "embedded.sync",
                "when commits reach stable storage: \"always\" (before they are acknowledged) or { interval = milliseconds }; fsync waits for it either way",
            ),
            ("embedded.cache_bytes", "memory for blocks read from disk"),
            (
                "embedded.worker_threads",
                "threads that write memory out and merge files",
            ),
            (
                "embedded.space_reserve_bytes",
                "free space below which changes are refused (at most 2 % of the device)",
            ),
            (
                "chunk_size",
                "bytes per chunk of new files: a power of two from 65536 to 67108864",
            ),
            (
                "stripe_size",
                "over how many chains new files spread, when there are as many",
            ),
            (
                "garbage_grace_ms",
                "how long the data of an unlinked file is left to readers on other clients",
            ),
            (
                "garbage_scan_ms",
                "how often the collector looks for garbage that nobody told it about",
            ),
            (
                "log",
                "log filter, for example \"info\" or \"meta=debug,info\"",
            ),
            ("log_format", "log lines as \"text\" or \"json\""),
        ]
    }
}

#[cfg(test)]
mod tests {
    use kv::embedded::SyncPolicy;

    use super::*;

    #[test]
    fn every_key_is_documented() {
        let missing = common::config::undocumented_keys::<MetaConfig>();
        assert!(missing.is_empty(), "{missing:?}");
    }

    #[test]
    fn what_is_printed_reads_back() {
        let text = common::config::print(&MetaConfig::default());
        let read = common::config::parse::<MetaConfig>(&text).unwrap();
        assert_eq!(read, MetaConfig::default());
        read.check().unwrap();
    }

    #[test]
    fn both_sync_policies_can_be_written() {
        let parse = |text| common::config::parse::<MetaConfig>(text).unwrap();
        let always = parse("[embedded]\nsync = \"always\"");
        assert_eq!(always.embedded.sync, SyncPolicy::Always);
        let interval = parse("embedded.sync.interval = 25");
        assert_eq!(interval.embedded.sync, SyncPolicy::Interval(25));
    }

    #[test]
    fn what_cannot_work_is_refused_with_its_key() {
        for (text, key) in [
            ("chunk_size = 1000000", "chunk_size"),
            ("stripe_size = 0", "stripe_size"),
            ("mgmtd = []", "mgmtd"),
            ("kv = \"fdb\"", "not built"),
        ] {
            let config = common::config::parse::<MetaConfig>(text).unwrap();
            let error = config.check().unwrap_err().to_string();
            assert!(error.contains(key), "{error}");
        }
    }
}
