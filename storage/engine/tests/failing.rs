//! Each operation of the device fails once, in turn. A write or sync that fails takes the disk out of service, and
//! nothing acknowledged is lost; a read that fails, or no space, is an error of one request and the disk goes on.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use common::{
    buf::{RegisteredBuf, SharedBuf},
    env::{Env, Instant},
    sync::Mutex,
};
use engine::{
    Change, Engine, EngineConfig, EngineError, ReadVersion, SyncPolicy,
    device::{
        Device, FileId,
        faulty::{Fault, Faults, FaultyDevice},
        mem::{MemDevice, PowerSwitch},
    },
};
use types::{chunk::Update, id::ChainId};

use crate::{
    history::{History, State},
    support::{
        MemDisk, SMALL, TARGET, apply, config, key, on_a_runtime, pattern, put, read_all, request,
        settled, write_at,
    },
    workload::{CHUNKS, Ended, Script, Worker, follow, is_refusal, scripts},
};

const EIO: i32 = 5;
const ENOSPC: i32 = 28;
const HANG_SECONDS: u64 = 5;

/// Operations that fail alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Read,
    Write,
    Sync,
    /// Growing and making files.
    Grow,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// With this number of the operating system.
    Error(i32),
    /// After one half.
    Short,
    /// It never ends.
    Hang,
}

/// A device of which one operation fails, once.
#[derive(Debug)]
struct FailsOnce {
    env: Env,
    inner: MemDevice,
    kind: Kind,
    how: How,
    /// Operations of the kind until then.
    left: AtomicI64,
    failed_at: Mutex<Option<Instant>>,
}

impl FailsOnce {
    /// Counts one operation; what happens to it.
    fn count(&self, kind: Kind) -> Option<How> {
        if kind != self.kind || self.left.fetch_sub(1, Ordering::Relaxed) != 1 {
            return None;
        }
        *self.failed_at.lock() = Some(self.env.now());
        Some(self.how)
    }

    async fn suffer(&self, kind: Kind) -> io::Result<()> {
        match self.count(kind) {
            None => Ok(()),
            Some(How::Error(number)) => Err(io::Error::from_raw_os_error(number)),
            Some(How::Short) => Err(io::ErrorKind::UnexpectedEof.into()),
            Some(How::Hang) => std::future::pending().await,
        }
    }

    fn failed_at(&self) -> Option<Instant> {
        *self.failed_at.lock()
    }
}

#[async_trait]
impl Device for FailsOnce {
    async fn list(&self) -> io::Result<Vec<(FileId, u64)>> {
        self.inner.list().await
    }

    async fn create(&self, id: FileId) -> io::Result<()> {
        self.suffer(Kind::Grow).await?;
        self.inner.create(id).await
    }

    async fn reserve(&self, id: FileId, bytes: u64) -> io::Result<()> {
        self.suffer(Kind::Grow).await?;
        self.inner.reserve(id, bytes).await
    }

    async fn remove(&self, id: FileId) -> io::Result<()> {
        self.inner.remove(id).await
    }

    async fn read(&self, id: FileId, offset: u64, buf: RegisteredBuf) -> io::Result<RegisteredBuf> {
        self.suffer(Kind::Read).await?;
        self.inner.read(id, offset, buf).await
    }

    async fn write(&self, id: FileId, offset: u64, data: SharedBuf) -> io::Result<()> {
        match self.count(Kind::Write) {
            None => self.inner.write(id, offset, data).await,
            Some(How::Error(number)) => Err(io::Error::from_raw_os_error(number)),
            Some(How::Hang) => std::future::pending().await,
            Some(How::Short) => {
                let unit = SMALL as usize;
                let half = data.len() / 2 / unit * unit;
                if half > 0 {
                    self.inner.write(id, offset, data.slice(0..half)).await?;
                }
                Err(io::ErrorKind::WriteZero.into())
            }
        }
    }

    async fn sync(&self, id: FileId) -> io::Result<()> {
        self.suffer(Kind::Sync).await?;
        self.inner.sync(id).await
    }

    async fn available_bytes(&self) -> io::Result<u64> {
        self.inner.available_bytes().await
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}

/// An engine with a script on a device of which one operation fails.
struct Trial {
    env: Env,
    config: EngineConfig,
    disk: MemDisk,
    history: History,
    device: Arc<FailsOnce>,
    engine: Engine,
    script: Script,
}

impl Trial {
    async fn start(script: Script, kind: Kind, how: How, operation: i64) -> Self {
        let env = Env::seeded(operation.unsigned_abs());
        let config = EngineConfig {
            preallocate_bytes: 64 << 10,
            hang_seconds: HANG_SECONDS,
            ..config()
        };
        let disk = MemDisk::new(&env, PowerSwitch::lasting());
        // The target is there before anything fails.
        let engine = disk.open(&env, config.clone()).await;
        engine.create_target(TARGET, ChainId(1)).await.unwrap();
        engine.close().await;
        let device = Arc::new(FailsOnce {
            env: env.clone(),
            inner: disk.device.clone(),
            kind,
            how,
            left: AtomicI64::new(i64::MAX),
            failed_at: Mutex::default(),
        });
        let history = History::new(SyncPolicy::Always, script.chunks.len() as u32);
        let engine = disk.open_with(&env, device.clone(), config.clone()).await;
        device.left.store(operation, Ordering::Relaxed);
        Self {
            env,
            config,
            disk,
            history,
            device,
            engine,
            script,
        }
    }

    async fn follow(&self) -> Ended {
        let ended = follow(&self.env, &self.engine, &self.script, &self.history).await;
        if ended.is_ok() {
            // What is done in the background may be what fails.
            self.env.sleep(Duration::from_millis(500)).await;
        }
        ended
    }

    /// Waits until the disk is out of service; fails when it stays in it for much longer than the watchdog's time.
    async fn failure(&self) -> String {
        for _ in 0..(HANG_SECONDS + 2) * 100 {
            if let Some(reason) = self.engine.failure() {
                return reason;
            }
            self.env.sleep(Duration::from_millis(10)).await;
        }
        panic!("the disk is still in service");
    }

    async fn open_again(&mut self) {
        // In a directory the lock sees to it that no engine of before still writes.
        self.engine.close().await;
        self.engine = self.disk.open(&self.env, self.config.clone()).await;
        self.engine.check().unwrap();
        self.history.compare(&self.engine).await;
        self.follow().await.unwrap();
        settled(&self.env, &self.engine).await;
        self.history.compare(&self.engine).await;
    }
}

/// Runs `trial` with the first, the second, ... operation failing, until none is left to fail; for every script.
fn each_operation_in_turn(kind: Kind, how: How, trial: impl AsyncFn(Trial)) {
    let mut failures = 0;
    for number in 0..scripts().len() {
        for operation in 1.. {
            let script = scripts().swap_remove(number);
            let name = script.name;
            let case = format!("{name}, {kind:?} {operation} fails: {how:?}");
            let failed = on_a_runtime(async {
                let one = Trial::start(script, kind, how, operation).await;
                let device = one.device.clone();
                let _said = Said(&case);
                trial(one).await;
                device.failed_at().is_some()
            });
            if !failed {
                break;
            }
            failures += 1;
        }
    }
    say!("{kind:?} {how:?}: {failures} failures");
    assert!(failures > 0, "{kind:?} never fails");
}

/// Says what was tried when it goes wrong.
struct Said<'a>(&'a str);

impl Drop for Said<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed: {}", self.0);
        }
    }
}

#[test]
fn each_failed_write_or_sync_takes_the_disk_out_of_service_and_loses_nothing() {
    for (kind, how) in [
        (Kind::Write, How::Error(EIO)),
        (Kind::Write, How::Short),
        (Kind::Sync, How::Error(EIO)),
    ] {
        each_operation_in_turn(kind, how, async |mut trial| {
            let ended = trial.follow().await;
            if trial.device.failed_at().is_none() {
                return ended.unwrap();
            }
            trial.failure().await;
            if let Err(error) = ended {
                assert!(matches!(error, EngineError::Failed { .. }), "{error}");
            }
            // The fault is over, but what the disk holds is unknown: nothing works until it is opened again.
            let update = request(key(0), 1000, Change::Replace { length: 1 }, b"x");
            assert!(trial.engine.update(update).await.is_err());
            assert!(trial.engine.get(key(0)).is_err() && trial.engine.sync().await.is_err());
            if trial.env.random_below(2) == 0 {
                trial.disk = trial.disk.crash(&trial.env, PowerSwitch::lasting());
            }
            trial.open_again().await;
        });
    }
}

#[test]
fn each_hanging_write_or_sync_is_found_in_the_watchdogs_time() {
    for kind in [Kind::Write, Kind::Sync, Kind::Grow] {
        each_operation_in_turn(kind, How::Hang, async |mut trial| {
            let ended = trial.follow().await;
            let Some(since) = trial.device.failed_at() else {
                return ended.unwrap();
            };
            let reason = trial.failure().await;
            let took = trial.env.now() - since;
            let limit = Duration::from_secs(HANG_SECONDS);
            assert!(took >= limit, "{took:?}: {reason}");
            assert!(took < limit + Duration::from_secs(1), "{took:?}");
            trial.disk = trial.disk.crash(&trial.env, PowerSwitch::lasting());
            trial.open_again().await;
        });
    }
}

#[test]
fn each_failed_read_and_each_lack_of_space_is_an_error_of_one_request() {
    for (kind, how) in [
        (Kind::Read, How::Error(EIO)),
        (Kind::Read, How::Short),
        (Kind::Grow, How::Error(ENOSPC)),
    ] {
        each_operation_in_turn(kind, how, async |mut trial| {
            let ended = trial.follow().await;
            if trial.device.failed_at().is_none() {
                return ended.unwrap();
            }
            if let Err(error) = ended {
                assert!(is_refusal(&error), "{error}");
            }
            assert_eq!(trial.engine.failure(), None);
            // The engine that met the error goes on, and so does the next one.
            trial.history.compare(&trial.engine).await;
            trial.follow().await.unwrap();
            trial.history.compare(&trial.engine).await;
            trial.engine.close().await;
            trial.open_again().await;
        });
    }
}

#[test]
fn a_hanging_read_ends_in_the_watchdogs_time() {
    on_a_runtime(async {
        let env = Env::seeded(1);
        let disk = MemDisk::new(&env, PowerSwitch::lasting());
        let device = FaultyDevice::new(Arc::new(disk.device.clone()));
        let config = EngineConfig {
            hang_seconds: HANG_SECONDS,
            ..config()
        };
        let engine = disk.open_with(&env, device.clone(), config).await;
        engine.create_target(TARGET, ChainId(1)).await.unwrap();
        put(&engine, key(0), 1, 0, &pattern(1, 9000)).await;
        device.set(Faults {
            read: Fault::Hang,
            ..Faults::default()
        });
        let since = env.now();
        let read = read_all(&engine, key(0)).await;
        assert!(read.is_err(), "{read:?}");
        let took = (env.now() - since).as_secs();
        assert!((HANG_SECONDS..=HANG_SECONDS + 1).contains(&took));
    });
}

/// Every request that finds no space leaves its chunk as it was, and removing chunks helps.
#[test]
fn a_full_disk_under_random_updates_loses_nothing() {
    on_a_runtime(async {
        let env = Env::seeded(7);
        let config = EngineConfig {
            preallocate_bytes: 64 << 10,
            capacity_bytes: 6 * (64 << 10),
            ..config()
        };
        let disk = MemDisk::new(&env, PowerSwitch::lasting());
        let mut engine = disk.open(&env, config.clone()).await;
        engine.create_target(TARGET, ChainId(1)).await.unwrap();
        let history = History::new(SyncPolicy::Always, CHUNKS);
        let mut refused = 0;
        for round in 0..200 {
            let workers = (0..CHUNKS).map(|index| work(&env, &engine, &history, index));
            let counts = futures::future::join_all(workers).await;
            refused += counts.into_iter().sum::<u32>();
            history.compare(&engine).await;
            if round % 20 == 19 {
                settled(&env, &engine).await;
                engine.close().await;
                engine = disk.open(&env, config.clone()).await;
                history.compare(&engine).await;
            }
        }
        say!("{refused} updates found no space");
        assert!(refused > 50);
        for index in 0..CHUNKS {
            engine.drop_chunk(key(index)).await.unwrap();
        }
        settled(&env, &engine).await;
        assert_eq!(engine.space().used_bytes, 0);
        for index in 0..CHUNKS {
            let change = Change::Update(Update::Extend { length: 100 });
            apply(&engine, key(index), 1, change, &[]).await.unwrap();
            put(&engine, key(index), 2, 50, &[1; 50]).await;
            let content = read_all(&engine, key(index)).await.unwrap();
            assert_eq!(content, [[0; 50], [1; 50]].concat());
        }
    });
}

/// Some random steps of one chunk; returns how many found no space.
async fn work(env: &Env, engine: &Engine, history: &History, index: u32) -> u32 {
    let worker = Worker {
        env,
        engine,
        history,
        index,
    };
    let mut refused = 0;
    for _ in 0..20 {
        match worker.random_step().await {
            Ok(()) => {}
            Err(EngineError::NoSpace { .. }) => {
                refused += 1;
                assert_eq!(State::find(engine, index).await, history.current(index));
            }
            Err(error) => panic!("{error}"),
        }
        assert_eq!(engine.failure(), None);
    }
    refused
}

/// A read of what cannot be read is reported; an update of the same chunk either needs none of it or is refused.
#[tokio::test]
async fn an_update_over_bytes_that_cannot_be_read_is_whole_or_refused() {
    let env = Env::real();
    let disk = MemDisk::new(&env, PowerSwitch::lasting());
    let device = FaultyDevice::new(Arc::new(disk.device.clone()));
    let engine = disk.open_with(&env, device.clone(), config()).await;
    engine.create_target(TARGET, ChainId(1)).await.unwrap();
    let mut content = pattern(1, 50_000);
    put(&engine, key(0), 1, 0, &content).await;
    device.set(Faults {
        read: Fault::Error(EIO),
        ..Faults::default()
    });
    let read = engine.read(key(0), ReadVersion::Committed, 0, 100).await;
    assert!(matches!(read, Err(EngineError::ReadFailed { .. })));
    let payload = pattern(2, 10);
    let change = write_at(20_000, &payload);
    let updated = apply(&engine, key(0), 2, change, &payload).await;
    match updated {
        Ok(_) => content[20_000..20_010].copy_from_slice(&payload),
        Err(error) => assert!(matches!(error, EngineError::ReadFailed { .. }), "{error}"),
    }
    assert_eq!(engine.failure(), None);
    device.set(Faults::default());
    assert_eq!(read_all(&engine, key(0)).await.unwrap(), content);
}
