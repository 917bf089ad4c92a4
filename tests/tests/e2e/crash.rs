//! Everything dies at once.

use std::{
    fs::{self, File},
    io::Write as _,
};

use tests::{
    cluster::Cluster,
    tree::{self, TreeShape},
};

#[test]
fn what_was_acknowledged_survives_the_death_of_all_processes() {
    let cluster = Cluster::up(&["--storage", "3", "--replicas", "3"]);
    let (source, copied) = (cluster.local("tree"), cluster.mount().join("tree"));
    let shape = TreeShape {
        files: 120,
        bytes: 8 << 20,
    };
    tree::make(&source, 12, shape).expect("a tree can be made");
    tests::run::ok(
        "cp",
        ["-a".as_ref(), source.as_os_str(), copied.as_os_str()],
    );
    // Synced, and left open: nothing but fsync has made it durable.
    let mut synced = File::create(cluster.mount().join("synced")).expect("a file can be made");
    synced.write_all(&[7; 100_000]).expect("it can be written");
    synced.sync_all().expect("it can be synced");

    cluster.kill_all();
    drop(synced);
    cluster.dev_up(&[]).expect_ok("dev up after the crash");

    tree::expect_equal(&source, &copied);
    let found = fs::read(cluster.mount().join("synced")).expect("the synced file is there");
    assert!(found == [7; 100_000], "{} bytes, or others", found.len());
    cluster.wait_all_serving();
}
