//! A data directory that belongs to one role, one format version and one process at a time.
//!
//! `VERSION` holds `penstock <role> <format version>`; `LOCK` is held with flock(2), which the kernel
//! frees even after kill -9, and holds the owner's process id for the error message.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};

/// An open data directory; the lock is held until it is dropped.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    created: bool,
    _lock: File,
}

/// Why a data directory was refused.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// Another process has it.
    #[error(
        "the data directory {} is in use by process {owner}; stop that process first or name another directory",
        path.display()
    )]
    InUse {
        /// The directory.
        path: PathBuf,
        /// The process that holds it, as it wrote itself down.
        owner: String,
    },
    /// Another release or role wrote it.
    #[error(
        "the data directory {} holds `{found}`, this program reads `{expected}`; \
         use the release and role that made it, or name another directory",
        path.display()
    )]
    Version {
        /// The directory.
        path: PathBuf,
        /// What stands in its VERSION file.
        found: String,
        /// What should stand there.
        expected: String,
    },
    /// It has files but no VERSION: not ours.
    #[error(
        "the directory {} is not empty and has no VERSION file, so it is not a data directory of Penstock; name another one",
        path.display()
    )]
    Foreign {
        /// The directory.
        path: PathBuf,
    },
    /// There is none.
    #[error(
        "{} is no data directory of Penstock: it has no VERSION file; name the directory that has one",
        path.display()
    )]
    Missing {
        /// What was named.
        path: PathBuf,
    },
    /// The system refused something.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl DataDir {
    /// Opens `path` for `role`, making it when it is missing or empty.
    ///
    /// # Errors
    /// See `DataDirError`.
    pub fn open(path: &Path, role: &str, format_version: u32) -> Result<Self, DataDirError> {
        let fail = |action, path: &Path| {
            let path = path.to_owned();
            move |source| DataDirError::Io {
                action,
                path,
                source,
            }
        };
        fs::create_dir_all(path).map_err(fail("create the directory", path))?;
        let version_path = path.join("VERSION");
        let lock_path = path.join("LOCK");
        let lock = take_lock(path, &lock_path)?;
        let created = match fs::read_to_string(&version_path) {
            Ok(found) => {
                check_version(path, &found, role, format_version)?;
                false
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let mut entries = fs::read_dir(path).map_err(fail("list", path))?;
                // VERSION.new is what a crash in the middle of `write_durably` leaves.
                let ours = ["LOCK", "VERSION.new"].map(std::ffi::OsStr::new);
                if entries.any(|entry| entry.is_ok_and(|e| !ours.contains(&&*e.file_name()))) {
                    return Err(DataDirError::Foreign {
                        path: path.to_owned(),
                    });
                }
                write_durably(path, &version_path, &version_text(role, format_version))
                    .map_err(fail("write", &version_path))?;
                true
            }
            Err(error) => return Err(fail("read", &version_path)(error)),
        };
        Ok(Self {
            path: path.to_owned(),
            created,
            _lock: lock,
        })
    }

    /// Opens a directory that is there, to look at it: nothing in it changes. While it is held nobody else opens it.
    ///
    /// # Errors
    /// See `DataDirError`.
    pub fn open_existing(
        path: &Path,
        role: &str,
        format_version: u32,
    ) -> Result<Self, DataDirError> {
        let version_path = path.join("VERSION");
        let io = |action, path: &Path| {
            let path = path.to_owned();
            move |source| DataDirError::Io {
                action,
                path,
                source,
            }
        };
        let found = match fs::read_to_string(&version_path) {
            Ok(found) => found,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                let path = path.to_owned();
                return Err(DataDirError::Missing { path });
            }
            Err(error) => return Err(io("read", &version_path)(error)),
        };
        check_version(path, &found, role, format_version)?;
        let lock_path = path.join("LOCK");
        let lock = match File::open(&lock_path) {
            Ok(lock) => lock,
            // A copy of a directory may lack it. Then nobody has it open, and the directory stands in for it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                File::open(path).map_err(io("open", path))?
            }
            Err(error) => return Err(io("open", &lock_path)(error)),
        };
        let lock = hold(path, &lock_path, lock)?;
        Ok(Self {
            path: path.to_owned(),
            created: false,
            _lock: lock,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether this call made it.
    pub fn is_new(&self) -> bool {
        self.created
    }
}

fn version_text(role: &str, format_version: u32) -> String {
    format!("penstock {role} {format_version}")
}

fn check_version(
    path: &Path,
    found: &str,
    role: &str,
    format_version: u32,
) -> Result<(), DataDirError> {
    let expected = version_text(role, format_version);
    if found.trim() == expected {
        return Ok(());
    }
    Err(DataDirError::Version {
        path: path.to_owned(),
        found: found.trim().chars().take(80).collect(),
        expected,
    })
}

fn take_lock(path: &Path, lock_path: &Path) -> Result<File, DataDirError> {
    let io = |action| {
        let path = lock_path.to_owned();
        move |source| DataDirError::Io {
            action,
            path,
            source,
        }
    };
    let lock = OpenOptions::new()
        .create(true)
        .read(true)
        .write(true)
        .truncate(false)
        .open(lock_path)
        .map_err(io("open"))?;
    let mut lock = hold(path, lock_path, lock)?;
    lock.set_len(0).map_err(io("write"))?;
    lock.write_all(format!("{}\n", std::process::id()).as_bytes())
        .map_err(io("write"))?;
    Ok(lock)
}

/// Takes the lock of an open file, which says who has it otherwise.
fn hold(path: &Path, lock_path: &Path, lock: File) -> Result<File, DataDirError> {
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(lock),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut owner = String::new();
            let read = lock.take(32).read_to_string(&mut owner);
            if read.is_err() || owner.is_empty() {
                "unknown".clone_into(&mut owner);
            }
            Err(DataDirError::InUse {
                path: path.to_owned(),
                owner: owner.trim().to_owned(),
            })
        }
        Err(errno) => Err(DataDirError::Io {
            action: "lock",
            path: lock_path.to_owned(),
            source: errno.into(),
        }),
    }
}

/// Writes a small file so that a crash leaves the old state or the new one.
fn write_durably(dir: &Path, path: &Path, text: &str) -> io::Result<()> {
    let temporary = path.with_extension("new");
    let mut file = File::create(&temporary)?;
    file.write_all(text.as_bytes())?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_one_role_one_version() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        let first = DataDir::open(&path, "storage", 1).unwrap();
        assert!(first.is_new());
        let again = DataDir::open(&path, "storage", 1).unwrap_err().to_string();
        assert!(
            again.contains(&format!("in use by process {}", std::process::id())),
            "{again}"
        );
        drop(first);
        assert!(!DataDir::open(&path, "storage", 1).unwrap().is_new());
        let newer = DataDir::open(&path, "storage", 2).unwrap_err().to_string();
        assert!(newer.contains("`penstock storage 1`") && newer.contains("`penstock storage 2`"));
    }

    #[test]
    fn a_directory_that_is_looked_at_stays_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        let look = |path: &Path| DataDir::open_existing(path, "disk", 1);
        assert!(matches!(
            look(&path).unwrap_err(),
            DataDirError::Missing { .. }
        ));
        assert!(!path.exists());
        let owner = DataDir::open(&path, "disk", 1).unwrap();
        let refused = look(&path).unwrap_err().to_string();
        let process = format!("in use by process {}", std::process::id());
        assert!(refused.contains(&process), "{refused}");
        drop(owner);
        fs::write(path.join("LOCK"), "4711\n").unwrap();
        let held = look(&path).unwrap();
        let refused = DataDir::open(&path, "disk", 1).unwrap_err();
        assert!(matches!(refused, DataDirError::InUse { .. }));
        drop(held);
        assert_eq!(fs::read_to_string(path.join("LOCK")).unwrap(), "4711\n");
        let newer = DataDir::open_existing(&path, "disk", 2).unwrap_err();
        assert!(matches!(newer, DataDirError::Version { .. }));
        fs::remove_file(path.join("LOCK")).unwrap();
        assert!(look(&path).is_ok());
        assert!(!path.join("LOCK").exists());
    }

    #[test]
    fn a_directory_with_other_files_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("thesis.tex"), "x").unwrap();
        let error = DataDir::open(dir.path(), "meta", 1).unwrap_err();
        assert!(matches!(error, DataDirError::Foreign { .. }));
    }
}
