//! Who belongs to the group, and how that changes: one member at a time, by entries of the log.
//!
//! A new member first copies the log without a vote (openraft's learner), so that the group never counts on one that is
//! behind. Then the votes change in two entries, of which the first needs a majority of the old and of the new group.
//! A change that was begun goes on when its caller gives up: half a change would need both majorities for ever after.
//! When its leader dies in the middle, asking again finishes it.

use std::collections::{BTreeMap, BTreeSet};

use common::env::Instant;
use openraft::{
    BasicNode, ChangeMembers, Raft, RaftMetrics,
    error::{ClientWriteError, RaftError},
    raft::ClientWriteResponse,
};
use types::{
    id::NodeId,
    status::{Status, StatusCode},
};

use super::{Member, TypeConfig, not_leader};

type Changed =
    Result<ClientWriteResponse<TypeConfig>, RaftError<u64, ClientWriteError<u64, BasicNode>>>;

/// The group as the newest entry about it has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Members {
    /// Those who vote, with their addresses.
    pub(crate) voters: BTreeMap<NodeId, String>,
    /// Those who only copy the log.
    pub(crate) learners: BTreeMap<NodeId, String>,
    /// A change is half done.
    pub(crate) changing: bool,
}

impl Members {
    /// Where a member is, by the log.
    pub(crate) fn address(&self, member: NodeId) -> Option<&String> {
        let learner = || self.learners.get(&member);
        self.voters.get(&member).or_else(learner)
    }

    /// Whether nothing is known of the group yet.
    pub(crate) fn is_empty(&self) -> bool {
        self.voters.is_empty()
    }
}

fn node_id(raw: u64) -> Option<NodeId> {
    u32::try_from(raw).ok().map(NodeId)
}

impl Member {
    /// The group, as far as this member knows.
    pub(crate) fn members(&self) -> Members {
        let metrics = self.raft.metrics();
        let stored = metrics.borrow().membership_config.clone();
        let voters: BTreeSet<u64> = stored.voter_ids().collect();
        let mut members = Members {
            changing: stored.membership().get_joint_config().len() > 1,
            ..Members::default()
        };
        for (raw, node) in stored.nodes() {
            let Some(id) = node_id(*raw) else {
                continue;
            };
            let part = if voters.contains(raw) {
                &mut members.voters
            } else {
                &mut members.learners
            };
            part.insert(id, node.addr.clone());
        }
        members
    }

    /// Writes down where members are now.
    ///
    /// # Errors
    /// As `propose`; Conflict while another change is under way.
    pub(crate) async fn set_addresses(
        &self,
        addresses: &BTreeMap<NodeId, String>,
        deadline: Instant,
    ) -> Result<(), Status> {
        let nodes = addresses
            .iter()
            .map(|(id, address)| (u64::from(id.0), BasicNode::new(address)))
            .collect();
        self.change(ChangeMembers::SetNodes(nodes), deadline).await
    }

    /// Makes a member copy the log; returns once it has all that was there before it.
    ///
    /// # Errors
    /// As `propose`; DeadlineExceeded when it has not caught up in time: it goes on copying.
    pub(crate) async fn add_learner(
        &self,
        id: NodeId,
        address: &str,
        deadline: Instant,
    ) -> Result<(), Status> {
        let adding = copy_log(self.raft.clone(), u64::from(id.0), BasicNode::new(address));
        self.finish("raft-learner", adding, deadline).await
    }

    /// Gives a member that copies the log a vote.
    ///
    /// # Errors
    /// As `propose`; Conflict while another change is under way.
    pub(crate) async fn add_voter(&self, id: NodeId, deadline: Instant) -> Result<(), Status> {
        let ids = BTreeSet::from([u64::from(id.0)]);
        self.change(ChangeMembers::AddVoterIds(ids), deadline).await
    }

    /// Takes a member's vote. Another one goes on copying the log, until `remove_learner`; this one is gone.
    ///
    /// # Errors
    /// As `propose`; Conflict while another change is under way.
    pub(crate) async fn remove_voter(&self, id: NodeId, deadline: Instant) -> Result<(), Status> {
        let ids = BTreeSet::from([u64::from(id.0)]);
        let change = ChangeMembers::RemoveVoters(ids);
        let (raft, retain) = (self.raft.clone(), id != self.id);
        let changing = async move { raft.change_membership(change, retain).await };
        self.finish("raft-members", changing, deadline).await
    }

    /// Removes a member that only copies the log.
    ///
    /// # Errors
    /// As `propose`; Conflict while another change is under way.
    pub(crate) async fn remove_learner(&self, id: NodeId, deadline: Instant) -> Result<(), Status> {
        let ids = BTreeSet::from([u64::from(id.0)]);
        self.change(ChangeMembers::RemoveNodes(ids), deadline).await
    }

    async fn change(
        &self,
        change: ChangeMembers<u64, BasicNode>,
        deadline: Instant,
    ) -> Result<(), Status> {
        let raft = self.raft.clone();
        let changing = async move { raft.change_membership(change, false).await };
        self.finish("raft-members", changing, deadline).await
    }

    /// Runs a change to its end, and waits for it until `deadline`.
    async fn finish(
        &self,
        name: &'static str,
        change: impl Future<Output = Changed> + Send + 'static,
        deadline: Instant,
    ) -> Result<(), Status> {
        let running = self.env.spawn(name, change);
        match self.env.timeout_at(deadline, running.join()).await {
            Ok(Some(Ok(_))) => Ok(()),
            Ok(Some(Err(RaftError::APIError(error)))) => Err(refusal(error)),
            Ok(Some(Err(RaftError::Fatal(error)))) => {
                let message = format!("the manager's consensus has stopped: {error}");
                Err(Status::new(StatusCode::NotReady, message))
            }
            Ok(None) => Err(Status::new(
                StatusCode::Internal,
                "the change of the manager group ended with a panic",
            )),
            Err(_elapsed) => Err(Status::new(
                StatusCode::DeadlineExceeded,
                "the change of the manager group is not done yet; it goes on",
            )),
        }
    }
}

/// Adds a learner and waits until it has all that was in the log before it. openraft's own wait takes one that has nothing, of a
/// short log, for one that is nearly there.
async fn copy_log(raft: Raft<TypeConfig>, id: u64, node: BasicNode) -> Changed {
    let added = raft.add_learner(id, node, false).await?;
    let wanted = Some(added.log_id);
    let copied = |metrics: &RaftMetrics<u64, BasicNode>| {
        let copied = metrics.replication.as_ref().map(|all| all.get(&id));
        // A leader no more: what follows says so.
        copied.is_none_or(|copied| copied.is_some_and(|log| *log >= wanted))
    };
    // An error means that the core has stopped, which the next change finds out.
    let _stopped = raft
        .wait(None)
        .metrics(copied, "a copied log")
        .await
        .is_err();
    Ok(added)
}

fn refusal(error: ClientWriteError<u64, BasicNode>) -> Status {
    match error {
        ClientWriteError::ForwardToLeader(forward) => {
            not_leader(forward.leader_node.map(|node| node.addr))
        }
        ClientWriteError::ChangeMembershipError(error) => Status::new(
            StatusCode::Conflict,
            format!(
                "the manager group cannot change so now: {error}; try again when no change is under way"
            ),
        ),
    }
}
