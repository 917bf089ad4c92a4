//! Who may depend on whom. A new edge needs a decision record in docs/adr.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
};

use serde::Deserialize;
use tests::{binary, run};

use super::files;

/// Crate by crate what it may use of ours; `types` and `common` are free to all but themselves.
const ALLOWED: [(&str, &[&str]); 14] = [
    ("types", &[]),
    ("common", &[]),
    ("kv", &["common"]),
    ("net", &["types", "common"]),
    ("engine", &["types", "common"]),
    ("client", &["types", "common", "net"]),
    ("storage", &["types", "common", "engine", "client", "net"]),
    ("meta", &["types", "common", "kv", "client", "net"]),
    ("mgmtd", &["types", "common", "net"]),
    ("fuse", &["types", "common", "client"]),
    // The one program: the roles, and what it takes to reach a cluster.
    (
        "cli",
        &[
            "types", "common", "kv", "net", "client", "storage", "meta", "mgmtd", "fuse",
        ],
    ),
    // Whole clusters in one process.
    (
        "sim",
        &[
            "types", "common", "net", "engine", "client", "storage", "mgmtd",
        ],
    ),
    // Real processes, judged by what judges the simulation.
    (
        "campaign",
        &["types", "common", "net", "engine", "client", "sim", "tests"],
    ),
    (
        "tests",
        &[
            "types", "common", "kv", "net", "engine", "client", "storage", "meta", "mgmtd", "fuse",
        ],
    ),
];

/// Outside crates that only one of ours may see, so that they can be replaced.
const CONFINED: [(&str, &[&str]); 4] = [
    ("openraft", &["mgmtd"]),
    ("fuser", &["fuse"]),
    ("io-uring", &["engine"]),
    ("clap", &["cli"]),
];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    kind: Option<String>,
}

fn packages() -> Vec<Package> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args([
            "metadata",
            "--no-deps",
            "--format-version",
            "1",
            "--offline",
        ])
        .current_dir(binary::workspace());
    let text = run::run(&mut cargo).expect_ok("cargo metadata").stdout;
    let metadata: Metadata = serde_json::from_str(&text).expect("cargo metadata is as documented");
    metadata.packages
}

/// `penstock-net` is `net`; the program's package is `penstock`.
fn short(name: &str) -> Option<&str> {
    if name == "penstock" {
        Some("cli")
    } else {
        name.strip_prefix("penstock-")
    }
}

#[test]
fn crates_depend_only_in_the_allowed_directions() {
    let allowed: BTreeMap<&str, &[&str]> = ALLOWED.into_iter().collect();
    let mut offences = Vec::new();
    for package in packages() {
        let name = short(&package.name).expect("our packages are called penstock or penstock-x");
        let Some(may_use) = allowed.get(name) else {
            offences.push(format!("{name} is not in the list of allowed directions"));
            continue;
        };
        // Tests of a crate may use what its users use.
        let ours = package
            .dependencies
            .iter()
            .filter(|used| used.kind.is_none());
        for used in ours.filter_map(|used| short(&used.name)) {
            if !may_use.contains(&used) {
                offences.push(format!("{name} -> {used}"));
            }
        }
    }
    files::expect_none("dependencies in a direction that is not allowed", &offences);
}

#[test]
fn replaceable_libraries_are_seen_by_one_crate() {
    let confined: BTreeMap<&str, BTreeSet<&str>> = CONFINED
        .into_iter()
        .map(|(library, users)| (library, users.iter().copied().collect()))
        .collect();
    let mut offences = Vec::new();
    for package in packages() {
        let name = short(&package.name).expect("our packages are called penstock or penstock-x");
        for used in &package.dependencies {
            let users = confined.get(used.name.as_str());
            if users.is_some_and(|users| !users.contains(name)) {
                offences.push(format!("{name} uses {}", used.name));
            }
        }
    }
    files::expect_none("libraries outside of their crate", &offences);
}
