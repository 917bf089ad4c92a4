//! A tree is copied in while storage nodes die and return.

use std::{
    path::Path,
    process::{Child, Command},
    time::Duration,
};

use tests::{
    cluster::Cluster,
    prober::Prober,
    run,
    tree::{self, TreeShape},
    wait,
};

const SHAPE: TreeShape = TreeShape {
    files: 400,
    bytes: 24 << 20,
};
/// The longest time a user may have to wait for anything.
const STALL_LIMIT: Duration = Duration::from_secs(5);

#[test]
fn a_tree_survives_two_storage_crashes() {
    let cluster = Cluster::up(&["--storage", "3", "--replicas", "3"]);
    let (source, copied) = (cluster.local("tree"), cluster.mount().join("tree"));
    tree::make(&source, 11, SHAPE).expect("a tree can be made");
    let prober = Prober::start(&cluster.mount().join("probe"));

    let copying = start_copy(&source, &copied);
    wait_for(&copied.join("dir-003"));
    cluster.kill("storage-2");
    expect_copied(copying);
    tree::expect_equal(&source, &copied);
    cluster.wait_node_out(2);

    cluster.start("storage-2");
    cluster.wait_all_serving();
    cluster.kill("storage-1");
    tree::expect_equal(&source, &copied);

    let longest = prober.expect_no_error(STALL_LIMIT);
    run::note(&format!("longest stall {:.2} s", longest.as_secs_f64()));
    // From the disks of the other two, not from this machine's memory.
    cluster.remount();
    tree::expect_equal(&source, &copied);
}

fn start_copy(from: &Path, to: &Path) -> Child {
    let copy = Command::new("cp").arg("-a").args([from, to]).spawn();
    copy.expect("cp starts")
}

fn wait_for(path: &Path) {
    wait::until("the copy to get going", Duration::from_secs(60), || {
        if path.exists() {
            Ok(())
        } else {
            Err(format!("{} is not there", path.display()))
        }
    });
}

fn expect_copied(mut copying: Child) {
    let status = copying.wait().expect("cp can be waited for");
    assert!(status.success(), "cp failed: {status}");
}
