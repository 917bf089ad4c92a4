//! Rules for what people read.

use std::{collections::BTreeMap, path::Path};

use tests::binary;

use super::files::{self, TextFile};

/// Longer than this, nobody reads it in one sitting.
const ARCHITECTURE_LINES_MAX: usize = 400;

fn documents() -> Vec<TextFile> {
    files::with_extensions(&["md"])
}

#[test]
fn links_lead_somewhere() {
    let mut dead = Vec::new();
    for document in documents() {
        let dir = document.path.parent().unwrap_or(Path::new(""));
        for target in links(&document.text) {
            let file = target.split('#').next().unwrap_or_default();
            let outside = target.contains("://") || target.starts_with("mailto:");
            if !outside && !file.is_empty() && !binary::workspace().join(dir).join(file).exists() {
                dead.push(format!("{} -> {target}", document.name()));
            }
        }
    }
    files::expect_none("dead links", &dead);
}

/// Targets of `[text](target)`, outside of code.
fn links(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut in_code = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        let mut rest = if in_code { "" } else { line };
        while let Some((_, after)) = rest.split_once("](") {
            let Some((target, after)) = after.split_once(')') else {
                break;
            };
            found.push(target.to_owned());
            rest = after;
        }
    }
    found
}

#[test]
fn decisions_have_numbers_of_their_own_and_a_status() {
    let mut numbers: BTreeMap<String, String> = BTreeMap::new();
    let mut offences = Vec::new();
    let decisions = documents()
        .into_iter()
        .filter(|d| d.path.starts_with("docs/adr"));
    for decision in decisions {
        let name = decision
            .path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if name == "README.md" {
            continue;
        }
        let number: String = name.chars().take_while(char::is_ascii_digit).collect();
        if number.len() != 4 {
            offences.push(format!("{name} does not start with four digits"));
        }
        if let Some(other) = numbers.insert(number, name.clone()) {
            offences.push(format!("{name} has the number of {other}"));
        }
        if !decision
            .text
            .lines()
            .any(|line| line.starts_with("Status:"))
        {
            offences.push(format!("{name} has no line `Status:`"));
        }
    }
    files::expect_none("decision records", &offences);
}

#[test]
fn the_architecture_is_short_enough_to_read() {
    let documents = documents();
    let architecture = documents
        .iter()
        .find(|d| d.path == Path::new("ARCHITECTURE.md"));
    let lines = architecture
        .expect("ARCHITECTURE.md is there")
        .text
        .lines()
        .count();
    assert!(
        lines <= ARCHITECTURE_LINES_MAX,
        "ARCHITECTURE.md has {lines} lines"
    );
}

/// What stands in backquotes in ARCHITECTURE.md must be found by a search.
#[test]
fn the_architecture_names_what_exists() {
    let documents = documents();
    let architecture = documents
        .iter()
        .find(|d| d.path == Path::new("ARCHITECTURE.md"));
    let text = &architecture.expect("ARCHITECTURE.md is there").text;
    let sources = files::with_extensions(&["rs"]);
    let mut missing = Vec::new();
    for (position, part) in text.split('`').enumerate() {
        if position % 2 == 1 && !is_found(part, &sources) {
            missing.push(part.to_owned());
        }
    }
    files::expect_none("ARCHITECTURE.md names what is not there", &missing);
}

fn is_found(name: &str, sources: &[TextFile]) -> bool {
    if name.contains(|c: char| c.is_whitespace() || "*{<-".contains(c)) && !name.ends_with(".md") {
        return true;
    }
    if name.ends_with(".rs") || name.ends_with('/') || name.ends_with(".md") {
        let end = format!("/{name}");
        return binary::workspace().join(name).exists()
            || sources.iter().any(|source| source.name().ends_with(&end));
    }
    // A symbol: each of its words, as a word.
    let words = |text: &str, word: &str| {
        text.split(|c: char| !c.is_alphanumeric() && c != '_')
            .any(|found| found == word)
    };
    let mut parts = name
        .split("::")
        .flat_map(|part| part.split('/'))
        .filter(|part| !part.is_empty());
    parts.all(|part| sources.iter().any(|source| words(&source.text, part)))
}
