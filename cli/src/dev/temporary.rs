//! The servers of a cluster for the time of one command: a manager and storage nodes, no metadata and no mount.
//!
//! They are killed with the command, also when that is killed itself; nobody wants their data afterwards.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use common::env::Env;
use rustix::process::Signal;

use super::{
    chains, configs,
    paths::Paths,
    process::Lifetime,
    services::{self, Started},
    state::{Service, ServiceKind, Shape, State},
};
use crate::args::{KvBackend, Transport};

/// How long the servers may take until they are ready and the chains are made.
const START_LIMIT: Duration = Duration::from_secs(30);
/// The kernel ends a killed process at once, unless it waits for a disk.
const KILL_LIMIT: Duration = Duration::from_secs(30);

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Servers {
    paths: Paths,
    state: State,
    _started: Vec<Option<Started>>,
}

impl Servers {
    /// Those of a new cluster in `dir`, with `chains` chains over all storage nodes; none runs yet.
    ///
    /// # Errors
    /// The directory cannot be used.
    pub(crate) fn plan(env: &Env, dir: &Path, storage: u32, chains: u32) -> anyhow::Result<Self> {
        let paths = Paths::create(dir)?;
        let shape = Shape {
            storage,
            replicas: storage,
            meta: 0,
            mgmtd: 1,
            chains,
            transport: Transport::Tcp,
            kv: KvBackend::Embedded,
        };
        let services = services::plan(env, &paths, &shape, &paths.mount())?;
        let state = State::new(&paths, shape, services);
        configs::write_missing(&paths, &state)?;
        Ok(Self {
            paths,
            state,
            _started: Vec::new(),
        })
    }

    /// Starts them and makes the chains. Whatever comes of it, `end` ends those that were started.
    ///
    /// # Errors
    /// What does not get ready, and why.
    pub(crate) async fn start(&mut self, env: &Env, tell: impl Fn(&str)) -> anyhow::Result<()> {
        let deadline = env.now() + START_LIMIT;
        let (lifetime, state) = (Lifetime::OfTheCommand, &mut self.state);
        self._started =
            services::start_servers(env, &self.paths, state, lifetime, deadline, tell).await?;
        chains::ensure(env, &self.paths.cluster(), &state.shape, deadline).await?;
        Ok(())
    }

    /// How to reach the cluster.
    pub(crate) fn cluster_file(&self) -> PathBuf {
        self.paths.cluster()
    }

    /// The processes of the storage nodes.
    pub(crate) fn storage_pids(&self) -> Vec<u32> {
        let processes = self.storage().filter_map(|s| s.process.as_ref());
        processes.map(|process| process.pid).collect()
    }

    /// The directories of the storage nodes' data.
    pub(crate) fn storage_dirs(&self) -> Vec<PathBuf> {
        let names = self.storage().map(|service| service.name.as_str());
        names.map(|name| self.paths.data(name)).collect()
    }

    fn storage(&self) -> impl Iterator<Item = &Service> {
        let services = self.state.services.iter();
        services.filter(|service| service.kind == ServiceKind::Storage)
    }

    /// Ends them and waits until they are gone.
    ///
    /// # Errors
    /// One does not end.
    pub(crate) async fn end(&self, env: &Env) -> anyhow::Result<()> {
        for service in &self.state.services {
            if let Some(process) = &service.process {
                process.signal(Signal::KILL)?;
            }
        }
        for service in &self.state.services {
            if let Some(process) = &service.process
                && !process.wait_end(env, KILL_LIMIT).await
            {
                anyhow::bail!(
                    "{} (process {}) does not end; the kernel holds it",
                    service.name,
                    process.pid
                );
            }
        }
        Ok(())
    }
}
