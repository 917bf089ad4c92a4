//! The load on the engine.
//!
//! A task that writes has chunks of its own, as the replica above serializes the updates of a chunk. An update is
//! done when it is acknowledged, so durable, and committed.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use common::{
    buf::{BufPool, SharedBuf},
    env::Env,
};
use engine::{Change, ChunkKey, Engine, EngineConfig, ReadVersion, UpdateRequest};
use measure::{
    Failure, LARGE_BYTES as CHUNK_BYTES,
    load::{Payloads, Random, Work},
};
use types::{
    checksum::Checksum,
    chunk::{ChunkId, Update, UpdateTag},
    id::{ChainId, ChannelId, ChannelSeq, ClientId, InodeId, TargetId},
    version::{ChainVersion, ChunkVersion},
};

const TARGET: TargetId = TargetId(1);
const CHAIN_VERSION: ChainVersion = ChainVersion(1);
/// Chunks in a file: the records of a disk belong to many files.
const CHUNKS_PER_FILE: u32 = 1024;
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
