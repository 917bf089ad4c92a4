//! The directory to mount at: whether it can be used, and what the kernel says is mounted there.
//!
//! The kernel's list is read instead of the directory where possible: a mount whose daemon is dead or hangs would
//! hold us up.

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::mount::MountError;

/// How mounts of this program call themselves in the kernel's list.
pub(crate) const NAME: &str = "penstock";

/// One line of /proc/self/mountinfo, as far as it is needed.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    /// `major:minor`.
    device: String,
    point: PathBuf,
    kind: String,
    source: String,
}

/// Checks that one can mount at `point`; returns its real path.
pub(crate) fn check(point: &Path) -> Result<PathBuf, MountError> {
    let absolute = std::path::absolute(point).unwrap_or_else(|_| point.to_owned());
    // A mount that is there is found before the directory is touched.
    busy(&absolute)?;
    let real = match std::fs::canonicalize(&absolute) {
        Ok(real) => real,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(MountError::Missing {
                point: point.to_owned(),
            });
        }
        Err(source) => {
            return Err(MountError::Unusable {
                point: point.to_owned(),
                source,
            });
        }
    };
    if !real.is_dir() {
        return Err(MountError::NotDirectory {
            point: point.to_owned(),
        });
    }
    busy(&real)?;
    Ok(real)
}

fn busy(point: &Path) -> Result<(), MountError> {
    match at(point) {
        None => Ok(()),
        Some(entry) => Err(MountError::Busy {
            point: point.to_owned(),
            source_name: format!("{} ({})", entry.source, entry.kind),
        }),
    }
}

/// `major:minor` of what is mounted at `point`.
pub(crate) fn device_at(point: &Path) -> Option<String> {
    at(point).map(|entry| entry.device)
}

/// What is mounted at exactly this path, topmost.
fn at(point: &Path) -> Option<Entry> {
    // Without the list nothing can be said; mounting itself will.
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    text.lines()
        .filter_map(parse)
        .rfind(|entry| entry.point == point)
}

/// "36 35 98:0 /root /point options - kind source options"; optional fields end at the "-".
fn parse(line: &str) -> Option<Entry> {
    let (before, after) = line.split_once(" - ")?;
    let mut before = before.split(' ').skip(2);
    let device = before.next()?.to_owned();
    let point = PathBuf::from(unescape(before.nth(1)?));
    let mut after = after.split(' ');
    Some(Entry {
        device,
        point,
        kind: after.next()?.to_owned(),
        source: unescape(after.next()?),
    })
}

/// The kernel writes space, tab, newline and backslash as a backslash and three octal digits.
fn unescape(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let code = part
            .get(..3)
            .and_then(|code| u8::from_str_radix(code, 8).ok());
        match code {
            Some(code) => {
                plain.push(char::from(code));
                plain.push_str(&part[3..]);
            }
            None => {
                plain.push('\\');
                plain.push_str(part);
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_kernel_are_understood() {
        let line =
            r"40 22 0:33 / /a\040b\134c rw,nosuid shared:5 - fuse.penstock penstock rw,user_id=0";
        let entry = parse(line).unwrap();
        assert_eq!(entry.device, "0:33");
        assert_eq!(entry.point, Path::new(r"/a b\c"));
        assert_eq!(
            (entry.kind.as_str(), entry.source.as_str()),
            ("fuse.penstock", "penstock")
        );
        assert_eq!(parse("nonsense"), None);
        assert_eq!(unescape(r"\x"), r"\x");
    }

    #[test]
    fn a_directory_that_is_there_and_free_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap();
        assert_eq!(check(dir.path()).unwrap(), real);
    }

    #[test]
    fn a_missing_directory_a_file_and_a_mount_are_refused_in_words() {
        let dir = tempfile::tempdir().unwrap();
        let missing = check(&dir.path().join("no")).unwrap_err().to_string();
        assert!(missing.contains("does not exist"), "{missing}");
        let path = dir.path().join("file");
        std::fs::write(&path, "").unwrap();
        let file = check(&path).unwrap_err().to_string();
        assert!(file.contains("is not a directory"), "{file}");
        let mounted = check(Path::new("/proc")).unwrap_err().to_string();
        assert!(
            mounted.contains("is busy: already a mount of proc"),
            "{mounted}"
        );
    }
}
