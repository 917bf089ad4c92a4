//! What to do after a failed attempt: the only place that turns a status into waiting or giving up.
//!
//! A failure that a newer map may cure waits for one, up to `REFRESH_WAIT`, and then tries again all the same. A
//! server that cannot be reached is tried again sooner: it may simply be restarting. Pauses between attempts double from `PAUSE_MIN` to `PAUSE_MAX`, and the time
//! spent waiting for a map counts as a pause, so that a fail-over is followed at once.

use std::time::Duration;

use common::{
    backoff::Backoff,
    env::{Env, Instant},
};
use types::{
    status::{Detail, Retry, Status, StatusCode},
    version::RoutingVersion,
};

use crate::{metrics, routing_cache::RoutingCache};

/// How long an operation goes on by default before it fails (protocol F3).
pub(crate) const OPERATION_LIMIT: Duration = Duration::from_secs(60);
/// How long a failed attempt waits for a newer map before it is repeated with the old one.
const REFRESH_WAIT: Duration = Duration::from_millis(500);
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(200);
/// An operation that takes longer says so in the log, once.
const WARN_AFTER: Duration = Duration::from_secs(3);

/// What a failed attempt asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Permanent: repeating changes nothing.
    GiveUp,
    /// A newer map may help.
    Refresh,
    /// Transient: only time helps.
    Pause(Duration),
}

/// Decides by the code alone.
pub(crate) fn next(code: StatusCode) -> Next {
    match (code, code.retry()) {
        // A server that did not answer may have lost its part: look at the map.
        (StatusCode::DeadlineExceeded, _) => Next::Refresh,
        (_, Retry::Never) => Next::GiveUp,
        (_, Retry::AfterRefresh) => Next::Refresh,
        (_, Retry::After(pause)) => Next::Pause(pause),
    }
}

/// True when the peer's silence says nothing about whether the request took effect.
pub(crate) fn is_silence(code: StatusCode) -> bool {
    matches!(
        code,
        StatusCode::DeadlineExceeded | StatusCode::Unreachable | StatusCode::Cancelled
    )
}

/// Whether a read that failed with this code may succeed at another replica of the chain, at once.
pub(crate) fn is_for_another_replica(code: StatusCode) -> bool {
    matches!(blame(code), Blame::Nobody | Blame::Replica)
}

/// Whether an update that ends with this code surely runs no more, so that its channel may be used again. A refusal
/// is an outcome; silence, and whatever only ended because the time was over, is none.
pub(crate) fn is_outcome_known(code: StatusCode) -> bool {
    next(code) == Next::GiveUp && blame(code) == Blame::Request
}

/// What made a request of a storage node fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Blame {
    /// Nobody said anything.
    Nobody,
    /// The replica asked, or its way here. It may have begun.
    Replica,
    /// The chain as the client or the replica knows it: every replica would say so, or more than one is needed.
    Chain,
    /// The request itself: a refusal for good.
    Request,
    /// Nothing that a storage node answers.
    Other,
}

/// Says it for every code, so that a new one makes somebody think.
fn blame(code: StatusCode) -> Blame {
    use StatusCode as C;
    match code {
        C::DeadlineExceeded | C::Unreachable | C::Cancelled => Blame::Nobody,
        // A bug, or a peer of another release: the other replicas may run better.
        C::Internal | C::Malformed | C::Unsupported => Blame::Replica,
        C::Overloaded | C::NotReady | C::LeaseExpired | C::WrongRole | C::UnknownTarget => {
            Blame::Replica
        }
        C::ChecksumMismatch | C::ChunkCorrupt | C::DiskFailed | C::VersionGone => Blame::Replica,
        C::ChainVersionMismatch | C::UnknownEntity => Blame::Chain,
        C::ChannelBusy | C::MissingUpdate | C::ReplicaDiverged => Blame::Chain,
        C::InvalidArgument | C::Unauthorized | C::OutOfRange => Blame::Request,
        C::ChunkNotFound | C::NoSpace => Blame::Request,
        // It was run, by someone, and what came of it is forgotten.
        C::ChannelStale => Blame::Chain,
        C::NotLeader | C::Conflict | C::StaleHeartbeat | C::NoQuorum => Blame::Other,
        C::NotFound | C::Exists | C::NotDirectory | C::IsDirectory | C::NotEmpty => Blame::Other,
        C::AccessDenied | C::NotPermitted | C::NameTooLong | C::TooManyLinks => Blame::Other,
        C::LinkLimit | C::FileTooLarge | C::Stale | C::BadSession | C::NotSupported => Blame::Other,
        C::TruncateVersionMismatch | C::NoChains => Blame::Other,
        C::TransactionConflict | C::StoreFailed | C::TransactionTooLarge => Blame::Other,
    }
}

/// The retries of one operation.
pub(crate) struct Retries<'a> {
    env: &'a Env,
    routing: &'a RoutingCache,
    operation: &'static str,
    started: Instant,
    deadline: Instant,
    backoff: Backoff,
    /// The last failure that says more than that the time was over.
    cause: Option<Status>,
    warned: bool,
}

impl<'a> Retries<'a> {
    pub(crate) fn new(
        env: &'a Env,
        routing: &'a RoutingCache,
        operation: &'static str,
        deadline: Instant,
    ) -> Self {
        Self {
            env,
            routing,
            operation,
            started: env.now(),
            deadline,
            backoff: Backoff::new(PAUSE_MIN, PAUSE_MAX),
            cause: None,
            warned: false,
        }
    }

    /// When the next attempt ends at the latest, so that a hung server is left.
    pub(crate) fn attempt_deadline(&self, limit: Duration) -> Instant {
        (self.env.now() + limit).min(self.deadline)
    }

    /// Waits as `status` asks for. `used` is the map of the failed attempt.
    ///
    /// # Errors
    /// The status, when repeating changes nothing or the time is over.
    pub(crate) async fn wait(
        &mut self,
        status: Status,
        used: RoutingVersion,
    ) -> Result<(), Status> {
        let next = next(status.code);
        if next == Next::GiveUp {
            return Err(status);
        }
        if self.env.now() >= self.deadline {
            return Err(self.expired(status));
        }
        metrics::retried(self.operation, status.code);
        self.log(&status);
        if status.code != StatusCode::DeadlineExceeded {
            self.cause = Some(status.clone());
        }
        let pause = self.backoff.next_delay(self.env);
        let earliest = self.env.now() + pause;
        match next {
            Next::Refresh if is_cured_by_newer_map(&status, used) => {
                // A server that cannot be reached may come back any moment; one that refuses waits for a map itself.
                let longest = match status.code {
                    StatusCode::Unreachable => pause,
                    _ => REFRESH_WAIT,
                };
                let until = (self.env.now() + longest).min(self.deadline);
                self.routing.refresh(used, until).await;
                self.env.sleep_until(earliest.min(self.deadline)).await;
            }
            Next::Pause(least) => {
                let until = (self.env.now() + least.max(pause)).min(self.deadline);
                self.env.sleep_until(until).await;
            }
            Next::Refresh | Next::GiveUp => {
                self.env.sleep_until(earliest.min(self.deadline)).await;
            }
        }
        Ok(())
    }

    /// The final status of an operation whose time is over.
    fn expired(&mut self, last: Status) -> Status {
        let waited = self.env.now().saturating_duration_since(self.started);
        let last = match self.cause.take() {
            Some(cause) if last.code == StatusCode::DeadlineExceeded => cause,
            _ => last,
        };
        let message = format!(
            "{} gave up after {:.1} s: {}",
            self.operation,
            waited.as_secs_f64(),
            last.message
        );
        Status { message, ..last }
    }

    fn log(&mut self, status: &Status) {
        let waited = self.env.now().saturating_duration_since(self.started);
        if waited >= WARN_AFTER && !self.warned {
            self.warned = true;
            tracing::warn!(operation = self.operation, waited_ms = waited.as_millis(), %status, "still trying");
        } else {
            tracing::debug!(operation = self.operation, %status, "trying again");
        }
    }
}

/// False when the peer said that its map is the older one: then only the peer can catch up.
fn is_cured_by_newer_map(status: &Status, used: RoutingVersion) -> bool {
    match status.detail {
        Detail::Routing(theirs) => theirs >= used,
        Detail::None | Detail::Leader(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use StatusCode as C;

    const PERMANENT: &[C] = &[
        C::Internal,
        C::InvalidArgument,
        C::Malformed,
        C::Unsupported,
        C::Unauthorized,
        C::Cancelled,
        C::Conflict,
        C::StaleHeartbeat,
        C::ChunkNotFound,
        C::OutOfRange,
        C::NoSpace,
        C::ChannelStale,
        C::NotFound,
        C::Exists,
        C::NotDirectory,
        C::IsDirectory,
        C::NotEmpty,
        C::AccessDenied,
        C::NotPermitted,
        C::NameTooLong,
        C::TooManyLinks,
        C::LinkLimit,
        C::FileTooLarge,
        C::Stale,
        C::BadSession,
        C::NotSupported,
        C::TransactionTooLarge,
    ];
    const TRANSIENT: &[C] = &[
        C::Overloaded,
        C::NotReady,
        C::NoQuorum,
        C::ChecksumMismatch,
        C::ChunkCorrupt,
        C::ChannelBusy,
        C::MissingUpdate,
        C::VersionGone,
        C::NoChains,
        C::TransactionConflict,
        C::StoreFailed,
    ];
    const REFRESH: &[C] = &[
        C::DeadlineExceeded,
        C::Unreachable,
        C::NotLeader,
        C::UnknownEntity,
        C::ChainVersionMismatch,
        C::WrongRole,
        C::LeaseExpired,
        C::UnknownTarget,
        C::DiskFailed,
        C::ReplicaDiverged,
        C::TruncateVersionMismatch,
    ];

    #[test]
    fn every_code_is_permanent_transient_or_cured_by_a_newer_map() {
        let count = PERMANENT.len() + TRANSIENT.len() + REFRESH.len();
        assert_eq!(count, StatusCode::ALL.len());
        for code in StatusCode::ALL {
            let is_in = [PERMANENT, TRANSIENT, REFRESH].map(|list| list.contains(code));
            let expected = match next(*code) {
                Next::GiveUp => [true, false, false],
                Next::Pause(_) => [false, true, false],
                Next::Refresh => [false, false, true],
            };
            assert_eq!(is_in, expected, "{code:?}");
        }
        assert_eq!(next(C::ChannelBusy), Next::Pause(Duration::from_millis(20)));
    }

    #[test]
    fn what_one_replica_says_another_is_asked_about() {
        let asked = StatusCode::ALL
            .iter()
            .filter(|code| is_for_another_replica(**code));
        let expected = [
            C::Internal,
            C::Malformed,
            C::Unsupported,
            C::DeadlineExceeded,
            C::Unreachable,
            C::Overloaded,
            C::NotReady,
            C::Cancelled,
            C::WrongRole,
            C::LeaseExpired,
            C::UnknownTarget,
            C::ChecksumMismatch,
            C::ChunkCorrupt,
            C::DiskFailed,
            C::VersionGone,
        ];
        assert!(asked.eq(&expected), "{expected:?}");
    }

    /// Everything else may have been run, or may still be.
    #[test]
    fn only_a_refusal_frees_the_channel_of_an_update() {
        let known = StatusCode::ALL
            .iter()
            .filter(|code| is_outcome_known(**code));
        let refusals = [
            C::InvalidArgument,
            C::Unauthorized,
            C::ChunkNotFound,
            C::OutOfRange,
            C::NoSpace,
        ];
        assert!(known.eq(&refusals), "{refusals:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_deadline_ends_retries_with_the_last_reason() {
        let env = Env::seeded(1);
        let routing = RoutingCache::detached(&env);
        let deadline = env.now() + Duration::from_secs(2);
        let mut retries = Retries::new(&env, &routing, "test", deadline);
        let status = Status::new(StatusCode::Unreachable, "nobody there");
        let mut attempts = 0;
        let last = loop {
            attempts += 1;
            if let Err(last) = retries.wait(status.clone(), RoutingVersion(0)).await {
                break last;
            }
        };
        assert_eq!(last.code, StatusCode::Unreachable);
        assert!(last.message.contains("nobody there"), "{last}");
        assert!(env.now() >= deadline && env.now() < deadline + Duration::from_secs(1));
        assert!((8..100).contains(&attempts), "{attempts} attempts");
    }

    #[tokio::test(start_paused = true)]
    async fn a_newer_map_ends_the_wait() {
        let env = Env::seeded(1);
        let routing = RoutingCache::detached(&env);
        let mut retries = Retries::new(&env, &routing, "test", env.now() + Duration::from_secs(60));
        let feeder = routing.clone();
        let timer = env.clone();
        let task = env.spawn("feed", async move {
            timer.sleep(Duration::from_millis(100)).await;
            feeder.offer(types::routing::RoutingInfo {
                version: RoutingVersion(1),
                ..Default::default()
            });
        });
        let started = env.now();
        let status = Status::new(StatusCode::WrongRole, "not head");
        retries.wait(status, RoutingVersion(0)).await.unwrap();
        let waited = env.now() - started;
        assert!(waited < Duration::from_millis(150), "{waited:?}");
        task.join().await.unwrap();
    }
}
