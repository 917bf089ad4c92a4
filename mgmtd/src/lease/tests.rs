//! Leases and plans with an explicit clock: nothing sleeps here.

use std::sync::Arc;

use types::{
    id::{ChainId, ChainTableId, ClientId, DiskIndex, RequestId},
    node::NodeKind,
    version::ChainVersion,
};

use super::*;
use crate::{
    apply::apply,
    command::{Asked, Command, Registration, Seat},
};

const TIMES: LeaseTimes = LeaseTimes {
    lease: Duration::from_millis(2000),
    margin: Duration::from_millis(500),
};
const CHAIN: ChainId = ChainId(1);

/// A cluster whose state, leader's memory and time a test moves by hand.
struct World {
    cluster: Cluster,
    table: LeaseTable,
    start: Instant,
    now: Instant,
    numbers: BTreeMap<(u32, u64), u64>,
}

impl World {
    /// Three storage nodes, one chain with targets 1, 2, 3 on nodes 1, 2, 3. The leader has settled.
    fn settled() -> Self {
        let mut cluster = Cluster::default();
        for id in 1..=3 {
            let registration = Registration {
                id: NodeId(id),
                kind: NodeKind::Storage,
                addresses: Vec::new(),
                tags: Vec::new(),
            };
            apply(&mut cluster, &Command::RegisterNode(registration));
        }
        let seat = |node| Seat {
            node: NodeId(node),
            disk: DiskIndex(0),
        };
        let chains = vec![(1..=3).map(seat).collect()];
        let table = ChainTableId(1);
        let asked = Asked {
            client: ClientId(1),
            request: RequestId(1),
        };
        apply(
            &mut cluster,
            &Command::CreateChains {
                table,
                chains,
                asked,
            },
        );
        let start = common::env::Env::seeded(1).now();
        let mut world = Self {
            cluster,
            table: LeaseTable::new(TIMES, start),
            start,
            now: start,
            numbers: BTreeMap::new(),
        };
        for node in 1..=3 {
            world.report(node, LocalState::UpToDate).unwrap();
        }
        world.decide();
        assert!(
            world
                .cluster
                .routing
                .targets
                .values()
                .all(|target| target.created)
        );
        world
    }

    fn at(&mut self, ms: u64) -> &mut Self {
        self.now = self.start + Duration::from_millis(ms);
        self
    }

    fn heartbeat(&mut self, node: u32, boot: u64) -> Heartbeat {
        let number = self.numbers.entry((node, boot)).or_default();
        *number += 1;
        Heartbeat {
            node: NodeId(node),
            kind: NodeKind::Storage,
            boot: BootId(boot),
            number: HeartbeatNumber(*number),
            addresses: Vec::new(),
            tags: Vec::new(),
            disks: Vec::new(),
            targets: Vec::new(),
            routing_version: self.cluster.routing.version,
            resyncs: Vec::new(),
            cut_off: Vec::new(),
        }
    }

    fn send(&mut self, heartbeat: &Heartbeat) -> Result<Accepted, Status> {
        self.table.heartbeat(self.now, heartbeat, &self.cluster)
    }

    /// Node n reports its target n, by the present map.
    fn report(&mut self, node: u32, state: LocalState) -> Result<Accepted, Status> {
        let version = self.chain().version;
        self.report_at(node, 1, state, version)
    }

    fn report_at(
        &mut self,
        node: u32,
        boot: u64,
        state: LocalState,
        chain_version: ChainVersion,
    ) -> Result<Accepted, Status> {
        let mut heartbeat = self.heartbeat(node, boot);
        heartbeat.targets = vec![TargetReport {
            target: TargetId(u64::from(node)),
            chain_version,
            state,
            used_bytes: 0,
        }];
        self.send(&heartbeat)
    }

    fn chain(&self) -> &Chain {
        &self.cluster.routing.chains[&CHAIN]
    }

    fn states(&self) -> [PublicState; 3] {
        [1, 2, 3].map(|id| self.chain().state_of(TargetId(id)).unwrap())
    }

    fn status(&self, node: u32) -> NodeStatus {
        self.cluster.routing.nodes[&NodeId(node)].status
    }

    fn plan(&mut self) -> Plan {
        self.table.plan(self.now, &self.cluster)
    }

    /// What the keeper does: plan, apply, until nothing is left. Returns how many entries that took.
    fn decide(&mut self) -> usize {
        for entries in 0..10 {
            let plan = self.plan();
            if plan.observation.is_empty() {
                return entries;
            }
            apply(&mut self.cluster, &Command::Observe(plan.observation));
            self.cluster.check().unwrap();
            self.table.decided();
        }
        panic!("the plan never comes to rest");
    }
}

const FULL: Accepted = Accepted {
    lease: TIMES.lease,
    news: false,
};
use PublicState::{LastServing, Offline, Serving, Syncing, Waiting};

#[tokio::test(start_paused = true)]
async fn a_silent_node_fails_when_lease_and_margin_are_over_and_not_before() {
    let mut world = World::settled();
    for node in 2..=3 {
        assert_eq!(
            world.at(2000).report(node, LocalState::UpToDate).unwrap(),
            FULL
        );
    }
    assert_eq!(world.at(2499).decide(), 0);
    let plan = world.plan();
    assert_eq!(plan.next, Some(world.start + Duration::from_millis(2500)));
    assert_eq!(world.at(2500).decide(), 1);
    assert_eq!(world.status(1), NodeStatus::Failed);
    assert_eq!(world.states(), [Offline, Serving, Serving]);
    assert_eq!(world.chain().version, ChainVersion(2));
}

#[tokio::test(start_paused = true)]
async fn when_all_nodes_go_silent_at_once_all_targets_are_last_serving() {
    let mut world = World::settled();
    assert_eq!(world.at(2500).decide(), 1);
    assert_eq!(world.states(), [LastServing; 3]);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_being_declared_failed_gets_no_lease() {
    let mut world = World::settled();
    for node in 2..=3 {
        world.at(2000).report(node, LocalState::UpToDate).unwrap();
    }
    let plan = world.at(2500).plan();
    // The entry is under way; the late heartbeat finds the map unchanged.
    let late = world.report(1, LocalState::UpToDate).unwrap();
    assert_eq!(late.lease, Duration::ZERO);
    apply(&mut world.cluster, &Command::Observe(plan.observation));
    world.table.decided();
    assert_eq!(world.states(), [Offline, Serving, Serving]);
}

#[tokio::test(start_paused = true)]
async fn a_failed_node_earns_a_lease_only_by_a_map_that_knows_of_it() {
    let mut world = World::settled();
    let old_map = world.cluster.routing.version;
    for node in 2..=3 {
        world.at(2000).report(node, LocalState::UpToDate).unwrap();
    }
    world.at(2500).decide();
    let by_old_map = |world: &mut World| {
        let mut heartbeat = world.heartbeat(1, 1);
        heartbeat.routing_version = old_map;
        world.send(&heartbeat).unwrap().lease
    };
    assert_eq!(by_old_map(world.at(2600)), Duration::ZERO);
    // It is alive again in the map, and still works by the old one.
    world.decide();
    assert_eq!(world.status(1), NodeStatus::Alive);
    assert_eq!(by_old_map(world.at(2700)), Duration::ZERO);
    let lease = world.at(2800).report(1, LocalState::Offline).unwrap().lease;
    assert_eq!(lease, TIMES.lease);
}

#[tokio::test(start_paused = true)]
async fn a_failed_node_in_the_map_gets_no_lease_before_it_is_alive_in_the_map() {
    let mut world = World::settled();
    for node in 2..=3 {
        world.at(2000).report(node, LocalState::UpToDate).unwrap();
    }
    world.at(2500).decide();
    let first = world.at(2600).report(1, LocalState::Offline).unwrap();
    assert_eq!((first.lease, first.news), (Duration::ZERO, true));
    world.decide();
    assert_eq!(
        world.report(1, LocalState::Offline).unwrap().lease,
        TIMES.lease
    );
}

#[tokio::test(start_paused = true)]
async fn a_restart_within_the_lease_is_seen_by_its_first_heartbeat() {
    let mut world = World::settled();
    let version = world.chain().version;
    let report = world.at(300).report_at(2, 77, LocalState::Offline, version);
    assert!(report.unwrap().news);
    assert_eq!(world.decide(), 1);
    assert_eq!(world.states(), [Serving, Offline, Serving]);
    // Then it goes through a refill.
    world
        .at(400)
        .report_at(2, 77, LocalState::Online, ChainVersion(2))
        .unwrap();
    world.decide();
    assert_eq!(world.states(), [Serving, Syncing, Serving]);
    world
        .at(500)
        .report_at(2, 77, LocalState::UpToDate, ChainVersion(3))
        .unwrap();
    world.decide();
    assert_eq!(world.states(), [Serving; 3]);
}

#[tokio::test(start_paused = true)]
async fn a_restarted_node_whose_map_is_missing_still_counts_as_offline() {
    let mut world = World::settled();
    let no_map = ChainVersion(0);
    world
        .at(300)
        .report_at(2, 77, LocalState::Offline, no_map)
        .unwrap();
    world.decide();
    assert_eq!(world.states(), [Serving, Offline, Serving]);
}

#[tokio::test(start_paused = true)]
async fn old_numbers_and_replaced_boots_are_refused() {
    let mut world = World::settled();
    let first = world.heartbeat(1, 1);
    let second = world.heartbeat(1, 1);
    world.send(&second).unwrap();
    let stale = world.send(&first).unwrap_err();
    assert_eq!(stale.code, StatusCode::StaleHeartbeat);
    let restarted = world.heartbeat(1, 2);
    world.send(&restarted).unwrap();
    let of_old_boot = world.heartbeat(1, 1);
    let refused = world.send(&of_old_boot).unwrap_err();
    assert_eq!(refused.code, StatusCode::StaleHeartbeat);
    assert!(refused.message.contains("replaced"), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn a_repeated_heartbeat_earns_the_same_lease_and_renews_nothing() {
    let mut world = World::settled();
    for node in 2..=3 {
        world.at(2400).report(node, LocalState::UpToDate).unwrap();
    }
    let mut only = world.at(100).heartbeat(1, 1);
    only.targets = vec![TargetReport {
        target: TargetId(1),
        chain_version: ChainVersion(1),
        state: LocalState::UpToDate,
        used_bytes: 0,
    }];
    assert_eq!(world.send(&only).unwrap(), FULL);
    assert_eq!(world.at(2300).send(&only).unwrap(), FULL);
    world.at(2600).decide();
    assert_eq!(world.status(1), NodeStatus::Failed);
    // Not even when it arrives after the failure.
    assert_eq!(world.send(&only).unwrap().lease, Duration::ZERO);
    assert_eq!(world.decide(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_report_about_an_older_chain_version_is_ignored() {
    let mut world = World::settled();
    for node in 2..=3 {
        world.at(2000).report(node, LocalState::UpToDate).unwrap();
    }
    world.at(2500).decide();
    assert_eq!(world.states(), [Offline, Serving, Serving]);
    // It comes back without having seen the new map: what it says is about the old chain.
    world
        .report_at(1, 1, LocalState::UpToDate, ChainVersion(1))
        .unwrap();
    world.decide();
    assert_eq!(world.states(), [Offline, Serving, Serving]);
    world.report(1, LocalState::Online).unwrap();
    world.decide();
    assert_eq!(world.states(), [Syncing, Serving, Serving]);
    // Stale again: it must not pass for refilled.
    world
        .report_at(1, 1, LocalState::UpToDate, ChainVersion(1))
        .unwrap();
    world.decide();
    assert_eq!(world.states(), [Syncing, Serving, Serving]);
}

#[tokio::test(start_paused = true)]
async fn a_new_leader_changes_no_chain_before_all_alive_nodes_reported() {
    let mut world = World::settled();
    world.at(10_000);
    world.table = LeaseTable::new(TIMES, world.now);
    world.report(1, LocalState::UpToDate).unwrap();
    world.report(2, LocalState::Offline).unwrap();
    assert_eq!(world.at(12_499).decide(), 0);
    world.at(12_400).report(3, LocalState::UpToDate).unwrap();
    assert_eq!(world.decide(), 1);
    assert_eq!(world.states(), [Serving, Offline, Serving]);
}

#[tokio::test(start_paused = true)]
async fn a_new_leader_fails_who_stays_silent_for_lease_and_margin() {
    let mut world = World::settled();
    world.at(10_000);
    world.table = LeaseTable::new(TIMES, world.now);
    world.at(12_000).report(1, LocalState::UpToDate).unwrap();
    world.report(2, LocalState::UpToDate).unwrap();
    assert_eq!(world.at(12_499).decide(), 0);
    // The first heartbeat of the third arrives while its failure is being decided.
    let plan = world.at(12_500).plan();
    assert_eq!(plan.observation.nodes, [(NodeId(3), NodeStatus::Failed)]);
    assert_eq!(
        world.report(3, LocalState::UpToDate).unwrap().lease,
        Duration::ZERO
    );
    apply(&mut world.cluster, &Command::Observe(plan.observation));
    world.table.decided();
    assert_eq!(world.states(), [Serving, Serving, Offline]);
    assert_eq!(world.status(3), NodeStatus::Failed);
}

#[tokio::test(start_paused = true)]
async fn a_first_report_about_an_older_chain_is_unknown_and_changes_nothing_for_a_while() {
    let mut world = World::settled();
    // The chain moves on, then a new leader begins; node 3 has not fetched the map.
    world.report(2, LocalState::Offline).unwrap();
    world.decide();
    world.at(10_000);
    world.table = LeaseTable::new(TIMES, world.now);
    world.report(1, LocalState::UpToDate).unwrap();
    world.report(2, LocalState::Online).unwrap();
    world
        .report_at(3, 1, LocalState::UpToDate, ChainVersion(1))
        .unwrap();
    assert_eq!(world.decide(), 0);
    assert_eq!(world.states(), [Serving, Offline, Serving]);
    let plan = world.plan();
    assert!(plan.next.is_some());
    // Once it has the map the chain goes on.
    world.at(10_500).report(3, LocalState::UpToDate).unwrap();
    world.decide();
    assert_eq!(world.states(), [Serving, Syncing, Serving]);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_never_fetches_the_map_counts_as_offline_in_the_end() {
    let mut world = World::settled();
    world.report(2, LocalState::Offline).unwrap();
    world.decide();
    world.at(10_000);
    world.table = LeaseTable::new(TIMES, world.now);
    for ms in [10_000, 11_000, 12_000, 12_500] {
        world.at(ms).report(1, LocalState::UpToDate).unwrap();
        world.report(2, LocalState::Offline).unwrap();
        world
            .report_at(3, 1, LocalState::UpToDate, ChainVersion(1))
            .unwrap();
        world.decide();
    }
    assert_eq!(world.states(), [Serving, Offline, Offline]);
}

#[tokio::test(start_paused = true)]
async fn an_alive_node_that_does_not_mention_a_created_target_has_lost_it() {
    let mut world = World::settled();
    let empty = world.at(100).heartbeat(2, 1);
    assert!(world.send(&empty).unwrap().news);
    world.decide();
    assert_eq!(world.states(), [Serving, Offline, Serving]);
}

#[tokio::test(start_paused = true)]
async fn a_target_that_was_never_reported_serves_until_its_node_fails() {
    let mut world = World::settled();
    Arc::make_mut(&mut world.cluster.routing)
        .targets
        .get_mut(&TargetId(2))
        .unwrap()
        .created = false;
    let empty = world.at(2000).heartbeat(2, 1);
    world.send(&empty).unwrap();
    world.report(1, LocalState::UpToDate).unwrap();
    world.report(3, LocalState::UpToDate).unwrap();
    assert_eq!(world.decide(), 0);
    for node in [1, 3] {
        world.at(4000).report(node, LocalState::UpToDate).unwrap();
    }
    world.at(4500).decide();
    assert_eq!(world.states(), [Serving, Offline, Serving]);
}

/// Node n says which targets it cannot reach, and that its own is fine.
fn cut_off(world: &mut World, node: u32, targets: &[u64]) -> bool {
    let mut heartbeat = world.heartbeat(node, 1);
    heartbeat.targets = vec![TargetReport {
        target: TargetId(u64::from(node)),
        chain_version: world.chain().version,
        state: LocalState::UpToDate,
        used_bytes: 0,
    }];
    heartbeat.cut_off = targets.iter().copied().map(TargetId).collect();
    world.send(&heartbeat).unwrap().news
}

#[tokio::test(start_paused = true)]
async fn a_target_that_cannot_be_refilled_stays_out_while_its_predecessor_says_so() {
    let mut world = World::settled();
    for state in [LocalState::Offline, LocalState::Online] {
        world.report(3, state).unwrap();
        world.decide();
    }
    assert_eq!(world.states(), [Serving, Serving, Syncing]);
    // Only the one that refills it knows.
    cut_off(&mut world, 1, &[3]);
    assert_eq!(world.decide(), 0);
    assert!(cut_off(&mut world, 2, &[3]) && !cut_off(&mut world, 2, &[3]));
    world.decide();
    assert_eq!(world.states(), [Serving, Serving, Offline]);
    assert_eq!(
        world.table.cut_off(world.now, &world.cluster.routing),
        [TargetId(3)]
    );
    world.report(3, LocalState::Online).unwrap();
    assert_eq!(world.decide(), 0);
    assert!(cut_off(&mut world, 2, &[]));
    world.decide();
    assert_eq!(world.states(), [Serving, Serving, Syncing]);
}

#[tokio::test(start_paused = true)]
async fn a_target_that_is_out_of_reach_does_not_keep_another_from_being_refilled() {
    let mut world = World::settled();
    for state in [LocalState::Offline, LocalState::Online] {
        for node in 2..=3 {
            world.report(node, state).unwrap();
        }
        world.decide();
    }
    assert_eq!(world.states(), [Serving, Syncing, Waiting]);
    cut_off(&mut world, 1, &[2]);
    world.decide();
    assert_eq!(world.states(), [Serving, Offline, Syncing]);
}

#[tokio::test(start_paused = true)]
async fn nobody_gets_a_target_out_that_holds_everything() {
    let mut world = World::settled();
    for node in 1..=3 {
        cut_off(&mut world, node, &[1, 2, 3]);
    }
    assert_eq!(world.decide(), 0);
    assert_eq!(world.states(), [Serving; 3]);
    // Nor what a node that fails said last.
    world.at(2500).decide();
    assert_eq!(world.states(), [LastServing; 3]);
    assert!(
        world
            .table
            .cut_off(world.now, &world.cluster.routing)
            .is_empty()
    );
}

#[tokio::test(start_paused = true)]
async fn a_resync_is_known_while_the_node_that_drives_it_lives() {
    let mut world = World::settled();
    let mut heartbeat = world.heartbeat(2, 1);
    heartbeat.resyncs = vec![ResyncReport {
        target: TargetId(3),
        ..ResyncReport::default()
    }];
    world.send(&heartbeat).unwrap();
    assert_eq!(world.table.resyncs(world.now), heartbeat.resyncs);
    world.at(2500).decide();
    assert!(world.table.resyncs(world.now).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_waiting_target_waits_for_the_one_that_is_refilled() {
    let mut world = World::settled();
    for node in 2..=3 {
        world.report(node, LocalState::Offline).unwrap();
    }
    world.decide();
    for node in 2..=3 {
        world.report(node, LocalState::Online).unwrap();
    }
    world.decide();
    assert_eq!(world.states(), [Serving, Syncing, Waiting]);
    // The version it works by is news; a heartbeat that says the same again is none.
    assert!(world.report(1, LocalState::UpToDate).unwrap().news);
    assert!(!world.report(1, LocalState::UpToDate).unwrap().news);
}

/// Found by the simulation as a chain that changed without end: the target was given a place before it knew that it was out,
/// reopened because it had missed that, and so on.
#[tokio::test(start_paused = true)]
async fn a_target_that_is_out_comes_back_only_when_it_has_seen_that() {
    let mut world = World::settled();
    let before = world.chain().version;
    world.report(3, LocalState::Offline).unwrap();
    let plan = world.plan();
    // Open again before the decision is applied.
    let early = world.report_at(3, 1, LocalState::Online, before).unwrap();
    assert!(early.news);
    apply(&mut world.cluster, &Command::Observe(plan.observation));
    world.table.decided();
    assert_eq!(world.states()[2], PublicState::Offline);
    assert_eq!(world.decide(), 0);
    assert_eq!(world.states()[2], PublicState::Offline);
    let seen = world.report(3, LocalState::Online).unwrap();
    assert!(seen.news);
    world.decide();
    assert_eq!(world.states()[2], PublicState::Syncing);
}
