//! A user who never stops: makes, writes, syncs, reads, renames, lists and removes small files, and notes each error
//! and the longest time one round took. What it finds is what a kill of a server costs a user.

use std::{
    env,
    fs::{self, File},
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use common::env::Env;
use serde::{Deserialize, Serialize};

use crate::wait;

/// Between two rounds, so that the prober does not become the load.
const REST: Duration = Duration::from_millis(20);
/// Names the directory to the prober's process.
const DIR_VARIABLE: &str = "PENSTOCK_TEST_PROBE_DIR";
/// The line with the result starts so; the test harness prints lines of its own around it.
const RESULT: &str = "seen: ";

/// What a prober has seen.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Seen {
    /// Rounds done.
    pub rounds: u64,
    /// The longest one.
    pub longest: Duration,
    /// Every error.
    pub errors: Vec<String>,
}

/// A running prober. Dropping it ends it.
#[derive(Debug)]
pub struct Prober(Child);

impl Prober {
    /// Starts to probe `dir`, which is made.
    ///
    /// In a process of its own, this program again: whoever starts a program closes its copies of all files that are
    /// open here, and closing a file of the mount waits for the servers. A thread of the test would so hold up the very
    /// command that brings a server back.
    pub fn start(dir: &Path) -> Self {
        fs::create_dir_all(dir).expect("the prober's directory can be made");
        let child = Command::new(env::current_exe().expect("a program knows its file"))
            .args(["prober_process", "--nocapture"])
            .env(DIR_VARIABLE, dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        Self(child.expect("the prober's process can be started"))
    }

    /// Ends it and tells what it has seen.
    pub fn stop(mut self) -> Seen {
        drop(self.0.stdin.take());
        let output = self.0.stdout.take().expect("it was piped");
        let lines = BufReader::new(output).lines().map_while(Result::ok);
        let result = lines
            .filter_map(|line| Some(line.split_once(RESULT)?.1.to_owned()))
            .last()
            .expect("the prober tells what it has seen");
        serde_json::from_str(&result).expect("a prober's result")
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

impl Drop for Prober {
    fn drop(&mut self) {
        // The end of its input ends it, after the round under way.
        drop(self.0.stdin.take());
        if let Err(error) = self.0.wait() {
            crate::run::note(&format!("the prober does not end: {error}"));
        }
    }
}

/// The work of the prober's process; nothing in any other. A test named `prober_process` of each program that uses
/// probers calls it.
pub fn process() {
    let Some(dir) = env::var_os(DIR_VARIABLE).map(PathBuf::from) else {
        return;
    };
    let stop = Arc::new(AtomicBool::new(false));
    let told = stop.clone();
    let listener = Env::real().spawn_thread("prober-stop", move || {
        let mut rest = Vec::new();
        // Whatever ends the input, it is the sign to stop.
        let _ended = io::stdin().read_to_end(&mut rest);
        told.store(true, Ordering::Relaxed);
    });
    listener.expect("the system has room for a thread");
    let seen = serde_json::to_string(&probe(&dir, &stop)).expect("a prober's result");
    let line = format!("\n{RESULT}{seen}\n");
    io::stdout()
        .write_all(line.as_bytes())
        .expect("whoever started the prober listens");
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

    /// Not a test of its own: what probers run in.
    #[test]
    fn prober_process() {
        process();
    }

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
