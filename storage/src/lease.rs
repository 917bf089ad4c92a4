//! The node's permission to act (protocol M4), on the monotonic clock only.
//!
//! The lease counts from when the heartbeat was *sent*: the manager counts from when it arrived, which is
//! later, so the node always stops first.

use std::time::Duration;

use common::{env::Instant, sync::Mutex};

/// Longer leases count as this long: a node that believed any number would answer for ever, cut off from everybody.
const LENGTH_MAX: Duration = Duration::from_secs(60);

/// Until when this node may answer.
#[derive(Debug, Default)]
pub(crate) struct Lease {
    until: Mutex<Option<Instant>>,
}

impl Lease {
    /// A heartbeat sent at `sent` was answered with a lease of this length. Never shortens the lease:
    /// answers may arrive out of order.
    pub(crate) fn renew(&self, sent: Instant, length: Duration) {
        let mut until = self.until.lock();
        let renewed = sent + length.min(LENGTH_MAX);
        *until = Some(until.map_or(renewed, |until| until.max(renewed)));
    }

    /// Whether the node may answer at `now`.
    pub(crate) fn is_valid(&self, now: Instant) -> bool {
        self.until.lock().is_some_and(|until| now < until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_lease_counts_from_sending_and_runs_out() {
        let sent = common::env::Env::seeded(1).now();
        let lease = Lease::default();
        assert!(!lease.is_valid(sent));
        lease.renew(sent, Duration::from_secs(2));
        assert!(lease.is_valid(sent + Duration::from_millis(1999)));
        assert!(!lease.is_valid(sent + Duration::from_secs(2)));
        lease.renew(sent - Duration::from_secs(1), Duration::from_secs(2));
        assert!(lease.is_valid(sent + Duration::from_millis(1999)));
    }
    #[tokio::test(start_paused = true)]
    async fn a_lease_of_ages_is_cut() {
        let sent = common::env::Env::seeded(1).now();
        let lease = Lease::default();
        lease.renew(sent, Duration::from_millis(u64::MAX));
        assert!(lease.is_valid(sent + Duration::from_secs(59)));
        assert!(!lease.is_valid(sent + LENGTH_MAX));
    }
}
