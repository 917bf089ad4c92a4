//! A real cluster on this machine: `penstock dev up` of the real program, in a directory of its own.
//!
//! One at a time: two clusters would compete for two cores and measure each other. Dropping it runs `dev down`;
//! when the test failed, the ends of the logs are shown first.

use std::{
    fs::{self, File},
    io::{Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    time::Duration,
};

use common::sync::{Mutex, MutexGuard};
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use tempfile::TempDir;

use crate::{
    binary, process,
    run::{self, Ended},
    wait,
};

static TURN: Mutex<()> = Mutex::new(());
/// How long a chain may take to be whole again.
const REPAIR_LIMIT: Duration = Duration::from_secs(90);
/// So much of each log is shown when a test fails.
const LOG_BYTES: u64 = 6_000;

/// A running cluster.
#[derive(Debug)]
pub struct Cluster {
    dir: TempDir,
    _turn: MutexGuard<'static, ()>,
}

/// One line of `dev status --json`.
#[derive(Clone, Debug, Deserialize)]
pub struct ServiceStatus {
    /// For example `storage-2`.
    pub name: String,
    /// `mgmtd`, `meta`, `storage` or `mount`.
    pub kind: String,
    /// Its id in the cluster.
    pub node: Option<u32>,
    /// Its process, when it runs.
    pub pid: Option<u32>,
    /// Where it listens.
    pub address: String,
    /// Where it serves /healthz.
    pub admin_address: String,
    /// `running`, `not_ready` or `dead`.
    pub state: String,
    /// Why it is not running.
    pub reason: Option<String>,
}

/// One element of `admin chain list --json`.
#[derive(Clone, Debug, Deserialize)]
pub struct ChainStatus {
    /// Which chain.
    pub id: u32,
    /// Rises with each change.
    pub version: u32,
    /// Head first.
    pub targets: Vec<ChainTargetStatus>,
}

/// One target of a chain.
#[derive(Clone, Debug, Deserialize)]
pub struct ChainTargetStatus {
    /// Which target.
    pub id: u64,
    /// Its node.
    pub node: u32,
    /// `serving`, `syncing`, `waiting`, `last_serving` or `offline`.
    pub state: String,
}

impl Cluster {
    /// Makes and starts a cluster.
    pub fn up(args: &[&str]) -> Self {
        let cluster = Self::prepare();
        let ended = cluster.dev_up(args).expect_ok("dev up");
        run::note(
            ended
                .stdout
                .lines()
                .find(|line| line.contains("up after"))
                .unwrap_or("up"),
        );
        cluster
    }

    /// An empty directory and the turn, nothing started.
    pub fn prepare() -> Self {
        let turn = TURN.lock();
        let dir = tempfile::Builder::new()
            .prefix("cluster-")
            .tempdir_in(binary::scratch())
            .expect("a directory can be made");
        Self { dir, _turn: turn }
    }

    /// Runs `dev up` again, or for the first time.
    pub fn dev_up(&self, args: &[&str]) -> Ended {
        let all: Vec<&str> = ["up"].iter().chain(args).copied().collect();
        self.dev(&all)
    }

    /// Runs a `dev` command on this cluster.
    pub fn dev(&self, args: &[&str]) -> Ended {
        let data = self.dir().display().to_string();
        let mut all = vec!["dev"];
        all.extend(args);
        all.extend(["--data", &data]);
        run::penstock(all)
    }

    /// Runs any command with this cluster's file.
    pub fn command(&self, args: &[&str]) -> Ended {
        let cluster = self.dir().join("cluster.toml").display().to_string();
        let all: Vec<&str> = args
            .iter()
            .copied()
            .chain(["--cluster", &cluster])
            .collect();
        run::penstock(all)
    }

    /// Where everything of it lies.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Where it is mounted.
    pub fn mount(&self) -> PathBuf {
        self.dir().join("mnt")
    }

    /// A directory beside the mount, on the local disk.
    pub fn local(&self, name: &str) -> PathBuf {
        self.dir().join("local").join(name)
    }

    /// Kills a service as a crash would.
    pub fn kill(&self, name: &str) {
        self.dev(&["kill", name]).expect_ok("dev kill");
    }

    /// Starts a service again.
    pub fn start(&self, name: &str) {
        self.dev(&["start", name]).expect_ok("dev start");
    }

    /// Unmounts in an orderly way and mounts again: nothing is in the kernel's caches afterwards.
    pub fn remount(&self) {
        self.dev(&["kill", "mount", "--signal", "TERM"])
            .expect_ok("dev kill mount");
        wait::until("the mount to end", Duration::from_secs(20), || {
            let state = self.service("mount").state;
            if state == "dead" { Ok(()) } else { Err(state) }
        });
        self.start("mount");
    }

    /// Kills every process at the same moment.
    pub fn kill_all(&self) {
        let pids = self.pids();
        for pid in &pids {
            let pid = i32::try_from(*pid)
                .ok()
                .and_then(Pid::from_raw)
                .expect("a pid");
            kill_process(pid, Signal::KILL).expect("our own process can be killed");
        }
        wait::until("all to be dead", Duration::from_secs(10), || {
            let left = pids.iter().filter(|pid| process::is_alive(**pid)).count();
            if left == 0 {
                Ok(())
            } else {
                Err(format!("{left} live"))
            }
        });
    }

    /// `dev status`.
    pub fn services(&self) -> Vec<ServiceStatus> {
        let ended = self.dev(&["status", "--json"]).expect_ok("dev status");
        serde_json::from_str(&ended.stdout).expect("dev status --json is as documented")
    }

    /// One line of `dev status`.
    pub fn service(&self, name: &str) -> ServiceStatus {
        let found = self
            .services()
            .into_iter()
            .find(|service| service.name == name);
        found.unwrap_or_else(|| panic!("there is no {name}"))
    }

    /// The processes that run.
    pub fn pids(&self) -> Vec<u32> {
        self.services()
            .iter()
            .filter_map(|service| service.pid)
            .collect()
    }

    /// `admin chain list`.
    pub fn chains(&self) -> Vec<ChainStatus> {
        let ended = self
            .command(&["admin", "chain", "list", "--json"])
            .expect_ok("chain list");
        serde_json::from_str(&ended.stdout).expect("chain list --json is as documented")
    }

    /// Waits until every target of every chain serves.
    pub fn wait_all_serving(&self) {
        let begin = wait::now();
        wait::until("all chains to be complete", REPAIR_LIMIT, || {
            let chains = self.chains();
            let missing: Vec<String> = chains
                .iter()
                .flat_map(|chain| chain.targets.iter().map(move |target| (chain, target)))
                .filter(|(_, target)| target.state != "serving")
                .map(|(chain, target)| {
                    format!("chain {} target {} {}", chain.id, target.id, target.state)
                })
                .collect();
            if chains.is_empty() || !missing.is_empty() {
                return Err(missing.join(", "));
            }
            Ok(())
        });
        let took = wait::now().duration_since(begin);
        run::note(&format!(
            "all chains complete after {:.1} s",
            took.as_secs_f64()
        ));
    }

    /// Waits until the chains have taken notice of a dead node: none of its targets serves.
    pub fn wait_node_out(&self, node: u32) {
        wait::until("the chains to go on without a node", REPAIR_LIMIT, || {
            let chains = self.chains();
            let mut targets = chains.iter().flat_map(|chain| &chain.targets);
            if targets.any(|target| target.node == node && target.state == "serving") {
                return Err(format!("node {node} still serves"));
            }
            Ok(())
        });
    }

    /// Changes a service's configuration file: `key = value` is set.
    pub fn configure(&self, service: &str, key: &str, value: &str) {
        let path = self.dir().join(service).join("config.toml");
        let text = fs::read_to_string(&path).expect("the configuration is there");
        let line = format!("{key} = ");
        let kept = text.lines().filter(|old| !old.starts_with(&line));
        // At the top: after a [table] header it would belong to that table.
        let lines: Vec<String> = [format!("{key} = {value}")]
            .into_iter()
            .chain(kept.map(str::to_owned))
            .collect();
        fs::write(&path, lines.join("\n") + "\n").expect("the configuration can be written");
    }

    fn show_logs(&self) {
        let logs = fs::read_dir(self.dir().join("logs"))
            .into_iter()
            .flatten()
            .flatten();
        for log in logs {
            let text = tail(&log.path()).unwrap_or_else(|error| error.to_string());
            run::note(&format!("---- {}\n{text}", log.path().display()));
        }
    }
}

fn tail(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(LOG_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.show_logs();
        }
        if self.dir().join("dev.json").exists() {
            let ended = self.dev(&["down"]);
            if ended.code != Some(0) {
                run::note(&format!(
                    "dev down failed: {}{}",
                    ended.stdout, ended.stderr
                ));
            }
        }
    }
}
