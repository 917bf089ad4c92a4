//! Syncs fjall's journal without fjall's lock on it.
//!
//! `Database::persist` holds that lock during fdatasync, and with it every commit; on a disk that also
//! takes file data this is most of the time. So we open the newest journal ourselves: fdatasync of any
//! descriptor brings all of the file's data onto stable storage and reports its write errors.
//!
//! Why the newest is enough (fjall 3.1.13, `journal/writer.rs`, `rotate`): a new journal appears only after
//! its predecessor was synced, both under the lock. Whoever bumps fjall must look there again.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use common::sync::Mutex;

const SUFFIX: &str = ".jnl";

pub(super) struct Journal {
    dir: PathBuf,
    newest: Mutex<Option<Newest>>,
}

struct Newest {
    number: u64,
    file: File,
}

impl Journal {
    pub(super) fn new(engine_dir: &Path) -> Self {
        Self {
            dir: engine_dir.to_owned(),
            newest: Mutex::new(None),
        }
    }

    /// Everything written before the call is on stable storage afterwards.
    pub(super) fn sync(&self) -> io::Result<()> {
        let number = self.newest_number()?;
        let mut newest = self.newest.lock();
        let file = match newest.take() {
            Some(known) if known.number == number => known.file,
            _ => File::open(self.dir.join(format!("{number}{SUFFIX}")))?,
        };
        file.sync_data()?;
        *newest = Some(Newest { number, file });
        Ok(())
    }

    fn newest_number(&self) -> io::Result<u64> {
        let mut newest = None;
        for entry in fs::read_dir(&self.dir)? {
            let name = entry?.file_name();
            let number = name.to_str().and_then(|name| name.strip_suffix(SUFFIX));
            newest = newest.max(number.and_then(|number| number.parse().ok()));
        }
        newest.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "there is no journal"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        embedded::{
            config::EmbeddedConfig,
            engine::{Durability, Engine},
        },
        group::Changes,
        transaction::CommitVersion,
    };

    /// Fails when another release of fjall names or places its journals differently.
    #[test]
    fn the_newest_journal_holds_what_was_written_last() {
        let dir = tempfile::tempdir().unwrap();
        for round in 0_u8..3 {
            let engine = Engine::open(dir.path(), &EmbeddedConfig::default()).unwrap();
            let value = [b'a' + round; 64];
            let changes = Changes::from([("key".into(), Some(value.to_vec().into()))]);
            let version = CommitVersion(round.into());
            engine
                .write(changes, version, Durability::OperatingSystem)
                .unwrap();
            engine.sync().unwrap();
            let journal = Journal::new(dir.path());
            let number = journal.newest_number().unwrap();
            let content = fs::read(dir.path().join(format!("{number}{SUFFIX}"))).unwrap();
            assert!(content.windows(value.len()).any(|bytes| bytes == value));
        }
    }

    #[test]
    fn without_a_journal_nothing_can_be_synced() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Journal::new(dir.path()).sync().is_err());
    }
}
