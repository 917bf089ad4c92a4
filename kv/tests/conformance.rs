//! Every store runs the same suite.

use std::{sync::Arc, time::Duration};

use common::env::Env;
use kv::{
    Kv, KvError, ReadMode, conformance,
    conformance::HistoryOptions,
    embedded::{EmbeddedConfig, SyncPolicy},
    faulty::FaultyKv,
    limits,
    mem::MemKv,
};

use crate::support;

#[tokio::test]
async fn the_store_in_memory_conforms() {
    let kv: Arc<dyn Kv> = MemKv::new();
    conformance::run_all(&Env::seeded(1), &kv).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_store_in_memory_is_serializable_on_many_threads() {
    let kv: Arc<dyn Kv> = MemKv::new();
    let options = HistoryOptions {
        transactions: 500,
        ..HistoryOptions::default()
    };
    let (committed, refused) =
        conformance::random_history_is_serializable(&Env::real(), &kv, options).await;
    assert!(committed > 100 && refused > 0, "{committed}, {refused}");
}

#[tokio::test]
async fn unknown_results_keep_the_history_serializable() {
    let env = Env::seeded(2);
    let faulty = FaultyKv::new(&env, MemKv::new(), 4);
    // The check's own first transaction must succeed.
    faulty.script([None]);
    let kv: Arc<dyn Kv> = faulty;
    let options = HistoryOptions::default();
    let (committed, _refused) =
        conformance::random_history_is_serializable(&env, &kv, options).await;
    assert!(committed > 100, "{committed}");
}

#[tokio::test(start_paused = true)]
async fn a_transaction_that_has_lived_too_long_is_too_old() {
    let (env, kv) = (Env::seeded(1), MemKv::new());
    let mut txn = kv.begin();
    assert_eq!(txn.get(b"a", ReadMode::Serializable).await, Ok(None));
    txn.set(b"b", b"");
    env.sleep(limits::TRANSACTION_AGE_MAX).await;
    assert_eq!(txn.get(b"a", ReadMode::Serializable).await, Ok(None));
    env.sleep(Duration::from_millis(1)).await;
    let late = txn.get(b"a", ReadMode::Serializable).await;
    assert_eq!(late, Err(KvError::TooOld));
    assert_eq!(txn.commit().await, Err(KvError::TooOld));
    let mut blind = kv.begin();
    blind.set(b"b", b"");
    env.sleep(limits::TRANSACTION_AGE_MAX * 2).await;
    assert!(blind.commit().await.is_ok(), "it has read nothing");
}

async fn embedded(sync: SyncPolicy) {
    let dir = tempfile::tempdir().unwrap();
    let config = EmbeddedConfig {
        sync,
        ..EmbeddedConfig::default()
    };
    let store = support::open_with(dir.path(), config).unwrap();
    let kv: Arc<dyn Kv> = store.clone();
    conformance::run_all(&Env::real(), &kv).await;
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_embedded_store_conforms() {
    embedded(SyncPolicy::Interval(10)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_embedded_store_conforms_when_it_always_syncs() {
    embedded(SyncPolicy::Always).await;
}
