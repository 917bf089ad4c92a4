//! The first failure of a write or sync. From then on the store refuses everything, with that reason.

use std::sync::OnceLock;

use crate::error::KvError;

#[derive(Debug, Default)]
pub(super) struct Failure(OnceLock<String>);

impl Failure {
    /// Stops the store. Only the first reason is kept.
    pub(super) fn set(&self, reason: String) {
        if self.0.set(reason).is_ok() {
            let reason = self.0.get();
            tracing::error!(reason, "the key-value store has stopped");
        }
    }

    pub(super) fn reason(&self) -> Option<String> {
        self.0.get().cloned()
    }

    pub(super) fn check(&self) -> Result<(), KvError> {
        match self.reason() {
            None => Ok(()),
            Some(reason) => Err(KvError::Poisoned { reason }),
        }
    }
}
