//! Servers other than storage die: a pause, never an error.

use std::time::Duration;

use serde::Deserialize;
use tests::{cluster::Cluster, prober::Prober, run, wait};

const STALL_LIMIT: Duration = Duration::from_secs(5);

#[test]
fn a_restarted_metadata_server_is_a_pause() {
    let cluster = Cluster::up(&["--storage", "3", "--replicas", "3", "--meta", "1"]);
    let prober = Prober::start(&cluster.mount().join("probe"));
    cluster.kill("meta-1");
    cluster.start("meta-1");
    write_and_read(&cluster, "after");
    let longest = prober.expect_no_error(STALL_LIMIT);
    run::note(&format!("longest stall {:.2} s", longest.as_secs_f64()));
}

#[test]
fn a_dead_leading_manager_is_a_pause() {
    let cluster = Cluster::up(&["--storage", "3", "--replicas", "3", "--mgmtd", "3"]);
    let prober = Prober::start(&cluster.mount().join("probe"));
    let old = leader(&cluster).expect("a cluster that is up has a leader");
    let name = name_of(&cluster, old);
    cluster.kill(&name);
    let new = wait::until("another leader", Duration::from_secs(10), || {
        match leader(&cluster) {
            Ok(new) if new != old => Ok(new),
            other => Err(format!("{other:?}")),
        }
    });
    run::note(&format!("{name} killed, {} leads", name_of(&cluster, new)));
    // The new leader leads in earnest: it notices a dead storage node and takes it back.
    cluster.kill("storage-3");
    cluster.wait_node_out(3);
    write_and_read(&cluster, "after");
    cluster.start("storage-3");
    cluster.wait_all_serving();
    cluster.start(&name);
    let longest = prober.expect_no_error(STALL_LIMIT);
    run::note(&format!("longest stall {:.2} s", longest.as_secs_f64()));
}

fn write_and_read(cluster: &Cluster, name: &str) {
    let path = cluster.mount().join(name);
    std::fs::write(&path, name).expect("a file can be written");
    assert_eq!(
        std::fs::read_to_string(&path).expect("it can be read"),
        name
    );
}

fn leader(cluster: &Cluster) -> Result<u32, String> {
    #[derive(Deserialize)]
    struct Report {
        leader: Option<u32>,
    }
    let ended = cluster.command(&["status", "--json"]);
    if ended.code != Some(0) {
        return Err(ended.stderr);
    }
    let report: Report = serde_json::from_str(&ended.stdout).map_err(|error| error.to_string())?;
    report.leader.ok_or_else(|| "no leader".to_owned())
}

fn name_of(cluster: &Cluster, node: u32) -> String {
    let found = cluster
        .services()
        .into_iter()
        .find(|service| service.node == Some(node));
    found
        .unwrap_or_else(|| panic!("no service is node {node}"))
        .name
}
