//! A returning target is filled by its predecessor (protocol section 8), under writes.

use std::time::Duration;

use futures::{FutureExt, StreamExt, future::join_all, stream};
use types::{
    chunk::Update,
    id::TargetId,
    rpc::storage::{AdoptChannels, AdoptChannelsRequest, ChannelDone, ReadMode},
    status::StatusCode,
    target::LocalState,
    version::ChunkVersion,
};

use crate::{config::StorageConfig, resync::pace::ResyncLimits};

use super::cluster::{CHAIN, CHUNK_SIZE, Cluster, Offline, Serving, Syncing, Waiting, chunk, tag};

/// Takes target 3 out and lets the chain go on without it.
async fn leave(cluster: &Cluster) {
    cluster.set_chain(&[(1, Serving), (2, Serving), (3, Offline)]);
    cluster.wait_local(3, LocalState::Online).await;
    for id in 1..=2 {
        cluster.wait_chain(id).await;
    }
}

/// Brings target 3 back; returns when it says that it holds everything.
async fn come_back(cluster: &Cluster) {
    cluster.set_chain(&[(1, Serving), (2, Serving), (3, Waiting)]);
    cluster.wait_chain(3).await;
    cluster.set_chain(&[(1, Serving), (2, Serving), (3, Syncing)]);
    cluster.wait_local(3, LocalState::UpToDate).await;
    cluster.set_chain(&[(1, Serving), (2, Serving), (3, Serving)]);
    for id in 1..=3 {
        cluster.wait_chain(id).await;
    }
}

fn assert_equal(cluster: &Cluster) {
    let first = cluster.contents(1);
    assert!(first.iter().all(|(.., pending)| !pending), "{first:?}");
    for id in 2..=3 {
        assert_eq!(cluster.contents(id), first, "target {id}");
    }
}

#[tokio::test]
async fn a_returning_target_gets_exactly_what_it_lacks() {
    let cluster = Cluster::start(3).await;
    for index in 0..20 {
        cluster.write(1, chunk(index), 0, b"before").await.unwrap();
    }
    leave(&cluster).await;
    for index in (0..30).step_by(3) {
        cluster.write(1, chunk(index), 2, b"during").await.unwrap();
    }
    let remove = cluster.item(chunk(1), Update::Remove, tag(0, 1));
    let limit = Duration::from_secs(5);
    cluster.update(1, remove, b"", limit).await.unwrap();
    // A chunk of an earlier life that nobody else knows.
    let stray = cluster.target(3).key(chunk(500));
    make(&cluster, stray, 4, b"stray").await;
    // And one whose version there is higher than what the others ever committed.
    make(
        &cluster,
        cluster.target(3).key(chunk(2)),
        9,
        b"never acknowledged",
    )
    .await;
    come_back(&cluster).await;
    assert_equal(&cluster);
    assert_eq!(cluster.meta(3, chunk(500)), None);
    let (bytes, _) = cluster
        .read(3, chunk(0), ReadMode::Linearizable)
        .await
        .unwrap();
    assert_eq!(bytes, b"beduring");
    assert!(!cluster.meta(3, chunk(1)).unwrap().exists);
    cluster.write(1, chunk(2), 0, b"after").await.unwrap();
    assert_equal(&cluster);
}

async fn make(cluster: &Cluster, key: engine::ChunkKey, version: u32, bytes: &[u8]) {
    let engine = cluster.engine(3);
    let payload = common::buf::BufPool::new(0).copy_from(bytes).freeze();
    let chain_version = types::version::ChainVersion(1);
    let request = engine::UpdateRequest {
        key,
        chunk_size: super::cluster::CHUNK_SIZE,
        change: engine::Change::Replace {
            length: bytes.len() as u32,
        },
        update_version: ChunkVersion(version),
        chain_version,
        tag: None,
        payload: Some(payload),
        payload_checksum: types::checksum::Checksum::of(bytes),
    };
    engine.update(request).await.unwrap();
    let version = ChunkVersion(version);
    engine.commit(key, version, chain_version).await.unwrap();
}

#[tokio::test]
async fn a_resync_under_writes_ends_with_equal_replicas() {
    let cluster = Cluster::start(3).await;
    for index in 0..60 {
        cluster.write(1, chunk(index), 0, &[1; 2000]).await.unwrap();
    }
    leave(&cluster).await;
    for index in 0..60 {
        cluster.write(1, chunk(index), 0, &[2; 1000]).await.unwrap();
    }
    cluster.set_chain(&[(1, Serving), (2, Serving), (3, Syncing)]);
    // Writers hit old chunks, make new ones and remove some, ahead of the walk and behind it.
    let writers = (0..8_u32).map(|writer| {
        let cluster = &cluster;
        async move {
            for round in 0..25_u32 {
                let index = (writer * 31 + round * 7) % 90;
                let bytes = [writer as u8; 700];
                let offset = round * 100;
                cluster
                    .write(1, chunk(index), offset, &bytes)
                    .await
                    .unwrap();
                if round % 9 == 8 {
                    let item = cluster.item(chunk(index), Update::Remove, cluster.fresh_tag());
                    let limit = Duration::from_secs(5);
                    cluster.update(1, item, b"", limit).await.unwrap();
                }
            }
        }
    });
    join_all(writers).await;
    cluster.wait_local(3, LocalState::UpToDate).await;
    cluster.set_chain(&[(1, Serving), (2, Serving), (3, Serving)]);
    for id in 1..=3 {
        cluster.wait_chain(id).await;
    }
    assert_equal(&cluster);
    cluster.write(1, chunk(3), 5, b"after").await.unwrap();
    assert_equal(&cluster);
}

#[tokio::test]
async fn a_resync_goes_on_when_the_predecessor_dies() {
    let cluster = Cluster::start(3).await;
    leave(&cluster).await;
    for index in 0..30 {
        cluster.write(1, chunk(index), 0, b"during").await.unwrap();
    }
    cluster.set_chain(&[(1, Serving), (2, Serving), (3, Syncing)]);
    cluster.kill(2).await;
    cluster.set_chain(&[(1, Serving), (3, Syncing), (2, Offline)]);
    cluster.wait_local(3, LocalState::UpToDate).await;
    cluster.set_chain(&[(1, Serving), (3, Serving), (2, Offline)]);
    cluster.wait_chain(1).await;
    cluster.wait_chain(3).await;
    assert_eq!(cluster.contents(1), cluster.contents(3));
    assert_eq!(cluster.contents(3).len(), 30);
}

/// More than two pages of chunks, of which target 3 has none; its resync has just begun, so slowly that it takes seconds.
const MANY: u32 = 2200;

async fn in_the_middle() -> Cluster {
    let limits = ResyncLimits {
        bytes_per_second: Some(u64::from(CHUNK_SIZE) * 700),
        ..StorageConfig::default().resync()
    };
    let cluster = Cluster::start_limited(&[8 << 30; 3], limits).await;
    leave(&cluster).await;
    let writes = (0..MANY).map(|index| {
        let cluster = &cluster;
        async move { cluster.write(1, chunk(index), 0, b"during").await }.boxed_local()
    });
    let written: Vec<_> = stream::iter(writes).buffer_unordered(64).collect().await;
    assert!(written.iter().all(Result::is_ok), "{written:?}");
    cluster.set_chain(&[(1, Serving), (2, Serving), (3, Syncing)]);
    let second_page = || cluster.meta(3, chunk(1100)).is_some();
    cluster.wait("the second page", second_page).await;
    assert_eq!(cluster.meta(3, chunk(MANY - 1)), None);
    cluster
}

#[tokio::test]
async fn a_resync_goes_on_at_its_cursor_after_the_chain_changed() {
    let cluster = in_the_middle().await;
    cluster.kill(1).await;
    cluster.set_chain(&[(2, Serving), (3, Syncing), (1, Offline)]);
    cluster.wait_chain(2).await;
    cluster.write(2, chunk(5), 0, b"again").await.unwrap();
    cluster.wait_local(3, LocalState::UpToDate).await;
    let report = cluster.resync(2).unwrap();
    // One walk from the first chunk to the last, so what was sent before the change counts. What was on its way then does not.
    assert_eq!(report.done_chunks, u64::from(MANY));
    assert!(report.sent_chunks > u64::from(MANY) - 100, "{report:?}");
    assert_eq!(report.left_chunks, 0);
    assert_eq!(cluster.contents(3), cluster.contents(2));
}

#[tokio::test]
async fn what_changed_while_nobody_passed_it_on_is_compared_again() {
    let cluster = in_the_middle().await;
    leave(&cluster).await;
    for index in [0, 5, 1000] {
        cluster.write(1, chunk(index), 0, b"alone").await.unwrap();
    }
    come_back(&cluster).await;
    assert_equal(&cluster);
}

#[tokio::test]
async fn a_version_that_the_predecessor_missed_makes_the_walk_begin_anew() {
    let cluster = in_the_middle().await;
    // The predecessor never hears that target 3 was out, and that its chunk was lost meanwhile.
    cluster.set_chain_at(&[(1, Serving), (2, Serving), (3, Offline)], &[1, 3]);
    cluster.wait_chain(3).await;
    cluster.wait_local(3, LocalState::Online).await;
    let key = cluster.target(3).key(chunk(5));
    cluster.engine(3).drop_chunk(key).await.unwrap();
    cluster.set_chain(&[(1, Serving), (2, Serving), (3, Syncing)]);
    cluster.wait_local(3, LocalState::UpToDate).await;
    let report = cluster.resync(2).unwrap();
    assert_eq!(report.done_chunks, u64::from(MANY));
    // The first page was equal but for one chunk.
    assert!(report.sent_chunks < u64::from(MANY) - 1000, "{report:?}");
    assert_equal(&cluster);
}

#[tokio::test]
async fn a_large_table_of_channels_goes_along_in_pages() {
    let cluster = Cluster::start(3).await;
    leave(&cluster).await;
    cluster.write(1, chunk(0), 0, b"during").await.unwrap();
    // Nobody else adopts here what was never an update, so these are only a number of entries.
    let engine = cluster.engine(2);
    let one = engine.channels(TargetId(2)).unwrap().remove(0);
    let channels = (0..3000).map(|channel| ChannelDone {
        tag: tag(channel, 1_000_000),
        ..one.clone()
    });
    let channels: Vec<_> = channels.collect();
    engine.adopt_channels(TargetId(2), &channels).await.unwrap();
    come_back(&cluster).await;
    let of = |id| cluster.engine(id).channels(TargetId(id)).unwrap();
    assert!(of(2).len() >= 3000);
    assert_eq!(of(3), of(2));
}

#[tokio::test]
async fn only_a_syncing_target_adopts_channels_and_no_more_than_a_page() {
    let cluster = Cluster::start(3).await;
    cluster.write(1, chunk(0), 0, b"data").await.unwrap();
    let one = cluster.engine(1).channels(TargetId(1)).unwrap().remove(0);
    let request = |count| AdoptChannelsRequest {
        chain: CHAIN,
        chain_version: cluster.version(),
        target: TargetId(3),
        channels: vec![one.clone(); count],
    };
    let refused = cluster.ask::<AdoptChannels>(3, &request(1)).await;
    assert_eq!(refused.unwrap_err().code, StatusCode::WrongRole);
    let refused = cluster.ask::<AdoptChannels>(3, &request(1025)).await;
    assert_eq!(refused.unwrap_err().code, StatusCode::InvalidArgument);
}
