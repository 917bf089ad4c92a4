//! A process that is killed in the middle of its updates loses none that it had acknowledged.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    path::PathBuf,
    process::{Command, Stdio},
    sync::mpsc,
    time::Duration,
};

use common::{buf::BufPool, env::Env};
use engine::{Engine, ReadVersion};
use types::id::ChainId;

use crate::support::{TARGET, config, key, pattern, put};

const DIR_VARIABLE: &str = "PENSTOCK_TEST_KILL_DIR";
const KILLS: u32 = 4;
const CHUNKS: u32 = 8;

fn content(index: u32, version: u32) -> Vec<u8> {
    pattern(
        u64::from(version) << 8 | u64::from(index),
        5000 + version % 7 * 9000,
    )
}

/// Not a test of its own: the process that is killed. Without the variable there is nothing to do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_that_is_killed() {
    let Some(dir) = std::env::var_os(DIR_VARIABLE).map(PathBuf::from) else {
        return;
    };
    let env = Env::real();
    let engine = Engine::open(&env, &dir, config(), BufPool::new(16 << 20))
        .await
        .unwrap();
    engine.create_target(TARGET, ChainId(1)).await.unwrap();
    let workers = (0..CHUNKS).map(|index| {
        let engine = engine.clone();
        env.spawn("worker", async move {
            let known = engine.get(key(index)).unwrap();
            let mut version = known.map_or(0, |meta| meta.commit_version.0);
            loop {
                version += 1;
                put(&engine, key(index), version, 0, &content(index, version)).await;
                // One write for the whole line: lines of workers must not mix.
                let line = format!("acked {index} {version}\n");
                std::io::stdout().write_all(line.as_bytes()).unwrap();
            }
        })
    });
    futures::future::join_all(workers.map(|worker| worker.join())).await;
}

/// Runs the child until it has acknowledged enough, kills it, returns the last version of each chunk.
fn run_and_kill(dir: &std::path::Path, acknowledged: usize) -> BTreeMap<u32, u32> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "kill::child_that_is_killed", "--nocapture"])
        .env(DIR_VARIABLE, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    let (sender, lines) = mpsc::channel();
    let reader = Env::real().spawn_thread("child-output", move || {
        for line in output.lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    let mut last = BTreeMap::new();
    let mut note = |line: &str| {
        let mut words = line
            .split_whitespace()
            .skip_while(|word| *word != "acked")
            .skip(1);
        if let (Some(index), Some(version)) = (words.next(), words.next()) {
            last.insert(index.parse().unwrap(), version.parse().unwrap());
        }
    };
    for _ in 0..acknowledged {
        note(
            &lines
                .recv_timeout(Duration::from_secs(20))
                .expect("the child goes on"),
        );
    }
    child.kill().unwrap();
    child.wait().unwrap();
    // What it said before it died counts as well.
    for line in lines {
        note(&line);
    }
    reader.unwrap().join().unwrap();
    last
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_process_has_lost_nothing_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    let env = Env::real();
    for kill in 0..KILLS {
        let child_dir = path.clone();
        let acknowledged = 40 + 60 * kill as usize;
        let last = env
            .blocking(move || run_and_kill(&child_dir, acknowledged))
            .await;
        assert!(!last.is_empty());
        let engine = Engine::open(&env, &path, config(), BufPool::new(16 << 20))
            .await
            .unwrap();
        engine.check().unwrap();
        for (index, version) in last {
            let meta = engine.get(key(index)).unwrap().unwrap();
            let pending = meta.pending.map_or(0, |pending| pending.update_version.0);
            let newest = meta.commit_version.0.max(pending);
            assert!(newest >= version, "chunk {index}: {newest} after {version}");
            let read = engine
                .read(key(index), ReadVersion::Pending, 0, u32::MAX)
                .await
                .unwrap();
            let (expected, got) = (written(index, newest), read.data);
            assert_eq!(got[..expected.len()], expected);
            if pending > 0 {
                let chain_version = crate::support::CHAIN_VERSION;
                let version = types::version::ChunkVersion(pending);
                engine
                    .commit(key(index), version, chain_version)
                    .await
                    .unwrap();
            }
        }
        engine.close().await;
    }
}

/// What the last write put at the start of a chunk.
fn written(index: u32, version: u32) -> Vec<u8> {
    content(index, version)
}
