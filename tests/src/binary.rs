//! The `penstock` program under test: `PENSTOCK_BIN`, or the one of this build directory, built now if need be.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use common::sync::Mutex;

static BUILT: Mutex<Option<PathBuf>> = Mutex::new(None);

/// The program's file.
pub fn path() -> PathBuf {
    let mut built = BUILT.lock();
    built.get_or_insert_with(find).clone()
}

fn find() -> PathBuf {
    if let Some(path) = std::env::var_os("PENSTOCK_BIN") {
        let path = PathBuf::from(path);
        assert!(
            path.exists(),
            "PENSTOCK_BIN names {}, which is not there",
            path.display()
        );
        return std::path::absolute(path).expect("the working directory is there");
    }
    // Cargo does not build another package's program for a test, so a stale one might be tested.
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        .args(["build", "--quiet", "--release", "--package", "penstock"])
        .current_dir(workspace())
        .status()
        .expect("cargo starts");
    assert!(built.success(), "the penstock program does not build");
    let path = build_dir().join("penstock");
    assert!(
        path.exists(),
        "{} was built but is not there",
        path.display()
    );
    path
}

/// The directory programs are built into: this test lies in its `deps`.
fn build_dir() -> PathBuf {
    let test = std::env::current_exe().expect("a process knows its file");
    let dir = test.parent().and_then(Path::parent);
    dir.expect("tests lie in target/release/deps").to_owned()
}

/// A directory on a real disk for the data of tests.
pub fn scratch() -> PathBuf {
    let dir = std::env::var_os("PENSTOCK_TEST_DIR")
        .map_or_else(|| build_dir().join("e2e"), PathBuf::from);
    std::fs::create_dir_all(&dir).expect("the scratch directory can be made");
    dir
}

/// The top of the repository.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("this package lies in the workspace")
}
