//! A load: tasks that each do one operation after the other, as many as the depth says.

use std::{sync::Arc, time::Duration};

use common::{
    buf::{BufPool, SharedBuf},
    env::Env,
};
use types::checksum::Checksum;

use crate::{Failure, LARGE_BYTES, SMALL_BYTES, latency::Latencies};

/// Large payloads to choose from, so that no two neighbours on the disk are equal.
const LARGE_PAYLOADS: usize = 16;

/// Random bytes with their checksums, made before the clock runs.
#[derive(Clone, Debug)]
pub struct Payloads {
    large: Arc<[(SharedBuf, Checksum)]>,
    small: Arc<[(SharedBuf, Checksum)]>,
}

impl Payloads {
    /// Makes them.
    pub fn new(env: &Env, pool: &BufPool) -> Self {
        let mut random = Random::new(env);
        let large = (0..LARGE_PAYLOADS).map(|_| {
            let mut buf = pool.allocate(LARGE_BYTES as usize);
            for word in buf.chunks_exact_mut(8) {
                word.copy_from_slice(&random.next().to_le_bytes());
            }
            buf.freeze()
        });
        let with_checksum = |buf: SharedBuf| {
            let checksum = Checksum::of(&buf);
            (buf, checksum)
        };
        let large: Arc<[_]> = large.map(with_checksum).collect();
        let (first, _) = &large[0];
        let step = SMALL_BYTES as usize;
        let small = (0..first.len() / step).map(|at| first.slice(at * step..(at + 1) * step));
        let small = small.map(with_checksum).collect();
        Self { large, small }
    }

    /// One of them: a large one for the length of large requests, else a small one.
    pub fn choose(&self, length: u32, random: &mut Random) -> (SharedBuf, Checksum) {
        let from = if length == LARGE_BYTES {
            &self.large
        } else {
            &self.small
        };
        let choice = random.below(u32::try_from(from.len()).unwrap_or(u32::MAX));
        from[choice as usize].clone()
    }
}

/// A generator of each task's own: the shared one of `Env` has a lock, which would be measured too.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// One that differs from all others.
    pub fn new(env: &Env) -> Self {
        Self(env.random_u64() | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: u32) -> u32 {
        let number = ((self.next() >> 32) * u64::from(limit)) >> 32;
        u32::try_from(number).expect("the product of two numbers of 32 bits, of which 32 are left")
    }
}

/// What one task does.
pub trait Work: Send + 'static {
    /// One operation; false when there is nothing left to do.
    fn step(&mut self) -> impl Future<Output = Result<bool, Failure>> + Send;
}

/// What all of them did.
#[derive(Clone, Debug, Default)]
pub struct Done {
    /// How many.
    pub operations: u64,
    /// In what time.
    pub elapsed: Duration,
    /// How long each took.
    pub latencies: Latencies,
}

impl Done {
    /// Operations in a second.
    pub fn per_second(&self) -> f64 {
        self.operations as f64 / self.elapsed.as_secs_f64()
    }

    /// Counts another run as part of this one.
    pub fn add(&mut self, other: &Done) {
        self.operations += other.operations;
        self.elapsed += other.elapsed;
        self.latencies.merge(&other.latencies);
    }
}

/// Lets the workers work until the time is over or nothing is left to do.
///
/// # Errors
/// What the first worker that failed said.
pub async fn drive<W: Work>(
    env: &Env,
    workers: impl IntoIterator<Item = W>,
    limit: Duration,
) -> Result<Done, Failure> {
    let workers: Vec<W> = workers.into_iter().collect();
    let start = env.now();
    let deadline = start + limit;
    let tasks = workers.into_iter().map(|mut worker| {
        let clock = env.clone();
        env.spawn("bench-load", async move {
            let (mut done, mut begun) = (Done::default(), clock.now());
            while begun < deadline && worker.step().await? {
                let now = clock.now();
                done.operations += 1;
                done.latencies.add(now - begun);
                begun = now;
            }
            Ok::<Done, Failure>(done)
        })
    });
    let tasks: Vec<_> = tasks.collect();
    let mut total = Done::default();
    for task in tasks {
        total.add(&task.join().await.ok_or("a task of the load panicked")??);
    }
    total.elapsed = env.now() - start;
    Ok(total)
}
