//! Benchmarks say what they measured and leave nothing behind, however they end.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde_json::Value;
use tests::{binary, process, run, wait};

const START_LIMIT: Duration = Duration::from_secs(60);
const END_LIMIT: Duration = Duration::from_secs(30);
/// A manager and three storage nodes.
const SERVERS: usize = 4;

/// Processes that were started for a benchmark in `dir`, without the benchmark itself.
fn servers(dir: &Path) -> Vec<u32> {
    let wanted = dir.join("run-").display().to_string();
    let pids = fs::read_dir("/proc").expect("/proc is there").flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(&wanted) && process::is_alive(*pid)
    })
    .collect()
}

fn start(dir: &Path) -> Child {
    let bench = Command::new(binary::path())
        .args(["bench", "chain", "--size", "64", "--rounds", "100", "--dir"])
        .arg(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let bench = bench.expect("the benchmark starts");
    wait::until("the benchmark's servers", START_LIMIT, || {
        let count = servers(dir).len();
        let all = count == SERVERS;
        all.then_some(()).ok_or(format!("{count} run"))
    });
    bench
}

fn wait_until_none(dir: &Path) {
    wait::until("the end of the benchmark's servers", END_LIMIT, || {
        let left = servers(dir);
        left.is_empty().then_some(()).ok_or(format!("{left:?} run"))
    });
}

#[test]
fn a_chain_is_measured_beside_fio_and_nothing_stays() {
    if !run::installed("fio") {
        return;
    }
    let outer = tempfile::tempdir_in(binary::scratch()).expect("a directory can be made");
    let dir = outer.path().join("bench");
    let name = dir.display().to_string();
    let short = ["--size", "64", "--rounds", "1", "--seconds", "1"];
    let args = ["bench", "chain", "--json", "--dir", &name];
    let ended = run::penstock(args.into_iter().chain(short)).expect_ok("bench chain");
    let report: Value = serde_json::from_str(&ended.stdout).expect("only JSON on standard output");
    for load in ["read_1m", "read_4k", "write_1m", "overwrite_4k"] {
        for part in ["", "_cpu", "_p50", "_p99"] {
            let figure = &report["figures"][format!("{load}{part}")];
            for side in ["penstock", "raw", "ratio"] {
                let value = figure[side].as_f64();
                assert!(
                    value.is_some_and(|value| value > 0.0),
                    "{load}{part} {side}: {report}"
                );
            }
        }
    }
    // Three replicas: not less than three times what was acknowledged.
    let written = report["figures"]["overwrite_4k_written"]["penstock"].as_f64();
    assert!(
        written.is_some_and(|bytes| bytes >= 3.0 * 4096.0),
        "{report}"
    );
    assert!(!dir.exists());
    wait_until_none(&dir);
}

#[test]
fn an_interrupted_benchmark_leaves_no_process_and_no_data() {
    let outer = tempfile::tempdir_in(binary::scratch()).expect("a directory can be made");
    let dir = outer.path().join("bench");
    let mut bench = start(&dir);
    run::ok("kill", ["-INT", &bench.id().to_string()]);
    let status = bench.wait().expect("it was started here");
    assert_eq!(status.code(), Some(1));
    assert!(!dir.exists());
    wait_until_none(&dir);
}

#[test]
fn a_killed_benchmark_leaves_no_process() {
    let outer = tempfile::tempdir_in(binary::scratch()).expect("a directory can be made");
    let dir = outer.path().join("bench");
    let mut bench = start(&dir);
    bench.kill().expect("it runs");
    bench.wait().expect("it was started here");
    wait_until_none(&dir);
}
