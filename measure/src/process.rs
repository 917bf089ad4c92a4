//! What the kernel says of processes and of the disk, from /proc, which needs no `unsafe`.

use std::{
    fs::{self, File},
    io,
    path::Path,
    time::Duration,
};

use rustix::fs::{Advice, fadvise, statvfs, syncfs};

use crate::Failure;

/// `USER_HZ`, the unit of times in /proc: the same on every architecture we run on.
const TICKS_PER_SECOND: u64 = 100;

/// Processor time of all threads of a process, in the program and in the kernel: what getrusage says.
///
/// # Errors
/// The process is gone.
pub fn cpu_time(pid: u32) -> Result<Duration, Failure> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in brackets may hold spaces. Behind it, utime and stime are the 12th and 13th field.
    let fields = text.rsplit_once(')').map(|(_, fields)| fields);
    let ticks = fields.and_then(|fields| {
        let mut times = fields.split_whitespace().skip(11).map(str::parse::<u64>);
        Some(times.next()?.ok()? + times.next()?.ok()?)
    });
    let ticks = ticks.ok_or("/proc/PID/stat is not as expected")?;
    Ok(Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND))
}

/// Bytes that a process has sent to disks so far; the file system's own journal is not among them.
///
/// # Errors
/// The process is gone, or another user's.
pub fn written_bytes(pid: u32) -> Result<u64, Failure> {
    field(&format!("/proc/{pid}/io"), "write_bytes:")
}

/// Memory of a process.
///
/// # Errors
/// The process is gone.
pub fn resident_bytes(pid: u32) -> Result<u64, Failure> {
    Ok(field(&format!("/proc/{pid}/status"), "VmRSS:")? << 10)
}

fn field(path: &str, name: &str) -> Result<u64, Failure> {
    let text = fs::read_to_string(path)?;
    let value = text.lines().find_map(|line| line.strip_prefix(name));
    let number = value.and_then(|value| value.split_whitespace().next()?.parse().ok());
    number.ok_or_else(|| format!("{path} has no {name}").into())
}

/// Lets the disk come to rest: what is on its way is written, so that the next measurement does not pay for it.
///
/// # Errors
/// When the system refuses.
pub fn settle(dir: &Path) -> io::Result<()> {
    Ok(syncfs(File::open(dir)?)?)
}

/// Sees to it that what is below `dir` must be read from the disk again, as after a start of the machine.
///
/// # Errors
/// When the system refuses.
pub fn forget_cached(dir: &Path) -> io::Result<()> {
    settle(dir)?;
    forget_below(dir)
}

fn forget_below(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            forget_below(&entry.path())?;
        } else {
            fadvise(File::open(entry.path())?, 0, None, Advice::DontNeed)?;
        }
    }
    Ok(())
}

/// Refuses to begin what would end with a full disk.
///
/// # Errors
/// There is too little space; says how much.
pub fn check_space(dir: &Path, needed: u64) -> Result<(), Failure> {
    let status = statvfs(dir)?;
    let available = status.f_bavail.saturating_mul(status.f_frsize);
    if available >= needed {
        return Ok(());
    }
    Err(format!(
        "{} has {} MiB left, this takes {} MiB; use another --dir or a smaller --size",
        dir.display(),
        available >> 20,
        needed >> 20
    )
    .into())
}
