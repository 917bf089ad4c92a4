//! Bytes that rot on one disk are found by whoever reads them and replaced by another replica's.

use std::{
    fs::OpenOptions,
    io::{Seek, SeekFrom, Write},
};

use types::{rpc::storage::ReadMode, status::StatusCode, version::ChunkVersion};

use super::cluster::{Cluster, SMALL_UPDATE_BYTES, chunk};

/// Content that starts so, and is long enough to lie in the slot.
fn content(start: &[u8]) -> Vec<u8> {
    let mut content = start.to_vec();
    content.resize(SMALL_UPDATE_BYTES as usize + 5000, 7);
    content
}

/// Overwrites the stored bytes of a chunk behind the engine's back.
fn rot(cluster: &Cluster, id: u64) {
    let positions = cluster
        .engine(id)
        .positions(cluster.target(id).key(chunk(0)));
    let position = positions.first().unwrap();
    let path = cluster
        .disk_dir(id)
        .join(format!("groups/{}.dat", position.group));
    let mut file = OpenOptions::new().write(true).open(path).unwrap();
    file.seek(SeekFrom::Start(position.offset())).unwrap();
    file.write_all(b"rotten").unwrap();
    file.sync_all().unwrap();
}

#[tokio::test]
async fn a_damaged_chunk_is_not_shown_and_is_repaired() {
    let cluster = Cluster::start(2).await;
    cluster
        .write(1, chunk(0), 0, &content(b"healthy bytes"))
        .await
        .unwrap();
    for id in [1, 2] {
        rot(&cluster, id);
        let read = cluster.read(id, chunk(0), ReadMode::Linearizable).await;
        assert_eq!(read.unwrap_err().code, StatusCode::ChunkCorrupt);
        let target = cluster.target(id);
        cluster
            .wait("the repair", || !target.is_damaged(chunk(0)))
            .await;
        let (bytes, done) = cluster
            .read(id, chunk(0), ReadMode::Linearizable)
            .await
            .unwrap();
        assert_eq!(bytes, content(b"healthy bytes"), "target {id}");
        assert_eq!(done.commit_version, ChunkVersion(1));
    }
    assert_eq!(cluster.contents(1), cluster.contents(2));
}

#[tokio::test]
async fn a_follower_with_a_damaged_chunk_is_sent_the_whole() {
    let cluster = Cluster::start(3).await;
    cluster
        .write(1, chunk(0), 0, &content(b"healthy bytes"))
        .await
        .unwrap();
    rot(&cluster, 2);
    rot(&cluster, 3);
    let done = cluster.write(1, chunk(0), 8, b"words").await.unwrap();
    assert_eq!(done.commit_version, ChunkVersion(2));
    for id in 1..=3 {
        let (bytes, _) = cluster
            .read(id, chunk(0), ReadMode::Linearizable)
            .await
            .unwrap();
        assert_eq!(bytes, content(b"healthy words"), "target {id}");
    }
}
