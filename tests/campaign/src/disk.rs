//! The disk of a storage node: a file system in an image of its own, small enough to fill.

use std::{
    fs::{self, File, OpenOptions},
    path::{Path, PathBuf},
    process::Command,
};

use rustix::fs::{FallocateFlags, fallocate, statvfs};

use crate::{host::Host, network::run};

/// Bytes of an image; it takes only what is written.
const IMAGE_BYTES: u64 = 1 << 30;
/// A piece that does not fit any more: a block.
const PIECE_MIN: u64 = 4096;

/// A mounted image.
#[derive(Debug)]
pub(crate) struct Disk {
    dir: PathBuf,
}

impl Disk {
    /// Makes and mounts the disk of a host, below `work`.
    ///
    /// # Errors
    /// When there is no loop device, for example.
    pub(crate) fn make(work: &Path, host: Host) -> Result<Self, String> {
        let failed = |what: &str| format!("the disk of {host}: {what}");
        let (image, dir) = (
            work.join(format!("{host}.img")),
            work.join("disks").join(host.to_string()),
        );
        fs::create_dir_all(&dir).map_err(|error| failed(&error.to_string()))?;
        let file = File::create(&image).map_err(|error| failed(&error.to_string()))?;
        file.set_len(IMAGE_BYTES)
            .map_err(|error| failed(&error.to_string()))?;
        drop(file);
        // Nothing is reserved for root: full shall be full for everyone.
        run(Command::new("mkfs.ext4")
            .args(["-q", "-F", "-m", "0"])
            .arg(&image))?;
        run(Command::new("mount")
            .args(["-o", "loop"])
            .args([&image, &dir]))?;
        Ok(Self { dir })
    }

    /// The node's directory.
    pub(crate) fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    fn ballast(&self) -> PathBuf {
        self.dir.join("ballast")
    }

    /// Takes all space that is left; tells how much it was.
    pub(crate) fn fill(&self) -> Result<u64, String> {
        let failed =
            |error: std::io::Error| format!("the ballast in {}: {error}", self.dir.display());
        let ballast = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.ballast())
            .map_err(failed)?;
        let before = self.available()?;
        let (mut length, mut piece) = (0, before);
        // Others write meanwhile, and the file system itself needs blocks: pieces become smaller until none fits. One that
        // does not fit keeps the blocks that it got all the same.
        while piece >= PIECE_MIN {
            match fallocate(&ballast, FallocateFlags::empty(), length, piece) {
                Ok(()) => length += piece,
                Err(rustix::io::Errno::NOSPC) => piece /= 2,
                Err(error) => return Err(failed(error.into())),
            }
        }
        Ok(before.saturating_sub(self.available()?))
    }

    /// Bytes that can be taken.
    fn available(&self) -> Result<u64, String> {
        let space = statvfs(&self.dir);
        let space = space.map_err(|error| format!("{}: {error}", self.dir.display()))?;
        Ok(space.f_bavail * space.f_frsize)
    }

    /// Gives the space back.
    pub(crate) fn free(&self) -> Result<(), String> {
        match fs::remove_file(self.ballast()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(format!("the ballast in {}: {error}", self.dir.display()))
            }
            _ => Ok(()),
        }
    }
}
