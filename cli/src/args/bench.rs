//! What `penstock bench` is asked.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand, ValueEnum};

#[derive(Debug, ClapArgs)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    pub(crate) command: BenchCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// One replication chain by itself: three storage nodes of its own, the client in this process.
    Chain(ChainArgs),
}

/// A load on a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ChainLoad {
    /// 1 MiB reads, depth 16.
    #[value(name = "read-1m")]
    LargeReads,
    /// 4 KiB random reads, depth 64.
    #[value(name = "read-4k")]
    SmallReads,
    /// 1 MiB durable writes over chunks that are there, depth 16.
    #[value(name = "write-1m")]
    LargeWrites,
    /// 4 KiB durable random overwrites, depth 64.
    #[value(name = "overwrite-4k")]
    SmallWrites,
}

#[derive(Clone, Debug, ClapArgs)]
#[command(after_help = "\
Starts a manager and three storage nodes on this machine, on ports of their own, with one chain of three replicas;
runs the client library in this process, over TCP, without a mount; and has fio (io_uring, O_DIRECT) do the same on
the same disk, in turns. A figure that misses its goal does not fail the command. Everything that was started and
written goes at the end, also after Ctrl-C. Without fio only the absolute figures are there.

Let nothing else run, and compare ratios, not figures: virtual disks change their speed from hour to hour.

  penstock bench chain                                     everything, about two minutes
  penstock bench chain --only read-4k,overwrite-4k --depth 1 --seconds 10
  penstock bench chain --dir /mnt/nvme/tmp --json          on another disk, for programs
  penstock bench chain --peer /mnt/gluster                 fio also there, for a ratio to that file system

The large writes are compared with a third of what fio writes: each byte goes to the same disk three times.
JSON: {fio, size_bytes, seconds, rounds, figures: {read_1m, read_1m_cpu, read_1m_p50, ...}}; each figure has unit,
penstock, raw, ratio, ratios, goal, goal_kind, and with --peer also peer, peer_ratio, peer_ratios.")]
pub(crate) struct ChainArgs {
    /// Where to write: a directory on the disk to be measured.
    #[arg(long, value_name = "DIR", default_value = "penstock-bench")]
    pub(crate) dir: PathBuf,
    /// How often penstock and fio take turns.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) rounds: u32,
    /// Seconds of each measurement of each round.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub(crate) seconds: u64,
    /// MiB of data; three copies are kept, and fio's file has the same size.
    #[arg(long, value_name = "MIB", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(64..=65536))]
    pub(crate) size: u32,
    /// Only these loads, comma separated.
    #[arg(long, value_name = "LOADS", value_delimiter = ',')]
    pub(crate) only: Vec<ChainLoad>,
    /// Operations under way at a time, instead of 16 and 64.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) depth: Option<u32>,
    /// A directory on a mount of another file system: fio does the same there.
    #[arg(long, value_name = "DIR")]
    pub(crate) peer: Option<PathBuf>,
    /// Machine-readable output.
    #[arg(long)]
    pub(crate) json: bool,
}
