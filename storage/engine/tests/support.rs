//! A disk in memory, requests in one line, and a plain map that says what every chunk must hold.

use std::{io::Write as _, sync::Arc, time::Duration};

use common::{buf::BufPool, env::Env};
use engine::{
    BLOCK_BYTES, Change, CheckReport, ChunkKey, Engine, EngineConfig, EngineError, ReadVersion,
    UpdateRequest, Updated,
    device::{
        Device,
        mem::{MemDevice, PowerSwitch},
    },
    meta_store::mem::MemStore,
};
use types::{
    checksum::Checksum,
    chunk::{ChunkId, Update, UpdateTag},
    id::{ChainId, ChannelId, ChannelSeq, ClientId, InodeId, TargetId},
    version::{ChainVersion, ChunkVersion},
};

pub(crate) const TARGET: TargetId = TargetId(11);
pub(crate) const CHAIN_VERSION: ChainVersion = ChainVersion(3);
/// Chunks of tests: two size classes and more.
pub(crate) const CHUNK_SIZE: u32 = 256 << 10;

/// What databases overwrite at a time, whatever the block of checksums is.
pub(crate) const SMALL: u32 = 4096;

pub(crate) fn key(index: u32) -> ChunkKey {
    let inode = InodeId(7);
    ChunkKey {
        target: TARGET,
        chunk: ChunkId { inode, index },
    }
}

pub(crate) fn config() -> EngineConfig {
    EngineConfig {
        preallocate_bytes: 1 << 20,
        log_bytes: 1 << 20,
        ..EngineConfig::default()
    }
}

/// All bytes go to slots at once, none through the log: for tests that look at slots.
pub(crate) fn slot_config() -> EngineConfig {
    EngineConfig {
        small_update_bytes: 0,
        ..config()
    }
}

/// A disk in memory: survives its engine, and its power.
#[derive(Clone)]
pub(crate) struct MemDisk {
    pub(crate) device: MemDevice,
    pub(crate) store: MemStore,
}

impl MemDisk {
    pub(crate) fn new(env: &Env, power: Arc<PowerSwitch>) -> Self {
        Self {
            device: MemDevice::new(env, power.clone()),
            store: MemStore::new(power),
        }
    }

    pub(crate) fn crash(&self, env: &Env, power: Arc<PowerSwitch>) -> Self {
        Self {
            device: self.device.crash(env, power.clone()),
            store: self.store.crash(env, power),
        }
    }

    /// The disk after its process was killed, which is no loss of power.
    pub(crate) fn kill(&self, env: &Env, power: Arc<PowerSwitch>) -> Self {
        Self {
            device: self.device.kill(power.clone()),
            store: self.store.kill(env, power),
        }
    }

    pub(crate) async fn open(&self, env: &Env, config: EngineConfig) -> Engine {
        self.open_with(env, Arc::new(self.device.clone()), config)
            .await
    }

    /// Opens with another device, for example a faulty one, around this one's.
    pub(crate) async fn open_with(
        &self,
        env: &Env,
        device: Arc<dyn Device>,
        config: EngineConfig,
    ) -> Engine {
        let store = Arc::new(self.store.clone());
        let pool = BufPool::new(16 << 20);
        Engine::open_on(env, device, store, config, pool)
            .await
            .unwrap()
    }
}

/// An engine in memory with one target.
pub(crate) async fn engine_with(config: EngineConfig) -> (Env, MemDisk, Engine) {
    let env = Env::real();
    let disk = MemDisk::new(&env, PowerSwitch::lasting());
    let engine = disk.open(&env, config).await;
    engine.create_target(TARGET, ChainId(1)).await.unwrap();
    (env, disk, engine)
}

/// With a runtime of its own, which takes what hangs without power with it. Its time passes when nothing else is to
/// do, so that no timer of the engine costs any.
pub(crate) fn on_a_runtime<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build();
    runtime.unwrap().block_on(test)
}

/// A number from the environment, for runs that are longer than usual.
pub(crate) fn number_from(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().expect("the variable holds a number"))
}

/// Threads for a test that wants all cores.
pub(crate) fn thread_count() -> u64 {
    let cores = std::thread::available_parallelism();
    cores.map_or(1, |cores| cores.get() as u64).min(16)
}

/// Runs `work` on as many threads as there are cores; each gets its number.
pub(crate) fn on_all_cores<T: Send + 'static>(
    name: &str,
    work: impl Fn(u64) -> T + Clone + Send + 'static,
) -> Vec<T> {
    let threads = (0..thread_count()).map(|thread| {
        let work = work.clone();
        Env::real().spawn_thread(name, move || work(thread))
    });
    let threads: Vec<_> = threads.map(|thread| thread.unwrap()).collect();
    // All of them end before the first that failed fails the test: each says its seed.
    let ended: Vec<_> = threads.into_iter().map(|thread| thread.join()).collect();
    ended.into_iter().map(|result| result.unwrap()).collect()
}

/// Waits until no slot is held by anything but records, and checks the invariants.
pub(crate) async fn settled(env: &Env, engine: &Engine) -> CheckReport {
    let limit = Duration::from_secs(10);
    until(env, limit, "no slot is held", async || {
        engine.sync().await.unwrap();
        let report = engine.check().unwrap();
        (report.held_slots == 0).then_some(report)
    })
    .await
}

/// Waits until there is what is asked for; panics after `limit`.
pub(crate) async fn until<T>(
    env: &Env,
    limit: Duration,
    what: &str,
    mut look: impl AsyncFnMut() -> Option<T>,
) -> T {
    let end = env.now() + limit;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(env.now() < end, "not after {limit:?}: {what}");
        env.sleep(Duration::from_millis(10)).await;
    }
}

/// See the macro of the same name. Around the capture of output, as a whole line.
pub(crate) fn say(text: &str) {
    let line = format!("{text}\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
}

pub(crate) fn pattern(seed: u64, length: u32) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length as usize + 8);
    while bytes.len() < length as usize {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(length as usize);
    bytes
}

pub(crate) fn request(
    key: ChunkKey,
    version: u32,
    change: Change,
    payload: &[u8],
) -> UpdateRequest {
    let pool = BufPool::new(0);
    UpdateRequest {
        key,
        chunk_size: CHUNK_SIZE,
        change,
        update_version: ChunkVersion(version),
        chain_version: CHAIN_VERSION,
        tag: Some(UpdateTag {
            client: ClientId(5),
            channel: ChannelId(1),
            seq: ChannelSeq(u64::from(version)),
        }),
        payload: (!payload.is_empty()).then(|| pool.copy_from(payload).freeze()),
        payload_checksum: Checksum::of(payload),
    }
}

pub(crate) fn write_at(offset: u32, payload: &[u8]) -> Change {
    Change::Update(Update::Write {
        offset,
        length: payload.len() as u32,
    })
}

/// Updates and commits, as version `version`.
pub(crate) async fn apply(
    engine: &Engine,
    key: ChunkKey,
    version: u32,
    change: Change,
    payload: &[u8],
) -> Result<Updated, EngineError> {
    let updated = engine
        .update(request(key, version, change, payload))
        .await?;
    engine
        .commit(key, ChunkVersion(version), CHAIN_VERSION)
        .await?;
    Ok(updated)
}

/// Writes `payload` at `offset` as version `version`, committed.
pub(crate) async fn put(engine: &Engine, key: ChunkKey, version: u32, offset: u32, payload: &[u8]) {
    let change = write_at(offset, payload);
    apply(engine, key, version, change, payload).await.unwrap();
}

pub(crate) async fn read_all(engine: &Engine, key: ChunkKey) -> Result<Vec<u8>, EngineError> {
    let read = engine
        .read(key, ReadVersion::Committed, 0, CHUNK_SIZE)
        .await?;
    assert_eq!(read.checksum, Checksum::of(&read.data));
    assert_eq!(read.chunk_length as usize, read.data.len());
    Ok(read.data.to_vec())
}

/// What a change makes of some content; `None` is a chunk that does not exist.
pub(crate) fn changed(old: Option<&[u8]>, change: Change, payload: &[u8]) -> Option<Vec<u8>> {
    let mut content = old.map(<[u8]>::to_vec).unwrap_or_default();
    match change {
        Change::Update(Update::Write { offset, length }) => {
            let (start, end) = (offset as usize, (offset + length) as usize);
            if length > 0 {
                content.resize(content.len().max(end), 0);
                content[start..end].copy_from_slice(payload);
            }
        }
        Change::Update(Update::Extend { length }) => {
            content.resize(content.len().max(length as usize), 0);
        }
        Change::Update(Update::Truncate { length }) => {
            old?;
            content.truncate(length as usize);
        }
        Change::Update(Update::Remove) => return None,
        Change::Replace { .. } => content = payload.to_vec(),
    }
    Some(content)
}

/// A random change of a chunk of `length` bytes with its payload, of all kinds and at all kinds of edges; no byte
/// lies behind `limit`. Small overwrites are the most frequent ones, because most of them lie above each other.
pub(crate) fn random_change(env: &Env, limit: u32, length: u32) -> (Change, Vec<u8>) {
    let below = |limit: u32| env.random_below(u64::from(limit)) as u32;
    // Multiples of a block as often as not: those are where appends and whole blocks begin.
    let position = |limit: u32| match below(4) {
        0 => below(limit),
        1 => below(limit.div_ceil(BLOCK_BYTES)) * BLOCK_BYTES,
        2 => below(limit.min(20_000)),
        _ => below(8) * BLOCK_BYTES % limit,
    };
    let write = |offset: u32, length: u32| {
        let payload = pattern(env.random_u64(), length.min(limit - offset));
        (write_at(offset, &payload), payload)
    };
    let plain = |update| (Change::Update(update), Vec::new());
    match below(24) {
        0 => plain(Update::Remove),
        1 | 2 => {
            let length = position(limit);
            plain(Update::Truncate { length })
        }
        3 => {
            let length = position(limit);
            plain(Update::Extend { length })
        }
        4 => {
            let payload = pattern(env.random_u64(), position(limit));
            let length = payload.len() as u32;
            (Change::Replace { length }, payload)
        }
        5..8 => write(length.min(limit - 1), 1 + position(3 * BLOCK_BYTES)),
        8..11 => {
            let offset = position(limit - 1);
            write(offset, position(limit - offset))
        }
        11..18 => {
            let block = below(length.clamp(1, limit).div_ceil(SMALL));
            write(block * SMALL, (1 + below(2)) * SMALL)
        }
        _ => write(below(length.clamp(1, limit)), 1 + below(5000)),
    }
}
