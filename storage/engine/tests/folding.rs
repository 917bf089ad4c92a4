//! A log that is full of what cannot be folded, or not be read, stays within its size, and the disk goes on as soon as it can.

use std::{sync::Arc, time::Duration};

use common::{buf::BufPool, env::Env};
use engine::{
    Engine, EngineConfig, EngineError,
    device::{
        Device, FileId,
        faulty::{Fault, Faults, FaultyDevice},
        mem::PowerSwitch,
    },
};
use types::{id::ChainId, version::ChunkVersion};

use crate::support::{
    CHAIN_VERSION, MemDisk, TARGET, config, key, on_a_runtime, pattern, put, read_all, request,
    until, write_at,
};

/// Of `config()`.
const LOG_FILES: usize = 4;
const SMALL: u32 = 4096;
/// The largest update that goes through the log.
const LARGE: u32 = 64 << 10;
const LENGTH: u32 = 200_000;
const LIMIT: Duration = Duration::from_secs(30);
const ENOSPC: i32 = 28;

/// An engine on such a disk, with chunks that lie in slots.
async fn engine_with(
    config: EngineConfig,
    chunks: u32,
) -> (Env, MemDisk, Arc<FaultyDevice>, Engine) {
    let env = Env::seeded(1);
    let disk = MemDisk::new(&env, PowerSwitch::lasting());
    let device = FaultyDevice::new(Arc::new(disk.device.clone()));
    let engine = disk.open_with(&env, device.clone(), config).await;
    engine.create_target(TARGET, ChainId(1)).await.unwrap();
    for index in 0..chunks {
        put(&engine, key(index), 1, 0, &content(index)).await;
    }
    (env, disk, device, engine)
}

async fn log_files(device: &FaultyDevice) -> usize {
    let files = device.list().await.unwrap();
    let log = files.iter().filter(|(id, _)| matches!(id, FileId::Log(_)));
    log.count()
}

fn content(index: u32) -> Vec<u8> {
    pattern(u64::from(index), LENGTH)
}

/// Overwrites the start of a chunk as version 2, which stays pending; false when it is not done in time.
async fn pend(env: &Env, engine: &Engine, index: u32, payload: &[u8]) -> bool {
    let update = engine.update(request(key(index), 2, write_at(0, payload), payload));
    match env.timeout(LIMIT, update).await {
        Ok(updated) => updated.map(|_| true).unwrap(),
        Err(_) => false,
    }
}

async fn commit(engine: &Engine, index: u32) {
    let committed = engine.commit(key(index), ChunkVersion(2), CHAIN_VERSION);
    committed.await.unwrap();
}

/// A successor that hangs leaves chunks pending. The log fills and updates wait; it is not written round and round meanwhile.
#[test]
fn a_log_full_of_pending_chunks_rests() {
    on_a_runtime(async {
        const CHUNKS: u32 = 20;
        let (env, _disk, device, engine) = engine_with(config(), CHUNKS).await;
        let payload = pattern(100, LARGE);
        let mut pended = 0;
        // A disk that is written all the time lets no simulated time pass: it fails instead.
        device.set(Faults {
            log_bytes_left: Some(16 << 20),
            ..Faults::default()
        });
        while pend(&env, &engine, pended, &payload).await {
            pended += 1;
        }
        assert!((4..CHUNKS).contains(&pended), "{pended}");
        drop(device.take_writes());
        let end = env.now() + LIMIT;
        until(&env, 2 * LIMIT, "time passes", async || {
            assert!(log_files(&device).await <= LOG_FILES + 1);
            (env.now() >= end).then_some(())
        })
        .await;
        let writes = device.take_writes().into_iter();
        let into_log = writes.filter(|(id, ..)| matches!(id, FileId::Log(_)));
        let written: usize = into_log.map(|(.., length)| length).sum();
        assert!(written < 1 << 20, "{written} bytes");
        assert_eq!(engine.failure(), None);
        for index in 0..pended {
            commit(&engine, index).await;
        }
        // Also the one that waited all the time.
        until(&env, LIMIT, "the last update is done", async || {
            let meta = engine.get(key(pended)).unwrap()?;
            meta.pending.is_some().then_some(())
        })
        .await;
        for index in pended + 1..CHUNKS {
            assert!(pend(&env, &engine, index, &payload).await);
            commit(&engine, index).await;
        }
        until(&env, LIMIT, "the log has its size", async || {
            put(&engine, key(0), 3, 0, &payload).await;
            (log_files(&device).await <= LOG_FILES).then_some(())
        })
        .await;
        for index in 0..CHUNKS {
            let read = read_all(&engine, key(index)).await.unwrap();
            let start = if index == pended {
                content(index)
            } else {
                payload.clone()
            };
            assert!(read[..LARGE as usize] == start[..LARGE as usize]);
            assert!(read[LARGE as usize..] == content(index)[LARGE as usize..]);
        }
    });
}

/// A few blocks in each segment do not keep it from being used again.
#[test]
fn pending_blocks_that_are_few_are_moved_on() {
    on_a_runtime(async {
        const CHUNKS: u32 = 40;
        let (env, disk, device, engine) = engine_with(config(), 2 * CHUNKS).await;
        let payload = pattern(100, SMALL);
        for index in 0..CHUNKS {
            assert!(pend(&env, &engine, index, &payload).await);
            for block in 0..12 {
                let version = 2 + block;
                let put = put(
                    &engine,
                    key(CHUNKS + index),
                    version,
                    block * SMALL,
                    &payload,
                );
                env.timeout(LIMIT, put).await.unwrap();
            }
        }
        assert!(log_files(&device).await <= LOG_FILES + 1);
        let check = async |engine: &Engine| {
            for index in 0..2 * CHUNKS {
                let read = read_all(engine, key(index)).await.unwrap();
                let blocks = if index < CHUNKS { 1 } else { 12 };
                let mut expected = content(index);
                for block in expected.chunks_mut(SMALL as usize).take(blocks) {
                    block.copy_from_slice(&payload);
                }
                assert!(read == expected, "chunk {index}");
            }
        };
        engine.sync().await.unwrap();
        drop(engine);
        let engine = disk.open(&env, config()).await;
        for index in 0..CHUNKS {
            commit(&engine, index).await;
        }
        check(&engine).await;
        engine.close().await;
        check(&disk.open(&env, config()).await).await;
    });
}

/// Segments that cannot be read are passed over.
#[test]
fn a_part_of_the_log_that_cannot_be_read_does_not_stop_the_disk() {
    on_a_runtime(async {
        /// More than the log holds of their blocks.
        const CHUNKS: u32 = 40;
        let config = EngineConfig {
            log_bytes: 4 << 20,
            ..config()
        };
        let (env, _disk, device, engine) = engine_with(config, CHUNKS).await;
        let payload = pattern(100, LARGE);
        // Less than half of the log.
        for index in 0..15 {
            put(&engine, key(index), 2, 0, &payload).await;
        }
        device.set_unreadable((0..4).map(FileId::Log));
        for version in 3..30 {
            for index in 0..CHUNKS {
                let put = put(&engine, key(index), version, LARGE, &payload);
                env.timeout(LIMIT, put).await.unwrap();
            }
        }
        assert_eq!(engine.failure(), None);
        for index in 0..CHUNKS {
            let read = engine.read(key(index), engine::ReadVersion::Committed, LARGE, LARGE);
            assert!(read.await.unwrap().data[..] == payload[..]);
        }
        // Nothing of it can be read: nobody is left waiting for ever.
        device.set_unreadable((0..64).map(FileId::Log));
        let mut version = 30;
        let error = loop {
            let change = write_at(version % 3 * LARGE, &payload);
            let update = request(key(version % CHUNKS), version, change, &payload);
            let updated = env.timeout(Duration::from_secs(200), engine.update(update));
            match updated.await.unwrap() {
                Ok(_) => {}
                Err(error) => break error,
            }
            let key = key(version % CHUNKS);
            let committed = engine.commit(key, ChunkVersion(version), CHAIN_VERSION);
            committed.await.unwrap();
            version += 1;
        };
        let EngineError::Failed { reason } = error else {
            panic!("{error}");
        };
        assert!(reason.contains("neither read nor folded"), "{reason}");
    });
}

/// Without its maintenance a disk would hang as soon as its log is full.
#[test]
fn a_panic_in_the_background_takes_the_disk_out_of_service() {
    on_a_runtime(async {
        const CHUNKS: u32 = 20;
        let (env, _disk, device, engine) = engine_with(config(), CHUNKS).await;
        device.set(Faults {
            read: Fault::Panic,
            ..Faults::default()
        });
        let payload = pattern(100, LARGE);
        for index in 0..CHUNKS {
            let update = request(key(index), 2, write_at(0, &payload), &payload);
            let update = env.timeout(LIMIT, engine.update(update));
            if update.await.unwrap().is_err() {
                break;
            }
            if engine
                .commit(key(index), ChunkVersion(2), CHAIN_VERSION)
                .await
                .is_err()
            {
                break;
            }
        }
        let failure = engine.failure().unwrap();
        assert!(failure.contains("maintenance"), "{failure}");
    });
}

/// The files of the log that was are not enough for the log that is: the disk says so instead of waiting for ever.
#[test]
fn a_log_of_another_size_has_files_of_its_own() {
    on_a_runtime(async {
        const CHUNKS: u32 = 20;
        let large = EngineConfig {
            log_bytes: 16 << 20,
            ..config()
        };
        let (env, disk, _device, engine) = engine_with(large, CHUNKS).await;
        let payload = pattern(100, LARGE);
        for version in 2..5 {
            for index in 0..CHUNKS {
                let offset = (version - 2) * LARGE;
                put(&engine, key(index), version, offset, &payload).await;
            }
        }
        engine.close().await;
        drop(engine);
        let sizes = async || -> Vec<u64> {
            let files = disk.device.list().await.unwrap().into_iter();
            let log = files.filter(|(id, _)| matches!(id, FileId::Log(_)));
            log.map(|(_, bytes)| bytes).collect()
        };
        let device = FaultyDevice::new(Arc::new(disk.device.clone()));
        device.set(Faults {
            write: Fault::Error(ENOSPC),
            ..Faults::default()
        });
        let (store, pool) = (Arc::new(disk.store.clone()), BufPool::new(1 << 20));
        let opened = Engine::open_on(&env, device, store, config(), pool).await;
        let error = opened.unwrap_err().to_string();
        assert!(error.contains("cannot make the log"), "{error}");
        // What was begun of a file is no use.
        assert!(sizes().await.iter().all(|&bytes| bytes == 1 << 20));
        let engine = disk.open(&env, config()).await;
        for version in 5..10 {
            for index in 0..CHUNKS {
                let put = put(&engine, key(index), version, 0, &payload);
                env.timeout(LIMIT, put).await.unwrap();
            }
        }
        assert_eq!(engine.failure(), None);
        let own = sizes()
            .await
            .into_iter()
            .filter(|&bytes| bytes == 256 << 10);
        assert!((3..=LOG_FILES + 1).contains(&own.count()));
    });
}
