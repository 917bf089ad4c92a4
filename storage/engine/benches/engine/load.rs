//! The load on the engine: tasks that each do one operation after the other, as many as the depth says.
//!
//! A task that writes has chunks of its own, as the replica above serializes the updates of a chunk. An update is
//! done when it is acknowledged, so durable, and committed.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use common::{
    buf::{BufPool, SharedBuf},
    env::Env,
};
use engine::{Change, ChunkKey, Engine, EngineConfig, ReadVersion, UpdateRequest};
use types::{
    checksum::Checksum,
    chunk::{ChunkId, Update, UpdateTag},
    id::{ChainId, ChannelId, ChannelSeq, ClientId, InodeId, TargetId},
    version::{ChainVersion, ChunkVersion},
};

use super::{CHUNK_BYTES, Failure, SMALL_BYTES};

const TARGET: TargetId = TargetId(1);
const CHAIN_VERSION: ChainVersion = ChainVersion(1);
/// Chunks in a file: the records of a disk belong to many files.
const CHUNKS_PER_FILE: u32 = 1024;
/// Large payloads to choose from, so that no two neighbours on the disk are equal.
const LARGE_PAYLOADS: usize = 16;

/// A chunk by its position in the data set.
pub(crate) fn key(number: u32) -> ChunkKey {
    ChunkKey {
        target: TARGET,
        chunk: ChunkId {
            inode: InodeId(u64::from(number / CHUNKS_PER_FILE) + 1),
            index: number % CHUNKS_PER_FILE,
        },
    }
}

/// Opens the disk in `dir`, with its target.
pub(crate) async fn open(
    env: &Env,
    pool: &BufPool,
    dir: &Path,
    config: EngineConfig,
) -> Result<Engine, Failure> {
    let engine = Engine::open(env, dir, config, pool.clone()).await?;
    engine.create_target(TARGET, ChainId(1)).await?;
    Ok(engine)
}

/// Random bytes with their checksums, made before the clock runs: the caller of the engine has them at hand too.
#[derive(Clone)]
pub(crate) struct Payloads {
    large: Arc<[(SharedBuf, Checksum)]>,
    small: Arc<[(SharedBuf, Checksum)]>,
}

impl Payloads {
    pub(crate) fn new(env: &Env, pool: &BufPool) -> Self {
        let mut random = Random::new(env);
        let large = (0..LARGE_PAYLOADS).map(|_| {
            let mut buf = pool.allocate(CHUNK_BYTES as usize);
            for word in buf.chunks_exact_mut(8) {
                word.copy_from_slice(&random.next().to_le_bytes());
            }
            buf.freeze()
        });
        let with_checksum = |buf: SharedBuf| {
            let checksum = Checksum::of(&buf);
            (buf, checksum)
        };
        let large: Arc<[_]> = large.map(with_checksum).collect();
        let (first, _) = &large[0];
        let step = SMALL_BYTES as usize;
        let small = (0..first.len() / step).map(|at| first.slice(at * step..(at + 1) * step));
        let small = small.map(with_checksum).collect();
        Self { large, small }
    }

    fn choose(&self, length: u32, random: &mut Random) -> (SharedBuf, Checksum) {
        let from = if length == CHUNK_BYTES {
            &self.large
        } else {
            &self.small
        };
        let choice = random.below(u32::try_from(from.len()).unwrap_or(u32::MAX));
        from[choice as usize].clone()
    }
}

/// A generator of each task's own: the shared one of `Env` has a lock, which would be measured too.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(env: &Env) -> Self {
        Self(env.random_u64() | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: u32) -> u32 {
        let number = ((self.next() >> 32) * u64::from(limit)) >> 32;
        u32::try_from(number).expect("the product of two numbers of 32 bits, of which 32 are left")
    }
}

/// What one task does.
pub(crate) trait Work: Send + 'static {
    /// One operation; false when there is nothing left to do.
    fn step(&mut self) -> impl Future<Output = Result<bool, Failure>> + Send;
}

/// What all of them did.
#[derive(Clone, Copy, Default)]
pub(crate) struct Done {
    pub(crate) operations: u64,
    pub(crate) elapsed: Duration,
}

impl Done {
    pub(crate) fn per_second(self) -> f64 {
        self.operations as f64 / self.elapsed.as_secs_f64()
    }
}

/// Lets the workers work until the time is over or nothing is left to do.
pub(crate) async fn drive<W: Work>(
    env: &Env,
    workers: impl IntoIterator<Item = W>,
    limit: Duration,
) -> Result<Done, Failure> {
    let workers: Vec<W> = workers.into_iter().collect();
    let start = env.now();
    let deadline = start + limit;
    let tasks = workers.into_iter().map(|mut worker| {
        let clock = env.clone();
        env.spawn("bench-load", async move {
            let mut operations = 0;
            while clock.now() < deadline && worker.step().await? {
                operations += 1;
            }
            Ok::<u64, Failure>(operations)
        })
    });
    let tasks: Vec<_> = tasks.collect();
    let mut operations = 0;
    for task in tasks {
        operations += task.join().await.ok_or("a task of the load panicked")??;
    }
    Ok(Done {
        operations,
        elapsed: env.now() - start,
    })
}

/// Reads at random.
pub(crate) struct Reader {
    pub(crate) engine: Engine,
    /// Of the data set.
    pub(crate) chunks: u32,
    pub(crate) length: u32,
    pub(crate) random: Random,
}

impl Work for Reader {
    async fn step(&mut self) -> Result<bool, Failure> {
        let chunk = key(self.random.below(self.chunks));
        let offset = self.random.below(CHUNK_BYTES / self.length) * self.length;
        let read = self
            .engine
            .read(chunk, ReadVersion::Committed, offset, self.length)
            .await?;
        if read.data.len() == self.length as usize {
            Ok(true)
        } else {
            Err("a read returned too little".into())
        }
    }
}

/// Writes chunks that are not there yet, in order, from a counter that all tasks share.
pub(crate) struct Creator {
    pub(crate) engine: Engine,
    pub(crate) payloads: Payloads,
    pub(crate) next: Arc<AtomicU32>,
    /// Chunks to write.
    pub(crate) end: u32,
    pub(crate) length: u32,
    pub(crate) random: Random,
}

impl Creator {
    /// So many tasks.
    pub(crate) fn team(
        env: &Env,
        engine: &Engine,
        payloads: &Payloads,
        (end, length): (u32, u32),
        depth: u32,
    ) -> Vec<Self> {
        let next = Arc::new(AtomicU32::new(0));
        let creator = |_| Self {
            engine: engine.clone(),
            payloads: payloads.clone(),
            next: next.clone(),
            end,
            length,
            random: Random::new(env),
        };
        (0..depth).map(creator).collect()
    }

    /// Writes the next chunk; `None` when all are there.
    pub(crate) async fn create(&mut self) -> Result<Option<ChunkKey>, Failure> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        if number >= self.end {
            return Ok(None);
        }
        let payload = self.payloads.choose(self.length, &mut self.random);
        put(&self.engine, key(number), ChunkVersion(1), 0, payload).await?;
        Ok(Some(key(number)))
    }
}

impl Work for Creator {
    async fn step(&mut self) -> Result<bool, Failure> {
        Ok(self.create().await?.is_some())
    }
}

/// Writes at random over chunks of its own: the whole of them or a part.
pub(crate) struct Overwriter {
    engine: Engine,
    payloads: Payloads,
    /// With the version that is committed.
    chunks: Vec<(ChunkKey, u32)>,
    length: u32,
    random: Random,
}

impl Overwriter {
    /// So many tasks, among which the chunks are dealt out.
    pub(crate) fn team(
        env: &Env,
        engine: &Engine,
        payloads: &Payloads,
        (chunks, length): (u32, u32),
        depth: u32,
    ) -> Result<Vec<Self>, Failure> {
        let mut team: Vec<Self> = (0..depth.min(chunks))
            .map(|_| Self {
                engine: engine.clone(),
                payloads: payloads.clone(),
                chunks: Vec::new(),
                length,
                random: Random::new(env),
            })
            .collect();
        let places = team.len();
        for number in 0..chunks {
            let key = key(number);
            let meta = engine
                .get(key)?
                .ok_or("a chunk of the data set is missing")?;
            let version = meta.commit_version.0;
            team[number as usize % places].chunks.push((key, version));
        }
        Ok(team)
    }
}

impl Work for Overwriter {
    async fn step(&mut self) -> Result<bool, Failure> {
        let count = u32::try_from(self.chunks.len()).unwrap_or(u32::MAX);
        let (key, version) = &mut self.chunks[self.random.below(count) as usize];
        *version += 1;
        let offset = self.random.below(CHUNK_BYTES / self.length) * self.length;
        let payload = self.payloads.choose(self.length, &mut self.random);
        put(&self.engine, *key, ChunkVersion(*version), offset, payload).await?;
        Ok(true)
    }
}

async fn put(
    engine: &Engine,
    key: ChunkKey,
    version: ChunkVersion,
    offset: u32,
    (payload, payload_checksum): (SharedBuf, Checksum),
) -> Result<(), Failure> {
    let length = u32::try_from(payload.len())?;
    let request = UpdateRequest {
        key,
        chunk_size: CHUNK_BYTES,
        change: Change::Update(Update::Write { offset, length }),
        update_version: version,
        chain_version: CHAIN_VERSION,
        tag: Some(UpdateTag {
            client: ClientId(1),
            channel: ChannelId(1),
            seq: ChannelSeq(u64::from(version.0)),
        }),
        payload: Some(payload),
        payload_checksum,
    };
    engine.update(request).await?;
    engine.commit(key, version, CHAIN_VERSION).await?;
    Ok(())
}
