//! Targets, versions, floors; and the real disk from opening to opening.

use std::collections::BTreeSet;

use common::{buf::BufPool, env::Env};
use engine::{
    Change, DeviceKind, Engine, EngineConfig, EngineError, OpenError, ReadVersion,
    device::{Device, FileId},
};
use types::{
    chunk::{ChunkId, Update},
    id::{ChainId, InodeId, TargetId},
    version::{ChainVersion, ChunkVersion},
};

use crate::support::{
    CHAIN_VERSION, TARGET, apply, config, engine_with, key, pattern, put, read_all, request, until,
    write_at,
};

#[tokio::test]
async fn a_removed_chunk_keeps_its_version_until_it_is_dropped() {
    let (env, disk, engine) = engine_with(config()).await;
    put(&engine, key(0), 4, 0, b"x").await;
    apply(&engine, key(0), 5, Change::Update(Update::Remove), &[])
        .await
        .unwrap();
    engine.close().await;
    let engine = disk.open(&env, config()).await;
    let floor = engine.get(key(0)).unwrap().unwrap();
    assert_eq!(
        (floor.exists, floor.length, floor.commit_version.0),
        (false, 0, 5)
    );
    assert_eq!(floor.tag.unwrap().seq.0, 5);
    assert_eq!(engine.last_chunk(TARGET, InodeId(7)).unwrap(), None);
    assert_eq!(engine.check().unwrap().slots, 0);
    engine.drop_chunk(key(0)).await.unwrap();
    assert_eq!(engine.get(key(0)).unwrap(), None);
    engine.drop_chunk(key(0)).await.unwrap();
}

#[tokio::test]
async fn commit_takes_only_the_pending_version() {
    let (_env, _disk, engine) = engine_with(config()).await;
    let commit = |version| engine.commit(key(0), ChunkVersion(version), ChainVersion(9));
    assert!(matches!(
        commit(1).await,
        Err(EngineError::VersionMismatch { .. })
    ));
    engine
        .update(request(key(0), 1, write_at(0, b"a"), b"a"))
        .await
        .unwrap();
    let only_pending = engine.get(key(0)).unwrap().unwrap();
    assert_eq!(
        (only_pending.exists, only_pending.commit_version.0),
        (false, 0)
    );
    let read = engine.read(key(0), ReadVersion::Committed, 0, 1).await;
    assert!(matches!(read, Err(EngineError::NotFound { .. })));
    let pending = engine
        .read(key(0), ReadVersion::Pending, 0, 10)
        .await
        .unwrap();
    assert_eq!((&pending.data[..], pending.version.0), (&b"a"[..], 1));
    assert!(matches!(
        commit(2).await,
        Err(EngineError::VersionMismatch { .. })
    ));
    let meta = commit(1).await.unwrap();
    assert_eq!((meta.commit_version.0, meta.chain_version.0), (1, 9));
    assert_eq!(commit(1).await.unwrap(), meta);
    engine
        .update(request(key(0), 2, write_at(0, b"b"), b"b"))
        .await
        .unwrap();
    engine.discard_pending(key(0)).await.unwrap();
    assert!(matches!(
        commit(2).await,
        Err(EngineError::VersionMismatch { .. })
    ));
    assert_eq!(engine.get(key(0)).unwrap(), Some(meta));
}

#[tokio::test]
async fn targets_are_apart_and_go_with_their_chunks() {
    let (env, disk, engine) = engine_with(config()).await;
    let other = TargetId(12);
    engine.create_target(other, ChainId(2)).await.unwrap();
    engine.create_target(other, ChainId(2)).await.unwrap();
    let taken = engine.create_target(other, ChainId(3)).await;
    assert!(matches!(taken, Err(EngineError::TargetExists { .. })));
    assert_eq!(
        (engine.targets(), engine.chain_of(other)),
        (vec![TARGET, other], Some(ChainId(2)))
    );
    for index in 0..5 {
        put(&engine, key(index), 1, 0, b"mine").await;
        let mut theirs = key(index);
        theirs.target = other;
        put(&engine, theirs, 1, 0, b"theirs").await;
    }
    assert_eq!(engine.used_by(other), 5 << 16);
    engine.remove_target(other).await.unwrap();
    let gone = engine.remove_target(other).await;
    assert!(matches!(gone, Err(EngineError::UnknownTarget { .. })));
    engine.close().await;
    let engine = disk.open(&env, config()).await;
    assert_eq!(engine.targets(), [TARGET]);
    let first = ChunkId {
        inode: InodeId(0),
        index: 0,
    };
    assert_eq!(engine.list(TARGET, first, 3).unwrap().len(), 3);
    assert_eq!(engine.list(TARGET, key(3).chunk, 9).unwrap().len(), 2);
    assert!(engine.list(other, first, 3).is_err());
    assert_eq!(engine.space().used_bytes, 5 << 16);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_disk_keeps_everything_from_opening_to_opening() {
    let env = Env::real();
    let dir = tempfile::tempdir().unwrap();
    for device in [DeviceKind::Uring, DeviceKind::Direct] {
        let path = dir.path().join(format!("{device:?}"));
        let config = EngineConfig { device, ..config() };
        let pool = BufPool::new(64 << 20);
        let open = || Engine::open(&env, &path, config.clone(), pool.clone());
        let engine = open().await.unwrap();
        engine.create_target(TARGET, ChainId(1)).await.unwrap();
        let again = open().await;
        assert!(matches!(again, Err(OpenError::Directory(_))), "{again:?}");
        let writes = (0..40_u32).map(|index| {
            let engine = engine.clone();
            async move {
                let content = pattern(u64::from(index), 1 + index * 6000);
                put(&engine, key(index), 1, 0, &content).await;
                put(&engine, key(index), 2, index * 100, b"changed").await;
            }
        });
        futures::future::join_all(writes).await;
        engine.close().await;
        assert!(matches!(
            engine.get(key(0)),
            Err(EngineError::Failed { .. })
        ));
        drop(engine);
        let engine = open().await.unwrap();
        for index in 0..40_u32 {
            let mut expected = pattern(u64::from(index), 1 + index * 6000);
            let start = (index * 100) as usize;
            expected.resize(expected.len().max(start + 7), 0);
            expected[start..start + 7].copy_from_slice(b"changed");
            assert_eq!(read_all(&engine, key(index)).await.unwrap(), expected);
        }
        assert_eq!(engine.check().unwrap().chunks, 40);
        engine
            .commit(key(0), ChunkVersion(2), CHAIN_VERSION)
            .await
            .unwrap();
        engine.close().await;
    }
}

/// The log of a disk may get another size; what lies in segments of the old size is folded all the same, and their files
/// go.
#[tokio::test]
async fn a_disk_opens_with_another_size_of_its_log() {
    const CHUNKS: u32 = 20;
    let (env, disk, mut engine) = engine_with(config()).await;
    for index in 0..CHUNKS {
        put(&engine, key(index), 1, 0, &pattern(9, 240_000)).await;
    }
    let mut version = 1;
    for log_bytes in [16 << 20, 1 << 20, 8 << 20] {
        for _ in 0..400 {
            version += 1;
            let index = version % CHUNKS;
            let (offset, payload) = (4096 * (version / CHUNKS % 50), pattern(1, 4096));
            put(&engine, key(index), version, offset, &payload).await;
        }
        engine.close().await;
        let config = EngineConfig {
            log_bytes,
            ..config()
        };
        engine = disk.open(&env, config).await;
        engine.check().unwrap();
    }
    for index in 0..CHUNKS {
        assert_eq!(read_all(&engine, key(index)).await.unwrap().len(), 240_000);
    }
    let limit = std::time::Duration::from_secs(10);
    until(&env, limit, "the log has files of one size", async || {
        version += 1;
        let offset = 4096 * (version / CHUNKS % 50);
        put(
            &engine,
            key(version % CHUNKS),
            version,
            offset,
            &pattern(1, 4096),
        )
        .await;
        let files = disk.device.list().await.unwrap().into_iter();
        let log = files.filter(|(id, _)| matches!(id, FileId::Log(_)));
        let sizes: BTreeSet<u64> = log.map(|(_, bytes)| bytes).collect();
        (sizes.len() == 1).then_some(())
    })
    .await;
    assert_eq!(engine.failure(), None);
}

#[tokio::test]
async fn whoever_waits_while_a_disk_is_closed_gets_an_answer() {
    for yields in 0..10 {
        let (env, _disk, engine) = engine_with(config()).await;
        let waiting = engine.clone();
        let syncs = env.spawn(
            "syncs",
            async move { while waiting.sync().await.is_ok() {} },
        );
        for _ in 0..yields {
            tokio::task::yield_now().await;
        }
        engine.close().await;
        let ended = env.timeout(std::time::Duration::from_secs(5), syncs.join());
        assert!(ended.await.is_ok(), "after {yields} yields");
    }
}
