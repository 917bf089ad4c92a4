//! Full disks, slots that someone still reads, groups that are given back.

use std::sync::Arc;

use common::env::Env;
use engine::{
    BLOCK_BYTES, Change, Engine, EngineConfig, EngineError, ReadVersion, SyncPolicy,
    device::{
        Device, FileId,
        faulty::{Fault, Faults, FaultyDevice},
        mem::PowerSwitch,
    },
};
use types::{chunk::Update, id::ChainId, version::ChunkVersion};

use crate::support::{
    CHAIN_VERSION, MemDisk, TARGET, apply, config, engine_with, key, pattern, put, read_all,
    request, slot_config, write_at,
};

const SLOT: u64 = 65_536;
const ENOSPC: i32 = 28;

fn small(slots: u64) -> EngineConfig {
    EngineConfig {
        capacity_bytes: slots * SLOT,
        ..config()
    }
}

/// Writes new chunks until there is no space; returns how many there are.
async fn fill(engine: &Engine) -> u32 {
    for index in 0.. {
        let change = write_at(0, b"x");
        match apply(engine, key(index), 1, change, b"x").await {
            Ok(_) => {}
            Err(EngineError::NoSpace { .. }) => return index,
            Err(error) => panic!("{error}"),
        }
    }
    unreachable!("the disk is small")
}

#[tokio::test]
async fn a_full_disk_refuses_new_chunks_but_lives_on() {
    for sync in [SyncPolicy::Always, SyncPolicy::OnFsync] {
        let config = EngineConfig { sync, ..small(200) };
        let (_env, _disk, engine) = engine_with(config).await;
        assert_eq!(fill(&engine).await, 196);
        assert_eq!(engine.space().used_bytes, 196 * SLOT);
        assert!(engine.space().is_low());
        assert_eq!(engine.used_by(TARGET), 196 * SLOT);
        // What is there can be changed, again and again.
        for version in 2..50 {
            put(&engine, key(3), version, 1, &pattern(1, 100)).await;
        }
        let remove = Change::Update(Update::Remove);
        apply(&engine, key(5), 2, remove, &[]).await.unwrap();
        apply(&engine, key(500), 1, write_at(0, b"y"), b"y")
            .await
            .unwrap();
        let change = write_at(0, b"z");
        let refused = engine.update(request(key(501), 1, change, b"z")).await;
        assert!(
            matches!(refused, Err(EngineError::NoSpace { .. })),
            "{refused:?}"
        );
        assert_eq!(engine.failure(), None);
        engine.sync().await.unwrap();
        assert_eq!(engine.check().unwrap().held_slots, 0);
    }
}

#[tokio::test]
async fn no_space_in_the_file_system_is_no_failure() {
    let env = Env::real();
    let disk = MemDisk::new(&env, PowerSwitch::lasting());
    let device = FaultyDevice::new(Arc::new(disk.device.clone()));
    let engine = disk.open_with(&env, device.clone(), slot_config()).await;
    engine.create_target(TARGET, ChainId(1)).await.unwrap();
    put(&engine, key(0), 1, 0, b"kept").await;
    let full = [
        Faults {
            reserve: Fault::Error(ENOSPC),
            ..Faults::default()
        },
        Faults {
            write: Fault::Error(ENOSPC),
            ..Faults::default()
        },
        Faults {
            available_bytes: Some(1000),
            ..Faults::default()
        },
    ];
    for (round, faults) in (0..).zip(full) {
        device.set(Faults {
            spare_log: true,
            ..faults
        });
        // Two size classes that have no group yet, so that one must be made and grown.
        let payload = pattern(1, (65 << 10) << round);
        let change = write_at(0, &payload);
        let wide = engine::UpdateRequest {
            chunk_size: 64 << 20,
            ..request(key(1), 1, change, &payload)
        };
        let refused = engine.update(wide.clone()).await;
        assert!(
            matches!(refused, Err(EngineError::NoSpace { .. })),
            "{refused:?}"
        );
        apply(
            &engine,
            key(2 + round),
            1,
            Change::Update(Update::Remove),
            &[],
        )
        .await
        .unwrap();
        assert_eq!(engine.failure(), None);
        device.set(Faults::default());
        engine.update(wide).await.unwrap();
    }
    assert_eq!(read_all(&engine, key(0)).await.unwrap(), b"kept");
    engine.sync().await.unwrap();
    assert_eq!(engine.check().unwrap().held_slots, 0);
}

#[tokio::test]
async fn a_slot_is_not_reused_while_someone_reads_it() {
    let env = Env::real();
    let disk = MemDisk::new(&env, PowerSwitch::lasting());
    let device = FaultyDevice::new(Arc::new(disk.device.clone()));
    let engine = disk.open_with(&env, device.clone(), slot_config()).await;
    engine.create_target(TARGET, ChainId(1)).await.unwrap();
    put(&engine, key(0), 1, 0, b"old").await;
    let old = *engine.positions(key(0)).first().unwrap();
    device.set(Faults {
        read: Fault::Hang,
        ..Faults::default()
    });
    let reader = {
        let engine = engine.clone();
        env.spawn("reader", async move {
            engine
                .read(key(0), ReadVersion::Committed, 0, 3)
                .await
                .map(drop)
        })
    };
    while device.read_count() == 0 {
        tokio::task::yield_now().await;
    }
    device.set(Faults::default());
    put(&engine, key(0), 2, 0, b"new").await;
    engine.sync().await.unwrap();
    assert_eq!(engine.check().unwrap().held_slots, 1);
    for index in 1..20 {
        put(&engine, key(index), 1, 0, b"other").await;
        assert_ne!(*engine.positions(key(index)).first().unwrap(), old);
    }
    reader.abort();
    reader.join().await;
    engine.sync().await.unwrap();
    assert_eq!(engine.check().unwrap().held_slots, 0);
    put(&engine, key(30), 1, 0, b"last").await;
    assert_eq!(*engine.positions(key(30)).first().unwrap(), old);
}

#[tokio::test]
async fn a_replaced_version_keeps_its_slot_until_the_record_is_durable() {
    let config = EngineConfig {
        sync: SyncPolicy::OnFsync,
        ..slot_config()
    };
    let (_env, _disk, engine) = engine_with(config).await;
    put(&engine, key(0), 1, 0, b"old").await;
    let old = engine.positions(key(0));
    engine.sync().await.unwrap();
    put(&engine, key(0), 2, 0, b"new").await;
    for index in 1..10 {
        put(&engine, key(index), 1, 0, b"other").await;
        assert_ne!(engine.positions(key(index)), old);
    }
    engine.sync().await.unwrap();
    put(&engine, key(20), 1, 0, b"last").await;
    assert_eq!(engine.positions(key(20)), old);
}

#[tokio::test]
async fn racing_updates_of_one_chunk_leave_one_whole_pending_version() {
    let (env, _disk, engine) = engine_with(config()).await;
    put(&engine, key(0), 1, 0, &pattern(0, BLOCK_BYTES)).await;
    let racers = (1..=8_u64).map(|seed| {
        let engine = engine.clone();
        env.spawn("racer", async move {
            let payload = pattern(seed, 10_000);
            let change = write_at(BLOCK_BYTES, &payload);
            engine
                .update(request(key(0), 2, change, &payload))
                .await
                .unwrap()
                .checksum
        })
    });
    let checksums = futures::future::join_all(racers.map(|task| task.join())).await;
    let read = engine
        .read(key(0), ReadVersion::Pending, 0, u32::MAX)
        .await
        .unwrap();
    assert!(checksums.contains(&Some(read.checksum)));
    engine
        .commit(key(0), ChunkVersion(2), CHAIN_VERSION)
        .await
        .unwrap();
    engine.sync().await.unwrap();
    let report = engine.check().unwrap();
    assert_eq!((report.slots, report.held_slots), (1, 0));
}

#[tokio::test]
async fn empty_groups_are_given_back() {
    let (env, disk, engine) = engine_with(config()).await;
    for index in 0..600 {
        put(&engine, key(index), 1, 0, b"x").await;
    }
    assert_eq!(engine.check().unwrap().groups, 3);
    for index in 0..600 {
        engine.drop_chunk(key(index)).await.unwrap();
    }
    engine.sync().await.unwrap();
    // They are given back in the background after the batch that emptied them.
    loop {
        let files = disk.device.list().await.unwrap();
        let groups = files
            .iter()
            .filter(|(id, _)| matches!(id, FileId::Group(_)));
        if groups.count() == 1 && engine.check().unwrap().groups == 1 {
            break;
        }
        tokio::task::yield_now().await;
    }
    assert_eq!(engine.space().used_bytes, 0);
    engine.close().await;
    let engine = disk.open(&env, config()).await;
    assert_eq!(engine.check().unwrap().chunks, 0);
}
