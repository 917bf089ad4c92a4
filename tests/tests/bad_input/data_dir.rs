//! Data directories that are not for this process.

use std::{fs, path::Path, process::Command, time::Duration};

use tests::{
    binary,
    run::{self, Ended},
    wait,
};

fn config(dir: &Path, role: &str) -> String {
    let path = dir.join(format!("{role}.toml"));
    let text = format!(
        "node_id = 1\nlisten = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\ndata = \"{}\"\n",
        dir.join("data").display()
    );
    let manager = if role == "mgmtd" {
        ""
    } else {
        "mgmtd = [\"127.0.0.1:1\"]\n"
    };
    fs::write(&path, text + manager).expect("a file can be written");
    path.display().to_string()
}

/// A role that must refuse to start; the limit keeps a role that starts anyway from holding the test up.
fn refused(role: &str, config: &str) -> Ended {
    run::run(
        Command::new("timeout")
            .arg("20")
            .arg(binary::path())
            .args([role, "--config", config]),
    )
}

#[test]
fn a_data_directory_of_another_version_is_refused() {
    for role in ["mgmtd", "meta", "storage"] {
        let dir = tempfile::tempdir_in(binary::scratch()).expect("a directory can be made");
        fs::create_dir(dir.path().join("data")).expect("a directory can be made");
        fs::write(
            dir.path().join("data/VERSION"),
            format!("penstock {role} 999\n"),
        )
        .expect("a file can be written");
        let ended = refused(role, &config(dir.path(), role));
        ended.expect_error(1, &[&format!("`penstock {role} 999`"), "use the release"]);
    }
}

#[test]
fn a_foreign_directory_is_left_alone() {
    let dir = tempfile::tempdir_in(binary::scratch()).expect("a directory can be made");
    fs::create_dir(dir.path().join("data")).expect("a directory can be made");
    fs::write(dir.path().join("data/thesis.tex"), "x").expect("a file can be written");
    let ended = refused("storage", &config(dir.path(), "storage"));
    ended.expect_error(1, &["not a data directory of Penstock"]);
    let data = dir.path().join("data").display().to_string();
    run::penstock(["dev", "up", "--data", &data]).expect_error(1, &["holds no cluster", "--data"]);
}

#[test]
fn a_data_directory_in_use_is_refused() {
    let dir = tempfile::tempdir_in(binary::scratch()).expect("a directory can be made");
    let config = config(dir.path(), "mgmtd");
    let mut first = Command::new(binary::path())
        .args(["mgmtd", "--config", &config])
        .stderr(fs::File::create(dir.path().join("log")).expect("a file can be made"))
        .spawn()
        .expect("the manager starts");
    wait::until(
        "the manager to take its directory",
        Duration::from_secs(20),
        || {
            let owner =
                fs::read_to_string(dir.path().join("data/LOCK")).map_err(|e| e.to_string())?;
            if owner.trim() == first.id().to_string() {
                Ok(())
            } else {
                Err(owner)
            }
        },
    );
    let ended = refused("mgmtd", &config);
    first.kill().expect("our own child can be killed");
    first.wait().expect("it ends");
    ended.expect_error(1, &[&format!("in use by process {}", first.id())]);
}
