//! Waiting times between retries: doubling from a start to a cap, each drawn at random from its upper
//! half so that many clients which failed together do not come back together.

use std::time::Duration;

use crate::env::Env;

/// The waits of one operation's retries.
#[derive(Clone, Debug)]
pub struct Backoff {
    next: Duration,
    max: Duration,
}

impl Backoff {
    /// Waits start at `first` and double up to `max`.
    pub fn new(first: Duration, max: Duration) -> Self {
        Self { next: first, max }
    }

    /// The next wait; in `[d/2, d]`.
    pub fn next_delay(&mut self, env: &Env) -> Duration {
        let full = self.next.min(self.max);
        self.next = (full * 2).min(self.max);
        let half = full / 2;
        let spread = u64::try_from((full - half).as_nanos()).unwrap_or(u64::MAX);
        half + Duration::from_nanos(env.random_below(spread.saturating_add(1)))
    }

    /// Waits once.
    pub async fn wait(&mut self, env: &Env) {
        let delay = self.next_delay(env);
        env.sleep(delay).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn delays_double_up_to_the_cap() {
        let env = Env::seeded(3);
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(40));
        for full_ms in [10, 20, 40, 40, 40] {
            let full = Duration::from_millis(full_ms);
            let delay = backoff.next_delay(&env);
            assert!(delay >= full / 2 && delay <= full, "{delay:?} for {full:?}");
        }
    }
}
