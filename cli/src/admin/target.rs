//! `admin target list`.

use std::collections::BTreeMap;

use serde::Serialize;
use types::{
    id::{ChainId, DiskIndex, NodeId, TargetId},
    rpc::mgmtd::GetSpace,
    target::{LocalState, PublicState},
};

use super::word;
use crate::{cluster::Cluster, out};

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
