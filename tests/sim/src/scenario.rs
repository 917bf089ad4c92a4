//! How large a simulated cluster is and how much goes wrong in it. Drawn from the seed.

use std::time::Duration;

use common::env::Env;
use net::LinkFaults;

/// One cluster, one load, one measure of bad luck.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Members of the manager group.
    pub managers: u32,
    /// Storage nodes with one disk each.
    pub storage: u32,
    /// Replicas of a chain.
    pub replicas: u32,
    /// Chains.
    pub chains: u32,
    /// Clients, each of which does one thing after the other.
    pub clients: u32,
    /// Chunks they share.
    pub chunks: u32,
    /// Operations per chunk, more or less.
    pub operations_per_chunk: u32,
    /// By how many microseconds in a second a clock differs at most. The lease's margin (M4) covers a fifth.
    pub drift_max: u32,
    /// What chunks may take of a disk.
    pub disk_bytes: u64,
    /// How slow disks are.
    pub disk_latency_max: Duration,
    /// How long things break.
    pub trouble: Duration,
    /// Mean time between two troubles.
    pub trouble_every: Duration,
    /// What the network does to messages during that time.
    pub links: LinkFaults,
}

impl Scenario {
    /// A scenario of this seed's world.
    pub fn draw(env: &Env) -> Self {
        let between = |low: u64, high: u64| low + env.random_below(high - low + 1);
        let small = |low: u64, high: u64| u32::try_from(between(low, high)).unwrap_or(u32::MAX);
        // Three is what clusters have; the rest are the ends of what is allowed.
        let replicas = [1, 2, 2, 3, 3, 3, 4, 5][small(0, 7) as usize];
        let chunks = small(1, 6);
        // A network that loses much is slow; most trouble is with hosts.
        let per_thousand = |max: u64| u16::try_from(between(0, max)).unwrap_or(0);
        Self {
            managers: if env.random_below(3) == 0 { 3 } else { 1 },
            storage: small(u64::from(replicas), u64::from(replicas.max(3)) + 2),
            replicas,
            chains: small(1, 3),
            clients: small(2, 6),
            chunks,
            operations_per_chunk: small(20, 60),
            // Often so small that space is asked for before a change is passed on; never too small for all chunks.
            disk_bytes: if env.random_below(2) == 0 {
                8 << 20
            } else {
                1 << 40
            },
            drift_max: small(0, 20_000),
            // Often none or little: operations then end in the same moment.
            disk_latency_max: Duration::from_micros(between(0, 4000) * between(0, 4)),
            trouble: Duration::from_secs(between(20, 60)),
            trouble_every: Duration::from_millis(between(500, 6000)),
            links: LinkFaults {
                delay_max: Duration::from_micros(between(0, 20_000)),
                lost: per_thousand(20),
                doubled: per_thousand(30),
                reset: per_thousand(20),
            },
        }
    }
}
