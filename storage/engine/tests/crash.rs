//! Loss of power at each step of written workloads, and at random steps of random ones: what was acknowledged is
//! there, the rest is whole or absent, and the engine goes on from there.
//!
//! The power fails during the recovery as well, again and again. A case fixes everything: the workload, which step
//! is the last one, which sectors of unsynced writes survive. A failure says how to run its case alone.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use common::env::Env;
use engine::{Change, Engine, EngineConfig, EngineError, SyncPolicy, device::mem::PowerSwitch};
use types::id::ChainId;

use crate::{
    history::History,
    support::{
        MemDisk, SMALL, TARGET, apply, config, key, number_from, on_a_runtime, on_all_cores,
        pattern, put, read_all, request, settled, slot_config, write_at,
    },
    workload::{CHUNKS, Script, Worker, follow, live, scripts},
};

/// Random crashes of a usual run; the variable asks for more.
const CRASHES: u64 = 40_000;
const CRASHES_VARIABLE: &str = "PENSTOCK_CRASHES";
/// Runs one case alone: `seed` for a random disk, `script.seed.step.recovery_step` for a script.
const CASE_VARIABLE: &str = "PENSTOCK_SEED";
/// Lives of the engine over which one random disk grows old.
const LIVES: u32 = 8;
/// At each step of a script the power fails this often, and other sectors survive each time.
const SEEDS: u64 = 5;
/// The recovery is tried step by step after each of this many steps of a script.
const STRIDE: usize = 3;
/// What an engine may do in the background after it was opened is interrupted as well.
const AFTERMATH: Duration = Duration::from_millis(400);

/// What was met.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    crashes: u64,
    /// Versions that were pending after a crash.
    pending: u32,
    /// Updates, discards, drops and syncs that were acknowledged.
    answers: u64,
}

impl Tally {
    fn add(&mut self, other: Tally) {
        self.crashes += other.crashes;
        self.pending += other.pending;
        self.answers += other.answers;
    }

    fn sum(tallies: Vec<Tally>) -> Tally {
        let mut sum = Tally::default();
        tallies.into_iter().for_each(|tally| sum.add(tally));
        sum
    }
}

/// Says how to run a case alone when it fails.
struct Announced(String);

impl Drop for Announced {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let case = &self.0;
            eprintln!(
                "failed: {CASE_VARIABLE}={case} cargo test --release -p penstock-engine crash"
            );
        }
    }
}

fn asked_for() -> Option<String> {
    std::env::var(CASE_VARIABLE).ok()
}

#[test]
fn after_a_loss_of_power_at_any_time_acknowledged_updates_are_there() {
    if let Some(case) = asked_for() {
        if let Ok(seed) = case.parse() {
            say!("{:?}", age_a_disk(seed));
        }
        return;
    }
    let wanted = number_from(CRASHES_VARIABLE).unwrap_or(CRASHES);
    let (next, crashes) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let tally = Tally::sum(on_all_cores("crashes", move |_| {
        let mut tally = Tally::default();
        while crashes.load(Ordering::Relaxed) < wanted {
            let one = age_a_disk(next.fetch_add(1, Ordering::Relaxed));
            crashes.fetch_add(one.crashes, Ordering::Relaxed);
            tally.add(one);
        }
        tally
    }));
    say!("at random: {tally:?}");
    assert!(tally.crashes >= wanted && u64::from(tally.pending) > tally.crashes / 20);
}

#[test]
fn after_a_loss_of_power_at_each_step_acknowledged_updates_are_there() {
    for_each_script("at each step", |script| {
        let mut tally = Tally::default();
        for seed in 0..SEEDS {
            for step in 1.. {
                let run = Case::new(script, seed, step, 0).run();
                tally.add(run.tally);
                if !run.interrupted {
                    break;
                }
            }
        }
        tally
    });
}

#[test]
fn after_a_loss_of_power_at_each_step_of_the_recovery_acknowledged_updates_are_there() {
    for_each_script("at each step of recoveries", |script| {
        let mut tally = Tally::default();
        for step in (1..).step_by(STRIDE) {
            for recovery_step in 1.. {
                let run = Case::new(script, SEEDS, step, recovery_step).run();
                tally.add(run.tally);
                if !run.interrupted {
                    return tally;
                }
                if !run.recovery_interrupted {
                    break;
                }
            }
        }
        tally
    });
}

/// Lets all cores work on the scripts, or does the one case that was asked for.
fn for_each_script(what: &str, work: impl Fn(usize) -> Tally + Clone + Send + 'static) {
    if let Some(text) = asked_for() {
        if let Some(case) = Case::parse(&text) {
            say!("{:?}", case.run().tally);
        }
        return;
    }
    let next = Arc::new(AtomicU64::new(0));
    let tally = Tally::sum(on_all_cores("crashes", move |_| {
        let mut tally = Tally::default();
        loop {
            let script = next.fetch_add(1, Ordering::Relaxed) as usize;
            if script >= scripts().len() {
                return tally;
            }
            tally.add(work(script));
        }
    }));
    say!("{what}: {tally:?}");
    assert!(tally.crashes > 100 && tally.pending > 10, "{tally:?}");
}

/// The result of `work`; nothing when the power fails before its end.
async fn until_failure<T>(power: &PowerSwitch, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        () = power.failed() => None,
        result = work => Some(result),
    }
}

/// The power fails at a step of a script, and maybe at a step of the recovery.
struct Case {
    script: Script,
    seed: u64,
    step: i64,
    /// 0: at a random step, or not at all.
    recovery_step: i64,
}

struct Run {
    tally: Tally,
    /// Whether the power failed before the script had ended.
    interrupted: bool,
    /// Whether it failed before the recovery had ended.
    recovery_interrupted: bool,
}

impl Case {
    fn new(script: usize, seed: u64, step: i64, recovery_step: i64) -> Self {
        Self {
            script: scripts().swap_remove(script),
            seed,
            step,
            recovery_step,
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let (name, numbers) = text.split_once('.')?;
        let numbers: Vec<i64> = numbers
            .split('.')
            .map(|number| number.parse().expect("a number"))
            .collect();
        let script = scripts().iter().position(|script| script.name == name);
        let script = script.expect("there is such a script");
        Some(Self::new(
            script,
            numbers[0].unsigned_abs(),
            numbers[1],
            numbers[2],
        ))
    }

    fn run(&self) -> Run {
        let (name, seed) = (self.script.name, self.seed);
        let (step, recovery_step) = (self.step, self.recovery_step);
        let _announced = Announced(format!("{name}.{seed}.{step}.{recovery_step}"));
        on_a_runtime(async {
            let env = Env::seeded(seed);
            let chunks = self.script.chunks.len() as u32;
            let mut aging = Aging::start(&env, SyncPolicy::Always, chunks).await;
            let power = PowerSwitch::failing_after(step);
            aging.crash(power.clone());
            let work = async {
                let engine = aging.open().await;
                follow(&env, &engine, &self.script, &aging.history)
                    .await
                    .unwrap();
                engine.close().await;
            };
            let interrupted = until_failure(&power, work).await.is_none();
            let recovery_interrupted = match recovery_step {
                0 => aging.crash_the_recovery_at_random().await,
                step => aging.crash_the_recovery(step).await,
            };
            aging.compare().await;
            Run {
                tally: aging.tally(),
                interrupted,
                recovery_interrupted,
            }
        })
    }
}

/// One disk through several crashes.
fn age_a_disk(seed: u64) -> Tally {
    let _announced = Announced(seed.to_string());
    on_a_runtime(async {
        let env = Env::seeded(seed);
        let policy = match seed % 8 {
            7 => SyncPolicy::OnFsync,
            _ => SyncPolicy::Always,
        };
        let mut aging = Aging::start(&env, policy, CHUNKS).await;
        for _ in 0..LIVES {
            let length = if env.random_below(6) == 0 { 1500 } else { 150 };
            let power = PowerSwitch::failing_after(1 + env.random_below(length) as i64);
            aging.crash(power.clone());
            let life = async {
                let engine = aging.open().await;
                live(&env, &engine, &aging.history).await
            };
            if let Some(error) = until_failure(&power, life).await {
                panic!("lives end with a crash: {error}");
            }
            aging.crash_the_recovery_at_random().await;
            aging.compare().await;
        }
        aging.tally()
    })
}

/// A disk that grows old, and what may be found on it.
struct Aging {
    env: Env,
    config: EngineConfig,
    disk: MemDisk,
    history: History,
    crashes: u64,
    pending: u32,
}

impl Aging {
    async fn start(env: &Env, sync: SyncPolicy, chunks: u32) -> Self {
        let aging = Self {
            env: env.clone(),
            config: EngineConfig {
                sync,
                // Little to copy at each crash.
                preallocate_bytes: 64 << 10,
                ..config()
            },
            disk: MemDisk::new(env, PowerSwitch::lasting()),
            history: History::new(sync, chunks),
            crashes: 0,
            pending: 0,
        };
        let engine = aging.open().await;
        engine.create_target(TARGET, ChainId(1)).await.unwrap();
        engine.close().await;
        aging
    }

    fn tally(&self) -> Tally {
        Tally {
            crashes: self.crashes,
            pending: self.pending,
            answers: self.history.answers(),
        }
    }

    fn crash(&mut self, power: Arc<PowerSwitch>) {
        self.disk = self.disk.crash(&self.env, power);
        self.crashes += 1;
    }

    /// The power lasts, only the process ends.
    fn kill(&mut self) {
        self.disk = self.disk.kill(&self.env, PowerSwitch::lasting());
    }

    async fn open(&self) -> Engine {
        self.disk.open(&self.env, self.config.clone()).await
    }

    /// What was there is lost, and then the power fails at a step of the recovery, or when it is over. Says
    /// whether it was at a step.
    async fn crash_the_recovery(&mut self, step: i64) -> bool {
        let power = PowerSwitch::failing_after(step);
        self.crash(power.clone());
        let recovery = async {
            let engine = self.open().await;
            self.env.sleep(AFTERMATH).await;
            engine
        };
        let recovered = until_failure(&power, recovery).await;
        power.cut();
        recovered.is_none()
    }

    async fn crash_the_recovery_at_random(&mut self) -> bool {
        let mut interrupted = false;
        for _ in 0..self.env.random_below(3) {
            let step = 1 + self.env.random_below(40) as i64;
            interrupted = self.crash_the_recovery(step).await;
        }
        interrupted
    }

    /// Opens what the last crash left, compares, and goes on from what is there.
    async fn compare(&mut self) {
        if self.env.random_below(4) == 0 {
            // What is found then must be there after the next crash.
            self.kill();
        } else {
            self.crash(PowerSwitch::lasting());
        }
        let engine = self.open().await;
        engine.check().unwrap();
        self.pending += self.history.compare(&engine).await;
        let answered = self.go_on(&engine).await;
        answered.unwrap();
        settled(&self.env, &engine).await;
        self.history.compare(&engine).await;
        if self.env.random_below(4) == 0 {
            engine.close().await;
            let engine = self.open().await;
            engine.check().unwrap();
            self.history.compare(&engine).await;
            engine.close().await;
        }
    }

    async fn go_on(&self, engine: &Engine) -> Result<(), EngineError> {
        for index in 0..self.history.chunk_count() {
            let worker = Worker {
                env: &self.env,
                engine,
                history: &self.history,
                index,
            };
            let payload = pattern(self.env.random_u64(), SMALL);
            let block = self.env.random_below(8) as u32;
            worker
                .update(write_at(block * SMALL, &payload), &payload)
                .await?;
            worker.commit().await?;
        }
        Ok(())
    }
}

/// With `on_fsync` a crash may lose what came after the last sync, but nothing before, and nothing is torn.
#[test]
fn without_syncs_a_crash_shows_a_state_that_was() {
    for seed in 0..60 {
        on_a_runtime(async {
            let env = Env::seeded(seed);
            let config = EngineConfig {
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

/// A process that is killed leaves bytes that can be read and that the next loss of power takes away. What the next process
/// builds on them must stand.
#[test]
fn what_was_found_after_a_kill_is_there_after_a_loss_of_power() {
    for step in 1..60 {
        for seed in 0..6 {
            on_a_runtime(async {
                let env = Env::seeded(seed * 1000 + step);
                let disk = MemDisk::new(&env, PowerSwitch::lasting());
                let engine = disk.open(&env, slot_config()).await;
                engine.create_target(TARGET, ChainId(1)).await.unwrap();
                engine.close().await;
                let power = PowerSwitch::failing_after(step as i64);
                let disk = disk.kill(&env, power.clone());
                let life = async {
                    let engine = disk.open(&env, slot_config()).await;
                    for version in 1.. {
                        let content = pattern(u64::from(version), 9000);
                        put(&engine, key(0), version, 0, &content).await;
                    }
                };
                until_failure(&power, life).await;
                let disk = disk.kill(&env, PowerSwitch::lasting());
                let engine = disk.open(&env, config()).await;
                let found = engine.get(key(0)).unwrap();
                // Its bytes go into the log, its slot lies in a file that the process before may have grown.
                put(&engine, key(1), 1, 0, &pattern(1, 4096)).await;
                engine.sync().await.unwrap();
                let disk = disk.crash(&env, PowerSwitch::lasting());
                let engine = disk.open(&env, config()).await;
                assert_eq!(engine.get(key(0)).unwrap(), found);
                if found.is_some_and(|meta| meta.exists) {
                    read_all(&engine, key(0)).await.unwrap();
                }
                let content = read_all(&engine, key(1)).await.unwrap();
                assert!(content == pattern(1, 4096));
                engine.check().unwrap();
            });
        }
    }
}
