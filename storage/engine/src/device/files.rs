//! Group files on a local file system: naming, making, growing, and a bounded table of open ones.
//!
//! `<dir>/<class>/<number>.dat`, for example `1m/00000003.dat`. Files are opened with O_DIRECT; where the file
//! system has none (some network and memory file systems) they are opened plainly, with a warning: `sync` is
//! what makes data durable in both cases.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use common::sync::Mutex;
use rustix::{
    fs::{FallocateFlags, fallocate},
    io::Errno,
};

use crate::group::{GroupId, SizeClass};

/// Files kept open at most. The usual limit of a process is 1024 and more.
const OPEN_FILES_MAX: usize = 400;

#[derive(Debug)]
pub(crate) struct Files {
    dir: PathBuf,
    direct: bool,
    open: Mutex<OpenFiles>,
}

#[derive(Debug, Default)]
struct OpenFiles {
    by_group: BTreeMap<GroupId, (Arc<File>, u64)>,
    /// Rises with each use: the file with the smallest number was used longest ago.
    clock: u64,
}

impl Files {
    pub(crate) fn open(dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let direct = supports_direct(dir)?;
        if !direct {
            tracing::warn!(
                dir = %dir.display(),
                "the file system has no O_DIRECT; data passes through the page cache"
            );
        }
        Ok(Self {
            dir: dir.to_owned(),
            direct,
            open: Mutex::default(),
        })
    }

    fn class_dir(&self, class: SizeClass) -> PathBuf {
        self.dir.join(class.to_string())
    }

    fn path(&self, group: GroupId) -> PathBuf {
        self.class_dir(group.class)
            .join(format!("{:08}.dat", group.number))
    }

    pub(crate) fn list(&self) -> io::Result<Vec<(GroupId, u64)>> {
        let mut groups = Vec::new();
        for class in SizeClass::all() {
            let entries = match fs::read_dir(self.class_dir(class)) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            for entry in entries {
                let entry = entry?;
                let Some(number) = group_number(&entry.file_name().to_string_lossy()) else {
                    tracing::warn!(path = %entry.path().display(), "not a group file; left alone");
                    continue;
                };
                groups.push((GroupId { class, number }, entry.metadata()?.len()));
            }
        }
        groups.sort_unstable();
        Ok(groups)
    }

    pub(crate) fn create(&self, group: GroupId) -> io::Result<()> {
        let class_dir = self.class_dir(group.class);
        if !class_dir.exists() {
            fs::create_dir_all(&class_dir)?;
            File::open(&self.dir)?.sync_all()?;
        }
        let file = self.options().create_new(true).open(self.path(group))?;
        file.sync_all()?;
        File::open(&class_dir)?.sync_all()?;
        self.remember(group, Arc::new(file));
        Ok(())
    }

    pub(crate) fn reserve(&self, group: GroupId, bytes: u64) -> io::Result<()> {
        let file = self.get(group)?;
        let length = file.metadata()?.len();
        if length >= bytes {
            return Ok(());
        }
        match fallocate(&*file, FallocateFlags::empty(), length, bytes - length) {
            // Without fallocate a full disk shows at the write instead.
            Err(Errno::OPNOTSUPP) => file.set_len(bytes),
            result => Ok(result?),
        }
    }

    pub(crate) fn remove(&self, group: GroupId) -> io::Result<()> {
        self.open.lock().by_group.remove(&group);
        fs::remove_file(self.path(group))
    }

    pub(crate) fn available_bytes(&self) -> io::Result<u64> {
        let status = rustix::fs::statvfs(&self.dir)?;
        Ok(status.f_bavail.saturating_mul(status.f_frsize))
    }

    /// The open file of a group; opens it, which may block, when it is not in the table.
    pub(crate) fn get(&self, group: GroupId) -> io::Result<Arc<File>> {
        if let Some(file) = self.get_open(group) {
            return Ok(file);
        }
        let file = Arc::new(self.options().open(self.path(group))?);
        self.remember(group, file.clone());
        Ok(file)
    }

    /// The open file of a group, if it is in the table.
    pub(crate) fn get_open(&self, group: GroupId) -> Option<Arc<File>> {
        let mut open = self.open.lock();
        open.clock += 1;
        let now = open.clock;
        let (file, last_use) = open.by_group.get_mut(&group)?;
        *last_use = now;
        Some(file.clone())
    }

    fn remember(&self, group: GroupId, file: Arc<File>) {
        let mut open = self.open.lock();
        if open.by_group.len() >= OPEN_FILES_MAX {
            let oldest = open
                .by_group
                .iter()
                .min_by_key(|(_, (_, last_use))| *last_use);
            if let Some((&oldest, _)) = oldest {
                open.by_group.remove(&oldest);
            }
        }
        open.clock += 1;
        let now = open.clock;
        open.by_group.insert(group, (file, now));
    }

    fn options(&self) -> OpenOptions {
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        if self.direct {
            options.custom_flags(libc::O_DIRECT);
        }
        options
    }
}

fn group_number(file_name: &str) -> Option<u32> {
    let digits = file_name.strip_suffix(".dat")?;
    let well_formed = digits.len() >= 8 && digits.bytes().all(|byte| byte.is_ascii_digit());
    well_formed.then(|| digits.parse().ok())?
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

    fn group(number: u32) -> GroupId {
        let class = SizeClass::from_index(0).unwrap();
        GroupId { class, number }
    }

    #[test]
    fn open_files_are_bounded_and_reopened() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::open(dir.path()).unwrap();
        for number in 0..450 {
            files.create(group(number)).unwrap();
        }
        assert_eq!(files.open.lock().by_group.len(), OPEN_FILES_MAX);
        assert!(files.get_open(group(0)).is_none());
        assert!(files.get(group(0)).is_ok());
        assert!(files.get_open(group(0)).is_some());
        assert_eq!(files.list().unwrap().len(), 450);
    }

    #[test]
    fn foreign_files_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::open(dir.path()).unwrap();
        files.create(group(3)).unwrap();
        fs::write(dir.path().join("64k/notes.txt"), "x").unwrap();
        fs::write(dir.path().join("64k/3.dat"), "x").unwrap();
        assert_eq!(files.list().unwrap(), [(group(3), 0)]);
    }
}
