//! Targets that start, restart and get lost (protocol C5, C6).

use engine::{Change, UpdateRequest};
use types::{
    checksum::Checksum, chunk::Update, rpc::storage::ReadMode, status::StatusCode,
    target::LocalState, version::ChunkVersion,
};

use super::cluster::{
    CHUNK_SIZE, Cluster, LastServing, Offline, Serving, Syncing, Waiting, chunk, tag,
};

#[tokio::test]
async fn a_restarted_target_stays_offline_until_the_map_says_so() {
    let cluster = Cluster::start(2).await;
    cluster.write(1, chunk(0), 0, b"x").await.unwrap();
    cluster.kill(2).await;
    cluster.start_node(2).await;
    for states in [
        [(1, Serving), (2, Serving)],
        [(1, Serving), (2, Syncing)],
        [(1, Serving), (2, Waiting)],
    ] {
        cluster.set_chain(&states);
        cluster.wait_chain(2).await;
        assert_eq!(cluster.view(2).local, LocalState::Offline, "{states:?}");
        let read = cluster.read(2, chunk(0), ReadMode::Linearizable).await;
        assert_eq!(read.unwrap_err().code, StatusCode::UnknownTarget);
    }
    cluster.set_chain(&[(1, Serving), (2, Offline)]);
    cluster.wait_local(2, LocalState::Online).await;
}

#[tokio::test]
async fn the_last_serving_target_commits_what_is_pending_before_it_serves() {
    let cluster = Cluster::start(1).await;
    cluster.write(1, chunk(0), 0, b"older").await.unwrap();
    let payload = common::buf::BufPool::new(0).copy_from(b"newer").freeze();
    let request = UpdateRequest {
        key: cluster.target(1).key(chunk(0)),
        chunk_size: CHUNK_SIZE,
        change: Change::Update(Update::Write {
            offset: 0,
            length: 5,
        }),
        update_version: ChunkVersion(2),
        chain_version: cluster.version(),
        tag: Some(tag(5, 1)),
        payload: Some(payload),
        payload_checksum: Checksum::of(b"newer"),
    };
    cluster.engine(1).update(request).await.unwrap();
    cluster.kill(1).await;
    cluster.start_node(1).await;
    cluster.set_chain(&[(1, LastServing)]);
    cluster.wait_local(1, LocalState::Online).await;
    assert!(cluster.meta(1, chunk(0)).unwrap().pending.is_some());
    cluster.set_chain(&[(1, Serving)]);
    cluster.wait_local(1, LocalState::UpToDate).await;
    let meta = cluster.meta(1, chunk(0)).unwrap();
    assert_eq!((meta.commit_version, meta.pending), (ChunkVersion(2), None));
    assert_eq!(meta.chain_version, cluster.version());
    // And its client's retry is answered, not run.
    let retry = cluster.write_item(chunk(0), 0, b"newer", tag(5, 1));
    let limit = std::time::Duration::from_secs(5);
    let done = cluster.update(1, retry, b"newer", limit).await.unwrap();
    assert_eq!(done.commit_version, ChunkVersion(2));
}

#[tokio::test]
async fn a_target_that_falls_out_reopens_and_waits() {
    let cluster = Cluster::start(2).await;
    cluster.set_chain(&[(1, Serving), (2, Offline)]);
    cluster.wait_chain(2).await;
    cluster.wait_local(2, LocalState::Online).await;
    cluster.set_chain(&[(1, Serving), (2, Waiting)]);
    cluster.wait_chain(2).await;
    assert_eq!(cluster.view(2).local, LocalState::Online);
}

#[tokio::test]
async fn a_lost_target_is_not_made_anew_while_the_cluster_counts_on_it() {
    let cluster = Cluster::start(2).await;
    cluster.write(1, chunk(0), 0, b"x").await.unwrap();
    cluster.kill(2).await;
    cluster.lose_disk(2);
    cluster.start_node(2).await;
    cluster.set_chain(&[(1, Serving), (2, Serving)]);
    cluster.wait_chain(2).await;
    assert_eq!(cluster.view(2).local, LocalState::Offline);
    assert!(cluster.engine(2).targets().is_empty());
    cluster.set_chain(&[(1, Serving), (2, Offline)]);
    cluster.wait_local(2, LocalState::Online).await;
    assert_eq!(cluster.engine(2).targets().len(), 1);
}
