//! When commits reach stable storage, as the store itself sees it.

use std::{sync::Arc, time::Duration};

use common::{env::Env, shutdown::Shutdown};
use kv::{
    Kv,
    embedded::{EmbeddedConfig, EmbeddedKv, SyncPolicy},
};

use crate::support;

async fn settles(kv: &EmbeddedKv) -> bool {
    let env = Env::real();
    let waited = env.timeout(Duration::from_secs(10), async {
        while kv.status().synced < kv.status().committed {
            env.sleep(Duration::from_millis(1)).await;
        }
    });
    waited.await.is_ok()
}

#[tokio::test]
async fn a_commit_is_synced_within_the_interval() {
    let dir = tempfile::tempdir().unwrap();
    let kv = support::open(dir.path()).await;
    support::set(&*kv, "a", "1").await.unwrap();
    assert!(settles(&kv).await, "{:?}", kv.status());
}

#[tokio::test]
async fn nothing_is_synced_before_the_interval_unless_asked() {
    let dir = tempfile::tempdir().unwrap();
    let kv = support::open_with(dir.path(), support::lazy()).unwrap();
    support::set(&*kv, "a", "1").await.unwrap();
    Env::real().sleep(Duration::from_millis(50)).await;
    let status = kv.status();
    assert!(status.synced < status.committed, "{status:?}");
    kv.sync().await.unwrap();
    let synced = kv.status().synced;
    assert_eq!(synced, status.committed);
}

#[tokio::test]
async fn every_commit_is_synced_before_it_is_acknowledged_by_policy() {
    let dir = tempfile::tempdir().unwrap();
    let config = EmbeddedConfig {
        sync: SyncPolicy::Always,
        ..EmbeddedConfig::default()
    };
    let kv = support::open_with(dir.path(), config).unwrap();
    for number in 0..10 {
        let mut txn = kv.begin();
        txn.set(b"a", &[number]);
        let version = txn.commit().await.unwrap();
        assert!(kv.status().synced >= version);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_syncs_all_cover_what_was_committed_before() {
    let (env, dir) = (Env::real(), tempfile::tempdir().unwrap());
    let kv = support::open_with(dir.path(), support::lazy()).unwrap();
    let tasks: Vec<_> = (0..8_u8)
        .map(|task| {
            let kv: Arc<EmbeddedKv> = kv.clone();
            env.spawn("sync", async move {
                for number in 0..20 {
                    let mut txn = kv.begin();
                    txn.set(&[task], &[number]);
                    let version = txn.commit().await.unwrap();
                    kv.sync().await.unwrap();
                    assert!(kv.status().synced >= version);
                }
            })
        })
        .collect();
    for task in tasks {
        assert!(task.join().await.is_some(), "a task panicked");
    }
}

#[tokio::test]
async fn shutdown_syncs_at_once_and_close_ends_the_store() {
    let (dir, shutdown) = (tempfile::tempdir().unwrap(), Shutdown::new());
    let kv =
        EmbeddedKv::open(&Env::real(), dir.path(), support::lazy(), shutdown.signal()).unwrap();
    support::set(&*kv, "a", "1").await.unwrap();
    shutdown.trigger();
    assert!(settles(&kv).await, "{:?}", kv.status());
    support::set(&*kv, "b", "1").await.unwrap();
    assert!(settles(&kv).await, "{:?}", kv.status());
    kv.close().await.unwrap();
    assert_eq!(support::set(&*kv, "c", "1").await, Err(kv::KvError::Closed));
    assert!(support::get(&*kv, "b").await.is_some(), "reads go on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_than_memory_holds_is_written_out_and_read_back() {
    const TRANSACTIONS: u32 = 600;
    const KEYS_EACH: u32 = 50;
    let dir = tempfile::tempdir().unwrap();
    let kv = support::open(dir.path()).await;
    let value = vec![b'v'; 1000];
    let key = |transaction: u32, number: u32| format!("{transaction:05}/{number}").into_bytes();
    for transaction in 0..TRANSACTIONS {
        let mut txn = kv.begin();
        for number in 0..KEYS_EACH {
            txn.set(&key(transaction, number), &value);
        }
        txn.commit().await.unwrap();
    }
    let tables = dir.path().join("engine/keyspaces/1/tables");
    let env = Env::real();
    let written = env.timeout(Duration::from_secs(20), async {
        while std::fs::read_dir(&tables).unwrap().count() == 0 {
            env.sleep(Duration::from_millis(10)).await;
        }
    });
    assert!(written.await.is_ok(), "30 MB are still in memory");
    support::close(kv).await;
    let kv = support::open(dir.path()).await;
    for transaction in (0..TRANSACTIONS).step_by(7) {
        let mut txn = kv.begin();
        let found = txn.get(&key(transaction, 3), kv::ReadMode::Snapshot).await;
        assert_eq!(found.unwrap().as_deref(), Some(&value[..]));
    }
    support::close(kv).await;
}
