//! Where the targets of new chains go: distinct nodes, each disk in equally many chains, and pairs of
//! nodes spread evenly so that the load of refilling a lost node is shared (protocol P1, a first version).
//!
//! Greedy and deterministic: each seat goes to the node that has the least, which is not yet in the chain,
//! and which met the chain's other nodes least often. Ties rotate, so that heads are spread too.

use std::collections::BTreeMap;

use types::{
    id::{DiskIndex, NodeId},
    status::{Status, StatusCode},
};

use crate::command::Seat;

/// The most chains one request makes: the entry stays far below the largest frame.
pub(crate) const CHAINS_MAX: u32 = 4096;
/// More copies than this are a slip of the keyboard.
pub(crate) const REPLICAS_MAX: u32 = 16;

/// The targets that each usable disk of each node has.
pub(crate) type Usage = BTreeMap<NodeId, BTreeMap<DiskIndex, u32>>;

/// Seats for `count` chains of `replicas` targets each.
///
/// # Errors
/// InvalidArgument for numbers out of range; Conflict when there are too few nodes.
pub(crate) fn place(mut usage: Usage, count: u32, replicas: u32) -> Result<Vec<Vec<Seat>>, Status> {
    if !(1..=CHAINS_MAX).contains(&count) || !(1..=REPLICAS_MAX).contains(&replicas) {
        let message = format!(
            "{count} chains of {replicas} targets: 1 to {CHAINS_MAX} chains of 1 to {REPLICAS_MAX} targets can be made at once"
        );
        return Err(Status::new(StatusCode::InvalidArgument, message));
    }
    usage.retain(|_, disks| !disks.is_empty());
    if usage.len() < replicas as usize {
        let nodes: Vec<String> = usage.keys().map(NodeId::to_string).collect();
        let message = format!(
            "{replicas} replicas need {replicas} alive storage nodes with a working disk, there are {} ({}); \
             start more storage nodes or ask for fewer replicas",
            usage.len(),
            if nodes.is_empty() {
                "none".to_owned()
            } else {
                format!("node {}", nodes.join(", "))
            }
        );
        return Err(Status::new(StatusCode::Conflict, message));
    }
    let mut pairs = BTreeMap::new();
    let chains =
        (0..count as usize).map(|index| place_one(&mut usage, &mut pairs, index, replicas));
    Ok(chains.collect())
}

fn place_one(
    usage: &mut Usage,
    pairs: &mut BTreeMap<(NodeId, NodeId), u32>,
    index: usize,
    replicas: u32,
) -> Vec<Seat> {
    let mut seats: Vec<Seat> = Vec::with_capacity(replicas as usize);
    for _ in 0..replicas {
        let nodes = usage.len();
        let (_, node) = usage
            .iter()
            .enumerate()
            .filter(|(_, (node, _))| seats.iter().all(|seat| seat.node != **node))
            .map(|(position, (node, disks))| {
                let load = disks.values().min().copied().unwrap_or(u32::MAX);
                let met: u32 = seats
                    .iter()
                    .map(|seat| pairs.get(&(seat.node, *node)).copied().unwrap_or(0))
                    .sum();
                (
                    (load, met, (position + nodes - index % nodes) % nodes),
                    *node,
                )
            })
            .min()
            .expect("there are at least as many nodes as replicas");
        for seat in &seats {
            *pairs.entry((seat.node, node)).or_default() += 1;
            *pairs.entry((node, seat.node)).or_default() += 1;
        }
        let disks = usage.get_mut(&node).expect("chosen from this map");
        let (disk, targets) = disks
            .iter_mut()
            .min_by_key(|(disk, targets)| (**targets, **disk))
            .expect("nodes without a disk were left out");
        *targets += 1;
        seats.push(Seat { node, disk: *disk });
    }
    seats
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn usage(nodes: u32, disks: u8) -> Usage {
        let disks: BTreeMap<DiskIndex, u32> = (0..disks).map(|disk| (DiskIndex(disk), 0)).collect();
        (1..=nodes)
            .map(|node| (NodeId(node), disks.clone()))
            .collect()
    }

    #[test]
    fn every_shape_is_balanced_over_disks_and_distinct_in_nodes() {
        for nodes in 1..=7 {
            for disks in 1..=3_u8 {
                for replicas in 1..=nodes.min(4) {
                    let count = nodes * u32::from(disks) * 2;
                    let chains = place(usage(nodes, disks), count, replicas).unwrap();
                    let mut load: BTreeMap<(NodeId, DiskIndex), u32> = BTreeMap::new();
                    for seats in &chains {
                        let distinct: BTreeSet<NodeId> = seats.iter().map(|s| s.node).collect();
                        assert_eq!(distinct.len(), replicas as usize);
                        for seat in seats {
                            *load.entry((seat.node, seat.disk)).or_default() += 1;
                        }
                    }
                    let (least, most) = (load.values().min(), load.values().max());
                    assert_eq!(load.len(), (nodes * u32::from(disks)) as usize);
                    assert_eq!(
                        least, most,
                        "{nodes} nodes, {disks} disks, {replicas} replicas"
                    );
                }
            }
        }
    }

    #[test]
    fn heads_and_pairs_are_spread() {
        let chains = place(usage(4, 1), 12, 2).unwrap();
        let mut heads: BTreeMap<NodeId, u32> = BTreeMap::new();
        let mut pairs: BTreeMap<BTreeSet<NodeId>, u32> = BTreeMap::new();
        for seats in &chains {
            *heads.entry(seats[0].node).or_default() += 1;
            *pairs
                .entry(seats.iter().map(|seat| seat.node).collect())
                .or_default() += 1;
        }
        assert_eq!(heads.len(), 4, "{heads:?}");
        assert_eq!(pairs.len(), 6, "{pairs:?}");
        assert!(pairs.values().all(|count| *count == 2), "{pairs:?}");
    }

    #[test]
    fn too_few_nodes_are_named() {
        let mut few = usage(3, 1);
        few.insert(NodeId(3), BTreeMap::new());
        let status = place(few, 4, 3).unwrap_err();
        assert_eq!(status.code, StatusCode::Conflict);
        assert!(
            status.message.contains("3 replicas need 3")
                && status.message.contains("there are 2 (node 1, 2)"),
            "{status}"
        );
        assert_eq!(
            place(usage(1, 1), 0, 1).unwrap_err().code,
            StatusCode::InvalidArgument
        );
    }
}
