//! Damaged bytes, failing and hanging disks, contradicting records.

use std::sync::Arc;

use common::{buf::BufPool, env::Env};
use engine::{
    BLOCK_BYTES, Change, Engine, EngineConfig, EngineError, OpenError,
    device::{
        faulty::{Fault, Faults, FaultyDevice},
        mem::PowerSwitch,
    },
};
use types::{chunk::Update, id::ChainId};

use crate::support::{
    MemDisk, TARGET, apply, config, engine_with, key, pattern, put, read_all, request, slot_config,
    write_at,
};

const EIO: i32 = 5;

async fn faulty_engine(config: EngineConfig) -> (MemDisk, Arc<FaultyDevice>, Engine) {
    let env = Env::real();
    let disk = MemDisk::new(&env, PowerSwitch::lasting());
    let device = FaultyDevice::new(Arc::new(disk.device.clone()));
    let engine = disk.open_with(&env, device.clone(), config).await;
    engine.create_target(TARGET, ChainId(1)).await.unwrap();
    (disk, device, engine)
}

#[tokio::test]
async fn a_flipped_bit_is_found_by_every_read_of_its_block() {
    let (_env, disk, engine) = engine_with(slot_config()).await;
    let content = pattern(1, 50_000);
    put(&engine, key(0), 1, 0, &content).await;
    let position = *engine.positions(key(0)).first().unwrap();
    disk.device
        .flip_bit(position.group.into(), position.offset() as usize + 20_000);
    let corrupt = EngineError::ChunkCorrupt {
        chunk: key(0).chunk,
        block: 20_000 / BLOCK_BYTES,
    };
    assert_eq!(read_all(&engine, key(0)).await, Err(corrupt.clone()));
    // An overwrite elsewhere in the chunk would carry the damage along under a new checksum.
    let change = write_at(0, b"new");
    let update = engine.update(request(key(0), 2, change, b"new")).await;
    assert_eq!(update, Err(corrupt));
    assert_eq!(engine.get(key(0)).unwrap().unwrap().pending, None);
    // Other blocks are fine, and so is replacing the whole.
    let version = engine::ReadVersion::Committed;
    let intact = 20_000 / BLOCK_BYTES * BLOCK_BYTES;
    let before = engine.read(key(0), version, 0, intact).await.unwrap();
    assert_eq!(before.data[..], content[..intact as usize]);
    put(&engine, key(0), 2, 0, &content).await;
    assert_eq!(read_all(&engine, key(0)).await.unwrap(), content);
    assert_eq!(engine.failure(), None);
}

#[tokio::test]
async fn a_read_error_is_an_error_of_that_read() {
    let (_disk, device, engine) = faulty_engine(config()).await;
    put(&engine, key(0), 1, 0, &pattern(1, 9000)).await;
    device.set(Faults {
        read: Fault::Error(EIO),
        ..Faults::default()
    });
    let read = read_all(&engine, key(0)).await;
    assert!(
        matches!(read, Err(EngineError::ReadFailed { .. })),
        "{read:?}"
    );
    device.set(Faults::default());
    assert_eq!(read_all(&engine, key(0)).await.unwrap(), pattern(1, 9000));
}

#[tokio::test]
async fn a_failed_write_or_sync_takes_the_disk_out_of_service() {
    let failing = [
        Faults {
            write: Fault::Error(EIO),
            ..Faults::default()
        },
        Faults {
            write: Fault::Short,
            ..Faults::default()
        },
        Faults {
            sync: Fault::Error(EIO),
            ..Faults::default()
        },
        Faults {
            write: Fault::Hang,
            ..Faults::default()
        },
    ];
    for faults in failing {
        let config = EngineConfig {
            hang_seconds: 1,
            ..config()
        };
        let (disk, device, engine) = faulty_engine(config.clone()).await;
        put(&engine, key(0), 1, 0, b"before").await;
        engine.sync().await.unwrap();
        device.set(faults);
        let update = engine
            .update(request(key(0), 2, write_at(0, b"x"), b"x"))
            .await;
        assert!(
            matches!(update, Err(EngineError::Failed { .. })),
            "{update:?}"
        );
        // The fault is over, but what the disk holds is unknown: nothing works until it is opened again.
        device.set(Faults::default());
        assert!(engine.failure().is_some());
        assert!(matches!(
            engine.get(key(0)),
            Err(EngineError::Failed { .. })
        ));
        assert!(read_all(&engine, key(0)).await.is_err());
        assert!(engine.sync().await.is_err());
        drop(engine);
        let engine = disk.open(&Env::real(), config).await;
        assert_eq!(read_all(&engine, key(0)).await.unwrap(), b"before");
        engine.check().unwrap();
    }
}

#[tokio::test]
async fn requests_that_make_no_sense_change_nothing() {
    let (_env, _disk, engine) = engine_with(config()).await;
    let beyond = write_at(256 << 10, b"x");
    let result = engine.update(request(key(0), 1, beyond, b"x")).await;
    assert!(
        matches!(result, Err(EngineError::OutOfRange { .. })),
        "{result:?}"
    );
    let overflowing = Change::Update(Update::Write {
        offset: u32::MAX,
        length: 1,
    });
    let result = engine.update(request(key(0), 1, overflowing, b"x")).await;
    assert!(
        matches!(result, Err(EngineError::OutOfRange { .. })),
        "{result:?}"
    );
    let result = engine
        .update(request(key(0), 1, write_at(0, b"xy"), b"x"))
        .await;
    assert!(
        matches!(result, Err(EngineError::InvalidRequest { .. })),
        "{result:?}"
    );
    let mut damaged = request(key(0), 1, write_at(0, b"x"), b"x");
    damaged.payload_checksum.0 ^= 1;
    let result = engine.update(damaged).await;
    assert!(
        matches!(result, Err(EngineError::PayloadMismatch { .. })),
        "{result:?}"
    );
    let mut elsewhere = request(key(0), 1, write_at(0, b"x"), b"x");
    elsewhere.key.target.0 += 1;
    let result = engine.update(elsewhere).await;
    assert!(
        matches!(result, Err(EngineError::UnknownTarget { .. })),
        "{result:?}"
    );
    assert_eq!(engine.get(key(0)), Ok(None));
    assert_eq!(engine.check().unwrap().slots, 0);
}

#[tokio::test]
async fn contradicting_records_stop_the_disk() {
    let (env, disk, engine) = engine_with(slot_config()).await;
    for index in 0..2 {
        apply(
            &engine,
            key(index),
            1,
            Change::Replace { length: 3 },
            b"abc",
        )
        .await
        .unwrap();
    }
    engine.close().await;
    disk.store.tamper(|records| {
        let chunks: Vec<Vec<u8>> = records
            .keys()
            .filter(|key| key[0] == b'C')
            .cloned()
            .collect();
        let twin = records[&chunks[0]].clone();
        records.insert(chunks[1].clone(), twin);
        records.insert(b"Cshort".to_vec(), Vec::new());
    });
    let (device, store) = (Arc::new(disk.device.clone()), Arc::new(disk.store.clone()));
    let opened = Engine::open_on(&env, device, store, slot_config(), BufPool::new(0)).await;
    let Err(OpenError::Inconsistent { count, problems }) = opened else {
        panic!("opened a disk that contradicts itself");
    };
    assert_eq!(count, 2, "{problems:?}");
    assert!(
        problems
            .iter()
            .any(|problem| problem.contains("in use twice")),
        "{problems:?}"
    );
}

#[tokio::test]
async fn a_block_behind_the_end_of_the_log_stops_the_disk() {
    let (env, disk, engine) = engine_with(config()).await;
    put(&engine, key(0), 1, 0, &pattern(1, 100_000)).await;
    put(&engine, key(0), 2, 0, &pattern(2, 4096)).await;
    engine.close().await;
    disk.store.tamper(|records| {
        let chunk = records.iter_mut().find(|(key, _)| key[0] == b'C');
        let (_, record) = chunk.unwrap();
        // The last fields: the block's place in its segment, and that nothing is pending.
        let place = record.len() - 2;
        assert!(record[place] < 64 && record[place + 1] == 0);
        record.truncate(place);
        record.extend([0x88, 0x27, 0]);
    });
    let (device, store) = (Arc::new(disk.device.clone()), Arc::new(disk.store.clone()));
    let opened = Engine::open_on(&env, device, store, config(), BufPool::new(0)).await;
    let error = opened.unwrap_err().to_string();
    assert!(error.contains("behind the end of segment"), "{error}");
}
