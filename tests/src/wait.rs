//! Waiting for a condition, never for a time: a test on a slow machine takes longer and does not fail.

use std::time::Duration;

use common::{
    env::{Env, Instant},
    sync::{Condvar, Mutex},
};

/// Between two looks.
const POLL: Duration = Duration::from_millis(20);

/// Monotonic time.
pub fn now() -> Instant {
    Env::real().now()
}

/// Lets other processes run for a moment. Blocking tests have no runtime to sleep on, so this waits for a
/// signal that nobody sends.
pub fn pause(duration: Duration) {
    let nobody = Mutex::new(());
    let timed_out = Condvar::new().wait_for(&mut nobody.lock(), duration);
    assert!(timed_out.timed_out(), "nobody signals this");
}

/// Returns what `look` found; panics with `what` and the last reason when it found nothing within `limit`.
pub fn until<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Result<T, String>) -> T {
    let begin = now();
    loop {
        match look() {
            Ok(found) => return found,
            Err(reason) if now().duration_since(begin) > limit => {
                panic!("waited {} s for {what}: {reason}", limit.as_secs())
            }
            Err(_) => pause(POLL),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_is_looked_at_until_it_holds() {
        let mut looks = 0;
        let found = until("three looks", Duration::from_secs(5), || {
            looks += 1;
            if looks < 3 {
                Err("too early".to_owned())
            } else {
                Ok(looks)
            }
        });
        assert_eq!(found, 3);
    }

    #[test]
    #[should_panic(expected = "waited 0 s for rain: sunshine")]
    fn the_last_reason_is_told() {
        until("rain", Duration::ZERO, || {
            Err::<(), _>("sunshine".to_owned())
        });
    }
}
