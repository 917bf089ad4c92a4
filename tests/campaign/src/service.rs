//! One process of the cluster inside of its host: started, killed, stopped, continued.

use std::{
    fs::{self, OpenOptions},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use ::tests::{binary, wait};
use common::env::Env;
use rustix::process::{Pid, Signal, kill_process};

use crate::{host::Host, network};

/// How long a process may take to end in order.
const END_LIMIT: Duration = Duration::from_secs(30);
/// Between two looks at whether it has.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// So much of a log is shown when its process ended by itself.
const TAIL_BYTES: usize = 3000;

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) host: Host,
    env: Env,
    args: Vec<String>,
    log: PathBuf,
    child: Option<Child>,
}

impl Service {
    /// A service that does not run yet. `args` are those of `penstock`.
    pub(crate) fn new(env: &Env, host: Host, args: Vec<String>, logs: &Path) -> Self {
        Self {
            host,
            env: env.clone(),
            args,
            log: logs.join(format!("{host}.log")),
            child: None,
        }
    }

    pub(crate) fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// Starts it, unless it runs.
    ///
    /// # Errors
    /// When it does not start.
    pub(crate) fn start(&mut self) -> Result<(), String> {
        if self.is_running() {
            return Ok(());
        }
        let failed = |error: std::io::Error| format!("{} does not start: {error}", self.host);
        let log = OpenOptions::new().create(true).append(true).open(&self.log);
        let log = log.map_err(failed)?;
        let mut command = Command::new(binary::path());
        command
            .args(&self.args)
            .env_remove("PENSTOCK_DATA")
            .env_remove("PENSTOCK_CLUSTER")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let host = self.host;
        let child = network::inside(&self.env, host, move || {
            let child = command.spawn();
            child.map_err(|error| format!("{host} does not start: {error}"))
        });
        self.child = Some(child?);
        Ok(())
    }

    /// Ends it as a crash does.
    pub(crate) fn kill(&mut self) -> Result<(), String> {
        let Some(mut child) = self.child.take() else {
            return Ok(());
        };
        let ended = child.kill().and_then(|()| child.wait());
        ended.map_err(|error| format!("{} is not killed: {error}", self.host))?;
        Ok(())
    }

    /// Asks it to end, and waits.
    pub(crate) fn end(&mut self) -> Result<(), String> {
        self.signal(Signal::TERM)?;
        let Some(mut child) = self.child.take() else {
            return Ok(());
        };
        let begun = self.env.now();
        while self.env.now() - begun < END_LIMIT {
            match child.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(Some(status)) => return Err(self.obituary(status)),
                Ok(None) => wait::pause(LOOK_EVERY),
                Err(error) => return Err(format!("{}: {error}", self.host)),
            }
        }
        self.child = Some(child);
        Err(format!("{} does not end within {END_LIMIT:?}", self.host))
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<(), String> {
        let pid = self.child.as_ref().map(Child::id);
        let pid = pid.and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        let Some(pid) = pid else { return Ok(()) };
        kill_process(pid, signal).map_err(|error| format!("{}: {signal:?}: {error}", self.host))
    }

    /// Nobody ended it, so it must run.
    ///
    /// # Errors
    /// How it ended, with the end of its log.
    pub(crate) fn check(&mut self) -> Result<(), String> {
        let ended = self.child.as_mut().map(Child::try_wait);
        match ended {
            Some(Ok(Some(status))) => {
                self.child = None;
                Err(self.obituary(status))
            }
            Some(Err(error)) => Err(format!("{}: {error}", self.host)),
            Some(Ok(None)) | None => Ok(()),
        }
    }

    fn obituary(&self, status: ExitStatus) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let tail = String::from_utf8_lossy(&text[text.len().saturating_sub(TAIL_BYTES)..]);
        format!(
            "{} ended by itself ({status}); the end of its log:\n{tail}",
            self.host
        )
    }
}
