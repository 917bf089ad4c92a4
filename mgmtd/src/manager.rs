//! What a manager answers, and the leader's memory behind it.
//!
//! Every answer but `managers` needs a leadership that is certain now (`leadership`). The leader's memory belongs to one
//! term: the first look in a new term starts with an empty one.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use common::{
    env::{Env, Instant},
    sync::Mutex,
};
use tokio::sync::Notify;
use types::{
    id::{ClientId, DiskIndex, NodeId},
    node::{NodeKind, NodeStatus},
    routing::RoutingInfo,
    rpc::mgmtd::{
        CreateChainsReply, CreateChainsRequest, DiskSpace, Heartbeat, HeartbeatReply,
        ManagersReply, SpaceReply, WatchRoutingReply, WatchRoutingRequest,
    },
    session::ClientSession,
    status::{Status, StatusCode},
};

use crate::{
    apply,
    client_sessions::ClientSessions,
    cluster::Cluster,
    command::{Asked, Command, Outcome, Registration},
    leadership::Leadership,
    lease::{LeaseTable, LeaseTimes},
    placement::{self, Usage},
    raft::{Member, Term, not_leader},
};

/// The longest a watch waits; the caller asks again.
const WATCH_WAIT_MAX: Duration = Duration::from_secs(30);
/// Kept of a caller's deadline for the reply to travel.
const REPLY_TIME: Duration = Duration::from_millis(100);
/// Addresses and tags are small; a heartbeat with more is refused.
const STRINGS_MAX: usize = 64;
const STRING_BYTES_MAX: usize = 512;
/// A disk's index is a byte.
const DISKS_MAX: usize = 256;
/// Why a disk failed is for people; longer texts are cut by no node of ours.
const FAILURE_BYTES_MAX: usize = 64 << 10;
/// Targets of one node at most: far more than disks hold.
const TARGETS_MAX: usize = 64 << 10;
/// Nodes that the group registers: each is an entry of the log and of every map.
const NODES_MAX: usize = 16 << 10;

/// The settings that a manager works by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ManagerTimes {
    pub(crate) leases: LeaseTimes,
    pub(crate) client_session: Duration,
}

/// One member's face to the cluster.
pub(crate) struct Manager {
    env: Env,
    times: ManagerTimes,
    member: Arc<Member>,
    leadership: Leadership,
    addresses: Mutex<BTreeMap<NodeId, String>>,
    memory: Mutex<Option<Memory>>,
    /// Something is known that may change a plan.
    news: Notify,
}

impl fmt::Debug for Manager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Manager").finish_non_exhaustive()
    }
}

/// What a leader keeps to itself, for one term.
#[derive(Debug)]
pub(crate) struct Memory {
    term: Term,
    pub(crate) leases: LeaseTable,
    sessions: ClientSessions,
}

impl Manager {
    pub(crate) fn new(
        env: &Env,
        times: ManagerTimes,
        member: Arc<Member>,
        leadership: Leadership,
    ) -> Self {
        Self {
            env: env.clone(),
            times,
            member,
            leadership,
            addresses: Mutex::default(),
            memory: Mutex::default(),
            news: Notify::new(),
        }
    }

    /// Every member with its address, once they are known.
    pub(crate) fn set_members(&self, addresses: BTreeMap<NodeId, String>) {
        *self.addresses.lock() = addresses;
    }

    /// Where a member is reached.
    pub(crate) fn address_of(&self, member: NodeId) -> Option<String> {
        self.addresses.lock().get(&member).cloned()
    }

    /// The state as of the last entry applied here.
    pub(crate) fn cluster(&self) -> Arc<Cluster> {
        self.member.cluster()
    }

    /// Waits for something that may change a plan.
    pub(crate) async fn wait_for_news(&self) {
        self.news.notified().await;
    }

    /// Works on the leader's memory, which is empty at the beginning of a term.
    ///
    /// # Errors
    /// NotLeader.
    pub(crate) fn lead<T>(
        &self,
        work: impl FnOnce(&mut Memory, &Cluster, Instant) -> T,
    ) -> Result<T, Status> {
        let mut memory = self.memory.lock();
        let now = self.env.now();
        let Some(term) = self.leadership.at(now) else {
            return Err(self.not_leader());
        };
        let current = memory.take().filter(|memory| memory.term == term);
        let memory = memory.insert(current.unwrap_or_else(|| Memory {
            term,
            leases: LeaseTable::new(self.times.leases, now),
            sessions: ClientSessions::new(self.times.client_session, now),
        }));
        // Read under the lock: a fence that was applied before a decision was closed is seen here.
        let cluster = self.member.cluster();
        Ok(work(memory, &cluster, now))
    }

    /// Puts a command into the log.
    ///
    /// # Errors
    /// As `Member::propose`.
    pub(crate) async fn propose(
        &self,
        command: Command,
        deadline: Instant,
    ) -> Result<Outcome, Status> {
        self.member.propose(command, deadline).await
    }

    fn not_leader(&self) -> Status {
        let leader = self.member.leader();
        let address = leader.and_then(|leader| self.address_of(leader));
        if self.member.believes_to_lead() {
            let message = "this manager was elected but has not heard from a majority lately";
            return Status::new(StatusCode::NotLeader, message);
        }
        not_leader(address)
    }

    /// A node is alive, and how its targets are.
    pub(crate) async fn heartbeat(
        &self,
        heartbeat: &Heartbeat,
        deadline: Instant,
    ) -> Result<HeartbeatReply, Status> {
        check_size(heartbeat)?;
        let known = self.lead(|memory, cluster, _| {
            memory.leases.check_order(heartbeat)?;
            // Refused here, so that a wrong configuration does not fill the log.
            let conflict = apply::id_conflict(&cluster.routing, heartbeat.node, heartbeat.kind);
            conflict.map_or(Ok(()), Err)?;
            check_room(&cluster.routing, heartbeat.node)?;
            Ok::<_, Status>(is_registered(heartbeat, &cluster.routing))
        })??;
        if !known {
            let registration = Registration {
                id: heartbeat.node,
                kind: heartbeat.kind,
                addresses: heartbeat.addresses.clone(),
                tags: heartbeat.tags.clone(),
            };
            self.propose(Command::RegisterNode(registration), deadline)
                .await?;
        }
        let (accepted, routing_version) = self.lead(|memory, cluster, now| {
            let accepted = memory.leases.heartbeat(now, heartbeat, cluster);
            (accepted, cluster.routing.version)
        })?;
        let accepted = accepted?;
        if accepted.news {
            self.news.notify_one();
        }
        Ok(HeartbeatReply {
            lease_ms: u64::try_from(accepted.lease.as_millis()).unwrap_or(u64::MAX),
            routing_version,
        })
    }

    /// The map, when it is newer than the caller's or becomes so in time.
    pub(crate) async fn watch_routing(
        &self,
        request: &WatchRoutingRequest,
        deadline: Instant,
    ) -> Result<WatchRoutingReply, Status> {
        let wait = Duration::from_millis(request.wait_ms).min(WATCH_WAIT_MAX);
        // The caller must have the answer before it stops waiting.
        let until = (self.env.now() + wait).min(deadline - REPLY_TIME);
        let mut terms = self.leadership.subscribe();
        let mut states = self.member.subscribe();
        loop {
            if self.leadership.at(self.env.now()).is_none() {
                return Err(self.not_leader());
            }
            let routing = states.borrow_and_update().routing.clone();
            if routing.version > request.known {
                let routing = Some(RoutingInfo::clone(&routing));
                return Ok(WatchRoutingReply { routing });
            }
            tokio::select! {
                // An error means that the group is closing down: the next look says so.
                changed = states.changed() => if changed.is_err() { return Err(self.not_leader()) },
                changed = terms.changed() => if changed.is_err() { return Err(self.not_leader()) },
                () = self.env.sleep_until(until) => return Ok(WatchRoutingReply { routing: None }),
            }
        }
    }

    /// Opens or renews a client's session.
    pub(crate) fn extend_client_session(&self, session: ClientSession) -> Result<(), Status> {
        self.lead(|memory, _, now| memory.sessions.extend(now, session))?
    }

    /// Ends a client's session.
    pub(crate) fn end_client_session(&self, client: ClientId) -> Result<(), Status> {
        self.lead(|memory, _, _| memory.sessions.end(client))
    }

    /// The clients that are not gone.
    pub(crate) fn list_client_sessions(&self) -> Result<Vec<ClientSession>, Status> {
        self.lead(|memory, _, now| memory.sessions.list(now))?
    }

    /// Makes chains over the alive storage nodes.
    pub(crate) async fn create_chains(
        &self,
        request: &CreateChainsRequest,
        asked: Asked,
        deadline: Instant,
    ) -> Result<CreateChainsReply, Status> {
        let (usage, unheard) = self.lead(|memory, cluster, _| {
            let leases = &memory.leases;
            let mut alive = cluster.alive_storage();
            let unheard = alive.find(|node| leases.disks_of(node.id).is_empty());
            (usage(leases, cluster), unheard.map(|node| node.id))
        })?;
        if let Some(node) = unheard {
            // Its disks are in the memory of the leader before this one.
            let message = format!("this manager has not heard from storage node {node} yet");
            return Err(Status::new(StatusCode::NotReady, message));
        }
        let chains = placement::place(usage, request.count, request.replicas)?;
        let command = Command::CreateChains {
            table: request.table,
            chains,
            asked,
        };
        match self.propose(command, deadline).await? {
            Outcome::Created { chains, version } => {
                self.news.notify_one();
                Ok(CreateChainsReply { chains, version })
            }
            other => {
                let message = format!("creating chains came to {other:?}");
                Err(Status::new(StatusCode::Internal, message))
            }
        }
    }

    /// Space of the alive storage nodes together.
    pub(crate) fn space(&self) -> Result<SpaceReply, Status> {
        self.lead(|memory, cluster, now| space(&memory.leases, cluster, now))
    }

    /// Who leads and who belongs to the group. Any member answers.
    pub(crate) fn managers(&self) -> ManagersReply {
        let addresses = self.addresses.lock();
        ManagersReply {
            leader: self.member.leader(),
            members: addresses
                .iter()
                .map(|(id, address)| (*id, address.clone()))
                .collect(),
        }
    }
}

/// The leader keeps what a heartbeat says until the next one: it is bounded.
fn check_size(heartbeat: &Heartbeat) -> Result<(), Status> {
    let invalid = |message: String| Err(Status::new(StatusCode::InvalidArgument, message));
    let strings = [&heartbeat.addresses, &heartbeat.tags];
    let fits = strings.iter().all(|list| {
        list.len() <= STRINGS_MAX && list.iter().all(|text| text.len() <= STRING_BYTES_MAX)
    });
    if !fits {
        return invalid(format!(
            "a node has at most {STRINGS_MAX} addresses and tags of at most {STRING_BYTES_MAX} bytes each"
        ));
    }
    let mut failures = heartbeat
        .disks
        .iter()
        .filter_map(|disk| disk.failure.as_ref());
    let (disks, targets) = (heartbeat.disks.len(), heartbeat.targets.len());
    if disks > DISKS_MAX
        || targets > TARGETS_MAX
        || failures.any(|failure| failure.len() > FAILURE_BYTES_MAX)
    {
        return invalid(format!(
            "a heartbeat tells of {disks} disks and {targets} targets; at most {DISKS_MAX} and {TARGETS_MAX} are taken, \
             and {FAILURE_BYTES_MAX} bytes for why a disk failed"
        ));
    }
    Ok(())
}

/// Whether the node is known or can become so.
fn check_room(routing: &RoutingInfo, node: NodeId) -> Result<(), Status> {
    if routing.nodes.contains_key(&node) || routing.nodes.len() < NODES_MAX {
        return Ok(());
    }
    let message = format!("{NODES_MAX} nodes are registered, no more are taken");
    Err(Status::new(StatusCode::Conflict, message))
}

fn is_registered(heartbeat: &Heartbeat, routing: &RoutingInfo) -> bool {
    routing.nodes.get(&heartbeat.node).is_some_and(|node| {
        node.kind == heartbeat.kind
            && node.addresses == heartbeat.addresses
            && node.tags == heartbeat.tags
    })
}

/// The working disks of the alive storage nodes, with the targets they have.
fn usage(leases: &LeaseTable, cluster: &Cluster) -> Usage {
    let mut usage: Usage = BTreeMap::new();
    for node in cluster.alive_storage() {
        let working = leases
            .disks_of(node.id)
            .iter()
            .filter(|disk| disk.failure.is_none());
        let disks: BTreeMap<DiskIndex, u32> = working.map(|disk| (disk.disk, 0)).collect();
        usage.insert(node.id, disks);
    }
    for target in cluster.routing.targets.values() {
        let disks = usage.get_mut(&target.node);
        if let Some(targets) = disks.and_then(|disks| disks.get_mut(&target.disk)) {
            *targets += 1;
        }
    }
    usage
}

fn space(leases: &LeaseTable, cluster: &Cluster, now: Instant) -> SpaceReply {
    let mut reply = SpaceReply::default();
    let chains = cluster.routing.chains.values();
    let replicas = chains.map(|chain| chain.targets.len()).max().unwrap_or(1);
    reply.replicas = u32::try_from(replicas.max(1)).unwrap_or(u32::MAX);
    let nodes = cluster.routing.nodes.values();
    let alive = nodes.filter(|n| n.kind == NodeKind::Storage && n.status == NodeStatus::Alive);
    for node in alive {
        for disk in leases.disks_of(node.id) {
            if disk.failure.is_none() {
                // The figures come from the network.
                reply.capacity_bytes = reply.capacity_bytes.saturating_add(disk.capacity_bytes);
                reply.used_bytes = reply.used_bytes.saturating_add(disk.used_bytes);
            }
            reply.disks.push(DiskSpace {
                node: node.id,
                disk: disk.disk,
                capacity_bytes: disk.capacity_bytes,
                used_bytes: disk.used_bytes,
                failure: disk.failure.clone(),
            });
        }
    }
    reply.targets = leases.local_states(now, &cluster.routing);
    reply
}
