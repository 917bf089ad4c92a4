//! The manager group as operators see and change it: one member at a time.
//!
//! A member is reached where this process's configuration says, and where the group's log says when the configuration does
//! not name it. The log is told where all members are whenever one is added, so that the new one finds them.

use std::{collections::BTreeMap, sync::atomic::Ordering};

use common::env::Instant;
use types::{
    id::NodeId,
    node::{NodeKind, NodeStatus},
    rpc::mgmtd::{AddManagerRequest, ManagersReply, RemoveManagerRequest},
    status::{Status, StatusCode},
};

use super::{Configured, Manager, REPLY_TIME, STRING_BYTES_MAX};
use crate::{
    apply,
    cluster::Cluster,
    command::{Asked, Command},
    raft::Members,
};

/// A group of five, and one more while a member is replaced.
const MEMBERS_MAX: usize = 6;

impl Manager {
    /// What the configuration says, once it is complete.
    pub(crate) fn set_configured(&self, configured: Configured) {
        *self.configured.lock() = configured;
    }

    /// Whether this member waits to be added to a group.
    pub(crate) fn waits_to_join(&self) -> bool {
        self.configured.lock().joins && self.member.members().is_empty()
    }

    /// Where a member is reached.
    pub(crate) fn address_of(&self, member: NodeId) -> Option<String> {
        let configured = self.configured.lock().addresses.get(&member).cloned();
        configured.or_else(|| self.member.members().address(member).cloned())
    }

    /// Who leads and who belongs to the group. Any member answers.
    pub(crate) fn managers(&self) -> ManagersReply {
        let members = self.member.members();
        let configured = self.configured.lock();
        let reached = |listed: &BTreeMap<NodeId, String>| -> Vec<(NodeId, String)> {
            let reached = listed.iter().map(|(id, address)| {
                let address = configured.addresses.get(id).unwrap_or(address);
                (*id, address.clone())
            });
            reached.collect()
        };
        ManagersReply {
            leader: self.member.leader(),
            // A group that is being made is known by the configuration only.
            members: if members.is_empty() && !configured.joins {
                reached(&configured.addresses)
            } else {
                reached(&members.voters)
            },
            learners: reached(&members.learners),
        }
    }

    /// Adds a manager; returns once it has a vote.
    pub(crate) async fn add_manager(
        &self,
        request: AddManagerRequest,
        _asked: Asked,
        deadline: Instant,
    ) -> Result<(), Status> {
        let members = self.member.members();
        self.lead(|_, cluster, _| check_addition(&members, cluster, &request))??;
        let (id, address) = (request.id, &request.address);
        // The caller must hear what came of it.
        let deadline = deadline - REPLY_TIME;
        tracing::info!(manager = %id, address, "an operator adds a manager");
        self.update_addresses(&members, deadline).await?;
        if members.learners.get(&id).is_some_and(|old| old != address) {
            // It was added with an address that turned out to be wrong.
            self.member.remove_learner(id, deadline).await?;
        }
        let added = self.member.add_learner(id, address, deadline).await;
        added.map_err(|status| self.not_caught_up(&request, status))?;
        self.member.add_voter(id, deadline).await
    }

    /// Removes a manager; returns once the group goes on without it.
    pub(crate) async fn remove_manager(
        &self,
        request: RemoveManagerRequest,
        _asked: Asked,
        deadline: Instant,
    ) -> Result<(), Status> {
        let (id, members) = (request.id, self.member.members());
        self.lead(|_, cluster, _| check_removal(&members, cluster, id))??;
        tracing::info!(manager = %id, "an operator removes a manager");
        let votes = members.voters.contains_key(&id) || members.changing;
        if votes {
            self.member.remove_voter(id, deadline).await?;
        }
        // Another member hears that it has no vote any more before it hears nothing any more: it wants no election then.
        if id != self.member.id() && (votes || members.learners.contains_key(&id)) {
            self.member.remove_learner(id, deadline).await?;
        }
        // A leader that has removed itself cannot do this; the caller asks the next one, which does.
        self.propose(Command::ForgetManager(id), deadline).await?;
        Ok(())
    }

    /// What the leader said when this member announced itself.
    pub(crate) fn note_announced(&self, answer: Result<(), &Status>) {
        let removed = match answer {
            Ok(()) => false,
            Err(status) if status.code == StatusCode::UnknownEntity => true,
            // Nobody was there who could know.
            Err(_) => return,
        };
        self.removed.store(removed, Ordering::Relaxed);
    }

    /// Whether the group has said that it goes on without this member.
    pub(crate) fn is_removed(&self) -> bool {
        self.removed.load(Ordering::Relaxed)
    }

    /// Whether a process may announce itself as a manager.
    pub(super) fn check_manager(&self, id: NodeId) -> Result<(), Status> {
        let members = self.member.members();
        if members.is_empty() || members.address(id).is_some() {
            return Ok(());
        }
        let message = format!("manager {id} does not belong to this group; stop it, or add it");
        Err(Status::new(StatusCode::UnknownEntity, message))
    }

    /// Tells the log where members have moved to.
    async fn update_addresses(&self, members: &Members, deadline: Instant) -> Result<(), Status> {
        let moved: BTreeMap<NodeId, String> = members
            .voters
            .iter()
            .filter_map(|(id, logged)| {
                let now = self.address_of(*id)?;
                (now != *logged).then_some((*id, now))
            })
            .collect();
        if moved.is_empty() {
            return Ok(());
        }
        self.member.set_addresses(&moved, deadline).await
    }

    fn not_caught_up(&self, request: &AddManagerRequest, status: Status) -> Status {
        if status.code != StatusCode::DeadlineExceeded {
            return status;
        }
        let message = format!(
            "manager {} at {} has not copied the log yet and has no vote: is it running there with `join = true`, and do \
             the managers reach it? Run the command again, or `penstock admin manager remove {}`",
            request.id, request.address, request.id
        );
        Status::new(StatusCode::Conflict, message)
    }
}

fn check_addition(
    members: &Members,
    cluster: &Cluster,
    request: &AddManagerRequest,
) -> Result<(), Status> {
    let (id, address) = (request.id, &request.address);
    if address.is_empty() || address.len() > STRING_BYTES_MAX {
        let message = "the address of the new manager is empty or too long; give host:port";
        return Err(Status::new(StatusCode::InvalidArgument, message));
    }
    if let Some(conflict) = apply::id_conflict(&cluster.routing, id, NodeKind::Mgmtd) {
        return Err(conflict);
    }
    if members.voters.contains_key(&id) && !members.changing {
        let message = format!("manager {id} belongs to the group already");
        return Err(Status::new(StatusCode::Conflict, message));
    }
    let mut others = members.voters.iter().chain(&members.learners);
    if let Some((other, _)) = others.find(|(other, at)| **other != id && *at == address) {
        let message = format!("manager {other} is at {address}; a new one needs its own address");
        return Err(Status::new(StatusCode::Conflict, message));
    }
    if members.voters.len() >= MEMBERS_MAX && !members.changing {
        let message = format!(
            "the group has {} managers, which is the most; remove one first",
            members.voters.len()
        );
        return Err(Status::new(StatusCode::Conflict, message));
    }
    Ok(())
}

fn check_removal(members: &Members, cluster: &Cluster, id: NodeId) -> Result<(), Status> {
    let node = cluster.routing.nodes.get(&id);
    let listed = node.is_some_and(|node| node.kind == NodeKind::Mgmtd);
    if !listed && members.address(id).is_none() {
        let message =
            format!("node {id} is not a manager; `penstock admin manager list` shows all");
        return Err(Status::new(StatusCode::UnknownEntity, message));
    }
    if !members.voters.contains_key(&id) {
        return Ok(());
    }
    let rest: Vec<NodeId> = members
        .voters
        .keys()
        .copied()
        .filter(|m| *m != id)
        .collect();
    let quorum = rest.len() / 2 + 1;
    let alive = rest.iter().filter(|member| {
        let node = cluster.routing.nodes.get(*member);
        node.is_some_and(|node| node.status == NodeStatus::Alive)
    });
    let alive = alive.count();
    if alive < quorum {
        let message = format!(
            "of the {} managers that would be left {alive} are alive, and {quorum} are needed: start or add others first",
            rest.len()
        );
        return Err(Status::new(StatusCode::Conflict, message));
    }
    Ok(())
}
