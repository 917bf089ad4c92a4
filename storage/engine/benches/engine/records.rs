//! A disk with many chunks: how much memory they take, and how long it takes to open it after a crash.
//!
//! A million chunks of full size would be a terabyte. So there are two disks: many chunks with 4 KiB each, and
//! fewer of full size. Memory is what a process grows by when it opens the disk, less what it grows by for an
//! empty one; for the few large chunks, less what it grows by for half of them, or caches would count as records.
//! What the store keeps in memory until it writes it out, a fixed amount, still does: that row has no goal.

use std::process::Stdio;

use measure::{
    Failure, LARGE_BYTES as CHUNK_BYTES, SMALL_BYTES, process,
    table::{Goal, Row, Unit, median},
};
use serde_json::Value;
use tokio::process::Command;

use super::{
    Bench,
    child::{self, Task},
    options::Options,
};

/// Times that a closed disk is opened, for the median: how memory is handed out differs from process to process.
const OPENINGS: usize = 5;
/// Memory is said for so many.
const CHUNKS: f64 = 1e6;
const BYTES_IN_MEGABYTE: f64 = 1e6;
/// In megabytes, of a million chunks.
const MEMORY_GOAL: Goal = Goal::AtMost(200.0);
const OPEN_GOAL: Goal = Goal::AtMost(5.0);
/// Bytes on the disk of a small chunk: its content, rounded up, and what is known of it.
const SMALL_SPACE: u64 = 12 << 10;
/// For logs and whatever does not depend on the number of chunks.
const OTHER_SPACE: u64 = 1 << 30;

pub(crate) fn space_needed(options: &Options) -> u64 {
    let small = u64::from(options.chunks) * SMALL_SPACE;
    let large = u64::from(options.large_chunks) * u64::from(CHUNK_BYTES);
    small.max(large) + OTHER_SPACE
}

/// What one disk showed.
struct Seen {
    chunks: f64,
    created_per_second: f64,
    after_crash_seconds: f64,
    seconds: f64,
    grown_bytes: f64,
}

impl Seen {
    fn megabytes_of_a_million(&self, fewer: &Seen) -> f64 {
        let bytes = (self.grown_bytes - fewer.grown_bytes).max(0.0);
        bytes / (self.chunks - fewer.chunks) * CHUNKS / BYTES_IN_MEGABYTE
    }
}

pub(crate) async fn measure(bench: &Bench) -> Result<Vec<Row>, Failure> {
    let options = &bench.options;
    let empty = see(bench, 0, SMALL_BYTES).await?;
    let small = see(bench, options.chunks, SMALL_BYTES).await?;
    let half = see(bench, options.large_chunks / 2, CHUNK_BYTES).await?;
    let large = see(bench, options.large_chunks, CHUNK_BYTES).await?;
    let row = |key, title: String, unit, value| {
        let mut row = Row::new(key, &title, unit);
        row.add(value, None);
        row
    };
    let (count, large_count) = (small.chunks, large.chunks);
    Ok(vec![
        row(
            "memory_per_million",
            format!("memory of a million chunks (from {count})"),
            Unit::Megabytes,
            small.megabytes_of_a_million(&empty),
        )
        .goal(MEMORY_GOAL),
        row(
            "memory_per_million_1m",
            format!("  of 1 MiB each, with the store's own (from {large_count})"),
            Unit::Megabytes,
            large.megabytes_of_a_million(&half),
        ),
        row(
            "open_after_crash",
            format!("opening {count} chunks after a crash"),
            Unit::Seconds,
            small.after_crash_seconds,
        )
        .goal(OPEN_GOAL),
        row(
            "open_after_close",
            "  after it was closed".to_owned(),
            Unit::Seconds,
            small.seconds,
        ),
        row(
            "create_4k",
            "new chunks with 4 KiB, depth 256".to_owned(),
            Unit::Operations,
            small.created_per_second,
        ),
    ])
}

/// Fills a disk, crashes, opens and closes it several times, each time as after a start of the machine.
async fn see(bench: &Bench, chunks: u32, length: u32) -> Result<Seen, Failure> {
    bench.progress(&format!("a disk with {chunks} chunks of {length} bytes"));
    let disk = bench.dir.join("records");
    let build = Task::Build {
        disk: disk.clone(),
        chunks,
        length,
    };
    let built = start(build).await?;
    let mut opened = Vec::new();
    // The first time is after the crash.
    for _ in 0..=OPENINGS {
        let dir = disk.clone();
        let forgotten = move || process::forget_cached(&dir);
        bench.env.blocking(forgotten).await?;
        opened.push(start(Task::Open { disk: disk.clone() }).await?);
    }
    bench
        .env
        .blocking(move || std::fs::remove_dir_all(disk))
        .await?;
    let all = |name| -> Result<Vec<f64>, Failure> {
        opened.iter().map(|report| number(report, name)).collect()
    };
    let (seconds, grown_bytes) = (all("seconds")?, all("grown_bytes")?);
    Ok(Seen {
        chunks: number(&built, "chunks")?,
        created_per_second: number(&built, "per_second")?,
        after_crash_seconds: seconds[0],
        seconds: median(&seconds[1..]).unwrap_or_default(),
        grown_bytes: median(&grown_bytes[1..]).unwrap_or_default(),
    })
}

fn number(report: &Value, name: &str) -> Result<f64, Failure> {
    let number = report.get(name).and_then(Value::as_f64);
    number.ok_or_else(|| format!("a process of the benchmark did not say {name}").into())
}

async fn start(task: Task) -> Result<Value, Failure> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(child::FLAG).args(task.arguments());
    command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .kill_on_drop(true);
    let output = command.output().await?;
    if output.status.success() {
        Ok(serde_json::from_slice(&output.stdout)?)
    } else {
        Err(format!("a process of the benchmark failed: {}", output.status).into())
    }
}
