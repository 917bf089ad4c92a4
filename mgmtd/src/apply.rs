//! Applies one command to the state. Deterministic; every member of the group runs it on the same log.
//!
//! Each command is checked against the state as it is now, which may have moved on since the leader
//! decided: a chain whose version has changed is left alone, and the leader's next look sees it as it is.

use types::{
    chain::{Chain, ChainTable, ChainTarget},
    id::{ChainId, ChainTableId, NodeId, TargetId},
    node::{Node, NodeKind, NodeStatus},
    routing::RoutingInfo,
    status::{Status, StatusCode},
    target::{PublicState, Target},
    version::{ChainTableVersion, ChainVersion, RoutingVersion},
};

use crate::{
    action::{Change, act},
    cluster::Cluster,
    command::{Asked, Command, Observation, Outcome, Registration, Seat},
    transition,
};

/// Requests whose result is kept for their retries: far more than are under way at once.
const ANSWERED_MAX: usize = 64;

/// Carries out `command`. The routing version rises by one when anything changed (protocol M1).
pub(crate) fn apply(cluster: &mut Cluster, command: &Command) -> Outcome {
    let next = RoutingVersion(cluster.routing.version.0 + 1);
    let changed = match command {
        Command::RegisterNode(registration) => register(cluster, registration),
        Command::Observe(observation) => Ok(observe(cluster, observation, next)),
        Command::ForgetManager(node) => forget_manager(cluster, *node),
        Command::CreateChains {
            table,
            chains,
            asked,
        } => {
            return once(cluster, *asked, |cluster| {
                let created = create_chains(cluster, *table, chains)?;
                Ok((Change::Made, created))
            });
        }
        Command::Act { action, asked } => {
            return once(cluster, *asked, |cluster| {
                let (change, acted) = act(cluster, action)?;
                Ok((change, Outcome::Acted(acted)))
            });
        }
    };
    match changed {
        Ok(true) => {
            cluster.routing_mut().version = next;
            Outcome::Done(next)
        }
        Ok(false) => Outcome::Done(cluster.routing.version),
        Err(refused) => refused,
    }
}

pub(crate) fn refuse(code: StatusCode, message: String) -> Outcome {
    Outcome::Refused { code, message }
}

/// Why a node cannot have the id it claims.
pub(crate) fn id_conflict(routing: &RoutingInfo, new: NodeId, kind: NodeKind) -> Option<Status> {
    let old = routing.nodes.get(&new).filter(|old| old.kind != kind)?;
    let message = format!(
        "node id {new} belongs to a {:?} node at {}; give this {kind:?} node another `node_id`",
        old.kind,
        old.addresses.join(", "),
    );
    Some(Status::new(StatusCode::Conflict, message))
}

fn register(cluster: &mut Cluster, new: &Registration) -> Result<bool, Outcome> {
    if let Some(conflict) = id_conflict(&cluster.routing, new.id, new.kind) {
        return Err(refuse(conflict.code, conflict.message));
    }
    let old = cluster.routing.nodes.get(&new.id);
    // A known node keeps its status: it is alive again when the leader says so, by its heartbeat.
    let node = Node {
        id: new.id,
        kind: new.kind,
        addresses: new.addresses.clone(),
        tags: new.tags.clone(),
        status: old.map_or(NodeStatus::Alive, |old| old.status),
    };
    if old == Some(&node) {
        return Ok(false);
    }
    cluster.routing_mut().nodes.insert(new.id, node);
    Ok(true)
}

fn observe(cluster: &mut Cluster, seen: &Observation, next: RoutingVersion) -> bool {
    let mut changed = false;
    for (id, status) in &seen.nodes {
        let Some(node) = cluster.routing_mut().nodes.get_mut(id) else {
            continue;
        };
        changed |= node.status != *status;
        node.status = *status;
        // A node that fails again before it was called alive is fenced again.
        if *status == NodeStatus::Failed {
            cluster.fences.insert(*id, next);
            changed = true;
        }
    }
    for id in &seen.created {
        let target = cluster.routing_mut().targets.get_mut(id);
        if let Some(target) = target.filter(|target| !target.created) {
            target.created = true;
            changed = true;
        }
    }
    for chain in &seen.chains {
        changed |= replace_chain(cluster, chain);
    }
    changed
}

fn replace_chain(cluster: &mut Cluster, new: &Chain) -> bool {
    let Some(old) = cluster.routing.chains.get(&new.id) else {
        return false;
    };
    if let Err(error) = transition::check_transition(old, new) {
        tracing::info!(chain = %new.id, %error, "a decision came too late and is left out");
        return false;
    }
    put_chain(cluster, new.clone());
    true
}

/// Puts a chain, new or another version of one, into the map, and notes what follows from its change.
pub(crate) fn put_chain(cluster: &mut Cluster, new: Chain) {
    let complete = |state| matches!(state, PublicState::Serving | PublicState::LastServing);
    let old = cluster.routing.chains.get(&new.id);
    let before = |id| old.and_then(|old| old.state_of(id));
    for target in &new.targets {
        if complete(target.state) {
            cluster.left_at.remove(&target.id);
        } else if before(target.id).is_some_and(complete) {
            cluster.left_at.insert(target.id, new.version);
        }
    }
    // A step of a rotation is for one version of the chain.
    cluster.rotating.remove(&new.id);
    cluster.routing_mut().chains.insert(new.id, new);
}

fn forget_manager(cluster: &mut Cluster, id: NodeId) -> Result<bool, Outcome> {
    let Some(node) = cluster.routing.nodes.get(&id) else {
        return Ok(false);
    };
    if node.kind != NodeKind::Mgmtd {
        let message = format!("node {id} is a {:?} node, not a manager", node.kind);
        return Err(refuse(StatusCode::Conflict, message));
    }
    cluster.routing_mut().nodes.remove(&id);
    cluster.fences.remove(&id);
    Ok(true)
}

/// Carries out a request that must not be carried out twice: a retry gets what the first attempt came to.
fn once(
    cluster: &mut Cluster,
    asked: Asked,
    work: impl FnOnce(&mut Cluster) -> Result<(Change, Outcome), Outcome>,
) -> Outcome {
    let mut answered = cluster.answered.iter();
    if let Some((_, outcome)) = answered.find(|(before, _)| *before == asked) {
        return outcome.clone();
    }
    match work(cluster) {
        Ok((Change::Made, outcome)) => {
            let routing = cluster.routing_mut();
            routing.version = RoutingVersion(routing.version.0 + 1);
            cluster.answered.push_back((asked, outcome.clone()));
            if cluster.answered.len() > ANSWERED_MAX {
                cluster.answered.pop_front();
            }
            outcome
        }
        Ok((Change::NotNeeded, outcome)) => outcome,
        Err(refused) => refused,
    }
}

/// Appends a version to a table; the first one when there is none.
pub(crate) fn append_table(
    cluster: &mut Cluster,
    table: ChainTableId,
    chains: Vec<ChainId>,
) -> ChainTableVersion {
    let newest = cluster.routing.newest_table(table);
    let version = ChainTableVersion(newest.map_or(0, |newest| newest.version.0) + 1);
    let entry = ChainTable {
        id: table,
        version,
        chains,
    };
    cluster.routing_mut().tables.insert((table, version), entry);
    version
}

fn create_chains(
    cluster: &mut Cluster,
    table: ChainTableId,
    chains: &[Vec<Seat>],
) -> Result<Outcome, Outcome> {
    for seats in chains {
        check_seats(cluster, seats)?;
    }
    let mut made = Vec::with_capacity(chains.len());
    for seats in chains {
        let id = ChainId(cluster.next_chain);
        cluster.next_chain += 1;
        let targets = seats.iter().map(|seat| {
            let target = Target {
                id: TargetId(cluster.next_target),
                node: seat.node,
                disk: seat.disk,
                chain: id,
                created: false,
            };
            cluster.next_target += 1;
            target
        });
        let targets: Vec<Target> = targets.collect();
        put_chain(cluster, new_chain(id, &targets));
        let copies = u32::try_from(targets.len()).unwrap_or(u32::MAX);
        cluster.copies.insert(id, copies);
        cluster
            .routing_mut()
            .targets
            .extend(targets.into_iter().map(|target| (target.id, target)));
        made.push(id);
    }
    let newest = cluster.routing.newest_table(table);
    let mut all = newest.map_or_else(Vec::new, |newest| newest.chains.clone());
    all.extend(&made);
    let version = append_table(cluster, table, all);
    Ok(Outcome::Created {
        chains: made,
        version,
    })
}

/// All targets are empty, so all hold everything: the chain serves at once.
fn new_chain(id: ChainId, targets: &[Target]) -> Chain {
    Chain {
        id,
        version: ChainVersion(1),
        targets: targets
            .iter()
            .map(|target| ChainTarget {
                id: target.id,
                state: PublicState::Serving,
            })
            .collect(),
        preferred: targets.iter().map(|target| target.id).collect(),
    }
}

fn check_seats(cluster: &Cluster, seats: &[Seat]) -> Result<(), Outcome> {
    let mut nodes: Vec<NodeId> = seats.iter().map(|seat| seat.node).collect();
    nodes.sort_unstable();
    nodes.dedup();
    if seats.is_empty() || nodes.len() != seats.len() {
        let message = "a chain needs its targets on distinct nodes".to_owned();
        return Err(refuse(StatusCode::InvalidArgument, message));
    }
    match nodes
        .iter()
        .find(|id| !cluster.routing.nodes.contains_key(id))
    {
        Some(unknown) => {
            let message = format!("node {unknown} is not registered");
            Err(refuse(StatusCode::UnknownEntity, message))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use types::id::{ClientId, DiskIndex, RequestId};

    use super::*;

    fn register_command(id: u32, kind: NodeKind, address: &str) -> Command {
        Command::RegisterNode(Registration {
            id: NodeId(id),
            kind,
            addresses: vec![address.to_owned()],
            tags: Vec::new(),
        })
    }

    fn create(request: u64, nodes: &[&[u32]]) -> Command {
        let seat = |node: &u32| Seat {
            node: NodeId(*node),
            disk: DiskIndex(0),
        };
        Command::CreateChains {
            table: ChainTableId(1),
            chains: nodes
                .iter()
                .map(|seats| seats.iter().map(seat).collect())
                .collect(),
            asked: Asked {
                client: ClientId(5),
                request: RequestId(request),
            },
        }
    }

    fn run(cluster: &mut Cluster, command: &Command) -> Outcome {
        let before = cluster.routing.version;
        let outcome = apply(cluster, command);
        cluster.check().unwrap();
        assert!(cluster.routing.version.0 <= before.0 + 1);
        outcome
    }

    fn three_nodes() -> Cluster {
        let mut cluster = Cluster::default();
        for id in 1..=3 {
            run(
                &mut cluster,
                &register_command(id, NodeKind::Storage, "a:1"),
            );
        }
        cluster
    }

    #[test]
    fn only_a_change_raises_the_version() {
        let mut cluster = three_nodes();
        assert_eq!(cluster.routing.version, RoutingVersion(3));
        let same = register_command(2, NodeKind::Storage, "a:1");
        assert_eq!(run(&mut cluster, &same), Outcome::Done(RoutingVersion(3)));
        let moved = register_command(2, NodeKind::Storage, "b:1");
        assert_eq!(run(&mut cluster, &moved), Outcome::Done(RoutingVersion(4)));
    }

    #[test]
    fn a_node_id_keeps_its_kind() {
        let mut cluster = three_nodes();
        let outcome = run(&mut cluster, &register_command(2, NodeKind::Meta, "c:1"));
        let Err(status) = outcome.accepted() else {
            panic!("accepted");
        };
        assert_eq!(status.code, StatusCode::Conflict);
        assert!(status.message.contains("another `node_id`"), "{status}");
    }

    #[test]
    fn each_table_version_holds_the_chains_of_the_one_before() {
        let mut cluster = three_nodes();
        run(&mut cluster, &create(1, &[&[1, 2], &[2, 3]]));
        let outcome = run(&mut cluster, &create(2, &[&[3, 1]]));
        let created = Outcome::Created {
            chains: vec![ChainId(3)],
            version: ChainTableVersion(2),
        };
        assert_eq!(outcome, created);
        let table = cluster.routing.newest_table(ChainTableId(1)).unwrap();
        assert_eq!(table.chains, [ChainId(1), ChainId(2), ChainId(3)]);
        let first = &cluster.routing.tables[&(ChainTableId(1), ChainTableVersion(1))];
        assert_eq!(first.chains, [ChainId(1), ChainId(2)]);
        assert!(
            cluster
                .routing
                .targets
                .values()
                .all(|target| !target.created)
        );
    }

    #[test]
    fn a_retried_request_gets_the_chains_it_made() {
        let mut cluster = three_nodes();
        let command = create(9, &[&[1, 2]]);
        let first = run(&mut cluster, &command);
        let before = cluster.clone();
        assert_eq!(run(&mut cluster, &command), first);
        assert_eq!(cluster, before);
        for request in 100..200 {
            run(&mut cluster, &create(request, &[&[1, 2]]));
        }
        assert_eq!(cluster.answered.len(), ANSWERED_MAX);
    }

    #[test]
    fn two_targets_of_a_chain_on_one_node_are_refused() {
        let mut cluster = three_nodes();
        let before = cluster.clone();
        assert!(
            run(&mut cluster, &create(3, &[&[1, 2], &[3, 3]]))
                .accepted()
                .is_err()
        );
        assert!(
            run(&mut cluster, &create(4, &[&[1, 9]]))
                .accepted()
                .is_err()
        );
        assert_eq!(cluster, before);
    }

    #[test]
    fn a_decision_about_an_older_chain_is_left_out() {
        let mut cluster = three_nodes();
        run(&mut cluster, &create(5, &[&[1, 2]]));
        let dead = |_| types::target::LocalState::Offline;
        let chain = transition::evaluate(&cluster.routing.chains[&ChainId(1)], &dead).unwrap();
        let decision = Command::Observe(Observation {
            chains: vec![chain],
            ..Observation::default()
        });
        run(&mut cluster, &decision);
        let once = cluster.clone();
        assert_eq!(once.routing.chains[&ChainId(1)].version, ChainVersion(2));
        run(&mut cluster, &decision);
        assert_eq!(cluster, once);
    }

    #[test]
    fn a_failed_node_is_fenced_at_the_version_that_says_so() {
        let mut cluster = three_nodes();
        let failed = Command::Observe(Observation {
            nodes: vec![(NodeId(2), NodeStatus::Failed)],
            ..Observation::default()
        });
        let Outcome::Done(version) = run(&mut cluster, &failed) else {
            panic!("refused");
        };
        assert_eq!(cluster.fences[&NodeId(2)], version);
        assert_eq!(cluster.alive_storage().count(), 2);
    }
}
