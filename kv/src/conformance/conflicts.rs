//! Two transactions at a time: which must not both commit, and which must.

use std::{sync::Arc, time::Duration};

use common::env::Env;

use super::{Bench, Txn, assert_conflict, commit, get};
use crate::{
    error::KvError,
    key::KeyRange,
    retry::transact,
    transaction::{ConflictSets, Kv, RangeOptions, ReadMode},
};

pub(super) async fn run(env: &Env, kv: &Arc<dyn Kv>) {
    a_changed_read_conflicts(kv).await;
    a_snapshot_read_does_not_conflict(kv).await;
    phantoms_conflict(kv).await;
    only_what_a_page_covers_conflicts(kv).await;
    write_skew_is_refused(kv).await;
    blind_writes_commute(kv).await;
    atomic_operations_commute(kv).await;
    own_writes_are_no_reads(kv).await;
    explicit_conflicts_count(kv).await;
    versionstamped_keys_conflict_with_readers(kv).await;
    readers_always_commit(kv).await;
    conflict_sets_are_exact(kv).await;
    retried_increments_all_count(env, kv).await;
}

/// Begins a transaction that reads with `read` and will write a key of its own.
async fn reader(bench: &Bench<'_>, name: &str) -> Txn {
    let mut txn = bench.begin();
    bench.get(&mut txn, name).await;
    txn.set(&bench.key("result"), b"");
    txn
}

async fn a_changed_read_conflicts(kv: &Arc<dyn Kv>) {
    let bench = Bench::new(kv, "changed").await;
    bench.fill(&["a", "c"]).await;
    for name in ["a", "missing"] {
        let mut txn = reader(&bench, name).await;
        bench.fill(&[name]).await;
        assert_conflict(&mut txn, "the key was written").await;
    }
    let mut txn = reader(&bench, "a").await;
    let mut other = bench.begin();
    other.clear_range(bench.range("a", "b"));
    commit(&mut other).await;
    assert_conflict(&mut txn, "the range around the key was cleared").await;
    let mut txn = reader(&bench, "c").await;
    bench.fill(&["b", "d"]).await;
    commit(&mut txn).await;
}

async fn a_snapshot_read_does_not_conflict(kv: &Arc<dyn Kv>) {
    let bench = Bench::new(kv, "snapshot").await;
    bench.fill(&["a"]).await;
    let mut txn = bench.begin();
    get(&mut txn, &bench.key("a"), ReadMode::Snapshot).await;
    let options = RangeOptions::default();
    let page = txn.get_range(bench.all(), options, ReadMode::Snapshot);
    assert!(page.await.is_ok());
    txn.set(&bench.key("result"), b"");
    bench.fill(&["a"]).await;
    commit(&mut txn).await;
}

async fn phantoms_conflict(kv: &Arc<dyn Kv>) {
    let bench = Bench::new(kv, "phantom").await;
    bench.fill(&["a", "c"]).await;
    for change in ["set", "clear", "clear_range"] {
        let mut txn = bench.begin();
        bench
            .page(&mut txn, bench.range("a", "d"), RangeOptions::default())
            .await;
        txn.set(&bench.key("result"), b"");
        let mut other = bench.begin();
        match change {
            "set" => other.set(&bench.key("b"), b""),
            "clear" => other.clear(&bench.key("b")),
            _ => other.clear_range(bench.range("bb", "bc")),
        }
        commit(&mut other).await;
        assert_conflict(&mut txn, change).await;
    }
}

async fn only_what_a_page_covers_conflicts(kv: &Arc<dyn Kv>) {
    let bench = Bench::new(kv, "covered").await;
    bench.fill(&["a", "b", "c", "d"]).await;
    let cases = [
        (false, "c", false),
        (false, "bb", false),
        (false, "ab", true),
        (true, "b", false),
        (true, "bb", false),
        (true, "cc", true),
    ];
    for (reverse, changed, conflicts) in cases {
        let mut txn = bench.begin();
        let options = RangeOptions { limit: 2, reverse };
        let (names, more) = bench.page(&mut txn, bench.range("a", "e"), options).await;
        assert!(names.len() == 2 && more);
        txn.set(&bench.key("result"), b"");
        let mut other = bench.begin();
        other.atomic_add(&bench.key(changed), 1);
        commit(&mut other).await;
        let expected = if conflicts {
            Err(KvError::Conflict)
        } else {
            Ok(())
        };
        let outcome = txn.commit().await.map(|_version| ());
        assert_eq!(outcome, expected, "reverse {reverse}, changed {changed}");
        let mut undo = bench.begin();
        undo.clear_range(bench.all());
        commit(&mut undo).await;
        bench.fill(&["a", "b", "c", "d"]).await;
    }
}

async fn write_skew_is_refused(kv: &Arc<dyn Kv>) {
    let bench = Bench::new(kv, "skew").await;
    bench.fill(&["a", "b"]).await;
    let (mut first, mut second) = (bench.begin(), bench.begin());
    for (txn, other) in [(&mut first, "a"), (&mut second, "b")] {
        bench.get(txn, "a").await;
        bench.get(txn, "b").await;
        txn.clear(&bench.key(other));
    }
    commit(&mut first).await;
    assert_conflict(&mut second, "it would leave neither").await;
}

async fn blind_writes_commute(kv: &Arc<dyn Kv>) {
    let bench = Bench::new(kv, "blind").await;
    let (mut first, mut second) = (bench.begin(), bench.begin());
    for (txn, own) in [(&mut first, "a"), (&mut second, "b")] {
        txn.set(&bench.key(own), b"");
        txn.set(&bench.key("both"), own.as_bytes());
    }
    commit(&mut second).await;
    commit(&mut first).await;
    let both = bench.get(&mut bench.begin(), "both").await;
    assert_eq!(both.as_deref(), Some(&b"a"[..]), "the later commit wins");
}

async fn atomic_operations_commute(kv: &Arc<dyn Kv>) {
    let bench = Bench::new(kv, "commute").await;
    let mut txn = reader(&bench, "n").await;
    let (mut first, mut second) = (bench.begin(), bench.begin());
    for add in [&mut first, &mut second] {
        add.atomic_add(&bench.key("n"), 1);
    }
    commit(&mut first).await;
    commit(&mut second).await;
    assert_conflict(&mut txn, "who reads the sum conflicts").await;
}

async fn own_writes_are_no_reads(kv: &Arc<dyn Kv>) {
    let bench = Bench::new(kv, "no-read").await;
    let mut txn = bench.begin();
    txn.set(&bench.key("a"), b"own");
    txn.clear(&bench.key("b"));
    bench.get(&mut txn, "a").await;
    bench.get(&mut txn, "b").await;
    bench.fill(&["a", "b"]).await;
    commit(&mut txn).await;
}

async fn explicit_conflicts_count(kv: &Arc<dyn Kv>) {
    let bench = Bench::new(kv, "explicit").await;
    let mut txn = bench.begin();
    txn.add_read_conflict(bench.range("a", "c"));
    txn.set(&bench.key("result"), b"");
    bench.fill(&["b"]).await;
    assert_conflict(&mut txn, "a read conflict was added").await;

    let mut txn = reader(&bench, "b").await;
    let mut other = bench.begin();
    other.add_write_conflict(KeyRange::single(&bench.key("b")));
    commit(&mut other).await;
    assert_conflict(&mut txn, "a write conflict was added").await;
}

async fn versionstamped_keys_conflict_with_readers(kv: &Arc<dyn Kv>) {
    let bench = Bench::new(kv, "stamped").await;
    let mut txn = bench.begin();
    bench
        .page(
            &mut txn,
            bench.range("log", "log~"),
            RangeOptions::default(),
        )
        .await;
    txn.set(&bench.key("result"), b"");
    let mut other = bench.begin();
    other.set_versionstamped_key(&bench.key("log"), b"", b"");
    commit(&mut other).await;
    assert_conflict(&mut txn, "the log has grown").await;
}

async fn readers_always_commit(kv: &Arc<dyn Kv>) {
    let bench = Bench::new(kv, "readers").await;
    bench.fill(&["a"]).await;
    let mut txn = bench.begin();
    bench.get(&mut txn, "a").await;
    txn.add_read_conflict(bench.all());
    bench.fill(&["a"]).await;
    commit(&mut txn).await;
}

async fn conflict_sets_are_exact(kv: &Arc<dyn Kv>) {
    let bench = Bench::new(kv, "sets").await;
    bench.fill(&["a", "c", "d"]).await;
    let mut txn = bench.begin();
    bench.get(&mut txn, "c").await;
    bench.get(&mut txn, "c").await;
    get(&mut txn, &bench.key("unseen"), ReadMode::Snapshot).await;
    let options = RangeOptions {
        limit: 1,
        reverse: false,
    };
    bench.page(&mut txn, bench.range("", "z"), options).await;
    txn.set(&bench.key("w"), b"");
    txn.atomic_add(&bench.key("n"), 1);
    txn.clear_range(bench.range("x", "y"));
    bench.get(&mut txn, "w").await;
    let single = |name| KeyRange::single(&bench.key(name));
    let expected = ConflictSets {
        reads: vec![bench.range("", "a\0"), single("c")],
        writes: vec![single("n"), single("w"), bench.range("x", "y")],
    };
    assert_eq!(txn.conflicts(), expected);
}

async fn retried_increments_all_count(env: &Env, kv: &Arc<dyn Kv>) {
    const TASKS: u64 = 8;
    const EACH: u64 = 20;
    let bench = Bench::new(kv, "retried").await;
    let deadline = env.now() + Duration::from_secs(60);
    let tasks: Vec<_> = (0..TASKS)
        .map(|_| {
            let (env, kv, key) = (env.clone(), kv.clone(), bench.key("n"));
            env.clone().spawn("conformance-increments", async move {
                for _ in 0..EACH {
                    let key = &key;
                    let added: Result<(), KvError> = transact(&env, &*kv, deadline, |txn| {
                        Box::pin(async move {
                            let old = txn.get(key, ReadMode::Serializable).await?;
                            tokio::task::yield_now().await;
                            let old = old.and_then(|old| old.as_ref().try_into().ok());
                            let new = old.map_or(0, u64::from_le_bytes) + 1;
                            txn.set(key, &new.to_le_bytes());
                            Ok(())
                        })
                    })
                    .await;
                    assert_eq!(added, Ok(()));
                }
            })
        })
        .collect();
    for task in tasks {
        assert!(task.join().await.is_some(), "a task panicked");
    }
    let sum = bench.get(&mut bench.begin(), "n").await;
    assert_eq!(
        sum.as_deref(),
        Some(&(TASKS * EACH).to_le_bytes()[..]),
        "an increment was lost"
    );
}
