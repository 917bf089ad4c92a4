//! Reads and writes, in rounds: the engine, then fio.

use std::{fs, io, path::PathBuf, time::Duration};

use engine::{Engine, EngineConfig, SizeClass};
use measure::{
    Failure, LARGE_BYTES as CHUNK_BYTES, SMALL_BYTES,
    fio::{Job, Place, Raw},
    load::{Done, Random, drive},
    process,
    table::{Goal, Row, Unit},
};

use super::{
    Bench,
    load::{self, Creator, Overwriter, Reader},
};

const LARGE_DEPTH: u32 = 16;
const SMALL_DEPTH: u32 = 64;
/// More than any disk needs for the data set.
const FILL_TIME: Duration = Duration::from_secs(24 * 3600);

fn disk(bench: &Bench) -> PathBuf {
    bench.dir.join("disk")
}

fn chunks(bench: &Bench) -> Result<u32, Failure> {
    Ok(u32::try_from(bench.options.size / u64::from(CHUNK_BYTES))?)
}

/// Opens the disk for `work`, and closes it: fio has the machine for itself afterwards.
async fn with_engine<T>(
    bench: &Bench,
    dir: PathBuf,
    work: impl AsyncFnOnce(&Engine) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let config = EngineConfig::default();
    let engine = load::open(&bench.env, &bench.pool, &dir, config).await?;
    settle(bench).await?;
    let result = work(&engine).await;
    engine.close().await;
    drop(engine);
    settle(bench).await?;
    result
}

async fn settle(bench: &Bench) -> io::Result<()> {
    let dir = bench.dir.clone();
    bench.env.blocking(move || process::settle(&dir)).await
}

async fn remove(bench: &Bench, dir: PathBuf) -> io::Result<()> {
    let removed = bench.env.blocking(move || fs::remove_dir_all(&dir)).await;
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => settle(bench).await,
    }
}

async fn raw(bench: &Bench, job: Job, place: &Place) -> Result<Raw, Failure> {
    let raw = bench.fio.run(job, place).await?;
    settle(bench).await?;
    Ok(raw)
}

/// Makes the data set.
pub(crate) async fn fill(bench: &Bench) -> Result<(), Failure> {
    let chunks = chunks(bench)?;
    with_engine(bench, disk(bench), async |engine| {
        create(bench, engine, chunks, FILL_TIME).await
    })
    .await?;
    Ok(())
}

/// Removes the data set and the file of fio.
pub(crate) async fn clear(bench: &Bench) -> Result<(), Failure> {
    remove(bench, disk(bench)).await?;
    bench.fio.remove()?;
    Ok(())
}

async fn create(
    bench: &Bench,
    engine: &Engine,
    chunks: u32,
    limit: Duration,
) -> Result<Done, Failure> {
    let what = (chunks, CHUNK_BYTES);
    let team = Creator::team(&bench.env, engine, &bench.payloads, what, LARGE_DEPTH);
    drive(&bench.env, team, limit).await
}

pub(crate) async fn reads(bench: &Bench) -> Result<Vec<Row>, Failure> {
    let unit = Unit::Bytes { each: CHUNK_BYTES };
    let mut large = Row::new("read_1m", "1 MiB reads, depth 16", unit).goal(Goal::Ratio(0.97));
    let mut small = Row::new("read_4k", "4 KiB random reads, depth 64", Unit::Operations)
        .goal(Goal::Ratio(0.85));
    let mut cpu = Row::new("read_4k_cpu", "  processor time of one", Unit::Microseconds)
        .goal(Goal::AtMost(12.0));
    let place = Place::Of(group_files(bench)?);
    for round in 1..=bench.options.rounds {
        bench.progress(&format!("1 MiB reads, round {round}"));
        let what = (CHUNK_BYTES, LARGE_DEPTH);
        let ((done, _), raw) = read_in_turn(bench, what, &place, round).await?;
        large.add(done.per_second(), Some(raw.operations_per_second));
    }
    for round in 1..=bench.options.rounds {
        bench.progress(&format!("4 KiB reads, round {round}"));
        let what = (SMALL_BYTES, SMALL_DEPTH);
        let ((done, microseconds), raw) = read_in_turn(bench, what, &place, round).await?;
        small.add(done.per_second(), Some(raw.operations_per_second));
        cpu.add(microseconds, Some(raw.cpu_microseconds));
    }
    Ok(vec![large, small, cpu])
}

/// The files with the chunks of the data set.
fn group_files(bench: &Bench) -> Result<Vec<PathBuf>, Failure> {
    let class = SizeClass::holding(CHUNK_BYTES).ok_or("no slot holds a chunk")?;
    let dir = disk(bench).join("groups").join(class.to_string());
    let files = fs::read_dir(dir)?.map(|entry| Ok(entry?.path()));
    Ok(files.collect::<io::Result<_>>()?)
}

/// The engine and fio. Who begins changes from round to round: below a virtual disk is a cache, and who comes second
/// may find in it what the first has read.
async fn read_in_turn(
    bench: &Bench,
    (length, depth): (u32, u32),
    place: &Place,
    round: u32,
) -> Result<((Done, f64), Raw), Failure> {
    let job = job("randread", length, depth, 0);
    if round.is_multiple_of(2) {
        let raw = raw(bench, job, place).await?;
        return Ok((read(bench, length, depth).await?, raw));
    }
    let done = read(bench, length, depth).await?;
    Ok((done, raw(bench, job, place).await?))
}

/// Also returns processor microseconds of one read.
async fn read(bench: &Bench, length: u32, depth: u32) -> Result<(Done, f64), Failure> {
    let chunks = chunks(bench)?;
    with_engine(bench, disk(bench), async |engine| {
        let reader = |_| Reader {
            engine: engine.clone(),
            chunks,
            length,
            random: Random::new(&bench.env),
        };
        let before = process::cpu_time(std::process::id())?;
        let readers = (0..depth).map(reader);
        let done = drive(&bench.env, readers, bench.options.time()).await?;
        let used = process::cpu_time(std::process::id())?.saturating_sub(before);
        let each = used.as_secs_f64() * 1e6 / done.operations as f64;
        Ok((done, each))
    })
    .await
}

/// The two ways in which fio writes: fdatasync is what the engine's promise is worth.
struct Writes {
    place: Place,
    plain: Row,
    durable: Row,
}

impl Writes {
    fn new(place: Place, [plain, durable]: [&'static str; 2], title: &str) -> Self {
        let unit = Unit::Bytes { each: CHUNK_BYTES };
        let row = |key, title: &str| Row::new(key, title, unit).goal(Goal::Ratio(0.9));
        let against = "  against fio with fdatasync=16";
        Self {
            place,
            plain: row(plain, title),
            durable: row(durable, against),
        }
    }

    async fn add(&mut self, bench: &Bench, per_second: f64) -> Result<(), Failure> {
        for (row, sync_every) in [(&mut self.plain, 0), (&mut self.durable, LARGE_DEPTH)] {
            let job = job("write", CHUNK_BYTES, LARGE_DEPTH, sync_every);
            let raw = raw(bench, job, &self.place).await?;
            row.add(per_second, Some(raw.operations_per_second));
        }
        Ok(())
    }

    fn rows(self) -> Vec<Row> {
        vec![self.plain, self.durable]
    }
}

/// New chunks on a new disk, as often as it takes to fill the time: so they need no more space than the data set.
pub(crate) async fn new_chunks(bench: &Bench) -> Result<Vec<Row>, Failure> {
    let mut writes = Writes::new(
        Place::New,
        ["write_new_1m", "write_new_1m_fdatasync"],
        "1 MiB new chunks, depth 16",
    );
    let chunks = chunks(bench)?;
    for round in 1..=bench.options.rounds {
        bench.progress(&format!("new chunks, round {round}"));
        let mut total = Done::default();
        while total.elapsed < bench.options.time() {
            let left = bench.options.time() - total.elapsed;
            let done = with_engine(bench, disk(bench), async |engine| {
                create(bench, engine, chunks, left).await
            })
            .await?;
            remove(bench, disk(bench)).await?;
            total.add(&done);
        }
        writes.add(bench, total.per_second()).await?;
    }
    Ok(writes.rows())
}

pub(crate) async fn replacements(bench: &Bench) -> Result<Vec<Row>, Failure> {
    let mut writes = Writes::new(
        Place::Prepared,
        ["write_replace_1m", "write_replace_1m_fdatasync"],
        "1 MiB chunks written anew, depth 16",
    );
    for round in 1..=bench.options.rounds {
        bench.progress(&format!("chunks written anew, round {round}"));
        let chunks = (chunks(bench)?, CHUNK_BYTES);
        let done = with_engine(bench, disk(bench), async |engine| {
            overwrite(bench, engine, chunks, LARGE_DEPTH).await
        })
        .await?;
        writes.add(bench, done.per_second()).await?;
    }
    Ok(writes.rows())
}

async fn overwrite(
    bench: &Bench,
    engine: &Engine,
    chunks: (u32, u32),
    depth: u32,
) -> Result<Done, Failure> {
    let team = Overwriter::team(&bench.env, engine, &bench.payloads, chunks, depth)?;
    drive(&bench.env, team, bench.options.time()).await
}

pub(crate) async fn overwrites(bench: &Bench) -> Result<Vec<Row>, Failure> {
    let title = "4 KiB durable overwrites, depth 64";
    let mut rate = Row::new("overwrite_4k", title, Unit::Operations).goal(Goal::Ratio(0.4));
    // What the engine puts off until it is closed is work too.
    let title = "  with the time until it is closed";
    let mut closed = Row::new("overwrite_4k_closed", title, Unit::Operations);
    let title = "  bytes written for one";
    let mut bytes =
        Row::new("overwrite_4k_written", title, Unit::Count).goal(Goal::AtMost(16384.0));
    for round in 1..=bench.options.rounds {
        bench.progress(&format!("4 KiB overwrites, round {round}"));
        let chunks = (chunks(bench)?, SMALL_BYTES);
        let (done, before, start) = with_engine(bench, disk(bench), async |engine| {
            let (before, start) = (process::written_bytes(std::process::id())?, bench.env.now());
            let done = overwrite(bench, engine, chunks, SMALL_DEPTH).await?;
            Ok((done, before, start))
        })
        .await?;
        let elapsed = bench.env.now() - start;
        let written = process::written_bytes(std::process::id())? - before;
        let job = job("randwrite", SMALL_BYTES, SMALL_DEPTH, SMALL_DEPTH);
        let raw = raw(bench, job, &Place::Prepared).await?;
        let raw = raw.operations_per_second;
        let until_closed = done.operations as f64 / elapsed.as_secs_f64();
        rate.add(done.per_second(), Some(raw));
        closed.add(until_closed, Some(raw));
        bytes.add(written as f64 / done.operations as f64, None);
    }
    Ok(vec![rate, closed, bytes])
}

fn job(kind: &'static str, block_bytes: u32, depth: u32, sync_every: u32) -> Job {
    Job {
        kind,
        block_bytes,
        depth,
        sync_every,
    }
}
