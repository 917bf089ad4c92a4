//! `admin table list` and `append`.

use serde::Serialize;
use types::{
    id::{ChainId, ChainTableId},
    rpc::{mgmtd::AppendTable, operator::AppendTableRequest},
    version::ChainTableVersion,
};

use crate::{args::TableAppendArgs, cluster::Cluster, out};

/// One version of a table. The JSON form is a contract.
#[derive(Debug, Serialize)]
struct TableLine {
    id: ChainTableId,
    version: ChainTableVersion,
    chains: Vec<ChainId>,
}

/// Lists all versions of all tables.
pub(super) async fn list(cluster: &Cluster, json: bool) -> anyhow::Result<()> {
    let routing = cluster.routing().await?;
    let lines: Vec<TableLine> = routing
        .tables
        .into_values()
        .map(|table| TableLine {
            id: table.id,
            version: table.version,
            chains: table.chains,
        })
        .collect();
    if json {
        return out::json(&lines);
    }
    let rows = lines.iter().map(|line| {
        let chains: Vec<String> = line.chains.iter().map(ChainId::to_string).collect();
        vec![
            line.id.to_string(),
            line.version.to_string(),
            chains.join(" "),
        ]
    });
    out::table(&["ID", "VERSION", "CHAINS"], rows.collect());
    Ok(())
}

/// A version that was appended. The JSON form is a contract.
#[derive(Debug, Serialize)]
struct Appended {
    id: ChainTableId,
    version: ChainTableVersion,
}

/// Appends a version to a table.
pub(super) async fn append(
    cluster: &Cluster,
    args: &TableAppendArgs,
    json: bool,
) -> anyhow::Result<()> {
    let request = AppendTableRequest {
        table: ChainTableId(args.table),
        chains: args.chains.iter().copied().map(ChainId).collect(),
    };
    let version = cluster.ask::<AppendTable>(&request).await?;
    if json {
        let id = request.table;
        return out::json(&Appended { id, version });
    }
    out::say(&format!(
        "table {} has version {version} now; new files use it",
        request.table
    ));
    Ok(())
}
