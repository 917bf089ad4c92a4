//! Writes through a healthy chain: every replica gets them, once.

use std::time::Duration;

use types::{
    chunk::Update,
    id::InodeId,
    rpc::storage::{
        QueryChunks, QueryChunksRequest, QueryLastChunk, QueryLastChunkRequest, ReadMode,
    },
    status::{Detail, StatusCode},
    version::{ChainVersion, ChunkVersion},
};

use super::cluster::{CHAIN, CHUNK_SIZE, Cluster, chunk, tag};

const SOON: Duration = Duration::from_secs(5);

#[tokio::test]
async fn an_acknowledged_write_is_committed_on_every_replica() {
    let cluster = Cluster::start(3).await;
    let first = cluster.write(1, chunk(0), 0, b"hello").await.unwrap();
    assert_eq!((first.length, first.commit_version), (5, ChunkVersion(1)));
    let second = cluster.write(1, chunk(0), 3, b"p me").await.unwrap();
    assert_eq!((second.length, second.commit_version), (7, ChunkVersion(2)));
    for id in 1..=3 {
        let meta = cluster.meta(id, chunk(0)).unwrap();
        assert_eq!(meta.commit_version, ChunkVersion(2), "target {id}");
        assert_eq!((meta.checksum, meta.pending), (second.checksum, None));
        let (bytes, done) = cluster
            .read(id, chunk(0), ReadMode::Linearizable)
            .await
            .unwrap();
        assert_eq!(bytes, b"help me");
        assert_eq!(
            (done.chunk_length, done.commit_version),
            (7, ChunkVersion(2))
        );
    }
}

#[tokio::test]
async fn a_retry_is_answered_and_not_run() {
    let cluster = Cluster::start(2).await;
    let item = |seq, bytes: &[u8]| cluster.write_item(chunk(0), 0, bytes, tag(3, seq));
    let first = cluster.update(1, item(1, b"a"), b"a", SOON).await.unwrap();
    cluster.write(1, chunk(0), 0, b"b").await.unwrap();
    let retry = cluster.update(1, item(1, b"a"), b"a", SOON).await.unwrap();
    assert_eq!(first, retry);
    let (bytes, _) = cluster
        .read(2, chunk(0), ReadMode::Linearizable)
        .await
        .unwrap();
    assert_eq!(bytes, b"b");
    cluster.update(1, item(2, b"c"), b"c", SOON).await.unwrap();
    let stale = cluster.update(1, item(1, b"a"), b"a", SOON).await;
    assert_eq!(stale.unwrap_err().code, StatusCode::ChannelStale);
}

#[tokio::test]
async fn a_damaged_payload_changes_nothing() {
    let cluster = Cluster::start(2).await;
    let item = cluster.write_item(chunk(0), 0, b"right", tag(0, 1));
    let damaged = cluster.update(1, item.clone(), b"wrong", SOON).await;
    assert_eq!(damaged.unwrap_err().code, StatusCode::ChecksumMismatch);
    assert_eq!(cluster.meta(1, chunk(0)), None);
    let again = cluster.update(1, item, b"right", SOON).await.unwrap();
    assert_eq!(again.commit_version, ChunkVersion(1));
}

#[tokio::test]
async fn only_the_head_takes_updates_and_only_of_this_chain_version() {
    let cluster = Cluster::start(2).await;
    let item = cluster.write_item(chunk(0), 0, b"x", tag(0, 1));
    let at_tail = cluster.update(2, item.clone(), b"x", SOON).await;
    assert_eq!(at_tail.unwrap_err().code, StatusCode::WrongRole);
    let mut old = item.clone();
    old.chain_version = ChainVersion(0);
    let status = cluster.update(1, old, b"x", SOON).await.unwrap_err();
    assert_eq!(status.code, StatusCode::ChainVersionMismatch);
    assert!(matches!(status.detail, Detail::Routing(version) if version.0 > 0));
    let mut far = item;
    far.update = Update::Write {
        offset: CHUNK_SIZE,
        length: 1,
    };
    let status = cluster.update(1, far, b"x", SOON).await.unwrap_err();
    assert_eq!(status.code, StatusCode::OutOfRange);
}

#[tokio::test]
async fn concurrent_updates_of_one_chunk_take_turns() {
    let cluster = Cluster::start(3).await;
    let writes = (0..40_u32).map(|n| {
        let cluster = &cluster;
        async move {
            cluster
                .write(1, chunk(n % 2), n * 4, &n.to_be_bytes())
                .await
        }
    });
    let results = futures::future::join_all(writes).await;
    let mut versions: Vec<u32> = results
        .into_iter()
        .map(|done| done.unwrap().commit_version.0)
        .collect();
    versions.sort_unstable();
    let expected: Vec<u32> = (1..=20).flat_map(|v| [v, v]).collect();
    assert_eq!(versions, expected);
    let all: Vec<_> = (1..=3).map(|id| cluster.contents(id)).collect();
    assert!(all[0] == all[1] && all[1] == all[2], "{all:?}");
    for n in 0..40_u32 {
        let (bytes, _) = cluster
            .read(3, chunk(n % 2), ReadMode::Linearizable)
            .await
            .unwrap();
        let at = n as usize * 4;
        assert_eq!(bytes[at..at + 4], n.to_be_bytes());
    }
}

#[tokio::test]
async fn chunks_are_cut_extended_and_removed_everywhere() {
    let cluster = Cluster::start(2).await;
    cluster.write(1, chunk(0), 0, b"0123456789").await.unwrap();
    let run = async |update| {
        let item = cluster.item(chunk(0), update, cluster.fresh_tag());
        cluster.update(1, item, b"", SOON).await.unwrap()
    };
    assert_eq!(run(Update::Truncate { length: 4 }).await.length, 4);
    assert_eq!(run(Update::Extend { length: 6 }).await.length, 6);
    let (bytes, _) = cluster
        .read(2, chunk(0), ReadMode::Linearizable)
        .await
        .unwrap();
    assert_eq!(bytes, b"0123\0\0");
    run(Update::Remove).await;
    for id in 1..=2 {
        let gone = cluster.read(id, chunk(0), ReadMode::Linearizable).await;
        assert_eq!(gone.unwrap_err().code, StatusCode::ChunkNotFound);
        let floor = cluster.meta(id, chunk(0)).unwrap();
        assert_eq!(
            (floor.exists, floor.commit_version),
            (false, ChunkVersion(4))
        );
    }
    let again = cluster.write(1, chunk(0), 0, b"new").await.unwrap();
    assert_eq!((again.length, again.commit_version), (3, ChunkVersion(5)));
}

#[tokio::test]
async fn a_files_chunks_are_listed_in_pages() {
    let cluster = Cluster::start(2).await;
    for index in 0..10 {
        cluster.write(1, chunk(index), 0, b"x").await.unwrap();
    }
    let remove = cluster.item(chunk(4), Update::Remove, cluster.fresh_tag());
    cluster.update(1, remove, b"", SOON).await.unwrap();
    let ask = QueryLastChunkRequest {
        chain: CHAIN,
        chain_version: cluster.version(),
        target: types::id::TargetId(2),
        inode: InodeId(7),
    };
    let last = cluster.ask::<QueryLastChunk>(2, &ask).await.unwrap();
    assert_eq!(last.unwrap().index, 9);
    let (mut found, mut from) = (Vec::new(), Some(2));
    while let Some(from_index) = from {
        let request = QueryChunksRequest {
            chain: CHAIN,
            chain_version: cluster.version(),
            inode: InodeId(7),
            from_index,
            limit: 5,
        };
        let page = cluster.ask::<QueryChunks>(1, &request).await.unwrap();
        let refused = cluster.ask::<QueryChunks>(2, &request).await;
        assert_eq!(refused.unwrap_err().code, StatusCode::WrongRole);
        assert!(page.indices.len() <= 5);
        found.push(page.indices);
        from = page.next;
    }
    assert_eq!(found, [vec![2, 3, 5, 6, 7], vec![8, 9]]);
}
