//! `admin node list`.

use serde::Serialize;
use types::{
    id::NodeId,
    node::{NodeKind, NodeStatus},
};

use super::word;
use crate::{cluster::Cluster, out};

/// One node. The JSON form is a contract.
#[derive(Debug, Serialize)]
struct NodeLine {
    id: NodeId,
    kind: NodeKind,
    status: NodeStatus,
    addresses: Vec<String>,
    tags: Vec<String>,
}

/// Lists the registered processes.
pub(super) async fn list(cluster: &Cluster, json: bool) -> anyhow::Result<()> {
    let routing = cluster.routing().await?;
    let nodes: Vec<NodeLine> = routing
        .nodes
        .into_values()
        .map(|node| NodeLine {
            id: node.id,
            kind: node.kind,
            status: node.status,
            addresses: node.addresses,
            tags: node.tags,
        })
        .collect();
    if json {
        return out::json(&nodes);
    }
    let rows = nodes.iter().map(|node| {
        vec![
            node.id.to_string(),
            word(&node.kind),
            word(&node.status),
            node.addresses.join(","),
            node.tags.join(","),
        ]
    });
    out::table(
        &["ID", "KIND", "STATUS", "ADDRESSES", "TAGS"],
        rows.collect(),
    );
    Ok(())
}
