//! What is mounted, by the kernel's own list. Reading the list never touches the file systems in it,
//! so a mount whose daemon is dead or hangs cannot hold us up.

use std::{
    io,
    path::{Path, PathBuf},
};

/// One line of /proc/self/mountinfo, as far as we need it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct MountEntry {
    /// Where it is mounted.
    pub(crate) point: PathBuf,
    /// The file system's type, for example `fuse.penstock`.
    pub(crate) kind: String,
    /// What the daemon calls itself.
    source: String,
}

impl MountEntry {
    /// Whether a mount of ours made it.
    pub(crate) fn is_penstock(&self) -> bool {
        self.kind.starts_with("fuse")
            && [&self.kind, &self.source]
                .iter()
                .any(|name| name.contains("penstock"))
    }
}

/// The topmost file system mounted at exactly `point`. `point` is compared as text: it must be absolute
/// and without symlinks, as `absolute` returns it.
///
/// # Errors
/// When the kernel's list cannot be read.
pub(crate) fn mounted_at(point: &Path) -> io::Result<Option<MountEntry>> {
    let text = std::fs::read_to_string("/proc/self/mountinfo")?;
    Ok(parse(&text).into_iter().rfind(|entry| entry.point == point))
}

/// `path` made absolute, symlinks resolved in its parent only: the last part may be a dead mount, which
/// refuses to be looked at.
///
/// # Errors
/// When the parent does not exist.
pub(crate) fn absolute(path: &Path) -> io::Result<PathBuf> {
    let path = std::path::absolute(path)?;
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => Ok(parent.canonicalize()?.join(name)),
        _ => Ok(path),
    }
}

fn parse(text: &str) -> Vec<MountEntry> {
    text.lines().filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<MountEntry> {
    // "36 35 98:0 /root /point options - kind source options"; optional fields end at the "-".
    let (before, after) = line.split_once(" - ")?;
    let mut after = after.split(' ');
    Some(MountEntry {
        point: PathBuf::from(unescape(before.split(' ').nth(4)?)),
        kind: after.next()?.to_owned(),
        source: after.next()?.to_owned(),
    })
}

/// The kernel writes space, tab, newline and backslash as three octal digits.
fn unescape(text: &str) -> String {
    [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ]
    .iter()
    .fold(text.to_owned(), |text, (code, plain)| {
        text.replace(code, plain)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_kernel_are_understood() {
        let text = "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
                    40 22 0:33 / /a\\040b rw,nosuid - fuse.penstock penstock rw,user_id=0\n\
                    nonsense\n";
        let entries = parse(text);
        assert_eq!(entries.len(), 2);
        assert_eq!(entries[1].point, Path::new("/a b"));
        assert_eq!(entries[1].kind, "fuse.penstock");
        assert!(entries[1].is_penstock() && !entries[0].is_penstock());
    }

    #[test]
    fn the_root_is_mounted() {
        assert!(mounted_at(Path::new("/")).unwrap().is_some());
        let nowhere = Path::new("/definitely/not/mounted");
        assert!(mounted_at(nowhere).unwrap().is_none());
    }
}
