//! One `dev` command at a time on one cluster: two that start the same service would both fail in
//! confusing ways. flock(2), so that the kernel frees it when the command dies.

use std::fs::{File, OpenOptions};

use anyhow::{Context as _, bail};
use rustix::fs::{FlockOperation, flock};

use super::paths::Paths;

/// The lock; held until dropped.
#[derive(Debug)]
pub(crate) struct DevLock(#[expect(dead_code, reason = "held, never read")] File);

/// Takes the lock, or says who is in the way.
pub(crate) fn take(paths: &Paths) -> anyhow::Result<DevLock> {
    let path = paths.lock();
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(DevLock(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => bail!(
            "another `penstock dev` command is working on {}; wait until it has ended",
            paths.root().display()
        ),
        Err(errno) => Err(std::io::Error::from(errno))
            .with_context(|| format!("cannot lock {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_command_is_refused_until_the_first_ends() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::open(dir.path()).unwrap();
        let first = take(&paths).unwrap();
        let refused = take(&paths).unwrap_err().to_string();
        assert!(refused.contains("another `penstock dev`"), "{refused}");
        drop(first);
        take(&paths).unwrap();
    }
}
