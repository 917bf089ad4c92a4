//! Wrong usage: exit code 2 and the nearest right name.

use std::fs;

use tests::run;

#[test]
fn an_unknown_flag_is_refused_with_the_nearest() {
    let ended = run::penstock(["dev", "up", "--replica", "3"]);
    ended.expect_error(2, &["--replica", "--replicas"]);
    let ended = run::penstock(["admin", "chian", "list"]);
    ended.expect_error(2, &["chain"]);
}

#[test]
fn an_unknown_configuration_key_is_refused_with_the_nearest() {
    let dir = tempfile::tempdir().expect("a directory can be made");
    let path = dir.path().join("config.toml");
    fs::write(&path, "lisen = \"127.0.0.1:0\"\n").expect("a file can be written");
    for role in ["mgmtd", "meta", "storage"] {
        let path = path.display().to_string();
        let ended = run::penstock([role, "--config", &path]);
        ended.expect_error(2, &["`lisen`", "did you mean `listen`", "config.toml"]);
    }
}

#[test]
fn a_missing_configuration_or_cluster_is_named() {
    let ended = run::penstock(["storage", "--config", "/nowhere/storage.toml"]);
    ended.expect_error(1, &["/nowhere/storage.toml", "--print-config"]);
    let ended = run::penstock(["status", "--cluster", "/nowhere/cluster.toml"]);
    ended.expect_error(1, &["/nowhere/cluster.toml"]);
    let ended = run::penstock(["dev", "status", "--data", "/nowhere"]);
    ended.expect_error(1, &["/nowhere", "dev up"]);
}

#[test]
fn every_role_prints_its_configuration() {
    for role in ["mgmtd", "meta", "storage"] {
        let printed = run::penstock([role, "--print-config"])
            .expect_ok(role)
            .stdout;
        assert!(
            printed.contains("# ") && printed.contains("listen = "),
            "{printed}"
        );
        let dir = tempfile::tempdir().expect("a directory can be made");
        let path = dir.path().join("config.toml");
        fs::write(&path, &printed).expect("a file can be written");
        let path = path.display().to_string();
        let again = run::penstock([role, "--config", &path, "--print-config"]).expect_ok(role);
        assert_eq!(again.stdout, printed, "what is printed reads back");
    }
}

#[test]
fn what_is_not_built_yet_says_so() {
    for (args, part) in [
        (["--transport", "shm"], "not built yet"),
        (["--kv", "fdb"], "not built yet"),
    ] {
        let ended = run::penstock(["dev", "up", "--data", "/nowhere"].iter().chain(&args));
        ended.expect_error(1, &[part, args[0]]);
    }
    let ended = run::penstock(["dev", "up", "--data", "/nowhere", "--meta", "2"]);
    ended.expect_error(2, &["--meta", "embedded"]);
}

#[test]
fn help_teaches_by_example() {
    let help = run::penstock(["--help"]).expect_ok("--help").stdout;
    for part in [
        "penstock dev up",
        "penstock dev kill storage-2",
        "Exit codes",
    ] {
        assert!(help.contains(part), "`{part}` is not in the help");
    }
}
