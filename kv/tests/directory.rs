//! What the directory of the embedded store promises: one owner, one version, everything there again.

use std::fs;

use common::data_dir::DataDirError;
use kv::{
    Kv,
    embedded::{EmbeddedConfig, OpenError},
};

use crate::support;

async fn refusal(dir: &std::path::Path) -> OpenError {
    let opened = support::try_reopen(dir, EmbeddedConfig::default()).await;
    opened.unwrap_err()
}

#[tokio::test]
async fn what_was_committed_is_there_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let kv = support::open(dir.path()).await;
    support::set(&*kv, "a", "1").await.unwrap();
    support::set(&*kv, "b", "2").await.unwrap();
    let mut txn = kv.begin();
    txn.clear(b"a");
    txn.set_versionstamped_key(b"s", b"", b"");
    let before = txn.commit().await.unwrap();
    drop(txn);
    support::close(kv).await;

    let kv = support::open(dir.path()).await;
    assert_eq!(support::get(&*kv, "a").await, None);
    assert_eq!(support::get(&*kv, "b").await.as_deref(), Some(&b"2"[..]));
    let mut txn = kv.begin();
    txn.set_versionstamped_key(b"s", b"", b"");
    let after = txn.commit().await.unwrap();
    assert!(after > before, "{after:?} does not follow {before:?}");
}

#[tokio::test]
async fn a_second_owner_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let kv = support::open(dir.path()).await;
    let second = support::open_with(dir.path(), EmbeddedConfig::default());
    let error = second.unwrap_err().to_string();
    let owner = format!("in use by process {}", std::process::id());
    assert!(error.contains(&owner), "{error}");
    support::close(kv).await;
    support::open(dir.path()).await;
}

#[tokio::test]
async fn another_version_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    support::close(support::open(dir.path()).await).await;
    let version = dir.path().join("VERSION");
    assert_eq!(fs::read_to_string(&version).unwrap(), "penstock kv 1\n");
    fs::write(&version, "penstock kv 2\n").unwrap();
    let error = refusal(dir.path()).await.to_string();
    assert!(
        error.contains("`penstock kv 2`") && error.contains("`penstock kv 1`"),
        "{error}"
    );
}

#[tokio::test]
async fn a_directory_of_somebody_else_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("thesis.tex"), "x").unwrap();
    let error = refusal(dir.path()).await;
    assert!(
        matches!(error, OpenError::Directory(DataDirError::Foreign { .. })),
        "{error}"
    );
}

#[tokio::test]
async fn an_engine_that_was_half_made_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("VERSION"), "penstock kv 1\n").unwrap();
    let half = dir.path().join("engine.new");
    fs::create_dir(&half).unwrap();
    fs::write(half.join("0.jnl"), "").unwrap();
    let kv = support::open(dir.path()).await;
    support::set(&*kv, "a", "1").await.unwrap();
    assert!(!half.exists());
}

#[tokio::test]
async fn a_damaged_engine_is_an_error() {
    for damaged in ["version", "keyspaces/1/current"] {
        let dir = tempfile::tempdir().unwrap();
        let kv = support::open(dir.path()).await;
        support::set(&*kv, "a", "1").await.unwrap();
        support::close(kv).await;
        let path = dir.path().join("engine").join(damaged);
        let length = fs::metadata(&path).map_or(16, |found| found.len());
        fs::write(&path, vec![0x5a; length as usize]).unwrap();
        let error = support::try_reopen(dir.path(), EmbeddedConfig::default()).await;
        let named = error
            .as_ref()
            .map_or_else(ToString::to_string, |_kv| String::new());
        assert!(
            named.contains("cannot open the key-value store in"),
            "{damaged}: {error:?}"
        );
    }
}
