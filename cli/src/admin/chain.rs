//! `admin chain list`, `admin chain show`.

pub(super) mod show;

use serde::Serialize;
use types::{
    id::{ChainId, NodeId, TargetId},
    routing::RoutingInfo,
    target::PublicState,
    version::ChainVersion,
};

use super::word;
use crate::{cluster::Cluster, out};

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
