//! Runs a transaction until it commits: the loop that every user of the store needs.
//!
//! A commit with an unknown result is run again too. Callers must make that harmless, by storing a
//! result under the request's id or by operations that are idempotent anyway.

use std::time::Duration;

use common::{
    backoff::Backoff,
    env::{Env, Instant},
};
use futures::future::BoxFuture;

use crate::{
    error::{AsKvError, ErrorClass, KvError},
    transaction::{Kv, Transaction},
};

/// The first wait after a conflict: about as long as a commit takes.
const RETRY_FIRST: Duration = Duration::from_millis(1);
/// The longest wait: long enough for a crowd on one key to thin out.
const RETRY_MAX: Duration = Duration::from_millis(100);

/// Runs `body` in a transaction and commits it, again and again until it succeeds, fails for good, or the
/// next try would begin after `deadline`. `body` must not keep effects of a run outside the transaction.
///
/// ```ignore
/// let length = transact(env, kv, deadline, |txn| Box::pin(async move {
///     let value = txn.get(key, ReadMode::Serializable).await?;
///     txn.set(key, b"new");
///     Ok(value.map_or(0, |value| value.len()))
/// })).await?;
/// ```
///
/// # Errors
/// What `body` or the commit failed with at last.
pub async fn transact<'env, T, E, F>(
    env: &Env,
    kv: &dyn Kv,
    deadline: Instant,
    mut body: F,
) -> Result<T, E>
where
    E: From<KvError> + AsKvError,
    F: for<'a> FnMut(&'a mut (dyn Transaction + 'env)) -> BoxFuture<'a, Result<T, E>> + Send,
{
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX);
    loop {
        let mut txn = kv.begin();
        let outcome = match body(&mut *txn).await {
            Ok(value) => match txn.commit().await {
                Ok(_version) => return Ok(value),
                Err(error) => E::from(error),
            },
            Err(error) => error,
        };
        // Frees the version it reads from before the wait.
        drop(txn);
        let retry = outcome
            .as_kv_error()
            .is_some_and(|error| error.class() != ErrorClass::Permanent);
        let delay = backoff.next_delay(env);
        if !retry || env.now() + delay >= deadline {
            return Err(outcome);
        }
        env.sleep(delay).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        faulty::{Fault, FaultyKv},
        mem::MemKv,
        transaction::ReadMode,
    };

    #[derive(Debug, PartialEq, thiserror::Error)]
    enum Refusal {
        #[error(transparent)]
        Kv(#[from] KvError),
        #[error("no such thing")]
        Missing,
    }

    impl AsKvError for Refusal {
        fn as_kv_error(&self) -> Option<&KvError> {
            match self {
                Self::Kv(error) => Some(error),
                Self::Missing => None,
            }
        }
    }

    async fn count(env: &Env, kv: &dyn Kv) -> Result<u32, Refusal> {
        let mut tries = 0;
        let deadline = env.now() + Duration::from_secs(1);
        transact(env, kv, deadline, |txn| {
            tries += 1;
            let tries = tries;
            Box::pin(async move {
                txn.atomic_add(b"n", 1);
                Ok(tries)
            })
        })
        .await
    }

    #[tokio::test(start_paused = true)]
    async fn every_retryable_error_is_retried() {
        let env = Env::seeded(1);
        let kv = FaultyKv::new(&env, MemKv::new(), 0);
        kv.script([Some(Fault::Conflict), Some(Fault::TooOld)]);
        kv.script([Some(Fault::UnknownLost), Some(Fault::UnknownCommitted)]);
        assert_eq!(count(&env, &*kv).await, Ok(5));
        let value = kv.begin().get(b"n", ReadMode::Snapshot).await.unwrap();
        assert_eq!(
            value.as_deref(),
            Some(&2_u64.to_le_bytes()[..]),
            "the unknown commit took place, and the body is not idempotent"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn the_deadline_ends_the_retries_with_the_last_error() {
        let env = Env::seeded(1);
        let kv = FaultyKv::new(&env, MemKv::new(), 0);
        kv.script([Some(Fault::Conflict); 1000]);
        let begun = env.now();
        assert_eq!(count(&env, &*kv).await, Err(Refusal::Kv(KvError::Conflict)));
        assert!(env.now() <= begun + Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn other_errors_end_at_once() {
        let env = Env::seeded(1);
        let kv = MemKv::new();
        let deadline = env.now() + Duration::from_secs(1);
        let mut tries = 0;
        let outcome: Result<(), Refusal> = transact(&env, &*kv, deadline, |_txn| {
            tries += 1;
            Box::pin(async { Err(Refusal::Missing) })
        })
        .await;
        assert_eq!((outcome, tries), (Err(Refusal::Missing), 1));
        let outcome: Result<(), Refusal> = transact(&env, &*kv, deadline, |txn| {
            tries += 1;
            Box::pin(async move {
                txn.set(b"\xff", b"");
                Ok(())
            })
        })
        .await;
        assert_eq!(outcome, Err(Refusal::Kv(KvError::KeyReserved)));
        assert_eq!(tries, 2);
    }
}
