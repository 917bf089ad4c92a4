//! `cluster.toml`: what a client must know beforehand. Everything else comes from the manager.

use std::{io, path::Path};

use common::config::{self, Config, ConfigError};
use serde::{Deserialize, Serialize};

/// Where the managers are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClusterConfig {
    /// Addresses of the members of the manager group, `host:port`. One that answers is enough.
    pub mgmtd: Vec<String>,
}

impl Config for ClusterConfig {
    fn docs() -> &'static [(&'static str, &'static str)] {
        &[("mgmtd", "addresses of the managers, host:port")]
    }
}

impl ClusterConfig {
    /// Reads a cluster file.
    ///
    /// # Errors
    /// When it is missing, is no TOML or has an unknown key.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        config::load(path)
    }

    /// Writes a cluster file, with comments. The file is replaced as a whole.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        let temporary = path.with_extension("toml.new");
        std::fs::write(&temporary, config::print(self))?;
        std::fs::rename(&temporary, path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_saved_is_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cluster.toml");
        let config = ClusterConfig {
            mgmtd: vec!["127.0.0.1:9000".into(), "[::1]:9001".into()],
        };
        config.save(&path).unwrap();
        assert_eq!(ClusterConfig::load(&path).unwrap(), config);
        assert!(common::config::undocumented_keys::<ClusterConfig>().is_empty());
    }

    #[test]
    fn an_unknown_key_is_refused_with_the_right_one() {
        let error = config::parse::<ClusterConfig>("mgmt = []").unwrap_err();
        assert!(error.to_string().contains("mgmtd"), "{error}");
    }
}
