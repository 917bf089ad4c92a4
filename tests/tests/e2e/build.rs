//! Developers' work on the mount: git and cargo use mmap, rename, locks and time stamps in earnest.

use std::{fs, path::Path, process::Command};

use tests::{cluster::Cluster, run};

#[test]
fn git_clones_and_cargo_builds_on_the_mount() {
    if !run::installed("git") {
        return;
    }
    let cluster = Cluster::up(&["--storage", "3", "--replicas", "3"]);
    let origin = cluster.local("origin");
    make_repository(&origin);
    let clone = cluster.mount().join("clone");
    let paths = [origin.as_os_str(), clone.as_os_str()];
    run::ok(
        "git",
        ["clone".as_ref(), "--no-local".as_ref()]
            .into_iter()
            .chain(paths),
    );
    git(&clone, &["fsck", "--full"]);
    let status = git(&clone, &["status", "--porcelain"]);
    assert_eq!(status, "", "a fresh clone is clean");

    let mut cargo = Command::new("cargo");
    cargo
        .args(["build", "--offline"])
        .env_remove("CARGO_TARGET_DIR")
        .env_remove("RUSTFLAGS")
        .current_dir(&clone);
    run::run(&mut cargo).expect_ok("cargo build on the mount");
    let built = run::run(&mut Command::new(clone.join("target/debug/tiny")));
    assert_eq!(built.expect_ok("the built program").stdout, "42\n");
    // Cargo compares time stamps: nothing changed, so nothing may be built again.
    let again = run::run(&mut cargo).expect_ok("cargo build again");
    assert!(
        !again.stderr.contains("Compiling"),
        "built again: {}",
        again.stderr
    );
}

fn make_repository(dir: &Path) {
    fs::create_dir_all(dir.join("src")).expect("a directory can be made");
    let manifest =
        "[package]\nname = \"tiny\"\nversion = \"0.1.0\"\nedition = \"2021\"\n[workspace]\n";
    for (name, text) in [
        ("Cargo.toml", manifest),
        (".gitignore", "/target\n"),
        ("src/lib.rs", "pub fn answer() -> u32 { 42 }\n"),
        (
            "src/main.rs",
            "fn main() { println!(\"{}\", tiny::answer()); }\n",
        ),
    ] {
        fs::write(dir.join(name), text).expect("a file can be written");
    }
    git(dir, &["init", "--quiet"]);
    for number in 0..20 {
        let text = format!("note {number}\n").repeat(200);
        fs::write(dir.join(format!("note-{number}.txt")), text).expect("a file can be written");
        git(dir, &["add", "--all"]);
        git(
            dir,
            &["commit", "--quiet", "--message", &format!("note {number}")],
        );
    }
    // Cargo writes it on the first build; in the repository it keeps the clone clean.
    run::run(
        Command::new("cargo")
            .args(["generate-lockfile", "--offline"])
            .current_dir(dir),
    )
    .expect_ok("cargo generate-lockfile");
    git(dir, &["add", "--all"]);
    git(dir, &["commit", "--quiet", "--message", "lock file"]);
}

fn git(dir: &Path, args: &[&str]) -> String {
    let mut git = Command::new("git");
    git.args(["-c", "user.name=test", "-c", "user.email=test@example.org"])
        .args(["-c", "safe.directory=*", "-c", "core.fsync=all"])
        .args(args)
        .current_dir(dir);
    run::run(&mut git).expect_ok("git").stdout
}
