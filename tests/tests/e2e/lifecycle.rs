//! `dev up`, again, down, and what is left.

use std::{fs, net::TcpListener, time::Duration};

use tests::{binary, cluster::Cluster, process, run, wait};

/// What a stranger's first minute may contain of waiting.
const UP_LIMIT: Duration = Duration::from_secs(10);

#[test]
fn a_cluster_is_up_within_ten_seconds_and_again_after_down() {
    let cluster = Cluster::prepare();
    // The first command may have to build the program; that is not what is timed.
    binary::path();
    let begin = wait::now();
    cluster
        .dev_up(&["--storage", "3", "--replicas", "3"])
        .expect_ok("dev up");
    let took = wait::now().duration_since(begin);
    run::note(&format!("dev up took {:.1} s", took.as_secs_f64()));
    assert!(took <= UP_LIMIT, "dev up took {took:?}");
    let services = cluster.services();
    assert!(
        services.iter().all(|service| service.state == "running"),
        "{services:?}"
    );
    let chains = cluster.chains();
    assert!(!chains.is_empty() && chains.iter().all(|chain| chain.targets.len() == 3));

    fs::write(cluster.mount().join("kept"), "kept").expect("a file can be written");
    let again = cluster.dev_up(&[]).expect_ok("dev up again");
    assert!(again.stdout.contains("already up"), "{}", again.stdout);
    cluster.dev(&["down"]).expect_ok("dev down");
    let begin = wait::now();
    cluster.dev_up(&[]).expect_ok("dev up after down");
    let took = wait::now().duration_since(begin);
    assert!(took <= UP_LIMIT, "the second dev up took {took:?}");
    let kept = fs::read_to_string(cluster.mount().join("kept"));
    assert_eq!(kept.expect("the file is there"), "kept");
    let health = cluster.command(&["status"]).expect_ok("status");
    assert!(health.stdout.starts_with("healthy"), "{}", health.stdout);
}

#[test]
fn down_leaves_nothing_behind() {
    let shared_before = shared_memory();
    let cluster = Cluster::up(&["--storage", "3", "--replicas", "3"]);
    let (pids, services) = (cluster.pids(), cluster.services());
    assert_eq!(pids.len(), 6, "3 storage, 1 meta, 1 mgmtd, the mount");
    fs::write(cluster.mount().join("file"), "x").expect("a file can be written");
    cluster.dev(&["down"]).expect_ok("dev down");

    let left: Vec<u32> = pids
        .into_iter()
        .filter(|pid| process::is_alive(*pid))
        .collect();
    assert!(left.is_empty(), "processes {left:?} are left");
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("/proc is there");
    assert!(
        !mounts.contains(&cluster.dir().display().to_string()),
        "{mounts}"
    );
    assert_eq!(shared_memory(), shared_before, "shared memory is left");
    for service in services.iter().filter(|service| service.kind != "mount") {
        TcpListener::bind(&service.address).expect("the port is free again");
    }
}

#[test]
fn a_killed_mount_is_cleared_away_and_mounted_again() {
    let cluster = Cluster::up(&["--storage", "1", "--replicas", "1"]);
    fs::write(cluster.mount().join("kept"), "kept").expect("a file can be written");
    cluster.kill("mount");
    assert!(
        fs::metadata(cluster.mount().join("kept")).is_err(),
        "nobody serves it"
    );
    cluster.dev_up(&[]).expect_ok("dev up");
    let kept = fs::read_to_string(cluster.mount().join("kept"));
    assert_eq!(kept.expect("the file is there"), "kept");
}

#[test]
fn a_foreground_less_mount_returns_when_the_file_system_answers() {
    let cluster = Cluster::up(&["--storage", "1", "--replicas", "1"]);
    fs::write(cluster.mount().join("seen"), "seen").expect("a file can be written");
    let second = cluster.local("second");
    fs::create_dir_all(&second).expect("a directory can be made");
    let second = second.display().to_string();
    cluster.command(&["mount", &second]).expect_ok("mount");
    let seen = fs::read_to_string(format!("{second}/seen"));
    let ended = run::penstock(["umount", &second]);
    assert_eq!(seen.expect("the other mount's file is there"), "seen");
    ended.expect_ok("umount");
    run::penstock(["umount", &second]).expect_error(1, &["is not a mount point"]);
}

fn shared_memory() -> Vec<String> {
    let entries = fs::read_dir("/dev/shm").into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.contains("penstock"))
        .collect();
    names.sort();
    names
}
