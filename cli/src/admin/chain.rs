//! `admin chain list`, `show`, `create`, `order`, `rotate`, `force-last-serving` and `losses`.

pub(super) mod show;

use std::time::Duration;

use anyhow::bail;
use serde::Serialize;
use types::{
    id::{ChainId, ChainTableId, DiskIndex, NodeId, TargetId},
    routing::RoutingInfo,
    rpc::{
        mgmtd::{
            CreateChains, CreateChainsRequest, ForceLastServing, ListLosses, RotateChain,
            SetPreferred,
        },
        operator::{
            ForceLastServingRequest, Loss, LossPolicy, RotateChainRequest, SetPreferredRequest,
        },
    },
    target::PublicState,
    version::{ChainTableVersion, ChainVersion, RoutingVersion},
};

use super::word;
use crate::{
    args::{ChainCreateArgs, ChainOrderArgs, ChainRotateArgs, ForceArgs},
    cluster::Cluster,
    out,
};

/// A node is asked with its next heartbeat, and the manager hears of it with the one after; more than this is a fault.
const STEP_LIMIT: Duration = Duration::from_secs(10);
/// How long one look at the map waits for a newer one.
const WATCH: Duration = Duration::from_millis(500);

/// One chain. The JSON form is a contract.
#[derive(Debug, Serialize)]
struct ChainLine {
    id: ChainId,
    version: ChainVersion,
    /// Head first.
    targets: Vec<ChainTargetLine>,
}

/// One target of a chain.
#[derive(Debug, Serialize)]
struct ChainTargetLine {
    id: TargetId,
    node: Option<NodeId>,
    state: PublicState,
}

/// Lists chains.
pub(super) async fn list(cluster: &Cluster, json: bool) -> anyhow::Result<()> {
    let chains = lines(&cluster.routing().await?);
    if json {
        return out::json(&chains);
    }
    let rows = chains.iter().map(|chain| {
        let targets = chain.targets.iter().map(|target| {
            let node = target
                .node
                .map_or_else(|| "?".to_owned(), |node| node.to_string());
            format!("{}@{node}:{}", target.id, word(&target.state))
        });
        vec![
            chain.id.to_string(),
            chain.version.to_string(),
            targets.collect::<Vec<_>>().join("  "),
        ]
    });
    out::table(
        &["ID", "VERSION", "TARGETS (id@node:state, head first)"],
        rows.collect(),
    );
    Ok(())
}

fn lines(routing: &RoutingInfo) -> Vec<ChainLine> {
    let chains = routing.chains.values().map(|chain| ChainLine {
        id: chain.id,
        version: chain.version,
        targets: chain
            .targets
            .iter()
            .map(|target| ChainTargetLine {
                id: target.id,
                node: routing.targets.get(&target.id).map(|found| found.node),
                state: target.state,
            })
            .collect(),
    });
    chains.collect()
}

/// The chains that were made. The JSON form is a contract.
#[derive(Debug, Serialize)]
struct Made {
    chains: Vec<ChainId>,
    table: ChainTableId,
    table_version: ChainTableVersion,
}

/// Makes chains.
pub(super) async fn create(
    cluster: &Cluster,
    args: &ChainCreateArgs,
    json: bool,
) -> anyhow::Result<()> {
    let request = CreateChainsRequest {
        table: ChainTableId(args.table),
        count: args.count,
        replicas: args.copies,
    };
    let reply = cluster.ask::<CreateChains>(&request).await?;
    if json {
        return out::json(&Made {
            chains: reply.chains,
            table: request.table,
            table_version: reply.version,
        });
    }
    out::say(&format!(
        "{} chains of {} copies made; table {} has version {} now",
        reply.chains.len(),
        args.copies,
        request.table,
        reply.version
    ));
    Ok(())
}

/// A chain and the order it should have. The JSON form is a contract.
#[derive(Debug, Serialize)]
struct Ordered {
    chain: ChainId,
    preferred: Vec<TargetId>,
}

/// Sets the preferred order.
pub(super) async fn order(
    cluster: &Cluster,
    args: &ChainOrderArgs,
    json: bool,
) -> anyhow::Result<()> {
    let request = SetPreferredRequest {
        chain: ChainId(args.chain),
        order: args.targets.iter().copied().map(TargetId).collect(),
    };
    cluster.ask::<SetPreferred>(&request).await?;
    if json {
        return out::json(&Ordered {
            chain: request.chain,
            preferred: request.order,
        });
    }
    out::say(&format!(
        "noted; `penstock admin chain rotate {}` takes the steps",
        request.chain
    ));
    Ok(())
}

/// A step of a rotation. The JSON form is a contract.
#[derive(Debug, Serialize)]
struct Step {
    chain: ChainId,
    /// The target that stepped down; none when the order is right already.
    target: Option<TargetId>,
}

/// Takes one step towards the preferred order; returns once the target has left its place.
pub(super) async fn rotate(
    cluster: &Cluster,
    args: &ChainRotateArgs,
    json: bool,
) -> anyhow::Result<()> {
    let chain = ChainId(args.chain);
    let reply = cluster
        .ask::<RotateChain>(&RotateChainRequest { chain })
        .await?;
    if let Some(target) = reply.target {
        wait_for_step(cluster, (chain, target), reply.version).await?;
    }
    if json {
        let target = reply.target;
        return out::json(&Step { chain, target });
    }
    out::say(&match reply.target {
        None => format!("the targets that serve chain {chain} stand in the preferred order"),
        Some(target) => format!(
            "target {target} has left its place in chain {chain}; it is refilled in the background and comes back as the \
             last one. Run this again, once it serves, until the order is right"
        ),
    });
    Ok(())
}

async fn wait_for_step(
    cluster: &Cluster,
    (chain, target): (ChainId, TargetId),
    from: ChainVersion,
) -> anyhow::Result<()> {
    let deadline = cluster.now() + STEP_LIMIT;
    let mut known = RoutingVersion(0);
    while cluster.now() < deadline {
        let Some(map) = cluster.watch(known, WATCH, deadline).await? else {
            continue;
        };
        known = map.version;
        let Some(now) = map.chains.get(&chain).filter(|now| now.version > from) else {
            continue;
        };
        if now.state_of(target) != Some(PublicState::Serving) {
            return Ok(());
        }
        bail!(
            "chain {chain} changed before target {target} stepped down: look at `penstock admin chain list` and try again"
        );
    }
    bail!(
        "the node of target {target} has not taken it out of service in {} s; does it run a release that can?",
        STEP_LIMIT.as_secs()
    )
}

/// What was given up. The JSON form is a contract.
#[derive(Debug, Serialize)]
struct LossLine {
    chain: ChainId,
    version: ChainVersion,
    target: TargetId,
    left_at_version: Option<ChainVersion>,
    given_up: Vec<GivenUp>,
    tables: Vec<TableName>,
}

#[derive(Debug, Serialize)]
struct GivenUp {
    target: TargetId,
    node: NodeId,
    disk: DiskIndex,
}

#[derive(Debug, Serialize)]
struct TableName {
    table: ChainTableId,
    version: ChainTableVersion,
}

impl From<Loss> for LossLine {
    fn from(loss: Loss) -> Self {
        let given_up = loss.given_up.into_iter();
        let tables = loss.tables.into_iter();
        Self {
            chain: loss.chain,
            version: loss.version,
            target: loss.target,
            left_at_version: loss.left,
            given_up: given_up
                .map(|(target, node, disk)| GivenUp { target, node, disk })
                .collect(),
            tables: tables
                .map(|(table, version)| TableName { table, version })
                .collect(),
        }
    }
}

/// Makes a chain go on with a target that may lack something.
pub(super) async fn force(cluster: &Cluster, args: &ForceArgs, json: bool) -> anyhow::Result<()> {
    let request = ForceLastServingRequest {
        chain: ChainId(args.chain),
        target: TargetId(args.target),
        loss: if args.accept_loss {
            LossPolicy::Accept
        } else {
            LossPolicy::Refuse
        },
    };
    let loss = LossLine::from(cluster.ask::<ForceLastServing>(&request).await?);
    if json {
        return out::json(&loss);
    }
    out::say(&format!(
        "chain {} goes on with target {} as soon as that is alive. Given up:",
        loss.chain, loss.target
    ));
    say_losses(&[loss]);
    Ok(())
}

/// Lists what forced changes gave up.
pub(super) async fn losses(cluster: &Cluster, json: bool) -> anyhow::Result<()> {
    let losses = cluster.ask::<ListLosses>(&()).await?;
    let lines: Vec<LossLine> = losses.into_iter().map(LossLine::from).collect();
    if json {
        return out::json(&lines);
    }
    say_losses(&lines);
    Ok(())
}

fn say_losses(losses: &[LossLine]) {
    let rows = losses.iter().map(|loss| {
        let given_up = loss.given_up.iter();
        let given_up = given_up.map(|gone| format!("{}@{}", gone.target, gone.node));
        let tables = loss.tables.iter();
        let tables = tables.map(|table| format!("{}.{}", table.table, table.version));
        let since = loss.left_at_version;
        vec![
            loss.chain.to_string(),
            loss.target.to_string(),
            format!(
                "{} to {}",
                since.map_or_else(|| "?".to_owned(), |since| since.to_string()),
                loss.version
            ),
            given_up.collect::<Vec<_>>().join(" "),
            tables.collect::<Vec<_>>().join(" "),
        ]
    });
    out::table(
        &[
            "CHAIN",
            "WENT ON WITH",
            "WRITES OF VERSIONS",
            "GIVEN UP (target@node)",
            "FILES OF TABLES",
        ],
        rows.collect(),
    );
}

#[cfg(test)]
mod tests {
    use types::{
        chain::{Chain, ChainTarget},
        id::DiskIndex,
        target::Target,
    };

    use super::*;

    #[test]
    fn the_json_form_stays_as_it_is() {
        let mut routing = RoutingInfo::default();
        let id = TargetId(11);
        let chain = Chain {
            id: ChainId(1),
            version: ChainVersion(4),
            targets: vec![ChainTarget {
                id,
                state: PublicState::LastServing,
            }],
            preferred: vec![id],
        };
        let target = Target {
            id,
            node: NodeId(2),
            disk: DiskIndex(0),
            chain: chain.id,
            created: true,
        };
        routing.chains.insert(chain.id, chain);
        routing.targets.insert(id, target);
        let json = serde_json::to_string(&lines(&routing)).unwrap();
        assert_eq!(
            json,
            r#"[{"id":1,"version":4,"targets":[{"id":11,"node":2,"state":"last_serving"}]}]"#
        );
    }
}
