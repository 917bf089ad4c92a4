//! What the leader knows of its nodes from their heartbeats: boots, numbers, lease renewals, local states.
//! Pure: every function takes `now`; nothing here waits, sends or decides alone.
//!
//! Invariants (`docs/design/replication.md` tells why):
//! - A node is failed no earlier than lease + margin after its last renewal *here*.
//! - From the moment in which `plan` declares a node failed until that entry is applied (`decided`) it gets
//!   no lease; then none until the state calls it alive again and it works by a map that knows of its
//!   failure (its fence).
//! - A new table, so a new leader, plans no chain change until every alive storage node has reported or
//!   lease + margin has passed (protocol M6).
//! - A state counts only with the boot that reported it and with the chain version of its time.
//! - A target that does not serve and that the last serving one says it cannot reach counts as Offline: it would hold up
//!   the writes of its chain, and nothing depends on it.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use common::env::Instant;
use types::{
    chain::{Chain, ChainTarget},
    id::{BootId, NodeId, TargetId},
    node::{Node, NodeStatus},
    routing::RoutingInfo,
    rpc::mgmtd::{DiskReport, Heartbeat, ResyncReport, TargetReport},
    status::{Status, StatusCode},
    target::{LocalState, PublicState},
    version::{ChainVersion, HeartbeatNumber},
};

use crate::{cluster::Cluster, command::Observation, transition};

#[cfg(test)]
mod tests;

/// Chains that change in one log entry, at most: the entry stays below 100 KiB, the next one follows at once.
const CHAINS_PER_ENTRY: usize = 1000;
/// Replaced boots that are remembered per node: heartbeats of older ones are long gone from any network.
const BOOTS_REMEMBERED: usize = 8;

/// How long leases last.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LeaseTimes {
    /// Granted with each renewal.
    pub(crate) lease: Duration,
    /// Waited beyond it.
    pub(crate) margin: Duration,
}

impl LeaseTimes {
    /// After this long without renewal a node is failed.
    pub(crate) fn patience(self) -> Duration {
        self.lease + self.margin
    }
}

/// The memory of one leader in one term.
#[derive(Debug)]
pub(crate) struct LeaseTable {
    times: LeaseTimes,
    /// When this leader began; earlier renewals are unknown here.
    began: Instant,
    nodes: BTreeMap<NodeId, NodeLease>,
    /// Declared failed by a plan that is not known to be applied yet.
    deciding: BTreeSet<NodeId>,
}

/// What a heartbeat came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Accepted {
    /// Counted by the node from when it sent the heartbeat.
    pub(crate) lease: Duration,
    /// Something is known now that may change a plan.
    pub(crate) news: bool,
}

#[derive(Debug)]
struct NodeLease {
    boot: BootId,
    replaced: VecDeque<BootId>,
    number: Option<HeartbeatNumber>,
    /// When this boot, or its return after a failure, was first heard of.
    since: Instant,
    /// The last heartbeat.
    renewed: Instant,
    /// Declared failed, and not heard of since that was applied.
    lapsed: bool,
    disks: Vec<DiskReport>,
    targets: BTreeMap<TargetId, Seen>,
    resyncs: Vec<ResyncReport>,
    /// Targets that its own would refill and cannot reach.
    cut_off: BTreeSet<TargetId>,
}

/// What is known of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    /// Its node reported it so, under this version of the chain.
    Reported(LocalState, ChainVersion),
    /// Its node mentions it, but has said nothing about the present version of its chain yet.
    Unknown,
}

/// What should go into the log now, and when to look again.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) observation: Observation,
    /// The next moment at which time alone changes something.
    pub(crate) next: Option<Instant>,
}

impl LeaseTable {
    /// The table of a leader that begins now.
    pub(crate) fn new(times: LeaseTimes, now: Instant) -> Self {
        Self {
            times,
            began: now,
            nodes: BTreeMap::new(),
            deciding: BTreeSet::new(),
        }
    }

    /// Whether a heartbeat is in order; changes nothing.
    ///
    /// # Errors
    /// StaleHeartbeat for an old number or a replaced boot.
    pub(crate) fn check_order(&self, heartbeat: &Heartbeat) -> Result<(), Status> {
        match self.nodes.get(&heartbeat.node) {
            Some(node) => node.check_order(heartbeat),
            None => Ok(()),
        }
    }

    /// Takes a heartbeat of a registered node.
    ///
    /// # Errors
    /// StaleHeartbeat for an old number or a replaced boot.
    pub(crate) fn heartbeat(
        &mut self,
        now: Instant,
        heartbeat: &Heartbeat,
        cluster: &Cluster,
    ) -> Result<Accepted, Status> {
        let deciding = self.deciding.contains(&heartbeat.node);
        let mut news = !self.nodes.contains_key(&heartbeat.node);
        let node = self
            .nodes
            .entry(heartbeat.node)
            .or_insert_with(|| NodeLease::new(heartbeat.boot, now, deciding));
        node.check_order(heartbeat)?;
        let repeated = node.boot == heartbeat.boot && node.number == Some(heartbeat.number);
        if node.boot != heartbeat.boot {
            news = true;
            node.restart(heartbeat, now);
        }
        if node.lapsed && !deciding && !repeated {
            news = true;
            node.lapsed = false;
            node.since = now;
        }
        // A caller that missed the reply asks again with the same number. It gets the same answer, and counts its lease
        // from when it first sent, so the renewal here stays where it was.
        if !repeated {
            node.number = Some(heartbeat.number);
            node.renewed = now;
            node.disks.clone_from(&heartbeat.disks);
            news |= node.take_reports(heartbeat, &cluster.routing);
        }
        let lapsed = node.lapsed;
        let fence = cluster
            .fences
            .get(&heartbeat.node)
            .copied()
            .unwrap_or_default();
        let alive = cluster
            .routing
            .nodes
            .get(&heartbeat.node)
            .is_some_and(|node| node.status == NodeStatus::Alive);
        let lease = if alive && !deciding && !lapsed && heartbeat.routing_version >= fence {
            self.times.lease
        } else {
            Duration::ZERO
        };
        Ok(Accepted { lease, news })
    }

    /// What follows from all that is known now. Nodes it calls failed get no lease until `decided`.
    pub(crate) fn plan(&mut self, now: Instant, cluster: &Cluster) -> Plan {
        let mut timers = BTreeSet::new();
        let mut observation = Observation::default();
        for node in cluster.routing.nodes.values() {
            if self.has_expired(now, node) {
                self.deciding.insert(node.id);
                if let Some(lease) = self.nodes.get_mut(&node.id) {
                    lease.lapse();
                }
            }
            if self.deciding.contains(&node.id) {
                observation.nodes.push((node.id, NodeStatus::Failed));
            } else if self.live_lease(now, node.id).is_some() && node.status == NodeStatus::Failed {
                observation.nodes.push((node.id, NodeStatus::Alive));
            }
            let last = self
                .nodes
                .get(&node.id)
                .map_or(self.began, |lease| lease.renewed);
            timers.insert(last + self.times.patience());
        }
        observation.created = self.newly_created(&cluster.routing);
        if self.has_settled(now, cluster) {
            observation.chains = self.changed_chains(now, &cluster.routing, &mut timers);
        }
        Plan {
            observation,
            next: timers.into_iter().find(|at| *at > now),
        }
    }

    /// The last plan is applied, and so is every earlier one: the fences are in the state now.
    pub(crate) fn decided(&mut self) {
        self.deciding.clear();
    }

    /// The disks that a node reported last; none when it did not report to this leader.
    pub(crate) fn disks_of(&self, node: NodeId) -> &[DiskReport] {
        self.nodes.get(&node).map_or(&[], |lease| &lease.disks)
    }

    /// The resyncs that live nodes drive.
    pub(crate) fn resyncs(&self, now: Instant) -> Vec<ResyncReport> {
        let live = self.nodes.keys().filter_map(|id| self.live_lease(now, *id));
        live.flat_map(|lease| lease.resyncs.iter().cloned())
            .collect()
    }

    /// The targets that count as Offline because the one which would refill them cannot reach them.
    pub(crate) fn cut_off(&self, now: Instant, routing: &RoutingInfo) -> Vec<TargetId> {
        let chains = routing.chains.values();
        let cut_off = chains.flat_map(|chain| {
            let targets = chain.targets.iter();
            targets.filter(|target| self.is_cut_off(now, routing, chain, target))
        });
        cut_off.map(|target| target.id).collect()
    }

    /// The local state that counts for each target now.
    pub(crate) fn local_states(
        &self,
        now: Instant,
        routing: &RoutingInfo,
    ) -> Vec<(TargetId, LocalState)> {
        let states = routing.chains.values().flat_map(|chain| {
            chain.targets.iter().map(|target| {
                let state = self.local_state(now, routing, (chain, target));
                (target.id, state.unwrap_or(LocalState::Offline))
            })
        });
        states.collect()
    }

    /// Whether a node must be declared failed now.
    fn has_expired(&self, now: Instant, node: &Node) -> bool {
        let patience = self.times.patience();
        match self.nodes.get(&node.id) {
            Some(lease) => !lease.lapsed && now >= lease.renewed + patience,
            // Nothing was heard yet: what the state says holds until it could have been.
            None => node.status == NodeStatus::Alive && now >= self.began + patience,
        }
    }

    /// What is known of a node that counts as alive here.
    fn live_lease(&self, now: Instant, node: NodeId) -> Option<&NodeLease> {
        let patience = self.times.patience();
        let lease = self.nodes.get(&node)?;
        (!lease.lapsed && now < lease.renewed + patience).then_some(lease)
    }

    /// Whether this leader knows enough to change chains (protocol M6).
    pub(crate) fn has_settled(&self, now: Instant, cluster: &Cluster) -> bool {
        now >= self.began + self.times.patience()
            || cluster
                .alive_storage()
                .all(|node| self.nodes.contains_key(&node.id))
    }

    fn newly_created(&self, routing: &RoutingInfo) -> Vec<TargetId> {
        let open = |seen: &Seen| seen.state().is_some_and(LocalState::is_alive);
        let targets = routing.targets.values().filter(|target| !target.created);
        targets
            .filter(|target| {
                let lease = self.nodes.get(&target.node);
                lease
                    .and_then(|lease| lease.targets.get(&target.id))
                    .is_some_and(open)
            })
            .map(|target| target.id)
            .collect()
    }

    fn changed_chains(
        &self,
        now: Instant,
        routing: &RoutingInfo,
        timers: &mut BTreeSet<Instant>,
    ) -> Vec<Chain> {
        let mut changed = Vec::new();
        for chain in routing.chains.values() {
            let mut states = BTreeMap::new();
            for target in &chain.targets {
                if self.is_cut_off(now, routing, chain, target) {
                    states.insert(target.id, LocalState::Offline);
                    continue;
                }
                match self.local_state(now, routing, (chain, target)) {
                    Ok(state) => drop(states.insert(target.id, state)),
                    Err(known_at) => drop(timers.insert(known_at)),
                }
            }
            if states.len() < chain.targets.len() {
                continue;
            }
            let local = |target| states.get(&target).copied().unwrap_or(LocalState::Offline);
            changed.extend(transition::evaluate(chain, &local));
            if changed.len() == CHAINS_PER_ENTRY {
                break;
            }
        }
        changed
    }

    /// Whether `target` does not serve, and the last serving target of its chain, which would refill it, cannot reach it.
    fn is_cut_off(
        &self,
        now: Instant,
        routing: &RoutingInfo,
        chain: &Chain,
        target: &ChainTarget,
    ) -> bool {
        if matches!(
            target.state,
            PublicState::Serving | PublicState::LastServing
        ) {
            return false;
        }
        let last = chain
            .last_serving()
            .and_then(|last| routing.targets.get(&last));
        last.and_then(|last| self.live_lease(now, last.node))
            .is_some_and(|lease| lease.cut_off.contains(&target.id))
    }

    /// The local state that counts for a target; or the time at which it will be known at the latest.
    fn local_state(
        &self,
        now: Instant,
        routing: &RoutingInfo,
        (chain, seat): (&Chain, &ChainTarget),
    ) -> Result<LocalState, Instant> {
        let (id, public) = (seat.id, seat.state);
        let Some(target) = routing.targets.get(&id) else {
            return Ok(LocalState::Offline);
        };
        let Some(lease) = self.live_lease(now, target.node) else {
            return Ok(LocalState::Offline);
        };
        match lease.targets.get(&id) {
            // It was open before it knew that it is out. It comes back when it has seen that, or it would be given a place
            // under one version while it still works by another, leave, and be given a place again.
            Some(Seen::Reported(_, version))
                if public == PublicState::Offline && *version < chain.version =>
            {
                Ok(LocalState::Offline)
            }
            Some(Seen::Reported(state, _)) => Ok(*state),
            Some(Seen::Unknown) => {
                let in_service = matches!(public, PublicState::Serving | PublicState::Syncing);
                let known_at = lease.since + self.times.patience();
                if in_service && now < known_at {
                    Err(known_at)
                } else {
                    Ok(LocalState::Offline)
                }
            }
            None if public == PublicState::Serving && !target.created => Ok(LocalState::UpToDate),
            None => Ok(LocalState::Offline),
        }
    }
}

impl NodeLease {
    fn new(boot: BootId, now: Instant, lapsed: bool) -> Self {
        Self {
            boot,
            replaced: VecDeque::new(),
            number: None,
            since: now,
            renewed: now,
            lapsed,
            disks: Vec::new(),
            targets: BTreeMap::new(),
            resyncs: Vec::new(),
            cut_off: BTreeSet::new(),
        }
    }

    fn check_order(&self, heartbeat: &Heartbeat) -> Result<(), Status> {
        let same_boot = self.boot == heartbeat.boot;
        let why = match self.number {
            _ if self.replaced.contains(&heartbeat.boot) => {
                format!("boot {} was replaced by boot {}", heartbeat.boot, self.boot)
            }
            Some(last) if same_boot && heartbeat.number < last => {
                format!("number {} came after {last}", heartbeat.number)
            }
            _ => return Ok(()),
        };
        let message = format!("heartbeat of node {} is stale: {why}", heartbeat.node);
        Err(Status::new(StatusCode::StaleHeartbeat, message))
    }

    fn restart(&mut self, heartbeat: &Heartbeat, now: Instant) {
        tracing::info!(node = %heartbeat.node, boot = %heartbeat.boot, "started again");
        self.replaced.push_back(self.boot);
        if self.replaced.len() > BOOTS_REMEMBERED {
            self.replaced.pop_front();
        }
        self.boot = heartbeat.boot;
        self.since = now;
        self.forget_reports();
    }

    /// Replaces what is known of the targets; returns whether a state, or the version it is from, is another now.
    fn take_reports(&mut self, heartbeat: &Heartbeat, routing: &RoutingInfo) -> bool {
        self.resyncs.clone_from(&heartbeat.resyncs);
        let cut_off = heartbeat.cut_off.iter().copied().collect();
        let cut_off_before = std::mem::replace(&mut self.cut_off, cut_off);
        let old = std::mem::take(&mut self.targets);
        let reports = heartbeat.targets.iter();
        self.targets = reports
            .map(|report| {
                let before = old.get(&report.target).copied();
                (report.target, judge(report, before, routing))
            })
            .collect();
        old != self.targets || cut_off_before != self.cut_off
    }

    fn forget_reports(&mut self) {
        self.targets.clear();
        self.resyncs.clear();
        self.cut_off.clear();
    }

    /// Forgets what a failed node said: when it returns it must say it anew.
    fn lapse(&mut self) {
        self.lapsed = true;
        self.forget_reports();
    }
}

impl Seen {
    fn state(self) -> Option<LocalState> {
        match self {
            Self::Reported(state, _) => Some(state),
            Self::Unknown => None,
        }
    }
}

/// What a report says, given what was known before in the same boot.
fn judge(report: &TargetReport, before: Option<Seen>, routing: &RoutingInfo) -> Seen {
    let target = routing.targets.get(&report.target);
    let chain = target.and_then(|target| routing.chains.get(&target.chain));
    let current = chain.is_some_and(|chain| report.chain_version >= chain.version);
    match (current, before) {
        (false, Some(before @ Seen::Reported(..))) => before,
        // A target that is not open is not open whatever version its node works by.
        (false, _) if report.state != LocalState::Offline => Seen::Unknown,
        _ => Seen::Reported(report.state, report.chain_version),
    }
}
