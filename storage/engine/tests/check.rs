//! The offline check: finds everything that is wrong, changes nothing, and repairs no more than it was allowed to.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use common::{buf::BufPool, env::Env};
use engine::{
    BLOCK_BYTES, Change, DeviceKind, Engine, EngineConfig,
    check::{
        CheckError, CheckProgress, DiskProblem, DiskReport, ProblemKind, Repair, check_disk,
        check_on,
    },
    device::{Device, FileId},
    meta_store::{MetaStore, fjall::FjallStore},
};
use types::{chunk::Update, id::ChainId, version::ChunkVersion};

use crate::support::{
    MemDisk, TARGET, apply, config, engine_with, key, pattern, put, read_all, request, slot_config,
    write_at,
};

async fn check_mem(env: &Env, disk: &MemDisk) -> DiskReport {
    let parts: (Arc<dyn Device>, Arc<dyn MetaStore>) =
        (Arc::new(disk.device.clone()), Arc::new(disk.store.clone()));
    check_on(env, parts, &config(), &Arc::default())
        .await
        .unwrap()
}

fn texts(problems: &[DiskProblem]) -> Vec<&str> {
    problems
        .iter()
        .map(|problem| problem.text.as_str())
        .collect()
}

/// Chunks of all kinds: in slots, in the log, of two slots, pending, removed.
async fn fill(engine: &Engine) {
    put(engine, key(0), 1, 0, &pattern(1, 70_000)).await;
    put(engine, key(1), 1, 0, &pattern(2, 9000)).await;
    put(engine, key(1), 2, 4096, &pattern(3, 100)).await;
    put(engine, key(2), 1, 0, &pattern(4, 100)).await;
    let removal = Change::Update(Update::Remove);
    apply(engine, key(2), 2, removal, &[]).await.unwrap();
    put(engine, key(3), 1, 0, &pattern(5, 5000)).await;
    let bytes = pattern(6, 200_000);
    let pending = request(key(3), 2, write_at(0, &bytes), &bytes);
    engine.update(pending).await.unwrap();
}

#[tokio::test]
async fn a_sound_disk_is_sound_and_stays_as_it_is() {
    for config in [config(), slot_config()] {
        let (env, disk, engine) = engine_with(config).await;
        fill(&engine).await;
        engine.sync().await.unwrap();
        // As after a crash: the log holds all of it.
        drop(engine);
        let batches = disk.store.batch_count();
        let report = check_mem(&env, &disk).await;
        assert_eq!(texts(&report.problems), Vec::<&str>::new());
        assert!(report.is_sound());
        assert_eq!((report.targets, report.chunks, report.pending), (1, 4, 1));
        assert_eq!(report.bytes, 70_000 + 9000 + 5000);
        assert_eq!(report.verified_bytes, report.bytes + 200_000);
        assert_eq!((report.slots, report.unused_groups), (4, 0));
        assert_eq!(report.free_slots, report.groups * 256 - 4);
        assert!(report.log_entries >= 10 && report.log_segments >= 1);
        assert_eq!(disk.store.batch_count(), batches);
        let engine = disk.open(&env, self::config()).await;
        engine.close().await;
        let report = check_mem(&env, &disk).await;
        assert!(report.is_sound() && report.log_entries == 0);
    }
}

#[tokio::test]
async fn every_damaged_block_of_every_version_is_named() {
    let (env, disk, engine) = engine_with(slot_config()).await;
    fill(&engine).await;
    let positions: Vec<_> = [(0, 70_000), (1, 9000)]
        .map(|(index, length)| {
            (
                index,
                length,
                *engine.positions(key(index)).first().unwrap(),
            )
        })
        .into();
    let pending = *engine.positions(key(3)).last().unwrap();
    engine.close().await;
    drop(engine);
    for (index, length, position) in positions {
        let blocks = u32::div_ceil(length, BLOCK_BYTES);
        for block in 0..blocks {
            let offset = position.offset() as usize + (block * BLOCK_BYTES) as usize;
            disk.device.flip_bit(position.group.into(), offset);
            let report = check_mem(&env, &disk).await;
            let [problem] = &report.problems[..] else {
                panic!("{:?}", texts(&report.problems));
            };
            assert_eq!(problem.kind, ProblemKind::Checksum);
            assert_eq!(
                (problem.target, problem.inode, problem.index),
                (Some(TARGET), Some(key(index).chunk.inode), Some(index))
            );
            assert_eq!((problem.block, problem.pending), (Some(block), false));
            disk.device.flip_bit(position.group.into(), offset);
        }
    }
    // Two blocks of the pending version: both are named.
    for block in [0, 40] {
        let offset = pending.offset() as usize + block * BLOCK_BYTES as usize;
        disk.device.flip_bit(pending.group.into(), offset);
    }
    let report = check_mem(&env, &disk).await;
    let found: Vec<_> = report
        .problems
        .iter()
        .map(|problem| (problem.version, problem.pending, problem.block))
        .collect();
    let version = Some(ChunkVersion(2));
    assert_eq!(found, [(version, true, Some(0)), (version, true, Some(40))]);
}

#[tokio::test]
async fn all_contradictory_records_are_listed() {
    let (env, disk, engine) = engine_with(slot_config()).await;
    for index in 0..40 {
        put(&engine, key(index), 1, 0, &pattern(1, 100)).await;
    }
    engine.close().await;
    drop(engine);
    disk.store.tamper(|records| {
        let chunks: Vec<Vec<u8>> = records
            .keys()
            .filter(|key| key[0] == b'C')
            .cloned()
            .collect();
        // Thirty cannot be read, one claims another's slot, one has lost its checksums.
        for key in &chunks[..30] {
            records.insert(key.clone(), vec![0xff; 7]);
        }
        let other = records[&chunks[31]].clone();
        records.insert(chunks[30].clone(), other);
        let mut sums = chunks[32].clone();
        sums[0] = b'S';
        records.remove(&sums).unwrap();
    });
    let report = check_mem(&env, &disk).await;
    let of = |index: u32| {
        let problems = report.problems.iter();
        problems
            .filter(move |problem| problem.index == Some(index))
            .count()
    };
    assert!((0..30).all(|index| of(index) == 1));
    assert_eq!(report.problems.len(), 33, "{:?}", texts(&report.problems));
    let all = texts(&report.problems).join("\n");
    assert!(all.contains("in use twice") && all.contains("checksums of its blocks are missing"));
    assert!(
        report
            .problems
            .iter()
            .all(|p| p.kind == ProblemKind::Record)
    );
}

/// Where the batches of a log file begin.
fn batches(stored: &[u8]) -> Vec<usize> {
    let block = BLOCK_BYTES as usize;
    let heads = (0..stored.len()).step_by(block);
    heads
        .filter(|&at| stored[at..at + 8] == stored[..8])
        .collect()
}

#[tokio::test]
async fn a_torn_tail_is_fine_and_a_hole_in_the_log_is_not() {
    let (env, disk, engine) = engine_with(slot_config()).await;
    for index in 0..5 {
        put(&engine, key(index), 1, 0, &pattern(1, 100)).await;
        engine.sync().await.unwrap();
    }
    drop(engine);
    let files = disk.device.list().await.unwrap();
    let log = |&(id, bytes): &(FileId, u64)| {
        let stored = disk.device.stored(id, 0..bytes as usize);
        let used = matches!(id, FileId::Log(_)) && stored[..8] != [0; 8];
        used.then(|| (id, batches(&stored)))
    };
    let (file, batches) = files.iter().find_map(log).unwrap();
    assert!(batches.len() > 5);
    let whole = check_mem(&env, &disk).await;
    let last = *batches.last().unwrap() + 30;
    disk.device.flip_bit(file, last);
    let torn = check_mem(&env, &disk).await;
    assert_eq!(texts(&torn.problems), Vec::<&str>::new());
    assert!(torn.log_entries < whole.log_entries);
    disk.device.flip_bit(file, last);
    disk.device.flip_bit(file, batches[2] + 30);
    let hole = check_mem(&env, &disk).await;
    assert_eq!(hole.problems.len(), 1);
    assert_eq!(hole.problems[0].kind, ProblemKind::Log);
    assert!(hole.problems[0].text.contains("the log lacks batch"));
}

/// A real directory.
struct RealDisk {
    env: Env,
    dir: tempfile::TempDir,
}

impl RealDisk {
    async fn new() -> (Self, Engine) {
        let env = Env::real();
        let dir = tempfile::tempdir().unwrap();
        let disk = Self { env, dir };
        let engine = disk.open().await;
        engine.create_target(TARGET, ChainId(1)).await.unwrap();
        (disk, engine)
    }

    async fn open(&self) -> Engine {
        let config = EngineConfig {
            device: DeviceKind::Direct,
            capacity_bytes: 1 << 30,
            reserve_bytes: 0,
            preallocate_bytes: 1 << 20,
            small_update_bytes: 0,
            ..EngineConfig::default()
        };
        let pool = BufPool::new(1 << 20);
        Engine::open(&self.env, self.dir.path(), config, pool)
            .await
            .unwrap()
    }

    async fn check(&self, repair: Repair) -> DiskReport {
        for _ in 0..2000 {
            match check_disk(&self.env, self.dir.path(), repair, &Arc::default()).await {
                Ok(report) => return report,
                // A dropped engine lets go of its directory with its last task.
                Err(CheckError::Directory(_)) => self.env.sleep(Duration::from_millis(5)).await,
                Err(error) => panic!("{error}"),
            }
        }
        panic!("the directory stays in use");
    }

    fn flip(&self, engine: &Engine, index: u32) -> impl FnOnce() + use<> {
        let position = *engine.positions(key(index)).first().unwrap();
        let path = self
            .dir
            .path()
            .join(format!("groups/{}.dat", position.group));
        move || flip(&path, position.offset() as usize)
    }

    /// Every file with its bytes.
    fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut files = BTreeMap::new();
        let mut dirs = vec![self.dir.path().to_owned()];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    dirs.push(path);
                } else {
                    files.insert(path.clone(), fs::read(path).unwrap());
                }
            }
        }
        files
    }
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[tokio::test]
async fn a_directory_in_use_and_one_that_is_no_disk_are_refused() {
    let (disk, engine) = RealDisk::new().await;
    let progress = Arc::<CheckProgress>::default();
    let check = |dir: PathBuf| {
        let (env, progress) = (disk.env.clone(), progress.clone());
        async move { check_disk(&env, &dir, Repair::DropDamaged, &progress).await }
    };
    let in_use = check(disk.dir.path().to_owned()).await.unwrap_err();
    assert!(in_use.to_string().contains("in use by process"), "{in_use}");
    engine.close().await;
    let other = tempfile::tempdir().unwrap();
    let none = check(other.path().to_owned()).await.unwrap_err();
    assert!(none.to_string().contains("no VERSION file"), "{none}");
    assert_eq!(fs::read_dir(other.path()).unwrap().count(), 0);
    fs::write(other.path().join("VERSION"), "penstock storage 1\n").unwrap();
    let node = check(other.path().to_owned()).await.unwrap_err();
    assert!(node.to_string().contains("`penstock storage 1`"), "{node}");
}

#[tokio::test]
async fn a_check_changes_no_byte_and_a_safe_repair_loses_nothing() {
    let (disk, engine) = RealDisk::new().await;
    fill(&engine).await;
    engine.sync().await.unwrap();
    drop(engine);
    disk.check(Repair::No).await;
    let before = disk.files();
    let report = disk.check(Repair::No).await;
    assert_eq!(texts(&report.problems), Vec::<&str>::new());
    assert!(report.log_entries > 0 && report.actions.is_empty());
    assert!(disk.files() == before, "the check has changed the disk");
    let repaired = disk.check(Repair::Safe).await;
    assert!(repaired.is_sound() && repaired.refusal.is_none());
    assert!(repaired.actions[0].contains("entries of the log"));
    assert_eq!(disk.check(Repair::No).await.log_entries, 0);
    let engine = disk.open().await;
    let content = read_all(&engine, key(0)).await.unwrap();
    assert_eq!(content, pattern(1, 70_000));
    engine.close().await;
}

#[tokio::test]
async fn damaged_chunks_are_dropped_only_when_asked_for_and_no_others() {
    let (disk, engine) = RealDisk::new().await;
    fill(&engine).await;
    let (rot, rot_below) = (disk.flip(&engine, 0), disk.flip(&engine, 3));
    engine.close().await;
    drop(engine);
    // One record cannot be read, one chunk's bytes are damaged, and one has a sound version above its damaged one.
    let store = FjallStore::open(&disk.env, disk.dir.path(), 1 << 20)
        .await
        .unwrap();
    let mut name = vec![b'C'];
    name.extend(TARGET.0.to_be_bytes());
    name.extend(key(9).chunk.to_bytes());
    store
        .write(vec![(name, Some(vec![0xff; 9]))])
        .await
        .unwrap();
    store.close().await;
    drop(store);
    rot();
    rot_below();
    let found = disk.check(Repair::No).await;
    let indexes: Vec<_> = found.problems.iter().map(|problem| problem.index).collect();
    assert_eq!(indexes, [Some(9), Some(0), Some(3)]);
    let before = disk.files();
    let safe = disk.check(Repair::Safe).await;
    assert!(safe.refusal.unwrap().contains("does not open"));
    assert!(
        disk.files() == before,
        "a refused repair has changed the disk"
    );
    let repaired = disk.check(Repair::DropDamaged).await;
    assert_eq!(repaired.refusal, None);
    let done = repaired.actions.join("\n");
    assert!(done.contains("its record could not be used"), "{done}");
    assert!(
        done.contains("dropped chunk 7.0") || done.contains("all versions"),
        "{done}"
    );
    assert!(done.contains("its pending version is sound"), "{done}");
    let left: Vec<_> = repaired
        .problems
        .iter()
        .filter(|problem| !problem.repaired)
        .collect();
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].index, Some(3));
    let engine = disk.open().await;
    for gone in [0, 9] {
        assert_eq!(engine.get(key(gone)).unwrap(), None);
    }
    assert_eq!(engine.get(key(1)).unwrap().unwrap().length, 9000);
    assert!(read_all(&engine, key(1)).await.is_ok());
    // The chain goes on, and the damaged version is history.
    let version = ChunkVersion(2);
    engine
        .commit(key(3), version, crate::support::CHAIN_VERSION)
        .await
        .unwrap();
    engine.close().await;
    drop(engine);
    assert!(disk.check(Repair::No).await.is_sound());
}

#[tokio::test]
async fn a_damaged_log_is_not_repaired() {
    let (disk, engine) = RealDisk::new().await;
    for index in 0..5 {
        put(&engine, key(index), 1, 0, &pattern(1, 100)).await;
        engine.sync().await.unwrap();
    }
    drop(engine);
    disk.check(Repair::No).await;
    let log = fs::read_dir(disk.dir.path().join("log")).unwrap();
    let mut used = log.map(|entry| entry.unwrap().path()).filter(|path| {
        let stored = fs::read(path).unwrap();
        stored[..8] != [0; 8]
    });
    let path = used.next().unwrap();
    let hole = batches(&fs::read(&path).unwrap())[2];
    flip(&path, hole + 30);
    let before = disk.files();
    for repair in [Repair::No, Repair::Safe, Repair::DropDamaged] {
        let report = disk.check(repair).await;
        assert_eq!(report.problems[0].kind, ProblemKind::Log);
        assert_eq!(report.refusal.is_some(), repair != Repair::No);
        assert!(
            disk.files() == before,
            "a refused repair has changed the disk"
        );
    }
}

#[tokio::test]
async fn a_check_that_is_told_to_stop_stops() {
    let (disk, engine) = RealDisk::new().await;
    fill(&engine).await;
    engine.close().await;
    drop(engine);
    let progress = Arc::<CheckProgress>::default();
    progress.stop();
    let stopped = check_disk(&disk.env, disk.dir.path(), Repair::Safe, &progress).await;
    assert!(matches!(stopped, Err(CheckError::Stopped)));
}
