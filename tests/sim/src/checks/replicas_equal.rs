//! W10, S2: when all targets of a chain serve and nothing is under way, they hold the same chunks in the same versions with the
//! same content, and nothing is pending.

use types::{
    chunk::{ChunkId, ChunkMeta},
    id::{InodeId, TargetId},
    routing::RoutingInfo,
};

use crate::world::World;

/// More chunks than a target of a simulation has.
const LIST_MAX: usize = 10_000;

pub(crate) fn check(world: &World) -> Vec<String> {
    let map = world.routing.current();
    let mut violations = Vec::new();
    for chain in map.chains.values() {
        let held = chain.targets.iter().map(|target| {
            let chunks = chunks_of(world, &map, target.id);
            (target.id, chunks)
        });
        let held: Vec<_> = held.collect();
        for (target, chunks) in &held {
            let (first, expected) = &held[0];
            if chunks != expected {
                violations.push(format!(
                    "chain {}: targets {first} and {target} differ:\n    {expected:?}\n    {chunks:?}",
                    chain.id
                ));
            }
        }
    }
    violations
}

/// Everything about the chunks of a target that replicas share.
fn chunks_of(world: &World, map: &RoutingInfo, target: TargetId) -> Result<Vec<String>, String> {
    let node = map.targets.get(&target).map(|target| target.node.0);
    let host = world
        .hosts
        .iter()
        .zip(1..)
        .find(|(_, id)| Some(*id) == node);
    let engine = host.and_then(|(host, _)| host.engine());
    let engine = engine.ok_or_else(|| format!("target {target} has no host that runs"))?;
    let first = ChunkId {
        inode: InodeId(0),
        index: 0,
    };
    let listed = engine.list(target, first, LIST_MAX);
    let listed = listed.map_err(|error| error.to_string())?;
    Ok(listed.iter().map(shared).collect())
}

/// What all replicas of a chunk must agree on.
pub fn shared(meta: &ChunkMeta) -> String {
    let content = meta.exists.then_some((meta.length, meta.checksum));
    let pending = meta.pending.as_ref().map(|pending| pending.update_version);
    format!(
        "{} v{} {content:?} pending {pending:?}",
        meta.id, meta.commit_version.0
    )
}
