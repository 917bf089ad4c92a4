//! `admin target list`, `add` and `remove`.

use std::collections::BTreeMap;

use serde::Serialize;
use types::{
    id::{ChainId, DiskIndex, NodeId, TargetId},
    rpc::{
        mgmtd::{AddTarget, GetSpace, RemoveTarget},
        operator::{AddTargetRequest, CopiesPolicy, RemoveTargetRequest},
    },
    target::{LocalState, PublicState},
};

use super::word;
use crate::{
    args::{TargetAddArgs, TargetRemoveArgs},
    cluster::Cluster,
    out,
};

/// One target. The JSON form is a contract.
#[derive(Debug, Serialize)]
struct TargetLine {
    id: TargetId,
    node: NodeId,
    disk: DiskIndex,
    chain: ChainId,
    /// What the manager decided.
    state: Option<PublicState>,
    /// What the node reported last; none when it has not reported to this manager.
    local_state: Option<LocalState>,
}

/// Lists disks' seats in chains.
pub(super) async fn list(cluster: &Cluster, json: bool) -> anyhow::Result<()> {
    let routing = cluster.routing().await?;
    let space = cluster.ask::<GetSpace>(&()).await?;
    let local: BTreeMap<TargetId, LocalState> = space.targets.into_iter().collect();
    let targets: Vec<TargetLine> = routing
        .targets
        .values()
        .map(|target| TargetLine {
            id: target.id,
            node: target.node,
            disk: target.disk,
            chain: target.chain,
            state: routing
                .chains
                .get(&target.chain)
                .and_then(|chain| chain.state_of(target.id)),
            local_state: local.get(&target.id).copied(),
        })
        .collect();
    if json {
        return out::json(&targets);
    }
    let rows = targets.iter().map(|target| {
        vec![
            target.id.to_string(),
            target.node.to_string(),
            target.disk.to_string(),
            target.chain.to_string(),
            target
                .state
                .map_or_else(|| "-".to_owned(), |state| word(&state)),
            target
                .local_state
                .map_or_else(|| "-".to_owned(), |state| word(&state)),
        ]
    });
    out::table(
        &["ID", "NODE", "DISK", "CHAIN", "STATE", "REPORTED"],
        rows.collect(),
    );
    Ok(())
}

/// A target that was added or removed. The JSON form is a contract.
#[derive(Debug, Serialize)]
struct TargetChange {
    target: TargetId,
    chain: Option<ChainId>,
}

/// Adds a target to a chain.
pub(super) async fn add(cluster: &Cluster, args: &TargetAddArgs, json: bool) -> anyhow::Result<()> {
    let request = AddTargetRequest {
        chain: ChainId(args.chain),
        node: NodeId(args.node),
        disk: DiskIndex(args.disk),
    };
    let reply = cluster.ask::<AddTarget>(&request).await?;
    if json {
        return out::json(&TargetChange {
            target: reply.target,
            chain: Some(request.chain),
        });
    }
    out::say(&format!(
        "target {} added to chain {}; it is filled in the background, `penstock admin chain list` shows when it serves",
        reply.target, request.chain
    ));
    Ok(())
}

/// Removes a target from its chain.
pub(super) async fn remove(
    cluster: &Cluster,
    args: &TargetRemoveArgs,
    json: bool,
) -> anyhow::Result<()> {
    let request = RemoveTargetRequest {
        target: TargetId(args.target),
        copies: if args.fewer_copies {
            CopiesPolicy::AllowFewer
        } else {
            CopiesPolicy::Keep
        },
    };
    let routing = cluster.routing().await?;
    let entry = routing.targets.get(&request.target);
    let place = entry.map(|entry| (entry.node, entry.disk));
    cluster.ask::<RemoveTarget>(&request).await?;
    if json {
        return out::json(&TargetChange {
            target: request.target,
            chain: entry.map(|entry| entry.chain),
        });
    }
    let stays = match place {
        Some((node, disk)) => format!("; what it held stays on disk {disk} of node {node}, unused"),
        None => String::new(),
    };
    out::say(&format!("target {} removed{stays}", request.target));
    Ok(())
}
