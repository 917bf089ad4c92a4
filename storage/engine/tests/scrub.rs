//! A scrub finds whatever has changed in what is committed, and nothing else.

use common::env::Env;
use engine::{
    Change, ChunkKey, Engine, EngineConfig, EngineError, ScrubBudget, ScrubDamage,
    device::{
        Device, FileId,
        faulty::{Fault, Faults, FaultyDevice},
        mem::PowerSwitch,
    },
};
use types::{chunk::Update, id::ChainId, id::TargetId};

use crate::support::{
    MemDisk, TARGET, apply, config, engine_with, key, pattern, put, request, slot_config, write_at,
};

const STEP: ScrubBudget = ScrubBudget {
    slot_bytes: 1,
    chunks: 1,
};

/// One whole round in steps of one chunk: the chunks seen, and what is damaged.
async fn round(engine: &Engine) -> (u64, u64, Vec<ScrubDamage>) {
    let (mut chunks, mut bytes, mut damages) = (0, 0, Vec::new());
    let mut cursor = None;
    loop {
        let step = engine.scrub(cursor, STEP).await.unwrap();
        assert!(step.chunks <= 1);
        chunks += step.chunks;
        bytes += step.bytes;
        damages.extend(step.damages);
        cursor = step.next;
        if cursor.is_none() {
            return (chunks, bytes, damages);
        }
    }
}

fn corrupt(key: ChunkKey, block: u32) -> ScrubDamage {
    let chunk = key.chunk;
    ScrubDamage {
        key,
        error: EngineError::ChunkCorrupt { chunk, block },
    }
}

/// Every byte of the content of every slot, one after the other: found, with chunk and block, and no other.
#[tokio::test]
async fn a_flipped_bit_in_any_byte_of_any_slot_is_found() {
    let (_env, disk, engine) = engine_with(slot_config()).await;
    let lengths = [1, 4095, 4096, 4097, 9000];
    for (index, length) in (0..).zip(lengths) {
        put(&engine, key(index), 1, 0, &pattern(9, length)).await;
    }
    let whole = lengths.iter().map(|&length| u64::from(length)).sum();
    assert_eq!(round(&engine).await, (5, whole, vec![]));
    for (index, length) in (0..).zip(lengths) {
        let position = *engine.positions(key(index)).first().unwrap();
        for byte in 0..length {
            let offset = position.offset() as usize + byte as usize;
            disk.device.flip_bit(position.group.into(), offset);
            let found = corrupt(key(index), byte / engine::BLOCK_BYTES);
            let chunk = engine.scrub_chunk(key(index)).await.unwrap();
            assert_eq!(chunk.as_ref(), Some(&found.error), "byte {byte}");
            // A whole round costs more: at the edges of blocks, and now and then.
            if byte % 1024 == 0 || byte % 4096 == 4095 {
                assert_eq!(round(&engine).await.2, [found], "byte {byte}");
            }
            disk.device.flip_bit(position.group.into(), offset);
        }
    }
    assert_eq!(round(&engine).await, (5, whole, vec![]));
    assert_eq!(engine.failure(), None);
}

/// Blocks of small updates lie in the log until they are folded.
#[tokio::test]
async fn a_flipped_bit_in_the_log_is_found() {
    let (_env, disk, engine) = engine_with(config()).await;
    put(&engine, key(0), 1, 0, &pattern(3, 9000)).await;
    assert_eq!(round(&engine).await, (1, 9000, vec![]));
    let files = disk.device.list().await.unwrap();
    let logs = files.iter().filter(|(id, _)| matches!(id, FileId::Log(_)));
    // The update's blocks are found by their content.
    let wanted = &pattern(3, 9000)[4096..4116];
    let (file, at) = logs
        .filter_map(|&(id, bytes)| {
            let stored = disk.device.stored(id, 0..bytes as usize);
            let at = stored.windows(20).position(|bytes| bytes == wanted)?;
            Some((id, at))
        })
        .next()
        .unwrap();
    disk.device.flip_bit(file, at);
    assert_eq!(round(&engine).await.2, [corrupt(key(0), 1)]);
    disk.device.flip_bit(file, at);
    assert_eq!(round(&engine).await.2, []);
}

#[tokio::test]
async fn steps_go_through_all_targets_in_order_and_skip_what_has_no_bytes() {
    let (_env, _disk, engine) = engine_with(slot_config()).await;
    let other = TargetId(12);
    engine.create_target(other, ChainId(2)).await.unwrap();
    let there = |index| ChunkKey {
        target: other,
        ..key(index)
    };
    put(&engine, key(0), 1, 0, &pattern(1, 100)).await;
    put(&engine, key(5), 1, 0, &pattern(2, 70_000)).await;
    put(&engine, there(1), 1, 0, &pattern(3, 200)).await;
    let removal = Change::Update(Update::Remove);
    apply(&engine, key(0), 2, removal, &[]).await.unwrap();
    let pending = request(key(1), 1, write_at(0, b"pending"), b"pending");
    engine.update(pending).await.unwrap();
    assert_eq!(round(&engine).await, (2, 70_200, vec![]));
    let budget = ScrubBudget {
        slot_bytes: u64::MAX,
        chunks: 1,
    };
    let first = engine.scrub(None, budget).await.unwrap();
    assert_eq!((first.bytes, first.slot_bytes), (70_000, 128 << 10));
    assert_eq!(first.next, Some(key(5)));
    let second = engine.scrub(first.next, budget).await.unwrap();
    assert_eq!((second.bytes, second.next), (200, Some(there(1))));
    let end = engine.scrub(second.next, budget).await.unwrap();
    assert_eq!((end.chunks, end.next), (0, None));
    engine.remove_target(TARGET).await.unwrap();
    assert_eq!(round(&engine).await, (1, 200, vec![]));
}

/// What is replaced while it is read is no damage, whatever stands in its old slot.
#[tokio::test]
async fn a_chunk_replaced_meanwhile_is_no_damage() {
    let env = Env::real();
    let disk = MemDisk::new(&env, PowerSwitch::lasting());
    let device = FaultyDevice::new(std::sync::Arc::new(disk.device.clone()));
    let config = EngineConfig {
        hang_seconds: 1,
        ..slot_config()
    };
    let engine = disk.open_with(&env, device.clone(), config).await;
    engine.create_target(TARGET, ChainId(1)).await.unwrap();
    put(&engine, key(0), 1, 0, &pattern(1, 9000)).await;
    let replace = async {
        let content = pattern(2, 9000);
        let change = Change::Replace { length: 9000 };
        apply(&engine, key(0), 2, change, &content).await.unwrap();
    };
    // The scrub has taken the version when the device hangs; it is another one that is committed when the read fails.
    let scrub = engine.scrub(None, STEP);
    let mut scrub = std::pin::pin!(scrub);
    device.set(Faults {
        read: Fault::Hang,
        ..Faults::default()
    });
    assert!(futures::poll!(&mut scrub).is_pending());
    device.set(Faults::default());
    replace.await;
    let step = scrub.await.unwrap();
    assert_eq!(step.damages, []);
    assert_eq!(round(&engine).await, (1, 9000, vec![]));
}

/// Scrubbing goes on while chunks change and are folded.
#[tokio::test]
async fn a_busy_disk_is_found_sound() {
    let (env, _disk, engine) = engine_with(config()).await;
    let writer = {
        let engine = engine.clone();
        env.spawn("writer", async move {
            for version in 1..400 {
                let index = version % 5;
                let bytes = pattern(u64::from(version), 5000);
                put(&engine, key(index), version, (version % 7) * 3000, &bytes).await;
            }
        })
    };
    while !writer.is_finished() {
        assert_eq!(round(&engine).await.2, []);
        tokio::task::yield_now().await;
    }
    writer.join().await.unwrap();
    assert_eq!(round(&engine).await.0, 5);
    engine.check().unwrap();
}

#[tokio::test]
async fn a_read_error_is_damage_and_a_failed_disk_ends_the_scrub() {
    let env = Env::real();
    let disk = MemDisk::new(&env, PowerSwitch::lasting());
    let device = FaultyDevice::new(std::sync::Arc::new(disk.device.clone()));
    let engine = disk.open_with(&env, device.clone(), slot_config()).await;
    engine.create_target(TARGET, ChainId(1)).await.unwrap();
    put(&engine, key(0), 1, 0, &pattern(1, 9000)).await;
    device.set(Faults {
        read: Fault::Error(5),
        ..Faults::default()
    });
    let found = round(&engine).await.2;
    assert!(
        matches!(
            found[..],
            [ScrubDamage {
                error: EngineError::ReadFailed { .. },
                ..
            }]
        ),
        "{found:?}"
    );
    engine.close().await;
    let ended = engine.scrub(None, STEP).await;
    assert!(matches!(ended, Err(EngineError::Failed { .. })));
}
