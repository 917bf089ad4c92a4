//! A user who never stops: makes, writes, syncs, reads, renames, lists and removes small files, and notes each error
//! and the longest time one round took. What it finds is what a kill of a server costs a user.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use common::env::Env;

use crate::wait;

/// Between two rounds, so that the prober does not become the load.
const REST: Duration = Duration::from_millis(20);

/// What a prober has seen.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Rounds done.
    pub rounds: u64,
    /// The longest one.
    pub longest: Duration,
    /// Every error.
    pub errors: Vec<String>,
}

/// A running prober.
#[derive(Debug)]
pub struct Prober {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Seen>,
}

impl Prober {
    /// Starts to probe `dir`, which is made.
    pub fn start(dir: &Path) -> Self {
        fs::create_dir_all(dir).expect("the prober's directory can be made");
        let stop = Arc::new(AtomicBool::new(false));
        let (told, dir) = (stop.clone(), dir.to_owned());
        let thread = Env::real().spawn_thread("prober", move || probe(&dir, &told));
        Self {
            stop,
            thread: thread.expect("the system has room for a thread"),
        }
    }

    /// Ends it and tells what it has seen.
    pub fn stop(self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the prober does not panic")
    }

    /// Ends it. There must be no error, and no round longer than `limit`; returns the longest.
    pub fn expect_no_error(self, limit: Duration) -> Duration {
        let seen = self.stop();
        assert!(
            seen.errors.is_empty(),
            "the user saw errors: {:?}",
            seen.errors
        );
        assert!(seen.rounds > 0, "the prober did nothing");
        assert!(
            seen.longest <= limit,
            "the longest stall was {:?}, at most {limit:?} is allowed",
            seen.longest
        );
        seen.longest
    }
}

fn probe(dir: &Path, stop: &AtomicBool) -> Seen {
    let mut seen = Seen::default();
    while !stop.load(Ordering::Relaxed) {
        let begin = wait::now();
        if let Err(error) = round(dir, seen.rounds) {
            seen.errors.push(format!("round {}: {error}", seen.rounds));
        }
        seen.longest = seen.longest.max(wait::now().duration_since(begin));
        seen.rounds += 1;
        wait::pause(REST);
    }
    seen
}

fn round(dir: &Path, number: u64) -> io::Result<()> {
    let (first, second): (PathBuf, PathBuf) = (dir.join("first"), dir.join("second"));
    let content = vec![u8::try_from(number % 251).unwrap_or_default(); 10_000];
    let mut file = File::create(&first)?;
    file.write_all(&content)?;
    file.sync_all()?;
    drop(file);
    fs::rename(&first, &second)?;
    let found = fs::read(&second)?;
    if found != content {
        return Err(io::Error::other("read something else than was written"));
    }
    let names = fs::read_dir(dir)?.count();
    if names != 1 {
        return Err(io::Error::other(format!(
            "the directory lists {names} names, not 1"
        )));
    }
    fs::remove_file(&second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sound_file_system_gives_no_error() {
        let dir = tempfile::tempdir().unwrap();
        let prober = Prober::start(&dir.path().join("probe"));
        wait::until("a file", Duration::from_secs(5), || {
            let seen = fs::read_dir(dir.path().join("probe")).map_err(|error| error.to_string())?;
            if seen.count() > 0 {
                Ok(())
            } else {
                Err("nothing yet".to_owned())
            }
        });
        prober.expect_no_error(Duration::from_secs(5));
    }
}
