//! Groups with few chunks are emptied; what cannot be moved stops neither that nor anything else.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use common::{
    buf::{RegisteredBuf, SharedBuf},
    env::Env,
};
use engine::{
    Engine, EngineConfig, EngineError,
    device::{
        Device, FileId,
        faulty::{Fault, Faults, FaultyDevice},
        mem::PowerSwitch,
    },
};
use types::{id::ChainId, version::ChunkVersion};

use crate::support::{
    CHAIN_VERSION, MemDisk, TARGET, config, engine_with, key, on_a_runtime, pattern, put, read_all,
    request, slot_config, until, write_at,
};

const SLOT: u64 = 65_536;
/// Of a group.
const SLOTS: u32 = 256;
const EIO: i32 = 5;
/// More than a group rests that could not be emptied.
const LIMIT: Duration = Duration::from_secs(300);

/// A device that is slow in reading or writing groups. A write goes on when its caller has gone, as with io_uring.
#[derive(Debug)]
struct SlowDevice {
    env: Env,
    inner: Arc<dyn Device>,
    read_fails_after_millis: AtomicU64,
    write_takes_millis: AtomicU64,
    writes: AtomicU64,
    ended_writes: Arc<AtomicU64>,
}

impl SlowDevice {
    fn new(env: &Env, inner: Arc<dyn Device>) -> Arc<Self> {
        Arc::new(Self {
            env: env.clone(),
            inner,
            read_fails_after_millis: AtomicU64::new(0),
            write_takes_millis: AtomicU64::new(0),
            writes: AtomicU64::new(0),
            ended_writes: Arc::default(),
        })
    }
}

#[async_trait]
impl Device for SlowDevice {
    async fn list(&self) -> io::Result<Vec<(FileId, u64)>> {
        self.inner.list().await
    }

    async fn create(&self, id: FileId) -> io::Result<()> {
        self.inner.create(id).await
    }

    async fn reserve(&self, id: FileId, bytes: u64) -> io::Result<()> {
        self.inner.reserve(id, bytes).await
    }

    async fn remove(&self, id: FileId) -> io::Result<()> {
        self.inner.remove(id).await
    }

    async fn read(&self, id: FileId, offset: u64, buf: RegisteredBuf) -> io::Result<RegisteredBuf> {
        let delay = self.read_fails_after_millis.load(Ordering::Relaxed);
        if delay > 0 && matches!(id, FileId::Group(_)) {
            self.env.sleep(Duration::from_millis(delay)).await;
            return Err(io::Error::from_raw_os_error(EIO));
        }
        self.inner.read(id, offset, buf).await
    }

    async fn write(&self, id: FileId, offset: u64, data: SharedBuf) -> io::Result<()> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        let delay = self.write_takes_millis.load(Ordering::Relaxed);
        let delay = Duration::from_millis(delay);
        let (env, inner) = (self.env.clone(), self.inner.clone());
        let ended = self.ended_writes.clone();
        let task = self.env.spawn("slow-write", async move {
            if matches!(id, FileId::Group(_)) {
                env.sleep(delay).await;
            }
            let written = inner.write(id, offset, data).await;
            ended.fetch_add(1, Ordering::Relaxed);
            written
        });
        task.join().await.unwrap()
    }

    async fn sync(&self, id: FileId) -> io::Result<()> {
        self.inner.sync(id).await
    }

    async fn available_bytes(&self) -> io::Result<u64> {
        self.inner.available_bytes().await
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}

/// The group of a chunk.
fn group_of(engine: &Engine, index: u32) -> u32 {
    let positions = engine.positions(key(index));
    positions.first().unwrap().group.number
}

/// Waits until so much of the simulated time has passed: a loop without rest would not let it.
async fn let_pass(env: &Env, time: Duration) {
    let end = env.now() + time;
    until(env, 2 * time, "time passes", async || {
        (env.now() >= end).then_some(())
    })
    .await;
}

/// How many chunks lie in each group of small slots.
fn spread(engine: &Engine, chunks: u32) -> BTreeMap<u32, u32> {
    let mut spread = BTreeMap::new();
    for index in 0..chunks {
        for position in engine.positions(key(index)) {
            *spread.entry(position.group.number).or_insert(0) += 1;
        }
    }
    spread
}

/// No reads of groups, so no compaction: its time has not come yet.
fn without_reads() -> Faults {
    Faults {
        read: Fault::Error(EIO),
        spare_log: true,
        ..Faults::default()
    }
}

/// Groups that are half empty or more are emptied into the others, while chunks in them are read and changed.
#[tokio::test]
async fn groups_with_few_chunks_are_emptied_and_given_back() {
    let (env, disk, engine) = engine_with(slot_config()).await;
    let content = |index: u32| pattern(u64::from(index), 100 + index);
    for index in 0..1024 {
        put(&engine, key(index), 1, 0, &content(index)).await;
    }
    assert_eq!(engine.check().unwrap().groups, 4);
    // One in eight stays, in every group.
    for index in (0..1024).filter(|index| index % 8 != 0) {
        engine.drop_chunk(key(index)).await.unwrap();
    }
    let mut version = 1;
    until(&env, LIMIT, "two groups are left", async || {
        version += 1;
        put(&engine, key(8), version, 0, &content(8)).await;
        for index in (0..1024).step_by(8) {
            assert!(read_all(&engine, key(index)).await.unwrap() == content(index));
        }
        (engine.check().unwrap().groups <= 2).then_some(())
    })
    .await;
    engine.sync().await.unwrap();
    assert_eq!(engine.used_by(TARGET), 128 * SLOT);
    drop(engine);
    let engine = disk.open(&env, slot_config()).await;
    for index in (0..1024).step_by(8) {
        assert!(read_all(&engine, key(index)).await.unwrap() == content(index));
    }
    let report = engine.check().unwrap();
    assert_eq!((report.slots, report.groups <= 2), (128, true));
}

/// Chunks that cannot be moved are passed over, and not tried all the time.
#[test]
fn damaged_chunks_stop_no_others() {
    on_a_runtime(async {
        const GROUPS: u32 = 7;
        let env = Env::real();
        let disk = MemDisk::new(&env, PowerSwitch::lasting());
        let engine = disk.open(&env, slot_config()).await;
        engine.create_target(TARGET, ChainId(1)).await.unwrap();
        // Half of the first group stays, and a quarter of the others.
        let stays = |index: u32| index.is_multiple_of(if index < SLOTS { 2 } else { 4 });
        let damaged = |index: u32| stays(index) && (2..6).contains(&(index / SLOTS));
        for index in 0..GROUPS * SLOTS {
            put(&engine, key(index), 1, 0, b"x").await;
        }
        for index in (0..GROUPS * SLOTS).filter(|&index| damaged(index)) {
            let positions = engine.positions(key(index));
            let position = positions.first().unwrap();
            assert_eq!(position.group.number, index / SLOTS);
            disk.device
                .flip_bit(position.group.into(), position.offset() as usize);
        }
        engine.close().await;
        drop(engine);
        let device = FaultyDevice::new(Arc::new(disk.device.clone()));
        device.set(without_reads());
        let engine = disk.open_with(&env, device.clone(), slot_config()).await;
        for index in (0..GROUPS * SLOTS).filter(|&index| !stays(index)) {
            engine.drop_chunk(key(index)).await.unwrap();
        }
        engine.close().await;
        drop(engine);
        // It goes on when the disk is opened again, without anyone asking.
        device.set(Faults::default());
        let engine = disk.open_with(&env, device.clone(), slot_config()).await;
        until(&env, LIMIT, "sound chunks have moved", async || {
            let sound = (GROUPS - 1) * SLOTS..GROUPS * SLOTS;
            let mut left = sound.filter(|&index| stays(index));
            left.all(|index| group_of(&engine, index) < GROUPS - 1)
                .then_some(())
        })
        .await;
        let before = device.read_count();
        let_pass(&env, LIMIT).await;
        let reads = device.read_count() - before;
        // Each damaged chunk, each time that its group has rested.
        assert!(reads <= 256 * 6, "{reads} reads");
        engine.check().unwrap();
        for index in (0..GROUPS * SLOTS).filter(|&index| stays(index)) {
            match read_all(&engine, key(index)).await {
                Ok(content) => assert_eq!((content.as_slice(), damaged(index)), (&b"x"[..], false)),
                Err(EngineError::ChunkCorrupt { .. }) => assert!(damaged(index)),
                Err(error) => panic!("{error}"),
            }
        }
    });
}

/// On a full file system chunks move into space that is there.
#[test]
fn a_full_file_system_is_compacted() {
    on_a_runtime(async {
        const CHUNKS: u32 = 6 * SLOTS + 128;
        let env = Env::real();
        let disk = MemDisk::new(&env, PowerSwitch::lasting());
        let config = EngineConfig {
            preallocate_bytes: 128 * SLOT,
            ..slot_config()
        };
        let engine = disk.open(&env, config.clone()).await;
        engine.create_target(TARGET, ChainId(1)).await.unwrap();
        // Six groups are full, the file of the seventh ends behind its last chunk.
        for index in 0..CHUNKS {
            put(&engine, key(index), 1, 0, b"x").await;
        }
        engine.close().await;
        drop(engine);
        let device = FaultyDevice::new(Arc::new(disk.device.clone()));
        device.set(without_reads());
        let engine = disk.open_with(&env, device.clone(), config.clone()).await;
        let goes = |index: &u32| *index < 6 * SLOTS && index % SLOTS >= 64;
        for index in (0..CHUNKS).filter(goes) {
            engine.drop_chunk(key(index)).await.unwrap();
        }
        engine.close().await;
        drop(engine);
        device.set(Faults {
            available_bytes: Some(0),
            ..Faults::default()
        });
        let engine = disk.open_with(&env, device.clone(), config).await;
        assert_eq!(spread(&engine, CHUNKS).len(), 7);
        until(&env, LIMIT, "three groups hold all", async || {
            (spread(&engine, CHUNKS).len() <= 3).then_some(())
        })
        .await;
        let_pass(&env, LIMIT).await;
        engine.check().unwrap();
        for index in (0..CHUNKS).filter(|index| !goes(index)) {
            assert_eq!(read_all(&engine, key(index)).await.unwrap(), b"x");
        }
    });
}

/// Chunks do not move into a group whose own chunks could not be moved out.
#[test]
fn a_group_that_cannot_be_read_gets_no_chunks() {
    on_a_runtime(async {
        /// In the last group: too many for it to be emptied.
        const LAST: u32 = SLOTS / 2 + 1;
        const CHUNKS: u32 = 4 * SLOTS + LAST;
        let env = Env::real();
        let disk = MemDisk::new(&env, PowerSwitch::lasting());
        let device = FaultyDevice::new(Arc::new(disk.device.clone()));
        // The file of the last group ends soon behind its last chunk, and that of the group that cannot be read does not.
        let config = EngineConfig {
            preallocate_bytes: u64::from(LAST + 4) * SLOT,
            ..slot_config()
        };
        let engine = disk.open_with(&env, device.clone(), config).await;
        engine.create_target(TARGET, ChainId(1)).await.unwrap();
        for index in 0..CHUNKS {
            put(&engine, key(index), 1, 0, b"x").await;
        }
        let group = |index: u32| engine.positions(key(index)).first().unwrap().group;
        let bad = group(0);
        device.set_unreadable([bad.into(), group(SLOTS).into()]);
        let stays = |index: u32| index >= 2 * SLOTS || index % SLOTS < 20;
        for index in (0..CHUNKS).filter(|&index| !stays(index)) {
            engine.drop_chunk(key(index)).await.unwrap();
        }
        device.set_unreadable([bad.into()]);
        until(
            &env,
            LIMIT,
            "the group that can be read is empty",
            async || (group_of(&engine, SLOTS) != 1).then_some(()),
        )
        .await;
        let_pass(&env, LIMIT).await;
        let spread = spread(&engine, CHUNKS);
        assert_eq!(
            (spread.get(&0), spread.get(&1)),
            (Some(&20), None),
            "{spread:?}"
        );
    });
}

/// A disk that answers reads late, with errors, holds up compaction and not those who write.
#[test]
fn reads_that_fail_late_do_not_hold_up_updates() {
    on_a_runtime(async {
        const CHUNKS: u32 = 512;
        let env = Env::real();
        let disk = MemDisk::new(&env, PowerSwitch::lasting());
        let device = SlowDevice::new(&env, Arc::new(disk.device.clone()));
        let config = EngineConfig {
            log_bytes: 4 << 20,
            ..config()
        };
        let engine = disk.open_with(&env, device.clone(), config).await;
        engine.create_target(TARGET, ChainId(1)).await.unwrap();
        for index in 0..CHUNKS {
            put(&engine, key(index), 1, 0, &pattern(1, 4096)).await;
        }
        device
            .read_fails_after_millis
            .store(5000, Ordering::Relaxed);
        for index in (0..CHUNKS).filter(|index| index % 4 != 0) {
            engine.drop_chunk(key(index)).await.unwrap();
        }
        let mut longest = Duration::ZERO;
        for version in 2..2000 {
            let start = env.now();
            let content = pattern(u64::from(version), 4096);
            put(&engine, key(version % 4 * 4), version, 0, &content).await;
            longest = longest.max(env.now() - start);
        }
        // One read may be under way when the log becomes full.
        assert!(longest < Duration::from_secs(15), "{longest:?}");
        let start = env.now();
        engine.close().await;
        assert!(env.now() - start < Duration::from_secs(15));
    });
}

/// A chunk that was pending when its group's turn came is moved later.
#[test]
fn a_group_that_was_busy_is_tried_again() {
    on_a_runtime(async {
        const LAST: u32 = 300;
        /// Looked at after the other in the same pass.
        const OTHER: u32 = 600;
        let (env, _disk, engine) = engine_with(config()).await;
        for index in 0..3 * SLOTS {
            put(&engine, key(index), 1, 0, &pattern(1, 4096)).await;
        }
        let payload = pattern(2, 4096);
        let change = write_at(0, &payload);
        let pending = request(key(LAST), 2, change, &payload);
        engine.update(pending).await.unwrap();
        // Both are alone in their groups, and the first one has room.
        let goes = |index: u32| index.is_multiple_of(2) || index >= SLOTS;
        for index in (0..3 * SLOTS).filter(|&index| ![LAST, OTHER].contains(&index) && goes(index))
        {
            engine.drop_chunk(key(index)).await.unwrap();
        }
        until(&env, LIMIT, "the other chunk has moved", async || {
            (group_of(&engine, OTHER) == 0).then_some(())
        })
        .await;
        assert_eq!(group_of(&engine, LAST), 1);
        let committed = engine.commit(key(LAST), ChunkVersion(2), CHAIN_VERSION);
        committed.await.unwrap();
        until(&env, LIMIT, "the chunk has moved", async || {
            (group_of(&engine, LAST) == 0).then_some(())
        })
        .await;
        assert_eq!(read_all(&engine, key(LAST)).await.unwrap(), payload);
    });
}

/// The slot that a chunk is being moved to stays taken when nobody waits for that any more.
#[test]
fn a_move_that_is_given_up_harms_nobody() {
    on_a_runtime(async {
        let env = Env::real();
        let disk = MemDisk::new(&env, PowerSwitch::lasting());
        let device = SlowDevice::new(&env, Arc::new(disk.device.clone()));
        let engine = disk.open_with(&env, device.clone(), slot_config()).await;
        engine.create_target(TARGET, ChainId(1)).await.unwrap();
        let (old, new) = (pattern(1, 9000), pattern(2, 9000));
        put(&engine, key(0), 1, 0, &old).await;
        engine.sync().await.unwrap();
        device.write_takes_millis.store(300, Ordering::Relaxed);
        let before = device.writes.load(Ordering::Relaxed);
        {
            let moving = std::pin::pin!(engine.relocate(key(0)));
            let begun = std::pin::pin!(async {
                while device.writes.load(Ordering::Relaxed) == before {
                    tokio::task::yield_now().await;
                }
            });
            futures::future::select(moving, begun).await;
        }
        device.write_takes_millis.store(0, Ordering::Relaxed);
        put(&engine, key(1), 1, 0, &new).await;
        until(&env, LIMIT, "the late write is over", async || {
            let ended = device.ended_writes.load(Ordering::Relaxed);
            (ended == device.writes.load(Ordering::Relaxed)).then_some(())
        })
        .await;
        assert!(read_all(&engine, key(1)).await.unwrap() == new);
        assert!(read_all(&engine, key(0)).await.unwrap() == old);
        engine.check().unwrap();
    });
}
