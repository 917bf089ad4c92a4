//! `dev.json`: which services a development cluster has and which processes run them.
//!
//! The file is replaced as a whole (write, sync, rename), after every change, so that whatever happens
//! to a command the next one finds every process that was started.

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

use super::{paths::Paths, process::Process};
use crate::{
    args::{KvBackend, Transport},
    error::Usage,
};

/// Version of the file's format.
const FORMAT: u32 = 1;

/// What a service is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ServiceKind {
    Mgmtd,
    Meta,
    Storage,
    Mount,
}

impl ServiceKind {
    /// The word in service names, commands and files.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Mgmtd => "mgmtd",
            Self::Meta => "meta",
            Self::Storage => "storage",
            Self::Mount => "mount",
        }
    }
}

/// One service.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Service {
    /// For example `storage-2`.
    pub(crate) name: String,
    pub(crate) kind: ServiceKind,
    /// Its id in the cluster; the mount has none.
    pub(crate) node: Option<u32>,
    /// Where it listens; for the mount the directory.
    pub(crate) address: String,
    /// Where it serves /healthz and /metrics.
    pub(crate) admin_address: String,
    pub(crate) config: PathBuf,
    pub(crate) log: PathBuf,
    /// The last process started for it.
    pub(crate) process: Option<Process>,
}

impl Service {
    /// Its process, when that runs.
    pub(crate) fn running(&self) -> Option<&Process> {
        self.process.as_ref().filter(|process| process.is_running())
    }
}

/// What was chosen when the cluster was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Shape {
    pub(crate) storage: u32,
    pub(crate) replicas: u32,
    pub(crate) meta: u32,
    pub(crate) mgmtd: u32,
    pub(crate) chains: u32,
    pub(crate) transport: Transport,
    pub(crate) kv: KvBackend,
}

/// The whole cluster.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct State {
    format: u32,
    /// The directory it was made in; configurations hold absolute paths.
    root: PathBuf,
    pub(crate) shape: Shape,
    /// Managers, metadata servers, storage nodes, then the mount.
    pub(crate) services: Vec<Service>,
}

impl State {
    pub(crate) fn new(paths: &Paths, shape: Shape, services: Vec<Service>) -> Self {
        Self {
            format: FORMAT,
            root: paths.root().to_owned(),
            shape,
            services,
        }
    }

    /// Reads the file; `None` when there is none.
    pub(crate) fn load(paths: &Paths) -> anyhow::Result<Option<Self>> {
        let path = paths.state();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", path.display()));
            }
        };
        let state = parse(&text).with_context(|| format!("cannot use {}", path.display()))?;
        if state.root != paths.root() {
            bail!(
                "{} was made as {} and holds absolute paths; move it back there",
                paths.root().display(),
                state.root.display()
            );
        }
        Ok(Some(state))
    }

    /// Reads the file of a cluster that must be there.
    pub(crate) fn require(paths: &Paths) -> anyhow::Result<Self> {
        Self::load(paths)?.with_context(|| {
            format!(
                "there is no cluster in {}; make one with `penstock dev up --data {}`",
                paths.root().display(),
                paths.root().display()
            )
        })
    }

    pub(crate) fn save(&self, paths: &Paths) -> anyhow::Result<()> {
        let path = paths.state();
        let text = serde_json::to_string_pretty(self)?;
        write_durably(&path, &text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// The index of the service called `name`; an unknown name is wrong usage.
    pub(crate) fn find(&self, name: &str) -> anyhow::Result<usize> {
        let found = self
            .services
            .iter()
            .position(|service| service.name == name);
        found.ok_or_else(|| {
            let names: Vec<&str> = self.services.iter().map(|s| s.name.as_str()).collect();
            Usage(format!(
                "no service is called `{name}`; there are {}",
                names.join(", ")
            ))
            .into()
        })
    }

    /// The mount; every cluster has one.
    pub(crate) fn mount(&mut self) -> &mut Service {
        let found = self
            .services
            .iter_mut()
            .find(|s| s.kind == ServiceKind::Mount);
        found.expect("checked when the state was made or read")
    }
}

fn parse(text: &str) -> anyhow::Result<State> {
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let found: Format = serde_json::from_str(text)?;
    if found.format != FORMAT {
        bail!(
            "it has format {}, this program knows {FORMAT}; use the release that made it",
            found.format
        );
    }
    let state: State = serde_json::from_str(text)?;
    if !state.services.iter().any(|s| s.kind == ServiceKind::Mount) {
        bail!("it names no mount; the file is damaged");
    }
    Ok(state)
}

fn write_durably(path: &Path, text: &str) -> std::io::Result<()> {
    let temporary = path.with_extension("new");
    let mut file = File::create(&temporary)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(paths: &Paths) -> State {
        let shape = Shape {
            storage: 1,
            replicas: 1,
            meta: 1,
            mgmtd: 1,
            chains: 2,
            transport: Transport::Tcp,
            kv: KvBackend::Embedded,
        };
        let mount = Service {
            name: "mount".to_owned(),
            kind: ServiceKind::Mount,
            node: None,
            address: "/mnt".to_owned(),
            admin_address: "127.0.0.1:1".to_owned(),
            config: paths.cluster(),
            log: paths.log("mount"),
            process: Process::of(std::process::id()),
        };
        State::new(paths, shape, vec![mount])
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::open(dir.path()).unwrap();
        assert!(State::load(&paths).unwrap().is_none());
        let state = example(&paths);
        state.save(&paths).unwrap();
        let mut loaded = State::require(&paths).unwrap();
        assert_eq!(loaded.shape, state.shape);
        assert_eq!(loaded.mount().process, state.services[0].process);
        assert!(loaded.mount().running().is_some());
    }

    #[test]
    fn another_format_or_place_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::open(dir.path()).unwrap();
        let mut state = example(&paths);
        state.format = 9;
        state.save(&paths).unwrap();
        let refused = crate::error::text(&State::load(&paths).unwrap_err());
        assert!(refused.contains("format 9"), "{refused}");
        state.format = FORMAT;
        state.root = "/elsewhere".into();
        state.save(&paths).unwrap();
        let refused = State::load(&paths).unwrap_err().to_string();
        assert!(refused.contains("/elsewhere"), "{refused}");
    }

    #[test]
    fn an_unknown_service_is_wrong_usage() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::open(dir.path()).unwrap();
        let error = example(&paths).find("storage-9").unwrap_err();
        assert_eq!(crate::error::exit_code(&error), crate::error::WRONG_USAGE);
    }
}
