//! A connection to a cluster's managers, for commands that ask something and end.
//!
//! Lighter than a full client: no session, no routing watch.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail};
use client::{ClusterConfig, MgmtdClient};
use common::{
    buf::BufPool,
    env::{Env, Instant},
};
use net::{Endpoint, NetConfig, Transports};
use types::{
    id::ClientId,
    routing::RoutingInfo,
    rpc::{
        Rpc,
        mgmtd::{WatchRouting, WatchRoutingRequest},
    },
    status::{Retry, Status},
    version::RoutingVersion,
};

use crate::{args::ClusterArgs, error::Usage};

/// How long a command waits for an answer before it says that there is none.
pub(crate) const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// Commands move no bulk data, so nothing is kept for reuse.
const FREE_BUFFER_BYTES: usize = 0;

/// The managers of one cluster.
pub(crate) struct Cluster {
    env: Env,
    mgmtd: MgmtdClient,
    file: PathBuf,
}

impl Cluster {
    /// By the cluster file at `path`.
    pub(crate) fn open(env: &Env, path: &Path) -> anyhow::Result<Self> {
        let config = load(path)?;
        let buffers = BufPool::new(FREE_BUFFER_BYTES);
        let endpoint = Endpoint::new(env, Transports::default(), buffers, NetConfig::default());
        let id = ClientId(env.random_u128());
        Ok(Self {
            env: env.clone(),
            mgmtd: MgmtdClient::new(env, endpoint, config.mgmtd, id),
            file: path.to_owned(),
        })
    }

    /// Calls a manager.
    pub(crate) async fn call<M: Rpc>(
        &self,
        request: &M::Request,
        deadline: Instant,
    ) -> anyhow::Result<M::Response> {
        let answer = self.mgmtd.call::<M>(request, deadline).await;
        answer.map_err(|status| self.explain(status))
    }

    /// Calls the leader for something that takes long.
    pub(crate) async fn change<M: Rpc>(
        &self,
        request: &M::Request,
        deadline: Instant,
    ) -> anyhow::Result<M::Response> {
        let limit = deadline.saturating_duration_since(self.env.now());
        let answer = self.mgmtd.call_within::<M>(request, deadline, limit).await;
        answer.map_err(|status| self.explain(status))
    }

    fn explain(&self, status: Status) -> anyhow::Error {
        match status.retry() {
            // What a manager refuses, it explains.
            Retry::Never => anyhow::Error::msg(status.message),
            Retry::AfterRefresh | Retry::After(_) => {
                let file = self.file.display();
                anyhow::Error::new(status).context(format!(
                    "ask the managers named in {file}; are they running and reachable?"
                ))
            }
        }
    }

    /// The time that deadlines are counted in.
    pub(crate) fn now(&self) -> Instant {
        self.env.now()
    }

    /// Calls a manager and waits for the usual time.
    pub(crate) async fn ask<M: Rpc>(&self, request: &M::Request) -> anyhow::Result<M::Response> {
        self.call::<M>(request, self.env.now() + ANSWER_LIMIT).await
    }

    /// The map, when one newer than `known` comes up within `wait`.
    pub(crate) async fn watch(
        &self,
        known: RoutingVersion,
        wait: Duration,
        deadline: Instant,
    ) -> anyhow::Result<Option<RoutingInfo>> {
        let request = WatchRoutingRequest {
            known,
            wait_ms: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
        };
        // Past the deadline there is still one look: the caller decides what it means.
        let limit = deadline.max(self.env.now() + wait + ANSWER_LIMIT);
        Ok(self.call::<WatchRouting>(&request, limit).await?.routing)
    }

    /// The newest map.
    pub(crate) async fn routing(&self) -> anyhow::Result<RoutingInfo> {
        let deadline = self.env.now() + ANSWER_LIMIT;
        let map = self
            .watch(RoutingVersion(0), Duration::ZERO, deadline)
            .await?;
        Ok(map.unwrap_or_default())
    }
}

/// Reads a cluster file.
pub(crate) fn load(path: &Path) -> anyhow::Result<ClusterConfig> {
    let config = ClusterConfig::load(path).with_context(|| {
        format!(
            "cannot use the cluster file {}; `penstock dev up` writes one, as DIR/cluster.toml",
            path.display()
        )
    })?;
    if config.mgmtd.is_empty() {
        bail!("{} names no manager: `mgmtd` is empty", path.display());
    }
    Ok(config)
}

/// The cluster file the user means: the one named, else that of the development cluster here.
pub(crate) fn file(args: &ClusterArgs) -> anyhow::Result<PathBuf> {
    if let Some(path) = &args.cluster {
        return Ok(path.clone());
    }
    let data = std::env::var_os("PENSTOCK_DATA").unwrap_or_else(|| "penstock-data".into());
    let path = Path::new(&data).join("cluster.toml");
    if path.exists() {
        return Ok(path);
    }
    bail!(Usage(
        "which cluster? name its file with --cluster FILE or in PENSTOCK_CLUSTER; `penstock dev up` \
         writes one, as DIR/cluster.toml"
            .to_owned()
    ))
}
