//! Writes while replicas die, and what they leave behind.

use std::time::Duration;

use types::{
    checksum::Checksum,
    chunk::{ChunkId, Update, UpdateTag},
    id::TargetId,
    rpc::storage::ReadMode,
    status::StatusCode,
    target::LocalState,
    version::ChunkVersion,
};

use super::cluster::{
    CHAIN, CHUNK_SIZE, Cluster, LastServing, Offline, Serving, Syncing, Waiting, chunk, tag,
};

const LONG: Duration = Duration::from_secs(10);
const SHORT: Duration = Duration::from_millis(300);

#[tokio::test]
async fn a_write_in_flight_survives_the_death_of_the_tail() {
    let cluster = Cluster::start(3).await;
    cluster.kill(3).await;
    let item = cluster.write_item(chunk(0), 0, b"data", tag(0, 1));
    // It cannot end while the map still names the dead tail.
    let write = cluster.update(1, item, b"data", LONG);
    assert!(cluster.env.timeout(SHORT, write).await.is_err());
    assert!(cluster.meta(2, chunk(0)).unwrap().pending.is_some());
    cluster.set_chain(&[(1, Serving), (2, Serving), (3, Offline)]);
    // The client is gone; the write goes on to its end all the same.
    let committed = || {
        (1..=2).all(|id| {
            let meta = cluster.meta(id, chunk(0));
            meta.is_some_and(|m| m.commit_version == ChunkVersion(1) && m.pending.is_none())
        })
    };
    cluster.wait("the write to be committed", committed).await;
}

#[tokio::test]
async fn a_promoted_head_answers_the_retry_of_a_write_it_followed() {
    let cluster = Cluster::start(3).await;
    let item = cluster.write_item(chunk(0), 0, b"once", tag(0, 1));
    let done = cluster.update(1, item, b"once", LONG).await.unwrap();
    cluster.kill(1).await;
    cluster.set_chain(&[(2, Serving), (3, Serving), (1, Offline)]);
    cluster.write(2, chunk(0), 0, b"then").await.unwrap();
    let retry = cluster.write_item(chunk(0), 0, b"once", tag(0, 1));
    let answer = cluster.update(2, retry, b"once", LONG).await.unwrap();
    assert_eq!(answer.commit_version, done.commit_version);
    let (bytes, _) = cluster
        .read(3, chunk(0), ReadMode::Linearizable)
        .await
        .unwrap();
    assert_eq!(bytes, b"then");
}

/// Restarts both replicas of a chain one after the other, each being filled by the other; returns when both serve, in this order.
async fn restart_one_by_one(cluster: &Cluster) {
    for (stays, leaves) in [(1, 2), (2, 1)] {
        cluster.kill(leaves).await;
        cluster.set_chain(&[(stays, Serving), (leaves, Offline)]);
        cluster.wait_chain(stays).await;
        cluster.start_node(leaves).await;
        cluster.wait_local(leaves, LocalState::Online).await;
        cluster.set_chain(&[(stays, Serving), (leaves, Syncing)]);
        cluster.wait_local(leaves, LocalState::UpToDate).await;
        cluster.set_chain(&[(stays, Serving), (leaves, Serving)]);
        for id in 1..=2 {
            cluster.wait_chain(id).await;
        }
    }
}

#[tokio::test]
async fn a_retry_is_answered_after_every_replica_was_restarted() {
    let cluster = Cluster::start(2).await;
    let item = cluster.write_item(chunk(0), 0, b"once", tag(0, 1));
    let done = cluster.update(1, item, b"once", LONG).await.unwrap();
    // The record of the chunk knows only this one's tag.
    cluster.write(1, chunk(0), 0, b"then").await.unwrap();
    restart_one_by_one(&cluster).await;
    for id in 1..=2 {
        let known = cluster.engine(id).channels(TargetId(id)).unwrap();
        assert!(known.iter().any(|channel| channel.tag == tag(0, 1)));
    }
    let retry = cluster.write_item(chunk(0), 0, b"once", tag(0, 1));
    let answer = cluster.update(2, retry, b"once", LONG).await.unwrap();
    assert_eq!(answer, done);
    let (bytes, _) = cluster
        .read(1, chunk(0), ReadMode::Linearizable)
        .await
        .unwrap();
    assert_eq!(bytes, b"then");
}

#[tokio::test]
async fn a_retry_is_answered_after_the_whole_chain_was_restarted() {
    let cluster = Cluster::start(2).await;
    let item = cluster.write_item(chunk(0), 0, b"once", tag(0, 1));
    let done = cluster.update(1, item, b"once", LONG).await.unwrap();
    cluster.write(1, chunk(0), 0, b"then").await.unwrap();
    cluster.kill(1).await;
    cluster.kill(2).await;
    cluster.set_chain(&[(1, LastServing), (2, LastServing)]);
    cluster.start_node(2).await;
    cluster.wait_local(2, LocalState::Online).await;
    cluster.set_chain(&[(2, Serving), (1, Offline)]);
    cluster.wait_local(2, LocalState::UpToDate).await;
    let retry = cluster.write_item(chunk(0), 0, b"once", tag(0, 1));
    let answer = cluster.update(2, retry, b"once", LONG).await.unwrap();
    assert_eq!(answer.commit_version, done.commit_version);
    let (bytes, _) = cluster
        .read(2, chunk(0), ReadMode::Linearizable)
        .await
        .unwrap();
    assert_eq!(bytes, b"then");
}

/// What one replica alone has done is taken away by its resync, and must then not pass for done.
#[tokio::test]
async fn what_a_resync_takes_away_is_not_answered() {
    let cluster = Cluster::start(2).await;
    cluster.write(1, chunk(0), 0, b"base").await.unwrap();
    cluster.kill(1).await;
    cluster.set_chain(&[(2, Serving), (1, Offline)]);
    cluster.wait_chain(2).await;
    // As if the other one had been killed before it wrote the same.
    let item = cluster.write_item(chunk(0), 0, b"lost", tag(0, 1));
    cluster.update(2, item, b"lost", LONG).await.unwrap();
    cluster.set_chain(&[(1, LastServing), (2, LastServing)]);
    cluster.start_node(1).await;
    for id in 1..=2 {
        cluster.wait_local(id, LocalState::Online).await;
        cluster.wait_chain(id).await;
    }
    // Target 1 comes first; target 2 has kept what it knew as long as it might have been the one.
    let known = |cluster: &Cluster| cluster.engine(2).channels(TargetId(2)).unwrap();
    assert!(
        known(&cluster)
            .iter()
            .any(|channel| channel.tag == tag(0, 1))
    );
    cluster.set_chain(&[(1, Serving), (2, Waiting)]);
    cluster.wait_local(1, LocalState::UpToDate).await;
    cluster.wait_local(2, LocalState::Online).await;
    cluster.wait_chain(2).await;
    cluster
        .wait("the table to be forgotten", || known(&cluster).is_empty())
        .await;
    cluster.set_chain(&[(1, Serving), (2, Syncing)]);
    cluster.wait_local(2, LocalState::UpToDate).await;
    cluster.set_chain(&[(1, Serving), (2, Serving)]);
    cluster.wait_chain(2).await;
    cluster.kill(1).await;
    cluster.set_chain(&[(2, Serving), (1, Offline)]);
    cluster.wait_chain(2).await;
    let retry = cluster.write_item(chunk(0), 0, b"lost", tag(0, 1));
    cluster.update(2, retry, b"lost", LONG).await.unwrap();
    let (bytes, _) = cluster
        .read(2, chunk(0), ReadMode::Linearizable)
        .await
        .unwrap();
    assert_eq!(bytes, b"lost");
}

#[tokio::test]
async fn a_promoted_head_finishes_a_write_it_had_pending_once() {
    let cluster = Cluster::start(3).await;
    cluster.write(1, chunk(0), 0, b"base").await.unwrap();
    cluster.kill(3).await;
    let item = cluster.write_item(chunk(0), 4, b" and more", tag(0, 1));
    let lost = cluster.update(1, item, b" and more", SHORT).await;
    assert!(lost.is_err());
    cluster.kill(1).await;
    cluster.set_chain(&[(2, Serving), (1, Offline), (3, Offline)]);
    cluster.wait_chain(2).await;
    let retry = cluster.write_item(chunk(0), 4, b" and more", tag(0, 1));
    let done = cluster.update(2, retry, b" and more", LONG).await.unwrap();
    assert_eq!((done.length, done.commit_version), (13, ChunkVersion(2)));
}

#[tokio::test]
async fn what_was_left_pending_is_settled_before_the_next_update() {
    let cluster = Cluster::start(3).await;
    cluster.kill(3).await;
    let item = cluster.write_item(chunk(0), 0, b"AAAA", tag(0, 1));
    let lost = cluster.update(1, item, b"AAAA", SHORT).await;
    assert!(lost.is_err());
    cluster.set_chain(&[(1, Serving), (2, Serving), (3, Offline)]);
    let done = cluster.write(1, chunk(0), 4, b"BBBB").await.unwrap();
    assert_eq!(done.commit_version, ChunkVersion(2));
    for id in 1..=2 {
        let (bytes, _) = cluster
            .read(id, chunk(0), ReadMode::Linearizable)
            .await
            .unwrap();
        assert_eq!(bytes, b"AAAABBBB");
    }
}

#[tokio::test]
async fn a_removal_settles_what_was_left_pending() {
    let cluster = Cluster::start(2).await;
    cluster.kill(2).await;
    let item = cluster.write_item(chunk(0), 0, b"AAAA", tag(0, 1));
    let lost = cluster.update(1, item, b"AAAA", SHORT).await;
    assert!(lost.is_err());
    cluster.set_chain(&[(1, Serving), (2, Offline)]);
    let remove = cluster.item(chunk(0), Update::Remove, tag(1, 1));
    let done = cluster.update(1, remove, b"", LONG).await.unwrap();
    assert_eq!(done.commit_version, ChunkVersion(2));
    assert!(!cluster.meta(1, chunk(0)).unwrap().exists);
    // The write was done before the removal: its retry must not bring the chunk back.
    let retry = cluster.write_item(chunk(0), 0, b"AAAA", tag(0, 1));
    let done = cluster.update(1, retry, b"AAAA", LONG).await.unwrap();
    assert_eq!(done.commit_version, ChunkVersion(1));
    assert!(!cluster.meta(1, chunk(0)).unwrap().exists);
}

/// Makes a version pending at a replica, as a write does that is not passed on.
async fn leave_pending(cluster: &Cluster, id: u64, chunk: ChunkId, content: &[u8], tag: UpdateTag) {
    let target = cluster.target(id);
    let engine = cluster.engine(id);
    let made = engine.update(engine::UpdateRequest {
        key: target.key(chunk),
        chunk_size: CHUNK_SIZE,
        change: engine::Change::Update(Update::Write {
            offset: 0,
            length: content.len() as u32,
        }),
        update_version: ChunkVersion(1),
        chain_version: cluster.version(),
        tag: Some(tag),
        payload: Some(
            cluster
                .node(id)
                .node
                .endpoint
                .buffers()
                .copy_from(content)
                .freeze(),
        ),
        payload_checksum: Checksum::of(content),
    });
    made.await.unwrap();
}

#[tokio::test]
async fn a_removal_passes_over_what_a_full_tail_refuses() {
    let cluster = Cluster::start_with(&[8 << 30, 8 << 30, 2 << 20]).await;
    let block = [7; CHUNK_SIZE as usize];
    let mut index = 0;
    while cluster.write(1, chunk(index), 0, &block).await.is_ok() {
        index += 1;
        assert!(index < 64, "2 MiB do not hold 64 chunks");
    }
    for (ids, seq) in [(&[1][..], 1), (&[1, 2][..], 2)] {
        for id in ids {
            leave_pending(&cluster, *id, chunk(index), &block, tag(0, seq)).await;
        }
        // Its own retry must not be told that nothing remains, since it may be settled later.
        let retry = cluster.write_item(chunk(index), 0, &block, tag(0, seq));
        let unclear = cluster.update(1, retry, &block, LONG).await.unwrap_err();
        assert_eq!(unclear.code, StatusCode::Unreachable);
        let other = cluster.write_item(chunk(index), 0, b"x", cluster.fresh_tag());
        let refused = cluster.update(1, other, b"x", LONG).await.unwrap_err();
        assert_eq!(refused.code, StatusCode::NoSpace);
        let remove = cluster.item(chunk(index), Update::Remove, cluster.fresh_tag());
        cluster.update(1, remove, b"", LONG).await.unwrap();
        for id in 1..=3 {
            let meta = cluster.meta(id, chunk(index));
            let gone = meta.is_none_or(|meta| !meta.exists && meta.pending.is_none());
            assert!(gone, "pending at {ids:?}: target {id}");
        }
        index += 1;
    }
}

#[tokio::test]
async fn what_a_full_tail_holds_pending_is_committed() {
    let cluster = Cluster::start_with(&[8 << 30, 2 << 20]).await;
    let block = [7; CHUNK_SIZE as usize];
    for id in 1..=2 {
        leave_pending(&cluster, id, chunk(100), &block, tag(0, 1)).await;
    }
    let mut index = 0;
    while cluster.write(1, chunk(index), 0, &block).await.is_ok() {
        index += 1;
        assert!(index < 64, "2 MiB do not hold 64 chunks");
    }
    let retry = cluster.write_item(chunk(100), 0, &block, tag(0, 1));
    let done = cluster.update(1, retry, &block, LONG).await.unwrap();
    assert_eq!(done.commit_version, ChunkVersion(1));
    assert_eq!(cluster.contents(1), cluster.contents(2));
}

#[tokio::test]
async fn a_full_tail_fails_the_write_and_leaves_nothing_behind() {
    let cluster = Cluster::start_with(&[8 << 30, 8 << 30, 2 << 20]).await;
    let block = [7; CHUNK_SIZE as usize];
    let mut full = None;
    for index in 0..64 {
        match cluster.write(1, chunk(index), 0, &block).await {
            Ok(_) => {}
            Err(status) => {
                full = Some((index, status.code));
                break;
            }
        }
    }
    let (index, code) = full.expect("2 MiB do not hold 64 chunks");
    assert_eq!(code, StatusCode::NoSpace);
    for id in 1..=3 {
        let meta = cluster.meta(id, chunk(index));
        assert!(
            meta.is_none_or(|meta| !meta.exists && meta.pending.is_none()),
            "target {id}"
        );
    }
    let first = cluster.read(3, chunk(0), ReadMode::Linearizable).await;
    assert_eq!(first.unwrap().0, block);
    for removed in 0..2 {
        let remove = cluster.item(chunk(removed), Update::Remove, cluster.fresh_tag());
        cluster.update(1, remove, b"", LONG).await.unwrap();
    }
    cluster.write(1, chunk(index), 0, &block).await.unwrap();
    assert_eq!(cluster.contents(1), cluster.contents(3));
}

#[tokio::test]
async fn a_full_head_fails_the_write_and_keeps_the_chain() {
    let cluster = Cluster::start_with(&[2 << 20, 8 << 30]).await;
    let block = [7; CHUNK_SIZE as usize];
    let mut results = Vec::new();
    for index in 0..64 {
        results.push(cluster.write(1, chunk(index), 0, &block).await);
    }
    let failed = results.iter().filter_map(|result| result.as_ref().err());
    assert!(failed.clone().count() > 0);
    assert!(
        failed
            .clone()
            .all(|status| status.code == StatusCode::NoSpace)
    );
    assert_eq!(cluster.view(1).local, LocalState::UpToDate);
    assert_eq!(cluster.contents(1), cluster.contents(2));
}

#[tokio::test]
async fn a_successor_that_lacks_versions_gets_the_whole_chunk() {
    let cluster = Cluster::start(3).await;
    cluster.write(1, chunk(0), 0, b"one two").await.unwrap();
    cluster.write(1, chunk(0), 4, b"TWO").await.unwrap();
    for id in [2, 3] {
        let key = cluster.target(id).key(chunk(0));
        cluster.engine(id).drop_chunk(key).await.unwrap();
    }
    cluster.write(1, chunk(0), 7, b" three").await.unwrap();
    for id in 1..=3 {
        let (bytes, _) = cluster
            .read(id, chunk(0), ReadMode::Linearizable)
            .await
            .unwrap();
        assert_eq!(bytes, b"one TWO three", "target {id}");
    }
}

#[tokio::test]
async fn replicas_that_differ_never_commit_and_one_leaves() {
    let cluster = Cluster::start(2).await;
    cluster.write(1, chunk(0), 0, b"same bytes").await.unwrap();
    // The tail gets other bytes behind everyone's back, at the same version.
    swap_content(&cluster, 2, b"SAME bytes").await;
    let item = cluster.write_item(chunk(0), 4, b"-", tag(0, 1));
    let status = cluster.update(1, item, b"-", LONG).await.unwrap_err();
    assert_eq!(status.code, StatusCode::ReplicaDiverged);
    assert_eq!(cluster.view(1).local, LocalState::Offline);
    let mine = cluster.meta(1, chunk(0)).unwrap();
    assert_eq!(mine.commit_version, ChunkVersion(1), "never committed");
}

/// Gives a replica other bytes under the version it has.
async fn swap_content(cluster: &Cluster, id: u64, bytes: &[u8]) {
    let key = cluster.target(id).key(chunk(0));
    let engine = cluster.engine(id);
    let version = engine.get(key).unwrap().unwrap().commit_version;
    engine.drop_chunk(key).await.unwrap();
    let payload = common::buf::BufPool::new(0).copy_from(bytes).freeze();
    let request = engine::UpdateRequest {
        key,
        chunk_size: super::cluster::CHUNK_SIZE,
        change: engine::Change::Replace {
            length: bytes.len() as u32,
        },
        update_version: version,
        chain_version: cluster.version(),
        tag: None,
        payload: Some(payload),
        payload_checksum: types::checksum::Checksum::of(bytes),
    };
    engine.update(request).await.unwrap();
    engine
        .commit(key, version, cluster.version())
        .await
        .unwrap();
}

#[tokio::test]
async fn a_node_that_knows_an_older_map_catches_up() {
    let cluster = Cluster::start(2).await;
    cluster.set_chain_at(&[(1, Serving), (2, Serving)], &[1]);
    cluster.wait_chain(1).await;
    let item = cluster.write_item(chunk(0), 0, b"data", tag(0, 1));
    let write = cluster.update(1, item, b"data", LONG);
    tokio::pin!(write);
    assert!(cluster.env.timeout(SHORT, &mut write).await.is_err());
    let map = cluster.node(1).node.routing.current();
    cluster.node(2).node.routing.offer((*map).clone());
    let done = write.await.unwrap();
    assert_eq!(done.commit_version, ChunkVersion(1));
    assert!(cluster.node(1).node.target_of(CHAIN).is_ok());
}
