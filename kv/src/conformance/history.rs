//! Random transactions from several tasks, then a replay of those that committed, one after the other
//! in the order of their versionstamps: every read must find there what it found then.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use common::env::Env;

use super::{Bench, Txn};
use crate::{
    atomic::AtomicOp,
    error::{ErrorClass, KvError},
    key::KeyRange,
    transaction::{Kv, RangeOptions, RangePage, ReadMode},
    versionstamp::Versionstamp,
};

/// How much to run.
#[derive(Clone, Copy, Debug)]
pub struct HistoryOptions {
    /// Tasks that run at the same time.
    pub tasks: u64,
    /// Transactions of each task.
    pub transactions: u64,
    /// Different keys: the fewer, the more conflicts.
    pub keys: u64,
}

impl Default for HistoryOptions {
    fn default() -> Self {
        Self {
            tasks: 6,
            transactions: 150,
            keys: 12,
        }
    }
}

/// One step of a transaction, with what it found.
enum Step {
    Get(Bytes, Option<Bytes>),
    Range(KeyRange, RangeOptions, RangePage),
    Set(Bytes, Bytes),
    Clear(Bytes),
    ClearRange(KeyRange),
    Add(Bytes, i64),
}

/// What became of a transaction.
struct Attempt {
    steps: Vec<Step>,
    /// `None`: the result of the commit is unknown.
    committed: Option<bool>,
}

/// Runs the check; returns how many transactions committed and how many conflicted.
///
/// # Panics
/// When the history has no serial order, or the store lost or repeated a commit.
pub async fn random_history_is_serializable(
    env: &Env,
    kv: &Arc<dyn Kv>,
    options: HistoryOptions,
) -> (usize, usize) {
    let bench = Bench::new(kv, "history").await;
    let tasks: Vec<_> = (0..options.tasks)
        .map(|task| {
            let (env, kv) = (env.clone(), kv.clone());
            env.clone().spawn("conformance-history", async move {
                let mut attempts = BTreeMap::new();
                for index in 0..options.transactions {
                    let id = task * options.transactions + index;
                    attempts.insert(id, attempt(&env, &kv, options, id).await);
                }
                attempts
            })
        })
        .collect();
    let mut attempts = BTreeMap::new();
    for task in tasks {
        attempts.extend(task.join().await.expect("a task panicked"));
    }
    let order = committed_order(&bench).await;
    let unique: BTreeSet<u64> = order.iter().copied().collect();
    assert_eq!(unique.len(), order.len(), "a transaction committed twice");
    for (id, attempt) in &attempts {
        if let Some(committed) = attempt.committed {
            assert_eq!(unique.contains(id), committed, "transaction {id}");
        }
    }
    let mut model = BTreeMap::new();
    for id in &order {
        for step in &attempts[id].steps {
            replay(&mut model, step, *id);
        }
    }
    let keys = KeyRange::new(bench.key("k"), bench.key("l"));
    let page = bench
        .begin()
        .get_range(keys, RangeOptions::default(), ReadMode::Snapshot)
        .await
        .expect("a range can be read");
    assert_eq!(page.items, model.into_iter().collect::<Vec<_>>());
    (order.len(), attempts.len() - order.len())
}

/// The ids of the transactions that committed, in order: each of them leaves its id in a log.
async fn committed_order(bench: &Bench<'_>) -> Vec<u64> {
    let prefix = bench.key("log");
    let (mut order, mut rest) = (Vec::new(), Some(KeyRange::prefix(&prefix)));
    let mut txn = bench.begin();
    while let Some(range) = rest {
        let page = txn
            .get_range(range.clone(), RangeOptions::default(), ReadMode::Snapshot)
            .await
            .expect("a range can be read");
        for (key, value) in &page.items {
            assert!(Versionstamp::split(&key[prefix.len()..]).is_some());
            let id = value.as_ref().try_into().expect("ids have 8 bytes");
            order.push(u64::from_le_bytes(id));
        }
        rest = page.rest(&range, false);
    }
    order
}

async fn attempt(env: &Env, kv: &Arc<dyn Kv>, options: HistoryOptions, id: u64) -> Attempt {
    let mut txn = kv.begin();
    let mut steps = Vec::new();
    for _ in 0..=env.random_below(6) {
        match step(env, &mut txn, options, id).await {
            Ok(step) => steps.push(step),
            Err(error) => {
                assert_ne!(error.class(), ErrorClass::Permanent, "{error}");
                return Attempt {
                    steps,
                    committed: Some(false),
                };
            }
        }
        tokio::task::yield_now().await;
    }
    txn.set_versionstamped_key(b"history/log", b"", &id.to_le_bytes());
    let committed = match txn.commit().await.map_err(|error| error.class()) {
        Ok(_version) => Some(true),
        Err(ErrorClass::Retryable) => Some(false),
        Err(ErrorClass::RetryableMaybeCommitted) => None,
        Err(ErrorClass::Permanent) => panic!("transaction {id} failed for good"),
    };
    Attempt { steps, committed }
}

async fn step(env: &Env, txn: &mut Txn, options: HistoryOptions, id: u64) -> Result<Step, KvError> {
    let key = |number: u64| Bytes::from(format!("history/k{number:03}"));
    let one = env.random_below(options.keys);
    let other = one + env.random_below(options.keys - one + 1);
    let range = KeyRange::new(key(one), key(other));
    Ok(match env.random_below(8) {
        0..=2 => {
            let value = txn.get(&key(one), ReadMode::Serializable).await?;
            Step::Get(key(one), value)
        }
        3 => {
            let options = RangeOptions {
                limit: 1 + env.random_below(4) as usize,
                reverse: env.random_below(2) == 0,
            };
            let page = txn
                .get_range(range.clone(), options, ReadMode::Serializable)
                .await?;
            Step::Range(range, options, page)
        }
        4 | 5 => {
            let value = Bytes::from(format!("{id}"));
            txn.set(&key(one), &value);
            Step::Set(key(one), value)
        }
        6 if id.is_multiple_of(2) => {
            txn.clear(&key(one));
            Step::Clear(key(one))
        }
        6 => {
            txn.clear_range(range.clone());
            Step::ClearRange(range)
        }
        _ => {
            txn.atomic_add(&key(one), 1);
            Step::Add(key(one), 1)
        }
    })
}

fn replay(model: &mut BTreeMap<Bytes, Bytes>, step: &Step, id: u64) {
    match step {
        Step::Get(key, found) => {
            assert_eq!(
                model.get(key),
                found.as_ref(),
                "{key:?} in transaction {id}"
            );
        }
        Step::Range(range, options, found) => {
            let inside = |(key, _value): &(&Bytes, &Bytes)| range.contains(key);
            let items = model.iter().filter(inside);
            let items: Vec<_> = if options.reverse {
                items.rev().collect()
            } else {
                items.collect()
            };
            let count = found.items.len();
            let same = items.iter().zip(&found.items);
            assert!(
                same.into_iter()
                    .all(|((key, value), (k, v))| *key == k && *value == v)
                    && count <= items.len()
                    && (found.more || count == items.len()),
                "{range:?} in transaction {id}: found {found:?}, expected {items:?}"
            );
        }
        Step::Set(key, value) => {
            model.insert(key.clone(), value.clone());
        }
        Step::Clear(key) => {
            model.remove(key);
        }
        Step::ClearRange(range) => model.retain(|key, _value| !range.contains(key)),
        Step::Add(key, delta) => {
            let value = AtomicOp::Add(*delta).apply(model.get(key).map(AsRef::as_ref));
            model.insert(key.clone(), value);
        }
    }
}
