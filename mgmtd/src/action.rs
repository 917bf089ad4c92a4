//! What an operator may do to chains, tables and targets (protocol C4). Pure: an action is checked against the state as it
//! is when its log entry is applied, and changes nothing when it is refused.
//!
//! | action | allowed when | then |
//! | --- | --- | --- |
//! | append a table version | its chains exist, each once | new files use it |
//! | add a target | the chain has none on that node | Offline at the end; observation does the rest |
//! | remove a target | it is Offline, somebody serves, and enough copies serve or fewer are allowed | it is gone |
//! | set the preferred order | the order names each target once | nothing moves yet |
//! | rotate | two serve, and as many as the chain is meant to have | its node is asked to take one target out |
//! | force the last serving set | nobody serves, and a loss is accepted | the chain goes on with less, which is noted |
//!
//! Rotation moves no serving target by decree: its node may work by an older map for a while, and would answer readers
//! with what others have changed since. The node takes the target out first and reports it Offline; what follows is what
//! follows any target that leaves: the others go on, it is refilled, and comes back as the last.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use types::{
    chain::{Chain, ChainTable, ChainTarget},
    id::{ChainId, ChainTableId, NodeId, TargetId},
    node::NodeKind,
    rpc::{
        mgmtd::StepDown,
        operator::{AddTargetReply, CopiesPolicy, Loss, LossPolicy, RotateChainReply},
    },
    status::StatusCode,
    target::{PublicState, Target},
    version::ChainTableVersion,
};

use crate::{
    apply::{append_table, put_chain, refuse},
    cluster::Cluster,
    command::{Outcome, Seat},
    placement::REPLICAS_MAX,
    transition,
};

#[cfg(test)]
pub(crate) mod tests;

/// Chains of one table version: the entry stays below 100 KiB.
const TABLE_CHAINS_MAX: usize = 32_768;
/// Forced changes that are remembered; each is a catastrophe, so there are few.
const LOSSES_MAX: usize = 1000;

/// One action.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Action {
    AppendTable {
        table: ChainTableId,
        chains: Vec<ChainId>,
    },
    AddTarget {
        chain: ChainId,
        seat: Seat,
    },
    RemoveTarget {
        target: TargetId,
        copies: CopiesPolicy,
    },
    SetPreferred {
        chain: ChainId,
        order: Vec<TargetId>,
    },
    Rotate {
        chain: ChainId,
    },
    ForceLastServing {
        chain: ChainId,
        target: TargetId,
        loss: LossPolicy,
    },
}

/// What an action came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Acted {
    Appended(ChainTableVersion),
    Added(AddTargetReply),
    Removed,
    Preferred,
    Rotating(RotateChainReply),
    Forced(Loss),
}

/// Whether an action changed the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Made,
    NotNeeded,
}

/// Carries out `action`.
///
/// # Errors
/// The refusal; nothing changed.
pub(crate) fn act(cluster: &mut Cluster, action: &Action) -> Result<(Change, Acted), Outcome> {
    match action {
        Action::AppendTable { table, chains } => append(cluster, *table, chains),
        Action::AddTarget { chain, seat } => add_target(cluster, *chain, *seat),
        Action::RemoveTarget { target, copies } => remove_target(cluster, *target, *copies),
        Action::SetPreferred { chain, order } => set_preferred(cluster, *chain, order),
        Action::Rotate { chain } => rotate(cluster, *chain),
        Action::ForceLastServing {
            chain,
            target,
            loss,
        } => force(cluster, *chain, *target, *loss),
    }
}

fn invalid(message: String) -> Outcome {
    refuse(StatusCode::InvalidArgument, message)
}

fn conflict(message: String) -> Outcome {
    refuse(StatusCode::Conflict, message)
}

fn unknown(message: String) -> Outcome {
    refuse(StatusCode::UnknownEntity, message)
}

fn find_chain(cluster: &Cluster, id: ChainId) -> Result<&Chain, Outcome> {
    let found = cluster.routing.chains.get(&id);
    found.ok_or_else(|| {
        unknown(format!(
            "there is no chain {id}; `penstock admin chain list` shows all"
        ))
    })
}

/// Puts a chain in place of the one with its id.
fn replace(cluster: &mut Cluster, new: Chain) -> Result<(), Outcome> {
    if let Err(error) = transition::check_chain(&new) {
        let message = format!("chain {} cannot become so: {error}", new.id);
        return Err(refuse(StatusCode::Internal, message));
    }
    put_chain(cluster, new);
    Ok(())
}

/// The names of targets for people.
fn names(targets: impl IntoIterator<Item = TargetId>) -> String {
    let names: Vec<String> = targets.into_iter().map(|id| id.to_string()).collect();
    names.join(", ")
}

fn append(
    cluster: &mut Cluster,
    table: ChainTableId,
    chains: &[ChainId],
) -> Result<(Change, Acted), Outcome> {
    if chains.is_empty() || chains.len() > TABLE_CHAINS_MAX {
        let count = chains.len();
        let message = format!("a table names 1 to {TABLE_CHAINS_MAX} chains, these are {count}");
        return Err(invalid(message));
    }
    let mut named = BTreeSet::new();
    for id in chains {
        find_chain(cluster, *id)?;
        if !named.insert(*id) {
            return Err(invalid(format!(
                "chain {id} is named twice; a table names each chain once"
            )));
        }
    }
    let newest = cluster.routing.newest_table(table);
    if let Some(same) = newest.filter(|newest| newest.chains == chains) {
        return Ok((Change::NotNeeded, Acted::Appended(same.version)));
    }
    let version = append_table(cluster, table, chains.to_vec());
    Ok((Change::Made, Acted::Appended(version)))
}

fn add_target(cluster: &mut Cluster, id: ChainId, seat: Seat) -> Result<(Change, Acted), Outcome> {
    let mut chain = find_chain(cluster, id)?.clone();
    let node = cluster.routing.nodes.get(&seat.node);
    if node.is_none_or(|node| node.kind != NodeKind::Storage) {
        return Err(unknown(format!(
            "node {} is not a registered storage node; `penstock admin node list` shows all",
            seat.node
        )));
    }
    let node_of = |target: TargetId| cluster.routing.targets.get(&target).map(|t| t.node);
    let mut targets = chain.targets.iter();
    if let Some(there) = targets.find(|target| node_of(target.id) == Some(seat.node)) {
        return Err(conflict(format!(
            "chain {id} has target {} on node {} already; a node holds at most one target of a chain",
            there.id, seat.node
        )));
    }
    if chain.targets.len() >= REPLICAS_MAX as usize {
        return Err(conflict(format!(
            "chain {id} has {} targets, which is the most; remove one first",
            chain.targets.len()
        )));
    }
    let target = Target {
        id: TargetId(cluster.next_target),
        node: seat.node,
        disk: seat.disk,
        chain: id,
        created: false,
    };
    chain.version = chain.version.next();
    chain.preferred.push(target.id);
    chain.targets.push(ChainTarget {
        id: target.id,
        state: PublicState::Offline,
    });
    let reply = AddTargetReply {
        target: target.id,
        version: chain.version,
    };
    replace(cluster, chain)?;
    cluster.next_target += 1;
    cluster.routing_mut().targets.insert(target.id, target);
    Ok((Change::Made, Acted::Added(reply)))
}

fn remove_target(
    cluster: &mut Cluster,
    id: TargetId,
    policy: CopiesPolicy,
) -> Result<(Change, Acted), Outcome> {
    let Some(target) = cluster.routing.targets.get(&id) else {
        return Err(unknown(format!(
            "there is no target {id}; `penstock admin target list` shows all"
        )));
    };
    let mut chain = find_chain(cluster, target.chain)?.clone();
    let state = chain.state_of(id).unwrap_or(PublicState::Offline);
    if state != PublicState::Offline {
        return Err(conflict(format!(
            "target {id} is {state:?}; only an Offline one can be removed: stop its node, or take its disk out, and try \
             again"
        )));
    }
    let serving = chain.serving().count();
    if serving == 0 {
        return Err(conflict(format!(
            "nobody serves chain {}: target {id} may be the last one that its data can be taken from",
            chain.id
        )));
    }
    let wanted = cluster.copies_of(&chain);
    if (serving as u32) < wanted && policy == CopiesPolicy::Keep {
        return Err(conflict(format!(
            "{serving} targets serve chain {}, which is meant to have {wanted} copies: without target {id} it may stay so. \
             Add a target and wait until it serves, or say --fewer-copies",
            chain.id
        )));
    }
    chain.version = chain.version.next();
    chain.targets.retain(|target| target.id != id);
    chain.preferred.retain(|target| *target != id);
    let left = u32::try_from(chain.targets.len()).unwrap_or(u32::MAX);
    let chain_id = chain.id;
    replace(cluster, chain)?;
    cluster.copies.insert(chain_id, wanted.min(left));
    cluster.left_at.remove(&id);
    cluster.routing_mut().targets.remove(&id);
    Ok((Change::Made, Acted::Removed))
}

fn set_preferred(
    cluster: &mut Cluster,
    id: ChainId,
    order: &[TargetId],
) -> Result<(Change, Acted), Outcome> {
    let mut chain = find_chain(cluster, id)?.clone();
    let mut wanted = order.to_vec();
    let mut there: Vec<TargetId> = chain.targets.iter().map(|target| target.id).collect();
    wanted.sort_unstable();
    there.sort_unstable();
    if wanted != there {
        return Err(invalid(format!(
            "the order must name each target of chain {id} once: {}",
            names(there)
        )));
    }
    if chain.preferred == order {
        return Ok((Change::NotNeeded, Acted::Preferred));
    }
    chain.version = chain.version.next();
    chain.preferred = order.to_vec();
    replace(cluster, chain)?;
    Ok((Change::Made, Acted::Preferred))
}

/// Which target goes to the end next, so that the order becomes the preferred one with the fewest steps: all but the
/// longest beginning of the preferred order that stands in the right order already have to move, in their order.
fn next_to_move(serving: &[TargetId], preferred: &[TargetId]) -> Option<TargetId> {
    let wanted: Vec<TargetId> = preferred
        .iter()
        .filter(|target| serving.contains(target))
        .copied()
        .collect();
    let mut in_order = 0;
    for target in serving {
        in_order += usize::from(wanted.get(in_order) == Some(target));
    }
    wanted.get(in_order).copied()
}

fn rotate(cluster: &mut Cluster, id: ChainId) -> Result<(Change, Acted), Outcome> {
    let chain = find_chain(cluster, id)?;
    let serving: Vec<TargetId> = chain.serving().collect();
    let version = chain.version;
    let target = next_to_move(&serving, &chain.preferred);
    let acted = Acted::Rotating(RotateChainReply { target, version });
    let Some(target) = target else {
        return Ok((Change::NotNeeded, acted));
    };
    let wanted = cluster.copies_of(chain);
    // There are two that serve, or nothing would have to move.
    if (serving.len() as u32) < wanted {
        return Err(conflict(format!(
            "{} targets serve chain {id}, which is meant to have {wanted} copies: while one rotates there would be one \
             fewer. Wait until all serve again",
            serving.len()
        )));
    }
    let step = StepDown {
        target,
        chain_version: version,
    };
    if cluster.rotating.insert(id, step) == Some(step) {
        return Ok((Change::NotNeeded, acted));
    }
    Ok((Change::Made, acted))
}

fn force(
    cluster: &mut Cluster,
    id: ChainId,
    target: TargetId,
    policy: LossPolicy,
) -> Result<(Change, Acted), Outcome> {
    let mut chain = find_chain(cluster, id)?.clone();
    let state = chain.state_of(target);
    if let Some(serves) = chain.serving().next() {
        return Err(conflict(format!(
            "target {serves} serves chain {id}: there is nothing to force"
        )));
    }
    if state.is_none() {
        return Err(unknown(format!("target {target} is not of chain {id}")));
    }
    if state == Some(PublicState::LastServing) {
        return Err(conflict(format!(
            "target {target} is among those that served chain {id} last: start its node, and the chain goes on with it \
             without loss"
        )));
    }
    let created = |id: TargetId| cluster.routing.targets.get(&id).is_some_and(|t| t.created);
    if !created(target) {
        return Err(conflict(format!(
            "target {target} has never been open on its node: it holds nothing that chain {id} could go on with"
        )));
    }
    if policy == LossPolicy::Refuse {
        return Err(conflict(what_may_be_lost(cluster, &chain, target)));
    }
    let loss = loss(cluster, &chain, target);
    chain.version = loss.version;
    for seat in &mut chain.targets {
        if seat.id == target {
            seat.state = PublicState::LastServing;
        } else if seat.state == PublicState::LastServing {
            seat.state = PublicState::Offline;
        }
    }
    chain.targets = transition::in_order(&chain.targets);
    replace(cluster, chain)?;
    if cluster.losses.len() >= LOSSES_MAX {
        cluster.losses.remove(0);
    }
    cluster.losses.push(loss.clone());
    Ok((Change::Made, Acted::Forced(loss)))
}

fn loss(cluster: &Cluster, chain: &Chain, target: TargetId) -> Loss {
    let last = chain
        .targets
        .iter()
        .filter(|target| target.state == PublicState::LastServing);
    let given_up = last.filter_map(|seat| {
        let entry = cluster.routing.targets.get(&seat.id)?;
        Some((entry.id, entry.node, entry.disk))
    });
    let tables = cluster.routing.tables.values();
    let naming = tables.filter(|table: &&ChainTable| table.chains.contains(&chain.id));
    Loss {
        chain: chain.id,
        version: chain.version.next(),
        target,
        left: cluster.left_at.get(&target).copied(),
        given_up: given_up.collect(),
        tables: naming.map(|table| (table.id, table.version)).collect(),
    }
}

/// Said before a loss is accepted.
fn what_may_be_lost(cluster: &Cluster, chain: &Chain, target: TargetId) -> String {
    let loss = loss(cluster, chain, target);
    let place = |(id, node, disk): &(TargetId, NodeId, _)| {
        format!("target {id} (node {node}, disk {disk})")
    };
    let given_up: Vec<String> = loss.given_up.iter().map(place).collect();
    let since = match loss.left {
        Some(left) => format!(
            "target {target} stopped serving with version {left} of chain {}, which is at version {} now: writes that were \
             acknowledged in between may be lost",
            chain.id, chain.version
        ),
        None => format!("nobody knows how much target {target} lacks: it may be everything"),
    };
    let later = chain.targets.iter().filter(|other| {
        let left = cluster.left_at.get(&other.id).copied();
        other.state != PublicState::LastServing && left > loss.left
    });
    let better = match later.max_by_key(|other| cluster.left_at.get(&other.id)) {
        Some(better) => format!(". Target {} stopped later and lacks less", better.id),
        None => String::new(),
    };
    format!(
        "chain {} waits for {}: each holds every acknowledged write, and if one of them starts nothing is lost. {since}\
         {better}. To go on with target {target} all the same, say --accept-loss",
        chain.id,
        given_up.join(", "),
    )
}
