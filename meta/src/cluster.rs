//! What the namespace needs of the cluster manager, behind a trait so that tests need no manager.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use common::env::Instant;
use types::{routing::RoutingInfo, rpc::mgmtd::SpaceReply, session::ClientSession, status::Status};

/// The cluster as this server sees it.
#[async_trait]
pub trait Cluster: Send + Sync + fmt::Debug + 'static {
    /// The newest map known here.
    fn routing(&self) -> Arc<RoutingInfo>;

    /// The space of all storage nodes.
    async fn space(&self, deadline: Instant) -> Result<SpaceReply, Status>;

    /// The clients that are alive.
    async fn clients(&self, deadline: Instant) -> Result<Vec<ClientSession>, Status>;
}
