//! A process that is killed in the middle of its updates loses none that it had acknowledged.
//!
//! What the versions of a chunk change follows from index, version and the length before alone, so the test knows the
//! content of every version that may be found.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc,
    time::Duration,
};

use common::{buf::BufPool, env::Env};
use engine::{Change, Engine};
use types::{id::ChainId, version::ChunkVersion};

use crate::{
    history::{State, Version},
    support::{
        CHAIN_VERSION, CHUNK_SIZE, TARGET, apply, changed, config, key, number_from, random_change,
    },
};

const DIR_VARIABLE: &str = "PENSTOCK_TEST_KILL_DIR";
/// Kills of a usual run; the variable asks for another number.
const KILLS: u64 = 16;
const KILLS_VARIABLE: &str = "PENSTOCK_KILLS";
/// Every so many kills one comes before anything was acknowledged: while the disk is being opened.
const KILLS_AT_START: u64 = 4;
const CHUNKS: u32 = 8;

/// The change that makes `version` of a chunk: mostly small overwrites, big writes in between.
fn change(index: u32, version: u32, length: u32) -> (Change, Vec<u8>) {
    let env = Env::seeded(u64::from(version) << 8 | u64::from(index));
    // Some chunks stay short, so that their small overwrites lie above each other.
    let limit = if index < 4 { 30_000 } else { CHUNK_SIZE };
    random_change(&env, limit, length)
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
            let (mut version, mut length) =
                known.map_or((0, 0), |meta| (meta.commit_version.0, meta.length));
            loop {
                version += 1;
                let (change, payload) = change(index, version, length);
                let updated = apply(&engine, key(index), version, change, &payload).await;
                length = updated.unwrap().length;
                // One write for the whole line: lines of workers must not mix.
                let line = format!("acked {index} {version}\n");
                std::io::stdout().write_all(line.as_bytes()).unwrap();
            }
        })
    });
    futures::future::join_all(workers.map(|worker| worker.join())).await;
}

/// When to kill.
#[derive(Clone, Copy, Debug)]
enum Moment {
    AfterAcknowledged(u64),
    AfterTime(Duration),
}

/// Runs the child, kills it, returns the last version of each chunk that it acknowledged.
fn run_and_kill(dir: &Path, moment: Moment) -> BTreeMap<u32, u32> {
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
    match moment {
        Moment::AfterAcknowledged(count) => {
            for _ in 0..count {
                let line = lines.recv_timeout(Duration::from_secs(60));
                note(&line.expect("the child goes on"));
            }
        }
        Moment::AfterTime(time) => {
            // The test harness says something before the disk is opened; it is then that the time starts.
            let first = lines.recv_timeout(Duration::from_secs(60));
            note(&first.expect("the child starts"));
            if let Ok(line) = lines.recv_timeout(time) {
                note(&line);
            }
        }
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
    let kills = number_from(KILLS_VARIABLE).unwrap_or(KILLS);
    let mut known = vec![State::default(); CHUNKS as usize];
    for kill in 0..kills {
        let child_dir = path.clone();
        let moment = if kill % KILLS_AT_START == KILLS_AT_START - 1 {
            Moment::AfterTime(Duration::from_millis(env.random_below(60)))
        } else {
            Moment::AfterAcknowledged(20 + env.random_below(400))
        };
        let last = env.blocking(move || run_and_kill(&child_dir, moment)).await;
        let engine = Engine::open(&env, &path, config(), BufPool::new(16 << 20))
            .await
            .unwrap();
        engine.check().unwrap();
        for (index, state) in (0..).zip(&mut known) {
            let acknowledged = last.get(&index).copied().unwrap_or(0);
            go_forward(&engine, index, acknowledged, state).await;
        }
        engine.close().await;
    }
    let versions: u32 = known.iter().map(|state| state.next_version() - 1).sum();
    say!("{kills} kills, {versions} updates");
    assert!(u64::from(versions) > kills * 10);
}

/// Compares a chunk with what its last version made of it, and commits what is pending.
async fn go_forward(engine: &Engine, index: u32, acknowledged: u32, known: &mut State) {
    let found = State::find(engine, index).await;
    let newest = found.pending.as_ref().or(found.committed.as_ref());
    let number = newest.map_or(0, |version| version.number);
    let at_least = acknowledged.max(known.next_version() - 1);
    assert!(
        number >= at_least,
        "chunk {index}: {number} after {at_least}"
    );
    for version in known.next_version()..=number {
        let (change, payload) = change(index, version, known.length());
        let content = changed(known.content(), change, &payload).map(std::sync::Arc::new);
        if let Some(pending) = found.pending.as_ref().filter(|_| version == number) {
            // Below what is pending the version before is committed.
            assert_eq!(found.committed, known.committed, "chunk {index}");
            assert_eq!(pending.content, content, "chunk {index}");
        }
        known.committed = Some(Version {
            number: version,
            content,
        });
    }
    assert_eq!(newest, known.committed.as_ref(), "chunk {index}");
    if found.pending.is_some() {
        let version = ChunkVersion(number);
        engine
            .commit(key(index), version, CHAIN_VERSION)
            .await
            .unwrap();
    }
}
