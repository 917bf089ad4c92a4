//! What happened, in order, with the simulated time. Two runs of one seed give the same log, to the byte.

use std::{fmt::Arguments, sync::Arc, time::Duration};

use common::{
    env::{Env, Instant},
    sync::Mutex,
};
use types::checksum::Checksum;

/// Lines kept; the checksum covers all of them.
const LINES_MAX: usize = 20_000;

/// See the module's text. Clones are the same log.
#[derive(Clone, Debug)]
pub struct EventLog {
    env: Env,
    start: Instant,
    lines: Arc<Mutex<Lines>>,
}

#[derive(Debug, Default)]
struct Lines {
    kept: Vec<String>,
    checksum: Checksum,
}

impl EventLog {
    pub fn new(env: &Env) -> Self {
        Self {
            env: env.clone(),
            start: env.now(),
            lines: Arc::default(),
        }
    }

    /// Time since the beginning.
    pub fn elapsed(&self) -> Duration {
        self.env.now() - self.start
    }

    /// Adds a line.
    pub fn add(&self, text: Arguments<'_>) {
        let line = format!("{:12.6} {text}", self.elapsed().as_secs_f64());
        let mut lines = self.lines.lock();
        lines.checksum = lines.checksum.append(line.as_bytes());
        if lines.kept.len() < LINES_MAX {
            lines.kept.push(line);
        }
    }

    /// Everything so far, and its checksum.
    pub fn take(&self) -> (Vec<String>, Checksum) {
        let mut lines = self.lines.lock();
        (std::mem::take(&mut lines.kept), lines.checksum)
    }
}
