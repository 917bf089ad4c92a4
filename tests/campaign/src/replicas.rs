//! The disks when all processes have ended: each sound by itself, and all replicas of a chunk equal (W10, S2).

use std::{collections::BTreeMap, fs, path::Path};

use ::tests::run;
use common::{buf::BufPool, env::Env};
use engine::{Engine, EngineConfig};
use sim::checks::replicas_equal::shared;
use types::{
    chunk::ChunkId,
    id::{InodeId, TargetId},
    routing::RoutingInfo,
};

use crate::{cluster::Cluster, host::Host};

/// More chunks than a target of a campaign has.
const LIST_MAX: usize = 1_000_000;

/// What was wrong, and how many replicas were compared.
///
/// # Errors
/// When a disk cannot be looked at.
pub(crate) async fn check(
    cluster: &Cluster,
    map: &RoutingInfo,
) -> Result<(Vec<String>, usize), String> {
    let (mut wrong, mut engines) = (Vec::new(), BTreeMap::new());
    for (host, disk) in &cluster.disks {
        let dir = disk.data().join("disk-0");
        wrong.extend(check_alone(*host, &dir)?);
        // The offline check changes nothing; opening may, so it comes after.
        let opened = open(&cluster.env, &dir).await;
        let engine =
            opened.map_err(|error| format!("the disk of {host} does not open: {error}"))?;
        engines.insert(host.node(), engine);
    }
    let mut compared = 0;
    for chain in map.chains.values() {
        let held = chain.targets.iter().map(|target| {
            let chunks = chunks_of(&engines, map, target.id)?;
            Ok((target.id, chunks))
        });
        let held: Vec<(TargetId, BTreeMap<ChunkId, String>)> =
            held.collect::<Result<_, String>>()?;
        compared += held.iter().map(|(_, chunks)| chunks.len()).sum::<usize>();
        let (first, expected) = &held[0];
        for (target, chunks) in &held[1..] {
            let ids = expected
                .keys()
                .chain(chunks.keys().filter(|id| !expected.contains_key(id)));
            let differ = ids.filter(|id| expected.get(id) != chunks.get(id));
            wrong.extend(differ.map(|id| {
                let (one, other) = (expected.get(id), chunks.get(id));
                format!(
                    "chain {}: target {first} has {one:?}, target {target} has {other:?}",
                    chain.id
                )
            }));
        }
        let pending = held.iter().flat_map(|(target, chunks)| {
            let pending = chunks
                .values()
                .filter(|chunk| !chunk.ends_with("pending None"));
            pending.map(move |chunk| format!("chain {}: target {target} has {chunk}", chain.id))
        });
        wrong.extend(pending);
    }
    Ok((wrong, compared))
}

/// `penstock admin disk check`.
fn check_alone(host: Host, dir: &Path) -> Result<Vec<String>, String> {
    let ended = run::penstock([
        "admin".as_ref(),
        "disk".as_ref(),
        "check".as_ref(),
        dir.as_os_str(),
    ]);
    match ended.code {
        Some(0) => Ok(Vec::new()),
        Some(1) => Ok(vec![format!(
            "the disk of {host} is not sound:\n{}{}",
            ended.stdout, ended.stderr
        )]),
        _ => Err(format!(
            "the disk of {host} was not checked: {}",
            ended.stderr
        )),
    }
}

async fn open(env: &Env, dir: &Path) -> Result<Engine, String> {
    fs::metadata(dir).map_err(|error| error.to_string())?;
    let config = EngineConfig::default();
    let opened = Engine::open(env, dir, config, BufPool::new(1 << 20)).await;
    opened.map_err(|error| error.to_string())
}

fn chunks_of(
    engines: &BTreeMap<u32, Engine>,
    map: &RoutingInfo,
    target: TargetId,
) -> Result<BTreeMap<ChunkId, String>, String> {
    let node = map.targets.get(&target).map(|target| target.node.0);
    let engine = node.and_then(|node| engines.get(&node));
    let engine = engine.ok_or_else(|| format!("target {target} has no disk"))?;
    let first = ChunkId {
        inode: InodeId(0),
        index: 0,
    };
    let listed = engine.list(target, first, LIST_MAX);
    let listed = listed.map_err(|error| error.to_string())?;
    // A removed chunk leaves a version floor, which a replica that was refilled need not have.
    let there = listed
        .iter()
        .filter(|meta| meta.exists || meta.pending.is_some());
    Ok(there.map(|meta| (meta.id, shared(meta))).collect())
}
