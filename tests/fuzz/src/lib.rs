//! What the fuzz targets share: a disk in memory whose bytes the fuzzer has chosen, and what any disk must survive; messages
//! (`messages`) and connections (`frames`) of its choice.
//!
//! The layout of a disk follows `docs/format/disk.md` and not the engine's own encoders, so a difference between the two is found
//! as well.

use std::sync::Arc;

use common::{buf::BufPool, env::Env};
use engine::{
    Change, ChunkKey, Engine, EngineConfig, EngineError, ReadVersion, ScrubBudget, UpdateRequest,
    device::{
        Device, FileId,
        mem::{MemDevice, PowerSwitch},
    },
    meta_store::{MetaStore, mem::MemStore},
};
use types::{
    checksum::Checksum,
    chunk::{ChunkId, Update},
    id::{InodeId, TargetId},
    version::{ChainVersion, ChunkVersion},
};

pub mod frames;
pub mod messages;

const BLOCK: usize = 4096;
const BATCH_HEADER: usize = 48;
/// The number of the disk, its segment and the batch that comes next: small, so that the fuzzer finds them.
const DISK: u64 = 1;
const SEGMENT: u64 = 1;
const BATCH: u64 = 1;
/// Targets and chunks are few, so that records and entries meet.
const TARGETS: u64 = 2;
const CHUNKS: u64 = 4;

/// Takes values from the front of the fuzzer's bytes; nothing is left when they are used up.
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    pub fn byte(&mut self) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }

    /// A string of bytes: its length, up to 255, and so many.
    pub fn string(&mut self) -> Option<&'a [u8]> {
        let length = usize::from(self.byte()?).min(self.0.len());
        let (string, rest) = self.0.split_at(length);
        self.0 = rest;
        Some(string)
    }
}

/// A disk in memory.
pub struct Disk {
    env: Env,
    device: Arc<MemDevice>,
    store: Arc<MemStore>,
}

impl Disk {
    pub async fn new() -> Self {
        let env = Env::seeded(1);
        let power = PowerSwitch::lasting();
        let disk = Self {
            device: Arc::new(MemDevice::new(&env, power.clone())),
            store: Arc::new(MemStore::new(power)),
            env,
        };
        let start = [1, 0, DISK as u8, SEGMENT as u8, BATCH as u8];
        disk.put_record(b"L".to_vec(), start.to_vec()).await;
        disk
    }

    /// Puts a value under a key of the record store.
    pub async fn put_record(&self, key: Vec<u8>, value: Vec<u8>) {
        let written = self.store.write(vec![(key, Some(value))]).await;
        written.expect("a store in memory");
    }

    /// A record of this kind for one of a few targets and chunks.
    pub async fn put_record_of(&self, kind: u8, which: u8, value: &[u8]) {
        let target = u64::from(which) % TARGETS + 1;
        let chunk = u64::from(which) / TARGETS % CHUNKS;
        let mut key = vec![kind];
        key.extend(target.to_be_bytes());
        if kind != b'T' {
            key.extend(1_u64.to_be_bytes());
            key.extend(u32::try_from(chunk).unwrap_or(0).to_be_bytes());
        }
        self.put_record(key, value.to_vec()).await;
    }

    /// The first group of a class that chunks may lie in, with some slots in its file.
    pub async fn put_group(&self, class: u8, slots: u8) {
        let Some(class) = engine::SizeClass::from_index(class) else {
            return;
        };
        let group = engine::GroupId { class, number: 0 };
        let bytes = u64::from(slots) * u64::from(class.slot_bytes());
        self.put_file(group.into(), &[], bytes.min(1 << 22)).await;
    }

    /// A file of the log that starts with a batch of these entries, whose checksums are right.
    pub async fn put_batch(&self, entries: &[&[u8]], payload_blocks: u8) {
        let mut head = vec![0; BATCH_HEADER];
        for entry in entries {
            head.extend(u32::try_from(entry.len()).unwrap_or(0).to_le_bytes());
            head.extend(*entry);
        }
        let payload = vec![7; usize::from(payload_blocks) * BLOCK];
        let entry_bytes = u32::try_from(head.len() - BATCH_HEADER).unwrap_or(0);
        let count = u32::try_from(entries.len()).unwrap_or(0);
        head[..8].copy_from_slice(&DISK.to_le_bytes());
        head[8..16].copy_from_slice(&SEGMENT.to_le_bytes());
        head[16..24].copy_from_slice(&BATCH.to_le_bytes());
        head[24..28].copy_from_slice(&entry_bytes.to_le_bytes());
        head[28..32].copy_from_slice(&u32::from(payload_blocks).to_le_bytes());
        head[32..36].copy_from_slice(&count.to_le_bytes());
        head[36..40].copy_from_slice(&crc32c::crc32c(&payload).to_le_bytes());
        head[40..42].copy_from_slice(&1_u16.to_le_bytes());
        let sum = crc32c::crc32c(&head[..44]);
        let sum = crc32c::crc32c_append(sum, &head[BATCH_HEADER..]);
        head[44..48].copy_from_slice(&sum.to_le_bytes());
        head.resize(head.len().next_multiple_of(BLOCK), 0);
        head.extend(payload);
        self.put_file(FileId::Log(0), &head, log_bytes()).await;
    }

    /// A file of the log that starts with these bytes.
    pub async fn put_log(&self, bytes: &[u8]) {
        self.put_file(FileId::Log(0), bytes, log_bytes()).await;
    }

    async fn put_file(&self, file: FileId, bytes: &[u8], length: u64) {
        let pool = BufPool::new(0);
        self.device.create(file).await.expect("a device in memory");
        if length > 0 {
            let reserved = self.device.reserve(file, length).await;
            reserved.expect("a device in memory");
        }
        if !bytes.is_empty() {
            let mut buf = pool.allocate_zeroed(bytes.len().next_multiple_of(BLOCK));
            buf[..bytes.len()].copy_from_slice(bytes);
            let written = self.device.write(file, 0, buf.freeze()).await;
            written.expect("a device in memory");
        }
    }

    async fn open(&self) -> Option<Engine> {
        let config = EngineConfig {
            log_bytes: 1 << 20,
            preallocate_bytes: 1 << 16,
            capacity_bytes: 1 << 30,
            ..EngineConfig::default()
        };
        let (device, store) = (self.device.clone(), self.store.clone());
        let pool = BufPool::new(1 << 20);
        Engine::open_on(&self.env, device, store, config, pool)
            .await
            .ok()
    }

    /// What holds for every disk: it is opened or refused; an open one is in order, whatever is read is an answer, chunks can be
    /// changed unless their bytes are damaged, and it can be closed and opened again.
    pub async fn survive(&self) {
        let Some(engine) = self.open().await else {
            return;
        };
        engine.check().expect("a disk that was opened is in order");
        let budget = ScrubBudget {
            slot_bytes: 1 << 20,
            chunks: 16,
        };
        let scrubbed = engine.scrub(None, budget).await;
        scrubbed.expect("damage is reported, not an error");
        for target in 1..=TARGETS {
            for index in 0..CHUNKS {
                self.touch(&engine, TargetId(target), index).await;
            }
        }
        if engine.failure().is_none() {
            engine.sync().await.expect("nothing has failed");
            engine.check().expect("a disk that was changed is in order");
        }
        engine.close().await;
        drop(engine);
        let again = self.open().await.expect("what was closed can be opened");
        again.check().expect("and is in order");
    }

    async fn touch(&self, engine: &Engine, target: TargetId, index: u64) {
        let key = ChunkKey {
            target,
            chunk: ChunkId {
                inode: InodeId(1),
                index: u32::try_from(index).unwrap_or(0),
            },
        };
        for version in [ReadVersion::Committed, ReadVersion::Pending] {
            match engine.read(key, version, 3, 9000).await {
                Err(EngineError::Failed { reason }) => panic!("a read ended the disk: {reason}"),
                Ok(_) | Err(_) => {}
            }
        }
        let Ok(meta) = engine.get(key) else {
            return;
        };
        let version = meta.map_or(0, |meta| meta.commit_version.0);
        let Some(version) = version.checked_add(1).map(ChunkVersion) else {
            return;
        };
        let payload = BufPool::new(0).copy_from(b"fuzz").freeze();
        let request = UpdateRequest {
            key,
            chunk_size: 1 << 20,
            change: Change::Update(Update::Write {
                offset: 5,
                length: 4,
            }),
            update_version: version,
            chain_version: ChainVersion(1),
            tag: None,
            payload_checksum: Checksum::of(&payload),
            payload: Some(payload),
        };
        if engine.update(request).await.is_ok() {
            let committed = engine.commit(key, version, ChainVersion(1)).await;
            committed.expect("what is pending can be committed");
            let read = engine.read(key, ReadVersion::Committed, 5, 4).await;
            assert_eq!(read.expect("what was written").data[..], *b"fuzz");
            let moved = engine.relocate(key).await;
            assert!(moved.is_ok() || engine.failure().is_none());
        }
    }
}

/// A segment: the engine's smallest.
fn log_bytes() -> u64 {
    256 << 10
}

/// Runs one input. Time passes when nothing else is to do.
pub fn run(work: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build();
    runtime.expect("a runtime").block_on(work);
}

/// Puts inputs for the beginning into the directory that `tests/fuzz/run` names.
pub fn write_seeds(seeds: Vec<Vec<u8>>) {
    let Some(dir) = std::env::var_os("PENSTOCK_FUZZ_SEEDS") else {
        return;
    };
    for (number, seed) in seeds.into_iter().enumerate() {
        let path = std::path::Path::new(&dir).join(format!("seed-{number}"));
        std::fs::write(path, seed).expect("the corpus can be written");
    }
}
