//! The files of a disk on a local file system: naming, making, growing, and a bounded table of open ones.
//!
//! `groups/<class>/<number>.dat`, for example `groups/1m/00000003.dat`, and `log/<number>.log`. Files are opened
//! with O_DIRECT; where the file system has none (some network and memory file systems) they are opened plainly,
//! with a warning: `sync` is what makes data durable in both cases.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io,
    ops::Deref,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use common::sync::Mutex;
use rustix::{
    fs::{FallocateFlags, fallocate},
    io::Errno,
};

use super::FileId;
use crate::group::{GroupId, SizeClass};

const GROUP_EXTENSION: &str = ".dat";
const LOG_EXTENSION: &str = ".log";

/// Files kept open at most. The usual limit of a process is 1024 and more.
const OPEN_FILES_MAX: usize = 400;

#[derive(Debug)]
pub(crate) struct Files {
    groups: PathBuf,
    log: PathBuf,
    direct: bool,
    /// Nothing may change.
    read_only: bool,
    open: Mutex<OpenFiles>,
}

/// A file that stays open while it is in the table or somebody uses it.
#[derive(Debug)]
pub(crate) struct OpenFile {
    file: File,
    number: u64,
}

static NEXT_NUMBER: AtomicU64 = AtomicU64::new(1);

impl OpenFile {
    pub(crate) fn new(file: File) -> Self {
        Self {
            file,
            number: NEXT_NUMBER.fetch_add(1, Ordering::Relaxed),
        }
    }

    /// Names this opening of the file; never used for another, unlike the descriptor.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }
}

impl Deref for OpenFile {
    type Target = File;

    fn deref(&self) -> &File {
        &self.file
    }
}

#[derive(Debug, Default)]
struct OpenFiles {
    by_id: BTreeMap<FileId, (Arc<OpenFile>, u64)>,
    /// Rises with each use: the file with the smallest number was used longest ago.
    clock: u64,
}

impl Files {
    pub(crate) fn open(dir: &Path) -> io::Result<Self> {
        let (groups, log) = (dir.join("groups"), dir.join("log"));
        for dir in [&groups, &log] {
            fs::create_dir_all(dir)?;
        }
        File::open(dir)?.sync_all()?;
        let direct = supports_direct(&groups)?;
        if !direct {
            tracing::warn!(
                dir = %dir.display(),
                "the file system has no O_DIRECT; data passes through the page cache"
            );
        }
        Ok(Self {
            groups,
            log,
            direct,
            read_only: false,
            open: Mutex::default(),
        })
    }

    /// The files of a disk that is there, for reading only: nothing in `dir` changes.
    pub(crate) fn open_to_read(dir: &Path) -> io::Result<Self> {
        let mut files = Self {
            groups: dir.join("groups"),
            log: dir.join("log"),
            direct: true,
            read_only: true,
            open: Mutex::default(),
        };
        // Whether the file system has O_DIRECT shows at the first file: a probe would be a change.
        if let Some((first, _)) = files.list()?.first() {
            match files.get(*first) {
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => files.direct = false,
                opened => drop(opened?),
            }
        }
        Ok(files)
    }

    fn check_writable(&self) -> io::Result<()> {
        if self.read_only {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        Ok(())
    }

    fn class_dir(&self, class: SizeClass) -> PathBuf {
        self.groups.join(class.to_string())
    }

    fn dir_of(&self, id: FileId) -> PathBuf {
        match id {
            FileId::Group(group) => self.class_dir(group.class),
            FileId::Log(_) => self.log.clone(),
        }
    }

    fn path(&self, id: FileId) -> PathBuf {
        let (number, extension) = match id {
            FileId::Group(group) => (group.number, GROUP_EXTENSION),
            FileId::Log(number) => (number, LOG_EXTENSION),
        };
        self.dir_of(id).join(file_name(number, extension))
    }

    pub(crate) fn list(&self) -> io::Result<Vec<(FileId, u64)>> {
        let mut files = Vec::new();
        for class in SizeClass::all() {
            let group = |number| FileId::Group(GroupId { class, number });
            list_dir(&self.class_dir(class), GROUP_EXTENSION, group, &mut files)?;
        }
        list_dir(&self.log, LOG_EXTENSION, FileId::Log, &mut files)?;
        files.sort_unstable();
        Ok(files)
    }

    pub(crate) fn create(&self, id: FileId) -> io::Result<()> {
        self.check_writable()?;
        let dir = self.dir_of(id);
        if !dir.exists() {
            fs::create_dir_all(&dir)?;
            File::open(&self.groups)?.sync_all()?;
        }
        let file = self.options().create_new(true).open(self.path(id))?;
        file.sync_all()?;
        File::open(&dir)?.sync_all()?;
        self.remember(id, Arc::new(OpenFile::new(file)));
        Ok(())
    }

    pub(crate) fn reserve(&self, id: FileId, bytes: u64) -> io::Result<()> {
        self.check_writable()?;
        let file = self.get(id)?;
        let length = file.metadata()?.len();
        if length >= bytes {
            return Ok(());
        }
        match fallocate(&file.file, FallocateFlags::empty(), length, bytes - length) {
            // Without fallocate a full disk shows at the write instead.
            Err(Errno::OPNOTSUPP) => file.set_len(bytes),
            result => Ok(result?),
        }
    }

    pub(crate) fn remove(&self, id: FileId) -> io::Result<()> {
        self.check_writable()?;
        self.open.lock().by_id.remove(&id);
        fs::remove_file(self.path(id))
    }

    pub(crate) fn available_bytes(&self) -> io::Result<u64> {
        let status = match rustix::fs::statvfs(&self.groups) {
            // A directory that is only read may lack it.
            Err(Errno::NOENT) if self.read_only => return Ok(0),
            status => status?,
        };
        Ok(status.f_bavail.saturating_mul(status.f_frsize))
    }

    /// The open file of a group; opens it, which may block, when it is not in the table.
    pub(crate) fn get(&self, id: FileId) -> io::Result<Arc<OpenFile>> {
        if let Some(file) = self.get_open(id) {
            return Ok(file);
        }
        let file = Arc::new(OpenFile::new(self.options().open(self.path(id))?));
        self.remember(id, file.clone());
        Ok(file)
    }

    /// The open file of a group, if it is in the table.
    pub(crate) fn get_open(&self, id: FileId) -> Option<Arc<OpenFile>> {
        let mut open = self.open.lock();
        open.clock += 1;
        let now = open.clock;
        let (file, last_use) = open.by_id.get_mut(&id)?;
        *last_use = now;
        Some(file.clone())
    }

    fn remember(&self, id: FileId, file: Arc<OpenFile>) {
        let mut open = self.open.lock();
        if open.by_id.len() >= OPEN_FILES_MAX {
            let oldest = open.by_id.iter().min_by_key(|(_, (_, last_use))| *last_use);
            if let Some((&oldest, _)) = oldest {
                open.by_id.remove(&oldest);
            }
        }
        open.clock += 1;
        let now = open.clock;
        open.by_id.insert(id, (file, now));
    }

    fn options(&self) -> OpenOptions {
        let mut options = OpenOptions::new();
        options.read(true).write(!self.read_only);
        if self.direct {
            options.custom_flags(libc::O_DIRECT);
        }
        options
    }
}

/// Adds the files of a directory whose names are numbers; others are left alone.
fn list_dir(
    dir: &Path,
    extension: &str,
    id: impl Fn(u32) -> FileId,
    files: &mut Vec<(FileId, u64)>,
) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        match file_number(&entry.file_name().to_string_lossy(), extension) {
            Some(number) => files.push((id(number), entry.metadata()?.len())),
            None => {
                tracing::warn!(path = %entry.path().display(), "not a file of this disk; left alone");
            }
        }
    }
    Ok(())
}

fn file_name(number: u32, extension: &str) -> String {
    format!("{number:08}{extension}")
}

/// The number of a file of this name; only of the very name that it is given, so that no two files have one number.
fn file_number(name: &str, extension: &str) -> Option<u32> {
    let number = name.strip_suffix(extension)?.parse().ok()?;
    // The last number is never given out: the next file gets one above all others.
    (number < u32::MAX && file_name(number, extension) == name).then_some(number)
}

fn supports_direct(dir: &Path) -> io::Result<bool> {
    let path = dir.join("probe");
    let opened = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .custom_flags(libc::O_DIRECT)
        .open(&path);
    let supported = match opened {
        Ok(_) => true,
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => false,
        Err(error) => return Err(error),
    };
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(supported),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(number: u32) -> FileId {
        let class = SizeClass::from_index(0).unwrap();
        FileId::Group(GroupId { class, number })
    }

    #[test]
    fn open_files_are_bounded_and_reopened() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::open(dir.path()).unwrap();
        for number in 0..450 {
            files.create(group(number)).unwrap();
        }
        assert_eq!(files.open.lock().by_id.len(), OPEN_FILES_MAX);
        assert!(files.get_open(group(0)).is_none());
        assert!(files.get(group(0)).is_ok());
        assert!(files.get_open(group(0)).is_some());
        assert_eq!(files.list().unwrap().len(), 450);
    }

    #[test]
    fn what_is_opened_to_read_does_not_change() {
        let dir = tempfile::tempdir().unwrap();
        let nothing = Files::open_to_read(dir.path()).unwrap();
        assert_eq!(nothing.list().unwrap(), []);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        let files = Files::open(dir.path()).unwrap();
        files.create(group(3)).unwrap();
        files.reserve(group(3), 65_536).unwrap();
        let read_only = Files::open_to_read(dir.path()).unwrap();
        assert_eq!(read_only.list().unwrap(), [(group(3), 65_536)]);
        assert!(read_only.create(group(4)).is_err());
        assert!(read_only.reserve(group(3), 131_072).is_err());
        assert!(read_only.remove(group(3)).is_err());
        let file = read_only.get(group(3)).unwrap();
        let wrote = std::os::unix::fs::FileExt::write_at(&**file, &[0; 4096], 0);
        assert!(wrote.is_err());
        assert_eq!(files.list().unwrap(), [(group(3), 65_536)]);
    }

    #[test]
    fn foreign_files_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::open(dir.path()).unwrap();
        files.create(group(3)).unwrap();
        files.create(FileId::Log(7)).unwrap();
        fs::write(dir.path().join("groups/64k/notes.txt"), "x").unwrap();
        fs::write(dir.path().join("groups/64k/3.dat"), "x").unwrap();
        fs::write(dir.path().join("groups/64k/000000003.dat"), "x").unwrap();
        fs::write(dir.path().join("groups/64k/4294967295.dat"), "x").unwrap();
        fs::write(dir.path().join("log/4294967295.log"), "x").unwrap();
        fs::write(dir.path().join("log/00000003.dat"), "x").unwrap();
        assert_eq!(files.list().unwrap(), [(group(3), 0), (FileId::Log(7), 0)]);
    }
}
