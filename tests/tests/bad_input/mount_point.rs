//! Places one cannot mount at.

use std::fs;

use tests::{cluster::Cluster, run};

#[test]
fn a_bad_mount_point_is_named() {
    let cluster = Cluster::up(&["--storage", "1", "--replicas", "1"]);
    let missing = cluster.local("missing").display().to_string();
    cluster
        .command(&["mount", &missing])
        .expect_error(1, &[&missing, "does not exist"]);

    let file = cluster.local("file");
    fs::create_dir_all(cluster.local("")).expect("a directory can be made");
    fs::write(&file, "x").expect("a file can be written");
    let file = file.display().to_string();
    cluster
        .command(&["mount", &file])
        .expect_error(1, &[&file, "not a directory"]);

    let busy = cluster.mount().display().to_string();
    cluster
        .command(&["mount", &busy])
        .expect_error(1, &[&busy, "busy"]);

    let free = cluster.local("free");
    fs::create_dir_all(&free).expect("a directory can be made");
    let free = free.display().to_string();
    let ended = cluster.command(&["mount", &free, "-o", "alow_other"]);
    ended.expect_error(2, &["alow_other", "allow_other"]);

    // None of it has disturbed the mount that is there.
    fs::write(cluster.mount().join("after"), "after").expect("a file can be written");
    run::penstock(["umount", "/"]).expect_error(1, &["not of Penstock"]);
}
