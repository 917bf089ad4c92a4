//! Bytes that rot on a disk are found though nobody reads them, and replaced by another replica's.

use std::time::Duration;

use common::worker::{Next, Worker};
use types::{rpc::storage::ReadMode, target::PublicState};

use super::{
    cluster::{Cluster, Offline, Serving, chunk},
    damage::rot,
};
use crate::scrub::Scrubber;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn scrubber(cluster: &Cluster, id: u64) -> Scrubber {
    let node = cluster.node(id).node.clone();
    let disk = node.disks[0].clone();
    Scrubber::new(node, disk, 14 * DAY)
}

/// Steps, without the pauses, until so many rounds have ended and nothing waits for its repair.
async fn rounds(cluster: &Cluster, scrubber: &mut Scrubber, count: u64) {
    let deadline = cluster.env.now() + Duration::from_secs(20);
    loop {
        let next = scrubber.step().await;
        assert!(matches!(next, Next::Wait(_)), "{next:?}");
        let total = scrubber.total();
        let settled = total.damaged == total.repaired + total.unrepaired;
        if scrubber.rounds() >= count && settled {
            return;
        }
        assert!(cluster.env.now() < deadline, "{}", scrubber.status());
        cluster.env.sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn a_damaged_chunk_is_found_by_the_scrub_and_repaired() {
    let cluster = Cluster::start(2).await;
    for index in 0..5 {
        let bytes = format!("healthy bytes of {index}");
        cluster
            .write(1, chunk(index), 0, bytes.as_bytes())
            .await
            .unwrap();
    }
    rot(&cluster, 1, chunk(3)).await;
    rot(&cluster, 2, chunk(4)).await;
    for (id, rotten) in [(1, 3), (2, 4)] {
        let mut scrubber = scrubber(&cluster, id);
        assert!(scrubber.status().contains("no round has ended"));
        rounds(&cluster, &mut scrubber, 1).await;
        let total = scrubber.total();
        assert_eq!((total.chunks, total.bytes), (5, 5 * 18));
        assert_eq!((total.damaged, total.repaired, total.unrepaired), (1, 1, 0));
        let status = scrubber.status();
        assert!(
            status.contains("5 chunks of 0 MiB verified, 1 damaged")
                && status.contains("since the start 1 damaged, 1 repaired, 0 not repaired"),
            "{status}"
        );
        let read = cluster
            .read(id, chunk(rotten), ReadMode::Linearizable)
            .await;
        let expected = format!("healthy bytes of {rotten}");
        assert_eq!(read.unwrap().0, expected.as_bytes(), "target {id}");
        let key = cluster.target(id).key(chunk(rotten));
        assert_eq!(cluster.engine(id).scrub_chunk(key).await, Ok(None));
    }
    assert_eq!(cluster.contents(1), cluster.contents(2));
}

#[tokio::test]
async fn damage_that_nobody_can_repair_is_counted_and_left() {
    let cluster = Cluster::start(2).await;
    cluster
        .write(1, chunk(0), 0, b"healthy bytes")
        .await
        .unwrap();
    let alone: [(u64, PublicState); 2] = [(1, Serving), (2, Offline)];
    cluster.set_chain(&alone);
    cluster.wait_chain(1).await;
    rot(&cluster, 1, chunk(0)).await;
    let mut scrubber = scrubber(&cluster, 1);
    rounds(&cluster, &mut scrubber, 1).await;
    let total = scrubber.total();
    assert_eq!((total.damaged, total.repaired, total.unrepaired), (1, 0, 1));
    assert!(!cluster.target(1).is_damaged(chunk(0)));
    assert!(cluster.meta(1, chunk(0)).unwrap().exists);
}

#[tokio::test]
async fn a_round_that_ended_is_followed_by_rest_and_a_failed_disk_ends_it() {
    let cluster = Cluster::start(1).await;
    cluster
        .write(1, chunk(0), 0, b"healthy bytes")
        .await
        .unwrap();
    let mut scrubber = scrubber(&cluster, 1);
    rounds(&cluster, &mut scrubber, 1).await;
    assert!(
        scrubber.status().starts_with("resting"),
        "{}",
        scrubber.status()
    );
    assert_eq!(scrubber.step().await, Next::Wait(Duration::from_secs(60)));
    assert_eq!((scrubber.rounds(), scrubber.total().chunks), (1, 1));
    cluster.engine(1).close().await;
    let mut other = self::scrubber(&cluster, 1);
    assert_eq!(other.step().await, Next::Done);
}
