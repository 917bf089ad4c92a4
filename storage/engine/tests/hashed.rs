//! A payload whose checksums the caller brings.

use engine::{Engine, EngineError, Hashed, Updated};
use types::version::ChunkVersion;

use crate::support::{
    CHAIN_VERSION, config, engine_with, key, pattern, read_all, request, slot_config, write_at,
};

/// New, replaced, overwritten in whole blocks and in parts of some, appended to at a block's end and elsewhere.
const WRITES: [(u32, u32); 8] = [
    (0, 100_000),
    (0, 131_072),
    (4096, 4096),
    (8192, 20_480),
    (100, 5000),
    (131_072, 8192),
    (139_264, 10),
    (139_274, 9000),
];

#[tokio::test]
async fn it_makes_the_same_versions_as_one_that_the_engine_hashes() {
    for config in [config(), slot_config()] {
        let (_env, _disk, engine) = engine_with(config).await;
        for (version, (offset, length)) in (1..).zip(WRITES) {
            let payload = pattern(u64::from(version), length);
            let hashed = write(&engine, 0, version, (offset, &payload), true).await;
            let plain = write(&engine, 1, version, (offset, &payload), false).await;
            assert_eq!(hashed, plain, "{offset} {length}");
        }
    }
}

/// Writes a part of a chunk, with or without the caller's checksums; returns what it made and the content.
async fn write(
    engine: &Engine,
    index: u32,
    version: u32,
    (offset, payload): (u32, &[u8]),
    is_hashed: bool,
) -> (Updated, Vec<u8>) {
    let update = request(key(index), version, write_at(offset, payload), payload);
    let hashed = update.payload.clone().filter(|_| is_hashed);
    let made = engine.update_hashed(update, hashed.map(Hashed::new)).await;
    let version = ChunkVersion(version);
    let committed = engine.commit(key(index), version, CHAIN_VERSION).await;
    committed.unwrap();
    (made.unwrap(), read_all(engine, key(index)).await.unwrap())
}

#[tokio::test]
async fn it_is_refused_when_it_is_not_what_the_request_says() {
    let (_env, _disk, engine) = engine_with(slot_config()).await;
    let payload = pattern(1, 8192);
    let mut update = request(key(0), 1, write_at(0, &payload), &payload);
    update.payload_checksum.0 ^= 1;
    let hashed = update.payload.clone().map(Hashed::new);
    let result = engine.update_hashed(update, hashed).await;
    assert!(
        matches!(result, Err(EngineError::PayloadMismatch { .. })),
        "{result:?}"
    );
    assert_eq!(engine.get(key(0)), Ok(None));
}
