//! A chunk that its predecessor cannot read does not keep a syncing target from the others, and is not forgotten.

use std::time::Duration;

use types::{chunk::Update, target::LocalState};

use super::{
    cluster::{Cluster, Offline, SMALL_UPDATE_BYTES, Serving, Syncing, chunk},
    damage::rot,
};

const CHUNKS: u32 = 20;
const ROTTEN: u32 = 3;

/// Writes all chunks, long enough to lie in slots, while the last target of `count` is away.
async fn written_without_the_last(count: u64) -> Cluster {
    let cluster = Cluster::start(count as usize).await;
    let mut chain: Vec<_> = (1..=count).map(|id| (id, Serving)).collect();
    chain[count as usize - 1].1 = Offline;
    cluster.set_chain(&chain);
    cluster.wait_local(count, LocalState::Online).await;
    for id in 1..count {
        cluster.wait_chain(id).await;
    }
    let content = vec![7; SMALL_UPDATE_BYTES as usize + 5000];
    for index in 0..CHUNKS {
        cluster.write(1, chunk(index), 0, &content).await.unwrap();
    }
    cluster
}

#[tokio::test]
async fn a_chunk_that_another_replica_can_read_is_repaired_and_sent() {
    let cluster = written_without_the_last(3).await;
    rot(&cluster, 2, chunk(ROTTEN)).await;
    cluster.set_chain(&[(1, Serving), (2, Serving), (3, Syncing)]);
    cluster.wait_local(3, LocalState::UpToDate).await;
    for id in 2..=3 {
        assert_eq!(cluster.contents(id), cluster.contents(1), "target {id}");
        let key = cluster.target(id).key(chunk(ROTTEN));
        let damage = cluster.engine(id).scrub_chunk(key).await.unwrap();
        assert!(damage.is_none(), "target {id}: {damage:?}");
    }
}

#[tokio::test]
async fn without_another_copy_the_others_are_sent_and_the_target_does_not_serve_until_it_is_gone() {
    let cluster = written_without_the_last(2).await;
    rot(&cluster, 1, chunk(ROTTEN)).await;
    cluster.set_chain(&[(1, Serving), (2, Syncing)]);
    let passed_over = || {
        let report = cluster.resync(1);
        report.is_some_and(|report| {
            report.left_chunks == 1 && report.done_chunks == u64::from(CHUNKS) - 1
        })
    };
    cluster.wait("all others to be sent", passed_over).await;
    for index in 0..CHUNKS {
        let is_there = cluster.meta(2, chunk(index)).is_some();
        assert_eq!(is_there, index != ROTTEN, "chunk {index}");
    }
    assert_eq!(cluster.view(2).local, LocalState::Online);
    // What is written meanwhile arrives.
    cluster.write(1, chunk(100), 0, b"new").await.unwrap();
    assert!(cluster.meta(2, chunk(100)).is_some());
    let remove = cluster.item(chunk(ROTTEN), Update::Remove, cluster.fresh_tag());
    let limit = Duration::from_secs(5);
    cluster.update(1, remove, b"", limit).await.unwrap();
    cluster.wait_local(2, LocalState::UpToDate).await;
    assert_eq!(cluster.contents(2), cluster.contents(1));
    assert_eq!(cluster.resync(1).unwrap().left_chunks, 0);
}
