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
    /// Repeating changes nothing.
    GiveUp,
    /// A newer map may help.
    Refresh,
    /// Only time helps.
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

    #[test]
    fn every_code_has_the_action_of_its_class() {
        for &code in StatusCode::ALL {
            let expected = match code.retry() {
                _ if code == StatusCode::DeadlineExceeded => Next::Refresh,
                Retry::Never => Next::GiveUp,
                Retry::AfterRefresh => Next::Refresh,
                Retry::After(pause) => Next::Pause(pause),
            };
            assert_eq!(next(code), expected, "{code:?}");
        }
        assert_eq!(next(StatusCode::NoSpace), Next::GiveUp);
        assert_eq!(next(StatusCode::WrongRole), Next::Refresh);
        assert_eq!(
            next(StatusCode::ChannelBusy),
            Next::Pause(Duration::from_millis(20))
        );
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
