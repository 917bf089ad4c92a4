//! How fast the embedded store commits: two reads and two writes of 200 bytes per transaction, for a few
//! seconds, with 1, 16 and 64 tasks and both sync policies.
//!
//! `cargo bench -p penstock-kv [-- DIRECTORY]` (a directory on the disk to measure).
#![allow(clippy::unwrap_used, reason = "a benchmark may")]

use std::{io::Write, path::PathBuf, sync::Arc, time::Duration};

use common::{
    env::{Env, Instant},
    shutdown::Shutdown,
};
use kv::{
    Kv, KvError, ReadMode,
    embedded::{EmbeddedConfig, EmbeddedKv, SyncPolicy},
    transact,
};

const KEYS: u64 = 100_000;
const SECONDS: u64 = 3;

fn main() {
    // Cargo adds flags of its own.
    let dir = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(run(dir.map(PathBuf::from)));
}

async fn run(parent: Option<PathBuf>) {
    let env = Env::real();
    for sync in [SyncPolicy::Interval(10), SyncPolicy::Always] {
        let dir = tempfile::tempdir_in(parent.clone().unwrap_or_else(std::env::temp_dir)).unwrap();
        let config = EmbeddedConfig {
            sync,
            ..EmbeddedConfig::default()
        };
        let shutdown = Shutdown::new();
        let kv = EmbeddedKv::open(&env, dir.path(), config, shutdown.signal()).unwrap();
        fill(&*kv).await;
        for tasks in [1, 16, 64] {
            measure(&env, &kv, &format!("{sync:?}"), tasks).await;
        }
        kv.close().await.unwrap();
    }
}

fn key(number: u64) -> [u8; 32] {
    let mut key = [b'k'; 32];
    key[24..].copy_from_slice(&number.to_be_bytes());
    key
}

async fn fill(kv: &dyn Kv) {
    for first in (0..KEYS).step_by(1000) {
        let mut txn = kv.begin();
        for number in first..first + 1000 {
            txn.set(&key(number), &[1; 200]);
        }
        txn.commit().await.unwrap();
    }
}

async fn measure(env: &Env, kv: &Arc<EmbeddedKv>, policy: &str, tasks: usize) {
    let end = env.now() + Duration::from_secs(SECONDS);
    let running: Vec<_> = (0..tasks)
        .map(|_| env.spawn("bench", work(env.clone(), kv.clone(), end)))
        .collect();
    let mut times = Vec::new();
    for task in running {
        times.extend(task.join().await.unwrap());
    }
    times.sort_unstable();
    let at = |part: usize| times[(times.len() - 1) * part / 100];
    let per_second = times.len() as u64 / SECONDS;
    let line = format!(
        "{policy:14} {tasks:3} tasks {per_second:7}/s  p50 {:?}  p99 {:?}  max {:?}\n",
        at(50),
        at(99),
        at(100)
    );
    std::io::stdout().write_all(line.as_bytes()).unwrap();
}

async fn work(env: Env, kv: Arc<EmbeddedKv>, end: Instant) -> Vec<Duration> {
    let mut times = Vec::new();
    while env.now() < end {
        let keys = [env.random_below(KEYS), env.random_below(KEYS)].map(key);
        let begun = env.now();
        let done: Result<(), KvError> = transact(&env, &*kv, end + Duration::from_secs(1), |txn| {
            Box::pin(async move {
                for key in &keys {
                    txn.get(key, ReadMode::Serializable).await?;
                }
                for key in &keys {
                    txn.set(key, &[2; 200]);
                }
                Ok(())
            })
        })
        .await;
        done.unwrap();
        times.push(env.now().duration_since(begun));
    }
    times
}
