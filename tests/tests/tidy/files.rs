//! The files of the repository, as the other rules look at them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use tests::binary;

/// A text file of ours.
pub(super) struct TextFile {
    /// Relative to the top of the repository.
    pub(super) path: PathBuf,
    pub(super) text: String,
}

impl TextFile {
    /// The path with `/`, for messages and lists.
    pub(super) fn name(&self) -> String {
        self.path.display().to_string()
    }
}

/// Every file whose name ends with one of `extensions`, ordered by path.
pub(super) fn with_extensions(extensions: &[&str]) -> Vec<TextFile> {
    let top = binary::workspace();
    let mut found = Vec::new();
    collect(top, extensions, &mut found);
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(!found.is_empty(), "the repository has files");
    found
}

fn collect(dir: &Path, extensions: &[&str], found: &mut Vec<TextFile>) {
    for entry in fs::read_dir(dir).expect("our directories can be listed") {
        let entry = entry.expect("our directories can be listed");
        let (path, name) = (entry.path(), entry.file_name());
        let kind = entry.file_type().expect("our files have types");
        let hidden = name.to_string_lossy().starts_with('.') && name != ".ci";
        if kind.is_dir() && !hidden && name != "target" && !path.join("dev.json").exists() {
            collect(&path, extensions, found);
        } else if kind.is_file()
            && path
                .extension()
                .is_some_and(|e| extensions.contains(&e.to_string_lossy().as_ref()))
        {
            let text = fs::read_to_string(&path);
            found.push(TextFile {
                text: text.unwrap_or_else(|error| panic!("{}: {error}", path.display())),
                path: path
                    .strip_prefix(binary::workspace())
                    .expect("below the top")
                    .to_owned(),
            });
        }
    }
}

/// Fails with all offences at once.
pub(super) fn expect_none(rule: &str, offences: &[String]) {
    assert!(offences.is_empty(), "{rule}:\n  {}", offences.join("\n  "));
}
