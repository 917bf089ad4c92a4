//! The table of clients' channels: as durable as the versions it is about, and the same after every opening.

use std::collections::BTreeSet;

use common::env::Env;
use engine::{Change, ChunkKey, Engine, EngineError, device::mem::PowerSwitch};
use types::{
    chunk::{Update, UpdateTag},
    id::{ChainId, ChannelId, ChannelSeq, ClientId, TargetId},
    rpc::storage::ChannelDone,
    version::{ChainVersion, ChunkVersion},
};

use crate::support::{CHAIN_VERSION, MemDisk, TARGET, config, engine_with, key, request, write_at};

fn tag(client: u64, seq: u64) -> UpdateTag {
    UpdateTag {
        client: ClientId(u128::from(client)),
        channel: ChannelId(3),
        seq: ChannelSeq(seq),
    }
}

/// Damages a value, and says under which key it stands then.
type Damage = &'static dyn Fn(&[u8], &mut Vec<u8>) -> Vec<u8>;

/// Makes a version pending.
async fn make(engine: &Engine, key: ChunkKey, version: u32, tag: UpdateTag, change: Change) {
    let bytes: &[u8] = match change {
        Change::Update(Update::Remove) => b"",
        _ => b"bytes",
    };
    let request = engine::UpdateRequest {
        tag: Some(tag),
        ..request(key, version, change, bytes)
    };
    engine.update(request).await.unwrap();
}

async fn commit(engine: &Engine, key: ChunkKey, version: u32) {
    let version = ChunkVersion(version);
    engine.commit(key, version, CHAIN_VERSION).await.unwrap();
}

async fn put(engine: &Engine, index: u32, version: u32, tag: UpdateTag) {
    let write = write_at(0, b"bytes");
    make(engine, key(index), version, tag, write).await;
    commit(engine, key(index), version).await;
}

/// Client, number and version of every channel.
fn known(engine: &Engine) -> Vec<(u64, u64, u32)> {
    let channels = engine.channels(TARGET).unwrap();
    let known = channels.iter().map(|channel| {
        let client = u64::try_from(channel.tag.client.0).unwrap();
        let version = channel.done.commit_version.0;
        (client, channel.tag.seq.0, version)
    });
    known.collect()
}

/// Ends an engine in one of the ways there are.
async fn end(env: &Env, disk: &MemDisk, engine: Engine, clean: bool) -> MemDisk {
    if clean {
        engine.close().await;
        return disk.clone();
    }
    engine.sync().await.unwrap();
    drop(engine);
    disk.crash(env, PowerSwitch::lasting())
}

#[tokio::test]
async fn of_each_channel_the_last_committed_version_is_known_after_every_end() {
    for clean in [true, false] {
        let (env, disk, engine) = engine_with(config()).await;
        put(&engine, 0, 1, tag(1, 10)).await;
        put(&engine, 0, 2, tag(2, 20)).await;
        put(&engine, 1, 1, tag(3, 30)).await;
        put(&engine, 1, 2, tag(3, 31)).await;
        // Only pending: nothing has come of it yet.
        make(&engine, key(2), 1, tag(4, 40), write_at(0, b"bytes")).await;
        let expected = [(1, 10, 1), (2, 20, 2), (3, 31, 2)];
        assert_eq!(known(&engine), expected);
        let before = engine.channels(TARGET).unwrap();
        assert_eq!(before[0].chunk, key(0).chunk);
        assert_eq!(before[0].done.length, 5);
        assert_eq!(before[0].done.chain_version, CHAIN_VERSION);
        let disk = end(&env, &disk, engine, clean).await;
        let engine = disk.open(&env, config()).await;
        assert_eq!(engine.channels(TARGET).unwrap(), before);
        // From here it goes on, with what was pending too.
        commit(&engine, key(2), 1).await;
        put(&engine, 1, 3, tag(1, 11)).await;
        let disk = end(&env, &disk, engine, !clean).await;
        let engine = disk.open(&env, config()).await;
        let expected = [(2, 20, 2), (3, 31, 2), (4, 40, 1), (1, 11, 3)];
        assert_eq!(known(&engine), expected);
    }
}

#[tokio::test]
async fn removals_and_dropped_chunks_leave_their_channels() {
    for clean in [true, false] {
        let (env, disk, engine) = engine_with(config()).await;
        put(&engine, 0, 1, tag(1, 1)).await;
        make(
            &engine,
            key(0),
            2,
            tag(2, 1),
            Change::Update(Update::Remove),
        )
        .await;
        commit(&engine, key(0), 2).await;
        engine.drop_chunk(key(0)).await.unwrap();
        make(&engine, key(1), 1, tag(3, 1), write_at(0, b"bytes")).await;
        engine.discard_pending(key(1)).await.unwrap();
        let disk = end(&env, &disk, engine, clean).await;
        let engine = disk.open(&env, config()).await;
        assert_eq!(known(&engine), [(1, 1, 1), (2, 1, 2)]);
    }
}

#[tokio::test]
async fn channels_of_another_replica_are_adopted_and_forgotten() {
    for clean in [true, false] {
        let (env, disk, engine) = engine_with(config()).await;
        put(&engine, 0, 1, tag(1, 10)).await;
        put(&engine, 0, 2, tag(2, 20)).await;
        let (other_env, other_disk, other) = engine_with(config()).await;
        put(&other, 0, 1, tag(1, 9)).await;
        put(&other, 5, 1, tag(2, 21)).await;
        for client in 100..1100 {
            put(&other, 6, client, tag(client.into(), 1)).await;
        }
        let channels = other.channels(TARGET).unwrap();
        engine.adopt_channels(TARGET, &channels).await.unwrap();
        other.close().await;
        drop((other_env, other_disk));
        let before = engine.channels(TARGET).unwrap();
        assert_eq!(before.len(), 1002);
        assert_eq!(known(&engine)[..2], [(1, 10, 1), (2, 21, 1)]);
        let disk = end(&env, &disk, engine, clean).await;
        let engine = disk.open(&env, config()).await;
        assert_eq!(engine.channels(TARGET).unwrap(), before);
        engine.clear_channels(TARGET).await.unwrap();
        assert_eq!(known(&engine), []);
        put(&engine, 7, 1, tag(2, 1)).await;
        let disk = end(&env, &disk, engine, !clean).await;
        let engine = disk.open(&env, config()).await;
        assert_eq!(known(&engine), [(2, 1, 1)]);
        // Nothing else of the table is left in the store.
        engine.close().await;
        disk.store.tamper(|records| {
            let channels = records.keys().filter(|key| key[0] == b'D');
            assert_eq!(channels.count(), 1);
        });
    }
}

#[tokio::test]
async fn channels_belong_to_one_target_and_go_with_it() {
    for clean in [true, false] {
        let (env, disk, engine) = engine_with(config()).await;
        let other = TargetId(12);
        engine.create_target(other, ChainId(2)).await.unwrap();
        put(&engine, 0, 1, tag(1, 10)).await;
        let theirs = ChunkKey {
            target: other,
            ..key(0)
        };
        make(&engine, theirs, 1, tag(1, 3), write_at(0, b"bytes")).await;
        commit(&engine, theirs, 1).await;
        assert_eq!(known(&engine), [(1, 10, 1)]);
        assert_eq!(engine.channels(other).unwrap()[0].tag, tag(1, 3));
        engine.remove_target(other).await.unwrap();
        let gone = engine.channels(other);
        assert!(matches!(gone, Err(EngineError::UnknownTarget { .. })));
        let none: [ChannelDone; 0] = [];
        let gone = engine.adopt_channels(other, &none).await;
        assert!(matches!(gone, Err(EngineError::UnknownTarget { .. })));
        engine.create_target(other, ChainId(2)).await.unwrap();
        assert_eq!(engine.channels(other).unwrap(), []);
        let disk = end(&env, &disk, engine, clean).await;
        let engine = disk.open(&env, config()).await;
        assert_eq!(engine.channels(other).unwrap(), []);
        assert_eq!(known(&engine), [(1, 10, 1)]);
    }
}

/// The half that was committed longest ago is forgotten, by the engine that runs and by every replay.
#[tokio::test]
async fn the_table_is_bounded() {
    const CHANNELS_MAX: u64 = 32_768;
    for clean in [true, false] {
        let (env, disk, engine) = engine_with(config()).await;
        put(&engine, 0, 1, tag(0, 1)).await;
        let one = engine.channels(TARGET).unwrap().remove(0);
        let many = (1..CHANNELS_MAX).map(|client| ChannelDone {
            tag: tag(client, 1),
            ..one.clone()
        });
        let many: Vec<_> = many.collect();
        engine.adopt_channels(TARGET, &many).await.unwrap();
        assert_eq!(known(&engine).len() as u64, CHANNELS_MAX);
        put(&engine, 0, 2, tag(0, 2)).await;
        put(&engine, 0, 3, tag(CHANNELS_MAX, 1)).await;
        let before = known(&engine);
        assert_eq!(before.len() as u64, CHANNELS_MAX / 2 + 1);
        let clients: BTreeSet<u64> = before.iter().map(|(client, ..)| *client).collect();
        assert!(clients.contains(&0) && !clients.contains(&1));
        let disk = end(&env, &disk, engine, clean).await;
        let engine = disk.open(&env, config()).await;
        assert_eq!(known(&engine), before);
        engine.close().await;
        disk.store.tamper(|records| {
            let channels = records.keys().filter(|key| key[0] == b'D');
            assert_eq!(channels.count(), before.len());
        });
    }
}

#[tokio::test]
async fn a_damaged_channel_stops_the_disk() {
    let (env, disk, engine) = engine_with(config()).await;
    put(&engine, 0, 1, tag(1, 10)).await;
    let chain_version = ChainVersion(4);
    let again = engine.commit(key(0), ChunkVersion(1), chain_version).await;
    assert_eq!(again.unwrap().chain_version, CHAIN_VERSION);
    engine.close().await;
    let damage: [Damage; 3] = [
        &|key, value| {
            value.truncate(4);
            key.to_vec()
        },
        // Of another channel than the key says.
        &|key, _| [&key[..key.len() - 1], &[9]].concat(),
        &|key, _| key[..20].to_vec(),
    ];
    for damage in damage {
        let disk = disk.clone();
        let mut whole = None;
        disk.store.tamper(|records| {
            let found = records.iter().find(|(key, _)| key[0] == b'D');
            let (key, value) = found.map(|(k, v)| (k.clone(), v.clone())).unwrap();
            records.remove(&key);
            let mut damaged = value.clone();
            let place = damage(&key, &mut damaged);
            records.insert(place.clone(), damaged);
            whole = Some((key, value, place));
        });
        let device = std::sync::Arc::new(disk.device.clone());
        let store = std::sync::Arc::new(disk.store.clone());
        let pool = common::buf::BufPool::new(1 << 20);
        let opened = Engine::open_on(&env, device, store, config(), pool).await;
        let error = opened.unwrap_err().to_string();
        assert!(
            error.contains("channel") || error.contains("no key"),
            "{error}"
        );
        let (key, value, place) = whole.unwrap();
        disk.store.tamper(|records| {
            records.remove(&place);
            records.insert(key, value);
        });
    }
    let engine = disk.open(&env, config()).await;
    assert_eq!(known(&engine), [(1, 10, 1)]);
}
