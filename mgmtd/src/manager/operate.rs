//! An operator's actions: what only the leader's memory can tell is checked here, the rest when the entry is applied
//! (`action`).

use common::env::Instant;
use types::{
    rpc::operator::{
        AddTargetReply, AddTargetRequest, AppendTableRequest, ForceLastServingRequest, Loss,
        RemoveTargetRequest, RotateChainReply, RotateChainRequest, SetPreferredRequest,
    },
    status::{Status, StatusCode},
    version::ChainTableVersion,
};

use super::{Manager, Memory};
use crate::{
    action::{Acted, Action},
    cluster::Cluster,
    command::{Asked, Command, Outcome, Seat},
};

impl Manager {
    /// Appends a version to a table.
    pub(crate) async fn append_table(
        &self,
        request: AppendTableRequest,
        asked: Asked,
        deadline: Instant,
    ) -> Result<ChainTableVersion, Status> {
        let (table, chains) = (request.table, request.chains);
        let action = Action::AppendTable { table, chains };
        match self.act(action, asked, deadline).await? {
            Acted::Appended(version) => Ok(version),
            other => Err(surprise(&other)),
        }
    }

    /// Adds a target on a disk that works.
    pub(crate) async fn add_target(
        &self,
        request: AddTargetRequest,
        asked: Asked,
        deadline: Instant,
    ) -> Result<AddTargetReply, Status> {
        self.lead(|memory, _, _| check_disk(memory, &request))??;
        let (node, disk) = (request.node, request.disk);
        let action = Action::AddTarget {
            chain: request.chain,
            seat: Seat { node, disk },
        };
        match self.act(action, asked, deadline).await? {
            Acted::Added(reply) => Ok(reply),
            other => Err(surprise(&other)),
        }
    }

    /// Removes a target that is Offline.
    pub(crate) async fn remove_target(
        &self,
        request: RemoveTargetRequest,
        asked: Asked,
        deadline: Instant,
    ) -> Result<(), Status> {
        let (target, copies) = (request.target, request.copies);
        let action = Action::RemoveTarget { target, copies };
        match self.act(action, asked, deadline).await? {
            Acted::Removed => Ok(()),
            other => Err(surprise(&other)),
        }
    }

    /// Sets the order that a chain should have.
    pub(crate) async fn set_preferred(
        &self,
        request: SetPreferredRequest,
        asked: Asked,
        deadline: Instant,
    ) -> Result<(), Status> {
        let (chain, order) = (request.chain, request.order);
        let action = Action::SetPreferred { chain, order };
        match self.act(action, asked, deadline).await? {
            Acted::Preferred => Ok(()),
            other => Err(surprise(&other)),
        }
    }

    /// Begins one step towards that order.
    pub(crate) async fn rotate_chain(
        &self,
        request: RotateChainRequest,
        asked: Asked,
        deadline: Instant,
    ) -> Result<RotateChainReply, Status> {
        let chain = request.chain;
        match self.act(Action::Rotate { chain }, asked, deadline).await? {
            Acted::Rotating(reply) => Ok(reply),
            other => Err(surprise(&other)),
        }
    }

    /// Makes a chain go on with less than it had.
    pub(crate) async fn force_last_serving(
        &self,
        request: ForceLastServingRequest,
        asked: Asked,
        deadline: Instant,
    ) -> Result<Loss, Status> {
        self.lead(|memory, cluster, now| check_nobody_returns(memory, cluster, now))??;
        let action = Action::ForceLastServing {
            chain: request.chain,
            target: request.target,
            loss: request.loss,
        };
        match self.act(action, asked, deadline).await? {
            Acted::Forced(loss) => {
                tracing::warn!(
                    chain = %loss.chain,
                    version = %loss.version,
                    target = %loss.target,
                    "an operator made a chain go on with a target that may lack acknowledged writes"
                );
                Ok(loss)
            }
            other => Err(surprise(&other)),
        }
    }

    /// What forced changes gave up so far.
    pub(crate) fn losses(&self) -> Result<Vec<Loss>, Status> {
        self.lead(|_, cluster, _| cluster.losses.clone())
    }

    /// Puts an action into the log; then the leader looks at what follows from it.
    async fn act(&self, action: Action, asked: Asked, deadline: Instant) -> Result<Acted, Status> {
        self.lead(|_, _, _| ())?;
        tracing::debug!(?action, "an operator asks");
        match self
            .propose(Command::Act { action, asked }, deadline)
            .await?
        {
            Outcome::Acted(acted) => {
                self.news.notify_one();
                Ok(acted)
            }
            other => Err(surprise(&other)),
        }
    }
}

/// A request's id was used for another request: a bug of the caller.
fn surprise(came_to: &impl std::fmt::Debug) -> Status {
    let message = format!("this request was made before, and came to {came_to:?} then");
    Status::new(StatusCode::InvalidArgument, message)
}

/// A disk that nobody has reported, or that is out of service, would never hold the target.
fn check_disk(memory: &Memory, request: &AddTargetRequest) -> Result<(), Status> {
    let (node, disk) = (request.node, request.disk);
    let disks = memory.leases.disks_of(node);
    if disks.is_empty() {
        let message = format!(
            "node {node} has not reported its disks to this manager: is it a storage node, and does it run?"
        );
        return Err(Status::new(StatusCode::NotReady, message));
    }
    match disks.iter().find(|report| report.disk == disk) {
        None => {
            let message = format!("node {node} has {} disks, and no disk {disk}", disks.len());
            Err(Status::new(StatusCode::UnknownEntity, message))
        }
        Some(report) => match &report.failure {
            Some(failure) => {
                let message = format!("disk {disk} of node {node} is out of service: {failure}");
                Err(Status::new(StatusCode::Conflict, message))
            }
            None => Ok(()),
        },
    }
}

/// A new leader does not know yet who is about to return.
fn check_nobody_returns(memory: &Memory, cluster: &Cluster, now: Instant) -> Result<(), Status> {
    if memory.leases.has_settled(now, cluster) {
        return Ok(());
    }
    let message = "this manager has not heard from all storage nodes yet; a target that served last may be about to \
                   return. Ask again in a few seconds";
    Err(Status::new(StatusCode::NotReady, message))
}
