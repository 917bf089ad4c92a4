//! A flipped bit in a data file is found by the read of its block, or it lies where no content is. Every byte of
//! every slot in use is tried, and every byte of a log, as far as there is one.

use std::collections::BTreeMap;

use common::env::Env;
use engine::{
    BLOCK_BYTES, Change, Engine, EngineConfig, EngineError, ReadVersion,
    device::{Device, FileId, mem::PowerSwitch},
};
use types::{chunk::Update, id::ChainId};

use crate::support::{
    CHUNK_SIZE, MemDisk, SMALL, TARGET, apply, config, key, on_a_runtime, pattern, put, request,
    slot_config, write_at,
};

/// Of a longer log this many bytes are tried, evenly spread.
const LOG_BYTES_TRIED: usize = 100_000;

/// What a chunk's versions hold.
#[derive(Default)]
struct Expected {
    committed: Vec<u8>,
    pending: Option<Vec<u8>>,
}

async fn read(engine: &Engine, index: u32, version: ReadVersion) -> Result<Vec<u8>, EngineError> {
    let read = engine.read(key(index), version, 0, CHUNK_SIZE).await?;
    Ok(read.data.to_vec())
}

/// Reads both versions of a chunk: right bytes, or an error that names the chunk. Returns the damaged blocks.
async fn damaged_blocks(engine: &Engine, index: u32, expected: &Expected) -> Vec<u32> {
    let newest = expected.pending.as_ref().unwrap_or(&expected.committed);
    let mut damaged = Vec::new();
    for (version, content) in [
        (ReadVersion::Committed, &expected.committed),
        (ReadVersion::Pending, newest),
    ] {
        match read(engine, index, version).await {
            Ok(bytes) => assert!(bytes == *content, "wrong bytes of chunk {index}"),
            Err(EngineError::ChunkCorrupt { chunk, block }) => {
                assert_eq!(chunk, key(index).chunk);
                damaged.push(block);
            }
            Err(error) => panic!("{error}"),
        }
    }
    damaged
}

/// A chunk for each way to come to its content.
async fn fill(engine: &Engine) -> BTreeMap<u32, Expected> {
    let mut chunks: BTreeMap<u32, Expected> = BTreeMap::new();
    // Written once.
    let plain = pattern(1, 3 * BLOCK_BYTES + 100);
    put(engine, key(0), 1, 0, &plain).await;
    chunks.entry(0).or_default().committed = plain;
    // Overwritten, in parts that overlap.
    let mut content = pattern(2, 5 * BLOCK_BYTES);
    put(engine, key(1), 1, 0, &content).await;
    let places = [
        (0, SMALL),
        (SMALL, SMALL),
        (100, 50),
        (2 * BLOCK_BYTES - 5, 10),
    ];
    for ((offset, length), version) in places.into_iter().zip(2_u32..) {
        let payload = pattern(u64::from(version) << 8, length);
        put(engine, key(1), version, offset, &payload).await;
        content[offset as usize..(offset + length) as usize].copy_from_slice(&payload);
    }
    chunks.entry(1).or_default().committed = content.clone();
    // Cut and extended.
    put(engine, key(2), 1, 0, &content).await;
    for (version, update) in [
        (2, Update::Truncate { length: 5000 }),
        (3, Update::Extend { length: 9000 }),
    ] {
        apply(engine, key(2), version, Change::Update(update), &[])
            .await
            .unwrap();
    }
    let mut cut = content[..5000].to_vec();
    cut.resize(9000, 0);
    chunks.entry(2).or_default().committed = cut;
    // A small overwrite is pending, an append is pending.
    for (index, offset) in [(3, SMALL), (4, 2 * BLOCK_BYTES)] {
        let committed = pattern(u64::from(index), 2 * BLOCK_BYTES);
        put(engine, key(index), 1, 0, &committed).await;
        let payload = pattern(9, SMALL);
        let change = write_at(offset, &payload);
        engine
            .update(request(key(index), 2, change, &payload))
            .await
            .unwrap();
        let mut pending = committed.clone();
        let end = (offset + SMALL) as usize;
        pending.resize(pending.len().max(end), 0);
        pending[offset as usize..end].copy_from_slice(&payload);
        chunks.insert(
            index,
            Expected {
                committed,
                pending: Some(pending),
            },
        );
    }
    chunks
}

#[test]
fn a_flipped_bit_anywhere_in_a_data_file_never_shows_as_wrong_bytes() {
    on_a_runtime(flip_all(slot_config()));
    on_a_runtime(flip_all(config()));
}

async fn flip_all(config: EngineConfig) {
    let env = Env::seeded(1);
    let disk = MemDisk::new(&env, PowerSwitch::lasting());
    let in_slots = config.small_update_bytes == 0;
    let engine = disk.open(&env, config).await;
    engine.create_target(TARGET, ChainId(1)).await.unwrap();
    let chunks = fill(&engine).await;
    engine.sync().await.unwrap();
    let (mut tried, mut found) = (0_u64, 0_u64);
    for (&index, expected) in &chunks {
        for position in engine.positions(key(index)) {
            for byte in 0..position.group.class.slot_bytes() {
                let (file, at) = (position.group.into(), position.offset() as usize);
                disk.device.flip_bit(file, at + byte as usize);
                let damaged = damaged_blocks(&engine, index, expected).await;
                disk.device.flip_bit(file, at + byte as usize);
                assert!(damaged.iter().all(|&block| block == byte / BLOCK_BYTES));
                let content = byte < expected.committed.len() as u32;
                if index == 0 && in_slots {
                    assert_eq!(damaged.len(), 2 * usize::from(content), "byte {byte}");
                }
                tried += 1;
                found += u64::from(!damaged.is_empty());
            }
        }
    }
    for (file, bytes) in disk.device.list().await.unwrap() {
        if !matches!(file, FileId::Log(_)) {
            continue;
        }
        let stride = (bytes as usize / LOG_BYTES_TRIED).max(1);
        for byte in (0..bytes as usize).step_by(stride) {
            disk.device.flip_bit(file, byte);
            for (&index, expected) in &chunks {
                let damaged = damaged_blocks(&engine, index, expected).await;
                found += u64::from(!damaged.is_empty());
            }
            disk.device.flip_bit(file, byte);
            tried += 1;
        }
    }
    say!("{tried} bits flipped, {found} of them in content that was read");
    assert!(found > u64::from(BLOCK_BYTES));
    for (&index, expected) in &chunks {
        let damaged = damaged_blocks(&engine, index, expected).await;
        assert!(damaged.is_empty(), "all bits are back");
    }
    assert_eq!(engine.failure(), None);
}
