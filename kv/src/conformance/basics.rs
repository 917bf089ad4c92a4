//! One transaction at a time: what it sees, what it leaves behind, and its limits.

use std::sync::Arc;

use super::{Bench, commit, get};
use crate::{
    error::KvError,
    key::KeyRange,
    limits,
    transaction::{Kv, RangeOptions, ReadMode},
    versionstamp::Versionstamp,
};

const FORWARD: RangeOptions = RangeOptions {
    limit: usize::MAX,
    reverse: false,
};
const REVERSE: RangeOptions = RangeOptions {
    limit: usize::MAX,
    reverse: true,
};

pub(super) async fn run(kv: &Arc<dyn Kv>) {
    reads_see_own_writes(kv).await;
    ranges_show_own_writes(kv).await;
    a_snapshot_does_not_move(kv).await;
    a_dropped_transaction_leaves_nothing(kv).await;
    pages_join_to_the_whole_range(kv).await;
    large_ranges_come_in_pages(kv).await;
    a_cleared_range_ends_where_it_ends(kv).await;
    atomic_operations_compute_at_commit(kv).await;
    versionstamps_rise(kv).await;
    limits_are_kept(kv).await;
    a_committed_transaction_is_finished(kv).await;
    sync_returns(kv).await;
}

async fn reads_see_own_writes(kv: &Arc<dyn Kv>) {
    let bench = Bench::new(kv, "own").await;
    bench.fill(&["a", "b"]).await;
    let mut txn = bench.begin();
    txn.set(&bench.key("a"), b"new");
    txn.clear(&bench.key("b"));
    assert_eq!(bench.get(&mut txn, "a").await.as_deref(), Some(&b"new"[..]));
    assert_eq!(bench.get(&mut txn, "b").await, None);
    txn.atomic_add(&bench.key("n"), 3);
    txn.atomic_max(&bench.key("n"), 2);
    let three = 3_u64.to_le_bytes();
    assert_eq!(bench.get(&mut txn, "n").await.as_deref(), Some(&three[..]));
    commit(&mut txn).await;
    let mut txn = bench.begin();
    assert_eq!(bench.get(&mut txn, "a").await.as_deref(), Some(&b"new"[..]));
    assert_eq!(bench.get(&mut txn, "b").await, None);
    assert_eq!(bench.get(&mut txn, "n").await.as_deref(), Some(&three[..]));
}

async fn ranges_show_own_writes(kv: &Arc<dyn Kv>) {
    let bench = Bench::new(kv, "overlay").await;
    bench.fill(&["a", "b", "c", "e", "f"]).await;
    let mut txn = bench.begin();
    txn.clear_range(bench.range("b", "d"));
    txn.set(&bench.key("c"), b"own");
    txn.set(&bench.key("d"), b"own");
    txn.clear(&bench.key("e"));
    txn.atomic_add(&bench.key("g"), 1);
    let (names, more) = bench.page(&mut txn, bench.all(), FORWARD).await;
    assert_eq!((names.join(""), more), ("acdfg".to_owned(), false));
    let (names, _more) = bench.page(&mut txn, bench.all(), REVERSE).await;
    assert_eq!(names.join(""), "gfdca");
    for limit in 1..=6 {
        for reverse in [false, true] {
            let (mut seen, mut rest) = (Vec::new(), Some(bench.all()));
            while let Some(range) = rest {
                let options = RangeOptions { limit, reverse };
                let page = txn
                    .get_range(range.clone(), options, ReadMode::Snapshot)
                    .await
                    .expect("a range can be read");
                assert!(page.items.len() <= limit, "more than the limit of {limit}");
                rest = page.rest(&range, reverse);
                seen.extend(page.items.iter().map(|(key, _value)| bench.name(key)));
            }
            let expected = if reverse { "gfdca" } else { "acdfg" };
            assert_eq!(seen.join(""), expected, "limit {limit}, reverse {reverse}");
        }
    }
}

async fn a_snapshot_does_not_move(kv: &Arc<dyn Kv>) {
    let bench = Bench::new(kv, "still").await;
    bench.fill(&["a", "b"]).await;
    let mut reader = bench.begin();
    let mut late = bench.begin();
    assert!(bench.get(&mut reader, "a").await.is_some());
    let mut writer = bench.begin();
    writer.set(&bench.key("a"), b"changed");
    writer.clear(&bench.key("b"));
    writer.set(&bench.key("c"), b"");
    commit(&mut writer).await;
    assert_eq!(
        bench.get(&mut reader, "a").await.as_deref(),
        Some(&b"a"[..])
    );
    let (names, _more) = bench.page(&mut reader, bench.all(), FORWARD).await;
    assert_eq!(
        names.join(""),
        "ab",
        "a snapshot is one version of the store"
    );
    commit(&mut reader).await;
    assert_eq!(
        bench.get(&mut late, "a").await.as_deref(),
        Some(&b"changed"[..]),
        "a transaction reads the store as it is at its first read"
    );
}

async fn a_dropped_transaction_leaves_nothing(kv: &Arc<dyn Kv>) {
    let bench = Bench::new(kv, "dropped").await;
    let mut txn = bench.begin();
    txn.set(&bench.key("a"), b"");
    drop(txn);
    assert_eq!(bench.get(&mut bench.begin(), "a").await, None);
}

async fn pages_join_to_the_whole_range(kv: &Arc<dyn Kv>) {
    let bench = Bench::new(kv, "pages").await;
    let names: Vec<String> = (0..40).map(|i| format!("{i:02}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    bench.fill(&names).await;
    let range = bench.range("05", "25");
    for reverse in [false, true] {
        let (mut seen, mut rest) = (Vec::new(), Some(range.clone()));
        let mut txn = bench.begin();
        while let Some(left) = rest {
            let options = RangeOptions { limit: 7, reverse };
            let page = txn
                .get_range(left.clone(), options, ReadMode::Snapshot)
                .await
                .expect("a range can be read");
            rest = page.rest(&left, reverse);
            seen.extend(page.items.into_iter().map(|(key, _value)| bench.name(&key)));
        }
        if reverse {
            seen.reverse();
        }
        assert_eq!(seen, names[5..25], "reverse {reverse}");
    }
    let mut txn = bench.begin();
    let empty = bench.page(&mut txn, bench.range("5", "25"), FORWARD).await;
    assert_eq!(empty, (Vec::new(), false), "begin lies behind end");
}

async fn large_ranges_come_in_pages(kv: &Arc<dyn Kv>) {
    let bench = Bench::new(kv, "large").await;
    let value = vec![7; limits::VALUE_BYTES_MAX];
    let mut txn = bench.begin();
    for index in 0..30 {
        txn.set(&bench.key(&format!("{index:02}")), &value);
    }
    commit(&mut txn).await;
    let (mut pages, mut count, mut rest) = (0, 0, Some(bench.all()));
    let mut txn = bench.begin();
    while let Some(range) = rest {
        let page = txn
            .get_range(range.clone(), FORWARD, ReadMode::Snapshot)
            .await
            .expect("a range can be read");
        let bytes: usize = page.items.iter().map(|(_key, value)| value.len()).sum();
        assert!(bytes <= limits::PAGE_BYTES_MAX + 2 * limits::VALUE_BYTES_MAX);
        (pages, count) = (pages + 1, count + page.items.len());
        rest = page.rest(&range, false);
    }
    assert!(pages > 1, "3 MB in one page");
    assert_eq!(count, 30);
}

async fn a_cleared_range_ends_where_it_ends(kv: &Arc<dyn Kv>) {
    let bench = Bench::new(kv, "clear").await;
    bench.fill(&["a", "b", "ba", "c", "d"]).await;
    let mut txn = bench.begin();
    txn.clear_range(bench.range("b", "d"));
    txn.clear_range(bench.range("d", "a"));
    commit(&mut txn).await;
    let (names, _more) = bench.page(&mut bench.begin(), bench.all(), FORWARD).await;
    assert_eq!(names.join(""), "ad");
}

async fn atomic_operations_compute_at_commit(kv: &Arc<dyn Kv>) {
    let bench = Bench::new(kv, "atomic").await;
    let (sum, max) = (bench.key("sum"), bench.key("max"));
    let mut first = bench.begin();
    let mut second = bench.begin();
    for (txn, number) in [(&mut first, 5), (&mut second, -2)] {
        txn.atomic_add(&sum, number);
        txn.atomic_max(&max, number.unsigned_abs());
    }
    commit(&mut second).await;
    commit(&mut first).await;
    let mut txn = bench.begin();
    let read = |value: Option<bytes::Bytes>| {
        let value = value.expect("both were written");
        u64::from_le_bytes(value.as_ref().try_into().expect("8 bytes"))
    };
    assert_eq!(read(get(&mut txn, &sum, ReadMode::Snapshot).await), 3);
    assert_eq!(read(get(&mut txn, &max, ReadMode::Snapshot).await), 5);
}

async fn versionstamps_rise(kv: &Arc<dyn Kv>) {
    let bench = Bench::new(kv, "stamp").await;
    let mut versions = Vec::new();
    for index in 0..5_u8 {
        let mut txn = bench.begin();
        txn.set_versionstamped_key(&bench.key(""), b"/end", &[index]);
        versions.push(commit(&mut txn).await);
    }
    assert!(versions.is_sorted_by(|a, b| a < b), "{versions:?}");
    let page = bench
        .begin()
        .get_range(bench.all(), FORWARD, ReadMode::Snapshot)
        .await
        .expect("a range can be read");
    assert_eq!(page.items.len(), 5);
    for (index, (key, value)) in page.items.iter().enumerate() {
        let (stamp, rest) =
            Versionstamp::split(&key[bench.key("").len()..]).expect("the key holds a stamp");
        assert_eq!(stamp.version(), versions[index]);
        assert_eq!((rest, value.len()), (&b"/end"[..], 1));
        assert_eq!(usize::from(value[0]), index, "the order of keys");
    }
}

async fn limits_are_kept(kv: &Arc<dyn Kv>) {
    let bench = Bench::new(kv, "limits").await;
    let long_key = vec![b'k'; limits::KEY_BYTES_MAX + 1];
    let long_value = vec![0; limits::VALUE_BYTES_MAX + 1];
    let mut txn = bench.begin();
    txn.set(&long_key, b"");
    assert_eq!(txn.commit().await, Err(KvError::KeyTooLarge));
    let mut txn = bench.begin();
    txn.set(&bench.key("a"), &long_value);
    assert_eq!(txn.commit().await, Err(KvError::ValueTooLarge));
    let mut txn = bench.begin();
    txn.set(b"\xff/mine", b"");
    assert_eq!(txn.commit().await, Err(KvError::KeyReserved));
    let mut txn = bench.begin();
    txn.clear_range(KeyRange::new(&b"a"[..], &b"\xff\x00"[..]));
    assert_eq!(txn.commit().await, Err(KvError::KeyReserved));
    let mut txn = bench.begin();
    for index in 0..=limits::TRANSACTION_BYTES_MAX / limits::VALUE_BYTES_MAX {
        let key = bench.key(&index.to_string());
        txn.set(&key, &long_value[1..]);
    }
    assert_eq!(txn.commit().await, Err(KvError::TooLarge));
    let (names, _more) = bench.page(&mut bench.begin(), bench.all(), FORWARD).await;
    assert!(names.is_empty(), "a refused transaction wrote {names:?}");
    let mut txn = bench.begin();
    txn.set(&long_key[1..], &long_value[1..]);
    txn.clear(&long_key[1..]);
    commit(&mut txn).await;
}

async fn a_committed_transaction_is_finished(kv: &Arc<dyn Kv>) {
    let bench = Bench::new(kv, "finished").await;
    let mut txn = bench.begin();
    txn.set(&bench.key("a"), b"");
    let version = commit(&mut txn).await;
    assert_eq!(txn.commit().await, Err(KvError::Finished));
    let again = txn.get(&bench.key("a"), ReadMode::Snapshot).await;
    assert_eq!(again, Err(KvError::Finished));
    let mut next = bench.begin();
    next.set(&bench.key("a"), b"");
    assert!(commit(&mut next).await > version);
}

async fn sync_returns(kv: &Arc<dyn Kv>) {
    let bench = Bench::new(kv, "sync").await;
    bench.fill(&["a"]).await;
    assert_eq!(kv.sync().await, Ok(()));
    assert_eq!(kv.sync().await, Ok(()), "nothing is left to sync");
}
