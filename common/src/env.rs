//! Everything that makes a run repeatable: the clock, randomness and spawning.
//!
//! No other module reads a clock, makes a random number or starts a task or thread (clippy forbids
//! it). Time is tokio's, so a test with paused time controls it, and `Env::seeded` fixes every random
//! number, so that one seed fixes a whole run on a single-threaded runtime.
//!
//! Two kinds of time never mix: `Instant` (monotonic, decides leases and deadlines) and `WallTime`
//! (what a user sees in mtime and in logs; it decides nothing).
#![allow(
    clippy::disallowed_methods,
    reason = "this is the one place that touches the real world"
)]

use std::{fmt, future::Future, io, sync::Arc, thread, time::Duration};

use rand::{Rng, RngCore, SeedableRng, rngs::SmallRng};
use serde::{Deserialize, Serialize};
pub use tokio::time::Instant;

use crate::sync::Mutex;

/// Nanoseconds since 1970-01-01 UTC. For people, never for decisions between processes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct WallTime(pub u64);

/// A future did not finish in its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("timed out")]
pub struct Elapsed;

/// A spawned task. Dropping it lets the task run on; `abort` ends it; awaiting `join` gives its
/// result, or `None` when it was aborted or panicked (the panic is logged by the panic hook).
#[derive(Debug)]
pub struct Task<T>(tokio::task::JoinHandle<T>);

impl<T> Task<T> {
    /// Ends the task at its next await point.
    pub fn abort(&self) {
        self.0.abort();
    }

    /// Waits for the task's end.
    pub async fn join(self) -> Option<T> {
        self.0.await.ok()
    }

    /// True once the task has ended.
    pub fn is_finished(&self) -> bool {
        self.0.is_finished()
    }
}

/// The world as one process sees it. Cheap to clone; passed down by value, never global.
#[derive(Clone)]
pub struct Env {
    shared: Arc<Shared>,
    drift: Option<Drift>,
}

/// How the clock of a simulated process differs from that of the world.
#[derive(Clone, Copy)]
struct Drift {
    /// When the two showed the same.
    since: Instant,
    /// The process counts so many microseconds in a second of the world.
    micros_per_second: u32,
}

const MICROS: u32 = 1_000_000;

impl Drift {
    fn local(self, world: Instant) -> Instant {
        let passed = world.saturating_duration_since(self.since);
        self.since + passed * self.micros_per_second / MICROS
    }

    fn world(self, local: Instant) -> Instant {
        self.since + self.world_time(local.saturating_duration_since(self.since))
    }

    fn world_time(self, local: Duration) -> Duration {
        let nanos = local.as_nanos() * u128::from(MICROS) / u128::from(self.micros_per_second);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

struct Shared {
    rng: Mutex<SmallRng>,
    wall: WallClock,
    mistake: Option<&'static str>,
}

enum WallClock {
    System,
    /// Starts at a fixed date and moves with tokio's (possibly paused) time.
    Simulated {
        start: Instant,
    },
}

/// 2026-01-01T00:00:00Z, where simulated wall clocks start.
const SIMULATED_EPOCH: Duration = Duration::from_secs(1_767_225_600);

impl fmt::Debug for Env {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Env").finish_non_exhaustive()
    }
}

impl Env {
    /// The real world: system clock, randomness from the operating system.
    pub fn real() -> Self {
        Self::build(SmallRng::from_os_rng(), WallClock::System, None)
    }

    /// A repeatable world. Needs a tokio runtime, ideally single-threaded with paused time.
    pub fn seeded(seed: u64) -> Self {
        Self::seeded_with(seed, None)
    }

    /// The same, in which code that asks for it makes this mistake: a simulation that finds nothing wrong has to show
    /// that it would. The real world makes none.
    pub fn seeded_with(seed: u64, mistake: Option<&'static str>) -> Self {
        Self::build(
            SmallRng::seed_from_u64(seed),
            WallClock::Simulated {
                start: Instant::now(),
            },
            mistake,
        )
    }

    fn build(rng: SmallRng, wall: WallClock, mistake: Option<&'static str>) -> Self {
        Self {
            shared: Arc::new(Shared {
                rng: Mutex::new(rng),
                wall,
                mistake,
            }),
            drift: None,
        }
    }

    /// The same world seen by a process whose clock counts so many microseconds in each second of it.
    ///
    /// # Panics
    /// When the clock would stand still.
    #[must_use]
    pub fn with_drift(&self, micros_per_second: u32) -> Self {
        assert!(micros_per_second > 0, "a clock that stands still");
        Self {
            shared: self.shared.clone(),
            drift: Some(Drift {
                since: Instant::now(),
                micros_per_second,
            }),
        }
    }

    /// When `deadline` is by the clock of the world, that is of the runtime's timers.
    fn in_the_world(&self, deadline: Instant) -> Instant {
        self.drift.map_or(deadline, |drift| drift.world(deadline))
    }

    /// Whether this mistake is to be made, see `seeded_with`.
    pub fn makes_mistake(&self, name: &str) -> bool {
        self.shared.mistake.is_some_and(|mistake| mistake == name)
    }

    /// Monotonic time.
    pub fn now(&self) -> Instant {
        let now = Instant::now();
        self.drift.map_or(now, |drift| drift.local(now))
    }

    /// Wall-clock time, for people.
    pub fn wall(&self) -> WallTime {
        let since_epoch = match self.shared.wall {
            WallClock::System => std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .unwrap_or_default(),
            WallClock::Simulated { start } => SIMULATED_EPOCH + start.elapsed(),
        };
        WallTime(u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX))
    }

    /// Waits.
    pub async fn sleep(&self, duration: Duration) {
        let duration = self
            .drift
            .map_or(duration, |drift| drift.world_time(duration));
        tokio::time::sleep(duration).await;
    }

    /// Waits until `deadline`.
    pub async fn sleep_until(&self, deadline: Instant) {
        tokio::time::sleep_until(self.in_the_world(deadline)).await;
    }

    /// Runs `future` for at most `limit`.
    ///
    /// # Errors
    /// `Elapsed` when the time is over; the future is dropped then.
    pub async fn timeout<F: Future>(
        &self,
        limit: Duration,
        future: F,
    ) -> Result<F::Output, Elapsed> {
        let limit = self.drift.map_or(limit, |drift| drift.world_time(limit));
        tokio::time::timeout(limit, future)
            .await
            .map_err(|_| Elapsed)
    }

    /// Runs `future` until `deadline` at the latest.
    ///
    /// # Errors
    /// `Elapsed` when the time is over; the future is dropped then.
    pub async fn timeout_at<F: Future>(
        &self,
        deadline: Instant,
        future: F,
    ) -> Result<F::Output, Elapsed> {
        tokio::time::timeout_at(self.in_the_world(deadline), future)
            .await
            .map_err(|_| Elapsed)
    }

    /// Starts a task. `name` says in logs and debuggers what it is for.
    pub fn spawn<F>(&self, name: &'static str, future: F) -> Task<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        tracing::trace!(task = name, "spawn");
        Task(tokio::spawn(future))
    }

    /// Runs blocking code (a file system call, a database) off the async threads; in a repeatable world on them, since
    /// another thread would end at another time in each run.
    ///
    /// # Panics
    /// When `work` panicked: the panic goes on in the caller.
    pub async fn blocking<T, F>(&self, work: F) -> T
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        if matches!(self.shared.wall, WallClock::Simulated { .. }) {
            tokio::task::yield_now().await;
            return work();
        }
        match tokio::task::spawn_blocking(work).await {
            Ok(value) => value,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // Only a runtime that shuts down cancels blocking work; nobody waits for us then.
                Err(_) => std::future::pending().await,
            },
        }
    }

    /// Starts an operating-system thread.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn spawn_thread<T, F>(&self, name: &str, work: F) -> io::Result<thread::JoinHandle<T>>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        thread::Builder::new().name(name.to_owned()).spawn(work)
    }

    /// A random number.
    pub fn random_u64(&self) -> u64 {
        self.shared.rng.lock().next_u64()
    }

    /// A random number of 128 bits: an id that nobody else makes.
    pub fn random_u128(&self) -> u128 {
        (u128::from(self.random_u64()) << 64) | u128::from(self.random_u64())
    }

    /// A random number in `0..limit`; 0 when `limit` is 0.
    pub fn random_below(&self, limit: u64) -> u64 {
        if limit == 0 {
            0
        } else {
            self.shared.rng.lock().random_range(0..limit)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_seed_fixes_randomness_and_wall_time() {
        let (a, b) = (Env::seeded(7), Env::seeded(7));
        assert_eq!(a.random_u128(), b.random_u128());
        assert_eq!(a.wall(), b.wall());
        a.sleep(Duration::from_secs(3)).await;
        assert_eq!(
            a.wall().0,
            SIMULATED_EPOCH.as_nanos() as u64 + 3_000_000_000
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_fast_clock_is_over_sooner() {
        let world = Env::seeded(1);
        let fast = world.with_drift(1_250_000);
        let (began, local) = (world.now(), fast.now());
        fast.sleep(Duration::from_secs(5)).await;
        assert_eq!(world.now() - began, Duration::from_secs(4));
        assert_eq!(fast.now() - local, Duration::from_secs(5));
        fast.sleep_until(local + Duration::from_secs(10)).await;
        assert_eq!(world.now() - began, Duration::from_secs(8));
    }

    #[tokio::test(start_paused = true)]
    async fn timeout_ends_a_stuck_future() {
        let env = Env::seeded(1);
        let stuck = std::future::pending::<()>();
        assert_eq!(
            env.timeout(Duration::from_secs(1), stuck).await,
            Err(Elapsed)
        );
    }
}
