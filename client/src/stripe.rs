//! The chains of a file, and the way from a chunk to the node to ask.

use std::collections::BTreeSet;

use types::{
    chain::Chain,
    id::{ChainId, TargetId},
    layout::{FILE_LENGTH_MAX, Layout},
    routing::RoutingInfo,
    status::{Detail, Status, StatusCode},
};

/// The chain of a chunk.
pub(crate) fn chain_of<'a>(
    map: &'a RoutingInfo,
    layout: &Layout,
    index: u32,
) -> Result<&'a Chain, Status> {
    layout
        .chain_of(map, index)
        .ok_or_else(|| unknown_table(layout))
}

/// Every chain that holds chunks of a file with this layout.
pub(crate) fn chains_of(map: &RoutingInfo, layout: &Layout) -> Result<BTreeSet<ChainId>, Status> {
    let table = map
        .tables
        .get(&(layout.table, layout.table_version))
        .ok_or_else(|| unknown_table(layout))?;
    Ok((0..layout.stripe_size)
        .filter_map(|column| {
            let position = layout.chain_position(column, table.chains.len());
            table.chains.get(position).copied()
        })
        .collect())
}

/// A chain by its id.
pub(crate) fn chain(map: &RoutingInfo, id: ChainId) -> Result<&Chain, Status> {
    map.chains.get(&id).ok_or_else(|| {
        Status::new(
            StatusCode::UnknownEntity,
            format!("chain {id} is not in the routing map {}", map.version),
        )
    })
}

/// The head of a chain.
pub(crate) fn head(chain: &Chain) -> Result<TargetId, Status> {
    chain.head().ok_or_else(|| not_serving(chain))
}

/// What is said of a chain on which nothing serves.
pub(crate) fn not_serving(chain: &Chain) -> Status {
    Status::new(
        StatusCode::WrongRole,
        format!("no replica of chain {} serves now", chain.id),
    )
}

/// Where the node of a target listens.
pub(crate) fn address_of(map: &RoutingInfo, target: TargetId) -> Result<&str, Status> {
    map.node_of(target)
        .and_then(|node| node.addresses.first())
        .map(String::as_str)
        .ok_or_else(|| {
            Status::new(
                StatusCode::UnknownTarget,
                format!("the node of target {target} is not in the routing map"),
            )
            .with_detail(Detail::Routing(map.version))
        })
}

/// Refuses a layout that is not one: it came over the network.
pub(crate) fn check_layout(layout: &Layout) -> Result<(), Status> {
    if layout.is_valid() {
        Ok(())
    } else {
        let message = format!("{layout:?} is not a layout");
        Err(Status::new(StatusCode::InvalidArgument, message))
    }
}

/// Refuses a range that no chunk index reaches.
pub(crate) fn check_end(layout: &Layout, offset: u64, length: usize) -> Result<(), Status> {
    let longest = FILE_LENGTH_MAX.min(u64::from(layout.chunk_size) << 32);
    let end = offset.checked_add(length as u64);
    if end.is_some_and(|end| end <= longest) {
        return Ok(());
    }
    let message = format!("{length} bytes at {offset} leave the longest file of {longest} bytes");
    Err(Status::new(StatusCode::FileTooLarge, message))
}

fn unknown_table(layout: &Layout) -> Status {
    Status::new(
        StatusCode::UnknownEntity,
        format!(
            "chain table {} version {} is not in the routing map",
            layout.table, layout.table_version
        ),
    )
}
