//! Rules for every Rust file that clippy does not know.

use super::files::{self, TextFile};

/// Where `unsafe` may stand; each block there has a SAFETY comment (clippy checks that).
const UNSAFE_ALLOWED: [&str; 4] = [
    "common/src/buf.rs",
    "common/src/buf/slab.rs",
    "storage/engine/src/device/",
    "client/native/",
];
/// Where openraft may be named: its types must not leak into the manager's logic.
const OPENRAFT_ALLOWED: &str = "mgmtd/src/raft";

fn sources() -> Vec<TextFile> {
    files::with_extensions(&["rs"])
}

/// Lines that hold code: comments and texts may talk about anything.
fn code_lines(source: &TextFile) -> impl Iterator<Item = (usize, &str)> {
    let lines = source.text.lines().enumerate();
    lines.filter(|(_, line)| !line.trim_start().starts_with("//"))
}

fn is_below(source: &TextFile, places: &[&str]) -> bool {
    places.iter().any(|place| source.name().starts_with(place))
}

#[test]
fn every_file_says_what_it_is() {
    let silent = sources()
        .into_iter()
        .filter(|source| !source.text.starts_with("//!"));
    let silent: Vec<String> = silent.map(|source| source.name()).collect();
    files::expect_none("files that do not start with `//!`", &silent);
}

#[test]
fn sources_are_ascii() {
    let mut offences = Vec::new();
    for source in sources() {
        for (number, line) in source.text.lines().enumerate() {
            if !line.is_ascii() {
                offences.push(format!("{}:{}", source.name(), number + 1));
            }
        }
    }
    files::expect_none("lines that are not ASCII", &offences);
}

#[test]
fn nothing_is_exported_by_wildcard() {
    let mut offences = Vec::new();
    for source in sources() {
        for (number, line) in code_lines(&source) {
            let line = line.trim_start();
            if line.starts_with("pub") && line.contains("use ") && line.ends_with("::*;") {
                offences.push(format!("{}:{}", source.name(), number + 1));
            }
        }
    }
    files::expect_none("`pub use x::*`", &offences);
}

#[test]
fn no_work_is_left_in_comments() {
    // In pieces, so that this file does not find itself.
    let marks = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("XX", "X"),
    ];
    let mut offences = Vec::new();
    for source in sources() {
        for (number, line) in source.text.lines().enumerate() {
            // `TODO(#12)` names an issue.
            let marked = marks
                .iter()
                .any(|mark| line.contains(mark) && !line.contains(&format!("{mark}(#")));
            if marked {
                offences.push(format!("{}:{}: {}", source.name(), number + 1, line.trim()));
            }
        }
    }
    files::expect_none("unfinished work without an issue", &offences);
}

#[test]
fn unsafe_code_stays_where_it_is_needed() {
    // In pieces, so that this file does not find itself.
    let mark = concat!("un", "safe");
    let mut offences = Vec::new();
    for source in sources() {
        if is_below(&source, &UNSAFE_ALLOWED) {
            continue;
        }
        for (number, line) in code_lines(&source) {
            let forms = ["{", "fn ", "impl ", "extern "];
            if forms
                .iter()
                .any(|form| line.contains(&format!("{mark} {form}")))
            {
                offences.push(format!("{}:{}", source.name(), number + 1));
            }
        }
    }
    files::expect_none("unsafe code outside of its places", &offences);
}

#[test]
fn openraft_does_not_leak() {
    let mut offences = Vec::new();
    for source in sources() {
        if is_below(&source, &[OPENRAFT_ALLOWED]) {
            continue;
        }
        for (number, line) in code_lines(&source) {
            if line.contains(concat!("open", "raft::")) {
                offences.push(format!("{}:{}", source.name(), number + 1));
            }
        }
    }
    files::expect_none("openraft outside of mgmtd/src/raft", &offences);
}
