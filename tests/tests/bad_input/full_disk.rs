//! A full disk: the writer is told, readers go on, nothing is lost, removing files gives the space back.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::Path,
    time::Duration,
};

use tests::{cluster::Cluster, wait};

/// Room for chunks on each disk.
const CAPACITY: u64 = 96 << 20;
const PIECE: usize = 1 << 20;

#[test]
fn a_full_disk_is_an_error_for_the_writer_only() {
    let cluster = Cluster::up(&["--storage", "3", "--replicas", "3"]);
    cluster.dev(&["down"]).expect_ok("dev down");
    for node in 1..=3 {
        cluster.configure(
            &format!("storage-{node}"),
            "capacity_bytes",
            &CAPACITY.to_string(),
        );
    }
    cluster.dev_up(&[]).expect_ok("dev up");
    let before = vec![5; 3 * PIECE];
    let kept = cluster.mount().join("kept");
    fs::write(&kept, &before).expect("there is room");

    let filler = cluster.mount().join("filler");
    let (written, error) = fill(&filler);
    assert_eq!(error.kind(), io::ErrorKind::StorageFull, "{error}");
    assert!(written >= PIECE as u64, "only {written} bytes fitted");
    assert!(
        fs::read(&kept).expect("readers go on") == before,
        "the old file has changed"
    );
    cluster.remount();
    assert!(
        fs::read(&kept).expect("readers go on") == before,
        "the old file has changed"
    );
    let filled = fs::read(&filler).expect("what was written can be read");
    let whole = usize::try_from(written).expect("small");
    assert!(
        filled.len() >= whole && filled[..whole].iter().all(|byte| *byte == 9),
        "lost bytes"
    );

    fs::remove_file(&filler).expect("files can be removed from a full disk");
    let again = cluster.mount().join("again");
    wait::until("the space to come back", Duration::from_secs(60), || {
        fs::write(&again, &before).map_err(|error| error.to_string())
    });
    assert!(
        fs::read(&again).expect("it can be read") == before,
        "other bytes"
    );
}

/// Writes until the disk is full; the bytes that were acknowledged, and the error.
fn fill(path: &Path) -> (u64, io::Error) {
    let mut file = File::create(path).expect("a file can be made");
    let piece = vec![9; PIECE];
    let mut written = 0;
    for _ in 0..4 * CAPACITY / PIECE as u64 {
        match file.write_all(&piece) {
            Ok(()) => written += PIECE as u64,
            Err(error) => return (written, error),
        }
    }
    panic!("{written} bytes fitted on a disk of {CAPACITY}");
}
