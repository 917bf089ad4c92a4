//! `penstock bench chain`: the speed of one chain of three replicas by itself.
//!
//! The client library in this process against three storage processes, over TCP on the loopback interface, on the
//! disk of `--dir`. fio gets the same disk in turns; it runs while the storage nodes rest, and they are waited for.
//! It reads the files in which the chunks lie, and writes a file of its own that was written in full before.

mod rows;

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, anyhow, bail};
use client::{Client, ClientOptions};
use common::{
    env::Env,
    shutdown::{Shutdown, termination},
};
use measure::{
    Failure, LARGE_BYTES, SMALL_BYTES,
    fio::{self, Fio, Job, Place, Raw},
    load::{Done, Payloads, Random, drive},
    process,
    scratch::Scratch,
    table::{self, Row},
};
use serde_json::json;
use types::{id::ChainTableId, layout::Layout, version::ChainTableVersion};

use self::rows::{Ours, Rows};
use super::load::{File, Order, Reader, Writer};
use crate::{
    args::{ChainArgs, ChainLoad},
    cluster,
    dev::temporary::Servers,
    out,
};

/// Storage nodes, and so replicas.
const REPLICAS: u32 = 3;
/// All loads, in the order in which they run: what reads finds the data as it was first written.
const LOADS: [ChainLoad; 4] = [
    ChainLoad::LargeReads,
    ChainLoad::SmallReads,
    ChainLoad::LargeWrites,
    ChainLoad::SmallWrites,
];
/// Each copy may take this many times its size while old versions are not given back yet.
const SPACE_FACTOR: u64 = 3;
/// More than any disk needs to write the data once.
const FILL_LIMIT: Duration = Duration::from_secs(3600);
/// How long the storage nodes are watched to see whether they write.
const REST_WATCH: Duration = Duration::from_millis(300);
/// How long they may go on with what they put off.
const REST_LIMIT: Duration = Duration::from_secs(60);

/// What the whole run uses.
struct Bench {
    env: Env,
    args: ChainArgs,
    dir: PathBuf,
    storage_pids: Vec<u32>,
    storage_dirs: Vec<PathBuf>,
    client: Client,
    file: File,
    payloads: Payloads,
    /// `None` without fio.
    fio: Option<Fio>,
    peer: Option<Fio>,
    /// Where the chunks lie as they were first written.
    chunk_files: Vec<PathBuf>,
}

/// Runs the command.
pub(crate) async fn run(env: &Env, args: &ChainArgs) -> anyhow::Result<()> {
    let fio = match fio::version() {
        Ok(version) => Some(version),
        Err(error) if args.peer.is_some() => bail!("--peer: {error}"),
        Err(error) => {
            out::warn(&format!("{error}; without it there are no ratios"));
            None
        }
    };
    let scratch = Scratch::new(env, &args.dir)
        .with_context(|| format!("cannot write in {}", args.dir.display()))?;
    let peer = match &args.peer {
        Some(peer) => Some(
            Scratch::new(env, peer)
                .with_context(|| format!("cannot write in {}", peer.display()))?,
        ),
        None => None,
    };
    let mut servers = Servers::plan(env, &scratch.path().join("cluster"), REPLICAS, 1)?;
    let places = Places {
        scratch: scratch.path(),
        peer: peer.as_ref().map(Scratch::path),
        has_fio: fio.is_some(),
    };
    let outcome = tokio::select! {
        outcome = measure(env, args, &places, &mut servers) => outcome,
        asked = termination() => {
            asked.context("listen for SIGTERM and SIGINT")?;
            Err(anyhow!("interrupted"))
        }
    };
    // First everything that uses the files, then the files.
    servers.end(env).await?;
    let dir = scratch.path().to_owned();
    let removed = scratch.close();
    if let Some(peer) = peer {
        peer.close().context("remove the file of --peer")?;
    }
    removed.with_context(|| format!("cannot remove {}", dir.display()))?;
    print(args, fio.as_deref(), &outcome?)
}

/// Where files may be.
struct Places<'a> {
    scratch: &'a Path,
    peer: Option<&'a Path>,
    has_fio: bool,
}

async fn measure(
    env: &Env,
    args: &ChainArgs,
    places: &Places<'_>,
    servers: &mut Servers,
) -> anyhow::Result<Vec<Row>> {
    let size = u64::from(args.size) << 20;
    let space = size * u64::from(REPLICAS) * SPACE_FACTOR + size;
    process::check_space(places.scratch, space).map_err(failure)?;
    out::progress("starting a manager and three storage nodes");
    servers.start(env, out::progress).await?;
    let end = Shutdown::new();
    let mut bench = Bench::open(env, args, places, servers, &end).await?;
    let rows = bench.all().await.map_err(failure);
    bench.client.end_session().await;
    end.trigger();
    rows
}

impl Bench {
    async fn open(
        env: &Env,
        args: &ChainArgs,
        places: &Places<'_>,
        servers: &Servers,
        end: &Shutdown,
    ) -> anyhow::Result<Self> {
        let config = cluster::load(&servers.cluster_file())?;
        let options = ClientOptions {
            description: format!("bench chain, process {}", std::process::id()),
            ..ClientOptions::default()
        };
        let client = Client::connect(env, config, options, end.signal())
            .await
            .context("connect to the cluster")?;
        let file = File {
            storage: client.storage.clone(),
            layout: Layout {
                table: ChainTableId(1),
                table_version: ChainTableVersion(1),
                chunk_size: LARGE_BYTES,
                stripe_size: 1,
                base: 0,
                seed: 0,
            },
            chunks: args.size,
        };
        let size = u64::from(args.size) << 20;
        let fio = |dir: &Path| Fio::new(dir.join("fio"), size, args.seconds);
        Ok(Self {
            env: env.clone(),
            args: args.clone(),
            dir: places.scratch.to_owned(),
            storage_pids: servers.storage_pids(),
            storage_dirs: servers.storage_dirs(),
            payloads: Payloads::new(env, client.endpoint.buffers()),
            client,
            file,
            fio: places.has_fio.then(|| fio(places.scratch)),
            peer: places.peer.map(fio),
            chunk_files: Vec::new(),
        })
    }

    async fn all(&mut self) -> Result<Vec<Row>, Failure> {
        for fio in self.fio.iter().chain(&self.peer) {
            out::progress("preparing the file of fio");
            fio.lay_out().await?;
        }
        out::progress("preparing the chunks");
        self.fill().await?;
        self.chunk_files = chunk_files(&self.storage_dirs)?;
        let mut rows = Vec::new();
        for load in LOADS {
            if self.args.only.is_empty() || self.args.only.contains(&load) {
                rows.extend(self.load(load).await?);
            }
        }
        Ok(rows)
    }

    async fn load(&self, load: ChainLoad) -> Result<Vec<Row>, Failure> {
        let mut rows = Rows::new(load, &self.args);
        if load == ChainLoad::LargeWrites {
            // From the second time on chunks come into slots that were written before, as fio's writes do.
            out::progress("writing the chunks once more");
            self.fill().await?;
        }
        for round in 1..=self.args.rounds {
            out::progress(&format!("{}, round {round}", rows.title()));
            // Who begins changes: below a virtual disk is a cache, and who comes second may find in it what the first
            // has read.
            let fio_first = round.is_multiple_of(2);
            let mut raw = Vec::new();
            if fio_first {
                raw = self.raw(&rows).await?;
            }
            let ours = self.ours(&rows).await?;
            if !fio_first {
                raw = self.raw(&rows).await?;
            }
            let peer = match &self.peer {
                Some(peer) => Some(peer.run(rows.job(), &Place::Prepared).await?),
                None => None,
            };
            rows.add(&ours, &raw, peer);
        }
        Ok(rows.finish())
    }

    /// What fio does, in each of the ways in which the load is compared.
    async fn raw(&self, rows: &Rows) -> Result<Vec<Raw>, Failure> {
        let Some(fio) = &self.fio else {
            return Ok(Vec::new());
        };
        let mut raw = Vec::new();
        for job in rows.jobs() {
            let place = if job.kind == "randread" {
                Place::Of(self.chunk_files.clone())
            } else {
                Place::Prepared
            };
            raw.push(fio.run(job, &place).await?);
            self.settle().await?;
        }
        Ok(raw)
    }

    async fn ours(&self, rows: &Rows) -> Result<Ours, Failure> {
        let Job {
            block_bytes: length,
            depth,
            ..
        } = rows.job();
        let before = self.used()?;
        let done = match rows.load() {
            ChainLoad::LargeReads | ChainLoad::SmallReads => self.read(length, depth).await?,
            ChainLoad::LargeWrites => self.write(length, depth, &forward(u32::MAX)).await?,
            ChainLoad::SmallWrites => self.write(length, depth, &Order::Random).await?,
        };
        let after = self.used()?;
        self.rest().await?;
        // What a node puts off until later belongs to the writes.
        let rested = self.used()?;
        Ok(Ours {
            client_cpu: after.client.saturating_sub(before.client),
            storage_cpu: after.storage.saturating_sub(before.storage),
            written_bytes: rested.written_bytes - before.written_bytes,
            done,
        })
    }

    async fn read(&self, length: u32, depth: u32) -> Result<Done, Failure> {
        let buffers = self.client.endpoint.buffers();
        let reader = |_| Reader::new(&self.file, buffers, length, Random::new(&self.env));
        let limit = Duration::from_secs(self.args.seconds);
        drive(&self.env, (0..depth).map(reader), limit).await
    }

    async fn write(&self, length: u32, depth: u32, order: &Order) -> Result<Done, Failure> {
        let limit = Duration::from_secs(self.args.seconds);
        self.drive_writers(length, depth, order, limit).await
    }

    async fn drive_writers(
        &self,
        length: u32,
        depth: u32,
        order: &Order,
        limit: Duration,
    ) -> Result<Done, Failure> {
        let writer = |_| Writer {
            file: self.file.clone(),
            payloads: self.payloads.clone(),
            length,
            order: order.clone(),
            random: Random::new(&self.env),
        };
        drive(&self.env, (0..depth).map(writer), limit).await
    }

    /// Writes every chunk once.
    async fn fill(&self) -> Result<(), Failure> {
        let order = forward(self.file.chunks);
        self.drive_writers(LARGE_BYTES, rows::LARGE_DEPTH, &order, FILL_LIMIT)
            .await?;
        self.rest().await
    }

    /// What the processes have used so far.
    fn used(&self) -> Result<Used, Failure> {
        let mut used = Used {
            client: process::cpu_time(std::process::id())?,
            storage: Duration::ZERO,
            written_bytes: 0,
        };
        for &pid in &self.storage_pids {
            used.storage += process::cpu_time(pid)?;
            used.written_bytes += process::written_bytes(pid)?;
        }
        Ok(used)
    }

    /// Waits until the storage nodes have written what they put off, so that fio has the disk for itself.
    async fn rest(&self) -> Result<(), Failure> {
        let limit = self.env.now() + REST_LIMIT;
        let mut before = self.used()?.written_bytes;
        loop {
            self.env.sleep(REST_WATCH).await;
            let now = self.used()?.written_bytes;
            // Heartbeats write nothing; a page for a log of theirs is no load.
            if now - before <= u64::from(SMALL_BYTES) {
                return self.settle().await;
            }
            if self.env.now() >= limit {
                out::progress(
                    "the storage nodes still write after a minute; the figures will show it",
                );
                return self.settle().await;
            }
            before = now;
        }
    }

    async fn settle(&self) -> Result<(), Failure> {
        let dir = self.dir.clone();
        Ok(self.env.blocking(move || process::settle(&dir)).await?)
    }
}

#[derive(Clone, Copy)]
struct Used {
    client: Duration,
    storage: Duration,
    written_bytes: u64,
}

fn forward(end: u32) -> Order {
    Order::Forward {
        next: std::sync::Arc::default(),
        end,
    }
}

/// The files in which the storage nodes keep chunks.
fn chunk_files(dirs: &[PathBuf]) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut left: Vec<PathBuf> = dirs.iter().map(|dir| dir.join("disk-0/groups")).collect();
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            if path.is_dir() {
                left.push(path);
            } else {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

fn failure(failure: Failure) -> anyhow::Error {
    anyhow!(failure)
}

fn print(args: &ChainArgs, fio: Option<&str>, rows: &[Row]) -> anyhow::Result<()> {
    if args.json {
        return out::json(&json!({
            "fio": fio,
            "size_bytes": u64::from(args.size) << 20,
            "seconds": args.seconds,
            "rounds": args.rounds,
            "figures": table::json("penstock", rows),
        }));
    }
    out::say(&table::text("penstock", rows));
    let turns = format!("{} rounds of {} s each", args.rounds, args.seconds);
    match fio {
        None => out::say(&turns),
        Some(fio) => out::say(&format!(
            "raw is {fio} with io_uring and O_DIRECT on the same disk, {} MiB; {turns}, in turns.\n\
             A ratio is the median of the rounds' ratios, spread their least and greatest.",
            args.size
        )),
    }
    Ok(())
}
