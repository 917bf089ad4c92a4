//! Several updates or ranges in one request (protocol W13, D4): each is run, refused and answered by itself.

use std::time::Duration;

use types::{
    chunk::Update,
    rpc::storage::{BATCH_LENGTH_MAX, ReadMode, UpdateDone, UpdateItem},
    status::{Status, StatusCode},
    version::{ChainVersion, ChunkVersion},
};

use super::cluster::{CHUNK_SIZE, Cluster, chunk, tag};

const SOON: Duration = Duration::from_secs(5);

/// What came of each: the version that was committed, or why not.
fn outcomes(results: &[Result<UpdateDone, Status>]) -> Vec<Result<u32, StatusCode>> {
    let outcome = |result: &Result<UpdateDone, Status>| match result {
        Ok(done) => Ok(done.commit_version.0),
        Err(status) => Err(status.code),
    };
    results.iter().map(outcome).collect()
}

async fn content(cluster: &Cluster, at: u64, index: u32) -> Vec<u8> {
    let read = cluster.read(at, chunk(index), ReadMode::Linearizable).await;
    read.unwrap().0
}

#[tokio::test]
async fn each_update_of_a_request_has_its_own_result() {
    let cluster = Cluster::start(3).await;
    let good = |index, channel| cluster.write_item(chunk(index), 0, b"good", tag(channel, 1));
    let far = UpdateItem {
        update: Update::Write {
            offset: CHUNK_SIZE,
            length: 4,
        },
        ..good(2, 2)
    };
    let old = UpdateItem {
        chain_version: ChainVersion(0),
        ..good(3, 3)
    };
    let cut = cluster.item(chunk(0), Update::Truncate { length: 2 }, tag(5, 1));
    let updates: [(UpdateItem, &[u8]); 6] = [
        (good(0, 0), b"good"),
        (good(1, 1), b"baad"),
        (far, b"good"),
        (old, b"good"),
        (good(4, 4), b"good"),
        (cut, b""),
    ];
    let results = cluster.update_many(1, &updates, SOON).await.unwrap();
    let outcomes = outcomes(&results);
    // The first and the last change the same chunk, one after the other.
    let (first, cut) = (outcomes[0], outcomes[5]);
    assert!([(Ok(1), Ok(2)), (Ok(1), Err(StatusCode::ChunkNotFound))].contains(&(first, cut)));
    let expected = [
        Err(StatusCode::ChecksumMismatch),
        Err(StatusCode::OutOfRange),
        Err(StatusCode::ChainVersionMismatch),
        Ok(1),
    ];
    assert_eq!(outcomes[1..5], expected);
    for id in 1..=3 {
        assert_eq!(content(&cluster, id, 4).await, b"good", "target {id}");
        for index in 1..=3 {
            assert_eq!(cluster.meta(id, chunk(index)), None);
        }
    }
}

/// One update cannot have its turn; the others of its request are committed everywhere meanwhile.
#[tokio::test]
async fn updates_of_a_request_do_not_wait_for_each_other() {
    let cluster = Cluster::start(2).await;
    let target = cluster.target(1);
    let deadline = cluster.env.now() + SOON;
    let held = target.enter(&cluster.env, chunk(0), deadline).await;
    let held = held.unwrap();
    let count = 100_u32;
    let items = (0..count).map(|index| {
        let tag = tag(index as u16, 1);
        let item = cluster.write_item(chunk(index), 0, b"x", tag);
        (item, &b"x"[..])
    });
    let items: Vec<_> = items.collect();
    let request = cluster.update_many(1, &items, SOON);
    let others = cluster.wait("the other updates to be committed", || {
        (1..count).all(|index| {
            let meta = cluster.meta(1, chunk(index));
            meta.is_some_and(|meta| meta.commit_version == ChunkVersion(1))
        })
    });
    let others = async {
        others.await;
        assert_eq!(cluster.meta(1, chunk(0)), None);
        drop(held);
    };
    let (results, ()) = futures::join!(request, others);
    assert_eq!(outcomes(&results.unwrap()), vec![Ok(1); count as usize]);
}

/// A client whose reply was lost sends the same again. What it had done must not be done twice, and what it had not done
/// is done now.
#[tokio::test]
async fn a_request_that_comes_again_is_answered_from_each_tag() {
    let cluster = Cluster::start(3).await;
    // Channels that the other writers of this test do not come to.
    let channel = |index: u32| 1000 + index as u16;
    let item = |index: u32| {
        let item = cluster.write_item(chunk(index), 0, b"first", tag(channel(index), 1));
        (item, &b"first"[..])
    };
    // An earlier attempt came as far as two of them.
    let begun = [item(0), item(2)];
    let before = cluster.update_many(1, &begun, SOON).await.unwrap();
    // Others have written the chunks since.
    for index in [0, 2] {
        cluster.write(1, chunk(index), 0, b"later").await.unwrap();
    }
    let all = [item(0), item(1), item(2), item(3)];
    let results = cluster.update_many(1, &all, SOON).await.unwrap();
    assert_eq!(outcomes(&results), [Ok(1); 4]);
    assert_eq!([&results[0], &results[2]], [&before[0], &before[1]]);
    let again = cluster.update_many(1, &all, SOON).await.unwrap();
    assert_eq!(again, results);
    for id in 1..=3 {
        let found = [0, 1, 2, 3].map(|index| content(&cluster, id, index));
        let found = futures::future::join_all(found).await;
        assert_eq!(found, [b"later", b"first", b"later", b"first"]);
    }

    // The same at a head that was not asked before: the tags are known at every replica.
    cluster.kill(1).await;
    cluster.set_chain(&[
        (2, super::cluster::Serving),
        (3, super::cluster::Serving),
        (1, super::cluster::Offline),
    ]);
    cluster.wait_chain(2).await;
    cluster.wait_chain(3).await;
    let all = [item(0), item(1), item(2), item(3)];
    let elsewhere = cluster.update_many(2, &all, SOON).await.unwrap();
    assert_eq!(outcomes(&elsewhere), [Ok(1); 4]);
    assert_eq!(content(&cluster, 3, 0).await, b"later");
}

/// A channel has one update outstanding: a second one in the same request is not run beside it.
#[tokio::test]
async fn two_updates_of_a_channel_in_one_request_do_not_both_run() {
    let cluster = Cluster::start(2).await;
    let items = [0, 1].map(|index| {
        let item = cluster.write_item(chunk(index), 0, b"x", tag(7, u64::from(index) + 1));
        (item, &b"x"[..])
    });
    let results = cluster.update_many(1, &items, SOON).await.unwrap();
    assert_eq!(outcomes(&results), [Ok(1), Err(StatusCode::ChannelBusy)]);
    assert_eq!(cluster.meta(1, chunk(1)), None);
}

#[tokio::test]
async fn a_request_with_too_many_parts_is_refused_whole() {
    let cluster = Cluster::start(1).await;
    let count = BATCH_LENGTH_MAX + 1;
    let cut = |channel| cluster.item(chunk(0), Update::Extend { length: 1 }, tag(channel, 1));
    let items: Vec<_> = (0..count).map(|n| (cut(n as u16), &b""[..])).collect();
    let status = cluster.update_many(1, &items, SOON).await.unwrap_err();
    assert_eq!(status.code, StatusCode::InvalidArgument);
    assert_eq!(cluster.meta(1, chunk(0)), None);
    let mut reads = vec![cluster.read_item(1, chunk(0)); count];
    for item in &mut reads {
        item.length = 1;
    }
    let refused = cluster.read_many(1, reads, ReadMode::Linearizable).await;
    assert_eq!(refused.unwrap_err().code, StatusCode::InvalidArgument);
}

#[tokio::test]
async fn each_range_of_a_request_has_its_own_result_and_place() {
    let cluster = Cluster::start(2).await;
    for index in 0..3 {
        let bytes = vec![index as u8; 100];
        cluster.write(1, chunk(index), 0, &bytes).await.unwrap();
    }
    let mut reads: Vec<_> = (0..5).map(|n| cluster.read_item(2, chunk(n))).collect();
    (reads[1].offset, reads[1].length) = (90, 50);
    reads[2].target = types::id::TargetId(1);
    reads[4].chunk = chunk(2);
    let results = cluster.read_many(2, reads, ReadMode::Linearizable).await;
    let results: Vec<_> = results
        .unwrap()
        .into_iter()
        .map(|result| match result {
            Ok((bytes, _)) => Ok(bytes),
            Err(status) => Err(status.code),
        })
        .collect();
    let expected = [
        Ok(vec![0; 100]),
        Ok(vec![1; 10]),
        Err(StatusCode::UnknownTarget),
        Err(StatusCode::ChunkNotFound),
        Ok(vec![2; 100]),
    ];
    assert_eq!(results, expected);
}
