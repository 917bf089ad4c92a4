//! Loss of power at every kind of moment: what was acknowledged is there, the rest is whole or absent.

use std::{collections::BTreeMap, sync::Arc};

use common::{env::Env, sync::Mutex};
use engine::{Change, Engine, EngineError, ReadVersion, SyncPolicy, device::mem::PowerSwitch};
use types::{id::ChainId, version::ChunkVersion};

use crate::support::{
    CHAIN_VERSION, MemDisk, TARGET, apply, changed, config, key, put, random_change, read_all,
    request,
};

const CHUNKS: u32 = 6;
/// Lives of the engine over which one disk grows old.
const LIVES: u32 = 8;
const DISKS: u64 = 80;

/// What may be found of a chunk: the committed content and version, and what is or may be pending.
#[derive(Clone, Default)]
struct Chunk {
    content: Option<Vec<u8>>,
    version: u32,
    /// Acknowledged and not committed.
    pending: Option<(Option<Vec<u8>>, u32)>,
    /// Asked for when the power failed.
    doubtful: Option<(Option<Vec<u8>>, u32)>,
}

type Chunks = Arc<Mutex<BTreeMap<u32, Chunk>>>;

#[test]
fn after_any_loss_of_power_acknowledged_updates_are_there() {
    let seeds = 0..DISKS;
    let pending_seen: u32 = seeds.map(|seed| on_a_runtime(age_a_disk(seed))).sum();
    assert!(
        pending_seen > 50,
        "only {pending_seen} crashes left something pending"
    );
}

/// With a runtime of its own, which takes what hangs without power with it.
fn on_a_runtime<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(test)
}

/// One disk through several crashes; returns how many pending versions were met after them.
async fn age_a_disk(seed: u64) -> u32 {
    let env = Env::seeded(seed);
    let mut disk = MemDisk::new(&env, PowerSwitch::lasting());
    let engine = disk.open(&env, config()).await;
    engine.create_target(TARGET, ChainId(1)).await.unwrap();
    engine.close().await;
    let chunks = Chunks::default();
    let mut pending_seen = 0;
    for _ in 0..LIVES {
        let power = PowerSwitch::failing_after(1 + env.random_below(150) as i64);
        disk = disk.crash(&env, power.clone());
        tokio::select! {
            () = live(&env, &disk, &chunks) => unreachable!("lives end with a crash"),
            () = power.failed() => {}
        }
        disk = disk.crash(&env, PowerSwitch::lasting());
        pending_seen += check(&env, &disk, &chunks).await;
    }
    pending_seen
}

async fn live(env: &Env, disk: &MemDisk, chunks: &Chunks) {
    let engine = disk.open(env, config()).await;
    let workers = (0..CHUNKS).map(|index| work(env, &engine, index, chunks));
    futures::future::join_all(workers).await;
}

/// Updates of one chunk, one after the other.
async fn work(env: &Env, engine: &Engine, index: u32, chunks: &Chunks) {
    loop {
        let (change, payload) = random_change(env);
        let (content, version) = {
            let mut chunks = chunks.lock();
            let chunk = chunks.entry(index).or_default();
            let content = changed(chunk.content.as_deref(), change, &payload);
            let version = chunk.version + 1;
            chunk.doubtful = Some((content.clone(), version));
            (content, version)
        };
        engine
            .update(request(key(index), version, change, &payload))
            .await
            .unwrap();
        with_chunk(chunks, index, |chunk| {
            chunk.pending = Some((content.clone(), version));
            chunk.doubtful = None;
        });
        if env.random_below(4) == 0 {
            continue;
        }
        // A commit is not awaited by anyone, so until it is durable both states are right.
        engine
            .commit(key(index), ChunkVersion(version), CHAIN_VERSION)
            .await
            .unwrap();
        with_chunk(chunks, index, |chunk| {
            chunk.content = content;
            chunk.version = version;
        });
    }
}

fn with_chunk(chunks: &Chunks, index: u32, change: impl FnOnce(&mut Chunk)) {
    change(chunks.lock().entry(index).or_default());
}

/// Opens what the crash left, compares, and goes on from what is there.
async fn check(env: &Env, disk: &MemDisk, chunks: &Chunks) -> u32 {
    let engine = disk.open(env, config()).await;
    assert_eq!(engine.check().unwrap().held_slots, 0);
    let mut pending_seen = 0;
    let snapshot = chunks.lock().clone();
    for (index, chunk) in snapshot {
        let meta = engine.get(key(index)).unwrap();
        let found = match &meta {
            Some(meta) if meta.commit_version.0 > 0 => {
                let content = committed_content(&engine, index, meta.exists).await;
                (content, meta.commit_version.0)
            }
            _ => (None, 0),
        };
        let pending = match meta.and_then(|meta| meta.pending) {
            Some(pending) => {
                pending_seen += 1;
                let content = pending_content(&engine, index, pending.exists).await;
                Some((content, pending.update_version.0))
            }
            None => None,
        };
        chunk.judge(index, &found, pending.as_ref());
        with_chunk(chunks, index, |chunk| {
            *chunk = Chunk {
                content: found.0,
                version: found.1,
                pending,
                doubtful: None,
            };
        });
    }
    engine.close().await;
    pending_seen
}

impl Chunk {
    /// Whether what was found is one of the states that the history allows.
    fn judge(
        &self,
        index: u32,
        found: &(Option<Vec<u8>>, u32),
        pending: Option<&(Option<Vec<u8>>, u32)>,
    ) {
        let committed = (self.content.clone(), self.version);
        let newest = [pending, Some(found)].into_iter().flatten().next();
        let newest = newest.expect("one of them is there");
        // The newest durable state is the last acknowledged one, or the one under way.
        let acknowledged = self.pending.as_ref().unwrap_or(&committed);
        assert!(
            newest == acknowledged || Some(newest) == self.doubtful.as_ref(),
            "chunk {index}: version {} after {} was acknowledged",
            newest.1,
            acknowledged.1
        );
        // Below it stands the committed version, or the one before when the commit was not durable yet.
        assert!(
            *found == committed || found.1 + 1 == self.version && pending.is_some(),
            "chunk {index}: committed {} instead of {}",
            found.1,
            self.version
        );
    }
}

async fn committed_content(engine: &Engine, index: u32, exists: bool) -> Option<Vec<u8>> {
    match read_all(engine, key(index)).await {
        Ok(content) => {
            assert!(exists);
            Some(content)
        }
        Err(EngineError::NotFound { .. }) => {
            assert!(!exists);
            None
        }
        Err(error) => panic!("chunk {index}: {error}"),
    }
}

async fn pending_content(engine: &Engine, index: u32, exists: bool) -> Option<Vec<u8>> {
    match engine
        .read(key(index), ReadVersion::Pending, 0, u32::MAX)
        .await
    {
        Ok(read) => {
            assert!(exists);
            Some(read.data.to_vec())
        }
        Err(EngineError::NotFound { .. }) => {
            assert!(!exists);
            None
        }
        Err(error) => panic!("pending chunk {index}: {error}"),
    }
}

/// With `on_fsync` a crash may lose what came after the last sync, but nothing before, and nothing is torn.
#[test]
fn without_syncs_a_crash_shows_a_state_that_was() {
    for seed in 0..60 {
        on_a_runtime(async {
            let env = Env::seeded(seed);
            let config = engine::EngineConfig {
                sync: SyncPolicy::OnFsync,
                ..config()
            };
            let power = PowerSwitch::lasting();
            let disk = MemDisk::new(&env, power.clone());
            let engine = disk.open(&env, config.clone()).await;
            engine.create_target(TARGET, ChainId(1)).await.unwrap();
            let batches = disk.store.batch_count();
            let synced_version = 1 + env.random_below(10) as u32;
            for version in 1..=synced_version {
                put(&engine, key(0), version, 0, &vec![version as u8; 30_000]).await;
            }
            assert_eq!(disk.store.batch_count(), batches);
            engine.sync().await.unwrap();
            let last_version = synced_version + 1 + env.random_below(10) as u32;
            for version in synced_version + 1..=last_version {
                put(&engine, key(0), version, 0, &vec![version as u8; 30_000]).await;
            }
            power.cut();
            let disk = disk.crash(&env, PowerSwitch::lasting());
            let engine = disk.open(&env, config).await;
            let content = read_all(&engine, key(0)).await.unwrap();
            assert!(
                content
                    .iter()
                    .all(|&byte| u32::from(byte) == synced_version)
            );
            engine.check().unwrap();
        });
    }
}

/// The commit that follows an update rides along; both survive together with the next acknowledged update.
#[tokio::test]
async fn a_commit_becomes_durable_with_the_next_update() {
    let env = Env::seeded(1);
    let power = PowerSwitch::lasting();
    let disk = MemDisk::new(&env, power.clone());
    let engine = disk.open(&env, config()).await;
    engine.create_target(TARGET, ChainId(1)).await.unwrap();
    put(&engine, key(0), 1, 0, b"first").await;
    let change = Change::Replace { length: 5 };
    engine
        .update(request(key(1), 1, change, b"other"))
        .await
        .unwrap();
    power.cut();
    let engine = disk
        .crash(&env, PowerSwitch::lasting())
        .open(&env, config())
        .await;
    let meta = engine.get(key(0)).unwrap().unwrap();
    assert_eq!((meta.commit_version.0, meta.pending), (1, None));
    let other = engine.get(key(1)).unwrap().unwrap();
    assert_eq!(other.pending.map(|pending| pending.length), Some(5));
    apply(&engine, key(1), 1, change, b"again").await.unwrap();
    assert_eq!(read_all(&engine, key(1)).await.unwrap(), b"again");
}
