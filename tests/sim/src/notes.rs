//! What clients did and saw, and what was found wrong.

use std::sync::Arc;

use common::{env::Env, sync::Mutex};

use crate::{event_log::EventLog, history::History};

/// Clones are the same notes.
#[derive(Clone, Debug)]
pub struct Notes {
    /// Everything in words.
    pub log: EventLog,
    /// What clients did.
    pub history: History,
    violations: Arc<Mutex<Vec<String>>>,
}

impl Notes {
    /// Empty ones.
    pub fn new(env: &Env) -> Self {
        Self {
            log: EventLog::new(env),
            history: History::default(),
            violations: Arc::default(),
        }
    }

    /// Rules were broken, each with what shows it.
    pub fn violated(&self, violations: impl IntoIterator<Item = String>) {
        self.violations.lock().extend(violations);
    }

    /// What was broken since the last call.
    pub fn take_violations(&self) -> Vec<String> {
        std::mem::take(&mut self.violations.lock())
    }
}
