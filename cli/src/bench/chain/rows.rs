//! What is measured of each load, and what it is to reach.

use std::time::Duration;

use measure::{
    LARGE_BYTES, SMALL_BYTES,
    fio::{Job, Raw},
    load::Done,
    table::{Goal, Row, Unit},
};

use super::REPLICAS;
use crate::args::{ChainArgs, ChainLoad};

/// Requests under way.
pub(super) const LARGE_DEPTH: u32 = 16;
const SMALL_DEPTH: u32 = 64;

/// What one round of ours gave.
pub(super) struct Ours {
    pub(super) done: Done,
    pub(super) client_cpu: Duration,
    pub(super) storage_cpu: Duration,
    /// By the storage nodes, also afterwards for these operations.
    pub(super) written_bytes: u64,
}

/// A load with its figures.
pub(super) struct Rows {
    load: ChainLoad,
    /// What fio does; the first is what latencies and processor time are compared with.
    jobs: Vec<Job>,
    title: String,
    /// One for each job.
    rates: Vec<Row>,
    cpu: Row,
    client_cpu: Row,
    half: Row,
    most: Row,
    written: Row,
}

/// What is fixed for each load.
struct Plan {
    key: &'static str,
    kind: &'static str,
    block_bytes: u32,
    depth: u32,
    /// Writes between fdatasyncs of fio, for each way in which it is compared; 0: none.
    syncs: &'static [u32],
    what: &'static str,
    copies: u32,
    goal: Goal,
}

fn plan(load: ChainLoad) -> Plan {
    match load {
        ChainLoad::LargeReads => Plan {
            key: "read_1m",
            kind: "randread",
            block_bytes: LARGE_BYTES,
            depth: LARGE_DEPTH,
            syncs: &[0],
            what: "1 MiB reads",
            copies: 1,
            goal: Goal::Ratio(0.8),
        },
        ChainLoad::SmallReads => Plan {
            key: "read_4k",
            kind: "randread",
            block_bytes: SMALL_BYTES,
            depth: SMALL_DEPTH,
            syncs: &[0],
            what: "4 KiB random reads",
            copies: 1,
            goal: Goal::Ratio(0.5),
        },
        ChainLoad::LargeWrites => Plan {
            key: "write_1m",
            kind: "write",
            block_bytes: LARGE_BYTES,
            depth: LARGE_DEPTH,
            syncs: &[0, LARGE_DEPTH],
            what: "1 MiB durable writes",
            copies: REPLICAS,
            goal: Goal::Ratio(0.7),
        },
        ChainLoad::SmallWrites => Plan {
            key: "overwrite_4k",
            kind: "randwrite",
            block_bytes: SMALL_BYTES,
            depth: SMALL_DEPTH,
            syncs: &[SMALL_DEPTH],
            what: "4 KiB durable overwrites",
            copies: 1,
            goal: Goal::OfPeer(10.0),
        },
    }
}

impl Rows {
    pub(super) fn new(load: ChainLoad, args: &ChainArgs) -> Self {
        let plan = plan(load);
        let depth = args.depth.unwrap_or(plan.depth);
        let job = |sync_every: &u32| Job {
            kind: plan.kind,
            block_bytes: plan.block_bytes,
            depth,
            sync_every: depth.min(*sync_every),
        };
        let jobs: Vec<Job> = plan.syncs.iter().map(job).collect();
        let title = format!("{}, depth {depth}", plan.what);
        let row = |name: &str, title: &str, unit| {
            let key = [plan.key, name].concat();
            Row::new(&key, title, unit)
        };
        let rate_unit = if plan.block_bytes == SMALL_BYTES {
            Unit::Operations
        } else {
            Unit::Bytes {
                each: plan.block_bytes,
            }
        };
        let rates = jobs.iter().enumerate().map(|(position, job)| {
            let row = match position {
                0 => row("", &title, rate_unit),
                _ => {
                    let title = format!("  against fio with fdatasync={}", job.sync_every);
                    row("_fdatasync", &title, rate_unit)
                }
            };
            row.share(plan.copies).goal(plan.goal)
        });
        let micros = |name, title| row(name, title, Unit::Microseconds);
        Self {
            load,
            rates: rates.collect(),
            cpu: micros("_cpu", "  processor time of one, client and storage"),
            client_cpu: micros("_cpu_client", "    of it the client's"),
            half: micros("_p50", "  latency, half of them"),
            most: micros("_p99", "  latency, 99 of 100"),
            written: row(
                "_written",
                "  bytes written for one, 3 replicas",
                Unit::Count,
            ),
            jobs,
            title,
        }
    }

    pub(super) fn load(&self) -> ChainLoad {
        self.load
    }

    pub(super) fn title(&self) -> &str {
        &self.title
    }

    /// What fio does, in each of the ways in which the load is compared.
    pub(super) fn jobs(&self) -> Vec<Job> {
        self.jobs.clone()
    }

    /// The first of them, which is what the other file system does, too.
    pub(super) fn job(&self) -> Job {
        self.jobs[0]
    }

    /// What one round gave; `raw` has a value for each job, or none.
    pub(super) fn add(&mut self, ours: &Ours, raw: &[Raw], peer: Option<Raw>) {
        let done = &ours.done;
        for (position, rate) in self.rates.iter_mut().enumerate() {
            let raw = raw.get(position).map(|raw| raw.operations_per_second);
            rate.add(done.per_second(), raw);
        }
        self.rates[0].add_peer(peer.map(|peer| peer.operations_per_second));
        let each = |time: Duration| time.as_secs_f64() * 1e6 / done.operations as f64;
        let first = raw.first();
        let cpu = ours.client_cpu + ours.storage_cpu;
        let raw_cpu = first.map(|raw| raw.cpu_microseconds);
        self.cpu.add(each(cpu), raw_cpu);
        self.client_cpu.add(each(ours.client_cpu), None);
        let within = |part| done.latencies.microseconds(part).unwrap_or_default();
        let half = first.map(|raw| raw.half_microseconds);
        let most = first.map(|raw| raw.most_microseconds);
        self.half.add(within(0.5), half);
        self.most.add(within(0.99), most);
        self.half.add_peer(peer.map(|peer| peer.half_microseconds));
        self.most.add_peer(peer.map(|peer| peer.most_microseconds));
        let written = ours.written_bytes as f64 / done.operations as f64;
        self.written.add(written, None);
    }

    pub(super) fn finish(self) -> Vec<Row> {
        let mut rows = self.rates;
        rows.extend([self.cpu, self.client_cpu, self.half, self.most]);
        if matches!(self.load, ChainLoad::LargeWrites | ChainLoad::SmallWrites) {
            rows.push(self.written);
        }
        rows
    }
}
