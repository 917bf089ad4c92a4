//! Processes of other sessions, known so well that a stranger is never signalled.
//!
//! A process id alone is not an identity: the kernel gives it to somebody else later. With the start
//! time (clock ticks since boot) and the boot id it is. Signals go through a pidfd that was opened
//! before the start time was compared, so not even a change in between can hit the wrong process.

use std::{
    fs::{self, OpenOptions},
    io,
    os::fd::OwnedFd,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::Context as _;
use common::env::Env;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

/// How often a process that should end is looked at.
const POLL: Duration = Duration::from_millis(10);

/// One process, for all time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Process {
    /// Its id.
    pub(crate) pid: u32,
    /// When it started, in clock ticks since boot.
    start_ticks: u64,
    /// Which boot of the machine.
    boot: String,
}

impl Process {
    /// The process that has `pid` now; `None` when there is none, or only its corpse.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (state, start_ticks) = parse_stat(&stat)?;
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        let gone = match state {
            'X' => true,
            // The first thread has ended; others may still be in the kernel (a sync, say) and hold files and locks.
            'Z' => fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count) <= 1,
            _ => false,
        };
        (!gone).then(|| Self {
            pid,
            start_ticks,
            boot: boot.trim().to_owned(),
        })
    }

    /// Whether it runs.
    pub(crate) fn is_running(&self) -> bool {
        Self::of(self.pid).as_ref() == Some(self)
    }

    /// Sends a signal; false when the process is gone.
    pub(crate) fn signal(&self, signal: Signal) -> io::Result<bool> {
        let Some(handle) = self.open()? else {
            return Ok(false);
        };
        match pidfd_send_signal(handle, signal) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::SRCH) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    fn open(&self) -> io::Result<Option<OwnedFd>> {
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else {
            return Ok(None);
        };
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(handle) => Ok(self.is_running().then_some(handle)),
            Err(rustix::io::Errno::SRCH) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Waits until it has ended; false when it has not within `limit`.
    pub(crate) async fn wait_end(&self, env: &Env, limit: Duration) -> bool {
        let deadline = env.now() + limit;
        while self.is_running() {
            if env.now() >= deadline {
                return false;
            }
            env.sleep(POLL).await;
        }
        true
    }
}

/// State and start time from /proc/PID/stat. The name in parentheses may hold anything, so fields are
/// counted from its end.
fn parse_stat(stat: &str) -> Option<(char, u64)> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let start_ticks = fields.nth(18)?.parse().ok()?;
    Some((state, start_ticks))
}

/// How long a process that a command starts may live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lifetime {
    /// Its own: it goes on when the command has ended.
    Its,
    /// The command's: the kernel kills it when the command ends, however that comes.
    OfTheCommand,
}

/// Starts this same program with `args` in a session of its own, standard error appended to `log`.
/// Keep the child to reap it while this command runs.
/// No process when it has ended already; the log says why.
pub(crate) fn spawn(
    args: &[&str],
    log: &Path,
    lifetime: Lifetime,
) -> anyhow::Result<(Option<Process>, std::process::Child)> {
    if let Some(parent) = log.parent() {
        fs::create_dir_all(parent)
            .with_context(|| format!("cannot make the directory {}", parent.display()))?;
    }
    let errors = OpenOptions::new()
        .create(true)
        .append(true)
        .open(log)
        .with_context(|| format!("cannot open the log {}", log.display()))?;
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let caller = std::process::id().to_string();
    let limits: &[&str] = match lifetime {
        Lifetime::Its => &["--new-session"],
        Lifetime::OfTheCommand => &["--new-session", "--end-with", &caller],
    };
    let child = Command::new(program)
        .args(limits)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(errors)
        .current_dir("/")
        .spawn()
        .context("cannot start a process")?;
    Ok((Process::of(child.id()), child))
}

/// A signal by number or name, with or without SIG.
pub(crate) fn parse_signal(text: &str) -> Option<Signal> {
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    match name {
        "HUP" => Some(Signal::HUP),
        "INT" => Some(Signal::INT),
        "QUIT" => Some(Signal::QUIT),
        "ABRT" => Some(Signal::ABORT),
        "KILL" => Some(Signal::KILL),
        "USR1" => Some(Signal::USR1),
        "USR2" => Some(Signal::USR2),
        "TERM" => Some(Signal::TERM),
        "CONT" => Some(Signal::CONT),
        "STOP" => Some(Signal::STOP),
        _ => Signal::from_named_raw(name.parse().ok()?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_parentheses_do_not_confuse() {
        let rest = (1..=30)
            .map(|n| n.to_string())
            .collect::<Vec<_>>()
            .join(" ");
        let stat = format!("42 (a) b) (c) S {rest}");
        // Field 3 is the state; field 22 the start time, the 19th number after it.
        assert_eq!(parse_stat(&stat), Some(('S', 19)));
        assert_eq!(parse_stat("42 (x"), None);
    }

    #[test]
    fn a_recycled_id_is_another_process() {
        let me = Process::of(std::process::id()).unwrap();
        assert!(me.is_running());
        let earlier = Process {
            start_ticks: me.start_ticks - 1,
            ..me.clone()
        };
        assert!(!earlier.is_running());
        // Harmless even if it were sent: CONT does nothing to a running process.
        assert!(!earlier.signal(Signal::CONT).unwrap());
        let earlier_boot = Process {
            boot: "other".to_owned(),
            ..me
        };
        assert!(!earlier_boot.is_running());
    }

    #[test]
    fn signals_have_numbers_and_names() {
        for text in ["9", "KILL", "SIGKILL", "kill"] {
            assert_eq!(parse_signal(text), Some(Signal::KILL), "{text}");
        }
        assert_eq!(parse_signal("KILLL"), None);
        assert_eq!(parse_signal("0"), None);
    }
}
