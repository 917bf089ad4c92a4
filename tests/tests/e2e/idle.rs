//! A cluster that nobody uses costs next to nothing.

use std::time::Duration;

use tests::{cluster::Cluster, process, run, wait};

const MEMORY_LIMIT: u64 = 400 << 20;
const CPU_PERCENT_LIMIT: f64 = 3.0;
const WINDOW: Duration = Duration::from_secs(10);

#[test]
fn an_idle_cluster_is_cheap() {
    let cluster = Cluster::up(&["--storage", "3", "--replicas", "3"]);
    cluster.wait_all_serving();
    let pids = cluster.pids();
    let used = || {
        pids.iter()
            .map(|pid| process::cpu_time(*pid))
            .sum::<Duration>()
    };
    let (begin, before) = (wait::now(), used());
    wait::pause(WINDOW);
    let elapsed = wait::now().duration_since(begin).as_secs_f64();
    let percent = (used() - before).as_secs_f64() * 100.0 / elapsed;
    let memory: u64 = pids.iter().map(|pid| process::memory_bytes(*pid)).sum();
    run::note(&format!(
        "idle: {} MiB, {percent:.1} % of one core",
        memory >> 20
    ));
    assert!(memory <= MEMORY_LIMIT, "{} MiB of memory", memory >> 20);
    assert!(percent <= CPU_PERCENT_LIMIT, "{percent:.1} % of a core");
}
