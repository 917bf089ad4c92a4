//! Random operations against a plain map, while others read.
//!
//! Each version of a chunk that is asked for gets a number of its own and is remembered for a while, so that a
//! reader can compare what it got with the version that it was said to be: reads are always one whole version.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use common::{
    env::{Env, Task},
    sync::Mutex,
};
use engine::{Engine, EngineError, ReadVersion, device::mem::PowerSwitch};
use types::{
    checksum::Checksum,
    chunk::ChunkId,
    id::{ChainId, InodeId},
    version::ChunkVersion,
};

use crate::support::{
    CHAIN_VERSION, MemDisk, TARGET, changed, config, key, number_from, on_a_runtime, on_all_cores,
    random_change, read_all, request, settled,
};

/// Operations of a usual run, without what the readers do meanwhile; the variable asks for another number.
const OPERATIONS: u64 = 1_000_000;
const OPERATIONS_VARIABLE: &str = "PENSTOCK_OPERATIONS";
/// Most chunks are short, so that many operations fit into a short time.
const LIMITS: [u32; 8] = [9000, 9000, 9000, 9000, 20_000, 20_000, 20_000, 80 << 10];
const CHUNKS: u32 = 24;
const READERS: u32 = 3;
const READS_BETWEEN_RESTS: u32 = 1000;
/// All is compared, closed and opened again after this many steps.
const STEPS_OPEN: u64 = 5000;
/// No read lasts longer than this many versions of one chunk.
const VERSIONS_KEPT: u32 = 50;

#[test]
fn the_engine_behaves_like_a_map_while_others_read() {
    let wanted = number_from(OPERATIONS_VARIABLE).unwrap_or(OPERATIONS);
    let share = wanted / crate::support::thread_count();
    let counts = on_all_cores("model", move |thread| {
        on_a_runtime(run(Env::seeded(thread), share))
    });
    let (steps, reads) = sum(counts);
    say!("{steps} operations, {reads} reads meanwhile");
    assert!(reads > steps / 10 && steps + 100 >= wanted);
}

/// The same with threads of one runtime: other interleavings, and none that a seed repeats.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_engine_behaves_like_a_map_on_several_threads() {
    let (steps, reads) = run(Env::real(), 6000).await;
    say!("{steps} operations, {reads} reads meanwhile");
}

fn sum(counts: Vec<(u64, u64)>) -> (u64, u64) {
    let add = |a: (u64, u64), b: (u64, u64)| (a.0 + b.0, a.1 + b.1);
    counts.into_iter().fold((0, 0), add)
}

/// Works until `operations` have been done; returns how many those were, and the reads meanwhile.
async fn run(env: Env, operations: u64) -> (u64, u64) {
    let disk = MemDisk::new(&env, PowerSwitch::lasting());
    let mut engine = disk.open(&env, config()).await;
    engine.create_target(TARGET, ChainId(1)).await.unwrap();
    let mut model = Model::default();
    let mut reads = 0;
    while model.operations < operations {
        let readers = Readers::start(&env, &engine, &model.history);
        for _ in 0..STEPS_OPEN {
            let index = env.random_below(u64::from(CHUNKS)) as u32;
            model.step(&env, &engine, index).await;
            if model.operations >= operations {
                break;
            }
        }
        reads += readers.stop().await;
        model.check_all(&engine).await;
        settled(&env, &engine).await;
        engine.close().await;
        engine = disk.open(&env, config()).await;
        model.check_all(&engine).await;
    }
    (model.operations, reads)
}

/// Every version that a reader may meet.
type History = Arc<Mutex<BTreeMap<(u32, u32), Arc<Vec<u8>>>>>;

/// What every chunk must hold.
#[derive(Default)]
struct Model {
    chunks: BTreeMap<u32, Chunk>,
    history: History,
    operations: u64,
}

#[derive(Default)]
struct Chunk {
    /// Committed content and version. Without content it is removed.
    committed: Option<(Option<Arc<Vec<u8>>>, u32)>,
    pending: Option<(Option<Arc<Vec<u8>>>, u32)>,
    /// Never used twice, also when the chunk was dropped.
    last_version: u32,
}

impl Chunk {
    fn content(&self) -> Option<&Arc<Vec<u8>>> {
        self.committed.as_ref()?.0.as_ref()
    }
}

impl Model {
    async fn step(&mut self, env: &Env, engine: &Engine, index: u32) {
        self.operations += 1;
        match env.random_below(64) {
            0 => {
                engine.drop_chunk(key(index)).await.unwrap();
                let chunk = self.chunks.entry(index).or_default();
                (chunk.committed, chunk.pending) = (None, None);
            }
            1..4 => {
                engine.discard_pending(key(index)).await.unwrap();
                self.chunks.entry(index).or_default().pending = None;
            }
            4..12 => self.commit(engine, index).await,
            12 => engine.sync().await.unwrap(),
            13 => drop(engine.relocate(key(index)).await.unwrap()),
            14..24 => self.check_one(engine, index).await,
            _ => {
                if env.random_below(16) == 0 {
                    // It is moved to another slot meanwhile.
                    let moved = engine.relocate(key(index));
                    let ((), moved) = futures::join!(self.update(env, engine, index), moved);
                    moved.unwrap();
                } else {
                    self.update(env, engine, index).await;
                }
                if env.random_below(8) > 0 {
                    self.operations += 1;
                    self.commit(engine, index).await;
                }
            }
        }
    }

    async fn update(&mut self, env: &Env, engine: &Engine, index: u32) {
        let chunk = self.chunks.entry(index).or_default();
        let old = chunk.content().cloned();
        let length = old.as_ref().map_or(0, |old| old.len() as u32);
        let limit = LIMITS[index as usize % LIMITS.len()];
        let (change, payload) = random_change(env, limit, length);
        let content = changed(old.as_deref().map(|old| &old[..]), change, &payload).map(Arc::new);
        chunk.last_version += 1;
        let version = chunk.last_version;
        chunk.pending = Some((content.clone(), version));
        let bytes = content.unwrap_or_default();
        {
            let mut history = self.history.lock();
            history.insert((index, version), bytes.clone());
            history.remove(&(index, version.saturating_sub(VERSIONS_KEPT)));
        }
        let request = request(key(index), version, change, &payload);
        let updated = engine.update(request).await.unwrap();
        assert_eq!(updated.length as usize, bytes.len());
        assert_eq!(updated.checksum, Checksum::of(&bytes));
    }

    async fn commit(&mut self, engine: &Engine, index: u32) {
        let chunk = self.chunks.entry(index).or_default();
        let Some((content, version)) = chunk.pending.take() else {
            return;
        };
        let meta = engine
            .commit(key(index), ChunkVersion(version), CHAIN_VERSION)
            .await
            .unwrap();
        let said = (meta.exists, meta.commit_version.0, meta.pending);
        assert_eq!(said, (content.is_some(), version, None));
        chunk.committed = Some((content, version));
    }

    /// Compares one chunk with what the engine says and reads of it.
    async fn check_one(&self, engine: &Engine, index: u32) {
        let chunk = self.chunks.get(&index);
        let committed = chunk.and_then(|chunk| chunk.committed.clone());
        let pending = chunk.and_then(|chunk| chunk.pending.clone());
        let meta = engine.get(key(index)).unwrap();
        let said = meta.as_ref().map(|meta| (meta.exists, meta.commit_version));
        let expected = match (&committed, &pending) {
            (None, None) => None,
            (None, Some(_)) => Some((false, ChunkVersion(0))),
            (Some((content, version)), _) => Some((content.is_some(), ChunkVersion(*version))),
        };
        assert_eq!(said, expected);
        let waiting = meta.and_then(|meta| meta.pending);
        let said = waiting.map(|pending| (pending.exists, pending.update_version.0));
        let expected = pending
            .as_ref()
            .map(|(content, version)| (content.is_some(), *version));
        assert_eq!(said, expected);
        let newest = pending.or_else(|| committed.clone());
        for (version, expected) in [
            (ReadVersion::Committed, committed),
            (ReadVersion::Pending, newest),
        ] {
            let read = engine.read(key(index), version, 0, u32::MAX).await;
            match expected.and_then(|(content, _)| content) {
                Some(content) => assert!(read.unwrap().data[..] == content[..]),
                None => assert!(matches!(read, Err(EngineError::NotFound { .. }))),
            }
        }
    }

    async fn check_all(&self, engine: &Engine) {
        engine.check().unwrap();
        for &index in self.chunks.keys() {
            self.check_one(engine, index).await;
        }
        let from = ChunkId {
            inode: InodeId(0),
            index: 0,
        };
        let listed = engine.list(TARGET, from, 1000).unwrap();
        let listed: Vec<u32> = listed.iter().map(|meta| meta.id.index).collect();
        let known = self
            .chunks
            .iter()
            .filter(|(_, chunk)| chunk.committed.is_some() || chunk.pending.is_some());
        assert_eq!(listed, known.map(|(&index, _)| index).collect::<Vec<_>>());
        let last = self.chunks.iter().rev().find_map(|(&index, chunk)| {
            let content = chunk.content();
            content.map(|content| (index, content.len() as u32))
        });
        assert_eq!(engine.last_chunk(TARGET, InodeId(7)).unwrap(), last);
        if let Some((index, _)) = last {
            let content = self.chunks[&index].content().unwrap();
            assert!(read_all(engine, key(index)).await.unwrap() == **content);
        }
    }
}

/// Tasks that read random ranges and compare them with the version they say they are.
struct Readers {
    shared: Arc<Shared>,
    tasks: Vec<Task<()>>,
}

struct Shared {
    env: Env,
    engine: Engine,
    history: History,
    stop: AtomicBool,
    reads: AtomicU64,
}

impl Readers {
    fn start(env: &Env, engine: &Engine, history: &History) -> Self {
        let shared = Arc::new(Shared {
            env: env.clone(),
            engine: engine.clone(),
            history: history.clone(),
            stop: AtomicBool::new(false),
            reads: AtomicU64::new(0),
        });
        let tasks = (0..READERS).map(|_| {
            let shared = shared.clone();
            env.spawn("reader", async move {
                while !shared.stop.load(Ordering::Relaxed) {
                    for _ in 0..READS_BETWEEN_RESTS {
                        if shared.read_one().await {
                            shared.reads.fetch_add(1, Ordering::Relaxed);
                        }
                        tokio::task::yield_now().await;
                    }
                    // Time passes only while nobody works, and the engine waits for time when its log is full.
                    shared.env.sleep(Duration::from_millis(1)).await;
                }
            })
        });
        let tasks = tasks.collect();
        Self { shared, tasks }
    }

    /// Ends the readers; returns how often they read something.
    async fn stop(self) -> u64 {
        self.shared.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.join().await.expect("no reader panicked");
        }
        self.shared.reads.load(Ordering::Relaxed)
    }
}

impl Shared {
    async fn read_one(&self) -> bool {
        let below = |limit| self.env.random_below(limit) as u32;
        let index = below(u64::from(CHUNKS));
        let (offset, length) = (below(20_000), below(30_000));
        let version = match below(2) {
            0 => ReadVersion::Committed,
            _ => ReadVersion::Pending,
        };
        let read = self.engine.read(key(index), version, offset, length).await;
        let read = match read {
            Ok(read) => read,
            Err(EngineError::NotFound { .. }) => return false,
            Err(error) => panic!("{error}"),
        };
        let content = self.history.lock().get(&(index, read.version.0)).cloned();
        let content = content.unwrap_or_else(|| panic!("{index}: a read of {}", read.version.0));
        let end = content.len().min((offset + length) as usize);
        let start = end.min(offset as usize);
        assert_eq!(read.chunk_length as usize, content.len());
        assert!(read.data[..] == content[start..end]);
        assert_eq!(read.checksum, Checksum::of(&read.data));
        true
    }
}
