//! Where things lie below the directory of a development cluster.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

/// The directory of a cluster; absolute, without symlinks.
#[derive(Clone, Debug)]
pub(crate) struct Paths {
    root: PathBuf,
}

impl Paths {
    /// The directory, made when it is missing.
    pub(crate) fn create(dir: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(dir)
            .with_context(|| format!("cannot make the directory {}", dir.display()))?;
        Self::open(dir)
    }

    /// The directory of a cluster that exists.
    pub(crate) fn open(dir: &Path) -> anyhow::Result<Self> {
        let root = dir.canonicalize().with_context(|| {
            format!(
                "cannot open the cluster directory {}; name another with --data DIR, or make one with \
                 `penstock dev up --data DIR`",
                dir.display()
            )
        })?;
        Ok(Self { root })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.root.join("dev.json")
    }

    pub(crate) fn lock(&self) -> PathBuf {
        self.root.join("dev.lock")
    }

    pub(crate) fn cluster(&self) -> PathBuf {
        self.root.join("cluster.toml")
    }

    pub(crate) fn mount(&self) -> PathBuf {
        self.root.join("mnt")
    }

    pub(crate) fn config(&self, service: &str) -> PathBuf {
        self.root.join(service).join("config.toml")
    }

    pub(crate) fn data(&self, service: &str) -> PathBuf {
        self.root.join(service).join("data")
    }

    pub(crate) fn log(&self, service: &str) -> PathBuf {
        self.root.join("logs").join(format!("{service}.log"))
    }
}
