//! How fast a disk refills others, so that clients come first (protocol S4).
//!
//! ```text
//!   no client here   up to `parallel` chunks at once, as fast as they go
//!   clients here     one chunk at a time, or some small ones, and after each a rest, so that the work takes
//!                    `percent` of the time
//!   always           not more than `bytes_per_second`, when that is set
//! ```
//!
//! *Clients are here* while one of their requests is in progress at the disk, and a moment after it: reads, writes at the head,
//! and writes passed on. A share of the time is a share of the rate that the disk has for this work now, so nobody has to say
//! or measure what that is, and a chunk that takes longer because of clients is followed by a longer rest. The rest has an
//! upper bound: a resync is never starved.

use std::time::Duration;

use common::{
    env::{Env, Instant},
    sync::Mutex,
};
use tokio::sync::{Semaphore, SemaphorePermit};

/// Bytes that a disk reads and sends at once; one chunk always is.
const BYTES_MAX: u64 = 64 << 20;
/// The same while clients are here.
const BYTES_MAX_BESIDE_CLIENTS: u64 = 1 << 20;
/// Clients count as here so long after their last request: between two of one program, for example.
const CLIENT_GONE_AFTER: Duration = Duration::from_millis(500);
/// The longest rest.
const REST_MAX: Duration = Duration::from_secs(1);
/// A rest looks this often whether the clients have gone.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What one disk may spend on refilling others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ResyncLimits {
    /// Chunks at once; at least 1.
    pub(crate) parallel: u32,
    /// Of the time, while clients are here; 1 to 100.
    pub(crate) percent: u32,
    /// `None`: no limit.
    pub(crate) bytes_per_second: Option<u64>,
}

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Pace {
    limits: ResyncLimits,
    places: Semaphore,
    /// Held through work and rest while clients are here.
    places_beside_clients: Semaphore,
    /// When `bytes_per_second` lets the next chunk go.
    due: Mutex<Option<Instant>>,
    clients: Mutex<Clients>,
}

#[derive(Debug, Default)]
struct Clients {
    in_progress: usize,
    last_end: Option<Instant>,
}

/// A client's request in progress.
#[derive(Debug)]
pub(crate) struct ClientRequest<'a> {
    pace: &'a Pace,
    env: &'a Env,
}

/// The right to send one chunk.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    pace: &'a Pace,
    env: &'a Env,
    began: Instant,
    place_beside_clients: Option<SemaphorePermit<'a>>,
    _place: SemaphorePermit<'a>,
}

impl Pace {
    pub(crate) fn new(limits: ResyncLimits) -> Self {
        Self {
            limits,
            places: Semaphore::new(limits.parallel as usize),
            places_beside_clients: Semaphore::new(limits.parallel as usize),
            due: Mutex::default(),
            clients: Mutex::default(),
        }
    }

    pub(crate) fn limits(&self) -> ResyncLimits {
        self.limits
    }

    /// A client's request begins; it ends when this is dropped.
    pub(crate) fn client<'a>(&'a self, env: &'a Env) -> ClientRequest<'a> {
        self.clients.lock().in_progress += 1;
        ClientRequest { pace: self, env }
    }

    /// Waits until a chunk of `bytes` may be sent.
    pub(crate) async fn begin<'a>(&'a self, env: &'a Env, bytes: u64) -> Turn<'a> {
        let place = self.place(&self.places, bytes, BYTES_MAX).await;
        self.wait_for_rate(env, bytes).await;
        let place_beside_clients = if self.has_clients(env.now()) {
            let places = &self.places_beside_clients;
            Some(self.place(places, bytes, BYTES_MAX_BESIDE_CLIENTS).await)
        } else {
            None
        };
        Turn {
            pace: self,
            env,
            began: env.now(),
            place_beside_clients,
            _place: place,
        }
    }

    /// One of `parallel` places, or more of them, so that together they hold at most `bytes_max`.
    async fn place<'a>(
        &self,
        places: &'a Semaphore,
        bytes: u64,
        bytes_max: u64,
    ) -> SemaphorePermit<'a> {
        let parallel = self.limits.parallel;
        let weight = (bytes.min(bytes_max) * u64::from(parallel)).div_ceil(bytes_max);
        let weight = u32::try_from(weight).unwrap_or(parallel).clamp(1, parallel);
        let place = places.acquire_many(weight).await;
        place.expect("nobody closes this semaphore")
    }

    fn has_clients(&self, now: Instant) -> bool {
        let clients = self.clients.lock();
        clients.in_progress > 0
            || clients
                .last_end
                .is_some_and(|end| now < end + CLIENT_GONE_AFTER)
    }

    async fn wait_for_rate(&self, env: &Env, bytes: u64) {
        let Some(rate) = self.limits.bytes_per_second else {
            return;
        };
        let now = env.now();
        let begin = {
            let mut due = self.due.lock();
            let begin = due.map_or(now, |due| due.max(now));
            let micros = bytes.saturating_mul(1_000_000) / rate.max(1);
            *due = Some(begin + Duration::from_micros(micros));
            begin
        };
        env.sleep_until(begin).await;
    }

    fn rest_after(&self, spent: Duration) -> Duration {
        let percent = self.limits.percent.clamp(1, 100);
        (spent * (100 - percent) / percent).min(REST_MAX)
    }
}

impl Turn<'_> {
    /// The chunk is sent: rests as long as clients want.
    pub(crate) async fn end(self) {
        if self.place_beside_clients.is_none() {
            return;
        }
        let now = self.env.now();
        let until = now + self.pace.rest_after(now.duration_since(self.began));
        loop {
            let now = self.env.now();
            if now >= until || !self.pace.has_clients(now) {
                return;
            }
            self.env.sleep_until(until.min(now + LOOK_EVERY)).await;
        }
    }
}

impl Drop for ClientRequest<'_> {
    fn drop(&mut self) {
        let mut clients = self.pace.clients.lock();
        clients.in_progress -= 1;
        clients.last_end = Some(self.env.now());
    }
}

#[cfg(test)]
mod tests {
    use futures::future::join_all;

    use super::*;

    const CHUNK: u64 = 1 << 20;
    const WORK: Duration = Duration::from_millis(100);

    fn pace(bytes_per_second: Option<u64>) -> Pace {
        Pace::new(ResyncLimits {
            parallel: 4,
            percent: 25,
            bytes_per_second,
        })
    }

    /// Sends `count` chunks that take `WORK` each; returns how long that took.
    async fn send(pace: &Pace, env: &Env, count: usize, bytes: u64) -> Duration {
        let began = env.now();
        join_all((0..count).map(|_| async {
            let turn = pace.begin(env, bytes).await;
            env.sleep(WORK).await;
            turn.end().await;
        }))
        .await;
        env.now().duration_since(began)
    }

    #[tokio::test(start_paused = true)]
    async fn without_clients_chunks_go_in_parallel_and_without_rest() {
        let (env, pace) = (Env::seeded(1), pace(None));
        assert_eq!(send(&pace, &env, 8, CHUNK).await, WORK * 2);
        // Four of these are more than what may be under way at once.
        assert_eq!(send(&pace, &env, 8, 32 << 20).await, WORK * 4);
        assert_eq!(send(&pace, &env, 2, u64::MAX).await, WORK * 2);
    }

    #[tokio::test(start_paused = true)]
    async fn with_clients_it_works_a_share_of_the_time() {
        let (env, pace) = (Env::seeded(1), pace(None));
        let client = pace.client(&env);
        assert_eq!(send(&pace, &env, 10, CHUNK).await, WORK * 40);
        assert_eq!(send(&pace, &env, 8, CHUNK / 4).await, WORK * 8);
        drop(client);
        // A moment later they may be back.
        assert_eq!(send(&pace, &env, 1, CHUNK).await, WORK * 4);
        env.sleep(CLIENT_GONE_AFTER).await;
        assert_eq!(send(&pace, &env, 4, CHUNK).await, WORK);
    }

    #[tokio::test(start_paused = true)]
    async fn a_rest_ends_when_the_clients_are_gone_and_is_never_long() {
        let (env, pace) = (Env::seeded(1), pace(None));
        let client = pace.client(&env);
        let slow = async {
            let turn = pace.begin(&env, CHUNK).await;
            env.sleep(Duration::from_secs(60)).await;
            let ended = env.now();
            turn.end().await;
            env.now().duration_since(ended)
        };
        assert_eq!(slow.await, REST_MAX);
        let turn = pace.begin(&env, CHUNK).await;
        env.sleep(Duration::from_secs(60)).await;
        drop(client);
        let ended = env.now();
        turn.end().await;
        let rested = env.now().duration_since(ended);
        assert!(
            rested < REST_MAX && rested >= CLIENT_GONE_AFTER,
            "{rested:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_is_kept_whoever_is_here() {
        let (env, pace) = (Env::seeded(1), pace(Some(CHUNK)));
        let took = send(&pace, &env, 11, CHUNK).await;
        assert_eq!(took, Duration::from_secs(10) + WORK);
    }
}
