//! A copy of a store in a temporary directory, cheap where files never change.
//!
//! fjall writes its tables once, under a number that is not used again, and only ever removes them. So tables are linked
//! to by name: reading them reads the original, removing them removes the link. Everything else is small and is copied.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, symlink},
    path::{Path, PathBuf},
};

/// The directories whose files are written once.
const WRITTEN_ONCE: [&str; 2] = ["tables", "blobs"];

/// A directory that goes when this is dropped.
#[derive(Debug)]
pub(super) struct TemporaryDir(PathBuf);

impl TemporaryDir {
    /// Makes one, for nobody else to look into.
    pub(super) fn new(name: &str) -> io::Result<Self> {
        let path = std::env::temp_dir().join(name);
        fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TemporaryDir {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, path = %self.0.display(), "a temporary directory stays behind");
        }
    }
}

/// Copies the directory of a store.
pub(super) fn copy_store(from: &Path, to: &Path) -> io::Result<()> {
    copy_dir(&fs::canonicalize(from)?, to, false)
}

fn copy_dir(from: &Path, to: &Path, link: bool) -> io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (name, path) = (entry.file_name(), entry.path());
        let target = to.join(&name);
        let kind = entry.file_type()?;
        if kind.is_dir() {
            let written_once = WRITTEN_ONCE.iter().any(|dir| *dir == name);
            copy_dir(&path, &target, written_once)?;
        } else if link {
            symlink(&path, &target)?;
        } else {
            fs::copy(&path, &target)?;
        }
    }
    Ok(())
}

/// Every file below a directory, with its bytes and its times, to see that nothing has changed.
#[cfg(test)]
pub(super) fn fingerprint(dir: &Path) -> Vec<(PathBuf, i64, i64, Vec<u8>)> {
    use std::os::unix::fs::MetadataExt as _;

    let mut files = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs::metadata(&path).unwrap();
            let bytes = if meta.is_dir() {
                dirs.push(path.clone());
                Vec::new()
            } else {
                fs::read(&path).unwrap()
            };
            files.push((path, meta.ctime(), meta.ctime_nsec(), bytes));
        }
    }
    files.sort_unstable();
    files
}
