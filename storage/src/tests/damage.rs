//! Bytes that rot on one disk are found by whoever reads them and replaced by another replica's.

use std::{
    fs::OpenOptions,
    io::{Seek, SeekFrom, Write},
    path::Path,
};

use engine::{BLOCK_BYTES, ReadVersion};
use types::{chunk::ChunkId, rpc::storage::ReadMode, status::StatusCode, version::ChunkVersion};

use super::cluster::{Cluster, SMALL_UPDATE_BYTES, chunk};

/// Content that starts so, and is long enough to lie in the slot.
fn content(start: &[u8]) -> Vec<u8> {
    let mut content = start.to_vec();
    content.resize(SMALL_UPDATE_BYTES as usize + 5000, 7);
    content
}

/// Overwrites the stored bytes of a chunk behind the engine's back: in its slot, and in the log, where small updates lie
/// until they are folded.
pub(super) async fn rot(cluster: &Cluster, id: u64, chunk: ChunkId) {
    let key = cluster.target(id).key(chunk);
    let engine = cluster.engine(id);
    // Until then the log holds nothing of it.
    engine.sync().await.unwrap();
    let read = engine.read(key, ReadVersion::Committed, 0, u32::MAX).await;
    let content = read.unwrap().data;
    let dir = cluster.disk_dir(id);
    for position in engine.positions(key) {
        let path = dir.join(format!("groups/{}.dat", position.group));
        overwrite(&path, position.offset());
    }
    for entry in std::fs::read_dir(dir.join("log")).unwrap() {
        let path = entry.unwrap().path();
        let stored = std::fs::read(&path).unwrap();
        let blocks = stored.chunks(BLOCK_BYTES as usize).enumerate();
        for (block, _) in blocks.filter(|(_, bytes)| bytes.starts_with(&content)) {
            overwrite(&path, block as u64 * u64::from(BLOCK_BYTES));
        }
    }
}

fn overwrite(path: &Path, offset: u64) {
    let mut file = OpenOptions::new().write(true).open(path).unwrap();
    file.seek(SeekFrom::Start(offset)).unwrap();
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
        rot(&cluster, id, chunk(0)).await;
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
    rot(&cluster, 2, chunk(0)).await;
    rot(&cluster, 3, chunk(0)).await;
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
