//! kill -9 at any moment: what was acknowledged is there, and no transaction is there by half.

use std::{io::Write, sync::Arc};

use common::env::Env;
use kv::{KeyRange, Kv, RangeOptions, ReadMode};

use crate::support::{self, CHILD_DIR};

const TASKS: u64 = 4;
/// Acknowledged commits before each kill.
const COMMITS: usize = 2_000;
const ROUNDS: usize = 3;
const ACKED: &str = "acked ";
/// Long enough that a batch takes several writes of the journal.
const PADDING: usize = 700;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acknowledged_commit_survives_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let mut acked: Vec<String> = Vec::new();
    for round in 0..ROUNDS {
        let mut child = support::child("crash::writes_until_killed", dir.path(), None);
        let mut lines = support::marked_lines(&mut child, ACKED);
        acked.extend(lines.by_ref().take(COMMITS));
        child.kill().unwrap();
        let mut rest: Vec<String> = lines.collect();
        child.wait().unwrap();
        // The last line may be cut.
        rest.pop();
        acked.extend(rest);
        assert!(acked.len() >= (round + 1) * COMMITS, "{}", acked.len());

        let kv = support::open(dir.path()).await;
        for name in &acked {
            let value = support::get(&*kv, &format!("a/{name}")).await;
            assert!(value.is_some(), "{name} of {} was lost", acked.len());
        }
        assert_eq!(names(&*kv, "a/").await, names(&*kv, "b/").await);
        support::close(kv).await;
    }
}

/// The keys below `prefix`, without it.
async fn names(kv: &dyn Kv, prefix: &str) -> Vec<Vec<u8>> {
    let (mut names, mut rest) = (Vec::new(), Some(KeyRange::prefix(prefix.as_bytes())));
    let mut txn = kv.begin();
    while let Some(range) = rest {
        let page = txn
            .get_range(range.clone(), RangeOptions::default(), ReadMode::Snapshot)
            .await
            .unwrap();
        let keys = page.items.iter().map(|(key, _value)| key[2..].to_vec());
        names.extend(keys);
        rest = page.rest(&range, false);
    }
    names
}

/// Not a test by itself: the child of the one above.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_until_killed() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else {
        return;
    };
    let kv = support::open(dir.as_ref()).await;
    let env = Env::real();
    let run = env.random_u64();
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| env.spawn("writer", write_on(kv.clone(), format!("{run:016x}-{task}"))))
        .collect();
    for task in tasks {
        task.join().await;
    }
}

async fn write_on(kv: Arc<dyn Kv>, writer: String) {
    let value = vec![b'x'; PADDING];
    for number in 0_u64.. {
        let name = format!("{writer}-{number}");
        let mut txn = kv.begin();
        txn.set(format!("a/{name}").as_bytes(), &value);
        txn.set(format!("b/{name}").as_bytes(), &value);
        txn.commit().await.unwrap();
        let line = format!("{ACKED}{name}\n");
        std::io::stdout().write_all(line.as_bytes()).unwrap();
    }
}
