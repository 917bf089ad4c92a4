//! Trees of files like the ones people copy: many small files, some large ones, empty ones, symlinks, deep
//! directories. The same seed makes the same tree.

use std::{
    fs, io,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
};

use rand::{Rng as _, RngCore as _, SeedableRng as _, rngs::SmallRng};

use crate::run;

/// How large a tree is.
#[derive(Clone, Copy, Debug)]
pub struct TreeShape {
    /// Files in all.
    pub files: u32,
    /// Bytes in all, about.
    pub bytes: u64,
}

/// Makes a tree at `root`, which must not exist.
///
/// # Errors
/// When the file system refuses something.
pub fn make(root: &Path, seed: u64, shape: TreeShape) -> io::Result<()> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let average = shape.bytes / u64::from(shape.files.max(1));
    fs::create_dir_all(root)?;
    for number in 0..shape.files {
        let depth = number % 4;
        let mut dir = root.join(format!("dir-{:03}", number / 40));
        dir.extend((0..depth).map(|level| format!("level-{level}")));
        fs::create_dir_all(&dir)?;
        let path = dir.join(format!("file-{number:05}.bin"));
        fs::write(&path, content(&mut rng, number, average))?;
        if number % 7 == 0 {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o640))?;
        }
        if number % 10 == 0 {
            symlink(
                format!("file-{number:05}.bin"),
                dir.join(format!("link-{number:05}")),
            )?;
        }
    }
    Ok(())
}

/// Every tenth file is empty, every twentieth ten times as large as the average, some sizes sit on block borders.
fn content(rng: &mut SmallRng, number: u32, average: u64) -> Vec<u8> {
    let length = match number % 20 {
        3 | 13 => 0,
        5 => average * 10,
        7 => 4096,
        8 => 4097,
        _ => rng.random_range(0..=average),
    };
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
    rng.fill_bytes(&mut bytes);
    bytes
}

/// Two trees must be equal: names, kinds, contents, targets of symlinks.
pub fn expect_equal(left: &Path, right: &Path) {
    let paths = [left.as_os_str(), right.as_os_str()];
    run::ok(
        "diff",
        ["-r".as_ref(), "--no-dereference".as_ref()]
            .into_iter()
            .chain(paths),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_makes_one_tree() {
        let dir = tempfile::tempdir().unwrap();
        let shape = TreeShape {
            files: 60,
            bytes: 200_000,
        };
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        make(&a, 5, shape).unwrap();
        make(&b, 5, shape).unwrap();
        expect_equal(&a, &b);
        assert!(a.join("dir-000/link-00000").is_symlink());
    }
}
