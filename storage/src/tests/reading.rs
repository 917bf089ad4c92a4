//! Reads while a version is pending (protocol D2).

use engine::{Change, UpdateRequest};
use types::{
    checksum::Checksum, chunk::Update, rpc::storage::ReadMode, status::StatusCode,
    target::LocalState, version::ChunkVersion,
};

use super::cluster::{CHUNK_SIZE, Cluster, Offline, Serving, chunk, tag};

const CONTENT: &[u8] = b"newer";

/// Leaves a version pending at one replica, as a write does that has not come back from the tail.
async fn make_pending(cluster: &Cluster, id: u64, version: u32) {
    let payload = common::buf::BufPool::new(0).copy_from(CONTENT).freeze();
    let request = UpdateRequest {
        key: cluster.target(id).key(chunk(0)),
        chunk_size: CHUNK_SIZE,
        change: Change::Update(Update::Write {
            offset: 0,
            length: CONTENT.len() as u32,
        }),
        update_version: ChunkVersion(version),
        chain_version: cluster.version(),
        tag: Some(tag(9, 9)),
        payload: Some(payload),
        payload_checksum: Checksum::of(CONTENT),
    };
    cluster.engine(id).update(request).await.unwrap();
}

async fn commit(cluster: &Cluster, id: u64, version: u32) {
    let key = cluster.target(id).key(chunk(0));
    cluster
        .engine(id)
        .commit(key, ChunkVersion(version), cluster.version())
        .await
        .unwrap();
}

async fn read(cluster: &Cluster, id: u64, mode: ReadMode) -> Vec<u8> {
    cluster.read(id, chunk(0), mode).await.unwrap().0
}

#[tokio::test]
async fn a_read_of_a_pending_chunk_returns_what_the_tail_has_committed() {
    let cluster = Cluster::start(3).await;
    cluster.write(1, chunk(0), 0, b"older").await.unwrap();
    for id in 1..=3 {
        make_pending(&cluster, id, 2).await;
    }
    for id in 1..=3 {
        assert_eq!(read(&cluster, id, ReadMode::Linearizable).await, b"older");
        assert_eq!(read(&cluster, id, ReadMode::Uncommitted).await, CONTENT);
    }
    commit(&cluster, 3, 2).await;
    for id in 1..=3 {
        assert_eq!(read(&cluster, id, ReadMode::Linearizable).await, CONTENT);
    }
}

#[tokio::test]
async fn a_new_tail_settles_before_it_answers() {
    let cluster = Cluster::start(3).await;
    cluster.write(1, chunk(0), 0, b"older").await.unwrap();
    for id in 1..=3 {
        make_pending(&cluster, id, 2).await;
    }
    // The tail commits, shows the version to someone, and dies before it can say so.
    commit(&cluster, 3, 2).await;
    assert_eq!(read(&cluster, 3, ReadMode::Linearizable).await, CONTENT);
    cluster.kill(3).await;
    cluster.set_chain(&[(1, Serving), (2, Serving), (3, Offline)]);
    for id in 1..=2 {
        cluster.wait_chain(id).await;
    }
    // Nobody may see the older version any more.
    for id in [1, 2] {
        assert_eq!(read(&cluster, id, ReadMode::Linearizable).await, CONTENT);
    }
    assert_eq!(
        cluster.meta(2, chunk(0)).unwrap().commit_version,
        ChunkVersion(2)
    );
}

#[tokio::test]
async fn a_read_does_not_wait_for_a_tail_that_the_chain_has_left() {
    let cluster = Cluster::start(3).await;
    cluster.write(1, chunk(0), 0, b"older").await.unwrap();
    for id in 1..=3 {
        make_pending(&cluster, id, 2).await;
    }
    cluster.kill(3).await;
    cluster.set_chain(&[(1, Serving), (2, Serving), (3, Offline)]);
    for id in 1..=2 {
        cluster.wait_chain(id).await;
    }
    // The new tail has to settle the chunk before it answers, and hangs there.
    let tail = cluster.target(2);
    let deadline = cluster.env.now() + std::time::Duration::from_secs(60);
    let _hangs = tail.enter(&cluster.env, chunk(0), deadline).await.unwrap();
    let leave = async {
        let is_asked = || tail.turns_wanted(chunk(0)) > 1;
        cluster.wait("the tail to be asked", is_asked).await;
        cluster.set_chain_at(&[(1, Serving), (2, Offline), (3, Offline)], &[1]);
    };
    let read = cluster.read(1, chunk(0), ReadMode::Linearizable);
    let (read, ()) = tokio::join!(read, leave);
    assert_ne!(read.unwrap_err().code, StatusCode::DeadlineExceeded);
}

#[tokio::test]
async fn without_a_lease_or_a_place_nothing_is_read() {
    let cluster = Cluster::start(2).await;
    cluster.write(1, chunk(0), 0, b"x").await.unwrap();
    let missing = cluster.read(1, chunk(5), ReadMode::Linearizable).await;
    assert_eq!(missing.unwrap_err().code, StatusCode::ChunkNotFound);
    let node = cluster.node(2).node.clone();
    node.take_out(&cluster.target(2), "the test says so");
    let out = cluster.read(2, chunk(0), ReadMode::Linearizable).await;
    assert_eq!(out.unwrap_err().code, StatusCode::UnknownTarget);
    assert_eq!(cluster.view(2).local, LocalState::Offline);
}
