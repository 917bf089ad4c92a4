//! Random operations against a plain map.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use common::{env::Env, sync::Mutex};
use engine::{Engine, EngineError, ReadVersion, device::mem::PowerSwitch};
use types::{
    checksum::Checksum,
    chunk::ChunkId,
    id::{ChainId, InodeId},
    version::ChunkVersion,
};

use crate::support::{
    CHAIN_VERSION, Expected, MemDisk, TARGET, changed, config, key, random_change, read_all,
    request,
};

const CHUNKS: u32 = 24;
const STEPS: u32 = 12_000;
/// No read lasts longer than this many updates of one chunk.
const VERSIONS_KEPT: u32 = 50;

/// Reads of ranges must always be one atomic version, whatever is going on: every version is remembered here for a while.
#[derive(Default)]
struct History {
    versions: std::collections::BTreeMap<(u32, u32), Vec<u8>>,
}

#[tokio::test]
async fn the_engine_behaves_like_a_map_while_others_read() {
    let env = Env::seeded(42);
    let disk = MemDisk::new(&env, PowerSwitch::lasting());
    let mut engine = disk.open(&env, config()).await;
    engine.create_target(TARGET, ChainId(1)).await.unwrap();
    let mut expected = Expected::new();
    let history = Arc::new(Mutex::new(History::default()));
    let mut readers = Readers::start(&env, &engine, &history);
    let mut reads = 0;
    for step in 0..STEPS {
        let index = env.random_below(u64::from(CHUNKS)) as u32;
        step_on(&env, &engine, index, &mut expected, &history).await;
        if step % 4000 == 3999 {
            reads += readers.stop().await;
            check_all(&engine, &expected).await;
            engine.close().await;
            drop(engine);
            engine = disk.open(&env, config()).await;
            check_all(&engine, &expected).await;
            readers = Readers::start(&env, &engine, &history);
        }
    }
    reads += readers.stop().await;
    assert!(reads > u64::from(STEPS), "only {reads} reads met a chunk");
    engine.sync().await.unwrap();
    assert_eq!(engine.check().unwrap().held_slots, 0);
}

/// One update, committed, discarded or replaced by another; then what the engine says of it.
async fn step_on(
    env: &Env,
    engine: &Engine,
    index: u32,
    expected: &mut Expected,
    history: &Mutex<History>,
) {
    let (old, version) = expected.get(&index).cloned().unwrap_or_default();
    let next = version + 1;
    let (change, payload) = random_change(env);
    let content = changed(old.as_deref(), change, &payload);
    if env.random_below(8) == 0 {
        // A pending version that never is committed: replaced by the next update, or discarded.
        engine
            .update(request(key(index), next, change, &payload))
            .await
            .unwrap();
        if env.random_below(2) == 0 {
            engine.discard_pending(key(index)).await.unwrap();
            assert!(
                engine
                    .get(key(index))
                    .unwrap()
                    .is_none_or(|meta| meta.pending.is_none())
            );
        }
        return;
    }
    let updated = engine
        .update(request(key(index), next, change, &payload))
        .await
        .unwrap();
    let bytes = content.clone().unwrap_or_default();
    assert_eq!(updated.length as usize, bytes.len());
    assert_eq!(updated.checksum, Checksum::of(&bytes));
    {
        let mut history = history.lock();
        history.versions.insert((index, next), bytes);
        history
            .versions
            .remove(&(index, next.saturating_sub(VERSIONS_KEPT)));
    }
    let meta = engine
        .commit(key(index), ChunkVersion(next), CHAIN_VERSION)
        .await
        .unwrap();
    assert_eq!(
        (meta.exists, meta.commit_version.0),
        (content.is_some(), next)
    );
    expected.insert(index, (content, next));
}

async fn check_all(engine: &Engine, expected: &Expected) {
    engine.check().unwrap();
    for (&index, (content, version)) in expected {
        let meta = engine.get(key(index)).unwrap().unwrap();
        assert_eq!(meta.commit_version.0, *version);
        assert_eq!(meta.exists, content.is_some());
        match content {
            Some(content) => assert_eq!(&read_all(engine, key(index)).await.unwrap(), content),
            None => {
                let read = read_all(engine, key(index)).await;
                assert!(matches!(read, Err(EngineError::NotFound { .. })));
            }
        }
    }
    let from = ChunkId {
        inode: InodeId(0),
        index: 0,
    };
    let listed = engine.list(TARGET, from, 1000).unwrap();
    let committed = listed.iter().filter(|meta| meta.commit_version.0 > 0);
    let listed: Vec<u32> = committed.map(|meta| meta.id.index).collect();
    assert_eq!(listed, expected.keys().copied().collect::<Vec<_>>());
    let last = expected.iter().rev().find_map(|(&index, (content, _))| {
        content
            .as_ref()
            .map(|content| (index, content.len() as u32))
    });
    assert_eq!(engine.last_chunk(TARGET, InodeId(7)).unwrap(), last);
}

/// Tasks that read random ranges and compare them with the version they say they are.
struct Readers {
    stop: Arc<AtomicBool>,
    tasks: Vec<common::env::Task<u64>>,
}

impl Readers {
    fn start(env: &Env, engine: &Engine, history: &Arc<Mutex<History>>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let tasks = (0..3)
            .map(|_| {
                let (env, engine) = (env.clone(), engine.clone());
                let (history, stop) = (history.clone(), stop.clone());
                env.clone().spawn("reader", async move {
                    let mut reads = 0;
                    while !stop.load(Ordering::Relaxed) {
                        reads += u64::from(read_one(&env, &engine, &history).await);
                        tokio::task::yield_now().await;
                    }
                    reads
                })
            })
            .collect();
        Self { stop, tasks }
    }

    /// Ends the readers; returns how often they read something.
    async fn stop(&mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let mut reads = 0;
        for task in self.tasks.drain(..) {
            reads += task.join().await.expect("no reader panicked");
        }
        reads
    }
}

async fn read_one(env: &Env, engine: &Engine, history: &Mutex<History>) -> bool {
    let index = env.random_below(u64::from(CHUNKS)) as u32;
    let offset = env.random_below(200_000) as u32;
    let length = env.random_below(100_000) as u32;
    let read = engine
        .read(key(index), ReadVersion::Committed, offset, length)
        .await;
    let read = match read {
        Ok(read) => read,
        Err(EngineError::NotFound { .. }) => return false,
        Err(error) => panic!("{error}"),
    };
    let history = history.lock();
    let content = &history.versions[&(index, read.version.0)];
    let end = content.len().min((offset + length) as usize);
    let start = end.min(offset as usize);
    assert_eq!(read.chunk_length as usize, content.len());
    assert_eq!(read.data[..], content[start..end]);
    assert_eq!(read.checksum, Checksum::of(&read.data));
    true
}
