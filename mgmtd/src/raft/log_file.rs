//! An append-only file of checked records, for the log of the manager group.
//!
//! ```text
//! file    = "PNSTRAFT" u32 format version (1), little-endian, then records
//! record  = u32 length | u32 crc32c(body) | u32 crc32c(the 8 bytes before) | body (`length` bytes)
//! ```
//!
//! One append is one record and one fsync, so only the last record can be torn by a crash. At open a
//! broken record with a valid one behind it is damage and refuses the file; a broken one at the end was
//! never acknowledged and is cut off. Replacing the whole file goes through a rename.
//! After the first failed write or fsync nothing is written any more: what is on disk is unknown then.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

const MAGIC: [u8; 8] = *b"PNSTRAFT";
const FORMAT_VERSION: u32 = 1;
const FILE_HEADER: usize = 12;
const RECORD_HEADER: usize = 12;
/// Longer records are not written; a longer length is damage.
const RECORD_BYTES_MAX: usize = 256 << 20;

/// An open file. Used by one owner at a time, from blocking threads.
#[derive(Debug)]
pub(crate) struct LogFile {
    path: PathBuf,
    file: File,
    failed: bool,
}

/// Whether a record must be on the disk when `append` returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sync {
    Now,
    /// With the next one that must.
    Later,
}

impl LogFile {
    /// Opens or makes the file; returns the bodies of its records.
    pub(crate) fn open(path: &Path) -> io::Result<(Self, Vec<Vec<u8>>)> {
        let mut bytes = Vec::new();
        match File::open(path) {
            Ok(mut file) => drop(file.read_to_end(&mut bytes)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        if bytes.is_empty() {
            replace(path, &[])?;
            bytes.extend(file_header());
        }
        let (bodies, end) = read_records(path, &bytes)?;
        let mut file = OpenOptions::new().read(true).write(true).open(path)?;
        if end < bytes.len() {
            tracing::warn!(
                path = %path.display(),
                bytes = bytes.len() - end,
                "cut off a record that a crash left unfinished"
            );
            file.set_len(end as u64)?;
            file.sync_all()?;
        }
        file.seek(SeekFrom::Start(end as u64))?;
        let this = Self {
            path: path.to_owned(),
            file,
            failed: false,
        };
        Ok((this, bodies))
    }

    /// Adds a record.
    pub(crate) fn append(&mut self, body: &[u8], sync: Sync) -> io::Result<()> {
        self.guarded(|this| {
            this.file.write_all(&frame(body)?)?;
            match sync {
                Sync::Now => this.file.sync_data(),
                Sync::Later => Ok(()),
            }
        })
    }

    /// Replaces all records at once: a crash leaves the old ones or the new ones.
    pub(crate) fn rewrite(&mut self, bodies: &[Vec<u8>]) -> io::Result<()> {
        self.guarded(|this| {
            replace(&this.path, bodies)?;
            this.file = OpenOptions::new().read(true).write(true).open(&this.path)?;
            this.file.seek(SeekFrom::End(0))?;
            Ok(())
        })
    }

    fn guarded(&mut self, work: impl FnOnce(&mut Self) -> io::Result<()>) -> io::Result<()> {
        if self.failed {
            let text = "an earlier write failed; restart the manager to read the log anew";
            return Err(io::Error::other(text));
        }
        let done = work(self).map_err(|error| {
            io::Error::new(
                error.kind(),
                format!("write {}: {error}", self.path.display()),
            )
        });
        self.failed = done.is_err();
        done
    }
}

fn file_header() -> [u8; FILE_HEADER] {
    let mut header = [0; FILE_HEADER];
    header[..8].copy_from_slice(&MAGIC);
    header[8..].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    header
}

fn frame(body: &[u8]) -> io::Result<Vec<u8>> {
    let length = u32::try_from(body.len())
        .ok()
        .filter(|_| body.len() <= RECORD_BYTES_MAX)
        .ok_or_else(|| io::Error::other(format!("a record of {} bytes is too long", body.len())))?;
    let mut bytes = Vec::with_capacity(RECORD_HEADER + body.len());
    bytes.extend(length.to_le_bytes());
    bytes.extend(crc32c::crc32c(body).to_le_bytes());
    bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
    bytes.extend(body);
    Ok(bytes)
}

/// Writes the file under another name and renames it.
fn replace(path: &Path, bodies: &[Vec<u8>]) -> io::Result<()> {
    let temporary = path.with_extension("new");
    let mut bytes = file_header().to_vec();
    for body in bodies {
        bytes.extend(frame(body)?);
    }
    let mut file = File::create(&temporary)?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    sync_dir_of(path)
}

/// Makes a rename in the directory of `path` durable.
pub(crate) fn sync_dir_of(path: &Path) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    File::open(dir)?.sync_all()
}

/// The bodies, and where the last whole record ends.
fn read_records(path: &Path, bytes: &[u8]) -> io::Result<(Vec<Vec<u8>>, usize)> {
    let damage = |what: String| {
        let text = format!("{}: {what}", path.display());
        io::Error::new(io::ErrorKind::InvalidData, text)
    };
    if bytes.get(..FILE_HEADER) != Some(&file_header()) {
        return Err(damage("not a manager's log of this release".to_owned()));
    }
    let mut bodies = Vec::new();
    let mut at = FILE_HEADER;
    while at < bytes.len() {
        let Some(body) = record_at(bytes, at) else {
            let later = (at + 1..bytes.len()).find(|later| record_at(bytes, *later).is_some());
            return match later {
                Some(later) => Err(damage(format!(
                    "the record at byte {at} is damaged, and another follows at byte {later}; \
                     restore the file, or empty this member's data directory so that the others fill it anew"
                ))),
                None => Ok((bodies, at)),
            };
        };
        bodies.push(body.to_vec());
        at += RECORD_HEADER + body.len();
    }
    Ok((bodies, at))
}

/// The body of the record that starts at `at`, when a whole and sound one does.
fn record_at(bytes: &[u8], at: usize) -> Option<&[u8]> {
    let header = bytes.get(at..)?.first_chunk::<RECORD_HEADER>()?;
    let word = |index: usize| {
        let mut word = [0; 4];
        word.copy_from_slice(&header[index * 4..index * 4 + 4]);
        u32::from_le_bytes(word)
    };
    if crc32c::crc32c(&header[..8]) != word(2) {
        return None;
    }
    let length = usize::try_from(word(0))
        .ok()
        .filter(|length| *length <= RECORD_BYTES_MAX)?;
    let start = at + RECORD_HEADER;
    let body = bytes.get(start..start.checked_add(length)?)?;
    (crc32c::crc32c(body) == word(1)).then_some(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bodies(count: u8) -> Vec<Vec<u8>> {
        (1..=count).map(|n| vec![n; usize::from(n) * 7]).collect()
    }

    fn written(dir: &Path) -> PathBuf {
        let path = dir.join("raft.log");
        let (mut file, old) = LogFile::open(&path).unwrap();
        assert!(old.is_empty());
        for body in bodies(4) {
            file.append(&body, Sync::Now).unwrap();
        }
        path
    }

    #[test]
    fn what_was_appended_or_rewritten_reads_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = written(dir.path());
        let (mut file, read) = LogFile::open(&path).unwrap();
        assert_eq!(read, bodies(4));
        file.rewrite(&bodies(2)).unwrap();
        file.append(b"more", Sync::Later).unwrap();
        drop(file);
        let (_, read) = LogFile::open(&path).unwrap();
        assert_eq!(read, [bodies(2), vec![b"more".to_vec()]].concat());
    }

    #[test]
    fn a_record_cut_anywhere_is_dropped_and_the_ones_before_stay() {
        let dir = tempfile::tempdir().unwrap();
        let path = written(dir.path());
        let whole = fs::read(&path).unwrap();
        let last = whole.len() - (RECORD_HEADER + 28);
        for cut in last..whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            let (mut file, read) = LogFile::open(&path).unwrap();
            assert_eq!(read, bodies(3), "cut at {cut}");
            file.append(b"next", Sync::Now).unwrap();
            let (_, read) = LogFile::open(&path).unwrap();
            assert_eq!(read.last().unwrap(), b"next");
        }
    }

    #[test]
    fn an_empty_file_is_a_new_log() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("raft.log");
        fs::write(&path, b"").unwrap();
        let (mut file, _) = LogFile::open(&path).unwrap();
        file.append(b"first", Sync::Now).unwrap();
        assert_eq!(LogFile::open(&path).unwrap().1, [b"first"]);
    }

    #[test]
    fn a_tail_of_zeros_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = written(dir.path());
        let mut bytes = fs::read(&path).unwrap();
        bytes.extend([0; 5000]);
        fs::write(&path, &bytes).unwrap();
        let (_, read) = LogFile::open(&path).unwrap();
        assert_eq!(read, bodies(4));
    }

    #[test]
    fn damage_before_the_last_record_refuses_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = written(dir.path());
        let whole = fs::read(&path).unwrap();
        let last = whole.len() - (RECORD_HEADER + 28);
        for at in 0..last {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x40;
            fs::write(&path, &bytes).unwrap();
            let error = LogFile::open(&path).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "byte {at}");
        }
    }
}
