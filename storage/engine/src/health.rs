//! Whether the disk may be used. The first failure of a write or sync ends that for good (E10): what the disk
//! holds then is known only after it was opened again.

use std::sync::OnceLock;

use crate::error::EngineError;

#[derive(Debug, Default)]
pub(crate) struct Health {
    reason: OnceLock<String>,
}

impl Health {
    /// Takes the disk out of service. The first reason stays.
    pub(crate) fn fail(&self, reason: String) -> EngineError {
        if self.reason.get().is_none() {
            tracing::error!(%reason, "a disk goes out of service");
        }
        EngineError::Failed {
            reason: self.reason.get_or_init(|| reason).clone(),
        }
    }

    /// Ends service without a fault.
    pub(crate) fn close(&self) {
        self.reason.get_or_init(|| "the disk was closed".to_owned());
    }

    pub(crate) fn failure(&self) -> Option<String> {
        self.reason.get().cloned()
    }

    pub(crate) fn check(&self) -> Result<(), EngineError> {
        match self.reason.get() {
            None => Ok(()),
            Some(reason) => Err(EngineError::Failed {
                reason: reason.clone(),
            }),
        }
    }
}
