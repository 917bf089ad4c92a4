//! The manager's settings.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use common::{config::Config, logging::LogFormat};
use serde::{Deserialize, Serialize};
use types::id::NodeId;

use crate::{lease::LeaseTimes, server::ServeError};

/// Settings of one manager.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MgmtdConfig {
    /// Distinct among all nodes of the cluster, whatever their kind.
    pub node_id: u32,
    /// Where other processes reach it.
    pub listen: String,
    /// Where `/metrics` and `/healthz` are.
    pub admin_listen: String,
    /// Node id -> address; empty for a group of one.
    pub members: BTreeMap<String, String>,
    /// Wait to be added to a group that exists, instead of making one.
    pub join: bool,
    /// The data directory.
    pub data: PathBuf,
    /// The log filter.
    pub log: String,
    /// How log lines look.
    pub log_format: LogFormat,
    /// The lease that a heartbeat earns.
    pub lease_ms: u64,
    /// Waited beyond it before a node is failed.
    pub margin_ms: u64,
    /// A client's session is gone after this long without renewal.
    pub client_session_ms: u64,
    /// Timing of the manager group.
    pub raft: RaftTimes,
}

/// Timing of the manager group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RaftTimes {
    /// Between heartbeats of the leader (sent at 3/2 of it).
    pub heartbeat_ms: u64,
    /// The shortest silence after which a member wants to lead.
    pub election_ms_min: u64,
    /// The longest; also how long members hold on to a leader they have heard.
    pub election_ms_max: u64,
    /// How long a piece of a snapshot may take.
    pub snapshot_ms: u64,
    /// Entries after which a snapshot is made.
    pub snapshot_entries: u64,
}

impl Default for MgmtdConfig {
    fn default() -> Self {
        Self {
            node_id: 1,
            listen: "127.0.0.1:7400".to_owned(),
            admin_listen: "127.0.0.1:0".to_owned(),
            members: BTreeMap::new(),
            join: false,
            data: PathBuf::from("mgmtd-data"),
            // openraft reports each attempt to reach a member that is down; what matters of it we say ourselves.
            log: "info,openraft=off".to_owned(),
            log_format: LogFormat::Text,
            lease_ms: 2000,
            margin_ms: 500,
            client_session_ms: 60_000,
            raft: RaftTimes::default(),
        }
    }
}

impl Default for RaftTimes {
    fn default() -> Self {
        // A leader that is killed is followed by a new one after at most 400 + 400 + 225 ms; a split vote adds 625 ms.
        Self {
            heartbeat_ms: 150,
            election_ms_min: 250,
            election_ms_max: 400,
            snapshot_ms: 2000,
            snapshot_entries: 1000,
        }
    }
}

impl MgmtdConfig {
    /// The members with their addresses; empty for a group of one.
    ///
    /// # Errors
    /// Config when a key is no node id, this node is missing, or the numbers do not fit together.
    pub(crate) fn checked_members(&self) -> Result<BTreeMap<NodeId, String>, ServeError> {
        let wrong = |reason: String| ServeError::Config { reason };
        let mut members = BTreeMap::new();
        for (id, address) in &self.members {
            let id: u32 = id.parse().map_err(|_| {
                wrong(format!(
                    "`members` has the key `{id}`, which is not a node id"
                ))
            })?;
            members.insert(NodeId(id), address.clone());
        }
        let own = NodeId(self.node_id);
        if !members.is_empty() && !members.contains_key(&own) {
            return Err(wrong(format!("`members` does not name this node, {own}")));
        }
        if (members.len() > 1 || self.join) && self.listen.ends_with(":0") {
            let reason = format!(
                "`listen` is {}: a group of several needs a fixed port",
                self.listen
            );
            return Err(wrong(reason));
        }
        if self.lease_ms == 0 || self.margin_ms == 0 {
            return Err(wrong(
                "`lease_ms` and `margin_ms` must be above 0".to_owned(),
            ));
        }
        Ok(members)
    }

    /// How long a confirmed leadership is relied on. Members hold on to a leader for `election_ms_max`, so with this
    /// bound no two members ever think at the same moment that they lead.
    pub(crate) fn leadership_time(&self) -> Duration {
        Duration::from_millis(self.margin_ms.min(self.raft.election_ms_max))
    }

    pub(crate) fn lease_times(&self) -> LeaseTimes {
        LeaseTimes {
            lease: Duration::from_millis(self.lease_ms),
            margin: Duration::from_millis(self.margin_ms),
        }
    }
}

impl Config for MgmtdConfig {
    fn docs() -> &'static [(&'static str, &'static str)] {
        &[
            (
                "node_id",
                "id of this node, distinct among all nodes of the cluster of any kind",
            ),
            ("listen", "address for other processes"),
            ("admin_listen", "address of /metrics and /healthz"),
            (
                "members",
                "the manager group: node id = \"host:port\" of 3 or 5 members, the same table on each; empty for a single manager. Makes the group; later its log says who belongs to it (`penstock admin manager`), and addresses given here win",
            ),
            (
                "join",
                "true: wait until `penstock admin manager add` adds this manager to a group that exists, instead of making one",
            ),
            ("data", "directory of the log and the snapshot"),
            (
                "log",
                "log filter, for example \"info\" or \"mgmtd=debug,info\"",
            ),
            ("log_format", "log lines as \"text\" or \"json\""),
            ("lease_ms", "lease that a node earns with each heartbeat"),
            (
                "margin_ms",
                "a node is failed when lease and margin have passed; the same on all members",
            ),
            (
                "client_session_ms",
                "a client is gone after this long without renewal",
            ),
            ("raft.heartbeat_ms", "the leader is heard at 3/2 of this"),
            (
                "raft.election_ms_min",
                "shortest silence after which a member wants to lead",
            ),
            (
                "raft.election_ms_max",
                "longest such silence, and how long a heard leader is held on to",
            ),
            (
                "raft.snapshot_ms",
                "how long sending a piece of a snapshot may take",
            ),
            (
                "raft.snapshot_entries",
                "log entries after which a snapshot is made and the log is cut",
            ),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_documented() {
        let missing = common::config::undocumented_keys::<MgmtdConfig>();
        assert!(missing.is_empty(), "{missing:?}");
    }

    #[test]
    fn what_is_printed_reads_back() {
        let text = common::config::print(&MgmtdConfig::default());
        assert_eq!(
            common::config::parse::<MgmtdConfig>(&text).unwrap(),
            MgmtdConfig::default()
        );
    }

    #[test]
    fn the_members_table_is_checked() {
        let config = common::config::parse::<MgmtdConfig>(
            "node_id = 2\nlisten = \"h:2\"\n[members]\n1 = \"h:1\"\n2 = \"h:2\"\n3 = \"h:3\"",
        )
        .unwrap();
        assert_eq!(config.checked_members().unwrap().len(), 3);
        let missing = MgmtdConfig {
            node_id: 9,
            ..config.clone()
        };
        assert!(
            missing
                .checked_members()
                .unwrap_err()
                .to_string()
                .contains("this node, 9")
        );
        let no_port = MgmtdConfig {
            listen: "h:0".to_owned(),
            ..config
        };
        assert!(
            no_port
                .checked_members()
                .unwrap_err()
                .to_string()
                .contains("fixed port")
        );
    }
}
