//! Targets that start, restart and get lost (protocol C5, C6).

use engine::{Change, UpdateRequest};
use types::{
    checksum::Checksum,
    chunk::Update,
    id::TargetId,
    rpc::{mgmtd::StepDown, storage::ReadMode},
    status::StatusCode,
    target::LocalState,
    version::{ChainVersion, ChunkVersion},
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

#[tokio::test]
async fn a_removed_target_answers_nobody_and_one_added_in_its_place_is_filled() {
    let cluster = Cluster::start(3).await;
    cluster.write(1, chunk(0), 0, b"before").await.unwrap();
    cluster.set_chain(&[(1, Serving), (2, Serving), (3, Offline)]);
    cluster.wait_local(3, LocalState::Online).await;
    let removed = cluster.target(3);
    cluster.remove_target(3);
    cluster.set_chain(&[(1, Serving), (2, Serving)]);
    let node = cluster.node(3);
    let gone = || node.node.target_of(super::cluster::CHAIN).is_err();
    cluster.wait("target 3 to be removed", gone).await;
    assert!(node.node.targets().is_empty());
    let read = cluster.read(3, chunk(0), ReadMode::Linearizable).await;
    assert_eq!(read.unwrap_err().code, StatusCode::UnknownTarget);
    assert_eq!(removed.view().local, LocalState::Offline);
    // Its tasks let go of it.
    cluster
        .wait("its tasks to end", || {
            std::sync::Arc::strong_count(&removed) == 1
        })
        .await;
    cluster.write(1, chunk(1), 0, b"without").await.unwrap();
    // What it held stays on the disk, apart from the target that comes next.
    assert_eq!(cluster.contents_of(3, 3).len(), 1);
    cluster.add_target(13, 3);
    cluster.set_chain(&[(1, Serving), (2, Serving), (13, Offline)]);
    cluster.wait_local(3, LocalState::Online).await;
    assert!(cluster.contents_of(3, 13).is_empty());
    cluster.set_chain(&[(1, Serving), (2, Serving), (13, Syncing)]);
    cluster.wait_local(3, LocalState::UpToDate).await;
    cluster.set_chain(&[(1, Serving), (2, Serving), (13, Serving)]);
    cluster.wait_chain(3).await;
    cluster.write(1, chunk(2), 0, b"after").await.unwrap();
    assert_eq!(cluster.contents_of(3, 13).len(), 3);
    assert_eq!(cluster.contents_of(3, 13), cluster.contents(1));
}

#[tokio::test]
async fn a_target_steps_down_only_at_the_version_it_was_asked_for_and_not_alone() {
    let cluster = Cluster::start(2).await;
    let step = |version| StepDown {
        target: TargetId(1),
        chain_version: ChainVersion(version),
    };
    let version = cluster.version().0;
    let node = cluster.node(1);
    node.node.step_down(step(version + 1));
    assert_eq!(cluster.view(1).local, LocalState::UpToDate);
    node.node.step_down(step(version));
    assert_eq!(cluster.view(1).local, LocalState::Offline);
    // Nobody reads from it any more, before the others go on without it.
    let read = cluster.read(1, chunk(0), ReadMode::Linearizable).await;
    assert_eq!(read.unwrap_err().code, StatusCode::UnknownTarget);
    cluster.set_chain(&[(2, Serving), (1, Offline)]);
    cluster.wait_local(1, LocalState::Online).await;
    cluster.wait_chain(2).await;
    cluster.node(2).node.step_down(StepDown {
        target: TargetId(2),
        chain_version: cluster.version(),
    });
    assert_eq!(cluster.view(2).local, LocalState::UpToDate);
}
