//! A syncing target that its predecessor cannot reach is reported, and taken back once it answers.

use types::{id::TargetId, target::LocalState};

use super::cluster::{Cluster, Offline, Serving, Syncing, chunk};

#[tokio::test]
async fn a_syncing_target_out_of_reach_is_reported_and_writes_go_on_without_it() {
    let cluster = Cluster::start(3).await;
    cluster.set_chain(&[(1, Serving), (2, Serving), (3, Offline)]);
    cluster.wait_local(3, LocalState::Online).await;
    cluster.cut(2, 3);
    cluster.set_chain(&[(1, Serving), (2, Serving), (3, Syncing)]);
    for id in 1..=3 {
        cluster.wait_chain(id).await;
    }
    let reported = |id: u64| cluster.target(id).reach.lock().lost();
    let manager = async {
        let lost = || reported(2) == [TargetId(3)];
        cluster.wait("the report", lost).await;
        assert!(reported(1).is_empty());
        // What the manager does about it.
        cluster.set_chain(&[(1, Serving), (2, Serving), (3, Offline)]);
    };
    let write = cluster.write(1, chunk(0), 0, b"held up for a while");
    let (written, ()) = futures::join!(write, manager);
    // The client sent it by the map of before.
    if written.is_err() {
        cluster.write(1, chunk(0), 0, b"again").await.unwrap();
    }
    let committed = |id| {
        cluster
            .meta(id, chunk(0))
            .is_some_and(|m| m.pending.is_none())
    };
    assert!(committed(1) && committed(2));
    cluster.join();
    cluster.wait("an answer", || reported(2).is_empty()).await;
    cluster.set_chain(&[(1, Serving), (2, Serving), (3, Syncing)]);
    cluster.wait_local(3, LocalState::UpToDate).await;
    assert_eq!(cluster.contents(3), cluster.contents(1));
}
