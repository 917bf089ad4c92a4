//! Gives a new cluster its chains, and waits until each chain of an old one can serve again.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, bail};
use common::env::{Env, Instant};
use types::{
    id::ChainTableId,
    node::{NodeKind, NodeStatus},
    routing::RoutingInfo,
    rpc::mgmtd::{CreateChains, CreateChainsRequest},
    version::RoutingVersion,
};

use super::state::Shape;
use crate::cluster::Cluster;

/// The one table a development cluster has.
const TABLE: ChainTableId = ChainTableId(1);
/// How long one look at the map waits for a newer one.
const WATCH: Duration = Duration::from_millis(500);

/// Makes the chains when there are none and says how many; returns once every chain has a head.
pub(crate) async fn ensure(
    env: &Env,
    cluster: &Path,
    shape: &Shape,
    deadline: Instant,
) -> anyhow::Result<Option<usize>> {
    let cluster = Cluster::open(env, cluster)?;
    let mut made = None;
    let mut known = RoutingVersion(0);
    let mut routing = RoutingInfo::default();
    loop {
        if let Some(newer) = cluster.watch(known, WATCH, deadline).await? {
            known = newer.version;
            routing = newer;
        }
        if let Some(obstacle) = obstacle(&routing, shape) {
            if env.now() >= deadline {
                bail!("the chains are not ready: {obstacle}");
            }
            continue;
        }
        if !routing.chains.is_empty() {
            return Ok(made);
        }
        let request = CreateChainsRequest {
            table: TABLE,
            count: shape.chains,
            replicas: shape.replicas,
        };
        let reply = cluster
            .call::<CreateChains>(&request, deadline)
            .await
            .context("create the chains")?;
        made = Some(reply.chains.len());
    }
}

/// What is still in the way.
fn obstacle(routing: &RoutingInfo, shape: &Shape) -> Option<String> {
    if routing.chains.is_empty() {
        let alive = routing
            .nodes
            .values()
            .filter(|node| node.kind == NodeKind::Storage && node.status == NodeStatus::Alive);
        let alive = alive.count();
        let wanted = usize::try_from(shape.storage).unwrap_or(usize::MAX);
        return (alive < wanted)
            .then(|| format!("{alive} of {wanted} storage nodes have reported to the manager"));
    }
    let headless = routing
        .chains
        .values()
        .find(|chain| chain.head().is_none())?;
    Some(format!("no target of chain {} serves yet", headless.id))
}

#[cfg(test)]
mod tests {
    use types::{
        chain::{Chain, ChainTarget},
        id::{ChainId, NodeId, TargetId},
        node::Node,
        target::PublicState,
        version::ChainVersion,
    };

    use super::*;
    use crate::args::{KvBackend, Transport};

    #[test]
    fn all_storage_nodes_then_all_heads_are_waited_for() {
        let shape = Shape {
            storage: 1,
            replicas: 1,
            meta: 1,
            mgmtd: 1,
            chains: 1,
            transport: Transport::Tcp,
            kv: KvBackend::Embedded,
        };
        let mut routing = RoutingInfo::default();
        assert!(obstacle(&routing, &shape).unwrap().starts_with("0 of 1"));
        let node = Node {
            id: NodeId(1),
            kind: NodeKind::Storage,
            addresses: vec![],
            tags: vec![],
            status: NodeStatus::Alive,
        };
        routing.nodes.insert(node.id, node);
        assert_eq!(obstacle(&routing, &shape), None);
        let mut chain = Chain {
            id: ChainId(7),
            version: ChainVersion(1),
            targets: vec![ChainTarget {
                id: TargetId(1),
                state: PublicState::LastServing,
            }],
            preferred: vec![],
        };
        routing.chains.insert(chain.id, chain.clone());
        assert!(obstacle(&routing, &shape).unwrap().contains("chain 7"));
        chain.targets[0].state = PublicState::Serving;
        routing.chains.insert(chain.id, chain);
        assert_eq!(obstacle(&routing, &shape), None);
    }
}
