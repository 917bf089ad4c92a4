//! `penstock status`: is the cluster healthy, and if not, why, on one screen.

use common::env::Env;
use serde::Serialize;
use types::{
    chain::Chain,
    id::NodeId,
    node::{NodeKind, NodeStatus},
    routing::RoutingInfo,
    rpc::mgmtd::{GetManagers, GetSpace, ManagersReply, SpaceReply},
    target::PublicState,
};

use super::{
    chain::show::{ResyncView, by_target},
    word,
};
use crate::{
    args::StatusArgs,
    cluster::{self, Cluster},
    out,
};

/// A disk fuller than this many percent is a problem.
const FULL_PERCENT: u64 = 95;
/// So many chains are named; the rest is counted.
const NAMED_MAX: usize = 5;

/// The answer. The JSON form is a contract.
#[derive(Debug, Serialize)]
struct Report {
    healthy: bool,
    /// In order of weight; empty when healthy.
    problems: Vec<String>,
    leader: Option<NodeId>,
    managers: usize,
    nodes: Vec<KindCount>,
    chains: ChainCount,
    space: Space,
}

/// How many nodes of a kind there are.
#[derive(Debug, Serialize)]
struct KindCount {
    kind: NodeKind,
    alive: usize,
    total: usize,
}

/// How the chains are.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct ChainCount {
    total: usize,
    /// Every target serves.
    complete: usize,
    /// Fewer copies than wanted.
    degraded: usize,
    /// No target serves: its data cannot be reached now.
    unavailable: usize,
}

/// Bytes a user can store: raw bytes divided by the copies.
#[derive(Debug, Serialize)]
struct Space {
    capacity_bytes: u64,
    used_bytes: u64,
    copies: u32,
}

/// Runs the command.
pub(crate) async fn run(env: &Env, args: &StatusArgs) -> anyhow::Result<()> {
    let cluster = Cluster::open(env, &cluster::file(&args.cluster)?)?;
    let managers = cluster.ask::<GetManagers>(&()).await?;
    let routing = cluster.routing().await?;
    let space = cluster.ask::<GetSpace>(&()).await?;
    let report = judge(&managers, &routing, &space);
    if args.json {
        return out::json(&report);
    }
    print(&report);
    Ok(())
}

/// Weighs what the managers know.
fn judge(managers: &ManagersReply, routing: &RoutingInfo, space: &SpaceReply) -> Report {
    let mut problems = Vec::new();
    let chains = judge_chains(routing, space, &mut problems);
    if managers.leader.is_none() {
        problems.push(
            "the managers have no leader: nothing can change until they elect one".to_owned(),
        );
    }
    for node in routing.nodes.values() {
        if node.status == NodeStatus::Failed {
            problems.push(format!(
                "{} node {} ({}) has failed: it does not report; start it or see its log",
                word(&node.kind),
                node.id,
                node.addresses.join(",")
            ));
        }
    }
    judge_disks(space, &mut problems);
    let count = |kind| {
        let nodes = routing.nodes.values().filter(move |node| node.kind == kind);
        KindCount {
            kind,
            alive: nodes
                .clone()
                .filter(|node| node.status == NodeStatus::Alive)
                .count(),
            total: nodes.count(),
        }
    };
    let copies = space.replicas.max(1);
    Report {
        healthy: problems.is_empty(),
        problems,
        leader: managers.leader,
        managers: managers.members.len(),
        nodes: [NodeKind::Mgmtd, NodeKind::Meta, NodeKind::Storage]
            .map(count)
            .into(),
        chains,
        space: Space {
            capacity_bytes: space.capacity_bytes / u64::from(copies),
            used_bytes: space.used_bytes / u64::from(copies),
            copies,
        },
    }
}

fn judge_chains(
    routing: &RoutingInfo,
    space: &SpaceReply,
    problems: &mut Vec<String>,
) -> ChainCount {
    let mut count = ChainCount {
        total: routing.chains.len(),
        ..ChainCount::default()
    };
    let (mut dead, mut short) = (Vec::new(), Vec::new());
    for chain in routing.chains.values() {
        let serving = chain.serving().count();
        if serving == 0 {
            count.unavailable += 1;
            dead.push(describe(chain, space));
        } else if serving < chain.targets.len() {
            count.degraded += 1;
            short.push(describe(chain, space));
        } else {
            count.complete += 1;
        }
    }
    if count.total == 0 {
        problems.push("there are no chains: nothing can be stored yet".to_owned());
    }
    if !dead.is_empty() {
        problems.push(format!(
            "{} of {} chains cannot be reached, no target serves: {}",
            count.unavailable,
            count.total,
            name_some(&dead)
        ));
    }
    if !short.is_empty() {
        problems.push(format!(
            "{} of {} chains have fewer copies than wanted: {}",
            count.degraded,
            count.total,
            name_some(&short)
        ));
    }
    count
}

fn describe(chain: &Chain, space: &SpaceReply) -> String {
    let resyncs = by_target(space);
    let others = chain
        .targets
        .iter()
        .filter(|t| t.state != PublicState::Serving);
    let states: Vec<String> = others
        .map(|target| {
            let state = format!("target {} {}", target.id, word(&target.state));
            match resyncs.get(&target.id) {
                _ if space.cut_off.contains(&target.id) => {
                    format!("{state}, out of reach of the node that would refill it")
                }
                Some(report) if target.state == PublicState::Syncing => {
                    format!("{state}, {}", ResyncView::from(*report).short())
                }
                _ => state,
            }
        })
        .collect();
    format!("chain {} ({})", chain.id, states.join(", "))
}

fn name_some(names: &[String]) -> String {
    let mut text = names[..names.len().min(NAMED_MAX)].join(", ");
    if names.len() > NAMED_MAX {
        text.push_str(&format!(" and {} more", names.len() - NAMED_MAX));
    }
    text
}

fn judge_disks(space: &SpaceReply, problems: &mut Vec<String>) {
    for disk in &space.disks {
        if let Some(failure) = &disk.failure {
            problems.push(format!(
                "disk {} of node {} is out of service: {failure}",
                disk.disk, disk.node
            ));
        }
        let percent = disk.used_bytes.saturating_mul(100) / disk.capacity_bytes.max(1);
        if percent >= FULL_PERCENT {
            problems.push(format!(
                "disk {} of node {} is {percent} % full: remove files or add space",
                disk.disk, disk.node
            ));
        }
    }
}

fn print(report: &Report) {
    out::say(if report.healthy {
        "healthy"
    } else {
        "NOT HEALTHY"
    });
    for problem in &report.problems {
        out::say(&format!("  - {problem}"));
    }
    out::say("");
    let leader = report
        .leader
        .map_or_else(|| "none".to_owned(), |leader| leader.to_string());
    out::say(&format!(
        "managers  {}, leader is node {leader}",
        report.managers
    ));
    let nodes: Vec<String> = report
        .nodes
        .iter()
        .map(|count| {
            format!(
                "{} {}/{} alive",
                word(&count.kind),
                count.alive,
                count.total
            )
        })
        .collect();
    out::say(&format!("nodes     {}", nodes.join(", ")));
    let chains = &report.chains;
    out::say(&format!(
        "chains    {}: {} complete, {} degraded, {} unavailable",
        chains.total, chains.complete, chains.degraded, chains.unavailable
    ));
    let space = &report.space;
    out::say(&format!(
        "space     {} of {} used ({} copies of everything)",
        out::bytes(space.used_bytes),
        out::bytes(space.capacity_bytes),
        space.copies
    ));
}

#[cfg(test)]
mod tests {
    use types::{
        chain::ChainTarget,
        id::{ChainId, DiskIndex, TargetId},
        node::Node,
        rpc::mgmtd::{DiskSpace, ResyncReport},
        version::ChainVersion,
    };

    use super::*;

    fn cluster(states: [PublicState; 3]) -> RoutingInfo {
        let mut routing = RoutingInfo::default();
        let targets = (1..=3).zip(states).map(|(id, state)| ChainTarget {
            id: TargetId(id),
            state,
        });
        let chain = Chain {
            id: ChainId(1),
            version: ChainVersion(1),
            targets: targets.collect(),
            preferred: vec![],
        };
        routing.chains.insert(chain.id, chain);
        routing
    }

    fn managers() -> ManagersReply {
        ManagersReply {
            leader: Some(NodeId(201)),
            members: vec![(NodeId(201), String::new())],
            learners: Vec::new(),
        }
    }

    #[test]
    fn all_serving_is_healthy() {
        let routing = cluster([PublicState::Serving; 3]);
        let report = judge(&managers(), &routing, &SpaceReply::default());
        assert!(report.healthy, "{:?}", report.problems);
        assert_eq!(report.chains.complete, 1);
    }

    #[test]
    fn a_resync_is_shown_with_its_progress_and_a_target_out_of_reach_as_such() {
        let (serving, syncing) = (PublicState::Serving, PublicState::Syncing);
        let routing = cluster([serving, syncing, PublicState::Offline]);
        let space = SpaceReply {
            resyncs: vec![ResyncReport {
                target: TargetId(2),
                done_bytes: 1,
                total_bytes: 4,
                seconds_left: Some(5),
                ..ResyncReport::default()
            }],
            cut_off: vec![TargetId(3)],
            ..SpaceReply::default()
        };
        let text = judge(&managers(), &routing, &space).problems.join(" ");
        for part in [
            "target 2 syncing, 25 %, about 5 s left",
            "target 3 offline, out of reach",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn each_trouble_is_named() {
        let mut routing = cluster([
            PublicState::Serving,
            PublicState::Serving,
            PublicState::Offline,
        ]);
        let node = Node {
            id: NodeId(3),
            kind: NodeKind::Storage,
            addresses: vec!["10.0.0.3:1".to_owned()],
            tags: vec![],
            status: NodeStatus::Failed,
        };
        routing.nodes.insert(node.id, node);
        let disk = DiskSpace {
            node: NodeId(1),
            disk: DiskIndex(0),
            capacity_bytes: 100,
            used_bytes: 97,
            failure: Some("write error".to_owned()),
        };
        let space = SpaceReply {
            disks: vec![disk],
            ..SpaceReply::default()
        };
        let report = judge(&managers(), &routing, &space);
        let text = report.problems.join("\n");
        for part in [
            "fewer copies",
            "target 3 offline",
            "node 3 (10.0.0.3:1)",
            "write error",
            "97 %",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        let routing = cluster([PublicState::LastServing; 3]);
        let report = judge(&managers(), &routing, &SpaceReply::default());
        assert_eq!((report.healthy, report.chains.unavailable), (false, 1));
    }
}
