//! A device that takes no more: refused before it is full, stopped when a write fails, and never damaged.

use std::io::Write;

use kv::{Kv, KvError, embedded::EmbeddedConfig};
use tokio::signal::unix::{SignalKind, signal};

use crate::support::{self, CHILD_DIR};

const ACKED: &str = "acked ";
const STOPPED: &str = "stopped ";
/// Of `ulimit -f`: some hundred KiB.
const LIMIT_BLOCKS: u32 = 400;
/// SIGXFSZ on Linux.
const FILE_TOO_LARGE: i32 = 25;

#[tokio::test]
async fn commits_are_refused_while_the_device_is_nearly_full() {
    let dir = tempfile::tempdir().unwrap();
    let kv = support::open(dir.path()).await;
    support::set(&*kv, "a", "1").await.unwrap();
    support::close(kv).await;
    let full = EmbeddedConfig {
        space_reserve_bytes: u64::MAX,
        ..EmbeddedConfig::default()
    };
    let kv = support::try_reopen(dir.path(), full).await.unwrap();
    assert_eq!(support::set(&*kv, "b", "2").await, Err(KvError::Full));
    assert!(kv.status().failure.is_none(), "it has not stopped");
    assert!(support::get(&*kv, "a").await.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_write_stops_the_store_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let kv = support::open(dir.path()).await;
    support::set(&*kv, "first", "1").await.unwrap();
    support::close(kv).await;

    let mut child = support::child(
        "failure::writes_until_refused",
        dir.path(),
        Some(LIMIT_BLOCKS),
    );
    let output: Vec<String> = support::marked_lines(&mut child, ": ").collect();
    assert!(child.wait().unwrap().success(), "{output:?}");
    let marked = |mark: &str| -> Vec<&str> {
        let lines = output.iter().filter_map(|line| line.strip_prefix(mark));
        lines.collect()
    };
    let (acked, stopped) = (marked(ACKED), marked(STOPPED));
    assert!(acked.len() > 10, "{output:?}");
    assert_eq!(stopped.len(), 1, "{output:?}");
    assert!(
        stopped[0].contains("cannot write the journal"),
        "{stopped:?}"
    );

    let kv = support::open(dir.path()).await;
    for key in ["first"].iter().chain(&acked) {
        assert!(support::get(&*kv, key).await.is_some(), "{key} was lost");
    }
    support::set(&*kv, "after", "1").await.unwrap();
}

/// Not a test by itself: the child of the one above.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_until_refused() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else {
        return;
    };
    // With a handler, a write beyond the limit is an error instead of a death.
    let _handler = signal(SignalKind::from_raw(FILE_TOO_LARGE)).unwrap();
    let kv = support::open(dir.as_ref()).await;
    let say = |text: String| {
        let line = format!(": {text}\n");
        std::io::stdout().write_all(line.as_bytes()).unwrap();
    };
    let value = "x".repeat(5_000);
    let mut outcome = Ok(());
    for number in 0..100_000 {
        let key = format!("{number:06}");
        outcome = support::set(&*kv, &key, &value).await;
        if outcome.is_err() {
            break;
        }
        say(format!("{ACKED}{key}"));
    }
    assert_eq!(outcome, Err(KvError::CommitUnknown));
    let Err(KvError::Poisoned { reason }) = support::set(&*kv, "late", "").await else {
        panic!("a stopped store takes no writes");
    };
    let read = kv.begin().get(b"000000", kv::ReadMode::Snapshot).await;
    assert!(matches!(read, Err(KvError::Poisoned { .. })), "{read:?}");
    assert!(matches!(kv.sync().await, Err(KvError::Poisoned { .. })));
    assert!(matches!(kv.close().await, Err(KvError::Poisoned { .. })));
    say(format!("{STOPPED}{reason}"));
}
