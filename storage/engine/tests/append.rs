//! Appends go behind the committed bytes, into the same slot, and touch nothing that is there.

use std::sync::Arc;

use common::env::Env;
use engine::{
    BLOCK_BYTES, Change, ReadVersion,
    device::{FileId, faulty::FaultyDevice, mem::PowerSwitch},
};
use types::{chunk::Update, id::ChainId};

use crate::support::{
    CHUNK_SIZE, MemDisk, TARGET, apply, config, key, pattern, put, read_all, request, slot_config,
    write_at,
};

const BLOCK: usize = BLOCK_BYTES as usize;

#[tokio::test]
async fn an_append_never_touches_committed_sectors() {
    let env = Env::real();
    let disk = MemDisk::new(&env, PowerSwitch::lasting());
    let device = FaultyDevice::new(Arc::new(disk.device.clone()));
    let engine = disk.open_with(&env, device.clone(), slot_config()).await;
    engine.create_target(TARGET, ChainId(1)).await.unwrap();
    let content = pattern(1, 8 * BLOCK_BYTES);
    put(&engine, key(0), 1, 0, &content[..BLOCK]).await;
    let slot = engine.positions(key(0));
    let start = slot.first().unwrap().offset();
    device.take_writes();
    let reads = device.read_count();
    for version in 2..=8_u32 {
        let (from, to) = ((version as usize - 1) * BLOCK, version as usize * BLOCK);
        put(&engine, key(0), version, from as u32, &content[from..to]).await;
        let mut written = device.take_writes();
        written.retain(|(file, ..)| matches!(file, FileId::Group(_)));
        let group = slot.first().unwrap().group;
        assert_eq!(written, [(group.into(), start + from as u64, BLOCK)]);
    }
    assert_eq!(device.read_count(), reads);
    assert_eq!(engine.positions(key(0)), slot);
    assert_eq!(read_all(&engine, key(0)).await.unwrap(), content);
}

#[tokio::test]
async fn a_second_pending_append_goes_elsewhere() {
    let env = Env::real();
    let disk = MemDisk::new(&env, PowerSwitch::lasting());
    let engine = disk.open(&env, slot_config()).await;
    engine.create_target(TARGET, ChainId(1)).await.unwrap();
    let base = pattern(1, BLOCK_BYTES);
    put(&engine, key(0), 1, 0, &base).await;
    let (first, second) = (pattern(2, 5000), pattern(3, 6000));
    for payload in [&first, &second] {
        let change = write_at(BLOCK_BYTES, payload);
        engine
            .update(request(key(0), 2, change, payload))
            .await
            .unwrap();
    }
    // The first one went behind the committed bytes, so the second one must not.
    assert_eq!(engine.positions(key(0)).len(), 2);
    let pending = engine
        .read(key(0), ReadVersion::Pending, 0, CHUNK_SIZE)
        .await
        .unwrap();
    assert_eq!(pending.data[..], [&base[..], &second[..]].concat());
    assert_eq!(read_all(&engine, key(0)).await.unwrap(), base);
    engine.check().unwrap();
}

#[tokio::test]
async fn a_hole_before_an_append_reads_as_zeros() {
    let env = Env::real();
    let disk = MemDisk::new(&env, PowerSwitch::lasting());
    let engine = disk.open(&env, config()).await;
    engine.create_target(TARGET, ChainId(1)).await.unwrap();
    for (index, length) in [(0, BLOCK_BYTES), (1, 100)] {
        // Old bytes behind the end, in the slot: a longer chunk was cut to this length.
        put(&engine, key(index), 1, 0, &pattern(1, 3 * BLOCK_BYTES)).await;
        let cut = Change::Update(Update::Truncate { length });
        apply(&engine, key(index), 2, cut, &[]).await.unwrap();
        let offset = 2 * BLOCK_BYTES + 5;
        put(&engine, key(index), 3, offset, b"end").await;
        let mut expected = pattern(1, length);
        expected.resize(offset as usize, 0);
        expected.extend(b"end");
        assert_eq!(read_all(&engine, key(index)).await.unwrap(), expected);
    }
}
