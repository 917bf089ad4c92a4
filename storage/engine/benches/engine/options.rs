//! The command line. clap belongs to the program, so these few options are read by hand.

use std::{path::PathBuf, time::Duration};

use super::{child::Task, records};

const HELP: &str = "\
Compares the chunk engine with fio on the same disk.

cargo bench -p penstock-engine [-- [OPTIONS] [SECTION...]]

Sections: reads, writes, overwrites, records; without any, all of them.

  --dir DIR      where to write (default: target/bench); give it in full, cargo changes the directory
  --size BYTES   of the data set, also with K, M, G (default: 1G)
  --seconds N    for each measurement of each round (default: 3; with --full 10)
  --rounds N     engine and fio take turns this often (default: 3; with --full 5)
  --chunks N     records of chunks on the disk that is opened (default: 200000; with --full 1000000)
  --full         longer, and with a million chunks
  --json         one JSON object instead of the table
  --help         this text

It needs space for four times --size; before or after that for 12 KiB for each of --chunks, or for 8 GiB (with
--full 16 GiB), whatever is most, and 1 GiB more.";

/// A part of the benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Section {
    Reads,
    Writes,
    Overwrites,
    Records,
}

/// What to measure.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) dir: PathBuf,
    /// Bytes of the data set.
    pub(crate) size: u64,
    /// Of each measurement.
    pub(crate) seconds: u64,
    pub(crate) rounds: u32,
    /// Records on the disk that is opened.
    pub(crate) chunks: u32,
    /// Chunks of full size on the other disk that is opened.
    pub(crate) large_chunks: u32,
    pub(crate) json: bool,
    /// Empty: all.
    sections: Vec<Section>,
}

impl Options {
    pub(crate) fn wants(&self, section: Section) -> bool {
        self.sections.is_empty() || self.sections.contains(&section)
    }

    pub(crate) fn time(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }

    /// Bytes that are in use at the same time at most.
    pub(crate) fn space_needed(&self) -> u64 {
        let records = if self.wants(Section::Records) {
            records::space_needed(self)
        } else {
            0
        };
        // fio's file, the chunks, and as much again that was replaced and is not free yet.
        (4 * self.size).max(records)
    }
}

/// What the command line asks for.
pub(crate) enum Invocation {
    Help,
    Measure(Options),
    /// A process of the benchmark itself.
    Child(Task),
}

#[derive(Default)]
struct Given {
    dir: Option<PathBuf>,
    size: Option<u64>,
    seconds: Option<u64>,
    rounds: Option<u32>,
    chunks: Option<u32>,
    full: bool,
    json: bool,
    sections: Vec<Section>,
}

pub(crate) fn parse(arguments: impl Iterator<Item = String>) -> Result<Invocation, String> {
    let mut arguments = arguments;
    let mut given = Given::default();
    while let Some(argument) = arguments.next() {
        let mut value = || {
            let value = arguments.next();
            value.ok_or_else(|| format!("{argument} needs a value; see --help"))
        };
        match argument.as_str() {
            "--help" | "-h" => return Ok(Invocation::Help),
            super::child::FLAG => return Task::parse(arguments).map(Invocation::Child),
            // Cargo's own.
            "--bench" => {}
            "--full" => given.full = true,
            "--json" => given.json = true,
            "--dir" => given.dir = Some(value()?.into()),
            "--size" => given.size = Some(bytes(&value()?)?),
            "--seconds" => given.seconds = Some(positive(&value()?)?.into()),
            "--rounds" => given.rounds = Some(positive(&value()?)?),
            "--chunks" => given.chunks = Some(positive(&value()?)?),
            "reads" => given.sections.push(Section::Reads),
            "writes" => given.sections.push(Section::Writes),
            "overwrites" => given.sections.push(Section::Overwrites),
            "records" => given.sections.push(Section::Records),
            _ => return Err(format!("{argument:?} is not known; see --help")),
        }
    }
    given.complete().map(Invocation::Measure)
}

impl Given {
    fn complete(self) -> Result<Options, String> {
        let pick = |quick: u32, full: u32| if self.full { full } else { quick };
        // Beside cargo's directory for temporary files, wherever CARGO_TARGET_DIR puts that.
        let default_dir = || PathBuf::from(env!("CARGO_TARGET_TMPDIR")).with_file_name("bench");
        let size = self.size.unwrap_or(1 << 30);
        // Every task has chunks of its own, and there must be something to choose from.
        if size < 128 << 20 {
            return Err("--size must be at least 128M".to_owned());
        }
        Ok(Options {
            dir: self.dir.unwrap_or_else(default_dir),
            // Whole chunks, for both sides.
            size: size - size % u64::from(measure::LARGE_BYTES),
            seconds: self.seconds.unwrap_or(pick(3, 10).into()),
            rounds: self.rounds.unwrap_or(pick(3, 5)),
            chunks: self.chunks.unwrap_or(pick(200_000, 1_000_000)),
            large_chunks: pick(8 << 10, 16 << 10),
            json: self.json,
            sections: self.sections,
        })
    }
}

fn positive(text: &str) -> Result<u32, String> {
    let number = text.parse().ok().filter(|&number| number > 0);
    number.ok_or_else(|| format!("{text:?} is not a number above 0"))
}

fn bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" => 1,
        "K" | "k" => 1 << 10,
        "M" | "m" => 1 << 20,
        "G" | "g" => 1_u64 << 30,
        _ => 0,
    };
    let number = digits.parse::<u64>().ok();
    let bytes = number.and_then(|number| number.checked_mul(unit));
    bytes
        .filter(|&bytes| bytes > 0)
        .ok_or_else(|| format!("{text:?} is not a number of bytes"))
}

#[allow(clippy::print_stdout, reason = "the text was asked for")]
pub(crate) fn print_help() {
    println!("{HELP}");
}
