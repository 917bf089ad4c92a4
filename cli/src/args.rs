//! The command line. clap refuses unknown flags with the nearest right one and exit code 2; the help
//! texts here are what most users read first, so they teach by example.

mod bench;

use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};

pub(crate) use self::bench::{BenchArgs, BenchCommand, ChainArgs, ChainLoad};

const EXAMPLES: &str = "\
Try it on this machine (needs FUSE, as root or with fusermount3):
  penstock dev up --data ./penstock-data     a whole cluster, mounted at ./penstock-data/mnt
  cp -r ~/photos ./penstock-data/mnt/        use it like any directory
  penstock dev kill storage-2                break something: nothing is lost, nothing fails
  penstock dev status                        see what is left
  penstock dev start storage-2               repair it
  penstock dev down                          stop everything; the data stays

Run a cluster over several machines: `penstock mgmtd|meta|storage --config FILE` on each, then
`penstock mount DIR --cluster cluster.toml`. See docs/operations.md.

Exit codes: 0 done, 1 failed, 2 wrong usage.";

/// A parallel file system for AI clusters: one binary for every role.
#[derive(Debug, Parser)]
#[command(name = "penstock", version, after_help = EXAMPLES, propagate_version = true)]
pub(crate) struct Args {
    /// Start a session of its own, so that the terminal's Ctrl-C and hang-up do not reach this process.
    #[arg(long, global = true, hide = true)]
    pub(crate) new_session: bool,
    /// End when this process, which started this one, ends.
    #[arg(long, value_name = "PID", global = true, hide = true)]
    pub(crate) end_with: Option<u32>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// A whole cluster on this machine: start it, look at it, break it, stop it.
    Dev(DevArgs),
    /// Is the cluster healthy, and if not, why? One screen.
    Status(StatusArgs),
    /// Look at the parts of a cluster: nodes, targets, chains; check a disk.
    Admin(AdminArgs),
    /// How fast is it here, beside fio on the same disk?
    Bench(BenchArgs),
    /// Mount the file system at a directory.
    Mount(MountArgs),
    /// Unmount it: flushes, ends sessions, then returns.
    Umount(UmountArgs),
    /// Run a cluster manager.
    Mgmtd(ServeArgs),
    /// Run a metadata server.
    Meta(ServeArgs),
    /// Run a storage node.
    Storage(ServeArgs),
}

/// One role's process.
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Every key has a default. To see all keys with their meaning:
  penstock ROLE --print-config > role.toml
The process logs to standard error, serves /healthz and /metrics on its admin port, and ends in an
orderly way on SIGTERM or Ctrl-C. PENSTOCK_LOG=debug shows more.")]
pub(crate) struct ServeArgs {
    /// The configuration file (TOML).
    #[arg(long, value_name = "FILE", required_unless_present = "print_config")]
    pub(crate) config: Option<PathBuf>,
    /// Print all keys with comments (of FILE, or the defaults) and end.
    #[arg(long)]
    pub(crate) print_config: bool,
}

/// How to reach a cluster.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct ClusterArgs {
    /// The cluster file; `dev up` writes one as DIR/cluster.toml. Default: that of ./penstock-data.
    #[arg(long, value_name = "FILE", env = "PENSTOCK_CLUSTER", global = true)]
    pub(crate) cluster: Option<PathBuf>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
    /// Machine-readable output.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  penstock admin chain list                 who holds what, and in which state
  penstock admin node list --json           for programs
  penstock admin --cluster /etc/penstock/cluster.toml target list")]
pub(crate) struct AdminArgs {
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
    /// Machine-readable output.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) noun: Noun,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Noun {
    /// The registered processes.
    #[command(subcommand)]
    Node(ListVerb),
    /// Disks' seats in chains.
    #[command(subcommand)]
    Target(ListVerb),
    /// Replication chains.
    #[command(subcommand)]
    Chain(ListVerb),
    /// One disk of a storage node that does not run.
    #[command(subcommand)]
    Disk(DiskVerb),
}

#[derive(Debug, Subcommand)]
pub(crate) enum DiskVerb {
    /// Check everything on the disk in a directory that no process uses; see `--help` for repairs.
    Check(DiskCheckArgs),
}

#[derive(Debug, Clone, ClapArgs)]
#[command(after_help = "\
Stop the storage node first. DIR is the directory of one disk, not that of the node: it has `groups`, `log`
and `meta` in it, for example DATA/disk-0 (of `dev up`: DIR/storage-1/data/disk-0).

Without --repair nothing in DIR changes. All records, the log and every block of every chunk are read, so it
takes as long as reading the disk takes. The record database is opened as a copy below $TMPDIR, which needs
room for its journals, about 100 MiB. Ctrl-C ends the check.

Examples:
  penstock admin disk check /data/disk-0                          look only
  penstock admin disk check /data/disk-0 --json                   for programs
  penstock admin disk check /data/disk-0 --repair                 finish what a crash left; loses nothing
  penstock admin disk check /data/disk-0 --repair --drop-damaged  also drop what cannot be read

--drop-damaged deletes the named chunks from this disk. Where other replicas serve, the node gets them back by
itself when it starts. Where this disk is the last copy they are LOST, and files read as zeros or shorter there:
look at `penstock admin chain list` before, and copy DIR first.

Exit codes: 0 sound, or sound after the repair; 1 problems are left, or it could not be checked; 2 wrong usage.")]
pub(crate) struct DiskCheckArgs {
    /// The directory of the disk.
    pub(crate) dir: PathBuf,
    /// Repair what can be repaired without losing anything: replay the log, remove files nobody refers to.
    #[arg(long)]
    pub(crate) repair: bool,
    /// Also drop chunks that cannot be read. Loses them for good if no other replica has them.
    #[arg(long, requires = "repair")]
    pub(crate) drop_damaged: bool,
}

#[derive(Debug, Clone, Copy, Subcommand)]
pub(crate) enum ListVerb {
    /// List all of them.
    List,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  penstock mount /mnt/data --cluster /etc/penstock/cluster.toml
  penstock mount /mnt/data --cluster cluster.toml -o ro --foreground
In /etc/fstab (with this binary linked as /sbin/mount.penstock):
  /etc/penstock/cluster.toml  /mnt/data  penstock  _netdev,nofail  0 0")]
pub(crate) struct MountArgs {
    /// An existing, empty directory.
    pub(crate) dir: PathBuf,
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
    /// Mount options, comma separated; `-o help` lists them.
    #[arg(short, value_name = "OPTIONS", default_value = "")]
    pub(crate) options: String,
    /// Stay in the foreground; Ctrl-C unmounts.
    #[arg(long)]
    pub(crate) foreground: bool,
    /// Where /healthz and /metrics are served.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    pub(crate) admin_listen: std::net::SocketAddr,
    /// Where the background process logs to; by default nowhere.
    #[arg(long, value_name = "FILE", conflicts_with = "foreground")]
    pub(crate) log_file: Option<PathBuf>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct UmountArgs {
    /// The directory it is mounted at.
    pub(crate) dir: PathBuf,
    /// Take it out of the directory tree now, even when it is in use or its daemon is dead.
    #[arg(long)]
    pub(crate) lazy: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct DevArgs {
    #[command(subcommand)]
    pub(crate) command: DevCommand,
}

/// Where a development cluster lives.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct DataArgs {
    /// The directory that holds everything of the cluster.
    #[arg(
        long,
        value_name = "DIR",
        env = "PENSTOCK_DATA",
        default_value = "penstock-data"
    )]
    pub(crate) data: PathBuf,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DevCommand {
    /// Start the cluster (make it when there is none), mount it, check that it works.
    Up(DevUpArgs),
    /// Per service: name, process id, address, state.
    Status {
        #[command(flatten)]
        data: DataArgs,
        /// Machine-readable output: an array of {name, kind, node, pid, address, admin_address, state, reason}.
        #[arg(long)]
        json: bool,
    },
    /// Send a service a signal; by default SIGKILL, as a crash would.
    Kill {
        /// For example storage-2, meta-1, mgmtd-1 or mount.
        name: String,
        /// A number or a name: 9, KILL, TERM, STOP, CONT.
        #[arg(long, default_value = "9")]
        signal: String,
        #[command(flatten)]
        data: DataArgs,
    },
    /// Start a service again, and wait until it is ready.
    Start {
        /// For example storage-2, meta-1, mgmtd-1 or mount.
        name: String,
        #[command(flatten)]
        data: DataArgs,
    },
    /// Unmount, then stop all services. The data stays.
    Down {
        #[command(flatten)]
        data: DataArgs,
    },
}

#[derive(Debug, Clone, ClapArgs)]
#[command(after_help = "\
Run it again on the same DIR, after `dev down`, a reboot or a crash, and the same data is back.
The shape (--storage, --replicas, --meta, --mgmtd) is chosen when DIR is made and kept from then on.
DIR/<service>/config.toml may be edited; DIR/logs/<service>.log says what a service does.")]
pub(crate) struct DevUpArgs {
    #[command(flatten)]
    pub(crate) data: DataArgs,
    /// Where to mount; default DIR/mnt.
    #[arg(long, value_name = "DIR")]
    pub(crate) mount: Option<PathBuf>,
    /// Storage nodes [default: 3].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=99))]
    pub(crate) storage: Option<u32>,
    /// Copies of every chunk [default: 3, or --storage when that is smaller].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=16))]
    pub(crate) replicas: Option<u32>,
    /// Metadata servers [default: 1].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=99))]
    pub(crate) meta: Option<u32>,
    /// Cluster managers: 1, 3 or 5 [default: 1].
    #[arg(long, value_name = "N", value_parser = parse_mgmtd_count)]
    pub(crate) mgmtd: Option<u32>,
    /// Chains to create in a new cluster [default: two per storage node].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) chains: Option<u32>,
    /// How processes talk to each other.
    #[arg(long, value_enum, default_value_t = Transport::Tcp)]
    pub(crate) transport: Transport,
    /// Where the namespace is kept.
    #[arg(long, value_enum, default_value_t = KvBackend::Embedded)]
    pub(crate) kv: KvBackend,
    /// Seconds to wait for the services before giving up.
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) timeout: u64,
}

/// How processes talk to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Transport {
    /// TCP.
    Tcp,
    /// Shared memory on one host.
    Shm,
}

/// Where the namespace is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum KvBackend {
    /// In the metadata server's own data directory.
    Embedded,
    /// In FoundationDB.
    Fdb,
}

fn parse_mgmtd_count(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(count @ (1 | 3 | 5)) => Ok(count),
        _ => Err("managers decide by majority: use 1, 3 or 5".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Args::command().debug_assert();
    }

    #[test]
    fn an_unknown_flag_is_refused_with_the_nearest() {
        let error = Args::try_parse_from(["penstock", "dev", "up", "--storag", "3"]).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("--storage"), "{error}");
    }

    #[test]
    fn two_managers_are_refused() {
        let error = Args::try_parse_from(["penstock", "dev", "up", "--mgmtd", "2"]).unwrap_err();
        assert!(error.to_string().contains("1, 3 or 5"), "{error}");
    }

    #[test]
    fn dropping_chunks_needs_two_flags() {
        let check = ["penstock", "admin", "disk", "check", "d"];
        let one = Args::try_parse_from(check.into_iter().chain(["--drop-damaged"]));
        assert!(one.unwrap_err().to_string().contains("--repair"));
        let both = ["--repair", "--drop-damaged", "--json"];
        assert!(Args::try_parse_from(check.into_iter().chain(both)).is_ok());
    }

    #[test]
    fn options_of_admin_may_stand_after_the_verb() {
        let line = [
            "penstock",
            "admin",
            "chain",
            "list",
            "--json",
            "--cluster",
            "c",
        ];
        let args = Args::try_parse_from(line).unwrap();
        assert!(matches!(
            args.command,
            Command::Admin(AdminArgs { json: true, .. })
        ));
    }
}
