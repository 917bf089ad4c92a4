//! A user of the mount: makes files, syncs them, renames, reads and removes some, all of it from a process of its own. At the end
//! a mount that has nothing in its caches must hold exactly what was acknowledged.
//!
//! A process of its own, because whoever starts a program closes its copies of all open files, which on a mount waits
//! for servers: this program would so wait for the very servers it is about to start.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use ::tests::wait;
use common::env::Env;

use crate::{ground::Ground, host::Host};

/// The word by which the program is the user and nothing else.
pub(crate) const USE: &str = "use-files";
/// The longest file.
const BYTES_MAX: u64 = 300_000;
/// Files that are kept; the others are removed, so that disks do not fill.
const KEPT_MAX: usize = 200;
/// The longest pause between two steps.
const PAUSE_MAX: Duration = Duration::from_millis(60);
/// After a full disk.
const FULL_PAUSE: Duration = Duration::from_secs(1);

/// The user's process, as this one sees it.
pub(crate) struct FileUser {
    child: Child,
    input: Option<ChildStdin>,
    listener: JoinHandle<Vec<String>>,
}

impl FileUser {
    /// Starts to use `dir`, which must be on the mount.
    ///
    /// # Errors
    /// When the process does not start.
    pub(crate) fn start(env: &Env, ground: &Ground, dir: &Path) -> Result<Self, String> {
        let failed = |error: io::Error| format!("the user of files does not start: {error}");
        let program = std::env::current_exe().map_err(failed)?;
        let mut child = Command::new(program)
            .arg(USE)
            .arg(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let output = child.stdout.take();
        let output = output.ok_or("the user of files has no output")?;
        let (input, ground) = (child.stdin.take(), ground.clone());
        ground.user_begins(Host::Mount);
        let listener = env.spawn_thread("file-user", move || listen(&ground, output));
        Ok(Self {
            child,
            input,
            listener: listener.map_err(failed)?,
        })
    }

    /// Lets it finish; tells which files it left and every wrong thing it saw.
    ///
    /// # Errors
    /// When it did not end in order.
    pub(crate) fn stop(mut self, ground: &Ground) -> Result<(Kept, Vec<String>), String> {
        drop(self.input.take());
        let lines = self.listener.join();
        ground.user_ends(Host::Mount);
        let lines = lines.map_err(|_| "the listener to the user of files panicked".to_owned())?;
        let status = self.child.wait().map_err(|error| error.to_string())?;
        if !status.success() {
            return Err(format!("the user of files ended with {status}: {lines:?}"));
        }
        let (mut kept, mut wrong) = (Kept::new(), Vec::new());
        for line in lines {
            let mut words = line.split(' ');
            match (words.next(), words.next(), words.next()) {
                (Some("kept"), Some(name), Some(seed)) => {
                    let seed = seed.parse().map_err(|_| format!("not a seed: {line}"))?;
                    kept.insert(name.to_owned(), seed);
                }
                _ => wrong.push(line),
            }
        }
        Ok((kept, wrong))
    }
}

/// Takes what the user tells until its end: successes are passed on at once.
fn listen(ground: &Ground, output: impl io::Read) -> Vec<String> {
    let mut others = Vec::new();
    for line in BufReader::new(output).lines().map_while(Result::ok) {
        match line.as_str() {
            "done" => ground.success(Host::Mount),
            "full" => ground.refused(Host::Mount),
            _ => others.push(line),
        }
    }
    others
}

/// Files that were acknowledged: name, and what the content follows from.
pub(crate) type Kept = BTreeMap<String, u64>;

/// Compares a directory with what it must hold.
pub(crate) fn compare(dir: &Path, kept: &Kept) -> Vec<String> {
    let mut wrong = Vec::new();
    for (name, seed) in kept {
        match fs::read(dir.join(name)) {
            Ok(found) if found == content(*seed) => {}
            Ok(found) => wrong.push(differs(name, &found, *seed)),
            Err(error) => wrong.push(format!("{name} was acknowledged: {error}")),
        }
    }
    match fs::read_dir(dir) {
        Ok(entries) => {
            let names = entries
                .flatten()
                .map(|entry| entry.file_name().to_string_lossy().into_owned());
            let strangers = names.filter(|name| !kept.contains_key(name));
            wrong.extend(strangers.map(|name| format!("{name} was removed, or never finished")));
        }
        Err(error) => wrong.push(format!("{}: {error}", dir.display())),
    }
    wrong
}

fn differs(name: &str, found: &[u8], seed: u64) -> String {
    let expected = content(seed);
    let at = found.iter().zip(&expected).position(|(a, b)| a != b);
    format!(
        "{name}: {} bytes, {} were acknowledged; the first difference is at {at:?}",
        found.len(),
        expected.len()
    )
}

/// What a file holds.
fn content(seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let length = usize::try_from(state % BYTES_MAX).unwrap_or(0);
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// The work of the user's process, until its input ends.
pub(crate) fn use_files(dir: &Path) -> io::Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    let (env, told) = (Env::real(), stop.clone());
    env.spawn_thread("stop", move || {
        // Whatever ends the input, it is the sign to stop.
        let _ended = io::copy(&mut io::stdin(), &mut io::sink());
        told.store(true, Ordering::Relaxed);
    })?;
    fs::create_dir_all(dir)?;
    let mut user = User {
        env,
        dir,
        kept: Kept::new(),
        number: 0,
    };
    while !stop.load(Ordering::Relaxed) {
        let line = match user.step() {
            Ok(()) => "done".to_owned(),
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                wait::pause(FULL_PAUSE);
                "full".to_owned()
            }
            Err(error) => format!("step {}: {error}", user.number),
        };
        say(&line)?;
        let pause = user.env.random_below(PAUSE_MAX.as_micros() as u64);
        wait::pause(Duration::from_micros(pause));
    }
    for (name, seed) in &user.kept {
        say(&format!("kept {name} {seed}"))?;
    }
    Ok(())
}

fn say(line: &str) -> io::Result<()> {
    let mut output = io::stdout().lock();
    writeln!(output, "{line}")?;
    output.flush()
}

struct User<'a> {
    env: Env,
    dir: &'a Path,
    kept: Kept,
    number: u64,
}

impl User<'_> {
    /// One thing that users do.
    fn step(&mut self) -> io::Result<()> {
        self.number += 1;
        let old = self.any();
        match (self.env.random_below(6), old) {
            (0, Some((name, seed))) => {
                let found = fs::read(self.dir.join(&name))?;
                if found == content(seed) {
                    return Ok(());
                }
                Err(io::Error::other(differs(&name, &found, seed)))
            }
            (1, Some((name, seed))) => {
                let new = format!("renamed-{}", self.number);
                fs::rename(self.dir.join(&name), self.dir.join(&new))?;
                self.kept.remove(&name);
                self.kept.insert(new, seed);
                Ok(())
            }
            (_, Some((name, _))) if self.kept.len() >= KEPT_MAX => {
                fs::remove_file(self.dir.join(&name))?;
                self.kept.remove(&name);
                Ok(())
            }
            _ => self.make(),
        }
    }

    /// A new file; one that could not be finished is removed.
    fn make(&mut self) -> io::Result<()> {
        let seed = self.number;
        let name = format!("file-{seed}");
        let path = self.dir.join(&name);
        let write = || {
            let mut file = File::create(&path)?;
            file.write_all(&content(seed))?;
            file.sync_all()
        };
        if let Err(error) = write() {
            match fs::remove_file(&path) {
                Err(removal) if removal.kind() != io::ErrorKind::NotFound => return Err(removal),
                _ => return Err(error),
            }
        }
        self.kept.insert(name, seed);
        Ok(())
    }

    fn any(&self) -> Option<(String, u64)> {
        let count = u64::try_from(self.kept.len())
            .ok()
            .filter(|count| *count > 0)?;
        let index = usize::try_from(self.env.random_below(count)).ok()?;
        let (name, seed) = self.kept.iter().nth(index)?;
        Some((name.clone(), *seed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_a_changed_and_a_strange_file_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let mut user = User {
            env: Env::real(),
            dir: dir.path(),
            kept: Kept::new(),
            number: 0,
        };
        for _ in 0..3 {
            user.number += 1;
            user.make().unwrap();
        }
        assert_eq!(compare(dir.path(), &user.kept), Vec::<String>::new());
        fs::remove_file(dir.path().join("file-1")).unwrap();
        fs::write(dir.path().join("file-2"), b"other").unwrap();
        fs::write(dir.path().join("file-9"), b"strange").unwrap();
        let wrong = compare(dir.path(), &user.kept).join("\n");
        for part in [
            "file-1 was acknowledged",
            "file-2: 5 bytes",
            "file-9 was removed",
        ] {
            assert!(wrong.contains(part), "{wrong}");
        }
    }

    #[test]
    fn steps_on_a_sound_file_system_keep_what_they_say() {
        let dir = tempfile::tempdir().unwrap();
        let mut user = User {
            env: Env::real(),
            dir: dir.path(),
            kept: Kept::new(),
            number: 0,
        };
        for _ in 0..300 {
            user.step().unwrap();
        }
        assert!(user.kept.len() > 100 && user.kept.len() <= KEPT_MAX);
        assert_eq!(compare(dir.path(), &user.kept), Vec::<String>::new());
    }
}
